//! What is checked of sequences before the first pass, and what can go wrong after.

use super::Sampling;
use crate::model::backend::{Backend, BackendError};
use crate::model::forward::Engine;

/// Why sequences could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// A prompt has no tokens.
    #[error("sequence {index} has no prompt")]
    Empty {
        /// Which one.
        index: usize,
    },
    /// A sequence does not fit into the model's context.
    #[error(
        "sequence {index} has {tokens} tokens and up to {new} new ones, but the model's context is {limit} tokens"
    )]
    TooLong {
        /// Which one.
        index: usize,
        /// Tokens that it has.
        tokens: usize,
        /// Tokens that may be added.
        new: usize,
        /// The model's context length.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error("sequence {index} has token {token}, but the model has {vocab} tokens")]
    Token {
        /// Which one.
        index: usize,
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A setting is out of its range.
    #[error("sequence {index}: `{name}` is {value}, but must be {range}")]
    Setting {
        /// Which one.
        index: usize,
        /// Name of the setting.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// One sequence alone needs a larger cache than is allowed.
    #[error("sequence {index} needs {needed} bytes of cache, but {allowed} are allowed")]
    Memory {
        /// Which one.
        index: usize,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that are allowed.
        allowed: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model gave logits that are not numbers.
    #[error("the model's logits for sequence {index} are not finite at position {position}")]
    NotFinite {
        /// Which one.
        index: usize,
        /// The last position that the model read.
        position: usize,
    },
    /// A callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Checks that a sequence's tokens exist and that it fits into the context with `new` more.
pub(crate) fn check_tokens<B: Backend>(
    engine: &Engine<B>,
    index: usize,
    tokens: &[u32],
    new: usize,
) -> Result<(), SequenceError> {
    let spec = &engine.weights.spec;
    let (vocab, limit) = (spec.vocab, spec.context_length);
    if tokens.is_empty() {
        return Err(SequenceError::Empty { index });
    }
    if tokens.len().saturating_add(new) > limit {
        return Err(SequenceError::TooLong { index, tokens: tokens.len(), new, limit });
    }
    match tokens.iter().find(|&&token| token as usize >= vocab) {
        Some(&token) => Err(SequenceError::Token { index, token, vocab }),
        None => Ok(()),
    }
}

/// Checks that the settings of a job are in their ranges.
pub(super) fn check_sampling(index: usize, sampling: &Sampling) -> Result<(), SequenceError> {
    let Sampling { temperature, top_p, top_k: _, repetition_penalty, max_new_tokens } = *sampling;
    let checks = [
        ("temperature", temperature, temperature >= 0.0, "finite and not negative"),
        ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "over 0 and at most 1"),
        ("repetition_penalty", repetition_penalty, repetition_penalty > 0.0, "finite and over 0"),
        ("max_new_tokens", max_new_tokens as f64, max_new_tokens > 0, "at least 1"),
    ];
    for (name, value, right, range) in checks {
        if !right || !value.is_finite() {
            return Err(SequenceError::Setting { index, name, value, range });
        }
    }
    Ok(())
}
