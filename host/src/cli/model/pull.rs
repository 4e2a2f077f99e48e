//! `aligner model pull`: fetches a model and says where it is.

use super::PullArgs;
use crate::cli::{CliError, host, output};

/// Fetches the model where it is not there yet, checks it, and prints its path.
pub fn main(args: &PullArgs) -> Result<(), CliError> {
    let opened = host::open(&args.model, &args.shown.open())?;
    output::print(&format!("{}\n", opened.model.path.display()))
}
