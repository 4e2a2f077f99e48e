//! What an evaluation found, as its JSON says it and as tables and pages show it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::calibration::Calibration;
use super::compare::Comparison;
use super::curve::Curve;
use super::filter::Reason;
use super::slices::Slice;
use crate::measure::figure::Figure;

/// An evaluation of several plugins on one file.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Version of the program.
    pub aligner: String,
    /// The file.
    pub data: String,
    /// Whether its rows are pairs, or labelled completions.
    pub pairs: bool,
    /// Rows that were read, without `undecided`.
    pub rows: u64,
    /// Pairs that were left out because neither completion is better.
    pub undecided: u64,
    /// Completions that are labelled good, and bad; of a pair one is each.
    pub good: u64,
    /// See `good`.
    pub bad: u64,
    /// The model that was asked, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In the order in which they were named.
    pub plugins: Vec<Evaluated>,
    /// Every two of one kind.
    pub comparisons: Vec<Comparison>,
}

/// What was found of one plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluated {
    /// What the user calls it.
    pub name: String,
    /// Path or `builtin:NAME`.
    pub source: String,
    /// Who it is; absent where it could not be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Who>,
    /// Its configuration.
    pub config: Value,
    /// Whether it was given the right to ask the model.
    pub may_ask: bool,
    /// Why it could not be loaded, or was not called on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Its numbers.
    pub figures: Vec<Figure>,
    /// Why completions are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Words of a model that could not be read, and how calls failed: the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// How well a judge's rewards tell good completions from bad ones, or what is measured for a filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
    /// How sure it is against how often it is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The same numbers for parts of the rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// What it took.
    pub cost: Cost,
    /// Whether it says the same again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub determinism: Option<Determinism>,
    /// What it says of made-up records, by the name of each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<&'static str, String>,
}

/// Who a plugin is, and what it can do.
#[derive(Clone, Debug, Serialize)]
pub struct Who {
    /// As it calls itself.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// The interfaces that it exports.
    pub interfaces: Vec<String>,
    /// What is measured before it is called.
    pub needs: Vec<String>,
    /// SHA-256 of the file.
    pub digest: String,
    /// Size of the file.
    pub bytes: usize,
}

/// What a plugin took for the rows (not for probes and checks).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Records that it was called with.
    pub records: u64,
    /// Wall-clock time of the calls, without that of the model.
    pub seconds: f64,
    /// The model's wall-clock time.
    pub model_seconds: f64,
    /// Calls into the plugin.
    pub calls: u64,
    /// Units of work.
    pub fuel: u64,
    /// The most linear memory that an instance had, in bytes.
    pub memory_bytes: u64,
    /// Requests to the model.
    pub requests: u64,
    /// Tokens of the model's answers.
    pub tokens: u64,
}

/// Records that were given again, and those of them for which something else came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Determinism {
    /// Records.
    pub records: u64,
    /// In the same batch.
    pub repeated: u64,
    /// In the opposite order; absent for a filter over a whole stage, for which order is no accident.
    pub reversed: Option<u64>,
    /// One record a call; absent for a filter over a whole stage.
    pub alone: Option<u64>,
}

impl Determinism {
    /// Returns whether everything came back as before.
    pub fn holds(&self) -> bool {
        [Some(self.repeated), self.reversed, self.alone].into_iter().flatten().sum::<u64>() == 0
    }
}

impl Evaluated {
    /// Returns a figure by its name.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}
