//! What is checked of sequences before the first pass, and what can go wrong after.

use super::Sampling;
use crate::model::backend::{Backend, BackendError};
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;

/// Why sequences could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// One of them cannot be.
    #[error("sequence {index} {problem}")]
    Sequence {
        /// Which one, so that the caller can call it by its name.
        index: usize,
        /// What is wrong with it.
        problem: Unfit,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The adapter is a reward model's.
    #[error(
        "a reward model says nothing: its adapter moves the model towards rewards, and not towards words\n\n\
         hint: take the adapter of a policy"
    )]
    RewardModel,
    /// A callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Fails where an adapter has the head of a reward model: what the model says beside it means nothing.
pub(crate) fn check_policy<B: Backend>(
    adapter: Option<&LoadedAdapter<B>>,
) -> Result<(), SequenceError> {
    match adapter.and_then(LoadedAdapter::score) {
        Some(_) => Err(SequenceError::RewardModel),
        None => Ok(()),
    }
}

impl SequenceError {
    /// Returns the error for the sequence with this place.
    pub(crate) fn of(index: usize) -> impl FnOnce(Unfit) -> SequenceError {
        move |problem| SequenceError::Sequence { index, problem }
    }
}

/// Why a sequence could not be run; reads on from its name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// It has no tokens.
    #[error("has no prompt")]
    Empty,
    /// It does not fit into the model's context.
    #[error(
        "has {tokens} tokens and up to {new} new ones, but the model's context is {limit} tokens"
    )]
    TooLong {
        /// Tokens that it has.
        tokens: usize,
        /// Tokens that may be added.
        new: usize,
        /// The model's context length.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error("has token {token}, but the model has {vocab} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A setting is out of its range.
    #[error("has `{name}` = {value}, which must be {range}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// The model gave logits, or a reward, that are not numbers.
    #[error("gets numbers that are not finite at position {position}")]
    NotFinite {
        /// The last position that the model read.
        position: usize,
    },
}

/// Checks that a sequence's tokens exist and that it fits into the context with `new` more.
pub(crate) fn check_tokens<B: Backend>(
    engine: &Engine<B>,
    tokens: &[u32],
    new: usize,
) -> Result<(), Unfit> {
    let spec = &engine.weights.spec;
    let (vocab, limit) = (spec.vocab, spec.context_length);
    if tokens.is_empty() {
        return Err(Unfit::Empty);
    }
    if tokens.len().saturating_add(new) > limit {
        return Err(Unfit::TooLong { tokens: tokens.len(), new, limit });
    }
    match tokens.iter().find(|&&token| token as usize >= vocab) {
        Some(&token) => Err(Unfit::Token { token, vocab }),
        None => Ok(()),
    }
}

/// Checks that the settings of a job are in their ranges.
pub(super) fn check_sampling(sampling: &Sampling) -> Result<(), Unfit> {
    let Sampling { temperature, top_p, top_k: _, repetition_penalty, max_new_tokens } = *sampling;
    let checks = [
        ("temperature", temperature, temperature >= 0.0, "finite and not negative"),
        ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "over 0 and at most 1"),
        ("repetition_penalty", repetition_penalty, repetition_penalty > 0.0, "finite and over 0"),
        ("max_new_tokens", max_new_tokens as f64, max_new_tokens > 0, "at least 1"),
    ];
    for (name, value, right, range) in checks {
        if !right || !value.is_finite() {
            return Err(Unfit::Setting { name, value, range });
        }
    }
    Ok(())
}
