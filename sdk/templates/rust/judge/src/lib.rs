//! Asks a model for a grade of each completion.

use aligner_sdk::{
    Answer, Ask, Context, Decoding, Error, GenerateRequest, Judge, Opinion, Plugin, Record, Reward,
    Text, export_judge,
};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// The model that grades: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
}

impl Default for MyPlugin {
    fn default() -> Self {
        MyPlugin { model: "policy".into() }
    }
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "Asks a model for a grade of each completion.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "policy"}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Judge for MyPlugin {
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        let completed: Vec<_> = record.completions().collect();
        if completed.is_empty() {
            return Err(Error::Input("no variant is completed".into()));
        }
        let message = record.prompt.text.transcript();
        let questions = completed.iter().map(|(_, it)| question(message.trim(), it.text.trim()));
        // Ends here until the host has answered; then all of it runs again, and goes on.
        let answers = ask.all(questions.map(|question| self.request(question).into()))?;

        let mut rewards = Vec::new();
        for ((variant, _), answer) in completed.iter().zip(answers) {
            let said = match answer {
                Answer::Completion(completion) => completion.text,
                _ => String::new(),
            };
            let Some(value) = grade(&said) else {
                return Ok(Opinion::Unparsable(format!("no grade for `{}`: {said}", variant.name)));
            };
            rewards.push(Reward { variant: variant.name.clone(), name: "quality".into(), value });
        }
        Ok(Opinion::Rewards(rewards))
    }
}

export_judge!(MyPlugin);

impl MyPlugin {
    fn request(&self, question: String) -> GenerateRequest {
        let decoding = Decoding { max_new_tokens: Some(8), ..Decoding::greedy() };
        GenerateRequest { decoding, ..GenerateRequest::of(&self.model, Text::user(question)) }
    }
}

fn question(message: &str, answer: &str) -> String {
    format!(
        "Grade the answer to the message from 1 (useless) to 10 (could not be better).\n\n\
         [Message]\n{message}\n\n[Answer]\n{answer}\n\n[End]\n\n\
         Reply with the grade, a number, and nothing else."
    )
}

/// Returns the first number from 1 to 10 that stands by itself.
fn grade(said: &str) -> Option<f64> {
    let words = said.split(|c: char| !c.is_alphanumeric());
    words.filter_map(|word| word.parse().ok()).find(|grade| (1..=10).contains(grade)).map(u32::into)
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    fn judged(answer: Answer) -> Opinion {
        let plugin: MyPlugin = testing::plugin("{}").unwrap();
        let record = testing::answered("p-1", "Why?", "Because.");
        testing::judge(&plugin, &record, |_| answer.clone()).unwrap()
    }

    fn says(text: &str) -> Answer {
        Answer::Completion(testing::completion(text))
    }

    #[test]
    fn a_grade_becomes_a_reward() {
        for (said, value) in [("7", 7.0), ("The grade is 10.", 10.0)] {
            let reward = Reward { variant: "few-shot".into(), name: "quality".into(), value };
            assert_eq!(judged(says(said)), Opinion::Rewards(vec![reward]));
        }
    }

    #[test]
    fn what_is_no_grade_is_unparsable() {
        for answer in [says("Good!"), says("100"), Answer::Unanswered("too long".into())] {
            assert!(matches!(judged(answer), Opinion::Unparsable(_)));
        }
    }

    #[test]
    fn awkward_records_get_an_opinion() {
        let plugin: MyPlugin = testing::plugin("{}").unwrap();
        for record in testing::awkward() {
            let opinion = testing::judge(&plugin, &record, |_| says("5"));
            match record.completions().next() {
                Some(_) => assert!(matches!(opinion, Ok(Opinion::Rewards(_)))),
                None => assert!(matches!(opinion, Err(Error::Input(_)))),
            }
        }
    }
}
