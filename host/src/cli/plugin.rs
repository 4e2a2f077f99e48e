//! `aligner plugin …`: one component by itself. This file holds the arguments.

mod bench;
mod build;
mod check;
pub(super) mod data;
mod lock;
mod new;
mod pack;
mod run;
mod share;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, ProgressArgs, evaluate::oracle::ModelArgs, host};
use crate::progress::Progress;
use crate::{
    plugin::{self, Interface, Kind, Loaded},
    plugin_set::After,
};
use check::main as check;

/// What to do with a plugin.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a folder with a plugin in it that builds, tests and runs
    New(NewArgs),
    /// Make a component of the plugin in a folder, and check it
    Build(BuildArgs),
    /// Say what a component is, imports and asks, before anything of it runs
    Check(CheckArgs),
    /// Try whether a component keeps the contract, with records that programs stumble over
    Test(TestArgs),
    /// Call a plugin with the records of a file and print what it says, as JSONL
    Run(RunArgs),
    /// Measure what a plugin takes, beside a shipped one of the same kind
    Bench(BenchArgs),
    /// Put a plugin set, its plugins and its data into one file, or say what such a file holds
    Pack(PackArgs),
    /// Fetch a component, check it, and print the lines for a plugin set
    Pull(PullArgs),
    /// Put a component into an OCI registry
    Push(PushArgs),
    /// Write down what every source of a plugin set is, in aligner.lock beside it
    Lock(LockArgs),
}

/// Arguments of `plugin new`.
#[derive(Clone, Debug, Args)]
pub struct NewArgs {
    /// What the plugin is for
    #[arg(long, value_name = "KIND")]
    pub kind: KindArg,
    /// What it is written in
    #[arg(long = "lang", value_name = "LANGUAGE")]
    pub language: Language,
    /// Lower-case words joined by hyphens; the folder is made here
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// The kinds that there are templates of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Keeps, drops or revises one record at a time
    Filter,
    /// Keeps, drops or revises records after it has seen all of them
    SetFilter,
    /// Says how good completions are
    Judge,
    /// Puts prompts into variants
    Principle,
    /// Says how hard prompts are
    Difficulty,
    /// Selects the prompts of a round
    Sampler,
    /// A sampler that lets the model write prompts
    PromptWriter,
}

impl KindArg {
    /// Returns what such a plugin exports.
    pub fn interface(self) -> Interface {
        match self {
            KindArg::Filter => Interface::Filter,
            KindArg::SetFilter => Interface::SetFilter,
            KindArg::Judge => Interface::Judge,
            KindArg::Principle => Interface::Principle,
            KindArg::Difficulty => Interface::Difficulty,
            KindArg::Sampler => Interface::Sampler,
            KindArg::PromptWriter => Interface::PromptWriter,
        }
    }
}

/// The languages that there are SDKs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Small and fast; needs rustup
    Rust,
    /// Components of 18 MB; needs componentize-py
    Python,
    /// JavaScript; needs Node.js
    Js,
}

