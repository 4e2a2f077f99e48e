//! Why training cannot start or go on.

use super::{RankError, SettingsError, StartupError, StateError};
use crate::generate::SequenceError;
use crate::model::adapter::AdapterError;
use crate::model::backend::{BackendError, WeightType};
use crate::model::save::SaveError;
use crate::model::weights::WeightsError;
use crate::objective::ObjectiveError;

/// Why training cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting or an example is unusable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A hyper-parameter of the objective is unusable.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// The data cannot be scored under the reference.
    #[error("the reference cannot score what is to be learnt from: {source}")]
    Reference {
        /// Why; sequences are counted over all items, from 0.
        source: SequenceError,
    },
    /// The adapter of the reference, or the weights of a saved state, cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The adapter to start from, or that of the reference, does not fit the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A saved state cannot be gone on from.
    #[error(transparent)]
    State(#[from] StateError),
    /// Some tensors do not learn.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// Another rank does not do its part.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// What is trained and the objective do not go together.
    #[error("{0}")]
    Head(&'static str),
    /// A state cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An adapter was asked for where there is none.
    #[error("every weight of the model is trained; there is no adapter")]
    NoAdapter,
    /// The state of full training was asked for where an adapter is trained.
    #[error("an adapter is trained; the model's weights stay as they are")]
    NotFull,
    /// Weights that are trained themselves are rounded.
    #[error(
        "the model's weights are in {weight_type}, and only weights in f32 can all be trained\n\n\
         hint: load the model with the dtype `f32`, or train an adapter"
    )]
    WeightType {
        /// Their type.
        weight_type: WeightType,
    },
    /// Training has diverged, or an example is too much for the model.
    #[error("{what} is {value} in step {step} of {steps}\n  the examples are {}", names(ids))]
    NotFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// NaN or infinite.
        value: f64,
        /// In which step, from 1.
        step: u64,
        /// Of how many.
        steps: u64,
        /// Ids of the step's examples.
        ids: Vec<String>,
    },
}

impl TrainError {
    /// Returns whether a device's memory does not suffice, this one's or that of another rank.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            TrainError::Backend(BackendError::OutOfMemory { .. })
                | TrainError::Rank(RankError::Failed { out_of_memory: true, .. })
        )
    }
}

/// Names the first few of a list.
fn names(ids: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = ids.iter().take(SHOWN).map(|id| format!("`{id}`")).collect();
    match ids.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
