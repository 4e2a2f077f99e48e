//! Drops records with a completion that is too short or too long.

use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
use serde::Deserialize;

/// Bounds on every completion of a record, each included.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Length {
    /// Fewest characters.
    min_characters: usize,
    /// Most characters.
    max_characters: usize,
    /// Fewest words.
    min_words: usize,
    /// Most words.
    max_words: usize,
}

impl Plugin for Length {
    type Config = Length;
    const NAME: &'static str = "length";
    const SUMMARY: &'static str = "Drops completions that are too short or too long.";

    fn new(config: Length) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Filter for Length {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        for (_, completion) in record.completions() {
            let characters = completion.text.chars().count();
            let words = completion.text.split_whitespace().count();
            if characters < self.min_characters || words < self.min_words {
                return Ok(Verdict::Drop("too-short".into()));
            }
            if characters > self.max_characters || words > self.max_words {
                return Ok(Verdict::Drop("too-long".into()));
            }
        }
        Ok(Verdict::Keep)
    }
}

export_filter!(Length);

impl Default for Length {
    fn default() -> Self {
        Length {
            min_characters: 0,
            max_characters: usize::MAX,
            min_words: 0,
            max_words: usize::MAX,
        }
    }
}
