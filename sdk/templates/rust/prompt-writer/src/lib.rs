//! Lets the model write a prompt after a few it is shown, and selects what a round wrote.

use aligner_sdk::{
    Ask, Candidate, Context, Decoding, Error, GenerateRequest, Plugin, Prompt, PromptWriter,
    Sampler, Text, export_prompt_writer,
};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// The model that writes: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// How many prompts it is shown.
    examples: usize,
    /// How many tokens it may write.
    max_new_tokens: u32,
}

impl Default for MyPlugin {
    fn default() -> Self {
        MyPlugin { model: "policy".into(), examples: 3, max_new_tokens: 48 }
    }
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "Lets the model write a prompt after a few it is shown.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "policy"},
"examples": {"type": "integer", "minimum": 0, "default": 3},
"max_new_tokens": {"type": "integer", "minimum": 1, "default": 48}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        Ok(config)
    }
}

impl PromptWriter for MyPlugin {
    fn write(
        &self,
        context: &Context,
        pool: &[Prompt],
        _: u32,
        ask: &mut Ask,
    ) -> Result<Vec<Prompt>, Error> {
        // The slot's seed: each draws its own examples, and the same ones when it is called again.
        let drawn = ask.rng().choose(self.examples, pool.len());
        let shown: Vec<&str> = drawn.into_iter().map(|i| pool[i].text.gist().trim()).collect();
        let decoding =
            Decoding { max_new_tokens: Some(self.max_new_tokens), ..Decoding::default() };
        let request = GenerateRequest::of(&self.model, Text::user(question(&shown)));
        let written = match ask.generate(GenerateRequest { decoding, ..request }) {
            // Long examples may not fit the model; those of the next slot may.
            Err(Error::Unanswered(_)) => return Ok(Vec::new()),
            written => written?,
        };
        let line = written.text.lines().map(str::trim).find(|line| !line.is_empty());
        let prompt = |line: &str| Prompt {
            id: String::new(),
            text: Text::user(line),
            tags: vec![round_tag(context)],
        };
        Ok(line.map(prompt).into_iter().collect())
    }
}

impl Sampler for MyPlugin {
    fn select(&self, context: &Context, pool: &[Candidate], _: u64) -> Result<Vec<String>, Error> {
        let new = pool.iter().filter(|candidate| candidate.tags.contains(&round_tag(context)));
        Ok(new.map(|candidate| candidate.id.clone()).collect())
    }
}

export_prompt_writer!(MyPlugin);

fn round_tag(context: &Context) -> String {
    format!("round:{}", context.round)
}

fn question(shown: &[&str]) -> String {
    format!(
        "People asked an assistant:\n\n{}\n\n\
         Write one more such message, about something else. Reply with the message alone, on one line.",
        shown.join("\n\n")
    )
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, testing};

    use super::*;

    fn pool() -> Vec<Prompt> {
        (0..9).map(|i| testing::record(&format!("p-{i}"), &format!("Why {i}?")).prompt).collect()
    }

    fn written(answer: impl FnMut(&Request) -> Answer) -> Vec<Prompt> {
        testing::write(&testing::plugin::<MyPlugin>("{}").unwrap(), &pool(), answer).unwrap()
    }

    #[test]
    fn the_first_line_is_a_prompt_of_this_round() {
        let prompts = written(|request| {
            let Request::Generate(request) = request else { panic!("{request:?}") };
            assert_eq!(request.prompt.gist().matches("Why ").count(), 3);
            Answer::Completion(testing::completion("\n How so? \nOr not?"))
        });
        assert_eq!(prompts.len(), 1);
        assert_eq!(prompts[0].text, Text::user("How so?"));
        assert_eq!(prompts[0].tags, ["round:1"]);
    }

    #[test]
    fn silence_and_examples_that_do_not_fit_give_no_prompt() {
        assert!(written(|_| Answer::Completion(testing::completion(" \n"))).is_empty());
        assert!(written(|_| Answer::Unanswered("too long".into())).is_empty());
    }

    #[test]
    fn a_round_works_on_what_it_wrote() {
        let plugin: MyPlugin = testing::plugin("{}").unwrap();
        let candidate = |id: &str, tags: &[&str]| Candidate {
            id: id.into(),
            tags: tags.iter().map(|&tag| tag.into()).collect(),
            difficulty: None,
            selected: 0,
        };
        let pool = [candidate("p-1", &[]), candidate("w-1", &["round:1"])];
        assert_eq!(plugin.select(&testing::context(), &pool, 5), Ok(vec!["w-1".to_owned()]));
    }
}
