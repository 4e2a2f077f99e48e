//! The pairs beside the linear layers in a pass.

use crate::model::adapter::LoraConfig;
use crate::model::backend::TrainingBackend;
use crate::model::spec::Linear;
use crate::model::trainable::TrainableAdapter;
use crate::model::weights::LoadedAdapter;

/// Those of an adapter that is trained, or of one that stays as it is.
pub(super) enum Pairs<'a, B: TrainingBackend> {
    Trained(&'a TrainableAdapter<B>),
    Frozen(&'a LoadedAdapter<B>),
}

impl<B: TrainingBackend> Clone for Pairs<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: TrainingBackend> Copy for Pairs<'_, B> {}

impl<'a, B: TrainingBackend> Pairs<'a, B> {
    /// Returns `A` and `B` beside a layer, with the scale in `B`.
    pub(super) fn pair(self, layer: usize, linear: Linear) -> Option<[&'a B::Matrix; 2]> {
        match self {
            Pairs::Trained(adapter) => {
                adapter.pair(layer, linear).map(|pair| [&pair.packed_a, &pair.packed_b])
            }
            Pairs::Frozen(adapter) => adapter.pair(layer, linear).map(|pair| [&pair.a, &pair.b]),
        }
    }

    /// Returns what says whether inputs are dropped, which is so in training alone.
    pub(super) fn config(self) -> Option<&'a LoraConfig> {
        match self {
            Pairs::Trained(adapter) => Some(adapter.config()),
            Pairs::Frozen(_) => None,
        }
    }
}
