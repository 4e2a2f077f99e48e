//! The one record that travels through a round, and what it is made of.
//!
//! These types are the host's side of `wit/types.wit`, field by field, in the form in which they
//! are written to the run directory. They know nothing of plugins, models or files.

use serde::{Deserialize, Serialize};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The instructions above the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Speaker {
    /// Returns the name that chat templates and data files use: `system`, `user` or `assistant`.
    pub fn as_str(self) -> &'static str {
        match self {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it; `role` in files, as everywhere in the field.
    #[serde(rename = "role")]
    pub speaker: Speaker,
    /// Plain text, without any marker of a chat template.
    pub content: String,
}

/// A prompt as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    /// Tokenised as it stands, after the model's begin-of-text token where it has one.
    Raw(String),
    /// Rendered with the model's chat template, up to where the assistant begins.
    Chat(Vec<Message>),
}

impl Text {
    /// Returns a conversation of one user message.
    pub fn user(content: impl Into<String>) -> Text {
        Text::Chat(vec![Message { speaker: Speaker::User, content: content.into() }])
    }

    /// Returns the words a person would recognise the prompt by: the raw text, or the last message
    /// of the user.
    pub fn gist(&self) -> &str {
        match self {
            Text::Raw(text) => text,
            Text::Chat(messages) => messages
                .iter()
                .rev()
                .find(|message| message.speaker == Speaker::User)
                .map_or("", |message| &message.content),
        }
    }
}

/// One prompt of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique within the run.
    pub id: String,
    /// What is asked.
    pub text: Text,
    /// Free labels such as `domain:health`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// An in-context example from the catalogue of the principle plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// Unique within the catalogue.
    pub id: String,
    /// Free labels such as `principle:ethical`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The rendered text, exactly as it appears in a prompt.
    pub text: String,
}

/// What a variant of a prompt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VariantRole {
    /// The prompt as it is.
    Plain,
    /// Under principles that should make the completion better.
    Good,
    /// Under principles that should make it worse.
    Bad,
}

impl VariantRole {
    /// Returns its name, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            VariantRole::Plain => "plain",
            VariantRole::Good => "good",
            VariantRole::Bad => "bad",
        }
    }
}

/// Why a completion ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// By an end-of-turn token or a stop string: it is whole.
    Stop,
    /// By its token limit: it may end within a word.
    Length,
}

/// Whether the same settings make something again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repro {
    /// To the last bit, on the same class of device.
    #[default]
    Exact,
    /// No: a server said it, and what it says of the same request may differ in the last bits, or more. It is the
    /// same again where it is taken out of the journal.
    Recorded,
}

impl Repro {
    /// Returns whether the same settings make it again.
    pub fn is_exact(&self) -> bool {
        *self == Repro::Exact
    }
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Without the prompt, the stop string and special tokens.
    pub text: String,
    /// How many tokens were drawn, the end-of-turn token included.
    pub tokens: u32,
    /// Sum over these tokens of log p in nats, at temperature 1 and without top-p, top-k or
    /// penalties.
    pub logprob: f64,
    /// Mean over the drawn tokens of the entropy of the distribution they were drawn from, at
    /// temperature 1, in nats; absent where a server drew them, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Why it ends.
    pub finish: Finish,
    /// Whether it can be made again.
    #[serde(default, skip_serializing_if = "Repro::is_exact")]
    pub repro: Repro,
}

impl Completion {
    /// Returns a completion that no model here has written: words stand for its tokens, and nothing is known
    /// of its logprob.
    pub fn unmeasured(text: &str, finish: Finish) -> Completion {
        let words = text.split_whitespace().count();
        Completion::unmeasured_of(text, u32::try_from(words).unwrap_or(u32::MAX).max(1), finish)
    }

    /// The same of so many tokens.
    pub fn unmeasured_of(text: &str, tokens: u32, finish: Finish) -> Completion {
        Completion {
            text: text.to_owned(),
            tokens,
            logprob: 0.0,
            entropy: Some(0.0),
            finish,
            repro: Repro::Exact,
        }
    }
}

/// One way of putting a prompt, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Unique within the record.
    pub name: String,
    /// What it is for.
    pub role: VariantRole,
    /// The prompt as rendered by the principle plugin.
    pub prompt: Text,
    /// Absent before the generate stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
}

/// A number that a judge gave to a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Name of the variant whose completion is judged.
    pub variant: String,
    /// What is judged.
    pub name: String,
    /// Higher is better; finite.
    pub value: f64,
}

/// A preference between the completions of two variants, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The better one.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

/// A number that the host computed because a plugin declared that it needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// For example `perplexity(few-shot)`.
    pub name: String,
    /// Finite.
    pub value: f64,
}

/// The record that travels through a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What is asked.
    pub prompt: Prompt,
    /// The exemplars drawn for it, with their texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<Exemplar>,
    /// In the order in which the principle plugin gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Named rewards from the judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<Reward>,
    /// Present after the pair stage of a preference objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    /// Higher is harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Numbers that the host computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
}

