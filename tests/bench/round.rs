//! A whole round: ours is the program itself, the other side gets what our round came to.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use aligner::model::backend::WeightType;
use aligner::model::text::Model;
use aligner::record::{Finish, Message, Text};
use aligner::round;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::input::Row;

/// Prompts of the round.
const PROMPTS: usize = 48;
/// Examples of a step, as in the plugin set.
const BATCH: usize = 4;

/// What a round read and made, for the other side to do the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundInput {
    /// The prompts of the pool, and how long our completions were.
    pub completed: Vec<Completed>,
    /// What was trained on, in order.
    pub trained: Vec<Row>,
    /// Examples of a step.
    pub batch: usize,
    /// The held-out measures of the initial model.
    pub before: HeldOut,
    /// The same after training.
    pub after: HeldOut,
}

/// A prompt and the length of its completion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completed {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Tokens of the completion.
    pub new: usize,
}

/// What the held-out measures ask of a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeldOut {
    /// Trusted answers.
    pub scored: Vec<Row>,
    /// Its own answers.
    pub completed: Vec<Completed>,
}

/// Runs the demo's plugin set for one round, and returns the seconds of each stage.
pub fn run(folder: &Path, weights: WeightType) -> Result<BTreeMap<String, f64>> {
    let (limit, dtype) = (format!("data.limit={PROMPTS}"), format!("run.dtype={weights}"));
    let output = Command::new(env!("CARGO_BIN_EXE_aligner"))
        .args(["--plugins", "soft-plus.toml", "--rounds", "1", "--fresh", "--progress", "plain"])
        .args(["--set", &limit, "--set", &dtype, "--out"])
        .arg(folder)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("`aligner` fails: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut stages = BTreeMap::new();
    for line in lines(&folder.join("timings.jsonl"))? {
        let name = line["stage"].as_str().unwrap_or_default().to_owned();
        *stages.entry(name).or_insert(0.0) += line["seconds"].as_f64().unwrap_or(0.0);
    }
    Ok(stages)
}

/// Reads what a round came to.
pub fn input(folder: &Path, model: &Model) -> Result<RoundInput> {
    let mut completed = Vec::new();
    for row in lines(&folder.join("pool/generate.jsonl"))? {
        let variant = &row["variants"][0];
        let new = variant["completion"]["tokens"].as_u64().unwrap_or(0) as usize;
        if new > 0 {
            let tokens = model.encode_prompt(&text(&variant["prompt"])?)?;
            completed.push(Completed { tokens, new });
        }
    }
    let mut trained = Vec::new();
    for row in lines(&folder.join("rounds/01/train.jsonl"))? {
        let messages: Vec<Message> = serde_json::from_value(row["prompt"].clone())?;
        let said = row["completion"][0]["content"].as_str().context("a completion")?;
        let finish: Finish = serde_json::from_value(row["finish"].clone())?;
        let example = model.encode_example(&Text::Chat(messages), said, finish)?;
        let from = example.trained.iter().position(|&trained| trained).unwrap_or(0);
        trained.push(Row { tokens: example.tokens, from });
    }
    let held_out = |part: &str| held_out(&folder.join(part).join("evaluate-asks.jsonl"), model);
    let (before, after) = (held_out("pool")?, held_out("rounds/01")?);
    Ok(RoundInput { completed, trained, batch: BATCH, before, after })
}

fn held_out(asks: &Path, model: &Model) -> Result<HeldOut> {
    let mut held_out = HeldOut::default();
    for ask in lines(asks)? {
        let (request, answer) = (&ask["request"], &ask["answer"]);
        if let Some(score) = request.get("score") {
            let completion = score["completion"].as_str().unwrap_or_default();
            let row = round::row(model, &text(&score["prompt"])?, completion)?;
            held_out.scored.push(Row { tokens: row.tokens, from: row.from });
        } else if let Some(new) = answer["completion"]["tokens"].as_u64() {
            let tokens = model.encode_prompt(&text(&request["generate"]["prompt"])?)?;
            held_out.completed.push(Completed { tokens, new: new as usize });
        }
    }
    Ok(held_out)
}

fn text(value: &Value) -> Result<Text> {
    Ok(serde_json::from_value(value.clone())?)
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("`{}` cannot be read", path.display()))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}
