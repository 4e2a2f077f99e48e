//! Between the host's records and the contract's types, field by field. What goes in borrows all text from
//! the records; lists that the contract has in another form lie in an arena for as long as the call.

use bumpalo::Bump;

use super::bindings::aligner::plugin::types as wit;
use super::bindings::aligner::plugin::verdicts;
use crate::record;

/// Converts a list into the arena.
pub(super) fn list<'a, T, R>(
    arena: &'a Bump,
    items: &'a [T],
    convert: impl Fn(&'a Bump, &'a T) -> R,
) -> &'a [R] {
    arena.alloc_slice_fill_iter(items.iter().map(|item| convert(arena, item)))
}

pub(super) fn strings<'a>(arena: &'a Bump, strings: &'a [String]) -> &'a [&'a str] {
    list(arena, strings, |_, string| string.as_str())
}

fn text<'a>(arena: &'a Bump, text: &'a record::Text) -> wit::TextParam<'a> {
    match text {
        record::Text::Raw(raw) => wit::TextParam::Raw(raw),
        record::Text::Chat(messages) => wit::TextParam::Chat(list(arena, messages, message)),
    }
}

fn message<'a>(_: &'a Bump, message: &'a record::Message) -> wit::MessageParam<'a> {
    wit::MessageParam {
        speaker: match message.speaker {
            record::Speaker::System => wit::Speaker::System,
            record::Speaker::User => wit::Speaker::User,
            record::Speaker::Assistant => wit::Speaker::Assistant,
        },
        content: &message.content,
    }
}

pub(super) fn text_back(text: wit::TextResult) -> record::Text {
    match text {
        wit::TextResult::Raw(raw) => record::Text::Raw(raw),
        wit::TextResult::Chat(messages) => record::Text::Chat(
            messages
                .into_iter()
                .map(|message| record::Message {
                    speaker: match message.speaker {
                        wit::Speaker::System => record::Speaker::System,
                        wit::Speaker::User => record::Speaker::User,
                        wit::Speaker::Assistant => record::Speaker::Assistant,
                    },
                    content: message.content,
                })
                .collect(),
        ),
    }
}

pub(super) fn prompt<'a>(arena: &'a Bump, prompt: &'a record::Prompt) -> wit::PromptParam<'a> {
    wit::PromptParam {
        id: &prompt.id,
        text: text(arena, &prompt.text),
        tags: strings(arena, &prompt.tags),
    }
}

pub(super) fn prompt_back(prompt: wit::PromptResult) -> record::Prompt {
    record::Prompt { id: prompt.id, text: text_back(prompt.text), tags: prompt.tags }
}

fn exemplar<'a>(arena: &'a Bump, exemplar: &'a record::Exemplar) -> wit::ExemplarParam<'a> {
    wit::ExemplarParam {
        id: &exemplar.id,
        tags: strings(arena, &exemplar.tags),
        text: &exemplar.text,
    }
}

pub(super) fn exemplar_back(exemplar: wit::ExemplarResult) -> record::Exemplar {
    record::Exemplar { id: exemplar.id, tags: exemplar.tags, text: exemplar.text }
}

fn completion(completion: &record::Completion) -> wit::CompletionParam<'_> {
    wit::CompletionParam {
        text: &completion.text,
        tokens: completion.tokens,
        logprob: completion.logprob,
        finish: match completion.finish {
            record::Finish::Stop => wit::Finish::Stop,
            record::Finish::Length => wit::Finish::Length,
        },
    }
}

fn finish_back(finish: wit::Finish) -> record::Finish {
    match finish {
        wit::Finish::Stop => record::Finish::Stop,
        wit::Finish::Length => record::Finish::Length,
    }
}

fn variant<'a>(arena: &'a Bump, variant: &'a record::Variant) -> wit::VariantParam<'a> {
    wit::VariantParam {
        name: &variant.name,
        role: match variant.role {
            record::VariantRole::Plain => wit::VariantRole::Plain,
            record::VariantRole::Good => wit::VariantRole::Good,
            record::VariantRole::Bad => wit::VariantRole::Bad,
        },
        prompt: text(arena, &variant.prompt),
        completion: variant.completion.as_ref().map(completion),
    }
}

/// The variant without a completion: `check` refuses one that has it.
pub(super) fn variant_back(variant: wit::VariantResult) -> record::Variant {
    record::Variant {
        name: variant.name,
        role: match variant.role {
            wit::VariantRole::Plain => record::VariantRole::Plain,
            wit::VariantRole::Good => record::VariantRole::Good,
            wit::VariantRole::Bad => record::VariantRole::Bad,
        },
        prompt: text_back(variant.prompt),
        completion: None,
    }
}

