//! What training takes in memory, before anything is loaded.
//!
//! Every number comes from the code that allocates: [`Activations::bytes`] and
//! [`TrainableAdapter::len`] count what their constructors ask for, and buffers of weights are as
//! long as [`TrainingBackend::packed_len`] says.

use std::collections::BTreeMap;

use super::batches::largest_micro_batch;
use super::settings::TrainSettings;
use super::state::TrainState;
use crate::generate::DecodeMemory;
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{AdapterError, LoraConfig};
use crate::model::backend::{TrainingBackend, WeightType};
use crate::model::backward::Reading;
use crate::model::forward::products_bytes;
use crate::model::spec::Spec;
use crate::model::trainable::TrainableAdapter;
use crate::model::weights::{WeightName, Weights};

/// What a training step holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainMemory {
    /// The model's weights, frozen or trained, with the tables of rotary embedding.
    pub weights: usize,
    /// The adapter: its matrices, and the same as the kernels want them; 0 in full training.
    pub adapter: usize,
    /// Gradients of what is trained; of an adapter, those of a micro-batch and their sum.
    pub gradients: usize,
    /// First and second moments of what is trained.
    pub moments: usize,
    /// What a pass keeps between its halves and works in.
    pub activations: usize,
    /// What products work in, kept from one to the next.
    pub products: usize,
    /// Logits that are held at a time, of which the memory is kept.
    pub logits: usize,
    /// Copies of what is trained that the first steps look at and that a saved state is made of.
    pub copies: usize,
}

/// Predicts what [`reference_logprobs`](super::reference_logprobs) holds beside the weights, with passes of so many rows
/// and a reference with pairs like those of `lora`.
pub fn reference_memory<B: TrainingBackend>(
    backend: &B,
    spec: &Spec,
    lora: Option<&LoraConfig>,
    rows: usize,
) -> Result<DecodeMemory, AdapterError> {
    let pairs = lora.map(|lora| lora.pairs(spec.layers)).transpose()?.unwrap_or_default();
    let logits = backend.held_logits(rows, spec.vocab);
    let head = backend.product_bytes(logits / spec.vocab, spec.vocab, spec.hidden);
    let products = products_bytes(backend, spec, rows, false).max(head);
    let attention = attention_bytes(backend, spec, rows);
    Ok(DecodeMemory {
        cache: 0,
        pass: Reading::bytes(backend, spec, &pairs, rows) + products + attention,
        logits: size_of::<f32>() * logits,
    })
}

/// Returns how many bytes attention works in, going back; going forward it needs no more.
fn attention_bytes<B: TrainingBackend>(backend: &B, spec: &Spec, rows: usize) -> usize {
    let layers = (0..spec.layers).map(|layer| spec.attention(layer));
    layers.map(|shape| backend.attention_gradient_bytes(shape, rows)).max().unwrap_or(0)
}

impl TrainMemory {
    /// Predicts what a trainer takes. Fails where the adapter cannot be ([`LoraConfig::pairs`]).
    ///
    /// - `lora`: the adapter that is trained; without one every weight is.
    /// - `scores`: whether it is a reward model, which has a head of its own and no logits.
    /// - `weight_type`: how the weights beside an adapter are kept; those that are trained are f32.
    /// - `rows`: most rows of one micro-batch ([`rows`](TrainMemory::rows)). All of them count as
    ///   trained for the logits, of which only a few rows are held.
    pub fn predict<B: TrainingBackend>(
        backend: &B,
        spec: &Spec,
        lora: Option<&LoraConfig>,
        scores: bool,
        weight_type: WeightType,
        rows: usize,
        gradient_checkpointing: bool,
    ) -> Result<TrainMemory, AdapterError> {
        let pairs = match lora {
            Some(lora) => lora.pairs(spec.layers)?,
            None => BTreeMap::new(),
        };
        let len = TrainableAdapter::len(backend, spec, &pairs, scores);
        let names = WeightName::all(spec);
        let lens = names.iter().map(|name| name.len(backend, spec));
        let (trained, gradients) = match lora {
            Some(_) => (len.values, 2 * len.values),
            None => (lens.clone().sum(), lens.clone().sum()),
        };
        let (weight_type, copies) = match lora {
            Some(_) => (weight_type, TrainState::saving_len(len.values)),
            // One tensor at a time, as it lies and row by row.
            None => (WeightType::F32, 2 * lens.max().unwrap_or(0)),
        };
        let dropout = lora.is_some_and(|lora| lora.dropout > 0.0);
        let shape = PassShape { spec, pairs: &pairs, dropout, rows, gradient_checkpointing };
        let bytes = |numbers: usize| numbers * size_of::<f32>();
        let held_logits = if scores { 0 } else { backend.held_logits(rows, spec.vocab) };
        let head = backend.product_bytes(held_logits / spec.vocab, spec.vocab, spec.hidden);
        Ok(TrainMemory {
            weights: Weights::bytes(backend, spec, weight_type),
            adapter: len.bytes(),
            gradients: bytes(gradients),
            moments: bytes(2 * trained),
            activations: Activations::bytes(shape, &|room| backend.room_bytes(room))
                + attention_bytes(backend, spec, rows),
            products: products_bytes(backend, spec, rows, true).max(head),
            logits: bytes(held_logits),
            copies: bytes(copies),
        })
    }

    /// Returns the most rows that a micro-batch has, of examples or items of so many.
    pub fn rows(lengths: &[usize], settings: &TrainSettings) -> usize {
        largest_micro_batch(lengths, settings.examples_per_step(), settings.micro_batch_tokens)
    }

    /// Returns what is held at its height.
    pub fn total(&self) -> usize {
        let TrainMemory { weights, adapter, gradients, moments, activations, .. } = self;
        weights + adapter + gradients + moments + activations + self.kept() + self.copies
    }

    /// Returns what is kept for later when training is over.
    pub fn kept(&self) -> usize {
        self.products + self.logits
    }
}