/// Arguments of `plugin build`.
#[derive(Clone, Debug, Args)]
pub struct BuildArgs {
    /// The plugin's folder
    #[arg(value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// Where the component goes; NAME.wasm in the folder where absent
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `plugin check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Component or core module: a file, builtin:NAME, https://… or oci:…
    #[arg(value_name = "SOURCE")]
    pub file: String,
    /// Configuration to try, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Component or core module, or builtin:NAME
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Configuration, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Records that it is tried on besides: prompts, completions or pairs, JSONL; - is stdin
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Component or core module, or builtin:NAME
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Prompts, completions, pairs, or records of a run: JSONL or a JSON list; .gz too, - is stdin
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Configuration, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Which of its kinds a plugin of several is called as
    #[arg(long, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Where in a round a filter stands [default: generate]
    #[arg(long, value_name = "PLACE")]
    pub after: Option<AfterArg>,
    /// Seed of the run that it is called as in
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Principle plugin whose exemplars a sampler draws from
    #[arg(long, value_name = "FILE")]
    pub principle: Option<String>,
    /// Which model is asked
    #[command(flatten)]
    pub asked: ModelArgs,
    /// Where the lines go; stdout where absent
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin pack`.
#[derive(Clone, Debug, Args)]
pub struct PackArgs {
    /// Plugin set: a TOML file, or the name of an embedded one; with --list, a packed one
    #[arg(value_name = "SET")]
    pub set: PathBuf,
    /// Where the pack goes; SET.aligner here where absent
    #[arg(long, short, value_name = "FILE", conflicts_with = "list")]
    pub out: Option<PathBuf>,
    /// Print what a pack holds, once its files are found to be those that were packed
    #[arg(long)]
    pub list: bool,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin pull`.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// https://HOST/FILE.wasm, oci:REGISTRY/NAME:TAG, or a file
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where the component goes; only into the cache where absent
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin push`.
#[derive(Clone, Debug, Args)]
pub struct PushArgs {
    /// Component
    #[arg(value_name = "FILE")]
    pub file: String,
    /// oci:REGISTRY/NAME:TAG
    #[arg(value_name = "REFERENCE")]
    pub reference: String,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Arguments of `plugin lock`.
#[derive(Clone, Debug, Args)]
pub struct LockArgs {
    /// Plugin set: a TOML file
    #[arg(value_name = "SET")]
    pub set: PathBuf,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Where in a round a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AfterArg {
    /// Sees prompts
    Sample,
    /// Sees completions
    Generate,
    /// Sees rewards
    Judge,
    /// Sees preference pairs
    Pair,
}

impl AfterArg {
    /// Returns the place that is meant.
    pub fn after(self) -> After {
        match self {
            AfterArg::Sample => After::Sample,
            AfterArg::Generate => After::Generate,
            AfterArg::Judge => After::Judge,
            AfterArg::Pair => After::Pair,
        }
    }
}

/// Arguments of `plugin bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Component or core module, or builtin:NAME
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Configuration, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Which of its kinds a plugin of several is called as
    #[arg(long, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Records that it is timed on, 256 at most [default: made-up ones of 1 KiB]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// What it is compared with [default: a shipped plugin of the same kind]
    #[arg(long, value_name = "FILE")]
    pub against: Option<String>,
    /// How long the two are timed together
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Does what is asked of a plugin.
pub fn main(command: &PluginCommand) -> Result<(), CliError> {
    match command {
        PluginCommand::New(args) => new::main(args),
        PluginCommand::Build(args) => build::main(args),
        PluginCommand::Check(args) => check(args),
        PluginCommand::Test(args) => test::main(args),
        PluginCommand::Run(args) => run::main(args),
        PluginCommand::Bench(args) => bench::main(args),
        PluginCommand::Pack(args) => pack::main(args),
        PluginCommand::Pull(args) => share::pull(args),
        PluginCommand::Push(args) => share::push(args),
        PluginCommand::Lock(args) => lock::main(args),
    }
}

/// Opens the component that the user names.
fn named(file: &str, progress: &Progress) -> Result<plugin::Source, CliError> {
    let (_, found) = host::component(file, progress)?;
    Ok(found.component)
}

/// Returns as which kind a component is called: the one that the user names, or its only one.
fn kind(loaded: &Loaded, asked: Option<KindArg>) -> Result<Kind, CliError> {
    let kinds: Vec<Kind> = loaded.kinds().into_iter().collect();
    match (asked.map(|kind| kind.interface().kind()), kinds.as_slice()) {
        (Some(kind), _) => Ok(kind),
        (None, [only]) => Ok(*only),
        (None, kinds) => {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            let message = format!("plugin `{}` is a {}", loaded.name(), names.join(" and a "));
            Err(CliError::usage(message).hint("`--kind` says as which it is called"))
        }
    }
}
