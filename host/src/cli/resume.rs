//! `aligner resume DIR`: goes on with a run. This file holds its arguments.

use std::path::PathBuf;

use clap::Args;

use super::{Device, ProgressArg};

/// Arguments of `resume`.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// Run directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Where models run: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown [default: fancy on a terminal]
    #[arg(long, value_enum, value_name = "STYLE")]
    pub progress: Option<ProgressArg>,
}