impl Record {
    /// Returns a record that holds a prompt and nothing else yet.
    pub fn new(prompt: Prompt) -> Record {
        Record {
            prompt,
            exemplars: Vec::new(),
            variants: Vec::new(),
            rewards: Vec::new(),
            pair: None,
            difficulty: None,
            measurements: Vec::new(),
        }
    }

    /// Returns the prompt's id, which is also the record's.
    pub fn id(&self) -> &str {
        &self.prompt.id
    }
}

/// How to decode; what is absent is taken from `[generate]` of the plugin set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// 0 is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// In (0, 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// 0 keeps every token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// 1 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u32>,
    /// The completion ends before the first of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
}

impl Decoding {
    /// Returns settings, all of them present, under which a model always says the same.
    pub fn greedy(max_new_tokens: u32) -> Decoding {
        Decoding {
            temperature: Some(0.0),
            top_p: Some(1.0),
            top_k: Some(0),
            repetition_penalty: Some(1.0),
            max_new_tokens: Some(max_new_tokens),
            stop: Some(Vec::new()),
        }
    }

    /// Returns these settings, with those that are absent taken from `defaults`.
    pub fn or(&self, defaults: &Decoding) -> Decoding {
        Decoding {
            temperature: self.temperature.or(defaults.temperature),
            top_p: self.top_p.or(defaults.top_p),
            top_k: self.top_k.or(defaults.top_k),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
            max_new_tokens: self.max_new_tokens.or(defaults.max_new_tokens),
            stop: self.stop.clone().or_else(|| defaults.stop.clone()),
        }
    }
}

/// Something only a model can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// A completion.
    Generate {
        /// `policy`, `initial`, `previous`, or a name from `[models]`.
        model: String,
        /// What to complete.
        prompt: Text,
        /// How to decode.
        decoding: Decoding,
        /// Tells requests apart that are otherwise equal.
        seed: u64,
    },
    /// The logprob of a completion.
    Score {
        /// `policy`, `initial`, `previous`, or a name from `[models]`.
        model: String,
        /// What comes before the completion.
        prompt: Text,
        /// What is scored.
        completion: String,
    },
    /// What a reward model gives a completion.
    Reward {
        /// A reward model: a name from `[models]`, or what a round saved.
        model: String,
        /// What comes before the completion.
        prompt: Text,
        /// What is judged.
        completion: String,
    },
}

impl Request {
    /// Returns the name of the model that is asked.
    pub fn model(&self) -> &str {
        match self {
            Request::Generate { model, .. }
            | Request::Score { model, .. }
            | Request::Reward { model, .. } => model,
        }
    }
}

/// How likely a completion is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Sum over the completion's tokens of log p, in nats.
    pub logprob: f64,
    /// How many tokens were scored.
    pub tokens: u32,
    /// Mean over these tokens of the entropy of their distributions, in nats; no plugin sees it but as a
    /// measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Whether it can be made again.
    #[serde(default, skip_serializing_if = "Repro::is_exact")]
    pub repro: Repro,
}

impl Score {
    /// Returns `exp(-logprob / tokens)`, at least 1.
    pub fn perplexity(&self) -> f64 {
        (-self.logprob / f64::from(self.tokens)).exp()
    }
}

/// The host's answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To a generate request.
    Completion(Completion),
    /// To a score request.
    Score(Score),
    /// To a reward request.
    Reward {
        /// Finite; higher is better.
        value: f64,
        /// How many tokens were read, prompt included.
        tokens: u32,
    },
    /// The request could not be carried out; says why.
    Unanswered(String),
}

impl Answer {
    /// Returns whether the same settings make it again.
    pub fn is_exact(&self) -> bool {
        match self {
            Answer::Completion(completion) => completion.repro.is_exact(),
            Answer::Score(score) => score.repro.is_exact(),
            Answer::Reward { .. } | Answer::Unanswered(_) => true,
        }
    }
}

/// A new text for one variant's completion, from a filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The variant's name.
    pub variant: String,
    /// The whole new completion.
    pub text: String,
    /// [`Finish::Stop`] where the new text is whole.
    pub finish: Finish,
}

/// What a filter says of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The record stays as it is.
    Keep,
    /// The record leaves the round, for this reason.
    Drop(String),
    /// The record stays, with these completions replaced.
    Revise(Vec<Revision>),
}

/// What a judge thinks of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Opinion {
    /// Named numbers for the completions.
    Rewards(Vec<Reward>),
    /// One completion is better than another.
    Preference(Pair),
    /// Neither is better.
    Tie,
    /// The model's words gave no opinion; says what could not be read.
    Unparsable(String),
}

impl std::fmt::Display for Opinion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Opinion::Rewards(rewards) => {
                let said = rewards.iter().map(|r| format!("{} {} {}", r.variant, r.name, r.value));
                f.write_str(&said.collect::<Vec<_>>().join(", "))
            }
            Opinion::Preference(pair) => write!(f, "{} over {}", pair.chosen, pair.rejected),
            Opinion::Tie => f.write_str("a tie"),
            Opinion::Unparsable(what) => write!(f, "unparsable: {what}"),
        }
    }
}
