//! A pass that only reads, with the operations of one that trains.

use std::collections::BTreeMap;

use super::beside::AdapterBeside;
use super::{Run, Sequences};
use crate::model::activations::Activations;
use crate::model::adapter::PairConfig;
use crate::model::backend::{BackendError, TokenLogprob, TrainingBackend};
use crate::model::spec::{Linear, Spec};
use crate::model::weights::{LoadedAdapter, Weights};

/// A model that says what a training pass would say of sequences.
pub struct Reading<'a, B: TrainingBackend> {
    backend: &'a B,
    weights: &'a Weights<B>,
    adapter: Option<&'a LoadedAdapter<B>>,
    activations: Activations<B::Buffer>,
}

impl<'a, B: TrainingBackend> Reading<'a, B> {
    /// Makes room for passes of at most so many rows. `adapter` is frozen.
    pub fn new(
        backend: &'a B,
        weights: &'a Weights<B>,
        adapter: Option<&'a LoadedAdapter<B>>,
        rows: usize,
    ) -> Result<Reading<'a, B>, BackendError> {
        let pairs = adapter.map(|adapter| adapter.pairs(backend)).unwrap_or_default();
        let room = &mut |room| backend.make_room(room);
        let activations = Activations::of_reading(&weights.spec, &pairs, rows, room)?;
        Ok(Reading { backend, weights, adapter, activations })
    }

    /// Returns how many bytes that room takes, beside an adapter with these pairs.
    pub fn bytes(
        backend: &B,
        spec: &Spec,
        pairs: &BTreeMap<(usize, Linear), PairConfig>,
        rows: usize,
    ) -> usize {
        Activations::bytes_of_reading(spec, pairs, rows, &|room| backend.room_bytes(room))
    }

    /// Returns what the head says of each scored token.
    pub fn logprobs(&mut self, sequences: &Sequences) -> Result<Vec<TokenLogprob>, BackendError> {
        let Reading { backend, weights, adapter, activations } = self;
        let plan = backend.plan(&sequences.segments)?;
        let run = Run { backend: *backend, weights, sequences, plan: &plan };
        run.forward(adapter.map(AdapterBeside::Frozen), activations);
        let [_, after, ..] = &activations.scored;
        backend.logprobs_in_training(after, weights.head(), &sequences.targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::activations::PassShape;
    use crate::model::backend::Backend;
    use crate::model::backend::cpu::Cpu;
    use crate::model::backward::Pass;
    use crate::model::tiny;
    use crate::model::trainable::{TrainableAdapter, Trained};

    /// With one block, with two that take turns, and with three.
    #[test]
    fn it_says_what_training_says_and_takes_what_was_predicted() {
        let backend = Cpu::new();
        for layers in [1, 2, 3] {
            let checkpoint = tiny::checkpoint(Spec { layers, ..tiny::spec(12, true) }, 3);
            let spec = &checkpoint.spec;
            let weights = Weights::load(&backend, &checkpoint, &mut |_, _| {}).unwrap();
            let adapter = tiny::adapter(spec, 4);
            let mut sequences = Sequences::default();
            sequences.push(&[5, 9, 2, 7, 7], &[false, false, true, true, true], 0);
            sequences.branch(&[5, 9, 4], &[false, false, true], 1, 0);
            let rows = sequences.tokens.len();

            let mut trainable = TrainableAdapter::new(&backend, spec, &adapter).unwrap();
            let pairs = &trainable.pairs();
            let shape =
                PassShape { spec, pairs, dropout: false, rows, gradient_checkpointing: false };
            let mut activations =
                Activations::new(shape, &mut |room| backend.make_room(room)).unwrap();
            let trained = Trained { adapter: Some(&mut trainable), gradients: None };
            let activations = &mut activations;
            let mut pass = Pass { backend: &backend, weights: &weights, trained, activations };
            pass.forward(&sequences).unwrap();
            let want = pass.logprobs(&sequences).unwrap();

            let loaded = LoadedAdapter::load(&backend, spec, &adapter, 1.0).unwrap();
            let mut reading = Reading::new(&backend, &weights, Some(&loaded), rows).unwrap();
            assert_eq!(reading.logprobs(&sequences).unwrap(), want);
            assert_eq!(reading.logprobs(&sequences).unwrap(), want);
            let held: usize = reading.activations.lens().into_iter().sum();
            assert_eq!(Reading::bytes(&backend, spec, pairs, rows), size_of::<f32>() * held);
        }
    }
}
