//! What is to be done with a shard: the stage, its plugins, and all that the result depends on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::models::Wanted;
use crate::{
    cli::{CliError, host},
    plugin::{Interface, Plugin},
    plugin_set::{self, After, PairBy, Pairing, PluginSet},
    progress::Progress,
    round::{Assessors, DIFFICULTY, JUDGE, Need, What, filter_stage, needs_of},
    run::{
        check_needs,
        plugins::{self, Plugins},
    },
};

/// A stage that a shard may go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Filter(After),
    Judge,
    Score,
}

impl Stage {
    /// Returns what a run calls it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Filter(after) => filter_stage(after),
            Stage::Judge => JUDGE,
            Stage::Score => DIFFICULTY,
        }
    }

    /// Returns the stage of a run in which is measured what its plugins need.
    pub fn measured_in(self) -> &'static str {
        match self {
            Stage::Filter(After::Pair) => "measure-pair",
            Stage::Filter(After::Judge) | Stage::Judge => "measure-judge",
            Stage::Filter(After::Sample | After::Generate) => "measure-generate",
            Stage::Score => "measure-difficulty",
        }
    }
}

/// What is to be done.
pub struct Task {
    pub set: PluginSet,
    pub stage: Stage,
    /// From 1.
    pub round: u32,
    pub plugins: Plugins,
    /// Whether dropped rows are left out.
    pub kept_only: bool,
}

/// A plugin of the stage.
pub struct Called<'a> {
    /// Its place in the plugin set, for example `filter-2`.
    pub place: String,
    /// Its position among the filters, or 0.
    pub position: usize,
    pub plugin: &'a Plugin,
    /// What the plugin set says of it.
    pub wanted: &'a plugin_set::Plugin,
}

impl Task {
    /// Loads the plugins of a stage; `whole` says that the rows are all that the stage has.
    pub fn load(
        set: PluginSet,
        (stage, round): (Stage, u32),
        (whole, kept_only): (bool, bool),
        progress: &Progress,
    ) -> Result<Task, CliError> {
        let mut downloads = host::Downloads::new(progress);
        let needed = only(&set, stage);
        let plugins = Plugins::load(host::runtime()?, &needed, &mut |it| downloads.note(it));
        downloads.finish();
        let mut plugins = plugins?;
        check_needs(&plugins)?;
        // Its records come chunk after chunk, and are of one stage.
        plugins.filters = plugins.filters.into_iter().map(|(at, it)| (at, it.in_parts())).collect();
        plugins.judge = plugins.judge.map(Plugin::in_parts);
        plugins.difficulty = plugins.difficulty.map(Plugin::in_parts);
        let task = Task { set, stage, round, plugins, kept_only };
        match task.sees_all() {
            Some(why) if !whole => Err(CliError::usage(why).hint(
                "merge the shards (`cat`), and run the stage over the one file with `--whole`",
            )),
            _ => Ok(task),
        }
    }

