//! The hinge loss of preferences: <https://arxiv.org/abs/2309.06657>.
//!
//! `L = max(0, 1 - βΔ)`, `Δ` as in [`dpo`](super::dpo): SLiC's calibration loss
//! (<https://arxiv.org/abs/2305.10425>) on log ratios, with a margin of `1/β`, and without its
//! regularisation term, whose place the reference takes.

use super::{PairLoss, Scored};

/// Returns the loss of a pair: 1 where the policy is the reference, 0 once the margin is `1/beta`.
///
/// - `beta`: the inverse of the margin aimed at, in nats; positive.
pub fn hinge(chosen: Scored, rejected: Scored, beta: f64) -> PairLoss {
    let short = 1.0 - beta * (chosen.log_ratio() - rejected.log_ratio());
    if short <= 0.0 {
        return PairLoss { loss: 0.0, slopes: [0.0, 0.0] };
    }
    PairLoss { loss: short, slopes: [-beta, beta] }
}
