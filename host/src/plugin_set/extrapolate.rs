//! `[extrapolate]`: how far a round goes beyond what it has trained.

use serde::{Deserialize, Serialize};

use crate::record::Decoding;

/// `[extrapolate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extrapolate {
    /// How far.
    pub alpha: Alpha,
    /// Away from what. Default: `initial`.
    pub from: Origin,
}

impl Extrapolate {
    /// Returns the search, where alpha is searched for.
    pub fn search(&self) -> Option<&Search> {
        match &self.alpha {
            Alpha::Fixed(_) => None,
            Alpha::Search(search) => Some(search),
        }
    }
}

/// How far beyond the trained policy: 0 is the policy itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alpha {
    /// This far, from -1 to 100.
    Fixed(f64),
    /// As far as is found best.
    Search(Search),
}

/// What the line begins at that leads to the trained policy and beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The initial model.
    Initial,
    /// What the round's training began with.
    Previous,
}

/// How alpha is searched for: a grid first, then halfway from the best to the better of its neighbours,
/// again and again. Alpha 0 always takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Rising, over 0 and at most 100; 1 to 32 of them. Default: 0.1, 0.2, 0.3, 0.4, 0.5.
    pub grid: Vec<f64>,
    /// How often the interval beside the best is halved after that, up to 8. Default: 2.
    pub refine: u32,
    /// Held-out prompts that each candidate answers, from the first; all where there are fewer.
    /// Default: 16.
    pub prompts: u32,
    /// What is best. Default: `judge` where the set has one, else `perplexity`.
    pub objective: Goal,
    /// How candidates answer, all of it present. Default: greedy, as long as `[generate]` says.
    pub decoding: Decoding,
    /// What a candidate may not do.
    pub guard: Guard,
}

/// What a search makes better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// The mean over the answers of the judge's reward of this name; absent: of the sum of its rewards.
    Judge(Option<String>),
    /// The perplexity of the trusted answers, which should be low.
    Perplexity,
}

impl Goal {
    /// Returns the name that plugin sets and reports use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Goal::Judge(_) => "judge",
            Goal::Perplexity => "perplexity",
        }
    }

    /// Returns whether `new` is better than `old`.
    pub fn better(&self, new: f64, old: f64) -> bool {
        match self {
            Goal::Judge(_) => new > old,
            Goal::Perplexity => new < old,
        }
    }
}

/// What keeps a search from a collapsed model: a candidate beyond one of these bounds, all of them
/// measured against the answers at alpha 0, is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// How many times as long answers may be on average, at least 1. Default: 1.5.
    pub length: f64,
    /// By how much the share of answers may fall that end by themselves, in [0, 1]. Default: 0.02.
    pub ended: f64,
    /// By how much the share of repeated four-word sequences may rise, in [0, 1]. Default: 0.02.
    pub repetition: f64,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { length: 1.5, ended: 0.02, repetition: 0.02 }
    }
}

/// The grid of a search that names none: what the paper tries on models that are fully trained.
pub(super) const GRID: [f64; 5] = [0.1, 0.2, 0.3, 0.4, 0.5];
