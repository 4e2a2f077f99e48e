//! `aligner model …`: one model by itself. This file holds the arguments.

use std::path::PathBuf;

mod chat;
mod eval;
mod extrapolate;
mod merge;
mod pull;
mod score;

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, Device, ProgressArgs, host::DEFAULT_MODEL};
use crate::model::{backend::WeightType, export};

/// What to do with a model.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelCommand {
    /// Fetch a model into the cache
    Pull(PullArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Score completions: JSONL in, JSONL with logprobs out
    Score(ScoreArgs),
    /// Take held-out measures of a model, by a suite
    Eval(EvalArgs),
    /// Write a model with an adapter in its weights, as a folder that other tools read
    Merge(MergeArgs),
    /// Go beyond an aligned model, away from the one it was trained from (ExPO)
    Extrapolate(ExtrapolateArgs),
}

/// Does what is asked of a model.
pub fn main(command: &ModelCommand) -> Result<(), CliError> {
    match command {
        ModelCommand::Pull(args) => pull::main(args),
        ModelCommand::Chat(args) => chat::main(args),
        ModelCommand::Score(args) => score::main(args),
        ModelCommand::Eval(args) => eval::main(args),
        ModelCommand::Merge(args) => merge::main(args),
        ModelCommand::Extrapolate(args) => extrapolate::main(args),
    }
}

/// Arguments of `model pull`.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// Alias, or hf:owner/name@revision
    #[arg(value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub model: String,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
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
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p, allow_negative_numbers = true)]
    pub top_p: f64,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub max_new_tokens: u32,
    /// Seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where the model runs: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `model score`.
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// Alias, folder, FILE.gguf or hf:owner/name@revision [default: the adapter's model, or
    /// smollm2-135m-instruct]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Rows of prompt and completion (raw text, in which names of special tokens are plain text), or of
    /// messages
    #[arg(long, value_name = "FILE.jsonl")]
    pub data: PathBuf,
    /// Add the token ids and the logprob of each scored token
    #[arg(long)]
    pub per_token: bool,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where the model runs: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `model eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// Alias, folder, FILE.gguf or hf:owner/name@revision [default: the adapter's model, or
    /// smollm2-135m-instruct]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Which measures are taken, on which data
    #[arg(long, value_name = "FILE.toml")]
    pub suite: PathBuf,
    /// Where every number and every row goes; nothing may be there yet
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where every number goes, as one JSON object; a file that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Read so many rows of each file, from its top
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub limit: Option<u32>,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `model merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// Alias, folder, FILE.gguf or hf:owner/name@revision [default: the model of the adapter's run]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder, for example runs/demo/final/adapter
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Where the merged model goes; nothing may be there yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the weights [default: the model's own, f32 for a GGUF file]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<DtypeArg>,
    /// Most bytes of weights in one file, such as 5GB or 512MiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub max_shard_size: u64,
    /// Do not compare logits, which holds the whole model in memory in f32
    #[arg(long)]
    pub no_check: bool,
    /// Where the logits are compared: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `model extrapolate`.
#[derive(Clone, Debug, Args)]
pub struct ExtrapolateArgs {
    /// What training began with: alias, folder, FILE.gguf or hf:owner/name@revision; may be left out
    /// where ALIGNED is an adapter
    #[arg(long, value_name = "MODEL")]
    pub initial: Option<String>,
    /// What training made: a model, or a PEFT adapter folder
    #[arg(long, value_name = "ALIGNED")]
    pub aligned: String,
    /// How far beyond: 0 is the aligned model itself, 0.3 three tenths of the way again, -1 the initial
    /// model
    #[arg(long, value_name = "ALPHA", value_parser = alpha, allow_negative_numbers = true)]
    pub alpha: f64,
    /// Where the result goes; nothing may be there yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Type of the weights [default: the aligned model's own, f32 for a GGUF file or an adapter]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<DtypeArg>,
    /// Most bytes of weights in one file, such as 5GB or 512MiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub max_shard_size: u64,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Types that weights can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// 32 bits: what training computed
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits, more precise up to 65504
    F16,
}

impl From<DtypeArg> for export::Dtype {
    fn from(dtype: DtypeArg) -> export::Dtype {
        match dtype {
            DtypeArg::F32 => export::Dtype::F32,
            DtypeArg::Bf16 => export::Dtype::Bf16,
            DtypeArg::F16 => export::Dtype::F16,
        }
    }
}

/// Reads a number of bytes, whole or with a point; `GB` is a power of ten and `GiB` one of two, as with
/// Hugging Face.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("", 1),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let parts = UNITS.iter().find_map(|(name, unit)| Some((upper.strip_suffix(name)?, *unit)));
    let size = parts.and_then(|(number, unit)| {
        let number = number.trim_end();
        match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(unit),
            // What `f64` takes besides: signs, exponents, `inf`.
            Err(_) if number.contains(|c: char| !c.is_ascii_digit() && c != '.') => None,
            Err(_) => number.parse::<f64>().ok().map(|number| (number * unit as f64) as u64),
        }
    });
    size.filter(|&size| size > 0).ok_or_else(|| {
        "expected a size in KB, MB, GB or TB, or in KiB, MiB, GiB or TiB, such as `1.5GB` or `512MiB`"
            .to_owned()
    })
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 10", |t| (0.0..=10.0).contains(&t))
}

fn top_p(text: &str) -> Result<f64, String> {
    number(text, "a number over 0, at most 1", |p| p > 0.0 && p <= 1.0)
}

fn alpha(text: &str) -> Result<f64, String> {
    number(text, "a finite number", f64::is_finite)
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number, 0 or more".to_owned())
}

fn number(text: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number| fits(number));
    number.ok_or_else(|| format!("expected {expected}"))
}
