//! The tables that name a plugin.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::source::{Pin, Source};

/// One plugin: which component, and what it is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// The component.
    pub source: Source,
    /// What it must be. Stays out of `run.json`, which has the digest of what the run was begun with.
    #[serde(skip)]
    pub pin: Option<Pin>,
    /// A JSON object, handed to `meta.configure`; its keys are sorted. Default: `{}`.
    pub config: Value,
    /// What one call may use.
    pub limits: Limits,
    /// What a failing call does.
    pub on_error: OnError,
    /// What it may ask models; absent: nothing.
    pub ask: Option<Ask>,
}

/// What one call of a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Instructions, roughly; the same on every machine. Default: 2 G.
    pub fuel: u64,
    /// Of the component's memories together; at most 256 MiB. Default: 64 MiB.
    pub memory_bytes: u64,
    /// Of one call; the last resort, after which the run stops. Default: 30.
    pub wall_seconds: f64,
    /// What crosses the boundary in either direction. Default: 16 MiB.
    pub copied_bytes: u64,
    /// Of log lines. Default: 64 KiB.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fuel: 2_000_000_000,
            memory_bytes: 64 << 20,
            wall_seconds: 30.0,
            copied_bytes: 16 << 20,
            log_bytes: 64 << 10,
        }
    }
}

/// What a failing call of a plugin does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Stops the run, which can be resumed.
    #[default]
    Stop,
    /// Halves the batch down to the record at fault and drops that.
    Drop,
}

/// What a plugin may ask models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// `policy`, `initial`, `previous`, or names from `[models]`; not empty.
    pub models: Vec<String>,
    /// Prompt and new tokens together, over the whole run. Default: 1 M.
    pub tokens: u64,
}

impl Ask {
    /// The budget of a plugin that may ask and says no number.
    pub const DEFAULT_TOKENS: u64 = 1_000_000;
}

/// `[sampler]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// The plugin.
    #[serde(flatten)]
    pub plugin: Plugin,
    /// How many prompts it writes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

/// `write` of `[sampler]`: the prompts that the sampler plugin writes at the start of each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// A round has so many, where so many pass the filters at `after = "sample"`; at least 1.
    pub prompts: u32,
    /// How often the plugin is called for more in a round, at most; at least 1.
    pub slots: u32,
}

/// `[[filter]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// The stage it stands behind.
    pub after: After,
    /// The plugin.
    #[serde(flatten)]
    pub plugin: Plugin,
}

/// The stage that a filter stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// Sees prompts.
    Sample,
    /// Sees completions.
    Generate,
    /// Sees rewards.
    Judge,
    /// Sees preference pairs.
    Pair,
}

/// `[difficulty]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difficulty {
    /// What is scored, and when.
    pub scope: Scope,
    /// How the scored records are ordered.
    pub order: Order,
    /// The plugin.
    #[serde(flatten)]
    pub plugin: Plugin,
}

/// What a difficulty plugin scores, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The pool, once, before round 1, by the initial model.
    #[default]
    Pool,
    /// The records of each round, after the filters.
    Round,
}

/// How scored records are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Low scores first.
    #[default]
    EasyToHard,
    /// High scores first.
    HardToEasy,
    /// Shuffled with the run's seed.
    Random,
    /// As in the file.
    AsGiven,
}
