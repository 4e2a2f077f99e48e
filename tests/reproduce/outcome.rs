//! What a finished row came to, and the file that says so: whole or not there, and naming what it is
//! the result of.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file's name in the folder of a row and seed.
pub const FILE: &str = "result.json";

/// A finished row under one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// What it is the result of.
    pub definition: Value,
    /// What it was given and did; nothing of the initial model.
    pub spent: Spent,
    /// Why the run ended before its last round, where it did.
    pub stopped: Option<String>,
    /// The adapter that was measured; none where no round trained.
    pub adapter: Option<PathBuf>,
    /// By measure and figure of the suite, with a slash between; those without a value are missing.
    pub figures: BTreeMap<String, f64>,
    /// What computed, as the measures name it.
    pub engine: String,
    /// Seconds on the clock, interrupted calls included.
    pub seconds: f64,
    /// Seconds on all processors.
    pub cpu_seconds: f64,
}

/// The budget of a row, so that a reader sees whether rows had the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Rounds that were done.
    pub rounds: u64,
    /// Prompts that rounds worked on, a round that kept nothing among them.
    pub prompts: u64,
    /// Records that rounds trained on.
    pub kept: u64,
    /// Updates of the weights.
    pub updates: u64,
}

impl Outcome {
    /// Reads the result in a folder, if it is there, whole, and of this definition.
    pub fn read(folder: &Path, definition: &Value) -> Option<Outcome> {
        let text = std::fs::read_to_string(folder.join(FILE)).ok()?;
        let outcome: Outcome = serde_json::from_str(&text).ok()?;
        (outcome.definition == *definition).then_some(outcome)
    }

    /// Writes the result.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_whole(&folder.join(FILE), &serde_json::to_string_pretty(self)?)
    }
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_added_extension("tmp");
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| path.display().to_string())
}

/// What a run directory says: the budget, why it ended early, and the last round's adapter.
pub fn of_run(run: &Path) -> Result<(Spent, Option<String>, Option<PathBuf>)> {
    let report = json_file(&run.join("report.json"))?;
    let rounds = report["rounds"].as_array().context("`rounds` of the report")?;
    let sum = |name: &str| -> u64 { rounds.iter().filter_map(|round| round[name].as_u64()).sum() };
    let (mut updates, mut adapter) = (0, None);
    for round in 1..=rounds.len() {
        let folder = run.join(format!("rounds/{round:02}"));
        let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
        updates += metrics.lines().count() as u64;
        adapter = Some(folder.join("adapter")).filter(|path| path.is_dir()).or(adapter);
    }
    let nothing = &report["nothing_kept"];
    let in_vain = nothing["records"].as_u64().unwrap_or_default();
    let spent = Spent {
        rounds: rounds.len() as u64,
        prompts: sum("prompts") + in_vain,
        kept: sum("kept"),
        updates,
    };
    let stopped = nothing["round"].as_u64().map(|round| {
        format!("round {round} kept none of its {in_vain} records, which ended the run")
    });
    Ok((spent, stopped, adapter))
}

/// What the measures say: figures with a value, and the engine.
pub fn of_measures(file: &Path) -> Result<(BTreeMap<String, f64>, String)> {
    let found = json_file(file)?;
    let mut figures = BTreeMap::new();
    for measure in found["measures"].as_array().context("`measures`")? {
        for figure in measure["figures"].as_array().context("`figures`")? {
            let (of, name) = (measure["name"].as_str(), figure["name"].as_str());
            let (of, name) = of.zip(name).context("a figure without a name")?;
            if let Some(value) = figure["value"].as_f64() {
                figures.insert(format!("{of}/{name}"), value);
            }
        }
    }
    Ok((figures, found["engine"].as_str().unwrap_or_default().to_owned()))
}

fn json_file(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
