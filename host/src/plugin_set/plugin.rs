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

/// What a plugin may use: in one call, and over the whole run. What is absent has the default of
/// [`plugin::Limits`](crate::plugin::Limits), or no limit over the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Instructions of one call, roughly; the same on every machine. Default: 2 G.
    pub fuel: u64,
    /// Of the component's memories together; at most 256 MiB. Default: 64 MiB.
    pub memory_bytes: u64,
    /// Linear memories, at most 64. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memories: Option<u32>,
    /// Tables, at most 512. Default: 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<u32>,
    /// Elements of the tables together; at most 4 M. Default: 200 k.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<u32>,
    /// Module instances, at most 512. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Of one call; the last resort, after which the run stops. Default: 30.
    pub wall_seconds: f64,
    /// What one call gives back. Default: 16 MiB.
    pub copied_bytes: u64,
    /// Of log lines in one call. Default: 64 KiB.
    pub log_bytes: u64,
    /// Instructions over all calls of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_fuel: Option<u64>,
    /// Of log lines over the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_log_bytes: Option<u64>,
    /// Of all calls since the run was started or resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_wall_seconds: Option<f64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fuel: 2_000_000_000,
            memory_bytes: 64 << 20,
            memories: None,
            tables: None,
            table_elements: None,
            instances: None,
            wall_seconds: 30.0,
            copied_bytes: 16 << 20,
            log_bytes: 64 << 10,
            run_fuel: None,
            run_log_bytes: None,
            run_wall_seconds: None,
        }
    }
}

impl Plugin {
    /// Returns it without the limits that only ever stop a run: none of them decides what is in the data, so
    /// a run goes on where one is given more.
    pub fn deciding(&self) -> Plugin {
        let mut plugin = self.clone();
        let Limits { wall_seconds, .. } = Limits::default();
        plugin.limits = Limits {
            wall_seconds,
            run_fuel: None,
            run_log_bytes: None,
            run_wall_seconds: None,
            ..plugin.limits
        };
        if let Some(ask) = &mut plugin.ask {
            (ask.run_tokens, ask.run_requests) = (None, None);
        }
        plugin
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
    /// Tokens of the answers to one stage of one round: what is drawn, and what is read for scores and
    /// rewards. Default: 1 M.
    pub tokens: u64,
    /// The same over the whole run; absent: no limit but that of the stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_tokens: Option<u64>,
    /// Requests in one stage of one round. Default: 1 M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Requests in the whole run; absent: no limit but that of the stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_requests: Option<u64>,
    /// Requests for one record, at most 256, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_requests: Option<u32>,
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
