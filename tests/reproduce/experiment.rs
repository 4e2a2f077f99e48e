//! What is compared: questions with their rows, and the directions that the papers report.
//!
//! All of it is data, in `experiments.toml` beside this file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiments {
    /// What every row begins with, as for `--model`.
    pub model: String,
    /// How weights are kept in training and in measuring.
    pub dtype: String,
    /// The suite that measures every row; relative to the file.
    pub suite: PathBuf,
    /// The first seed; further ones follow it by one.
    pub seed: u64,
    /// Keys of every plugin set.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Columns of every table.
    #[serde(rename = "figure")]
    pub figures: Vec<Figure>,
    /// In the order of the page.
    #[serde(rename = "question")]
    pub questions: Vec<Question>,
}

/// A number of the suite.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What the page calls it.
    pub name: String,
    /// The measure in the suite.
    pub measure: String,
    /// Its number.
    pub figure: String,
    /// What it says, for the page.
    pub says: String,
    /// A difference that is not greater says nothing, whatever the spread.
    pub tells: f64,
    /// Digits behind the point.
    pub digits: usize,
}

/// What is asked of a method.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// For `ONLY`, and a folder.
    pub name: String,
    /// The heading.
    pub title: String,
    /// Address of the paper.
    pub paper: String,
    /// What is varied, and what all rows have in common.
    pub text: String,
    /// The plugin set that every row begins with.
    pub plugin_set: String,
    /// Keys of every row.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// In the order of the table.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
    /// What the paper reports.
    #[serde(rename = "claim")]
    pub claims: Vec<Claim>,
    /// What somebody saw, with the day and the seeds that it was seen with.
    #[serde(default)]
    pub observed: Vec<String>,
}

/// One way to do it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// A folder.
    pub name: String,
    /// What the table calls it.
    pub title: String,
    /// Keys of this row, over those of the question.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Goes beyond what another row trained, and trains nothing itself.
    pub extrapolate: Option<Extrapolate>,
}

/// How far beyond which row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extrapolate {
    /// A row above.
    pub of: String,
    /// As for `aligner model extrapolate`.
    pub alpha: f64,
}

/// A direction that the paper reports: one row, or the best of several, against another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// As a sentence, without its full stop.
    pub says: String,
    /// The figure that it is told by here.
    pub figure: String,
    /// The rows, of which the one counts that goes furthest in the paper's direction.
    pub rows: Vec<String>,
    /// Where they are.
    pub is: Side,
    /// Than which row.
    pub than: String,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Less than the other.
    Lower,
    /// More than the other.
    Higher,
}

impl Experiments {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Experiments> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut file = Experiments::parse(&text).with_context(|| path.display().to_string())?;
        file.suite = path.with_file_name(&file.suite);
        Ok(file)
    }

    /// Reads the text of the file. All names in it lead somewhere.
    pub fn parse(text: &str) -> Result<Experiments> {
        let file: Experiments = toml::from_str(text)?;
        for (i, question) in file.questions.iter().enumerate() {
            let name = &question.name;
            let twice = file.questions[..i].iter().any(|other| other.name == *name);
            ensure!(!twice, "two questions are named `{name}`");
            for (i, row) in question.rows.iter().enumerate() {
                let above = |name: &str| question.rows[..i].iter().any(|row| row.name == name);
                let row_name = &row.name;
                ensure!(!above(row_name), "`{name}` has two rows `{row_name}`");
                if let Some(Extrapolate { of, .. }) = &row.extrapolate {
                    ensure!(above(of), "row `{row_name}` of `{name}` has no row `{of}` above it");
                }
            }
            for claim in &question.claims {
                let (says, figure) = (&claim.says, &claim.figure);
                ensure!(!claim.rows.is_empty(), "`{says}` names no row");
                for row in claim.rows.iter().chain([&claim.than]) {
                    ensure!(question.row(row).is_some(), "`{says}` names `{row}`, which is no row");
                }
                ensure!(file.figure(figure).is_some(), "`{says}` names `{figure}`, no figure");
            }
        }
        Ok(file)
    }

    /// Returns a column by its name.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// Returns the keys of a row, the row's own over the question's over the file's.
    pub fn keys(&self, question: &Question, row: &Row) -> BTreeMap<String, toml::Value> {
        let mut keys = self.set.clone();
        keys.extend([("run.dtype".to_owned(), self.dtype.clone().into())]);
        keys.extend(question.set.clone());
        keys.extend(row.set.clone());
        keys
    }

    /// Returns all that the numbers of a row follow from, but for plugins and the engine. A result of
    /// anything else is not this row's.
    pub fn definition(&self, question: &Question, row: &Row, seed: u64, with: &With) -> Value {
        json!({
            "trained": self.training(question, row, seed, with),
            "measured": self.measuring(with),
        })
    }

    /// Returns what the weights of a row follow from.
    pub fn training(&self, question: &Question, row: &Row, seed: u64, with: &With) -> Value {
        if let Some(Extrapolate { of, alpha }) = &row.extrapolate {
            let of = question.row(of).expect("the file was checked");
            return json!({
                "extrapolate": alpha,
                "of": self.training(question, of, seed, with),
            });
        }
        json!({
            "model": self.model,
            "plugin_set": question.plugin_set,
            "plugin_set_sha256": with.plugin_sets.get(&question.plugin_set),
            "set": self.keys(question, row),
            "seed": seed,
            "aligner": with.aligner,
        })
    }

    /// Returns what the numbers of the initial model follow from.
    pub fn measuring(&self, with: &With) -> Value {
        json!({
            "model": self.model,
            "dtype": self.dtype,
            "suite_sha256": with.suite,
            "aligner": with.aligner,
        })
    }
}

impl Question {
    /// Returns a row by its name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// What stands outside the file and is a part of every definition.
#[derive(Clone, Debug, Default)]
pub struct With {
    /// The program's version.
    pub aligner: String,
    /// Digest of the suite with all its data.
    pub suite: String,
    /// Digests of the plugin sets' text.
    pub plugin_sets: BTreeMap<String, String>,
}

/// Returns the digest of a suite and of the files that it names.
pub fn suite_digest(suite: &Path) -> Result<String> {
    let text = std::fs::read_to_string(suite).with_context(|| suite.display().to_string())?;
    let table: toml::Table = toml::from_str(&text)?;
    let mut hash = Sha256::new();
    hash.update(&text);
    let measures = table.get("measure").and_then(toml::Value::as_array);
    for measure in measures.into_iter().flatten() {
        let data = measure.get("data").and_then(toml::Value::as_str).context("a measure's data")?;
        let path = suite.with_file_name(data);
        hash.update(std::fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(hex(&hash.finalize()))
}

/// Returns the digest of a text.
pub fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
