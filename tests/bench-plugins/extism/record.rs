//! A record as JSON, with what crosses the boundary of the contract: both sides of the comparison carry the same.

use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
pub struct Record {
    pub prompt: Prompt,
    #[serde(default)]
    pub exemplars: Vec<Exemplar>,
    pub variants: Vec<Variant>,
    #[serde(default)]
    pub rewards: Vec<Reward>,
    pub difficulty: Option<f64>,
}

#[derive(Deserialize, Serialize)]
pub struct Prompt {
    pub id: String,
    pub text: Text,
    #[serde(default)]
    pub tags: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    Raw(String),
    Chat(Vec<Message>),
}

#[derive(Deserialize, Serialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

#[derive(Deserialize, Serialize)]
pub struct Exemplar {
    pub id: String,
    pub text: String,
}

#[derive(Deserialize, Serialize)]
pub struct Variant {
    pub name: String,
    pub role: String,
    pub prompt: Text,
    pub completion: Option<Completion>,
}

#[derive(Deserialize, Serialize)]
pub struct Completion {
    pub text: String,
    pub tokens: u32,
    pub logprob: f64,
    pub finish: String,
}

#[derive(Deserialize, Serialize)]
pub struct Reward {
    pub variant: String,
    pub name: String,
    pub value: f64,
}
