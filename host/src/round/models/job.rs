//! What models are asked for, and what becomes of it.

use serde::{Deserialize, Serialize};

use crate::model::ModelError;
use crate::record::{Completion, Decoding, Text};
use crate::round::RunError;

/// Something to complete.
#[derive(Clone, Debug)]
pub struct Job {
    /// Digest of model state, prompt, decoding and seed: equal keys mean equal completions.
    pub key: String,
    /// The record's id, for messages.
    pub record: String,
    /// What to complete.
    pub prompt: Text,
    /// How to decode; complete.
    pub decoding: Decoding,
    /// What draws are keyed by.
    pub seed: u64,
}

/// Something to score.
#[derive(Clone, Debug)]
pub struct ScoreJob {
    /// The record's id, for messages.
    pub record: String,
    /// What comes before.
    pub prompt: Text,
    /// What is scored.
    pub completion: String,
}

/// What a model has made.
#[derive(Clone, Debug)]
pub struct Made<T> {
    /// A completion, a score or a reward.
    pub it: T,
    /// What a server has done for it, where one did.
    pub spent: Option<Spent>,
}

/// Tokens that a server has read and written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The name of the model in `[models]`.
    pub model: String,
    /// How many.
    pub tokens: u64,
}

/// Why a model has made nothing of a job; others are done all the same.
#[derive(Debug, thiserror::Error)]
pub enum Undone {
    /// It cannot be put to the model.
    #[error(transparent)]
    Unreadable(#[from] ModelError),
    /// The tokens that a server may read and write for the run are used up.
    #[error("the run's budget of tokens on the server is used up")]
    Budget,
}

impl Undone {
    /// Returns the reason under which a record is dropped that cannot be completed so; none where the run
    /// cannot go on.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Undone::Unreadable(ModelError::TooLong { .. }) => Some("too-long"),
            Undone::Unreadable(ModelError::NotAsText { .. }) => Some("not-as-text"),
            Undone::Unreadable(_) => None,
            Undone::Budget => Some("token-budget"),
        }
    }
}

/// Takes each completion as soon as it is there, or why there is none.
pub type Done<'a> = dyn FnMut(&Job, Result<Made<Completion>, Undone>) -> Result<(), RunError> + 'a;

/// Takes each score or reward, by its place among the jobs, or why there is none.
pub type Read<'a, T> = dyn FnMut(usize, Result<Made<T>, Undone>) -> Result<(), RunError> + 'a;
