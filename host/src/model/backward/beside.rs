//! The pairs beside the linear layers in a pass.

use super::{Dropout, Sequences};
use crate::model::backend::TrainingBackend;
use crate::model::spec::Linear;
use crate::model::trainable::TrainableAdapter;
use crate::model::weights::LoadedAdapter;

/// Those of an adapter that is trained, or of one that stays as it is.
pub(super) enum AdapterBeside<'a, B: TrainingBackend> {
    Trained(&'a TrainableAdapter<B>),
    Frozen(&'a LoadedAdapter<B>),
}

impl<B: TrainingBackend> Clone for AdapterBeside<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: TrainingBackend> Copy for AdapterBeside<'_, B> {}

impl<'a, B: TrainingBackend> AdapterBeside<'a, B> {
    /// Returns `A` and `B` beside a layer, with the scale in `B`.
    pub(super) fn pair(self, layer: usize, linear: Linear) -> Option<[&'a B::Matrix; 2]> {
        match self {
            AdapterBeside::Trained(adapter) => {
                adapter.pair(layer, linear).map(|pair| [&pair.packed_a, &pair.packed_b])
            }
            AdapterBeside::Frozen(adapter) => {
                adapter.pair(layer, linear).map(|pair| [&pair.a, &pair.b])
            }
        }
    }

    /// Returns the dropout before the pair of a layer; in training alone is there one.
    pub(super) fn dropout(
        self,
        sequences: &Sequences,
        layer: usize,
        linear: Linear,
    ) -> Option<Dropout> {
        match self {
            AdapterBeside::Trained(adapter) => {
                Dropout::new(adapter.config(), sequences, layer, linear)
            }
            AdapterBeside::Frozen(_) => None,
        }
    }
}
