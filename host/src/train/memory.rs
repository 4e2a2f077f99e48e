//! What training takes in memory, before anything is loaded.
//!
//! Every number comes from the code that allocates: [`Activations::count`] and
//! [`TrainableAdapter::len`] count what their constructors ask for, and buffers of weights are as
//! long as [`TrainingBackend::packed_len`] says.

use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::LoraConfig;
use crate::model::backend::TrainingBackend;
use crate::model::spec::Spec;
use crate::model::trainable::TrainableAdapter;
use crate::model::weights::WeightName;

/// What a training step holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainMemory {
    /// The model's weights in f32, frozen or trained, with the tables of rotary embedding.
    pub weights: usize,
    /// The adapter: its matrices, and the same as the kernels want them; 0 in full training.
    pub adapter: usize,
    /// Gradients of what is trained.
    pub gradients: usize,
    /// First and second moments of what is trained.
    pub moments: usize,
    /// What a pass keeps between its halves and works in.
    pub activations: usize,
    /// Logits that are held at a time.
    pub logits: usize,
}

impl TrainMemory {
    /// Predicts what a trainer takes.
    ///
    /// - `lora`: the adapter that is trained; without one every weight is.
    /// - `rows`: most tokens in one micro-batch. All of them count as trained for the logits, of
    ///   which only a few rows are held.
    pub fn predict<B: TrainingBackend>(
        backend: &B,
        spec: &Spec,
        lora: Option<&LoraConfig>,
        rows: usize,
        gradient_checkpointing: bool,
    ) -> TrainMemory {
        let weights: usize =
            WeightName::all(spec).into_iter().map(|name| name.len(backend, spec)).sum();
        let (adapter, gradients) = match lora {
            Some(config) => {
                let len = TrainableAdapter::len(backend, spec, config);
                (len.values + len.packed, len.values)
            }
            None => (0, weights),
        };
        let shape = PassShape { spec, lora, rows, gradient_checkpointing };
        let bytes = |numbers: usize| numbers * size_of::<f32>();
        TrainMemory {
            weights: bytes(weights + spec.context_length * spec.head_dim),
            adapter: bytes(adapter),
            gradients: bytes(gradients),
            moments: bytes(2 * gradients),
            activations: bytes(Activations::count(shape)),
            logits: bytes(backend.held_logits(rows, spec.vocab)),
        }
    }

    /// Returns the sum.
    pub fn total(&self) -> usize {
        let TrainMemory { weights, adapter, gradients, moments, activations, logits } = self;
        weights + adapter + gradients + moments + activations + logits
    }
}
