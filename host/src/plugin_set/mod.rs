//! Plugin sets: what the user typed, and what the program needs.
//!
//! A method is one TOML file. `typed` reads it into a tree that remembers where each value was
//! typed, `check` turns the tree into a [`PluginSet`], and everything after that works with the
//! checked type alone. The checked set is what `run.json` holds, with every default filled in.

mod check;
mod extrapolate;
mod keys;
mod load;
pub mod lock;
mod named;
mod plugin;
pub(crate) mod problem;
mod resolved;
pub(crate) mod section;
mod server;
mod settings;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod typed;
mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::date::Date;

pub use extrapolate::{Alpha, Extrapolate, Goal, Guard, Origin, Search};
pub use load::{Embedded, Loaded, load, load_to_lock, parse};
pub use named::{Named, Thing, named};
pub use plugin::{
    After, Ask, Difficulty, Filter, Limits, OnError, Order, Plugin, Sampler, Scope, Write,
};
pub use problem::{Invalid, PluginSetError};
pub use resolved::resolved;
pub use server::{EmbeddedWork, OnBudget, Server, checked_address as server_address};
pub use settings::{
    EarlyStop, Evaluate, Generate, Launch, Lora, LrScheduler, Measure, Measuring, Objective,
    PairBy, Pairing, Reference, Start, Train, TrainData, Trl,
};
pub use source::{Pin, PinnedBy, Source, SourceError, check_url, is_loopback};
pub use typed::{Override, OverrideError};
pub use watch::{Bounds, OnAlarm, Signal, Watch};

use crate::model::backend::WeightType;

/// The version of the contract in `wit/` that this host speaks.
pub const CONTRACT: &str = "0.1";

/// Rounds that a run may have.
pub const MOST_ROUNDS: u32 = 1000;

/// The names that always mean a model: the one of this round, the one before round 1, and the one of
/// the round before.
pub const MODEL_ROLES: [&str; 3] = ["policy", "initial", "previous"];

/// A checked plugin set: all that a run does, with every default filled in and every path absolute.
///
/// Serialises into `run.json` and back without loss; maps and plugin configurations are sorted by
/// key, so equal sets give equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSet {
    /// `[method]`
    pub method: Method,
    /// `[models]`
    pub models: Models,
    /// `[data]`
    pub data: Data,
    /// `[run]`
    pub run: Run,
    /// `[chat]`
    #[serde(default, skip_serializing_if = "Chat::is_default")]
    pub chat: Chat,
    /// `[principle]`; where absent each prompt is its own only variant.
    pub principle: Option<Plugin>,
    /// `[sampler]`; where absent every round works on the whole pool, without exemplars.
    pub sampler: Option<Sampler>,
    /// `[[filter]]`, in the order in which they run at each place.
    pub filters: Vec<Filter>,
    /// `[judge]`
    pub judge: Option<Plugin>,
    /// `[difficulty]`
    pub difficulty: Option<Difficulty>,
    /// `[generate]`
    pub generate: Generate,
    /// `[measure]`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measuring>,
    /// `[pair]`; absent where no round compares completions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pairing>,
    /// `[train]`; where absent nothing is trained.
    pub train: Option<Train>,
    /// `[extrapolate]`, which stands after the last round; where absent no round goes beyond what it
    /// trained, unless its `[[rounds]]` entry says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolate: Option<Extrapolate>,
    /// `[evaluate]`; where absent nothing is measured on held-out prompts.
    pub evaluate: Option<Evaluate>,
    /// `[watch]`; where absent no round raises an alarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// `[[rounds]]`: the first entry overrides round 1, and so on; at most `run.rounds` entries.
    pub rounds: Vec<RoundSettings>,
}

/// `[method]`: what the plugin set is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Lower-case words joined by hyphens; names the run directory.
    pub name: String,
    /// The version of the contract it was written for, for example `0.1`.
    pub contract: String,
    /// One line for people.
    pub summary: Option<String>,
    /// Where the method is published.
    pub paper: Option<String>,
}

/// `[models]`: each an alias, a folder, a GGUF file, or `hf:owner/name@revision`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// The model that is aligned; `initial` means it before the first round. `[models]` may call it
    /// either.
    pub policy: String,
    /// What stands in for all that rounds would train: a model, or a PEFT adapter folder for `policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aligned: Option<String>,
    /// Further models that plugins may ask and rounds may generate with, by name.
    pub named: BTreeMap<String, String>,
    /// The servers that answer for models, by the name of the model; `policy` is the policy's. What stands under
    /// that name in `policy` and `named` is then what the server has for its base.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<String, Server>,
    /// Policies that rounds leave under a name (`[[rounds]] save_as`), with the number of the round:
    /// later ones may generate with them, and plugins may ask them then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub saved: BTreeMap<String, u32>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The prompt pool, JSONL; where `pairs` are given and this is not, the same file.
    pub prompts: Source,
    /// Pairs that every round learns from in the place of completions of its own, JSONL; absent: the
    /// policy writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Source>,
    /// Prompts with trusted answers, JSONL; required by `[evaluate]`.
    pub held_out: Option<Source>,
    /// Pairs whose better completion is known, JSONL; required by the measure `agreement`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchors: Option<Source>,
    /// Only the first so many prompts; absent: all. At least 1.
    pub limit: Option<u32>,
}

impl Data {
    /// Returns every file with its key. Prompts may be the same file as pairs or held-out prompts.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let further =
            [("pairs", &self.pairs), ("held_out", &self.held_out), ("anchors", &self.anchors)];
        let further = further.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)));
        std::iter::once(("prompts", &self.prompts)).chain(further)
    }
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// At least 1. Default: the number of `[[rounds]]` entries, or 1.
    pub rounds: u32,
    /// Every random draw of the run comes from it. Default: 0.
    pub seed: u64,
    /// How weights are kept. Default: `f32`, the exact mode.
    #[serde(default)]
    pub dtype: WeightType,
    /// Which rounds' whole models stay on disk. Default: `all`.
    #[serde(default, skip_serializing_if = "Keep::is_all")]
    pub keep: Keep,
}

