//! What a page of a run shows besides its report: computed from the files of the run, and nothing else, so
//! that equal runs have equal ones.

use std::collections::BTreeMap;

use serde::Serialize;

use super::funnel::Funnel;
use crate::measure::figure::Interval;
use crate::report::page::histogram::Histogram;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Details {
    /// Those that have begun, in order.
    pub rounds: Vec<RoundDetails>,
    /// In the order of `evaluate.measures`.
    pub held_out: Vec<HeldOut>,
    /// Tokens of the completions.
    pub lengths: Option<Spread>,
    /// How much more the judge gives to what is chosen.
    pub margins: Option<Spread>,
    /// Of the prompts that were scored: round 0 is the pool.
    pub difficulty: Option<Spread>,
    /// Difficulty in the order of the training.
    pub order: Vec<Placed>,
    /// Answers of the initial model and of the best round to held-out prompts.
    pub before_after: Vec<Sample>,
    /// What the last round that trained has learnt from.
    pub learnt: Vec<Sample>,
    /// What each finished stage has counted, in the order in which they were finished.
    pub costs: Vec<Cost>,
    /// What could not be read, a sentence each.
    pub missing: Vec<String>,
}

/// What is known of a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundDetails {
    /// From 1.
    pub round: u32,
    /// What became of the prompts that it wrote; absent where it writes none.
    pub written: Option<Funnel>,
    /// What became of the records that it worked on.
    pub funnel: Funnel,
    /// Its updates, thinned.
    pub updates: Vec<Update>,
    /// How many updates there were.
    pub steps: u64,
}

/// One update, or the means of some that follow each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Update {
    /// Counts from 1 over all rounds; a mean where it stands for several.
    pub update: f64,
    /// Under the names of `metrics.jsonl`.
    pub values: BTreeMap<String, f64>,
}

/// A held-out measure over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// For example `perplexity`.
    pub measure: String,
    /// How the intervals were found; empty where there are none.
    pub method: String,
    /// Round 0 is the initial model.
    pub points: Vec<Measure>,
    /// Of the best round, against the initial model, prompt by prompt.
    pub change: Option<Change>,
}

/// A measure after one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// 0 is the initial model.
    pub round: u32,
    /// As the report has it.
    pub value: f64,
    /// Prompts that it rests on; 0 where that is not known.
    pub n: usize,
    /// 95 %.
    pub interval: Option<Interval>,
}

/// A difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The round that is compared with the initial model.
    pub round: u32,
    /// Its value less that of the initial model.
    pub difference: f64,
    /// 95 %.
    pub interval: Option<Interval>,
}

/// How numbers are spread, in parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// One part for each of `parts`.
    pub histogram: Histogram,
    /// What each part of the histogram counts.
    pub parts: Vec<SpreadPart>,
}

/// What a part of a spread counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SpreadPart {
    /// 0 is the pool.
    pub round: u32,
    /// Whether their records stayed in the round to its end.
    pub kept: bool,
}

/// A record, or some that follow each other, in the order of the training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Placed {
    /// From 1.
    pub round: u32,
    /// Counts from 1 over all rounds; a mean where it stands for several.
    pub place: f64,
    /// A mean likewise.
    pub difficulty: f64,
}

/// A prompt with two texts; long ones are cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The record's id.
    pub id: String,
    /// What is asked.
    pub prompt: String,
    /// The answer before, or what is rejected; empty where there is none.
    pub first: String,
    /// The answer after, or what is chosen or learnt.
    pub second: String,
}

/// What a finished stage has counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// 0 is the pool.
    pub round: u32,
    /// For example `generate`.
    pub stage: String,
    /// For example `tokens`, `fuel` and `asks`.
    pub counts: BTreeMap<String, u64>,
}
