//! Losses: pure functions from logprobs to a number and its gradient.
//!
//! A supervised loss is a sum over tokens ([`sft`]), a preference loss one over items: sequences that
//! are compared with each other. Either way a batch that is worked on in parts is the same as the
//! whole: each part gives its share of the loss, and the shares add up.
//!
//! Every preference loss depends on a sequence through one number alone, the sum of its logprobs or its
//! reward, so its gradient is one number for each sequence, and each of the sequence's tokens gets that
//! number, or the row that the reward is read from.

pub mod dpo;
pub mod hinge;
pub mod ipo;
pub mod kto;
pub mod orpo;
mod preference;
pub mod reward;
pub mod sft;
pub mod simpo;
pub mod sso;

use serde::{Deserialize, Serialize};

pub use preference::{Outcome, Preference};

/// What is known of a completion when a preference loss is formed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Sum of the logprobs of its tokens under the policy, in nats; its reward where a reward model is
    /// trained.
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
    /// Its derivatives with respect to the policy's summed logprobs of chosen and rejected, or to their
    /// rewards.
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
