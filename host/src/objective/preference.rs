//! The objectives over items, with their hyper-parameters.

use serde::{Deserialize, Serialize};

use super::sso::{Sso, SsoGenerator, sso, sso_generator};
use super::{ObjectiveError, PairLoss, Scored, dpo, hinge, ipo, kto, orpo, reward, simpo};

/// An objective over items of several sequences, with its hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "objective", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Preference {
    /// [`dpo::dpo`]
    Dpo {
        /// How strongly the policy is held to the reference; positive.
        beta: f64,
        /// Probability that a preference is the wrong way round; in [0, 0.5).
        label_smoothing: f64,
    },
    /// [`ipo::ipo`]
    Ipo {
        /// The margin aimed at is `1 / (2·beta)`; positive.
        beta: f64,
        /// Whether that is a margin of mean logprobs, in nats a token, or else of sums.
        length_averaged: bool,
    },
    /// [`hinge::hinge`]
    Hinge {
        /// The inverse of the margin aimed at, in nats; positive.
        beta: f64,
    },
    /// [`simpo::simpo`]
    #[serde(rename = "simpo")]
    SimPo {
        /// Scale of the rewards; positive.
        beta: f64,
        /// The margin of rewards aimed at; 0 or more.
        gamma: f64,
    },
    /// [`orpo::orpo`]
    Orpo {
        /// Weight of the odds ratio beside the supervised loss; positive. The paper's λ.
        beta: f64,
    },
    /// [`kto::kto`]
    Kto {
        /// How strongly the policy is held to the reference; positive.
        beta: f64,
        /// What the loss of a desirable completion counts; positive. The paper's λ_D.
        desirable_weight: f64,
        /// The same of an undesirable one; the paper's λ_U.
        undesirable_weight: f64,
    },
    /// [`reward::reward`](super::reward::reward)
    Reward {
        /// How strongly the sum of a pair's rewards is held to 0; 0 or more.
        center_rewards_coefficient: f64,
    },
    /// [`sso::sso`](super::sso::sso)
    Sso(Sso),
    /// [`sso::sso_generator`](super::sso::sso_generator)
    SsoGenerator(SsoGenerator),
}

/// What an item comes to under an objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its loss.
    pub loss: f64,
    /// The derivative of the loss with respect to the policy's summed logprob of each sequence that
    /// is learnt from, or to its reward.
    pub slopes: Vec<f64>,
    /// Implicit rewards of what is preferred and what is not, as TRL reports them, or those that a reward
    /// model gives. Without pairs an item has one of the two.
    pub rewards: [Option<f64>; 2],
}

