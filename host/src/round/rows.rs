//! The lines of the stages' files.
//!
//! Each stage writes what it added, under the record's id; the record itself is put together again
//! from the prompt pool and these lines, so nothing is written twice and nothing is guessed.

use serde::{Deserialize, Serialize};

use crate::record::{
    Answer, Decoding, Finish, Measurement, Message, Opinion, Pair, Request, Speaker, Text, Variant,
    Verdict,
};
use crate::train::PreferenceMetrics;

/// A line of `write.jsonl`: a prompt that the sampler plugin found in what the model wrote, in the order
/// in which it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The host's, for example `w01-0001`.
    pub id: String,
    /// The slot that it came from; counts from 0 within the round.
    pub slot: u32,
    /// What is asked.
    pub prompt: Text,
    /// The plugin's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Why it did not come into the pool: the reason of a filter, or `surplus` where the round had enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// A line of `sample.jsonl`: a prompt that was selected, and its equipment. In working order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The prompt's id.
    pub id: String,
    /// Ids of the exemplars drawn for it, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<String>,
    /// What its decoding changes of `[generate]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decoding: Decoding,
    /// Why it could not be equipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// A line of `render.jsonl`: the variants of a prompt, without completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rendered {
    /// The record's id.
    pub id: String,
    /// As the principle plugin gave them.
    pub variants: Vec<Variant>,
}

/// A line of `generate.jsonl`: the completed variants of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The record's id.
    pub id: String,
    /// With their completions, unless the record is dropped.
    pub variants: Vec<Variant>,
    /// The key of each completion: a digest of model, prompt, decoding and seed.
    pub keys: Vec<String>,
    /// Why it could not be completed, such as `too-long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// A line of a stage's `-asks.jsonl`: what a plugin asked, and the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The record's id.
    pub record: String,
    /// Counts the record's requests from 0.
    pub index: u64,
    /// A digest of model, prompt and what else decides the answer: who asks the same gets the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// What was asked.
    pub request: Request,
    /// What the host answered.
    pub answer: Answer,
}

/// A line of `judge.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The record's id.
    pub id: String,
    /// What the judge thinks; absent where it failed on the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opinion: Option<Opinion>,
}

/// A line of a filter's file: one for each record and filter, in the order in which they ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filtered {
    /// The record's id.
    pub id: String,
    /// The filter's name.
    pub plugin: String,
    /// The filter's version.
    pub version: String,
    /// What it said.
    pub verdict: Verdict,
}

/// A line of `difficulty.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The record's id.
    pub id: String,
    /// Higher is harder; absent where the record could not be completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
}

/// A line of `measure-generate.jsonl` and its like: what is measured of a record by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The record's id.
    pub id: String,
    /// Those that could be made.
    pub measurements: Vec<Measurement>,
}

/// A line of `pair.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The record's id.
    pub id: String,
    /// The variants whose completions are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    /// Why there are none, such as `identical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// A line of `reference.jsonl`: what the reference says of an item of the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Referred {
    /// The item's id.
    pub id: String,
    /// Summed logprob of each of its sequences, in nats.
    pub logprobs: Vec<f64>,
}

/// A line of `train.jsonl`: what the trainer learns from one record. `prompt`, `completion`, `chosen`
/// and `rejected` are TRL's columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// The record's id.
    pub record_id: String,
    /// The round whose data this is.
    pub round: u32,
    /// Without principles and exemplars.
    pub prompt: Column,
    /// Its completion, or those that are compared.
    #[serde(flatten)]
    pub lesson: Lesson,
    /// Higher is harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Why it was left out of the training, such as `too-long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// What follows the prompt of a line of `train.jsonl`; completions are of the same form as it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Lesson {
    /// Completions that are compared.
    Preference {
        /// The better one.
        chosen: Column,
        /// Whether it is whole, and so ends with the end-of-turn token.
        chosen_finish: Finish,
        /// The worse one.
        rejected: Column,
        /// The same of this one.
        rejected_finish: Finish,
        /// What an objective compares besides that tells completions apart by role.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steered: Option<Steered>,
    },
    /// A completion that is learnt.
    Completion {
        /// The completion.
        completion: Column,
        /// Whether it is whole, and so ends with the end-of-turn token.
        finish: Finish,
    },
}

/// The other renderings of a prompt, and the completion of the prompt as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    /// The prompt under good principles.
    pub good_prompt: Column,
    /// The prompt under bad ones.
    pub bad_prompt: Column,
    /// The completion of the prompt as it is.
    pub plain: Column,
    /// Whether it is whole.
    pub plain_finish: Finish,
}

/// A column of a TRL data file: a string, or a list of messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// Raw text.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Column {
    /// Returns the column of a prompt.
    pub fn of_prompt(prompt: &Text) -> Column {
        match prompt {
            Text::Raw(text) => Column::Text(text.clone()),
            Text::Chat(messages) => Column::Messages(messages.clone()),
        }
    }

    /// Returns the column of a completion of a prompt.
    pub fn of_completion(prompt: &Text, completion: &str) -> Column {
        match prompt {
            Text::Raw(_) => Column::Text(completion.into()),
            Text::Chat(_) => {
                let message = Message { speaker: Speaker::Assistant, content: completion.into() };
                Column::Messages(vec![message])
            }
        }
    }

    /// Returns the prompt that a prompt column holds.
    pub fn prompt(&self) -> Text {
        match self {
            Column::Text(text) => Text::Raw(text.clone()),
            Column::Messages(messages) => Text::Chat(messages.clone()),
        }
    }

    /// Returns the words of a completion column.
    pub fn words(&self) -> &str {
        match self {
            Column::Text(text) => text,
            Column::Messages(messages) => {
                messages.last().map_or("", |message| message.content.as_str())
            }
        }
    }
}

/// A line of `metrics.jsonl`: one update, under Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: u64,
    /// How many updates this training has.
    pub max_steps: u64,
    /// In epochs.
    pub epoch: f64,
    /// Mean over the batch's trained tokens, in nats, or over what it compares.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Of this update.
    pub learning_rate: f64,
    /// Trained tokens in the batch.
    pub num_tokens: u64,
    /// What only an objective that compares completions has, under TRL's names.
    #[serde(flatten)]
    pub preference: PreferenceMetrics,
}

fn is_default(decoding: &Decoding) -> bool {
    *decoding == Decoding::default()
}
