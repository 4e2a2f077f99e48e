//! The architectures, one file each: what a model's files call it, and what it has beyond the
//! shape that the Llama family shares.
//!
//! Each file reads `config.json` and the settings of GGUF files into a [`Spec`], whose features the
//! forward and backward passes ask for. Another architecture of the family is another file here; an
//! architecture with a new feature also needs the field in [`Spec`], its tensors in
//! [`layout`](super::layout) and its line in both passes.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
#[cfg(test)]
pub(super) mod tests;

use std::path::Path;

use super::config::Fields;
use super::error::ModelError;
use super::gguf::RowOrder;
use super::gguf::header::Header;
use super::gguf::settings::Settings;
use super::spec::Spec;

/// Reads the shape of a model out of the fields of a `config.json`.
pub(super) fn from_config(fields: &Fields) -> Result<Spec, ModelError> {
    let class = fields.texts("architectures")?.and_then(|names| names.first().copied());
    let name = match class {
        Some(class) => Some(class),
        None => fields.text("model_type")?,
    };
    match name {
        Some("LlamaForCausalLM" | "llama") => llama::from_config(fields),
        Some("MistralForCausalLM" | "mistral") => mistral::from_config(fields),
        Some("Qwen2ForCausalLM" | "qwen2") => qwen2::from_config(fields),
        Some("Qwen3ForCausalLM" | "qwen3") => qwen3::from_config(fields),
        Some(other) => {
            let what = if class.is_some() { "architecture" } else { "model type" };
            Err(fields.unsupported(
                format!("the {what} `{other}`"),
                "supported are `LlamaForCausalLM` (Llama 2 and 3, SmolLM2, TinyLlama), \
                 `MistralForCausalLM`, `Qwen2ForCausalLM` (also Qwen2.5) and `Qwen3ForCausalLM`",
            ))
        }
        None => Err(ModelError::malformed(
            fields.path,
            "names neither `architectures` nor `model_type`",
        )),
    }
}

/// Reads the shape of a model out of the settings of a GGUF file, and how it orders the rows of
/// queries and keys.
pub(super) fn from_gguf(
    path: &Path,
    header: &Header,
    file: &[u8],
) -> Result<(Spec, RowOrder), ModelError> {
    let name = header.text("general.architecture");
    let Some(name) = name.map_err(|what| ModelError::malformed(path, what))? else {
        return Err(ModelError::malformed(path, "has no `general.architecture`"));
    };
    let settings = Settings { path, header, file, name };
    match name {
        // Files of Mistral call themselves `llama` too.
        "llama" => Ok((llama::from_gguf(&settings)?, RowOrder::Interleaved)),
        "qwen2" => Ok((qwen2::from_gguf(&settings)?, RowOrder::Halves)),
        "qwen3" => Ok((qwen3::from_gguf(&settings)?, RowOrder::Halves)),
        other => Err(settings.unsupported(
            format!("the architecture `{other}`"),
            "supported in GGUF files are `llama` (Llama 2 and 3, TinyLlama, SmolLM2, Mistral), \
             `qwen2` (also Qwen2.5) and `qwen3`, with the tokenizers `gpt2` and `llama`",
        )),
    }
}

/// Returns what a `config.json` calls the architecture of a shape: class and model type.
pub(super) fn names(spec: &Spec) -> (&'static str, &'static str) {
    match spec {
        Spec { qk_norm: true, .. } => ("Qwen3ForCausalLM", "qwen3"),
        Spec { attention_bias: true, .. } => ("Qwen2ForCausalLM", "qwen2"),
        Spec { sliding_windows, .. } if !sliding_windows.is_empty() => {
            ("MistralForCausalLM", "mistral")
        }
        _ => ("LlamaForCausalLM", "llama"),
    }
}

/// Returns the windows of a model's blocks: `window` where a block `slides`.
///
/// A window as long as the context hides nothing, and is left out.
fn windows(
    spec: &Spec,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Vec<Option<usize>> {
    match window.filter(|&window| window < spec.context_length) {
        Some(window) if (0..spec.layers).any(&slides) => {
            (0..spec.layers).map(|layer| slides(layer).then_some(window)).collect()
        }
        _ => Vec::new(),
    }
}

/// Reads which blocks of a Qwen have a window: with `use_sliding_window`, those that `layer_types`
/// names, or those from `max_window_layers` on.
fn qwen_windows(fields: &Fields, spec: &Spec) -> Result<Vec<Option<usize>>, ModelError> {
    let window = match fields.flag("use_sliding_window")? {
        Some(true) => fields.size_or("sliding_window", 4096)?,
        _ => None,
    };
    let Some(types) = fields.texts("layer_types")? else {
        let first = fields.count("max_window_layers")?.unwrap_or(28);
        return Ok(windows(spec, window, |layer| layer >= first));
    };
    if types.len() != spec.layers {
        return Err(ModelError::malformed(
            fields.path,
            format!("has {} `layer_types` for {} blocks", types.len(), spec.layers),
        ));
    }
    for kind in &types {
        match *kind {
            "full_attention" => {}
            "sliding_attention" if window.is_some() => {}
            "sliding_attention" => {
                return Err(ModelError::malformed(
                    fields.path,
                    "has `sliding_attention` in `layer_types`, and no `sliding_window` in use",
                ));
            }
            other => {
                return Err(fields.unsupported(
                    format!("`{other}` in `layer_types`"),
                    "supported are `full_attention` and `sliding_attention`",
                ));
            }
        }
    }
    Ok(windows(spec, window, |layer| types[layer] == "sliding_attention"))
}

/// Refuses a window in a GGUF file of a Qwen, which does not say whose it is.
fn no_qwen_window(settings: &Settings) -> Result<(), ModelError> {
    match settings.size("attention.sliding_window")? {
        None => Ok(()),
        Some(window) => Err(settings.unsupported(
            format!("`{}` = {window}", settings.key("attention.sliding_window")),
            "the file does not say which blocks have it; use the model's folder in Hugging Face \
             layout",
        )),
    }
}
