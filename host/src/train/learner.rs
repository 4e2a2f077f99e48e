//! What a step's items come to: their loss, and its gradients.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batches::{Batches, micro_batches};
use super::items::{Item, Objective, Sequence, shares_prompts};
use super::metrics::Share;
use super::subject::Subject;
use super::{TrainError, TrainMemory, TrainSettings};
use crate::model::activations::{Activations, PassShape};
use crate::model::backend::{BackendError, TokenLogprob, TrainingBackend};
use crate::model::backward::Sequences;
use crate::objective::{Scored, sft};
use crate::run::seed;

/// A model and what it learns from. It forms losses and gradients, and moves nothing: a trainer has one, and so
/// has each process that works for it.
pub(super) struct Learner<B: TrainingBackend> {
    pub(super) backend: Arc<B>,
    pub(super) subject: Subject<B>,
    pub(super) items: Vec<Item>,
    pub(super) objective: Objective,
    pub(super) settings: TrainSettings,
    pub(super) batches: Batches,
    /// Rows of a pass that each item takes, where it is learnt from, and where it is only looked at.
    lengths: [Vec<usize>; 2],
    /// Whether a prompt goes through the model once for the completions that are compared ([`shares_prompts`]).
    shares: bool,
    pub(super) activations: Activations<B::Buffer>,
}

/// A step's items, cut into micro-batches, and what is the same for all of these.
pub(super) struct Cut {
    /// From 0.
    pub(super) step: u64,
    /// In which the step is, from 0.
    epoch: u64,
    /// How many items there are.
    items: usize,
    /// How many of their tokens count.
    trained_tokens: usize,
    /// Of what is not learnt from, where there is such: what it comes to is known before any loss of the step
    /// is formed.
    pub(super) looked_at: Vec<Vec<usize>>,
    pub(super) learnt: Vec<Vec<usize>>,
}

/// What a micro-batch comes to that is not learnt from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Looked {
    /// Tokens of its sequences.
    pub(super) tokens: usize,
    pub(super) scored: Vec<Scored>,
}

impl<B: TrainingBackend> Learner<B> {
    pub(super) fn new(
        backend: Arc<B>,
        subject: Subject<B>,
        items: Vec<Item>,
        objective: Objective,
        settings: TrainSettings,
    ) -> Result<Learner<B>, BackendError> {
        let batches = Batches::new(&settings, items.len());
        let (spec, lora) = (&subject.model().spec, subject.lora());
        let (pairs, dropout) = (&subject.pairs(), lora.is_some_and(|lora| lora.dropout > 0.0));
        let shares = shares_prompts(lora);
        let lengths = [objective.learnt(), objective.looked_at()].map(|which| {
            items.iter().map(|item| item.rows(which.clone(), shares)).collect::<Vec<_>>()
        });
        let [rows, looked_at] = [0, 1].map(|i| TrainMemory::rows(&lengths[i], &settings));
        let rows = rows.max(looked_at);
        let TrainSettings { gradient_checkpointing, .. } = settings;
        let shape = PassShape { spec, pairs, dropout, rows, gradient_checkpointing };
        let activations = Activations::new(shape, &mut |room| backend.make_room(room))?;
        let learner = Learner {
            backend,
            subject,
            items,
            objective,
            settings,
            batches,
            lengths,
            shares,
            activations,
        };
        Ok(learner)
    }

    /// Cuts the items of a step, counted from 0.
    pub(super) fn cut(&self, step: u64, indices: &[usize]) -> Cut {
        let micro_batches =
            |lengths: &[usize]| micro_batches(indices, lengths, self.settings.micro_batch_tokens);
        let looked_at = match self.objective.is_paired() {
            true => Vec::new(),
            false => micro_batches(&self.lengths[1]),
        };
        Cut {
            step,
            epoch: self.batches.epoch(step),
            items: indices.len(),
            trained_tokens: indices.iter().map(|&i| self.items[i].trained_tokens()).sum(),
            looked_at,
            learnt: micro_batches(&self.lengths[0]),
        }
    }

    /// Scores what is not learnt from of a micro-batch.
    pub(super) fn look(&mut self, cut: &Cut, micro_batch: &[usize]) -> Result<Looked, TrainError> {
        let looked_at = self.objective.looked_at();
        let sequences = self.sequences(cut, micro_batch, &looked_at, false);
        let Learner { backend, subject, items, objective, activations, .. } = self;
        let backend = &**backend;
        let mut pass = subject.pass(backend, activations);
        let said = backend.enter(|| {
            pass.forward(&sequences)?;
            pass.score(&sequences)
        })?;
        let Objective::Preference { reference, .. } = objective else {
            unreachable!("every sequence of an example is learnt from")
        };
        let mut rest = &said[..];
        let of_item = |&i: &usize| scored(&items[i], &looked_at, &reference[i], &mut rest);
        let scored = micro_batch.iter().flat_map(of_item).collect();
        Ok(Looked { tokens: tokens(items, micro_batch, &looked_at), scored })
    }

