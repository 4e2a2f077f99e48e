//! Models in one GGUF file: weights, shape, tokenizer and chat template.
//!
//! Quantised weights are brought to f32. Two things differ from Hugging Face files and are undone
//! here: names (`blk.0.attn_q.weight`) and the order of the rows of `q_proj` and `k_proj`, which
//! GGUF files of Llamas interleave for another form of the rotation.

mod header;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use memmap2::Mmap;

use self::header::{Header, Info};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::error::ModelError;
use super::spec::{Rope, RopeScaling, Spec};
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::{config, layout};

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
    spec: Spec,
    /// By Hugging Face's names.
    tensors: BTreeMap<String, Info>,
}

impl Gguf {
    /// Opens a file and checks that it holds the tensors of the model that its settings describe.
    /// Reads no weight yet.
    pub fn open(path: &Path) -> Result<Gguf, ModelError> {
        let file = File::open(path).map_err(|error| ModelError::read(path, error))?;
        // SAFETY: the map is only read. A file that another program shortens while it is mapped
        // would end the process; checkpoints are written once and not changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::read(path, error))?;
        let malformed = |what: String| ModelError::malformed(path, what);
        let header = Header::read(&map).map_err(malformed)?;
        let spec = spec(path, &header, &map)?;
        config::check(path, &spec)?;
        let tensors: BTreeMap<String, Info> = header
            .tensors
            .iter()
            .filter(|(name, _)| *name != ROPE_FACTORS)
            .map(|(name, info)| (hugging_face_name(name), info.clone()))
            .collect();
        let shapes =
            tensors.iter().map(|(name, info)| (name.clone(), info.shape.clone())).collect();
        layout::check(path, &spec, &shapes)?;
        Ok(Gguf { path: path.to_owned(), map, header, spec, tensors })
    }

    /// Builds the tokenizer that the file carries.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        vocabulary::tokenizer(&self.path, &self.header)
    }

    /// Compiles the chat template that the file carries, where it has one.
    pub fn template(
        &self,
        model: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Template>, ModelError> {
        let source = self
            .header
            .text("tokenizer.chat_template")
            .map_err(|what| ModelError::malformed(&self.path, what))?;
        source
            .map(|source| Template::new(model, source, tokenizer.named_tokens().to_vec()))
            .transpose()
    }
}

impl Checkpoint for Gguf {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let info = match self.tensors.get(name) {
            Some(info) if info.shape == shape => info,
            other => {
                let found = other.map(|info| &info.shape[..]);
                return Err(layout::mismatch(&self.path, name, found, shape));
            }
        };
        let data = numbers(info, &self.map).map_err(|error| CheckpointError {
            message: format!("`{}`: tensor `{name}` cannot be read: {error}", self.path.display()),
        })?;
        layout::check_finite(&self.path, name, &data)?;
        let rotated = name.ends_with(".self_attn.q_proj.weight")
            || name.ends_with(".self_attn.k_proj.weight");
        Ok(if rotated { uninterleave(&data, shape[1], self.spec.head_dim) } else { data })
    }
}

/// Returns the numbers of a tensor as f32.
fn numbers(info: &Info, file: &[u8]) -> Result<Vec<f32>, candle_core::Error> {
    let bytes = &file[info.bytes.clone()];
    qtensor_from_ggml(info.dtype, bytes, info.shape.clone(), &Device::Cpu)?
        .dequantize(&Device::Cpu)?
        .flatten_all()?
        .to_vec1()
}

/// Brings the rows of a rotated projection into Hugging Face's order: within a head, a GGUF file
/// has the two dimensions that are rotated with each other side by side.
fn uninterleave(data: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(data.len());
    for head in data.chunks_exact(head_dim * width) {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                let from = (2 * pair + half) * width;
                rows.extend_from_slice(&head[from..from + width]);
            }
        }
    }
    rows
}

/// Divisors of the rotary frequencies, which stand for a rope scaling.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Returns the name that Hugging Face gives to a tensor; unknown ones keep theirs.
fn hugging_face_name(name: &str) -> String {
    let known = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => Some("model.norm.weight".to_owned()),
        "output.weight" => Some("lm_head.weight".to_owned()),
        _ => name.strip_prefix("blk.").and_then(|rest| {
            let (layer, part) = rest.split_once('.')?;
            let part = match part.strip_suffix(".weight")? {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            Some(format!("model.layers.{layer}.{part}.weight"))
        }),
    };
    known.unwrap_or_else(|| name.to_owned())
}

