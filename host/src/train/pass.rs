//! What a step's items come to: their loss, and its gradients.

use std::ops::Range;

use super::batches::micro_batches;
use super::items::{Item, Objective, Sequence};
use super::metrics::Share;
use super::{TrainError, Trainer};
use crate::model::backend::{TokenLogprob, TrainingBackend};
use crate::model::backward::Sequences;
use crate::objective::{Scored, kto, sft};
use crate::run::seed;

impl<B: TrainingBackend> Trainer<B> {
    /// Fills the gradients with those of some items' loss.
    pub(super) fn accumulate(&mut self, indices: &[usize]) -> Result<Share, TrainError> {
        let mut share = Share::default();
        self.look(indices, &mut share)?;
        let Trainer { backend, subject, items, objective, settings, activations, .. } = self;
        let backend = &**backend;
        let epoch = self.batches.epoch(self.step);
        let all_trained: usize = indices.iter().map(|&i| items[i].trained_tokens()).sum();
        let (lengths, learnt) = (&self.lengths[0], objective.learnt());
        subject.clear_gradients(backend);
        for micro_batch in micro_batches(indices, lengths, settings.micro_batch_tokens) {
            let rewards = objective.makes_reward_model();
            let sequences = sequences(items, &micro_batch, &learnt, rewards, settings.seed, epoch);
            let mut pass = subject.pass(backend, activations);
            share.tokens += sequences.tokens.len();
            match objective {
                // Every token has the same weight, known before the pass.
                Objective::Sft => {
                    let weights = vec![1.0; sequences.targets.len()];
                    let slopes = sft::sft_gradient(&weights, all_trained as f64);
                    let said = backend.enter(|| {
                        pass.forward(&sequences)?;
                        pass.backward(&sequences, &slopes)
                    })?;
                    let logprobs: Vec<f32> = said.iter().map(|token| token.logprob).collect();
                    share.loss += sft::sft_loss(&logprobs, &weights, all_trained as f64);
                    share.see(&said);
                }
                Objective::Preference { objective, .. } if rewards => backend.enter(|| {
                    pass.forward(&sequences)?;
                    let given = pass.rewards(&sequences)?;
                    let mut slopes = Vec::with_capacity(given.len());
                    for (&i, given) in micro_batch.iter().zip(given.chunks_exact(learnt.len())) {
                        let scored: Vec<Scored> = rewarded(&items[i], given);
                        share.trained_tokens += items[i].trained_tokens();
                        slopes.extend(share.compare(objective, &scored, &[], true, indices.len()));
                    }
                    pass.backward_rewards(&sequences, &slopes)
                })?,
                Objective::Preference { objective, reference } => backend.enter(|| {
                    pass.forward(&sequences)?;
                    let said = pass.logprobs(&sequences)?;
                    share.see(&said);
                    let mut rest = &said[..];
                    let mut slopes = Vec::with_capacity(said.len());
                    for &i in &micro_batch {
                        let of_tokens = rest;
                        let scored = scored(&items[i], &learnt, &reference[i], &mut rest);
                        let desirable = items[i].desirable;
                        let of_item =
                            share.compare(objective, &scored, of_tokens, desirable, indices.len());
                        for (slope, scored) in of_item.into_iter().zip(&scored) {
                            slopes.extend(std::iter::repeat_n(slope as f32, scored.tokens));
                        }
                    }
                    pass.backward_from(&sequences, &slopes)
                })?,
            }
        }
        Ok(share)
    }

    /// Looks at what is not learnt from, where there is such: what it comes to is known before any
    /// loss of the step is formed.
    fn look(&mut self, indices: &[usize], share: &mut Share) -> Result<(), TrainError> {
        let Trainer { backend, subject, items, objective, settings, activations, .. } = self;
        let Objective::Preference { objective: preference, reference } = &*objective else {
            return Ok(());
        };
        if preference.is_paired() {
            return Ok(());
        }
        let backend = &**backend;
        let epoch = self.batches.epoch(self.step);
        let (lengths, looked_at) = (&self.lengths[1], objective.looked_at());
        let mut mismatched = Vec::new();
        for micro_batch in micro_batches(indices, lengths, settings.micro_batch_tokens) {
            let sequences = sequences(items, &micro_batch, &looked_at, false, settings.seed, epoch);
            let mut pass = subject.pass(backend, activations);
            share.tokens += sequences.tokens.len();
            let said = backend.enter(|| {
                pass.forward(&sequences)?;
                pass.score(&sequences)
            })?;
            let mut rest = &said[..];
            for &i in &micro_batch {
                mismatched.extend(scored(&items[i], &looked_at, &reference[i], &mut rest));
            }
        }
        share.kl = Some(kto::reference_point(&mismatched));
        Ok(())
    }
}

/// Puts some sequences of items into a pass, for their logprobs or, where `rewards`, for these.
fn sequences(
    items: &[Item],
    indices: &[usize],
    which: &Range<usize>,
    rewards: bool,
    seed: u64,
    epoch: u64,
) -> Sequences {
    let mut sequences = Sequences::default();
    for Item { id, sequences: of_item, .. } in indices.iter().map(|&i| &items[i]) {
        let of_item = which.clone().zip(&of_item[which.clone()]);
        for (nth, Sequence { tokens, trained }) in of_item {
            let place = [seed.into(), "dropout".into(), epoch.into(), id.as_str().into()];
            // The only sequence of an example needs no number.
            let nth = (nth > 0).then(|| (nth as u64).into());
            let seed = seed::of(place.into_iter().chain(nth));
            match rewards {
                true => sequences.push_rewarded(tokens, seed),
                false => sequences.push(tokens, trained, seed),
            }
        }
    }
    sequences
}

/// Returns what is known of an item's sequences, given their rewards.
fn rewarded(item: &Item, rewards: &[f64]) -> Vec<Scored> {
    let of = |(sequence, &reward): (&Sequence, &f64)| Scored {
        policy: reward,
        reference: 0.0,
        tokens: sequence.trained_tokens(),
    };
    item.sequences.iter().zip(rewards).map(of).collect()
}

/// Returns what is known of some sequences of an item, and takes what the head said of them from
/// `rest`.
fn scored(
    item: &Item,
    which: &Range<usize>,
    reference: &[f64],
    rest: &mut &[TokenLogprob],
) -> Vec<Scored> {
    let sequences = item.sequences[which.clone()].iter().zip(&reference[which.clone()]);
    sequences
        .map(|(sequence, &reference)| {
            let tokens = sequence.trained_tokens();
            let (own, others) = rest.split_at(tokens);
            *rest = others;
            let policy = own.iter().map(|token| f64::from(token.logprob)).sum();
            Scored { policy, reference, tokens }
        })
        .collect()
}
