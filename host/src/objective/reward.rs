//! The reward model of Bradley and Terry: <https://arxiv.org/abs/2203.02155>, equation 1, with the centring
//! of <https://arxiv.org/abs/2312.09244>.
//!
//! `L = -log σ(r(x, w) - r(x, l)) + c·(r(x, w) + r(x, l))²`, where `r` is what the head of the reward model
//! makes of the last token's hidden row. Without `c` the loss leaves rewards free to move together.
//!
//! TRL's `RewardTrainer` has the same loss (its `center_rewards_coefficient` is `c`). As there, a chat is read
//! to the end of what the template writes, which for ChatML is a line break behind the end of the turn, and
//! the reward is read at the last token. transformers looks for the last token that is not the padding's:
//! where a text ends with what the tokenizer pads with, it reads the token before that, unless it is given
//! another `pad_token_id`.

use super::{PairLoss, log_sigmoid, sigmoid};

/// Returns the loss of a pair of rewards, and its derivatives with respect to them: `ln 2` where both are 0.
///
/// - `center`: how strongly the sum of both is held to 0; 0 or more.
pub fn reward(chosen: f64, rejected: f64, center: f64) -> PairLoss {
    let (margin, sum) = (chosen - rejected, chosen + rejected);
    let slope = -sigmoid(-margin);
    let centring = 2.0 * center * sum;
    PairLoss {
        loss: center * sum * sum - log_sigmoid(margin),
        slopes: [centring + slope, centring - slope],
    }
}
