//! Ctrl-C: the first asks for a clean stop, the second stops at once.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{CliError, exit};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Returns the flag that is set once the user wants to stop. Stages look at it between batches.
pub fn flag() -> &'static AtomicBool {
    &ASKED
}

/// Listens for Ctrl-C, and for the signals that schedulers send before they kill. To be called once.
pub fn listen() -> Result<(), CliError> {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(exit::INTERRUPTED.into());
        }
        let _ = writeln!(
            std::io::stderr().lock(),
            "stopping after the batch in flight; Ctrl-C again stops at once"
        );
    };
    ctrlc::set_handler(handler).map_err(|error| {
        CliError::new(exit::INTERNAL, format!("cannot listen for Ctrl-C: {error}"))
    })
}
