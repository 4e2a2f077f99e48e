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

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    fn check(config: &str, completion: &str, expected: Verdict) {
        let plugin: Length = testing::plugin(config).unwrap();
        let record = testing::answered("p-1", "Why?", completion);
        let verdict = testing::filter(&plugin, &record, testing::no_model);
        assert_eq!(verdict, Ok(expected), "{config}: {completion}");
    }

    #[test]
    fn bounds_are_included() {
        let short = || Verdict::Drop("too-short".into());
        let long = || Verdict::Drop("too-long".into());
        check(r#"{"min_words": 3}"#, "one two", short());
        check(r#"{"min_words": 3}"#, "one two three", Verdict::Keep);
        check(r#"{"max_words": 3}"#, "one two three", Verdict::Keep);
        check(r#"{"max_words": 3}"#, "one two three four", long());
        check(r#"{"min_characters": 2}"#, "é", short());
        check(r#"{"max_characters": 2}"#, "日本", Verdict::Keep);
        check(r#"{"max_characters": 2}"#, "日本語", long());
        check("{}", "", Verdict::Keep);
        check(r#"{"min_characters": 1}"#, "", short());
    }

    #[test]
    fn every_completion_counts() {
        let plugin: Length = testing::plugin(r#"{"min_words": 2}"#).unwrap();
        let mut record = testing::answered("p-1", "Why?", "Because of it.");
        let second = testing::variant("bad", aligner_sdk::VariantRole::Bad, "Why?", "No.");
        record.variants.push(second);
        let verdict = testing::filter(&plugin, &record, testing::no_model);
        assert_eq!(verdict, Ok(Verdict::Drop("too-short".into())));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let plugin: Length = testing::plugin(r#"{"min_words": 1, "max_characters": 90}"#).unwrap();
        for record in testing::awkward() {
            testing::filter(&plugin, &record, testing::no_model).unwrap();
        }
    }
}
