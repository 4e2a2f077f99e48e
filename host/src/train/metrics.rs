//! What a step came to, under TRL's names.

use serde::{Deserialize, Serialize};

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
    /// Mean over the trained tokens of the entropy of the policy's distribution, in nats; absent of a reward
    /// model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Tokens that were trained; of a reward model, those of the completions that it gave rewards.
    pub trained_tokens: usize,
    /// Tokens of the sequences; a prompt that goes through the model once for two completions counts with each.
    pub tokens: usize,
    /// What only a preference objective has; all absent under another.
    #[serde(flatten)]
    pub preference: PreferenceMetrics,
}

/// Means over the items of a step (of logits, over their tokens), before the update. Of items with several
/// pairs, the first counts.
/// What no item of the step has is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// Implicit reward of what is preferred: `beta` times its log ratio to the reference, or without
    /// a reference times its mean logprob; or the reward that a reward model gives.
    #[serde(rename = "rewards/chosen", default, skip_serializing_if = "Option::is_none")]
    pub rewards_chosen: Option<f64>,
    /// The same of what is not.
    #[serde(rename = "rewards/rejected", default, skip_serializing_if = "Option::is_none")]
    pub rewards_rejected: Option<f64>,
    /// Part of the items in which the former is the larger, in 0..=1; absent without pairs.
    #[serde(rename = "rewards/accuracies", default, skip_serializing_if = "Option::is_none")]
    pub rewards_accuracies: Option<f64>,
    /// Difference of both rewards.
    #[serde(rename = "rewards/margins", default, skip_serializing_if = "Option::is_none")]
    pub rewards_margins: Option<f64>,
    /// Summed logprob of what is preferred under the policy, in nats; absent of a reward model.
    #[serde(rename = "logps/chosen", default, skip_serializing_if = "Option::is_none")]
    pub logps_chosen: Option<f64>,
    /// The same of what is not.
    #[serde(rename = "logps/rejected", default, skip_serializing_if = "Option::is_none")]
    pub logps_rejected: Option<f64>,
    /// Mean of the policy's logits over the vocabulary and over the trained tokens of what is
    /// preferred, as TRL's `DPOTrainer` and `KTOTrainer` have it.
    #[serde(rename = "logits/chosen", default, skip_serializing_if = "Option::is_none")]
    pub logits_chosen: Option<f64>,
    /// The same of what is not.
    #[serde(rename = "logits/rejected", default, skip_serializing_if = "Option::is_none")]
    pub logits_rejected: Option<f64>,
    /// The reference point of a loss without pairs, in nats; 0 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}

/// What the items of a step, or of a part of it, came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Share {
    pub(super) loss: f64,
    /// Sum over the trained tokens.
    pub(super) entropy: f64,
    pub(super) trained_tokens: usize,
    pub(super) tokens: usize,
    /// The reference point of the step, where the objective has no pairs.
    pub(super) kl: Option<f64>,
    chosen: Side,
    rejected: Side,
    /// Items that have both, and those of them with the larger reward where it should be.
    pairs: usize,
    right: usize,
}

/// What is preferred, or what is not.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Side {
    count: usize,
    rewards: f64,
    /// Sum over the completions of their logprobs.
    logps: f64,
    /// Sum over the tokens of the mean of each one's logits.
    logits: f64,
    /// None where the head was not asked, and nothing has logprobs or logits.
    tokens: usize,
}

impl Side {
    fn append(&mut self, other: Side) {
        self.count += other.count;
        self.rewards += other.rewards;
        self.logps += other.logps;
        self.logits += other.logits;
        self.tokens += other.tokens;
    }

    fn add(&mut self, reward: f64, logp: f64, said: &[TokenLogprob]) {
        self.count += 1;
        self.rewards += reward;
        self.logps += logp;
        self.logits += said.iter().map(|token| f64::from(token.mean_logit)).sum::<f64>();
        self.tokens += said.len();
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.count > 0).then(|| sum / self.count as f64)
    }

    fn mean_logp(&self) -> Option<f64> {
        self.mean(self.logps).filter(|_| self.tokens > 0)
    }

    fn mean_logit(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.logits / self.tokens as f64)
    }
}

impl Share {
    /// Begins that of a pass over sequences of so many tokens, with the step's reference point.
    pub(super) fn of(tokens: usize, kl: Option<f64>) -> Share {
        Share { tokens, kl, ..Share::default() }
    }

    /// Takes note of what the head said.
    pub(super) fn see(&mut self, said: &[TokenLogprob]) {
        self.entropy += said.iter().map(|token| f64::from(token.entropy)).sum::<f64>();
        self.trained_tokens += said.len();
    }

    /// Adds an item's part of a mean over `items`, and returns the slope of that mean along each of
    /// the item's logprobs or rewards. `said` is what the head said of the item's tokens; empty where it
    /// was not asked.
    pub(super) fn compare(
        &mut self,
        objective: &Preference,
        item: &[Scored],
        said: &[TokenLogprob],
        desirable: bool,
        items: usize,
    ) -> Vec<f64> {
        let part = 1.0 / items as f64;
        let point = self.kl.unwrap_or(0.0);
        let Outcome { loss, slopes, rewards } = objective.outcome(item, desirable, point);
        self.loss += part * loss;
        let of = |i: usize| match said.is_empty() {
            true => said,
            false => {
                let before: usize = item[..i].iter().map(|scored| scored.tokens).sum();
                &said[before..before + item[i].tokens]
            }
        };
        match rewards {
            [Some(chosen), Some(rejected)] => {
                self.chosen.add(chosen, item[0].policy, of(0));
                self.rejected.add(rejected, item[1].policy, of(1));
                self.pairs += 1;
                self.right += usize::from(chosen > rejected);
            }
            [Some(reward), None] => self.chosen.add(reward, item[0].policy, of(0)),
            [None, Some(reward)] => self.rejected.add(reward, item[0].policy, of(0)),
            [None, None] => {}
        }
        slopes.into_iter().map(|slope| part * slope).collect()
    }

    /// Adds what comes after it in the step.
    pub(super) fn append(&mut self, other: Share) {
        self.loss += other.loss;
        self.entropy += other.entropy;
        self.trained_tokens += other.trained_tokens;
        self.tokens += other.tokens;
        self.kl = other.kl;
        self.chosen.append(other.chosen);
        self.rejected.append(other.rejected);
        self.pairs += other.pairs;
        self.right += other.right;
    }

    /// Returns what only a preference objective has.
    pub(super) fn preference(&self) -> PreferenceMetrics {
        let Share { chosen, rejected, pairs, right, kl, .. } = self;
        let [of_chosen, of_rejected] = [chosen, rejected].map(|side| side.mean(side.rewards));
        PreferenceMetrics {
            rewards_chosen: of_chosen,
            rewards_rejected: of_rejected,
            rewards_accuracies: (*pairs > 0).then(|| *right as f64 / *pairs as f64),
            rewards_margins: of_chosen.zip(of_rejected).map(|(chosen, rejected)| chosen - rejected),
            logps_chosen: chosen.mean_logp(),
            logps_rejected: rejected.mean_logp(),
            logits_chosen: chosen.mean_logit(),
            logits_rejected: rejected.mean_logit(),
            kl: *kl,
        }
    }
}