/// Reads the shape of the model out of the settings.
fn spec(path: &Path, header: &Header, file: &[u8]) -> Result<Spec, ModelError> {
    let malformed = |what: String| ModelError::malformed(path, what);
    let unsupported = |what: String, hint: &str| ModelError::Unsupported {
        path: path.to_owned(),
        what,
        hint: hint.to_owned(),
    };
    match header.text("general.architecture").map_err(malformed)? {
        Some("llama") => {}
        Some(other) => {
            return Err(unsupported(
                format!("the architecture `{other}`"),
                "supported in GGUF files is `llama` (Llama 2 and 3, SmolLM2, Mistral)",
            ));
        }
        None => return Err(malformed("has no `general.architecture`".to_owned())),
    }
    if header.size("split.count").ok().flatten().is_some_and(|count| count > 1) {
        return Err(unsupported(
            "further files that hold the rest of it".to_owned(),
            "join them with `llama-gguf-split --merge`",
        ));
    }
    if header.integer("llama.expert_count").map_err(malformed)?.unwrap_or(0) > 0 {
        return Err(unsupported("a mixture of experts".to_owned(), ""));
    }
    let read = || -> Result<Spec, String> {
        let hidden = header.needed_size("llama.embedding_length")?;
        let heads = header.needed_size("llama.attention.head_count")?;
        let head_dim = match header.size("llama.attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(format!(
                    "has `llama.embedding_length` = {hidden}, which {heads} heads do not divide"
                ));
            }
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(other) = header.size(key)?
                && other != head_dim
            {
                return Err(format!("has `{key}` = {other}, and heads of width {head_dim}"));
            }
        }
        let vocab = header
            .tensors
            .get("token_embd.weight")
            .and_then(|info| info.shape.first().copied())
            .ok_or("has no tensor `token_embd.weight`")?;
        let context = header.needed_size("llama.context_length")?;
        let window = header.size("llama.attention.sliding_window")?.unwrap_or(context);
        Ok(Spec {
            layers: header.needed_size("llama.block_count")?,
            hidden,
            heads,
            kv_heads: header.size("llama.attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            intermediate: header.needed_size("llama.feed_forward_length")?,
            vocab,
            rms_norm_eps: header
                .number("llama.attention.layer_norm_rms_epsilon")?
                .ok_or("has no `llama.attention.layer_norm_rms_epsilon`")?
                as f32,
            rope: Rope {
                theta: header.number("llama.rope.freq_base")?.unwrap_or(10000.0),
                scaling: RopeScaling::None,
            },
            tied_embeddings: !header.tensors.contains_key("output.weight"),
            context_length: context.min(window),
        })
    };
    let mut spec = read().map_err(malformed)?;
    spec.rope.scaling = match header.text("llama.rope.scaling.type").map_err(malformed)? {
        None | Some("none") => match header.tensors.get(ROPE_FACTORS) {
            None => RopeScaling::None,
            Some(info) => llama3_scaling(&spec, &numbers(info, file).unwrap_or_default())
                .ok_or_else(|| {
                    unsupported(
                        format!("the rope scaling of `{ROPE_FACTORS}`"),
                        "known are the factors of Llama 3.1, 3.2 and 3.3",
                    )
                })?,
        },
        Some("linear") => {
            let factor = header.number("llama.rope.scaling.factor").map_err(malformed)?;
            match factor {
                Some(factor) if factor > 0.0 && factor.is_finite() => {
                    RopeScaling::Linear { factor }
                }
                _ => return Err(malformed("has no positive `llama.rope.scaling.factor`".into())),
            }
        }
        Some(other) => {
            return Err(unsupported(
                format!("the rope scaling `{other}`"),
                "supported are `none`, `linear` and the factors of Llama 3",
            ));
        }
    };
    Ok(spec)
}

/// Recognises the rope scaling of Llama 3, which GGUF files spell out as a divisor for each
/// frequency.
fn llama3_scaling(spec: &Spec, divisors: &[f32]) -> Option<RopeScaling> {
    let plain = spec.rope.frequencies(spec.head_dim);
    [8.0, 16.0, 32.0]
        .map(|factor| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        })
        .into_iter()
        .find(|scaling| {
            let rope = Rope { theta: spec.rope.theta, scaling: scaling.clone() };
            let scaled = rope.frequencies(spec.head_dim);
            plain.len() == divisors.len()
                && plain.iter().zip(&scaled).zip(divisors).all(|((plain, scaled), &divisor)| {
                    (plain / scaled / f64::from(divisor) - 1.0).abs() < 1e-3
                })
        })
}
