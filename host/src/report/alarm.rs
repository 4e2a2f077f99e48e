//! Alarms: what moved further than a plugin set lets it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Report, number};

/// A signal of `[watch]` that went beyond a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// The signal, for example `generated-entropy`.
    pub signal: String,
    /// The round in which it was seen, from 1.
    pub round: u32,
    /// The round whose policy is to blame: the one before where that policy wrote what was seen; 0 is the
    /// initial model.
    pub blamed: u32,
    /// What it was then.
    pub value: f64,
    /// What it was first: before round 1, or in the first round that has it.
    pub first: f64,
    /// The limit: `min`, `max`, `max_fall` or `max_rise`.
    pub limit: String,
    /// Its value in the plugin set.
    pub bound: f64,
    /// The round in which the signal had gone half of the way from what it was first to the limit, or more.
    pub moved: u32,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Alarm { signal, round, value, first, limit, bound, moved, .. } = self;
        let (value, first) = (number(*value), number(*first));
        write!(f, "{signal} is {value} in round {round}, was {first} at first ({limit} = {bound}")?;
        match moved < round {
            true => write!(f, "; half of the way by round {moved})"),
            false => f.write_str(")"),
        }
    }
}

/// Numbers of a policy that are not finite any more, where `[watch]` ends the run for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diverged {
    /// The round in which it showed, from 1; it came to no end.
    pub round: u32,
    /// The round whose policy is to blame.
    pub blamed: u32,
    /// What is not finite, in a sentence.
    pub what: String,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {} diverged: {}", self.round, self.what)
    }
}

impl Report {
    /// Returns what a watched signal was in each round that has it, one that kept nothing among them.
    pub fn signal(&self, name: &str) -> Vec<(u32, f64)> {
        let rounds = self.rounds.iter().map(|row| (row.round, &row.signals));
        let last = self.nothing_kept.as_ref().map(|nothing| (nothing.round, &nothing.signals));
        let value =
            |(round, signals): (u32, &BTreeMap<String, f64>)| Some((round, *signals.get(name)?));
        rounds.chain(last).filter_map(value).collect()
    }

    /// Returns what a measure was before the first round.
    pub fn at_start(&self, name: &str) -> Option<f64> {
        self.before.iter().find(|row| row.measure == name).map(|row| row.value)
    }
}

/// Returns the value that a limit allows at most, or at least, of a signal that was `first` at first.
pub fn edge(limit: &str, bound: f64, first: f64) -> f64 {
    match limit {
        "max_fall" => first - bound * first.abs(),
        "max_rise" => first + bound * first.abs(),
        _ => bound,
    }
}
