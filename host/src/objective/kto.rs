//! Kahneman-Tversky optimisation: <https://arxiv.org/abs/2402.01306>, equations 6 to 8.
//!
//! `L = λ_D·(1 - σ(β(r - z)))` of what is desirable and `λ_U·(1 - σ(β(z - r)))` of what is not, with
//! `r = log(π(y|x) / π_ref(y|x))` over the whole completion. There are no pairs.
//!
//! `z` is the reference point: how far the policy is from the reference as it is. It has no gradient,
//! and is estimated by completions of other prompts, as the mean of `log(π(y'|x) / π_ref(y'|x))`
//! over a step, at least 0.
//!
//! Where this differs from others:
//!
//! 1. The mean is over the whole optimiser step. TRL's is over one batch of it, so that it depends on
//!    how a step is cut into batches.

use super::{Scored, sigmoid};

/// Returns the loss of a completion, and its derivative with respect to the policy's summed logprob:
/// half the weight where the policy is the reference.
///
/// - `desirable`: whether it is to become likelier.
/// - `weight`: what its loss counts; positive.
/// - `beta`: how strongly the policy is held to the reference; positive.
/// - `reference_point`: in nats; 0 or more.
pub fn kto(
    completion: Scored,
    desirable: bool,
    weight: f64,
    beta: f64,
    reference_point: f64,
) -> (f64, f64) {
    let towards = if desirable { 1.0 } else { -1.0 };
    let z = towards * beta * (completion.log_ratio() - reference_point);
    let slope = -towards * beta * sigmoid(z) * sigmoid(-z);
    (weight * sigmoid(-z), weight * slope)
}

/// Returns the reference point of a step, given what completions of other prompts come to.
pub fn reference_point(mismatched: &[Scored]) -> f64 {
    let sum: f64 = mismatched.iter().map(Scored::log_ratio).sum();
    (sum / mismatched.len() as f64).max(0.0)
}
