//! The lines of the stages' files.
//!
//! Each stage writes what it added, under the record's id; the record itself is put together again
//! from the prompt pool and these lines, so nothing is written twice and nothing is guessed.

use serde::{Deserialize, Serialize};

use crate::record::{Decoding, Finish, Message, Opinion, Speaker, Text, Variant, Verdict};

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

/// A line of `train.jsonl`: one example, as it came to the trainer. `prompt` and
/// `completion` are TRL's columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// The record's id.
    pub record_id: String,
    /// The round whose data this is.
    pub round: u32,
    /// Without principles and exemplars.
    pub prompt: Column,
    /// The completion that is learned; of the same form as the prompt.
    pub completion: Column,
    /// Whether it is whole, and so ends with the end-of-turn token.
    pub finish: Finish,
    /// Higher is harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Why it was left out of the training, such as `too-long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
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
    /// Returns the columns of a prompt and its completion.
    pub fn pair(prompt: &Text, completion: &str) -> (Column, Column) {
        match prompt {
            Text::Raw(text) => (Column::Text(text.clone()), Column::Text(completion.into())),
            Text::Chat(messages) => {
                let message = Message { speaker: Speaker::Assistant, content: completion.into() };
                (Column::Messages(messages.clone()), Column::Messages(vec![message]))
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
    /// Mean over the batch's trained tokens, in nats.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Of this update.
    pub learning_rate: f64,
    /// Trained tokens in the batch.
    pub num_tokens: u64,
}

fn is_default(decoding: &Decoding) -> bool {
    *decoding == Decoding::default()
}
