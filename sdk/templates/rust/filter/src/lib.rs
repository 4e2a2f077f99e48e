//! Drops records with a completion of too few words.

use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// Fewest words of a completion.
    words: usize,
}

impl Default for MyPlugin {
    fn default() -> Self {
        MyPlugin { words: 3 }
    }
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "Drops records with a completion of too few words.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"words": {"type": "integer", "minimum": 1, "default": 3}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        match config.words {
            0 => Err(Error::Config("`words` is under 1".into())),
            _ => Ok(config),
        }
    }
}

impl Filter for MyPlugin {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let short = |text: &str| text.split_whitespace().count() < self.words;
        Ok(match record.completions().any(|(_, completion)| short(&completion.text)) {
            true => Verdict::Drop("too-short".into()),
            false => Verdict::Keep,
        })
    }
}

export_filter!(MyPlugin);

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    #[test]
    fn short_answers_are_dropped() {
        let plugin: MyPlugin = testing::plugin(r#"{"words": 3}"#).unwrap();
        let check = |text: &str, expected: Verdict| {
            let record = testing::answered("p-1", "Is it?", text);
            assert_eq!(testing::filter(&plugin, &record, testing::no_model), Ok(expected));
        };
        check("Yes, it is.", Verdict::Keep);
        check("Yes.", Verdict::Drop("too-short".into()));
    }

    #[test]
    fn a_bound_of_no_words_is_refused() {
        let refused = testing::plugin::<MyPlugin>(r#"{"words": 0}"#);
        assert!(matches!(refused, Err(Error::Config(text)) if text.contains("`words`")));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let plugin: MyPlugin = testing::plugin("{}").unwrap();
        for record in testing::awkward() {
            testing::filter(&plugin, &record, testing::no_model).unwrap();
        }
    }
}
