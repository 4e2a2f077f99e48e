//! The tokens of a row, the same for all sides: a JSON file that every worker reads.

use std::path::Path;

use aligner::model::text::Model;
use aligner::record::{Message, Speaker, Text};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::round::RoundInput;
use crate::row::{Method, Work};

/// What is in the file; each kind of work has its own part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Input {
    /// Prompts to complete.
    #[serde(default)]
    pub prompts: Vec<Vec<u32>>,
    /// How many tokens all prompts share.
    #[serde(default)]
    pub common: usize,
    /// What our side made of the prompts; others are given these tokens step by step, so that all
    /// read the same.
    #[serde(default)]
    pub made: Vec<Vec<u32>>,
    /// Sequences to score.
    #[serde(default)]
    pub rows: Vec<Row>,
    /// Sequences to train on.
    #[serde(default)]
    pub examples: Vec<Row>,
    /// Pairs to train on.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// What our round came to.
    #[serde(default)]
    pub round: Option<RoundInput>,
}

/// A sequence and where its completion begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub from: usize,
}

/// A preference pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The completion that is preferred.
    pub chosen: Vec<u32>,
    /// The other.
    pub rejected: Vec<u32>,
}

impl Input {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Input> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("`{}` cannot be read", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_string(self)?)
            .with_context(|| format!("`{}` cannot be written", path.display()))
    }
}

/// Text to cut tokens from: the shipped prompts as chats, and the same as one long stream.
pub struct Corpus {
    chats: Vec<Vec<u32>>,
    stream: Vec<u32>,
}

impl Corpus {
    /// Tokenises the shipped prompts and answers.
    pub fn new(model: &Model) -> Result<Corpus> {
        let mut chats = Vec::new();
        let mut stream = Vec::new();
        for name in ["prompts-240", "trusted-40"] {
            let data = aligner_embed::data(name).context("the shipped data is gone")?;
            for line in data.lines() {
                let line: serde_json::Value = serde_json::from_str(line)?;
                let said = line["prompt"].as_str().unwrap_or_default().to_owned();
                stream.extend(model.tokenizer.encode_plain(&said)?);
                if let Some(answer) = line["answer"].as_str() {
                    stream.extend(model.tokenizer.encode_plain(answer)?);
                }
                let message = Message { speaker: Speaker::User, content: said };
                chats.push(model.encode_prompt(&Text::Chat(vec![message]))?);
            }
        }
        Ok(Corpus { chats, stream })
    }

    /// Returns `length` tokens of the stream, others for each `index`.
    fn cut(&self, index: usize, length: usize) -> Vec<u32> {
        let start = index * 211 % self.stream.len();
        self.stream.iter().cycle().skip(start).take(length).copied().collect()
    }

    /// Returns the input of a piece of work.
    pub fn input(&self, work: Work) -> Input {
        let none = Input::default();
        match work {
            Work::Decode { batch, .. } => {
                let prompts = self.chats.iter().take(batch).cloned().collect();
                Input { prompts, ..none }
            }
            Work::Prefill { sequences, length } => {
                let prompts = (0..sequences).map(|i| self.cut(i, length)).collect();
                Input { prompts, ..none }
            }
            Work::Score { sequences, prompt, completion } => {
                let tokens = |i| self.cut(i, prompt + completion);
                let rows = (0..sequences).map(|i| Row { tokens: tokens(i), from: prompt });
                Input { rows: rows.collect(), ..none }
            }
            Work::Stage { prompts, common, own, .. } => {
                let shared = self.cut(0, common);
                let prompts = (0..prompts).map(|i| {
                    // Lengths differ by a few tokens, as they do between questions.
                    let own = self.cut(i + 1, own - 8 + i * 7 % 17);
                    [&shared[..], &own[..]].concat()
                });
                let prompts: Vec<Vec<u32>> = prompts.collect();
                let common = common_prefix(&prompts);
                Input { prompts, common, ..none }
            }
            Work::Train { method: Method::Dpo, examples, length, prompt, .. } => {
                let pairs = (0..examples).map(|i| Pair {
                    prompt: self.cut(3 * i, prompt),
                    chosen: self.cut(3 * i + 1, length - prompt),
                    rejected: self.cut(3 * i + 2, length - prompt),
                });
                Input { pairs: pairs.collect(), ..none }
            }
            Work::Train { examples, length, prompt, .. } => {
                let row = |i| Row { tokens: self.cut(i, length), from: prompt };
                Input { examples: (0..examples).map(row).collect(), ..none }
            }
            Work::Round => none,
        }
    }
}

impl Corpus {
    /// Returns completions for prompts that our side does not complete.
    pub fn stand_in(&self, work: Work, prompts: usize) -> Vec<Vec<u32>> {
        match work {
            Work::Decode { new, .. } | Work::Stage { new, .. } => {
                (0..prompts).map(|i| self.cut(7 * i, new)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Returns how many tokens all prompts begin with, one before the end of the shortest at most.
pub fn common_prefix(prompts: &[Vec<u32>]) -> usize {
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(1);
    let agree = |i: usize| prompts.iter().all(|prompt| prompt[i] == prompts[0][i]);
    (0..shortest - 1).take_while(|&i| agree(i)).count()
}
