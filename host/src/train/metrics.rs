//! What a step came to, under TRL's names.

use serde::Serialize;

use crate::model::backend::TokenLogprob;
use crate::objective::{Outcome, Preference, Scored};

/// What one step came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Number of the step, from 1.
    pub step: u64,
    /// Number of steps in all.
    pub steps: u64,
    /// The loss before the update: the mean over the trained tokens of the negative logprob, in nats,
    /// or the mean of a preference loss over the items.
    pub loss: f64,
    /// Global norm of the gradients before they are clipped.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// How many times the data have been seen, this step included.
    pub epoch: f64,
    /// Mean over the trained tokens of the entropy of the policy's distribution, in nats.
    pub entropy: f64,
    /// Tokens that were trained.
    pub trained_tokens: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// What only a preference objective has.
    #[serde(flatten)]
    pub preference: Option<PreferenceMetrics>,
}

/// Means over the items of a step, before the update. Of items with several pairs, the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PreferenceMetrics {
    /// Implicit reward of what is preferred: `beta` times its log ratio to the reference, or without
    /// a reference times its mean logprob.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// The same of what is not.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// Part of the items in which the former is the larger; in 0..=1.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// Mean difference of both rewards.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: f64,
    /// Summed logprob of what is preferred under the policy, in nats.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// The same of what is not.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
}

/// What the items of a step, or of a part of it, came to.
#[derive(Default)]
pub(super) struct Share {
    pub(super) loss: f64,
    /// Sum over the trained tokens.
    pub(super) entropy: f64,
    pub(super) trained_tokens: usize,
    pub(super) tokens: usize,
    pub(super) preference: Option<PreferenceMetrics>,
}

impl Share {
    /// Takes note of what the head said.
    pub(super) fn see(&mut self, said: &[TokenLogprob]) {
        self.entropy += said.iter().map(|token| f64::from(token.entropy)).sum::<f64>();
        self.trained_tokens += said.len();
    }

    /// Adds an item's part of a mean over `items`, and returns the slope of that mean along each of
    /// the item's logprobs.
    pub(super) fn compare(
        &mut self,
        objective: &Preference,
        item: &[Scored],
        items: usize,
    ) -> Vec<f64> {
        let part = 1.0 / items as f64;
        let Outcome { loss, slopes, rewards: [chosen, rejected] } = objective.outcome(item);
        self.loss += part * loss;
        let means = self.preference.get_or_insert_default();
        means.rewards_chosen += part * chosen;
        means.rewards_rejected += part * rejected;
        means.rewards_margins += part * (chosen - rejected);
        means.rewards_accuracies += if chosen > rejected { part } else { 0.0 };
        means.logps_chosen += part * item[0].policy;
        means.logps_rejected += part * item[1].policy;
        slopes.into_iter().map(|slope| part * slope).collect()
    }
}
