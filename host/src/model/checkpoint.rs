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

    /// Returns how many bytes [`tensor`](Checkpoint::tensor) takes at its height, what it returns
    /// included.
    fn reading_bytes(&self, name: &str, shape: &[usize]) -> usize {
        let _ = name;
        size_of::<f32>() * shape.iter().product::<usize>()
    }

    /// Returns whether there are any tensors: what a server serves has its tokenizer here, and perhaps no more.
    fn has_weights(&self) -> bool {
        true
    }

    /// Returns how many bytes of files are mapped: they count as memory of the program once they
    /// are read, but the system takes them back when it needs the room.
    fn mapped_bytes(&self) -> usize {
        0
    }
}

/// Why a tensor could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CheckpointError {
    /// One sentence that names file, tensor and expectation.
    pub message: String,
}
