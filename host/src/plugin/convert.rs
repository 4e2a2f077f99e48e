//! Between the host's records and the contract's types, field by field.

use super::bindings::aligner::plugin::types as wit;
use super::bindings::aligner::plugin::verdicts;
use crate::record;

pub(super) fn text(text: &record::Text) -> wit::Text {
    match text {
        record::Text::Raw(raw) => wit::Text::Raw(raw.clone()),
        record::Text::Chat(messages) => wit::Text::Chat(
            messages
                .iter()
                .map(|message| wit::Message {
                    speaker: match message.speaker {
                        record::Speaker::System => wit::Speaker::System,
                        record::Speaker::User => wit::Speaker::User,
                        record::Speaker::Assistant => wit::Speaker::Assistant,
                    },
                    content: message.content.clone(),
                })
                .collect(),
        ),
    }
}

pub(super) fn text_back(text: wit::Text) -> record::Text {
    match text {
        wit::Text::Raw(raw) => record::Text::Raw(raw),
        wit::Text::Chat(messages) => record::Text::Chat(
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

pub(super) fn prompt(prompt: &record::Prompt) -> wit::Prompt {
    wit::Prompt { id: prompt.id.clone(), text: text(&prompt.text), tags: prompt.tags.clone() }
}

pub(super) fn prompt_back(prompt: wit::Prompt) -> record::Prompt {
    record::Prompt { id: prompt.id, text: text_back(prompt.text), tags: prompt.tags }
}

fn exemplar(exemplar: &record::Exemplar) -> wit::Exemplar {
    wit::Exemplar {
        id: exemplar.id.clone(),
        tags: exemplar.tags.clone(),
        text: exemplar.text.clone(),
    }
}

pub(super) fn exemplar_back(exemplar: wit::Exemplar) -> record::Exemplar {
    record::Exemplar { id: exemplar.id, tags: exemplar.tags, text: exemplar.text }
}

fn completion(completion: &record::Completion) -> wit::Completion {
    wit::Completion {
        text: completion.text.clone(),
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

fn variant(variant: &record::Variant) -> wit::Variant {
    wit::Variant {
        name: variant.name.clone(),
        role: match variant.role {
            record::VariantRole::Plain => wit::VariantRole::Plain,
            record::VariantRole::Good => wit::VariantRole::Good,
            record::VariantRole::Bad => wit::VariantRole::Bad,
        },
        prompt: text(&variant.prompt),
        completion: variant.completion.as_ref().map(completion),
    }
}

/// The variant without a completion: `check` refuses one that has it.
pub(super) fn variant_back(variant: wit::Variant) -> record::Variant {
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

pub(super) fn record(record: &record::Record) -> wit::Record {
    wit::Record {
        prompt: prompt(&record.prompt),
        exemplars: record.exemplars.iter().map(exemplar).collect(),
        variants: record.variants.iter().map(variant).collect(),
        rewards: record
            .rewards
            .iter()
            .map(|reward| wit::Reward {
                variant: reward.variant.clone(),
                name: reward.name.clone(),
                value: reward.value,
            })
            .collect(),
        pair: record
            .pair
            .as_ref()
            .map(|pair| wit::Pair { chosen: pair.chosen.clone(), rejected: pair.rejected.clone() }),
        difficulty: record.difficulty,
        measurements: record
            .measurements
            .iter()
            .map(|measurement| wit::Measurement {
                name: measurement.name.clone(),
                value: measurement.value,
            })
            .collect(),
    }
}

pub(super) fn answer(answer: &record::Answer) -> wit::Answer {
    match answer {
        record::Answer::Completion(c) => wit::Answer::Completion(completion(c)),
        record::Answer::Score(score) => {
            wit::Answer::Score(wit::Score { logprob: score.logprob, tokens: score.tokens })
        }
        record::Answer::Reward { value, .. } => wit::Answer::Reward(*value),
        record::Answer::Unanswered(why) => wit::Answer::Unanswered(why.clone()),
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

pub(super) fn reward_back(reward: wit::Reward) -> record::Reward {
    record::Reward { variant: reward.variant, name: reward.name, value: reward.value }
}

pub(super) fn pair_back(pair: wit::Pair) -> record::Pair {
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
