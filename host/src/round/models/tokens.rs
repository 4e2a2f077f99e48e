//! From what the engine is asked in text to its tokens, and back.

use crate::generate;
use crate::logprob;
use crate::model::ModelError;
use crate::model::text::Model;
use crate::record::{Completion, Decoding, Finish, Repro, Text};
use crate::round::RunError;

use super::Job;

/// Returns the row that scores a completion after a prompt: as it stands after raw text, as the
/// assistant's message after a chat.
pub fn row(model: &Model, prompt: &Text, completion: &str) -> Result<logprob::Row, ModelError> {
    row_ending(model, prompt, completion, Finish::Stop)
}

/// The same, where the end of the assistant's message may be left out ([`Finish::Length`]).
pub fn row_ending(
    model: &Model,
    prompt: &Text,
    completion: &str,
    finish: Finish,
) -> Result<logprob::Row, ModelError> {
    let finish = match prompt {
        Text::Raw(_) => Finish::Length,
        Text::Chat(_) => finish,
    };
    let example = model.encode_example(prompt, completion, finish)?;
    let from = example.trained.iter().position(|&trained| trained).unwrap_or(example.tokens.len());
    Ok(logprob::Row { tokens: example.tokens, from })
}

pub(super) fn prepare(model: &Model, job: &Job) -> Result<generate::Job, ModelError> {
    let prompt = model.encode_prompt(&job.prompt)?;
    let decoding = &job.decoding;
    let max_new_tokens = decoding.max_new_tokens.unwrap_or(1) as usize;
    let (tokens, limit) = (prompt.len() + max_new_tokens, model.spec.context_length);
    if tokens > limit {
        let what = "the prompt with its new tokens";
        return Err(ModelError::TooLong { what, model: model.name.clone(), tokens, limit });
    }
    Ok(generate::Job { prompt, sampling: sampling(decoding), seed: job.seed })
}

pub(super) fn sampling(decoding: &Decoding) -> generate::Sampling {
    generate::Sampling {
        temperature: decoding.temperature.unwrap_or(1.0),
        top_p: decoding.top_p.unwrap_or(1.0),
        top_k: decoding.top_k.unwrap_or(0),
        repetition_penalty: decoding.repetition_penalty.unwrap_or(1.0),
        max_new_tokens: decoding.max_new_tokens.unwrap_or(1) as usize,
    }
}

/// Returns whether the completion's newest tokens complete a stop string.
pub(super) fn ends_with_stop(model: &Model, tokens: &[u32], stops: &[String]) -> bool {
    let Some(longest) = stops.iter().map(String::len).max() else { return false };
    // A token has at least one byte, so so many tokens hold every stop string that could end here;
    // a few more, because the first may be cut within a letter.
    let tail = &tokens[tokens.len().saturating_sub(longest + 4)..];
    let Ok(text) = model.tokenizer.decode(tail) else { return false };
    stops.iter().any(|stop| text.contains(stop.as_str()))
}

pub(super) fn completion(
    model: &Model,
    output: generate::Output,
    stops: &[String],
    end_tokens: &[u32],
) -> Result<Completion, RunError> {
    let mut text_tokens = output.tokens.as_slice();
    if let Some((last, before)) = text_tokens.split_last()
        && end_tokens.contains(last)
    {
        text_tokens = before;
    }
    let mut text = model.tokenizer.decode(text_tokens)?;
    if let Some(cut) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        text.truncate(cut);
    }
    Ok(Completion {
        text,
        tokens: output.tokens.len() as u32,
        logprob: output.logprob.min(0.0),
        entropy: Some(output.entropy),
        repro: Repro::Exact,
        finish: if output.ended { Finish::Stop } else { Finish::Length },
    })
}
