//! `aligner plugin …`: one component by itself. This file holds the arguments.

use clap::{Args, Subcommand};

/// What to do with a plugin.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Say what a component is, imports and asks, before anything of it runs
    Check(CheckArgs),
}

/// Arguments of `plugin check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Component or core module, or builtin:NAME
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Configuration to try, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
