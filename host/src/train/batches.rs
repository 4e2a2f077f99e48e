//! Which examples make a step, in which order, and how a step's examples are cut to fit in memory.

use super::settings::TrainSettings;
use crate::run::seed;

/// The steps of a run over some examples or items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Batches {
    examples: usize,
    per_step: usize,
    per_epoch: u64,
    steps: u64,
    shuffle: Option<u64>,
}

impl Batches {
    pub(super) fn new(settings: &TrainSettings, examples: usize) -> Batches {
        let per_step = settings.examples_per_step().min(examples).max(1);
        let per_epoch = examples.div_ceil(per_step) as u64;
        let steps = (settings.num_train_epochs * per_epoch as f64).ceil() as u64;
        let shuffle = settings.shuffle.then_some(settings.seed);
        Batches { examples, per_step, per_epoch, steps, shuffle }
    }

    /// Returns how many steps there are in all.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the epoch of a step, counted from 0.
    pub(super) fn epoch(&self, step: u64) -> u64 {
        step / self.per_epoch
    }

    /// Returns how many epochs are over after so many steps.
    pub(super) fn epochs_after(&self, steps: u64) -> f64 {
        steps as f64 / self.per_epoch as f64
    }

    /// Returns the indices of a step's examples, in order. The last step of an epoch takes what is
    /// left.
    pub(super) fn of_step(&self, step: u64) -> Vec<usize> {
        let order = order(self.examples, self.shuffle, self.epoch(step));
        let start = (step % self.per_epoch) as usize * self.per_step;
        let end = (start + self.per_step).min(self.examples);
        order[start..end].to_vec()
    }
}

/// Returns the order in which an epoch, counted from 0, sees so many examples: one that a seed draws, or
/// their own.
pub fn order(examples: usize, shuffle: Option<u64>, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..examples).collect();
    if let Some(seed) = shuffle {
        seed::shuffle(seed::of([seed.into(), "order".into(), epoch.into()]), &mut order);
    }
    order
}

/// Cuts a step's examples, of so many rows each, into runs of at most `most` rows; a longer
/// example is alone.
pub(super) fn micro_batches(indices: &[usize], lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &index in indices {
        let tokens = lengths[index];
        match batches.last_mut() {
            Some(batch) if tokens <= room => batch.push(index),
            _ => {
                batches.push(vec![index]);
                room = most.max(tokens);
            }
        }
        room -= tokens;
    }
    batches
}

/// Returns the most rows that [`micro_batches`] can put into one run, whatever the order.
pub(super) fn largest_micro_batch(lengths: &[usize], per_step: usize, most: usize) -> usize {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let longest = lengths.first().copied().unwrap_or(0);
    let step: usize = lengths.iter().take(per_step).sum();
    longest.max(step.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_sees_each_example_once() {
        let check = |count: usize, batch: usize, epochs: f64, shuffle: bool, sizes: &[usize]| {
            let settings = TrainSettings {
                per_device_train_batch_size: batch,
                num_train_epochs: epochs,
                shuffle,
                ..TrainSettings::default()
            };
            let batches = Batches::new(&settings, count);
            assert_eq!(batches.steps(), sizes.len() as u64);
            let all: Vec<Vec<usize>> = (0..batches.steps()).map(|s| batches.of_step(s)).collect();
            assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            let mut first: Vec<usize> = all.concat().into_iter().take(count).collect();
            first.sort_unstable();
            assert_eq!(first, (0..first.len()).collect::<Vec<_>>());
        };
        check(5, 2, 1.0, false, &[2, 2, 1]);
        check(5, 2, 2.0, true, &[2, 2, 1, 2, 2, 1]);
        check(4, 2, 1.5, true, &[2, 2, 2]);
        check(3, 100, 2.0, true, &[3, 3]);
        check(1, 1, 0.1, false, &[1]);
    }

    #[test]
    fn orders_differ_between_epochs_and_seeds() {
        let order = |seed, epoch| {
            let settings = TrainSettings { shuffle: true, seed, ..TrainSettings::default() };
            Batches::new(&TrainSettings { per_device_train_batch_size: 50, ..settings }, 50)
                .of_step(epoch)
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn micro_batches_keep_order_and_bound() {
        let check = |lengths: &[usize], most: usize, expected: &[&[usize]]| {
            let indices: Vec<usize> = (0..lengths.len()).collect();
            let batches = micro_batches(&indices, lengths, most);
            assert_eq!(batches, expected);
            let largest = largest_micro_batch(lengths, lengths.len(), most);
            for batch in batches {
                assert!(batch.iter().map(|&i| lengths[i]).sum::<usize>() <= largest);
            }
        };
        check(&[3, 3, 3], 6, &[&[0, 1], &[2]]);
        check(&[3, 9, 3], 6, &[&[0], &[1], &[2]]);
        check(&[9, 3, 3], 6, &[&[0], &[1, 2]]);
        check(&[2, 2, 2], 100, &[&[0, 1, 2]]);
        check(&[2, 2], 1, &[&[0], &[1]]);
    }
}
