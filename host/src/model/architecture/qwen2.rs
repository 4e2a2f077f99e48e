//! Qwen2 and Qwen2.5: a Llama whose queries, keys and values add a bias; later blocks can have a
//! sliding window.

use super::{no_qwen_window, qwen_windows};
use crate::model::config::{self, Fields};
use crate::model::error::ModelError;
use crate::model::gguf::settings::Settings;
use crate::model::spec::Spec;

/// Reads a `config.json`, which does not mention the biases: every model has them.
pub(super) fn from_config(fields: &Fields) -> Result<Spec, ModelError> {
    let spec = config::spec(fields, 32768, None)?;
    let sliding_windows = qwen_windows(fields, &spec)?;
    Ok(Spec { attention_bias: true, sliding_windows, ..spec })
}

/// Reads the settings of a GGUF file.
pub(super) fn from_gguf(settings: &Settings) -> Result<Spec, ModelError> {
    no_qwen_window(settings)?;
    Ok(Spec { attention_bias: true, ..settings.spec()? })
}
