//! Exit codes.

/// The work is done.
pub const DONE: u8 = 0;
/// A fault of aligner itself.
pub const INTERNAL: u8 = 1;
/// The command line or the plugin set is wrong.
pub const USAGE: u8 = 2;
/// A plugin is missing, refused, or failed.
pub const PLUGIN: u8 = 3;
/// A model or a data file is missing or wrong.
pub const MODEL_OR_DATA: u8 = 4;
/// The run directory cannot be used.
pub const RUN_DIRECTORY: u8 = 5;
/// A round kept no record, or an alarm left no round.
pub const NOTHING_KEPT: u8 = 6;
/// The user stopped the run, which can be resumed.
pub const INTERRUPTED: u8 = 130;
