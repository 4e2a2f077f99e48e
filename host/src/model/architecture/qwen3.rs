//! Qwen3: a Llama in which each head of queries and keys goes through RMSNorm before it is rotated,
//! with a width of heads of its own; later blocks can have a sliding window.

use super::{no_qwen_window, qwen_windows};
use crate::model::config::{self, Fields};
use crate::model::error::ModelError;
use crate::model::gguf::settings::Settings;
use crate::model::spec::Spec;

/// Reads a `config.json`. Where it gives no `head_dim`, heads are 128 wide, as in transformers.
pub(super) fn from_config(fields: &Fields) -> Result<Spec, ModelError> {
    config::no_biases(fields, &["attention_bias"])?;
    let spec = config::spec(fields, 32768, Some(128))?;
    let sliding_windows = qwen_windows(fields, &spec)?;
    Ok(Spec { qk_norm: true, sliding_windows, ..spec })
}

/// Reads the settings of a GGUF file.
pub(super) fn from_gguf(settings: &Settings) -> Result<Spec, ModelError> {
    no_qwen_window(settings)?;
    Ok(Spec { qk_norm: true, ..settings.spec()? })
}
