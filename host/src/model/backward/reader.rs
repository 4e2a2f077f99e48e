//! A pass that only reads, with the operations of one that trains.

use std::collections::BTreeMap;

use super::pairs::Pairs;
use super::{Run, Sequences};
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::PairConfig;
use crate::model::backend::{BackendError, TokenLogprob, TrainingBackend};
use crate::model::spec::{Linear, Spec};
use crate::model::weights::{LoadedAdapter, Weights};

/// A model that says what a training pass would say of sequences, bit for bit where the pass is the same.
pub struct Reader<'a, B: TrainingBackend> {
    backend: &'a B,
    weights: &'a Weights<B>,
    adapter: Option<&'a LoadedAdapter<B>>,
    activations: Activations<B::Buffer>,
}

impl<'a, B: TrainingBackend> Reader<'a, B> {
    /// Makes room for passes of at most so many rows. `adapter` is frozen.
    pub fn new(
        backend: &'a B,
        weights: &'a Weights<B>,
        adapter: Option<&'a LoadedAdapter<B>>,
        rows: usize,
    ) -> Result<Reader<'a, B>, BackendError> {
        let pairs = adapter.map(|adapter| adapter.pairs(backend)).unwrap_or_default();
        let shape = shape(&weights.spec, &pairs, rows);
        let activations = Activations::new(shape, &mut |room| backend.make_room(room))?;
        Ok(Reader { backend, weights, adapter, activations })
    }

    /// Returns how many bytes that room takes, beside an adapter with these pairs.
    pub fn bytes(
        backend: &B,
        spec: &Spec,
        pairs: &BTreeMap<(usize, Linear), PairConfig>,
        rows: usize,
    ) -> usize {
        Activations::bytes(shape(spec, pairs, rows), &|room| backend.room_bytes(room))
    }

    /// Returns what the head says of each scored token.
    pub fn logprobs(&mut self, sequences: &Sequences) -> Result<Vec<TokenLogprob>, BackendError> {
        let Reader { backend, weights, adapter, activations } = self;
        let plan = backend.plan(&sequences.segments)?;
        let run = Run { backend: *backend, weights, sequences, plan: &plan };
        run.forward(adapter.map(Pairs::Frozen), activations);
        let [_, after, ..] = &activations.scored;
        backend.logprobs(after, weights.head(), &sequences.targets)
    }
}

/// Nothing is kept for a backward pass.
fn shape<'a>(
    spec: &'a Spec,
    pairs: &'a BTreeMap<(usize, Linear), PairConfig>,
    rows: usize,
) -> PassShape<'a> {
    PassShape { spec, pairs, dropout: false, rows, gradient_checkpointing: true }
}
