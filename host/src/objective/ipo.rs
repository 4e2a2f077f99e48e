//! Identity preference optimisation: <https://arxiv.org/abs/2310.12036>, equation 17.
//!
//! `L = (Δ - 1/(2β))²`, `Δ` as in [`dpo`](super::dpo). The paper's τ is β.
//!
//! Where this differs from the paper:
//!
//! 1. Each completion's log ratio may be divided by its length, as TRL and LLaMA-Factory do, with
//!    the authors' agreement. `1/(2β)` then is in nats a token, and β means something else.

use super::{PairLoss, Scored};

/// Returns the loss of a pair: `1/(4β²)` where the policy is the reference.
///
/// - `beta`: the margin aimed at is `1/(2·beta)`; positive.
/// - `length_averaged`: whether that is a margin of mean logprobs, or else of sums.
pub fn ipo(chosen: Scored, rejected: Scored, beta: f64, length_averaged: bool) -> PairLoss {
    let [of_chosen, of_rejected] = [chosen, rejected].map(|scored| match length_averaged {
        true => 1.0 / scored.tokens as f64,
        false => 1.0,
    });
    let margin = of_chosen * chosen.log_ratio() - of_rejected * rejected.log_ratio();
    let excess = margin - 1.0 / (2.0 * beta);
    let slope = 2.0 * excess;
    PairLoss { loss: excess * excess, slopes: [slope * of_chosen, -slope * of_rejected] }
}
