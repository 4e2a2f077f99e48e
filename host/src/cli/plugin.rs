//! `aligner plugin …`: one component by itself. This file holds the arguments.

mod build;
mod lock;
mod new;
mod pack;
mod share;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{CliError, ProgressArg, host, output};
use crate::{
    plugin::{Interface, Limits, Setup},
    source::Found,
};

/// What to do with a plugin.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a folder with a plugin in it that builds, tests and runs
    New(NewArgs),
    /// Make a component of the plugin in a folder, and check it
    Build(BuildArgs),
    /// Say what a component is, imports and asks, before anything of it runs
    Check(CheckArgs),
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
}

/// Arguments of `plugin lock`.
#[derive(Clone, Debug, Args)]
pub struct LockArgs {
    /// Plugin set: a TOML file
    #[arg(value_name = "SET")]
    pub set: PathBuf,
}

/// Does what is asked of a plugin.
pub fn main(command: &PluginCommand) -> Result<(), CliError> {
    match command {
        PluginCommand::New(args) => new::main(args),
        PluginCommand::Build(args) => build::main(args),
        PluginCommand::Check(args) => check(args),
        PluginCommand::Pack(args) => pack::main(args),
        PluginCommand::Pull(args) => share::pull(args),
        PluginCommand::Push(args) => share::push(args),
        PluginCommand::Lock(args) => lock::main(args),
    }
}

/// Says what a component is. A component that a run would refuse is refused here, with the same
/// words; with `--config`, its configuration is tried too.
fn check(args: &CheckArgs) -> Result<(), CliError> {
    let (_, Found { component: file, .. }) = host::component(&args.file, &ProgressArg::open(None))?;
    let begun = std::time::Instant::now();
    let loaded = host::runtime()?.open(&file, &Limits::default())?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let kinds: Vec<String> = loaded.kinds().iter().map(ToString::to_string).collect();
    if let Some(config) = &args.config {
        for kind in loaded.kinds() {
            loaded.configure(Setup { config: config.clone(), ..Setup::new(kind) })?;
        }
    }
    let interfaces: Vec<&str> = loaded.interfaces().iter().map(|it| it.as_str()).collect();
    if args.json {
        let schema: Value = serde_json::from_str(loaded.schema()).unwrap_or(Value::Null);
        let found = json!({
            "name": loaded.name(),
            "version": loaded.version(),
            "summary": loaded.summary(),
            "kinds": kinds,
            "interfaces": interfaces,
            "contract": crate::plugin::CONTRACT,
            "needs": loaded.needs(),
            "digest": loaded.digest(),
            "bytes": file.len(),
            "config_schema": schema,
            "load_milliseconds": milliseconds,
        });
        return output::print(&format!("{found:#}\n"));
    }
    let mut text = format!("{} {}\n  {}\n", loaded.name(), loaded.version(), loaded.summary());
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<10}{value}\n"));
    line("kind", kinds.join(", "));
    line("exports", interfaces.join(", "));
    line("imports", "nothing but `log` and types".into());
    line("contract", crate::plugin::CONTRACT.into());
    if !loaded.needs().is_empty() {
        line("needs", loaded.needs().join(", "));
    }
    line("file", format!("{} bytes, sha256 {}", file.len(), loaded.digest()));
    line("loaded in", format!("{milliseconds:.1} ms"));
    output::print(&text)
}
