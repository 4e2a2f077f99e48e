//! Some prompts of a run as round 1 puts them and trains on them, before any of it is done.

use super::Prepared;
use super::memory::spread;
use super::plan::put;
use crate::model::ModelError;
use crate::model::text::{Example, Model};
use crate::record::{Finish, Prompt, Variant};
use crate::report::{Preview, PreviewText, PreviewToken};
use crate::round::{RunError, given_variants};

/// How many prompts are shown.
const SHOWN: usize = 3;

/// What stands for a completion that is not written yet.
const PLACEHOLDER: &str = "The completion will stand here.";

/// Returns prompts of the pool, evenly spread, as the models of round 1 read them. What the policy would write
/// is not there yet, so a sentence stands for it.
pub fn previews(prepared: &Prepared) -> Result<Vec<Preview>, RunError> {
    let prompts = spread(&prepared.prompts, SHOWN);
    prompts.iter().map(|prompt| preview(prepared, prompt)).collect()
}

fn preview(prepared: &Prepared, prompt: &Prompt) -> Result<Preview, RunError> {
    let set = &prepared.set;
    let policy = &prepared.models["policy"].model;
    let reader = prepared.models.get(&set.generate(1).model).map_or(policy, |it| &it.model);
    let given = prepared.given.get(&prompt.id).map(given_variants).unwrap_or_default();
    let mut texts = Vec::new();
    // What is given, or extrapolated, is not written by a model.
    if given.is_empty() && prepared.aligned.is_none() {
        for Variant { name, role, prompt, .. } in put(prepared, std::slice::from_ref(prompt))? {
            let new = set.generate(1).max_new_tokens;
            let title = format!(
                "read under variant `{name}` ({}), to be completed by at most {new} tokens",
                role.as_str()
            );
            texts.push(text(reader, title, reader.encode_prompt(&prompt).map(untrained)));
        }
    }
    let Some(train) = set.train(1) else { return Ok(Preview { id: prompt.id.clone(), texts }) };
    let rewards = train.makes_reward_model();
    let example = |completion: &str, finish| match rewards {
        true => policy.encode_judged(&prompt.text, completion),
        false => policy.encode_example(&prompt.text, completion, finish),
    };
    let trained = if rewards { "given a reward" } else { "trained on" };
    for Variant { name, completion, .. } in &given {
        let Some(completion) = completion else { continue };
        let title = format!("{trained}, with the completion `{name}`");
        texts.push(text(policy, title, example(&completion.text, completion.finish)));
    }
    if given.is_empty() {
        let each = if train.preference().is_some() {
            "each completion that is compared"
        } else {
            "a completion"
        };
        let title = format!("{trained}, with a sentence in the place of {each}");
        texts.push(text(policy, title, example(PLACEHOLDER, Finish::Stop)));
    }
    Ok(Preview { id: prompt.id.clone(), texts })
}

fn untrained(tokens: Vec<u32>) -> Example {
    Example { trained: vec![false; tokens.len()], tokens }
}

/// Returns a text with its tokens; one that the model cannot read says why in their place.
fn text(model: &Model, title: String, example: Result<Example, ModelError>) -> PreviewText {
    let tokens = example.and_then(|example| tokens(model, &example));
    match tokens {
        Ok(tokens) => PreviewText { title, tokens },
        Err(error) => PreviewText { title: format!("{title}: {error}"), tokens: Vec::new() },
    }
}

fn tokens(model: &Model, example: &Example) -> Result<Vec<PreviewToken>, ModelError> {
    let mut tokens = Vec::with_capacity(example.tokens.len());
    let mut stream = model.tokenizer.stream();
    for (&id, &trains) in example.tokens.iter().zip(&example.trained) {
        let text = match model.tokenizer.is_special(id) {
            true => {
                let rest = std::mem::replace(&mut stream, model.tokenizer.stream()).finish()?;
                rest + &model.tokenizer.token(id).unwrap_or_default()
            }
            false => stream.push(id)?,
        };
        tokens.push(PreviewToken { text, trains });
    }
    if let (rest, Some(last)) = (stream.finish()?, tokens.last_mut()) {
        last.text.push_str(&rest);
    }
    Ok(tokens)
}
