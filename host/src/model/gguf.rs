//! Models in one GGUF file: weights, shape, tokenizer and chat template.
//!
//! Quantised weights are brought to f32. Two things differ from Hugging Face files and are undone
//! here: names (`blk.0.attn_q.weight`) and, in files of Llamas, the order of the rows of `q_proj`
//! and `k_proj`, which are interleaved for another form of the rotation ([`RowOrder`]).

pub(super) mod header;
pub(super) mod settings;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use memmap2::Mmap;

use self::header::{Header, Info};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::error::ModelError;
use super::spec::Spec;
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::{architecture, layout};

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
    spec: Spec,
    rows: RowOrder,
    /// By Hugging Face's names.
    tensors: BTreeMap<String, Info>,
}

impl Gguf {
    /// Opens a file and checks that it holds the tensors of the model that its settings describe.
    /// Reads no weight yet.
    pub fn open(path: &Path) -> Result<Gguf, ModelError> {
        let file = crate::file::open(path).map_err(|error| ModelError::read(path, error))?;
        // SAFETY: the map is only read. A file that another program shortens while it is mapped
        // would end the process; checkpoints are written once and not changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::read(path, error))?;
        let malformed = |what: String| ModelError::malformed(path, what);
        let header = Header::read(&map).map_err(malformed)?;
        let (spec, rows) = architecture::from_gguf(path, &header, &map)?;
        let tensors: BTreeMap<String, Info> = header
            .tensors
            .iter()
            .filter(|(name, _)| *name != ROPE_FACTORS)
            .map(|(name, info)| (hugging_face_name(name), info.clone()))
            .collect();
        let shapes =
            tensors.iter().map(|(name, info)| (name.clone(), info.shape.clone())).collect();
        layout::check(path, &spec, &shapes)?;
        Ok(Gguf { path: path.to_owned(), map, header, spec, rows, tensors })
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

    fn mapped_bytes(&self) -> usize {
        self.map.len()
    }

    /// The numbers as the file has them, then twice as f32: what candle makes of them, and the copy
    /// that it gives away.
    fn reading_bytes(&self, name: &str, shape: &[usize]) -> usize {
        let stored = self.tensors.get(name).map_or(0, |info| info.bytes.len());
        stored + 2 * size_of::<f32>() * shape.iter().product::<usize>()
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
        let rotated = self.rows == RowOrder::Interleaved
            && (name.ends_with(".self_attn.q_proj.weight")
                || name.ends_with(".self_attn.k_proj.weight"));
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

/// The order of the rows of `q_proj` and `k_proj` within a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As in Hugging Face files: the halves of a head are rotated with each other.
    Halves,
    /// The two dimensions that are rotated with each other are side by side.
    Interleaved,
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
            let (part, kind) = part.rsplit_once('.')?;
            let part = match (part, kind) {
                ("attn_norm", "weight") => "input_layernorm",
                ("attn_q", "weight" | "bias") => "self_attn.q_proj",
                ("attn_k", "weight" | "bias") => "self_attn.k_proj",
                ("attn_v", "weight" | "bias") => "self_attn.v_proj",
                ("attn_q_norm", "weight") => "self_attn.q_norm",
                ("attn_k_norm", "weight") => "self_attn.k_norm",
                ("attn_output", "weight") => "self_attn.o_proj",
                ("ffn_norm", "weight") => "post_attention_layernorm",
                ("ffn_gate", "weight") => "mlp.gate_proj",
                ("ffn_up", "weight") => "mlp.up_proj",
                ("ffn_down", "weight") => "mlp.down_proj",
                _ => return None,
            };
            Some(format!("model.layers.{layer}.{part}.{kind}"))
        }),
    };
    known.unwrap_or_else(|| name.to_owned())
}
