//! The plugin's voice: lines that reach the host's log under the plugin's name.
//!
//! The host keeps a number of bytes for each call and drops what goes beyond. In native tests the
//! lines go to stderr.

#[cfg(target_arch = "wasm32")]
use crate::bindings::common::aligner::plugin::log::{Level, write};

#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    eprintln!("{level:?}: {message}");
}

/// Writes a line that only somebody who debugs the plugin wants to see.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Writes a line for the run's log.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Writes a line that the user should see.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Writes what went wrong. Return an [`Error`](crate::Error) to stop the work.
pub fn error(message: &str) {
    write(Level::Error, message);
}
