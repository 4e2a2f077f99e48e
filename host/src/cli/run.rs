//! `aligner --plugins SET`: runs a method. This file holds its arguments.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CliError, Device};
use crate::{
    plugin_set::{self, Embedded, Loaded, Override},
    progress::{Progress, Style},
};

/// Arguments of a run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Plugin set: a TOML file, or the name of an embedded one
    #[arg(long, value_name = "SET", required = true)]
    pub plugins: PathBuf,
    /// Model to align, in place of `models.policy`: an alias, a folder, FILE.gguf, hf:owner/name@revision
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Prompts, in place of `data.prompts`: a JSONL file or builtin:NAME
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<String>,
    /// Run directory [default: runs/METHOD-DATE-KEY]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the unfinished run in the run directory
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Begin anew, and throw away the run in the run directory
    #[arg(long)]
    pub fresh: bool,
    /// Rounds, in place of `run.rounds`
    #[arg(long, value_name = "N")]
    pub rounds: Option<u64>,
    /// Seed of every random draw, in place of `run.seed`
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Any key of the plugin set, for example generate.temperature=0.5 or filter.0.config.min=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where models run: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown [default: fancy on a terminal]
    #[arg(long, value_enum, value_name = "STYLE")]
    pub progress: Option<ProgressArg>,
    /// Check everything, print the plan, and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// The value of `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Lines
    Plain,
    /// A bar for each stage
    Fancy,
}

impl ProgressArg {
    /// Returns what shows progress; where the user did not say, bars on a terminal and lines elsewhere.
    pub fn open(choice: Option<ProgressArg>) -> Progress {
        Progress::new(match choice {
            Some(ProgressArg::Plain) => Style::Plain,
            Some(ProgressArg::Fancy) | None => Style::Fancy,
        })
    }
}

impl RunArgs {
    /// Reads and checks the plugin set, with everything the command line puts over it. Flags of their
    /// own win over `--set`.
    pub fn plugin_set(&self, embedded: &Embedded<'_>) -> Result<Loaded, CliError> {
        Ok(plugin_set::load(&self.plugins, &self.overrides()?, embedded)?)
    }

    fn overrides(&self) -> Result<Vec<Override>, CliError> {
        let mut overrides =
            self.overrides.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
        if let Some(model) = &self.model {
            overrides.push(Override::string("--model", &["models", "policy"], model));
        }
        if let Some(prompts) = &self.prompts {
            overrides.push(Override::string("--prompts", &["data", "prompts"], prompts));
        }
        if let Some(rounds) = self.rounds {
            overrides.push(Override::integer("--rounds", &["run", "rounds"], rounds));
        }
        if let Some(seed) = self.seed {
            overrides.push(Override::integer("--seed", &["run", "seed"], seed));
        }
        Ok(overrides)
    }
}
