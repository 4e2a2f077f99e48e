//! Where weights come from: one trait over the file formats.

use super::spec::Spec;

/// An open checkpoint that gives tensors by their Hugging Face names.
pub trait Checkpoint: Send + Sync {
    /// Returns the shape of the model.
    fn spec(&self) -> &Spec;

    /// Returns a tensor as f32 in row-major order and Hugging Face's layout (rows of `q_proj` and
    /// `k_proj` un-permuted where the format permutes them).
    ///
    /// `name` is for example `model.layers.0.self_attn.q_proj.weight`; `shape` is what the model
    /// needs, `[out, in]` or `[hidden]`. Fails where the tensor is missing, has another shape, is of
    /// an unsupported type, or holds a number that is not finite; the error names file, tensor and
    /// expectation.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError>;
}

/// Why a tensor could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CheckpointError {
    /// One sentence that names file, tensor and expectation.
    pub message: String,
}
