//! What training takes in memory, before anything is loaded.
//!
//! Every number comes from the code that allocates: [`Activations::count`] and
//! [`TrainableAdapter::len`] count what their constructors ask for, and buffers of weights are as
//! long as [`TrainingBackend::packed_len`] says.

use std::collections::BTreeMap;

use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{AdapterError, LoraConfig};
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
    /// Predicts what a trainer takes over weights in f32. Fails where the adapter cannot be
    /// ([`LoraConfig::pairs`]).
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
    ) -> Result<TrainMemory, AdapterError> {
        let weights: usize =
            WeightName::all(spec).into_iter().map(|name| name.len(backend, spec)).sum();
        let pairs = match lora {
            Some(lora) => lora.pairs(spec.layers)?,
            None => BTreeMap::new(),
        };
        let len = TrainableAdapter::len(backend, spec, &pairs);
        let gradients = if lora.is_some() { len.values } else { weights };
        let dropout = lora.is_some_and(|lora| lora.dropout > 0.0);
        let shape = PassShape { spec, pairs: &pairs, dropout, rows, gradient_checkpointing };
        let bytes = |numbers: usize| numbers * size_of::<f32>();
        Ok(TrainMemory {
            weights: bytes(weights + spec.context_length * spec.head_dim),
            adapter: bytes(len.values + len.packed),
            gradients: bytes(gradients),
            moments: bytes(2 * gradients),
            activations: bytes(Activations::count(shape)),
            logits: bytes(backend.held_logits(rows, spec.vocab)),
        })
    }

    /// Returns the sum.
    pub fn total(&self) -> usize {
        let TrainMemory { weights, adapter, gradients, moments, activations, logits } = self;
        weights + adapter + gradients + moments + activations + logits
    }
}
