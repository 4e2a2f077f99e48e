//! The reward model of Bradley and Terry: <https://arxiv.org/abs/2203.02155>, equation 1, with the centring
//! of <https://arxiv.org/abs/2312.09244>.
//!
//! `L = -log σ(r(x, w) - r(x, l)) + c·(r(x, w) + r(x, l))²`, where `r` is what the head of the reward model
//! makes of the last token's hidden row. Without `c` the loss leaves rewards free to move together.
//!
//! Where this differs from others:
//!
//! 1. TRL's `RewardTrainer` has the same loss (its `center_rewards_coefficient` is `c`). It reads a chat as
//!    the whole template puts it, so where that goes on behind the end of a turn, as ChatML's does with a
//!    line break, its row is that of the last such token (`\n`). Here a sequence is what a policy would
//!    write, and ends with the end of the turn: that token's row is read.
//! 2. transformers looks for the last token that is not the padding's. Where a tokenizer pads with the end
//!    of a turn, it reads the token before that. Give it another `pad_token_id`, or sequences one at a time
//!    and `pad_token_id = None`.

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
