//! Direct preference optimisation: <https://arxiv.org/abs/2305.18290>, equation 7.
//!
//! `L = -(1 - ε)·log σ(βΔ) - ε·log σ(-βΔ)` with
//! `Δ = log(π(w|x) / π_ref(w|x)) - log(π(l|x) / π_ref(l|x))`, all over whole completions.
//!
//! Where this differs from the paper:
//!
//! 1. `ε` smooths the labels (conservative DPO, <https://ericmitchell.ai/cdpo.pdf>); 0 is the
//!    paper's loss.

use super::{PairLoss, Scored};

/// Returns the loss of a pair: `ln 2` where the policy is the reference.
///
/// - `beta`: how strongly the policy is held to the reference; positive.
/// - `label_smoothing`: probability that the preference is the wrong way round; in [0, 0.5).
pub fn dpo(chosen: Scored, rejected: Scored, beta: f64, label_smoothing: f64) -> PairLoss {
    let margin = chosen.log_ratio() - rejected.log_ratio();
    PairLoss::logistic(beta * margin, label_smoothing, [beta, -beta])
}
