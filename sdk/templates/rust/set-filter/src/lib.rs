//! Keeps the first of the records whose answers begin with the same words.

use std::collections::BTreeMap;

use aligner_sdk::{Context, Error, Plugin, Record, SetFilter, Verdict, export_set_filter};
use serde::Deserialize;

/// What stands under `config`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many words of an answer are compared.
    words: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { words: 8 }
    }
}

/// The plugin. One instance sees the whole stage, so it keeps what it has seen.
pub struct MyPlugin {
    config: Config,
    /// The first record with each beginning.
    first: BTreeMap<String, String>,
}

impl Plugin for MyPlugin {
    type Config = Config;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str =
        "Keeps the first of the records whose answers begin with the same words.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"words": {"type": "integer", "minimum": 1, "default": 8}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        match config.words {
            0 => Err(Error::Config("`words` is under 1".into())),
            _ => Ok(MyPlugin { config, first: BTreeMap::new() }),
        }
    }
}

impl SetFilter for MyPlugin {
    fn observe(&mut self, _: &Context, record: &Record) -> Result<(), Error> {
        for beginning in self.beginnings(record) {
            self.first.entry(beginning).or_insert_with(|| record.prompt.id.clone());
        }
        Ok(())
    }

    fn decide(&mut self, _: &Context, record: &Record) -> Result<Verdict, Error> {
        let of_another = |it: &String| self.first.get(it).is_some_and(|id| *id != record.prompt.id);
        Ok(match self.beginnings(record).iter().any(of_another) {
            true => Verdict::Drop("same-beginning".into()),
            false => Verdict::Keep,
        })
    }
}

export_set_filter!(MyPlugin);

impl MyPlugin {
    /// Returns how each completion begins, in lower case.
    fn beginnings(&self, record: &Record) -> Vec<String> {
        let beginning = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().take(self.config.words).collect();
            words.join(" ").to_lowercase()
        };
        record.completions().map(|(_, completion)| beginning(&completion.text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    #[test]
    fn the_first_of_the_same_beginning_stays() {
        let mut plugin: MyPlugin = testing::plugin(r#"{"words": 2}"#).unwrap();
        let answers = ["As an AI, no.", "Yes.", "as an  elephant, yes.", "As a rule."];
        let records: Vec<Record> = (1..)
            .zip(answers)
            .map(|(i, text)| testing::answered(&format!("p-{i}"), "Why?", text))
            .collect();
        let verdicts = testing::decide(&mut plugin, &[], &records).unwrap();
        let dropped = Verdict::Drop("same-beginning".into());
        assert_eq!(verdicts, [Verdict::Keep, Verdict::Keep, dropped.clone(), Verdict::Keep]);

        let mut plugin: MyPlugin = testing::plugin(r#"{"words": 2}"#).unwrap();
        let verdicts = testing::decide(&mut plugin, &records[..1], &records[2..]).unwrap();
        assert_eq!(verdicts, [dropped, Verdict::Keep]);
    }

    #[test]
    fn a_beginning_of_no_words_is_refused() {
        let refused = testing::plugin::<MyPlugin>(r#"{"words": 0}"#);
        assert!(matches!(refused, Err(Error::Config(text)) if text.contains("`words`")));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let mut plugin: MyPlugin = testing::plugin("{}").unwrap();
        let records = testing::awkward();
        let verdicts = testing::decide(&mut plugin, &[], &records).unwrap();
        assert_eq!(verdicts.len(), records.len());
    }
}