/// Which of the whole models that rounds leave stay in the run directory; adapters always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Every one.
    #[default]
    All,
    /// That of the last round, and that of the best one so far.
    Last,
}

impl Keep {
    fn is_all(&self) -> bool {
        *self == Keep::All
    }
}

/// `[chat]`: what chat templates are told besides the conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// The day that `strftime_now` tells; absent: the template's own, so that a run can be
    /// repeated on another day.
    pub date: Option<Date>,
    /// Further variables of the template, for example `enable_thinking = false`; Hugging Face and
    /// vLLM call them `chat_template_kwargs`. Sorted by key.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

impl Chat {
    fn is_default(&self) -> bool {
        *self == Chat::default()
    }
}

/// The settings of one round, after its `[[rounds]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundSettings {
    /// `[generate]` with the entry's `generate` over it.
    pub generate: Generate,
    /// `[train]` with the entry's `train` over it.
    pub train: Option<Train>,
    /// Whether the judge, and the filters behind it, are called.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub judge: bool,
    /// How it goes beyond what it trained; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolate: Option<Extrapolate>,
}

fn yes() -> bool {
    true
}

impl PluginSet {
    /// Returns the judge that `round` (from 1) has.
    pub fn judge(&self, round: u32) -> Option<&Plugin> {
        let called = self.overrides(round).is_none_or(|settings| settings.judge);
        self.judge.as_ref().filter(|_| called)
    }

    /// Returns how `round` (from 1) pairs completions: by role where no judge is called.
    pub fn pairing(&self, round: u32) -> Option<Pairing> {
        let pairing = self.pair.clone()?;
        Some(match self.judge(round) {
            Some(_) => pairing,
            None => Pairing { by: PairBy::Role, reward: None },
        })
    }

    /// Returns how `round` (from 1) generates.
    pub fn generate(&self, round: u32) -> &Generate {
        self.overrides(round).map_or(&self.generate, |settings| &settings.generate)
    }

    /// Returns how `round` (from 1) trains; `None` where it does not, or where the aligned model is given.
    pub fn train(&self, round: u32) -> Option<&Train> {
        match self.models.aligned {
            Some(_) => None,
            None => self.trains(round),
        }
    }

    /// Returns the last round before `round` that left a policy; 0 is the initial model.
    pub fn entering(&self, round: u32) -> u32 {
        let leaves = |&round: &u32| {
            let trained = self.train(round).is_some_and(|train| !train.makes_reward_model());
            trained || self.models.aligned.is_some() || self.extrapolate(round).is_some()
        };
        (1..round).rfind(leaves).unwrap_or(0)
    }

    fn trains(&self, round: u32) -> Option<&Train> {
        self.overrides(round).map_or(self.train.as_ref(), |settings| settings.train.as_ref())
    }

    /// Returns how many prompts the sampler plugin writes in each round; `None` where it writes none.
    pub fn write(&self) -> Option<Write> {
        self.sampler.as_ref().and_then(|sampler| sampler.write)
    }

    /// Returns how `round` (from 1) goes beyond what it trained; `None` where it does not.
    pub fn extrapolate(&self, round: u32) -> Option<&Extrapolate> {
        match self.overrides(round) {
            Some(settings) => settings.extrapolate.as_ref(),
            None => self.extrapolate.as_ref().filter(|_| round == self.run.rounds),
        }
    }

    /// Returns the name under which `round` leaves its policy, if any.
    pub fn save_as(&self, round: u32) -> Option<&str> {
        let saved = self.models.saved.iter().find(|(_, saved)| **saved == round);
        saved.map(|(name, _)| name.as_str())
    }

    /// Returns whether a round compares completions, or would if the aligned model were not given.
    pub fn compares(&self) -> bool {
        let trains = (1..=self.run.rounds).filter_map(|round| self.trains(round));
        trains.into_iter().any(|train| train.preference().is_some())
    }

    /// Returns every plugin with its kind, in the order of the stages: `principle`, `sampler`, the
    /// filters, `judge`, `difficulty`.
    pub fn plugins(&self) -> Vec<(&'static str, &Plugin)> {
        let mut plugins = Vec::new();
        plugins.extend(self.principle.as_ref().map(|plugin| ("principle", plugin)));
        plugins.extend(self.sampler.as_ref().map(|sampler| ("sampler", &sampler.plugin)));
        plugins.extend(self.filters.iter().map(|filter| ("filter", &filter.plugin)));
        plugins.extend(self.judge.as_ref().map(|plugin| ("judge", plugin)));
        plugins.extend(self.difficulty.as_ref().map(|scorer| ("difficulty", &scorer.plugin)));
        plugins
    }

    /// Returns the same, to be changed.
    pub fn plugins_mut(&mut self) -> Vec<&mut Plugin> {
        let mut plugins = Vec::new();
        plugins.extend(&mut self.principle);
        plugins.extend(self.sampler.as_mut().map(|sampler| &mut sampler.plugin));
        plugins.extend(self.filters.iter_mut().map(|filter| &mut filter.plugin));
        plugins.extend(&mut self.judge);
        plugins.extend(self.difficulty.as_mut().map(|scorer| &mut scorer.plugin));
        plugins
    }

    fn overrides(&self, round: u32) -> Option<&RoundSettings> {
        self.rounds.get(round.checked_sub(1)? as usize)
    }
}
