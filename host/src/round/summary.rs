//! The row of the report that a round makes.

use std::collections::BTreeMap;

use super::diversity::{distinct_2, mean};
use super::learn::Learned;
use super::lessons::taught;
use super::rows::Step;
use super::{Flow, Pool};
use crate::record::Completion;
use crate::report::{Extrapolation, Measured, RoundSummary};

/// What a round's row is made of.
pub struct Sources<'a> {
    /// From 1.
    pub round: u32,
    /// Prompts that the sampler plugin has written, where it writes any.
    pub written: Option<u64>,
    /// Prompts that were selected.
    pub prompts: u64,
    /// Every completion of the round, as the model wrote it.
    pub completions: &'a [Completion],
    /// What came through the filters, and what did not.
    pub kept: &'a Flow,
    /// What the training made of it.
    pub learned: &'a Learned,
    /// What is watched of it.
    pub signals: BTreeMap<String, f64>,
    /// How far it went beyond that.
    pub extrapolated: Option<Extrapolation>,
    /// Measured after the round.
    pub held_out: Vec<Measured>,
}

/// Returns the row of a round.
pub fn summary(sources: Sources<'_>, pool: &Pool, ids: &[String]) -> RoundSummary {
    let Sources {
        round,
        written,
        prompts,
        completions,
        kept,
        learned,
        signals,
        extrapolated,
        held_out,
    } = sources;
    let texts: Vec<&str> = kept
        .records
        .iter()
        .filter_map(|record| taught(record).map(|completion| completion.text.as_str()))
        .collect();
    let scores = ids.iter().filter_map(|id| pool.difficulty(id));
    let of_records = kept.records.iter().filter_map(|record| record.difficulty);
    let difficulty = scores.chain(of_records).fold(None, |range: Option<[f64; 2]>, score| {
        Some(range.map_or([score; 2], |[least, most]| [least.min(score), most.max(score)]))
    });
    let mut dropped = kept.drops.clone();
    for row in &learned.rows {
        if let Some(reason) = &row.dropped {
            *dropped.entry(reason.clone()).or_default() += 1;
        }
    }
    let trained = learned.rows.iter().filter(|row| row.dropped.is_none()).count();
    RoundSummary {
        round,
        written,
        prompts,
        completions: completions.len() as u64,
        kept: trained as u64,
        dropped,
        difficulty,
        mean_length: mean(completions.iter().map(|c| f64::from(c.tokens))),
        distinct_2: (!texts.is_empty()).then(|| distinct_2(texts.iter().copied())),
        entropy: mean(completions.iter().filter_map(|c| c.entropy)),
        loss_first: learned.steps.first().map(|step| step.loss),
        loss_last: learned.steps.last().map(|step| step.loss),
        training: training(&learned.steps),
        signals,
        extrapolated,
        held_out,
    }
}

/// Returns the row of a round in which nothing was trained, since the aligned model is given.
pub fn of_given(
    round: u32,
    signals: BTreeMap<String, f64>,
    extrapolated: Option<Extrapolation>,
    held_out: Vec<Measured>,
) -> RoundSummary {
    RoundSummary {
        round,
        written: None,
        prompts: 0,
        completions: 0,
        kept: 0,
        dropped: BTreeMap::new(),
        difficulty: None,
        mean_length: None,
        distinct_2: None,
        entropy: None,
        loss_first: None,
        loss_last: None,
        training: BTreeMap::new(),
        signals,
        extrapolated,
        held_out,
    }
}

/// Returns the means over a round's updates of what an objective that compares completions reports.
fn training(steps: &[Step]) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for step in steps {
        let said = serde_json::to_value(step.preference).expect("our own types serialise");
        for (name, value) in said.as_object().into_iter().flatten() {
            all.entry(name.clone()).or_default().extend(value.as_f64());
        }
    }
    let mean = |(name, values): (String, Vec<f64>)| Some((name, mean(values)?));
    all.into_iter().filter_map(mean).collect()
}
