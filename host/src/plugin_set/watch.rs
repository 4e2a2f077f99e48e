//! `[watch]`: how far what tells of a collapse may move, and what a run does where it moves further.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Measure;

/// `[watch]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Default: `stop`.
    pub on_alarm: OnAlarm,
    /// How far each signal may move, in the order of [`Signal::ALL`]; not empty.
    pub limits: BTreeMap<Signal, Bounds>,
}

/// What a run does on an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnAlarm {
    /// Goes on; the report says so.
    Warn,
    /// Ends after the round.
    #[default]
    Stop,
    /// Ends after the round, and the result is the best of the rounds before the one that is to blame.
    RollBack,
}

impl OnAlarm {
    /// Returns whether a run ends.
    pub fn ends(self) -> bool {
        self != OnAlarm::Warn
    }

    /// All of them, by the names that plugin sets use.
    pub const ALL: [(&str, OnAlarm); 3] =
        [("warn", OnAlarm::Warn), ("stop", OnAlarm::Stop), ("roll-back", OnAlarm::RollBack)];
}

/// A number of each round that tells of a collapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// Distinct word pairs over all word pairs of what the round generated, in [0, 1].
    #[serde(rename = "generated-distinct-2")]
    GeneratedDistinct2,
    /// Mean tokens of what the round generated.
    GeneratedLength,
    /// Mean token entropy of what the round generated, in nats.
    GeneratedEntropy,
    /// Share of the judge's opinions that could not be read, in [0, 1].
    Unparsable,
    /// A measure of `[evaluate]`, after the round.
    #[serde(untagged)]
    Measured(Measure),
}

impl Signal {
    /// All of them, in the order in which a round comes to know them.
    pub const ALL: [Signal; 9] = [
        Signal::GeneratedDistinct2,
        Signal::GeneratedLength,
        Signal::GeneratedEntropy,
        Signal::Unparsable,
        Signal::Measured(Measure::Perplexity),
        Signal::Measured(Measure::Distinct2),
        Signal::Measured(Measure::Length),
        Signal::Measured(Measure::Entropy),
        Signal::Measured(Measure::Agreement),
    ];

    /// Returns the name that plugin sets and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::GeneratedDistinct2 => "generated-distinct-2",
            Signal::GeneratedLength => "generated-length",
            Signal::GeneratedEntropy => "generated-entropy",
            Signal::Unparsable => "unparsable",
            Signal::Measured(measure) => measure.as_str(),
        }
    }

    /// Returns whether it is a share, in [0, 1].
    pub fn is_share(self) -> bool {
        matches!(
            self,
            Signal::GeneratedDistinct2
                | Signal::Unparsable
                | Signal::Measured(Measure::Distinct2 | Measure::Agreement)
        )
    }
}

/// How far a signal may move; at least one of them is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// The least that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// How far it may fall, as a share of what it was first; in (0, 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fall: Option<f64>,
    /// How far it may rise, as a share of what it was first; over 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rise: Option<f64>,
}

impl Bounds {
    /// Returns the limits that are given, with their names.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let Bounds { min, max, max_fall, max_rise } = *self;
        let all = [("min", min), ("max", max), ("max_fall", max_fall), ("max_rise", max_rise)];
        all.into_iter().filter_map(|(limit, bound)| Some((limit, bound?)))
    }
}
