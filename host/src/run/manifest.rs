//! `run.json`: what a run is, before anything of it is done.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::DirectoryError;
use crate::digest::sha256;
use crate::plugin_set::{MOST_ROUNDS, Pin, PinnedBy, PluginSet};

/// The file.
pub const FILE: &str = "run.json";

/// The version of the run directory's format. It goes up when a reader of the old format would
/// misread the new one, or when a random draw or a stage's result changes for equal settings.
pub const FORMAT: u64 = 1;

/// What a run is: two runs with equal manifests end with equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u64,
    /// The version of the program that began the run; not part of what the run is.
    pub aligner: String,
    /// The command that began the run, without what changes nothing of it, such as where it is kept; not
    /// part of what the run is either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Everything that was set, with every default filled in.
    pub plugin_set: PluginSet,
    /// Device, number type and kernels, for example `cpu f32 avx2`: what else decides the last bits.
    pub engine: String,
    /// The policy under `policy`, further models by name.
    pub models: BTreeMap<String, ModelId>,
    /// The prompt pool.
    pub prompts: DataId,
    /// The held-out prompts.
    pub held_out: Option<DataId>,
    /// The pairs whose better completion is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchors: Option<DataId>,
    /// Every plugin, in the order of the stages.
    pub plugins: Vec<PluginId>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// As the plugin set names it.
    pub name: String,
    /// SHA-256 over weights, configuration, tokenizer and template.
    pub digest: String,
    /// Whether a server answers for it, and this is its base.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
}

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataId {
    /// As the plugin set names it.
    pub source: String,
    /// SHA-256 over the rows as they were read.
    pub digest: String,
    /// Rows that are used.
    pub rows: u64,
    /// Rows left out because an earlier one has the same text.
    pub duplicates: u64,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginId {
    /// The kind that its place in the plugin set wants.
    pub kind: String,
    /// From the component.
    pub name: String,
    /// From the component.
    pub version: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// As the plugin set names it.
    pub source: String,
    /// SHA-256 of the manifest that named it, where it is of a registry and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

impl Manifest {
    /// Returns a digest of what the run is.
    pub fn digest(&self) -> String {
        let manifest = Manifest { aligner: String::new(), command: Vec::new(), ..self.clone() };
        sha256(&serde_json::to_vec(&manifest).expect("our own types serialise"))
    }

    /// Reads the manifest of a run directory; `None` where there is none.
    ///
    /// Fails where the file is damaged or of a newer format.
    pub fn read(directory: &Path) -> Result<Option<Manifest>, DirectoryError> {
        let Some(value) = read_checked(directory)? else { return Ok(None) };
        let file = directory.join(FILE);
        let damaged = |detail: String| DirectoryError::Damaged { path: file.clone(), detail };
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        // A plugin set may not have more, so nobody wrote this.
        match manifest.plugin_set.run.rounds {
            1..=MOST_ROUNDS => Ok(Some(manifest)),
            rounds => Err(damaged(format!("it has {rounds} rounds"))),
        }
    }

    /// Returns the plugin set, in which what was fetched has to be what the run was begun with. Files are
    /// compared later, as part of what the run is.
    pub fn pinned_set(self) -> PluginSet {
        let mut set = self.plugin_set;
        for (plugin, id) in set.plugins_mut().into_iter().zip(&self.plugins) {
            if plugin.source.is_remote() {
                let sha256 = id.digest.clone();
                plugin.pin = Some(Pin { sha256, manifest: id.manifest.clone(), by: PinnedBy::Run });
            }
        }
        set
    }

    /// Returns what differs of what every stage of two runs stands on, in words.
    pub fn foundations(&self, other: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |differs: bool, what: String| {
            if differs {
                found.push(what);
            }
        };
        note(self.format != other.format, "the run format".into());
        note(self.engine != other.engine, format!("engine `{}`", self.engine));
        for (name, model) in &self.models {
            let differs = other.models.get(name) != Some(model);
            note(differs, format!("model `{name}` ({})", model.name));
        }
        let further = other.models.keys().filter(|name| !self.models.contains_key(*name));
        further.for_each(|name| note(true, format!("model `{name}`")));
        let digests = self.prompts.digest != other.prompts.digest;
        note(digests, format!("prompts `{}`", self.prompts.source));
        let (ours, theirs) = (&self.plugin_set.run, &other.plugin_set.run);
        note(ours.seed != theirs.seed, "`run.seed`".into());
        note(ours.rounds != theirs.rounds, "`run.rounds`".into());
        // What counts for a budget of the run is counted only where there is one.
        let budgeted = |set: &PluginSet| -> Vec<bool> {
            set.plugins().into_iter().map(|(_, plugin)| *plugin != plugin.deciding()).collect()
        };
        let (ours, theirs) = (budgeted(&self.plugin_set), budgeted(&other.plugin_set));
        let any = ours.contains(&true) || theirs.contains(&true);
        note(any && ours != theirs, "the plugins with a budget for the run".into());
        found
    }

    /// Returns what differs between two runs, in words; empty where they are the same run.
    pub fn differences(&self, other: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |differs: bool, what: String| {
            if differs {
                found.push(what);
            }
        };
        for (name, model) in &self.models {
            let theirs = other.models.get(name);
            note(theirs != Some(model), format!("model `{name}` ({})", model.name));
        }
        note(self.prompts != other.prompts, format!("prompts `{}`", self.prompts.source));
        note(self.held_out != other.held_out, "held-out prompts".into());
        note(self.anchors != other.anchors, "anchors".into());
        for (ours, theirs) in self.plugins.iter().zip(&other.plugins) {
            // The component is the same wherever its manifest lies.
            let theirs = PluginId { manifest: ours.manifest.clone(), ..theirs.clone() };
            note(*ours != theirs, format!("{} `{}`", ours.kind, ours.name));
        }
        note(self.plugins.len() != other.plugins.len(), "the list of plugins".into());
        note(self.engine != other.engine, format!("engine `{}`", self.engine));
        note(self.format != other.format, "the run format".into());
        let sets = [&self.plugin_set, &other.plugin_set].map(|set| {
            let mut set = set.clone();
            // A run whose plugin has used up what it may goes on where it is given more.
            set.plugins_mut().into_iter().for_each(|plugin| *plugin = plugin.deciding());
            // So does one whose server is elsewhere now.
            set.models.servers.values_mut().for_each(|server| *server = server.deciding());
            serde_json::to_value(&set).expect("our own types serialise")
        });
        // A section that is left at its defaults may be absent in either.
        let sections =
            |set: usize| sets[set].as_object().into_iter().flatten().map(|(name, _)| name);
        let theirs = sections(1).filter(|section| sets[0].get(section).is_none());
        for section in sections(0).chain(theirs) {
            let table = if section == "filters" { "filter" } else { section };
            note(sets[0].get(section) != sets[1].get(section), format!("settings of `[{table}]`"));
        }
        found
    }
}

/// Fails where a run directory is of a newer format.
pub fn check_format(directory: &Path) -> Result<(), DirectoryError> {
    read_checked(directory).map(|_| ())
}

/// Reads the manifest as far as its format; `None` where there is none. The format is looked at
/// first, because a newer one may have other fields.
fn read_checked(directory: &Path) -> Result<Option<serde_json::Value>, DirectoryError> {
    let file = directory.join(FILE);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DirectoryError::Io { action: "read", path: file, source }),
    };
    let damaged = |detail: String| DirectoryError::Damaged { path: file.clone(), detail };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let found = value["format"].as_u64();
    let found = found.ok_or_else(|| damaged("it names no `format`".into()))?;
    if found > FORMAT {
        let path = directory.to_owned();
        return Err(DirectoryError::Newer { path, found, known: FORMAT });
    }
    Ok(Some(value))
}
