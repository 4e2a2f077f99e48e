//! The gradients of a step, added up.

use super::subject::Subject;
use crate::model::backend::{BackendError, TrainingBackend};
use crate::model::trainable::TrainableAdapter;

/// The sum of the gradients of a step's micro-batches. Each micro-batch's are formed on their own, and then
/// added in the order of the micro-batches: so the sum is the same bit for bit wherever they were formed.
///
/// Those of whole weights are added up where they are formed, as there is no room for them twice.
pub(super) struct Sums<B: TrainingBackend> {
    pub(super) of: Vec<B::Buffer>,
    empty: bool,
}

impl<B: TrainingBackend> Sums<B> {
    pub(super) fn new(backend: &B, subject: &Subject<B>) -> Result<Sums<B>, BackendError> {
        let of = match subject {
            Subject::Adapter { .. } => {
                let zeros = |gradient: &B::Buffer| backend.zeros(backend.len(gradient));
                subject.gradients().into_iter().map(zeros).collect::<Result<_, _>>()?
            }
            Subject::Weights { .. } => Vec::new(),
        };
        Ok(Sums { of, empty: true })
    }

    /// Forgets what there is.
    pub(super) fn begin(&mut self, backend: &B, subject: &mut Subject<B>) {
        if let Subject::Weights { gradients, .. } = subject {
            gradients.clear(backend);
        }
        self.empty = true;
    }

    /// Adds the gradients of a micro-batch.
    pub(super) fn add(&mut self, backend: &B, subject: &mut Subject<B>) {
        let Subject::Adapter { adapter, .. } = subject else { return };
        if std::mem::take(&mut self.empty) {
            return self.swap(adapter);
        }
        let gradients = adapter.parameters().map(|parameter| &parameter.gradient);
        backend.add_each(&mut gradients.zip(&mut self.of).collect::<Vec<_>>());
    }

    /// Puts the sums in the place of the gradients.
    pub(super) fn finish(&mut self, subject: &mut Subject<B>) {
        if let Subject::Adapter { adapter, .. } = subject {
            self.swap(adapter);
        }
    }

    fn swap(&mut self, adapter: &mut TrainableAdapter<B>) {
        for (parameter, sum) in adapter.parameters_mut().zip(&mut self.of) {
            std::mem::swap(&mut parameter.gradient, sum);
        }
    }
}
