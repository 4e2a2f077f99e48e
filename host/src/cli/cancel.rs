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

/// Leaves the first Ctrl-C to another process, which ends this one; the second ends it at once. To be called once.
pub fn leave_to_another() -> Result<(), CliError> {
    handle(|| {})
}

/// Listens for Ctrl-C, and for the signals that schedulers send before they kill. To be called once.
pub fn listen() -> Result<(), CliError> {
    handle(|| {
        let _ = writeln!(
            std::io::stderr().lock(),
            "stopping after the batch in flight; Ctrl-C again stops at once"
        );
    })
}

/// Sets the flag and does `first` at the first Ctrl-C, and ends the process at the second.
fn handle(first: impl Fn() + Send + 'static) -> Result<(), CliError> {
    let handler = move || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(exit::INTERRUPTED.into());
        }
        first();
    };
    ctrlc::set_handler(handler).map_err(|error| {
        CliError::new(exit::INTERNAL, format!("cannot listen for Ctrl-C: {error}"))
    })
}
