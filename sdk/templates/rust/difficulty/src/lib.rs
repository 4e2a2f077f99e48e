//! Scores a prompt by how unsure the model is of its own answer, in nats a token.

use aligner_sdk::{
    Ask, Context, Decoding, Difficulty, Error, GenerateRequest, Plugin, Record, export_difficulty,
};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// The model that answers: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// How many tokens it may write.
    max_new_tokens: u32,
}

impl Default for MyPlugin {
    fn default() -> Self {
        MyPlugin { model: "policy".into(), max_new_tokens: 32 }
    }
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str =
        "Scores a prompt by how unsure the model is of its own answer, in nats a token.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "policy"},
"max_new_tokens": {"type": "integer", "minimum": 1, "default": 32}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Difficulty for MyPlugin {
    fn score(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<f64, Error> {
        let decoding = Decoding { max_new_tokens: Some(self.max_new_tokens), ..Decoding::greedy() };
        let request = GenerateRequest::of(&self.model, record.prompt.text.clone());
        // Ends here until the host has answered; then all of it runs again, and goes on.
        let answer = ask.generate(GenerateRequest { decoding, ..request })?;
        Ok(-answer.logprob / f64::from(answer.tokens))
    }
}

export_difficulty!(MyPlugin);

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Completion, testing};

    use super::*;

    fn scored(record: &Record, answer: Answer) -> Result<f64, Error> {
        let plugin: MyPlugin = testing::plugin("{}").unwrap();
        testing::score(&plugin, record, |_| answer.clone())
    }

    #[test]
    fn an_unsure_answer_is_harder() {
        let record = testing::record("p-1", "Why?");
        let answer = |logprob| {
            let completion = testing::completion("Because.");
            Answer::Completion(Completion { tokens: 4, logprob, ..completion })
        };
        assert_eq!(scored(&record, answer(-2.0)), Ok(0.5));
        assert_eq!(scored(&record, answer(-8.0)), Ok(2.0));
    }

    #[test]
    fn a_prompt_that_the_model_cannot_read_is_an_error() {
        let record = testing::record("p-1", "Why?");
        let unanswered = scored(&record, Answer::Unanswered("too long".into()));
        assert_eq!(unanswered, Err(Error::Unanswered("too long".into())));
    }

    #[test]
    fn awkward_records_get_a_score() {
        for record in testing::awkward() {
            let answer = Answer::Completion(testing::completion("Because."));
            assert!(scored(&record, answer).unwrap() >= 0.0);
        }
    }
}
