//! What a run has cost, counted from its journal and its files: tokens and fuel, no times.

use std::collections::BTreeSet;

use super::{Directory, DirectoryError};
use crate::record::Answer;
use crate::round::rows::{Asked, Generated, Step};
use crate::run::journal::Entry;

/// What a run has cost. The same for equal runs, whatever was stopped and done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens of completions that were generated for records, each once.
    pub generated: u64,
    /// Tokens that a loss was formed over, in every update.
    pub trained: u64,
    /// What plugins and the held-out measures asked of models.
    pub requests: u64,
    /// Tokens of completions among the answers.
    pub answered: u64,
    /// WebAssembly instructions of plugins, about.
    pub fuel: u64,
}

impl Cost {
    /// Counts what these lines of a journal speak of.
    pub fn of(directory: &Directory, entries: &[Entry]) -> Result<Cost, DirectoryError> {
        let (mut cost, mut seen) = (Cost::default(), BTreeSet::new());
        for entry in entries {
            let Entry::Finished { stage, files, counts, .. } = entry else { continue };
            cost.fuel += counts.get("fuel").copied().unwrap_or(0);
            for file in files.keys() {
                if stage == "generate" && file.ends_with("/generate.jsonl") {
                    for row in directory.read_lines::<Generated>(file)? {
                        // Round 1 takes over what was generated for the pool.
                        let made = row.variants.iter().zip(row.keys);
                        let new = made.filter(|(_, key)| seen.insert(key.clone()));
                        let written = new.filter_map(|(variant, _)| variant.completion.as_ref());
                        cost.generated += written.map(|it| u64::from(it.tokens)).sum::<u64>();
                    }
                } else if file.ends_with("-asks.jsonl") {
                    let asked: Vec<Asked> = directory.read_lines(file)?;
                    cost.requests += asked.len() as u64;
                    cost.answered += asked.iter().map(|asked| tokens(&asked.answer)).sum::<u64>();
                } else if file.ends_with("/metrics.jsonl") {
                    let steps: Vec<Step> = directory.read_lines(file)?;
                    cost.trained += steps.iter().map(|step| step.num_tokens).sum::<u64>();
                }
            }
        }
        Ok(cost)
    }

    /// Returns the rows of a table in Markdown, with its head.
    pub fn table(&self) -> String {
        let mut text = "| cost | |\n| --- | ---: |\n".to_owned();
        for (what, number) in [
            ("tokens generated", self.generated),
            ("tokens trained on", self.trained),
            ("requests of plugins and measures", self.requests),
            ("tokens of their answers", self.answered),
            ("fuel of plugins (instructions, about)", self.fuel),
        ] {
            text.push_str(&format!("| {what} | {number} |\n"));
        }
        text
    }
}

fn tokens(answer: &Answer) -> u64 {
    match answer {
        Answer::Completion(completion) => completion.tokens.into(),
        _ => 0,
    }
}
