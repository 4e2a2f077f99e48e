//! The plugins of a run, loaded and configured.

use std::time::Duration;

use serde_json::{Value, json};

use super::manifest::PluginId;
use crate::plugin::{Grant, Kind, Limits, OnError, Plugin, PluginError, RunLimits, Runtime, Setup};
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
                manifest: found.manifest,
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

    /// Returns every plugin with its place in the plugin set, for example `judge` or `filter-2`.
    pub fn by_place(&self) -> impl Iterator<Item = (String, &Plugin)> {
        let one = |place: &str, plugin| (place.to_owned(), plugin);
        let filters = self.filters.iter().enumerate();
        (self.principle.iter().map(move |plugin| one("principle", plugin)))
            .chain(self.sampler.iter().map(move |plugin| one("sampler", plugin)))
            .chain(filters.map(|(at, (_, filter))| (format!("filter-{}", at + 1), filter)))
            .chain(self.judge.iter().map(move |plugin| one("judge", plugin)))
            .chain(self.difficulty.iter().map(move |plugin| one("difficulty", plugin)))
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

/// Returns what a stage's key must hold of a plugin: its file, its configuration, what a failing call does,
/// and the limits that decide what is in the data.
pub fn key(plugin: Option<&Plugin>, wanted: Option<&plugin_set::Plugin>) -> Value {
    let wanted = wanted.map(plugin_set::Plugin::deciding);
    json!([
        plugin.map(|plugin| plugin.digest()),
        wanted.map(|wanted| (wanted.config, wanted.on_error, wanted.limits, wanted.ask))
    ])
}

fn setup(set: &PluginSet, kind: Kind, wanted: &plugin_set::Plugin) -> Setup {
    Setup {
        kind,
        config: wanted.config.to_string(),
        limits: limits(&wanted.limits),
        grant: wanted.ask.as_ref().map(|ask| grant(ask, set.generate.max_new_tokens)),
        on_error: match wanted.on_error {
            plugin_set::OnError::Stop => OnError::Stop,
            plugin_set::OnError::Drop => OnError::Drop,
        },
    }
}

fn limits(wanted: &plugin_set::Limits) -> Limits {
    let default = Limits::default();
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let or = |number: Option<u32>, default: usize| number.map_or(default, |number| number as usize);
    Limits {
        fuel: wanted.fuel,
        memory_bytes: bytes(wanted.memory_bytes),
        memories: or(wanted.memories, default.memories),
        tables: or(wanted.tables, default.tables),
        table_elements: or(wanted.table_elements, default.table_elements),
        instances: or(wanted.instances, default.instances),
        deadline: Duration::from_secs_f64(wanted.wall_seconds),
        copied_bytes: bytes(wanted.copied_bytes),
        log_bytes: bytes(wanted.log_bytes),
        run: RunLimits {
            fuel: wanted.run_fuel,
            log_bytes: wanted.run_log_bytes,
            deadline: wanted.run_wall_seconds.map(Duration::from_secs_f64),
        },
    }
}

fn grant(wanted: &plugin_set::Ask, max_new_tokens: u32) -> Grant {
    let grant = Grant::new(wanted.models.iter().cloned(), wanted.tokens, max_new_tokens);
    Grant {
        run_tokens: wanted.run_tokens,
        requests: wanted.requests.unwrap_or(grant.requests),
        run_requests: wanted.run_requests,
        record_requests: wanted
            .record_requests
            .map_or(grant.record_requests, |requests| requests as usize),
        ..grant
    }
}
