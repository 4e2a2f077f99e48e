//! Mistral: a Llama in which, in the first version, every block attends to a sliding window.

use super::windows;
use crate::model::config::{self, Fields};
use crate::model::error::ModelError;
use crate::model::spec::Spec;

/// Reads a `config.json`. A window of `null` is none; where the field is absent it is 4096, as in
/// transformers.
pub(super) fn from_config(fields: &Fields) -> Result<Spec, ModelError> {
    config::no_biases(fields, &["attention_bias", "mlp_bias"])?;
    let spec = config::spec(fields, 4096 * 32, None)?;
    let sliding_windows = windows(&spec, fields.size_or("sliding_window", 4096)?, |_| true);
    Ok(Spec { sliding_windows, ..spec })
}
