//! What plugins say, as it is counted.

use super::batch::{FIRST, SECOND};
use crate::{
    evaluate::outcome::{Choice, Scored, Sifted},
    plugin::Outcome,
    record::{Opinion, Reward, Verdict},
};

/// What a filter's verdict comes to.
pub fn sifted(outcome: Outcome<Verdict>) -> Sifted {
    match outcome {
        Outcome::Done(Verdict::Keep) => Sifted::Kept,
        Outcome::Done(Verdict::Revise(_)) => Sifted::Revised,
        Outcome::Done(Verdict::Drop(reason)) => Sifted::Dropped(reason),
        Outcome::Failed(why) => Sifted::Failed(why),
    }
}

/// What a judge's opinion comes to, where the completion of variant `labelled` is the better one.
pub fn choice(outcome: Outcome<Opinion>, labelled: &str) -> Choice {
    let rewards = match outcome {
        Outcome::Failed(why) => return Choice::Failed(why),
        Outcome::Done(Opinion::Tie) => return Choice::Tie,
        Outcome::Done(Opinion::Unparsable(why)) => return Choice::Unparsable(why),
        Outcome::Done(Opinion::Preference(pair)) => {
            let right = pair.chosen == labelled;
            return if right { Choice::Right(None) } else { Choice::Wrong(None) };
        }
        Outcome::Done(Opinion::Rewards(rewards)) => rewards,
    };
    let [first, second] =
        [FIRST, SECOND].map(|name| mean(rewards.iter().filter(|reward| reward.variant == name)));
    let (Some(first), Some(second)) = (first, second) else {
        let why = "it gives a reward to one of the two completions alone; `--each NAME` shows it each \
                   by itself";
        return Choice::Failed(why.to_owned());
    };
    let margin = if labelled == FIRST { first - second } else { second - first };
    compare(margin)
}

/// What rewards say that are so far apart.
pub fn compare(margin: f64) -> Choice {
    match margin {
        margin if margin > 0.0 => Choice::Right(Some(margin)),
        margin if margin < 0.0 => Choice::Wrong(Some(-margin)),
        _ => Choice::Tie,
    }
}

/// What a judge's opinion of a single completion comes to.
pub fn scored(outcome: Outcome<Opinion>) -> Scored {
    match outcome {
        Outcome::Failed(why) => Scored::Failed(why),
        Outcome::Done(Opinion::Unparsable(why)) => Scored::Unparsable(why),
        Outcome::Done(Opinion::Rewards(rewards)) => match mean(rewards.iter()) {
            Some(reward) => Scored::Reward(reward),
            None => Scored::Failed("it gives no reward".to_owned()),
        },
        Outcome::Done(Opinion::Preference(_) | Opinion::Tie) => {
            Scored::Failed("it gives no reward to a completion by itself".to_owned())
        }
    }
}

fn mean<'a>(rewards: impl Iterator<Item = &'a Reward>) -> Option<f64> {
    crate::round::diversity::mean(rewards.map(|reward| reward.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Pair;

    fn reward(variant: &str, value: f64) -> Reward {
        Reward { variant: variant.into(), name: "quality".into(), value }
    }

    #[test]
    fn opinions_come_to_choices() {
        let rewards = |it: &[Reward]| Outcome::Done(Opinion::Rewards(it.to_vec()));
        let both = [reward(FIRST, 3.0), reward(FIRST, 1.0), reward(SECOND, 1.5)];
        assert_eq!(choice(rewards(&both), FIRST), Choice::Right(Some(0.5)));
        assert_eq!(choice(rewards(&both), SECOND), Choice::Wrong(Some(0.5)));
        let same = [reward(FIRST, 1.0), reward(SECOND, 1.0)];
        assert_eq!(choice(rewards(&same), FIRST), Choice::Tie);
        let one = choice(rewards(&[reward(SECOND, 1.0)]), FIRST);
        assert!(matches!(&one, Choice::Failed(why) if why.contains("--each")), "{one:?}");
        let pair = Pair { chosen: SECOND.into(), rejected: FIRST.into() };
        let prefers = || Outcome::Done(Opinion::Preference(pair.clone()));
        assert_eq!(choice(prefers(), SECOND), Choice::Right(None));
        assert_eq!(choice(prefers(), FIRST), Choice::Wrong(None));
        assert_eq!(choice(Outcome::Failed("x".into()), FIRST), Choice::Failed("x".into()));
    }

    #[test]
    fn opinions_of_one_completion_come_to_rewards() {
        let rewards = Opinion::Rewards(vec![reward("plain", 1.0), reward("plain", 2.0)]);
        assert_eq!(scored(Outcome::Done(rewards)), Scored::Reward(1.5));
        let tie = scored(Outcome::Done(Opinion::Tie));
        assert!(matches!(tie, Scored::Failed(_)));
    }
}
