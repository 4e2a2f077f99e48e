//! Llama 2 and 3, and what shares their layout: SmolLM2, TinyLlama and others.
//!
//! RMSNorm before attention and MLP, grouped queries, rotary positions, SwiGLU, no biases: the
//! shape that all architectures here share.

use super::windows;
use crate::model::config::{self, Fields};
use crate::model::error::ModelError;
use crate::model::gguf::settings::Settings;
use crate::model::spec::Spec;

/// Reads a `config.json`.
pub(super) fn from_config(fields: &Fields) -> Result<Spec, ModelError> {
    config::no_biases(fields, &["attention_bias", "mlp_bias"])?;
    config::spec(fields, 2048, None)
}

/// Reads the settings of a GGUF file of a Llama or a Mistral; the latter may have a window.
pub(super) fn from_gguf(settings: &Settings) -> Result<Spec, ModelError> {
    let spec = settings.spec()?;
    let sliding_windows = windows(&spec, settings.size("attention.sliding_window")?, |_| true);
    Ok(Spec { sliding_windows, ..spec })
}
