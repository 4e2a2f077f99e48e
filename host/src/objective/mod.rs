//! Losses: pure functions from logprobs to a number and its gradient.
//!
//! A supervised loss is a sum over tokens ([`sft`]), a preference loss one over items: sequences that
//! are compared with each other. Either way a batch that is worked on in parts is the same as the
//! whole: each part gives its share of the loss, and the shares add up.
//!
//! Every preference loss depends on a sequence through the sum of its logprobs alone, so its gradient
//! is one number for each sequence, and each of the sequence's tokens gets that number.

use serde::{Deserialize, Serialize};

pub mod dpo;
pub mod hinge;
pub mod ipo;
pub mod orpo;
pub mod sft;
pub mod simpo;

/// What is known of a completion when a preference loss is formed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Sum of the logprobs of its tokens under the policy, in nats.
    pub policy: f64,
    /// The same under the reference; 0 where the objective has none.
    pub reference: f64,
    /// How many tokens it has; at least 1.
    pub tokens: usize,
}

impl Scored {
    /// Returns the log of how much likelier the policy finds it than the reference does, in nats.
    pub fn log_ratio(&self) -> f64 {
        self.policy - self.reference
    }

    /// Returns its mean logprob under the policy, in nats a token.
    pub fn mean(&self) -> f64 {
        self.policy / self.tokens as f64
    }
}

/// A loss of a chosen and a rejected completion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// Its value.
    pub loss: f64,
    /// Its derivatives with respect to the policy's summed logprobs of chosen and rejected.
    pub slopes: [f64; 2],
}

impl PairLoss {
    /// Returns the loss `-(1 - smoothing)·log σ(z) - smoothing·log σ(-z)`, given the derivatives of
    /// `z` with respect to both summed logprobs.
    fn logistic(z: f64, smoothing: f64, dz: [f64; 2]) -> PairLoss {
        let loss = -(1.0 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z);
        let slope = smoothing * sigmoid(z) - (1.0 - smoothing) * sigmoid(-z);
        PairLoss { loss, slopes: dz.map(|dz| slope * dz) }
    }
}

/// What an item comes to under an objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its loss.
    pub loss: f64,
    /// The derivative of the loss with respect to the policy's summed logprob of each sequence.
    pub slopes: Vec<f64>,
    /// Implicit rewards of what is preferred and what is not, as TRL reports them.
    pub rewards: [f64; 2],
}

/// An objective over items of several sequences, with its hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "objective", rename_all = "lowercase", deny_unknown_fields)]
pub enum Preference {
    /// [`dpo::dpo`]
    Dpo {
        /// How strongly the policy is held to the reference; positive.
        beta: f64,
        /// Probability that a preference is the wrong way round; in [0, 0.5).
        label_smoothing: f64,
    },
    /// [`ipo::ipo`]
    Ipo {
        /// The margin aimed at is `1 / (2·beta)`; positive.
        beta: f64,
        /// Whether that is a margin of mean logprobs, in nats a token, or else of sums.
        length_averaged: bool,
    },
    /// [`hinge::hinge`]
    Hinge {
        /// The inverse of the margin aimed at, in nats; positive.
        beta: f64,
    },
    /// [`simpo::simpo`]
    SimPo {
        /// Scale of the rewards; positive.
        beta: f64,
        /// The margin of rewards aimed at; 0 or more.
        gamma: f64,
    },
    /// [`orpo::orpo`]
    Orpo {
        /// Weight of the odds ratio beside the supervised loss; positive. The paper's λ.
        beta: f64,
    },
}

impl Preference {
    /// Returns what the sequences of an item are, in order.
    ///
    /// They come in pairs, the first of which is to become likelier than the second: both follow the
    /// same prompt. Another pair of the item may have another prompt.
    pub fn roles(&self) -> &'static [&'static str] {
        &["chosen", "rejected"]
    }

    /// Returns whether the loss compares the policy with a reference.
    pub fn needs_reference(&self) -> bool {
        match self {
            Preference::Dpo { .. } | Preference::Ipo { .. } | Preference::Hinge { .. } => true,
            Preference::SimPo { .. } | Preference::Orpo { .. } => false,
        }
    }

    /// Checks that every hyper-parameter is in its range.
    pub fn check(&self) -> Result<(), ObjectiveError> {
        let (beta, other) = match *self {
            Preference::Dpo { beta, label_smoothing } => {
                let right = (0.0..0.5).contains(&label_smoothing);
                let range = "a number from 0 to below 0.5";
                (beta, Some(("label_smoothing", label_smoothing, range, right)))
            }
            Preference::SimPo { beta, gamma } => {
                (beta, Some(("gamma", gamma, "0 or more", gamma >= 0.0)))
            }
            Preference::Ipo { beta, .. } | Preference::Hinge { beta } => (beta, None),
            Preference::Orpo { beta } => (beta, None),
        };
        let beta = ("beta", beta, "a positive number", beta > 0.0);
        for (name, value, expected, right) in [Some(beta), other].into_iter().flatten() {
            if !right || !value.is_finite() {
                return Err(ObjectiveError { name, value, expected });
            }
        }
        Ok(())
    }

    /// Returns what an item comes to, given its sequences in the order of
    /// [`roles`](Preference::roles).
    pub fn outcome(&self, item: &[Scored]) -> Outcome {
        let (chosen, rejected) = (item[0], item[1]);
        let PairLoss { loss, slopes } = match *self {
            Preference::Dpo { beta, label_smoothing } => {
                dpo::dpo(chosen, rejected, beta, label_smoothing)
            }
            Preference::Ipo { beta, length_averaged } => {
                ipo::ipo(chosen, rejected, beta, length_averaged)
            }
            Preference::Hinge { beta } => hinge::hinge(chosen, rejected, beta),
            Preference::SimPo { beta, gamma } => simpo::simpo(chosen, rejected, beta, gamma),
            Preference::Orpo { beta } => orpo::orpo(chosen, rejected, beta),
        };
        let rewards = [chosen, rejected].map(|scored| self.reward(scored));
        Outcome { loss, slopes: slopes.to_vec(), rewards }
    }

    /// Returns the reward that the objective implies for a completion.
    fn reward(&self, scored: Scored) -> f64 {
        match *self {
            Preference::Dpo { beta, .. }
            | Preference::Ipo { beta, .. }
            | Preference::Hinge { beta } => beta * scored.log_ratio(),
            Preference::SimPo { beta, .. } | Preference::Orpo { beta } => beta * scored.mean(),
        }
    }
}

/// A hyper-parameter of an objective is out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is {value}, expected {expected}")]
pub struct ObjectiveError {
    /// Name of the setting.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}

/// Returns `1 / (1 + exp(-z))`.
fn sigmoid(z: f64) -> f64 {
    // The exponential of a large number would overflow.
    let small = (-z.abs()).exp();
    if z >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

/// Returns the log of [`sigmoid`].
fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests;