pub(super) fn record<'a>(arena: &'a Bump, record: &'a record::Record) -> wit::Record<'a> {
    wit::Record {
        prompt: prompt(arena, &record.prompt),
        exemplars: list(arena, &record.exemplars, exemplar),
        variants: list(arena, &record.variants, variant),
        rewards: list(arena, &record.rewards, |_, reward| wit::RewardParam {
            variant: &reward.variant,
            name: &reward.name,
            value: reward.value,
        }),
        pair: record
            .pair
            .as_ref()
            .map(|pair| wit::PairParam { chosen: &pair.chosen, rejected: &pair.rejected }),
        difficulty: record.difficulty,
        measurements: list(arena, &record.measurements, |_, measurement| wit::Measurement {
            name: &measurement.name,
            value: measurement.value,
        }),
    }
}

pub(super) fn answer<'a>(_: &'a Bump, answer: &'a record::Answer) -> wit::Answer<'a> {
    match answer {
        record::Answer::Completion(c) => wit::Answer::Completion(completion(c)),
        record::Answer::Score(score) => {
            wit::Answer::Score(wit::Score { logprob: score.logprob, tokens: score.tokens })
        }
        record::Answer::Reward { value, .. } => wit::Answer::Reward(*value),
        record::Answer::Unanswered(why) => wit::Answer::Unanswered(why),
    }
}

pub(super) fn decoding_back(decoding: wit::Decoding) -> record::Decoding {
    record::Decoding {
        temperature: decoding.temperature,
        top_p: decoding.top_p,
        top_k: decoding.top_k,
        repetition_penalty: decoding.repetition_penalty,
        max_new_tokens: decoding.max_new_tokens,
        stop: decoding.stop,
    }
}

pub(super) fn request_back(request: wit::Request) -> record::Request {
    match request {
        wit::Request::Generate(request) => record::Request::Generate {
            model: request.model,
            prompt: text_back(request.prompt),
            decoding: decoding_back(request.decoding),
            seed: request.seed,
        },
        wit::Request::Score(request) => record::Request::Score {
            model: request.model,
            prompt: text_back(request.prompt),
            completion: request.completion,
        },
        wit::Request::Reward(request) => record::Request::Reward {
            model: request.model,
            prompt: text_back(request.prompt),
            completion: request.completion,
        },
    }
}

pub(super) fn reward_back(reward: wit::RewardResult) -> record::Reward {
    record::Reward { variant: reward.variant, name: reward.name, value: reward.value }
}

pub(super) fn pair_back(pair: wit::PairResult) -> record::Pair {
    record::Pair { chosen: pair.chosen, rejected: pair.rejected }
}

pub(super) fn verdict_back(verdict: verdicts::Verdict) -> record::Verdict {
    match verdict {
        verdicts::Verdict::Keep => record::Verdict::Keep,
        verdicts::Verdict::Drop(reason) => record::Verdict::Drop(reason),
        verdicts::Verdict::Revise(revisions) => record::Verdict::Revise(
            revisions
                .into_iter()
                .map(|revision| record::Revision {
                    variant: revision.variant,
                    text: revision.text,
                    finish: finish_back(revision.finish),
                })
                .collect(),
        ),
    }
}

/// Returns about how many bytes of text a prompt has.
fn text_bytes(text: &record::Text) -> usize {
    match text {
        record::Text::Raw(raw) => raw.len(),
        record::Text::Chat(messages) => messages.iter().map(|m| m.content.len() + 16).sum(),
    }
}

/// Returns about how many bytes a prompt takes in a call.
pub(super) fn prompt_bytes(prompt: &record::Prompt) -> usize {
    64 + text_bytes(&prompt.text) + prompt.tags.iter().map(|tag| tag.len() + 8).sum::<usize>()
}

/// Returns about how many bytes a record takes in a call: what batches are cut by.
pub(super) fn record_bytes(record: &record::Record) -> usize {
    let exemplars = record.exemplars.iter().map(|exemplar| exemplar.text.len() + 64);
    let variants = record.variants.iter().map(|variant| {
        128 + text_bytes(&variant.prompt)
            + variant.completion.as_ref().map_or(0, |completion| completion.text.len())
    });
    let numbers = 48 * (record.rewards.len() + record.measurements.len());
    prompt_bytes(&record.prompt) + exemplars.sum::<usize>() + variants.sum::<usize>() + numbers
}

/// Returns about how many bytes an answer takes in a call.
pub(super) fn answer_bytes(answer: &record::Answer) -> usize {
    32 + match answer {
        record::Answer::Completion(completion) => completion.text.len(),
        record::Answer::Score(_) | record::Answer::Reward { .. } => 0,
        record::Answer::Unanswered(why) => why.len(),
    }
}
