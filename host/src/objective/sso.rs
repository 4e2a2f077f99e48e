//! Self-steering optimisation: <https://arxiv.org/abs/2410.17131>.
//!
//! A prompt is put plainly (`x`), under good principles (`x⁺`) and under bad ones (`x⁻`), and
//! completed each way (`y⁰`, `y⁺`, `y⁻`). `B(x, w, l)` is a loss of a pair, its reference under the
//! same prompt; `a` is the mean logprob of a completion's tokens. There are two methods of the name.
//!
//! The first version of the paper trains the policy itself ([`sso`]):
//!
//! `L = W·(B(x, y⁺, y⁻) + γ·G)` with `G = B(x⁺, y⁺, y⁻) + B(x⁻, y⁰, y⁺)` and
//! `W = σ(-(α·a(y⁺|x) + (1 - α)·a(y⁻|x)))`.
//!
//! The second trains a generator of preference data ([`sso_generator`], equations 1, 2 and 4):
//!
//! `L = B(x⁺, y⁺, y⁻) - γ·a(y⁺|x⁺) + B(x⁻, y⁰, y⁺) - γ·a(y⁰|x⁻)`.
//!
//! Where this differs from others:
//!
//! 1. What the authors' code weighs by `W` was the whole and became `G` alone; [`WeightScope`] chooses.
//! 2. `W` has a gradient, as in the authors' code; `w_detach` takes it away.
//! 3. The supervised terms are means over the completion. AutoAlign divides by the padded length of
//!    the batch, which makes its γ smaller.

use serde::{Deserialize, Serialize};

use super::{PairLoss, Scored, dpo, ipo, sigmoid};

/// The loss of a pair that both methods build upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseLoss {
    /// [`dpo::dpo`], without label smoothing.
    Dpo,
    /// [`ipo::ipo`] of mean logprobs.
    Ipo,
}

impl BaseLoss {
    fn of(self, pair: &[Scored], beta: f64) -> PairLoss {
        match self {
            BaseLoss::Dpo => dpo::dpo(pair[0], pair[1], beta, 0.0),
            BaseLoss::Ipo => ipo::ipo(pair[0], pair[1], beta, true),
        }
    }
}

/// What `W` weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightScope {
    /// The whole loss.
    All,
    /// `γ·G` alone.
    GOnly,
    /// Nothing: the paper's ablation without `W`.
    None,
}

/// Hyper-parameters of [`sso`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sso {
    /// `B`.
    pub base_loss: BaseLoss,
    /// Of `B`; positive.
    pub beta: f64,
    /// Weight of `G`; 0 or more.
    pub gamma: f64,
    /// Part of `y⁺` in `W`; in [0, 1].
    pub alpha: f64,
    /// What `W` weighs.
    pub w_scope: WeightScope,
    /// Whether `W` is a number without a gradient.
    pub w_detach: bool,
}

/// Hyper-parameters of [`sso_generator`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsoGenerator {
    /// `B`.
    pub base_loss: BaseLoss,
    /// Of `B`; positive.
    pub beta: f64,
    /// Weight of the supervised terms; 0 or more.
    pub gamma: f64,
}

/// Returns the loss of an item, and its derivatives with respect to the policy's summed logprobs.
///
/// `item` are `y⁺` and `y⁻` after `x`, the same after `x⁺`, then `y⁰` and `y⁺` after `x⁻`.
pub fn sso(item: &[Scored; 6], settings: &Sso) -> (f64, [f64; 6]) {
    let Sso { base_loss, beta, gamma, alpha, w_scope, w_detach } = *settings;
    let [plain, good, bad] = [0, 2, 4].map(|pair| base_loss.of(&item[pair..pair + 2], beta));
    let guided = gamma * (good.loss + bad.loss);

    let (weight, slopes) = match w_scope {
        WeightScope::None => (1.0, [0.0; 2]),
        WeightScope::All | WeightScope::GOnly => likelihood_weight(item[0], item[1], alpha),
    };
    let (weighed, of_plain) = match w_scope {
        WeightScope::All | WeightScope::None => (plain.loss + guided, weight),
        WeightScope::GOnly => (guided, 1.0),
    };
    let mut of = [0.0; 6];
    for i in 0..2 {
        of[i] = of_plain * plain.slopes[i];
        of[2 + i] = weight * gamma * good.slopes[i];
        of[4 + i] = weight * gamma * bad.slopes[i];
        if !w_detach {
            of[i] += slopes[i] * weighed;
        }
    }
    (of_plain * plain.loss + weight * guided, of)
}

/// Returns `W` of a pair, in [0.5, 1) and the larger the unlikelier both are, and its derivatives
/// with respect to the policy's summed logprobs.
pub fn likelihood_weight(chosen: Scored, rejected: Scored, alpha: f64) -> (f64, [f64; 2]) {
    let z = -(alpha * chosen.mean() + (1.0 - alpha) * rejected.mean());
    let slope = sigmoid(z) * sigmoid(-z);
    let [of_chosen, of_rejected] =
        [(chosen, alpha), (rejected, 1.0 - alpha)].map(|(of, part)| part / of.tokens as f64);
    (sigmoid(z), [-slope * of_chosen, -slope * of_rejected])
}

/// Returns the loss of an item, and its derivatives with respect to the policy's summed logprobs.
///
/// `item` are `y⁺` and `y⁻` after `x⁺`, then `y⁰` and `y⁺` after `x⁻`.
pub fn sso_generator(item: &[Scored; 4], settings: &SsoGenerator) -> (f64, [f64; 4]) {
    let SsoGenerator { base_loss, beta, gamma } = *settings;
    let (mut loss, mut slopes) = (0.0, [0.0; 4]);
    for pair in [0, 2] {
        let base = base_loss.of(&item[pair..pair + 2], beta);
        let towards = item[pair];
        loss += base.loss - gamma * towards.mean();
        slopes[pair] = base.slopes[0] - gamma / towards.tokens as f64;
        slopes[pair + 1] = base.slopes[1];
    }
    (loss, slopes)
}
