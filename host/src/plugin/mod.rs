//! The plugin runtime: loads components, keeps them within their limits, and calls them in batches.
//!
//! A plugin is a pure function over batches of records. Everything it gives back is checked here,
//! and everything it does wrong becomes a [`PluginError`] that names it: the rest of the program
//! sees only results that keep the contract in `wit/`.
//!
//! ```text
//! Source ─► inspect ─► compile (child process, cache) ─► describe ─► configure ─► Plugin
//! Plugin + records ─► batches ─► fresh instance each ─► replies ─► check ─► Stage
//!                        ▲                                 │ ask
//!                        └────────── Answerer ◄────────────┘
//! ```
//!
//! The runtime knows nothing of models or files of the run: what a plugin asks goes to the
//! [`Answerer`] that the caller brings.

mod asking;
mod bindings;
mod budget;
mod cache;
mod call;
mod check;
pub mod compile;
mod converse;
mod convert;
mod engine;
mod error;
mod fault;
mod inspect;
mod limits;
mod load;
mod probe;
mod session;
mod set;
mod setup;
mod source;

pub use asking::MAX_REQUESTS;
pub(crate) use cache::prune;
pub use call::{Candidate, Equipment};
pub use converse::{Answerer, Ask, NoAnswers, Outcome, Place, Spent, Stage};
pub use error::{CallError, Fault, Identity, LoadFault, PluginError, Reported, Span};
pub use inspect::{CONTRACT, Interface, Kind, MAX_FILE_BYTES, MAX_FUNCTION_BYTES};
pub use limits::{
    Limits, MAX_INSTANCES, MAX_MEMORIES, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, MAX_TABLES,
    RunLimits,
};
pub use load::{Cache, Loaded, Plugin, Runtime, Settings};
pub use set::Sitting;
pub use setup::{DEFAULT_REQUESTS, Grant, OnError, Setup};
pub use source::Source;

/// The reason under which a record is dropped where `on_error = "drop"`.
pub const PLUGIN_ERROR: &str = "plugin-error";
