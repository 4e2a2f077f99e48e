//! The two halves of a pass at the head of a reward model, which is one row: its products are formed on the host.

use super::{Pass, Sequences};
use crate::model::backend::{BackendError, TrainingBackend};
use crate::model::head::product;
use crate::model::trainable::{Parameter, TrainableAdapter, Trained};

impl<B: TrainingBackend> Pass<'_, B> {
    /// Returns what the head of a reward model makes of each sequence after [`forward`](Pass::forward): the
    /// product with its last row, in f64 on the host, as [`crate::reward::rewards`] has it. Sequences have come
    /// by [`branch_rewarded`](Sequences::branch_rewarded), and the adapter has a head.
    pub fn rewards(&mut self, sequences: &Sequences) -> Result<Vec<f64>, BackendError> {
        let (rows, score) = self.scored_rows(sequences)?;
        Ok(rows.chunks_exact(score.len()).map(|row| product(&score, row)).collect())
    }

    /// Adds to the gradients of what is trained those of the sum of `slopes[i] * reward[i]` over the sequences,
    /// after [`forward`](Pass::forward) of the same.
    ///
    /// The gradient of the head is a sum over the sequences in their order, in f64, and is rounded to f32 once
    /// for each pass.
    pub fn backward_rewards(
        &mut self,
        sequences: &Sequences,
        slopes: &[f64],
    ) -> Result<(), BackendError> {
        let (rows, score) = self.scored_rows(sequences)?;
        let Pass { backend, trained, activations, .. } = self;
        let Parameter { gradient, .. } = head_of(trained);
        let mut sums: Vec<f64> =
            backend.view(gradient, 0..score.len())?.iter().copied().map(f64::from).collect();
        for (row, slope) in rows.chunks_exact(score.len()).zip(slopes) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += slope * f64::from(x));
        }
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        backend.write(&sums, gradient, 0);

        let of_row = |&slope: &f64| score.iter().map(move |&x| (slope * f64::from(x)) as f32);
        let of_rows: Vec<f32> = slopes.iter().flat_map(of_row).collect();
        let [.., dafter] = &mut activations.scored;
        backend.write(&of_rows, dafter, 0);
        self.backward_blocks(sequences)
    }

    /// Returns the rows that a reward model's head reads, `[sequences, hidden]`, and the head, `[hidden]`.
    fn scored_rows(&mut self, sequences: &Sequences) -> Result<(Vec<f32>, Vec<f32>), BackendError> {
        let Pass { backend, weights, trained, activations } = self;
        let (hidden, [_, after, ..]) = (weights.spec.hidden, &activations.scored);
        let rows = backend.view(after, 0..sequences.rows.len() * hidden)?.into_owned();
        let score = backend.view(&head_of(trained).values, 0..hidden)?.into_owned();
        Ok((rows, score))
    }
}

/// Returns the head of the reward model that is trained.
fn head_of<'a, B: TrainingBackend>(trained: &'a mut Trained<'_, B>) -> &'a mut Parameter<B> {
    let adapter = trained.adapter.as_deref_mut();
    adapter.and_then(TrainableAdapter::score_mut).expect("a trainer of rewards has a head")
}
