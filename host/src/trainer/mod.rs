//! An external trainer: a job of files that TRL trains an adapter from, here or on a cluster.
//!
//! aligner writes the job (`job`): rows of token ids in the order in which they are learnt, the adapter to
//! start from, the hyper-parameters, a Python program that reads all of it and a script that starts it. The
//! job is started (`launch`), followed (`follow`) by the lines that it appends for each update, and comes to an
//! adapter with a statement of what made it (`said`). What it writes goes into the folder of its attempt, and
//! a later attempt goes on from the newest checkpoint of those before.
//!
//! Whatever a job writes is a stranger's word: lines may be garbage, files half there.

mod error;
mod follow;
mod job;
mod launch;
mod process;
mod said;

pub use error::TrainerError;
pub use follow::{Desk, LOCK, RECORD, Record, abandon, train};
pub use job::{
    Config, Halves, Lines, MOST_APART, Probe, Reference, TRAIN_PY, TrainingArguments, launch_script,
};
pub use launch::missing;
pub use said::{Diverged, Done, Update, updates};

#[cfg(test)]
mod tests;