    /// Returns the plugins of the stage, in the order in which they are called.
    pub fn called(&self) -> Vec<Called<'_>> {
        let one = |place: &str, plugin, wanted| Called {
            place: place.to_owned(),
            position: 0,
            plugin,
            wanted,
        };
        match self.stage {
            Stage::Filter(after) => {
                let filters = self.plugins.filters.iter().zip(&self.set.filters).enumerate();
                let here = filters.filter(|(_, ((at, _), _))| *at == after);
                here.map(|(position, ((_, plugin), filter))| Called {
                    place: format!("filter-{}", position + 1),
                    position,
                    plugin,
                    wanted: &filter.plugin,
                })
                .collect()
            }
            Stage::Judge => {
                let both = self.plugins.judge.iter().zip(self.set.judge(self.round));
                both.map(|(plugin, wanted)| one("judge", plugin, wanted)).collect()
            }
            Stage::Score => {
                let both = self.plugins.difficulty.iter().zip(&self.set.difficulty);
                both.map(|(plugin, wanted)| one("difficulty", plugin, &wanted.plugin)).collect()
            }
        }
    }

    /// Returns them as those of a round.
    pub fn assessors(&self) -> Assessors<'_> {
        Assessors { set: &self.set, plugins: &self.plugins, round: self.round }
    }

    /// Returns what is measured for them, each measurement once.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs: Vec<Need> = Vec::new();
        for need in self.called().iter().flat_map(|called| needs_of(called.plugin)) {
            if !needs.contains(&need) {
                needs.push(need);
            }
        }
        needs
    }

    /// Says of the first plugin that has to see all rows of the stage why it has; none where each looks at
    /// one row at a time.
    pub fn sees_all(&self) -> Option<String> {
        self.called().into_iter().find_map(|Called { plugin, .. }| {
            let who = plugin.identity();
            // A component may be of several kinds; another one decides nothing here.
            let filters = matches!(self.stage, Stage::Filter(_));
            if filters && plugin.has(Interface::SetFilter) {
                return Some(format!(
                    "{who} decides over the whole stage: over a part of it, it would decide otherwise"
                ));
            }
            let clusters = |need: &Need| matches!(need.what, What::Cluster { .. });
            let need = needs_of(plugin).find(clusters)?;
            Some(format!(
                "{who} needs `{}`, which is measured over the whole stage: over a part of it, it would be \
                 another number",
                need.name
            ))
        })
    }

    /// Returns how completions are compared that nobody has compared yet: by what the judge gave them, if
    /// anything, or by the roles of their variants.
    pub fn pairing(&self, judged: bool) -> (Pairing, bool) {
        let preference = self.set.train(self.round).and_then(|train| train.preference());
        let by_role = preference.is_some_and(|preference| preference.tells_by_role());
        let of_set = self.set.pairing(self.round).filter(|_| judged);
        let pairing = of_set.unwrap_or(Pairing {
            by: if judged { PairBy::Judge } else { PairBy::Role },
            reward: None,
        });
        (pairing, by_role)
    }

    /// Returns all that the result depends on but the engine, under the names by which a user knows it.
    /// `input` is the digest of the rows.
    pub fn depends(&self, input: &str, models: Option<&Wanted>) -> BTreeMap<String, Value> {
        let called = self.called();
        let plugin = |called: &Called<'_>| {
            let Called { place, position, plugin, wanted } = called;
            json!({
                "place": place,
                "position": position,
                "name": plugin.name(),
                "version": plugin.version(),
                "digest": plugin.digest(),
                "settings": plugins::key(Some(plugin), Some(wanted)).as_array().map(|key| &key[1]),
            })
        };
        let named = |name: &str, value: Value| (name.to_owned(), value);
        let mut parts = BTreeMap::from([
            named("stage", json!(self.stage.name())),
            named("round", json!(self.round)),
            named("rounds", json!(self.set.run.rounds)),
            named("seed", json!(self.set.run.seed)),
            named("kept_only", json!(self.kept_only)),
            named("input", json!(input)),
            named("plugins", json!(called.iter().map(plugin).collect::<Vec<_>>())),
        ]);
        if called.iter().any(|called| called.wanted.ask.is_some()) {
            parts.extend([named("decoding", json!(self.set.generate(self.round).decoding()))]);
        }
        if let Some(models) = models {
            parts.extend([named("models", json!(models.digests()))]);
        }
        if self.sees_all().is_some() {
            parts.extend([named("measure", json!(self.set.measure))]);
        }
        if self.stage == Stage::Filter(After::Pair) {
            parts.extend([named("pair", json!([self.pairing(true), self.pairing(false)]))]);
        }
        parts
    }
}

/// Returns what a place of filters is called on the command line.
pub fn word(after: After) -> &'static str {
    match after {
        After::Sample => "sample",
        After::Generate => "generate",
        After::Judge => "judge",
        After::Pair => "pair",
    }
}

/// Returns a plugin set without the plugins of other stages; filters keep their positions.
fn only(set: &PluginSet, stage: Stage) -> PluginSet {
    let mut set = PluginSet { principle: None, sampler: None, ..set.clone() };
    if !matches!(stage, Stage::Filter(_)) {
        set.filters.clear();
    }
    if stage != Stage::Judge {
        set.judge = None;
    }
    if stage != Stage::Score {
        set.difficulty = None;
    }
    set
}
