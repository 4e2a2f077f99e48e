//! `aligner model …`: one model by itself. This file holds the arguments.

use std::path::PathBuf;

mod chat;
mod pull;
mod score;

use clap::{Args, Subcommand};

use super::{CliError, Device};
use crate::model::backend::WeightType;

/// What to do with a model.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelCommand {
    /// Fetch a model into the cache
    Pull(PullArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Score completions: JSONL in, JSONL with logprobs out
    Score(ScoreArgs),
}

/// Does what is asked of a model.
pub fn main(command: &ModelCommand) -> Result<(), CliError> {
    match command {
        ModelCommand::Pull(args) => pull::main(args),
        ModelCommand::Chat(args) => chat::main(args),
        ModelCommand::Score(args) => score::main(args),
    }
}

/// The model that is used where none is named.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Arguments of `model pull`.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// Alias, or hf:owner/name@revision
    #[arg(value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub model: String,
}

/// Arguments of `model chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// Alias, folder, FILE.gguf or hf:owner/name@revision [default: the adapter's model, or
    /// smollm2-135m-instruct]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder, for example runs/demo/final/adapter
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Instructions above the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Answer this and stop
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Tokens drawn from, by probability; 1 keeps every token
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p)]
    pub top_p: f64,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    /// Seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where the model runs: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
}

/// Arguments of `model score`.
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// Alias, folder, FILE.gguf or hf:owner/name@revision
    #[arg(long, value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Rows of prompt and completion (raw text), or of messages
    #[arg(long, value_name = "FILE.jsonl")]
    pub data: PathBuf,
    /// Add the token ids and the logprob of each scored token
    #[arg(long)]
    pub per_token: bool,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where the model runs: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 10", |t| (0.0..=10.0).contains(&t))
}

fn top_p(text: &str) -> Result<f64, String> {
    number(text, "a number over 0, at most 1", |p| p > 0.0 && p <= 1.0)
}

fn number(text: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number| fits(number));
    number.ok_or_else(|| format!("expected {expected}"))
}
