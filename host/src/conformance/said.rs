//! One way to call a plugin, whatever its interface: items in, words out.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use super::answers::{Asked, Script, Scripted};
use crate::plugin::{Equipment, Interface, Outcome, Place, Plugin, PluginError, Spent, Stage};
use crate::record::{self, Exemplar, Opinion, Prompt, Record, Variant};

/// Where calls of the suite happen.
pub const PLACE: Place<'static> =
    Place { run_seed: 17, round: 1, rounds: 3, stage: "test", position: 0 };

/// What came of a call.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// What was said of each item, word for word.
    pub words: Vec<String>,
    /// The same in short, for people.
    pub labels: Vec<String>,
    /// What it took.
    pub spent: Spent,
    /// What models were asked.
    pub asked: Asked,
}

impl Said {
    /// Adds what came of another call.
    pub fn add(&mut self, other: Said) {
        self.words.extend(other.words);
        self.labels.extend(other.labels);
        self.spent += other.spent;
        self.asked.add(other.asked);
    }

    /// Returns what was said, the most frequent first: `keep 10, drop (too-short) 2`.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.labels.iter().for_each(|label| *counts.entry(label).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(label, count)| (std::cmp::Reverse(*count), *label));
        let more = counts.len().saturating_sub(4);
        let mut parts: Vec<String> =
            counts.iter().take(4).map(|(label, count)| format!("{label} {count}")).collect();
        if more > 0 {
            parts.push(format!("{more} others"));
        }
        parts.join(", ")
    }
}

/// A plugin that is called through one of its interfaces, with a model that is a script.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Ready to be called.
    pub plugin: &'a Plugin,
    /// How it is called.
    pub interface: Interface,
    /// How its requests are answered.
    pub script: Script,
}

impl Subject<'_> {
    /// Calls it with records.
    pub fn records(&self, records: &[Record]) -> Result<Said, PluginError> {
        let Subject { plugin, interface, script } = *self;
        let mut answers = Scripted::new(script);
        let answerer = &mut answers;
        let said = match interface {
            Interface::Filter => said(plugin.filter(&PLACE, records, answerer)?, verdict),
            Interface::SetFilter => said(plugin.filter_set(&PLACE, &[], records)?, verdict),
            Interface::Judge => said(plugin.judge(&PLACE, records, answerer)?, opinion),
            Interface::Difficulty => said(plugin.score(&PLACE, records, answerer)?, difficulty),
            Interface::Principle => {
                said(plugin.render(&PLACE, records, answerer)?, |it| variants(it))
            }
            Interface::Sampler | Interface::PromptWriter => {
                let what = format!("{} is not called with records", interface.as_str());
                return Err(PluginError::Host(what));
            }
        };
        Ok(Said { asked: answers.asked, ..said })
    }

    /// Calls it with one record after the other, each in calls of its own.
    pub fn alone(&self, records: &[Record]) -> Vec<Result<Said, PluginError>> {
        use rayon::prelude::*;
        records.par_iter().map(|record| self.records(std::slice::from_ref(record))).collect()
    }

    /// Calls a set filter with records in these batches.
    pub fn set(&self, records: &[Record], batches: &[Range<usize>]) -> Result<Said, PluginError> {
        Ok(said(self.plugin.filter_set_in(&PLACE, records, batches)?, verdict))
    }

    /// Lets a sampler equip prompts.
    pub fn equip(&self, prompts: &[Prompt], catalogue: &[Exemplar]) -> Result<Said, PluginError> {
        Ok(said(self.plugin.equip(&PLACE, prompts, catalogue)?, equipment))
    }

    /// Lets a sampler write prompts.
    pub fn write(&self, pool: &[Prompt], slots: Range<u32>) -> Result<Said, PluginError> {
        let mut answers = Scripted::new(self.script);
        let stage = self.plugin.write(&PLACE, pool, slots, Spent::default(), &mut answers)?;
        let said = said(stage, |prompts: &Vec<Prompt>| {
            crate::progress::counted(prompts.len() as u64, "prompts")
        });
        Ok(Said { asked: answers.asked, ..said })
    }
}

fn said<T: Debug>(stage: Stage<T>, label: impl Fn(&T) -> String) -> Said {
    let labels = stage.outcomes.iter().map(|outcome| match outcome {
        Outcome::Done(value) => label(value),
        Outcome::Failed(_) => "failed".to_owned(),
    });
    Said {
        labels: labels.collect(),
        words: stage.outcomes.iter().map(|outcome| format!("{outcome:?}")).collect(),
        spent: stage.spent,
        asked: Asked::default(),
    }
}

fn verdict(verdict: &record::Verdict) -> String {
    match verdict {
        record::Verdict::Keep => "keep".into(),
        record::Verdict::Drop(reason) => format!("drop ({reason})"),
        record::Verdict::Revise(_) => "revise".into(),
    }
}

fn opinion(opinion: &Opinion) -> String {
    match opinion {
        Opinion::Rewards(_) => "rewards",
        Opinion::Preference(_) => "preference",
        Opinion::Tie => "tie",
        Opinion::Unparsable(_) => "unparsable",
    }
    .into()
}

fn difficulty(_: &f64) -> String {
    "difficulty".into()
}

fn variants(variants: &[Variant]) -> String {
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    names.join("+")
}

fn equipment(equipment: &Equipment) -> String {
    crate::progress::counted(equipment.exemplars.len() as u64, "exemplars")
}
