//! aligner: self-alignment methods as sets of sandboxed plugins over native models and training.
//!
//! The library behind the `aligner` binary. Data flows one way:
//!
//! ```text
//! plugin set ─► run ─► pool ─► round: sample ─► generate ─► judge ─► pair ─► filter ─► score ─► order ─► train ─► extrapolate ─► next round
//! ```

pub mod child;
pub mod cli;
pub mod conformance;
pub mod data;
pub mod date;
pub mod digest;
pub mod doctor;
pub mod embedding;
pub mod evaluate;
pub mod extrapolate;
pub mod file;
pub mod generate;
pub mod logprob;
pub mod measure;
pub mod memory;
pub mod model;
pub mod objective;
pub mod pack;
pub mod plugin;
pub mod plugin_set;
pub mod progress;
pub mod record;
pub mod report;
pub mod reward;
pub mod round;
pub mod run;
pub mod server;
pub mod shown;
pub mod source;
pub mod train;
pub mod trainer;