    /// Forms the gradients of a micro-batch's part of the loss: an adapter's in the place of those that there are, and
    /// those of whole weights on top of them ([`Sums`](super::sums::Sums)). `kl` is the step's reference point, where the
    /// objective has no pairs.
    pub(super) fn learn(
        &mut self,
        cut: &Cut,
        micro_batch: &[usize],
        kl: Option<f64>,
    ) -> Result<Share, TrainError> {
        let (learnt, rewards) = (self.objective.learnt(), self.objective.makes_reward_model());
        let sequences = self.sequences(cut, micro_batch, &learnt, rewards);
        let Learner { backend, subject, items, objective, activations, .. } = self;
        let backend = &**backend;
        if let Subject::Adapter { adapter, .. } = subject {
            adapter.clear_gradients(backend);
        }
        let mut pass = subject.pass(backend, activations);
        let mut share = Share::of(tokens(items, micro_batch, &learnt), kl);
        match objective {
            // Every token has the same weight, known before the pass.
            Objective::Sft => {
                let weights = vec![1.0; sequences.targets.len()];
                let slopes = sft::sft_gradient(&weights, cut.trained_tokens as f64);
                let said = backend.enter(|| {
                    pass.forward(&sequences)?;
                    pass.backward(&sequences, &slopes)
                })?;
                let logprobs: Vec<f32> = said.iter().map(|token| token.logprob).collect();
                share.loss += sft::sft_loss(&logprobs, &weights, cut.trained_tokens as f64);
                share.see(&said);
            }
            Objective::Preference { objective, .. } if rewards => backend.enter(|| {
                pass.forward(&sequences)?;
                let given = pass.rewards(&sequences)?;
                let mut slopes = Vec::with_capacity(given.len());
                for (&i, given) in micro_batch.iter().zip(given.chunks_exact(learnt.len())) {
                    let scored: Vec<Scored> = rewarded(&items[i], given);
                    share.trained_tokens += items[i].trained_tokens();
                    slopes.extend(share.compare(objective, &scored, &[], true, cut.items));
                }
                pass.backward_rewards(&sequences, &slopes)
            })?,
            Objective::Preference { objective, reference } => backend.enter(|| {
                pass.forward(&sequences)?;
                let said = pass.logprobs(&sequences)?;
                share.see(&said);
                let mut rest = &said[..];
                let mut slopes = Vec::with_capacity(said.len());
                for &i in micro_batch {
                    let of_tokens = rest;
                    let scored = scored(&items[i], &learnt, &reference[i], &mut rest);
                    let desirable = items[i].desirable;
                    let of_item =
                        share.compare(objective, &scored, of_tokens, desirable, cut.items);
                    for (slope, scored) in of_item.into_iter().zip(&scored) {
                        slopes.extend(std::iter::repeat_n(slope as f32, scored.tokens));
                    }
                }
                pass.backward_from(&sequences, &slopes)
            })?,
        }
        Ok(share)
    }

    /// Puts some sequences of items into a pass, for their logprobs or, where `rewards`, for these.
    fn sequences(
        &self,
        cut: &Cut,
        indices: &[usize],
        which: &Range<usize>,
        rewards: bool,
    ) -> Sequences {
        let mut sequences = Sequences::default();
        for item in indices.iter().map(|&i| &self.items[i]) {
            let (seed, id) = (self.settings.seed, item.id.as_str());
            let place = || [seed.into(), "dropout".into(), cut.epoch.into(), id.into()];
            let of_item = which.clone().zip(item.shared(which.clone(), self.shares));
            for (nth, (Sequence { tokens, trained }, shared)) in of_item {
                // The only sequence of an example needs no number.
                let nth = (nth > 0).then(|| (nth as u64).into());
                let seed = seed::of(place().into_iter().chain(nth));
                match rewards {
                    true => sequences.branch_rewarded(tokens, shared, seed),
                    false => sequences.branch(tokens, trained, shared, seed),
                }
            }
        }
        sequences
    }
}

/// Returns how many tokens some sequences of items have, shared or not.
fn tokens(items: &[Item], indices: &[usize], which: &Range<usize>) -> usize {
    indices.iter().map(|&i| items[i].tokens(which.clone())).sum()
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
