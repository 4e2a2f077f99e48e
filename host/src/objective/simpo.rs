//! Simple preference optimisation: <https://arxiv.org/abs/2405.14734>, equation 6.
//!
//! `L = -log σ(β·a(w|x) - β·a(l|x) - γ)`, where `a` is the mean logprob of a completion's tokens.
//! There is no reference.

use super::{PairLoss, Scored};

/// Returns the loss of a pair.
///
/// - `beta`: scale of the rewards; positive, usually 2 to 2.5.
/// - `gamma`: the margin of rewards aimed at; 0 or more.
pub fn simpo(chosen: Scored, rejected: Scored, beta: f64, gamma: f64) -> PairLoss {
    let z = beta * (chosen.mean() - rejected.mean()) - gamma;
    let [of_chosen, of_rejected] = [chosen, rejected].map(|s| beta / s.tokens as f64);
    PairLoss::logistic(z, 0.0, [of_chosen, -of_rejected])
}
