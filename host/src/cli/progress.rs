//! How progress is shown: arguments of every verb that shows any.

use clap::{Args, ValueEnum};

use crate::progress::{Progress, Style};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct ProgressArgs {
    /// How progress is shown [default: fancy on a terminal]
    #[arg(long, value_enum, value_name = "STYLE")]
    pub progress: Option<ProgressArg>,
    /// Nothing on stderr but warnings and errors
    #[arg(long, short, conflicts_with = "progress")]
    pub quiet: bool,
}

/// The value of `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Lines
    Plain,
    /// A bar for each stage
    Fancy,
    /// JSON objects, one a line
    Json,
}

impl ProgressArgs {
    /// Returns what shows progress; where the user did not say, bars on a terminal and lines elsewhere.
    pub fn open(self) -> Progress {
        Progress::new(match self.progress {
            _ if self.quiet => Style::Silent,
            Some(ProgressArg::Plain) => Style::Plain,
            Some(ProgressArg::Json) => Style::Json,
            Some(ProgressArg::Fancy) | None => Style::Fancy,
        })
    }
}
