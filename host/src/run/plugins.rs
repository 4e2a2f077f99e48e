//! The plugins of a run, loaded and configured.

use serde_json::{Value, json};

use super::manifest::PluginId;
use crate::plugin::{Grant, Kind, Limits, OnError, Plugin, PluginError, Runtime, Setup, Source};
use crate::plugin_set::{self, After, PluginSet};
use crate::source::{Fetcher, Report};

/// The loaded plugins of a plugin set.
pub struct Plugins {
    /// What calls them.
    pub runtime: Runtime,
    /// `[principle]`
    pub principle: Option<Plugin>,
    /// `[sampler]`
    pub sampler: Option<Plugin>,
    /// `[[filter]]`, in the order in which they run at each place.
    pub filters: Vec<(After, Plugin)>,
    /// `[judge]`
    pub judge: Option<Plugin>,
    /// `[difficulty]`
    pub difficulty: Option<Plugin>,
    ids: Vec<PluginId>,
}

impl Plugins {
    /// Loads every plugin of a set: files, digests, kinds, contract versions, imports and configurations
    /// are all checked here. `report` hears what is fetched.
    pub fn load(
        runtime: Runtime,
        set: &PluginSet,
        report: Report<'_>,
    ) -> Result<Plugins, PluginError> {
        let fetcher = Fetcher::from_env();
        let mut ids = Vec::new();
        let mut load = |kind: Kind, wanted: &plugin_set::Plugin| {
            let found = fetcher.open(&wanted.source, wanted.pin.as_ref(), report)?;
            let plugin = runtime.load(&found.component, setup(set, kind, wanted))?;
            ids.push(PluginId {
                kind: kind.to_string(),
                name: plugin.name().into(),
                version: plugin.version().into(),
                digest: plugin.digest().into(),
                source: wanted.source.to_string(),
            });
            Ok::<_, PluginError>(plugin)
        };
        let principle = set.principle.as_ref().map(|p| load(Kind::Principle, p)).transpose()?;
        let sampler = set.sampler.as_ref().map(|s| load(Kind::Sampler, &s.plugin)).transpose()?;
        let filters = set
            .filters
            .iter()
            .map(|filter| Ok((filter.after, load(Kind::Filter, &filter.plugin)?)))
            .collect::<Result<Vec<_>, PluginError>>()?;
        let judge = set.judge.as_ref().map(|p| load(Kind::Judge, p)).transpose()?;
        let difficulty = set
            .difficulty
            .as_ref()
            .map(|difficulty| load(Kind::Difficulty, &difficulty.plugin))
            .transpose()?;
        Ok(Plugins { runtime, principle, sampler, filters, judge, difficulty, ids })
    }

    /// Returns every plugin, in the order of the stages.
    pub fn all(&self) -> impl Iterator<Item = &Plugin> {
        let filters = self.filters.iter().map(|(_, filter)| filter);
        self.principle
            .iter()
            .chain(&self.sampler)
            .chain(filters)
            .chain(&self.judge)
            .chain(&self.difficulty)
    }

    /// Returns what keys hold of the sampler.
    pub fn sampler_key(&self, set: &PluginSet) -> Value {
        key(self.sampler.as_ref(), set.sampler.as_ref().map(|sampler| &sampler.plugin))
    }

    /// Returns what keys hold of the principle plugin.
    pub fn principle_key(&self, set: &PluginSet) -> Value {
        key(self.principle.as_ref(), set.principle.as_ref())
    }

    /// Returns who they are, in the order of the stages.
    pub fn ids(&self) -> &[PluginId] {
        &self.ids
    }
}

/// Returns what a stage's key must hold of a plugin: its file, its configuration, and what a failing
/// call does.
pub fn key(plugin: Option<&Plugin>, wanted: Option<&plugin_set::Plugin>) -> Value {
    json!([
        plugin.map(|plugin| plugin.digest()),
        wanted.map(|wanted| (&wanted.config, wanted.on_error, &wanted.limits, &wanted.ask))
    ])
}

/// Returns the component that a source names, fetched where it has to be. Nothing says what it has to be: it
/// is for those who look at a plugin, or measure it, and say which one it was.
pub fn source(source: &plugin_set::Source) -> Result<Source, PluginError> {
    Ok(Fetcher::from_env().open(source, None, &mut |_| {})?.component)
}

fn setup(set: &PluginSet, kind: Kind, wanted: &plugin_set::Plugin) -> Setup {
    let limits = &wanted.limits;
    Setup {
        kind,
        config: wanted.config.to_string(),
        limits: Limits {
            fuel: limits.fuel,
            memory_bytes: usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX),
            deadline: std::time::Duration::from_secs_f64(limits.wall_seconds),
            copied_bytes: usize::try_from(limits.copied_bytes).unwrap_or(usize::MAX),
            log_bytes: usize::try_from(limits.log_bytes).unwrap_or(usize::MAX),
        },
        grant: wanted.ask.as_ref().map(|ask| Grant {
            models: ask.models.iter().cloned().collect(),
            tokens: ask.tokens,
            default_max_new_tokens: set.generate.max_new_tokens,
        }),
        on_error: match wanted.on_error {
            plugin_set::OnError::Stop => OnError::Stop,
            plugin_set::OnError::Drop => OnError::Drop,
        },
    }
}