impl Preference {
    /// Returns the name that plugin sets and run directories use.
    pub fn name(&self) -> &'static str {
        match self {
            Preference::Dpo { .. } => "dpo",
            Preference::Ipo { .. } => "ipo",
            Preference::Hinge { .. } => "hinge",
            Preference::SimPo { .. } => "simpo",
            Preference::Orpo { .. } => "orpo",
            Preference::Kto { .. } => "kto",
            Preference::Reward { .. } => "reward",
            Preference::Sso(_) => "sso",
            Preference::SsoGenerator(_) => "sso-generator",
        }
    }

    /// Returns what the sequences of an item are, in order.
    ///
    /// They come in pairs, the first of which is to become likelier than the second: both follow the
    /// same prompt. Another pair of the item may have another prompt. Without pairs
    /// ([`is_paired`](Preference::is_paired)), the first becomes likelier or less likely, and the
    /// second is a completion of another prompt after the same.
    pub fn roles(&self) -> &'static [&'static str] {
        match self {
            Preference::Kto { .. } => &["completion", "mismatched"],
            Preference::Sso(_) => &[
                "chosen",
                "rejected",
                "chosen, good principles",
                "rejected, good principles",
                "plain, bad principles",
                "chosen, bad principles",
            ],
            Preference::SsoGenerator(_) => &[
                "chosen, good principles",
                "rejected, good principles",
                "plain, bad principles",
                "chosen, bad principles",
            ],
            _ => &["chosen", "rejected"],
        }
    }

    /// Returns whether an item compares completions with each other. Otherwise it is one completion,
    /// desirable or not, and one of another prompt that is not learnt from.
    pub fn is_paired(&self) -> bool {
        !matches!(self, Preference::Kto { .. })
    }

    /// Returns how many items a record with two completions makes: one, or without pairs one for each.
    pub fn items(&self) -> usize {
        if self.is_paired() { 1 } else { 2 }
    }

    /// Returns whether it trains the head of a reward model and what it reads, and no policy: the loss is one
    /// of rewards, and of no logprobs.
    pub fn makes_reward_model(&self) -> bool {
        matches!(self, Preference::Reward { .. })
    }

    /// Returns whether its items have completions of the prompt as it is, under good principles and
    /// under bad ones, each of which has its place in the loss.
    pub fn tells_by_role(&self) -> bool {
        matches!(self, Preference::Sso(_) | Preference::SsoGenerator(_))
    }

    /// Returns how many of an item's sequences are learnt from: the first ones.
    pub fn learnt(&self) -> usize {
        if self.is_paired() { self.roles().len() } else { 1 }
    }

    /// Returns whether the loss compares the policy with a reference.
    pub fn needs_reference(&self) -> bool {
        !matches!(
            self,
            Preference::SimPo { .. } | Preference::Orpo { .. } | Preference::Reward { .. }
        )
    }

    /// Checks that every hyper-parameter is in its range.
    pub fn check(&self) -> Result<(), ObjectiveError> {
        let positive = |name, value| (name, value, "a positive number", value > 0.0);
        let not_negative = |name, value| (name, value, "0 or more", value >= 0.0);
        let beta = positive("beta", self.beta());
        let checks = match *self {
            Preference::Dpo { label_smoothing: value, .. } => {
                let right = (0.0..0.5).contains(&value);
                vec![beta, ("label_smoothing", value, "a number from 0 to below 0.5", right)]
            }
            Preference::SimPo { gamma, .. } => vec![beta, not_negative("gamma", gamma)],
            Preference::Kto { desirable_weight, undesirable_weight, .. } => vec![
                beta,
                positive("desirable_weight", desirable_weight),
                positive("undesirable_weight", undesirable_weight),
            ],
            Preference::Sso(Sso { gamma, alpha, .. }) => {
                let right = (0.0..=1.0).contains(&alpha);
                let alpha = ("alpha", alpha, "a number from 0 to 1", right);
                vec![beta, not_negative("gamma", gamma), alpha]
            }
            Preference::SsoGenerator(SsoGenerator { gamma, .. }) => {
                vec![beta, not_negative("gamma", gamma)]
            }
            Preference::Reward { center_rewards_coefficient: value } => {
                vec![not_negative("center_rewards_coefficient", value)]
            }
            Preference::Ipo { .. } | Preference::Hinge { .. } | Preference::Orpo { .. } => {
                vec![beta]
            }
        };
        match checks.into_iter().find(|&(_, value, _, right)| !right || !value.is_finite()) {
            None => Ok(()),
            Some((name, value, expected, _)) => Err(ObjectiveError { name, value, expected }),
        }
    }

    /// Returns what scales its rewards; 1 for those of a reward model.
    fn beta(&self) -> f64 {
        match *self {
            Preference::Dpo { beta, .. }
            | Preference::Ipo { beta, .. }
            | Preference::Hinge { beta }
            | Preference::SimPo { beta, .. }
            | Preference::Orpo { beta }
            | Preference::Kto { beta, .. }
            | Preference::Sso(Sso { beta, .. })
            | Preference::SsoGenerator(SsoGenerator { beta, .. }) => beta,
            Preference::Reward { .. } => 1.0,
        }
    }

    /// Returns what an item comes to, given its sequences in the order of
    /// [`roles`](Preference::roles); those that are not learnt from may be left out.
    ///
    /// `desirable` and `reference_point` ([`kto::reference_point`]) matter where there are no pairs.
    pub fn outcome(&self, item: &[Scored], desirable: bool, reference_point: f64) -> Outcome {
        let of_pair = |PairLoss { loss, slopes }| (loss, slopes.to_vec());
        let (loss, slopes) = match *self {
            Preference::Dpo { beta, label_smoothing } => {
                of_pair(dpo::dpo(item[0], item[1], beta, label_smoothing))
            }
            Preference::Ipo { beta, length_averaged } => {
                of_pair(ipo::ipo(item[0], item[1], beta, length_averaged))
            }
            Preference::Hinge { beta } => of_pair(hinge::hinge(item[0], item[1], beta)),
            Preference::SimPo { beta, gamma } => {
                of_pair(simpo::simpo(item[0], item[1], beta, gamma))
            }
            Preference::Orpo { beta } => of_pair(orpo::orpo(item[0], item[1], beta)),
            Preference::Kto { beta, desirable_weight, undesirable_weight } => {
                let weight = if desirable { desirable_weight } else { undesirable_weight };
                let (loss, slope) = kto::kto(item[0], desirable, weight, beta, reference_point);
                (loss, vec![slope])
            }
            Preference::Reward { center_rewards_coefficient } => {
                of_pair(reward::reward(item[0].policy, item[1].policy, center_rewards_coefficient))
            }
            Preference::Sso(settings) => {
                let item = [item[0], item[1], item[2], item[3], item[4], item[5]];
                let (loss, slopes) = sso(&item, &settings);
                (loss, slopes.to_vec())
            }
            Preference::SsoGenerator(settings) => {
                let item = [item[0], item[1], item[2], item[3]];
                let (loss, slopes) = sso_generator(&item, &settings);
                (loss, slopes.to_vec())
            }
        };
        let rewards = match (self.is_paired(), desirable) {
            (true, _) => [Some(self.reward(item[0])), Some(self.reward(item[1]))],
            (false, true) => [Some(self.reward(item[0])), None],
            (false, false) => [None, Some(self.reward(item[0]))],
        };
        Outcome { loss, slopes, rewards }
    }

    /// Returns the reward that the objective implies for a completion, or gives it.
    fn reward(&self, scored: Scored) -> f64 {
        match self {
            Preference::Reward { .. } => scored.policy,
            _ if self.needs_reference() => self.beta() * scored.log_ratio(),
            _ => self.beta() * scored.mean(),
        }
    }
}
