//! Odds ratio preference optimisation: <https://arxiv.org/abs/2403.07691>, equations 4, 6 and 7.
//!
//! `L = -a(w|x) - λ·log σ(log odds(w|x) - log odds(l|x))`, where `a` is the mean logprob of a
//! completion's tokens and `odds = exp(a) / (1 - exp(a))`. There is no reference.
//!
//! Where this differs from others:
//!
//! 1. The supervised term is over the completion, as in the paper; TRL has the prompt in it as well.
//! 2. It is the mean of the items' means. TRL's is one mean over the tokens of a batch, so that it
//!    depends on how a step is cut into batches.

use super::{PairLoss, Scored, log_sigmoid, sigmoid};

/// Returns the loss of a pair.
///
/// - `beta`: weight of the odds ratio beside the supervised loss, the paper's λ; positive.
pub fn orpo(chosen: Scored, rejected: Scored, beta: f64) -> PairLoss {
    let (odds, dodds) = log_odds(chosen);
    let (other_odds, other_dodds) = log_odds(rejected);
    let z = odds - other_odds;
    let slope = -beta * sigmoid(-z);
    let per_token = 1.0 / chosen.tokens as f64;
    PairLoss {
        loss: -chosen.mean() - beta * log_sigmoid(z),
        slopes: [slope * dodds - per_token, -slope * other_dodds],
    }
}

/// Returns the log odds of a completion's mean token, and their derivative with respect to its summed
/// logprob.
fn log_odds(scored: Scored) -> (f64, f64) {
    // The odds of what is certain are infinite.
    let mean = if scored.mean() > -1e-12 { -1e-12 } else { scored.mean() };
    let doubt = -mean.exp_m1();
    (mean - doubt.ln(), 1.0 / (doubt * scored.tokens as f64))
}
