//! `aligner show DIR [RECORD]`: what became of a record. This file holds its arguments.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Run directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Id of a record; without it, the records of the run are listed
    #[arg(value_name = "RECORD")]
    pub record: Option<String>,
    /// Only this round
    #[arg(long, value_name = "N")]
    pub round: Option<u32>,
    /// Only what was dropped, with plugin and reason
    #[arg(long, conflicts_with = "record")]
    pub dropped: bool,
}
