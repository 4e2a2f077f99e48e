//! Asks a reward model what each completion is worth.
//!
//! A reward model is what a round with `objective = "reward"` leaves: an adapter with a scalar head,
//! which `[models]` names or a round saves. Each completion is read as an answer to the record's prompt,
//! whatever variant it was written under, since that is what the model learnt to compare. Where one does
//! not fit into the model's context, the record counts as unparsable.

use aligner_sdk::{
    Ask, Context, Error, Judge, Opinion, Plugin, Record, Reward, RewardRequest, export_judge,
};
use serde::Deserialize;

/// What stands under `[judge.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The reward model: a name from `[models]`, or what a round saved.
    model: String,
    /// The name of the reward that each variant gets.
    reward: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { model: "reward".into(), reward: "reward".into() }
    }
}

/// The plugin.
pub struct RewardModel {
    config: Config,
}

impl Plugin for RewardModel {
    type Config = Config;
    const NAME: &'static str = "reward-model";
    const SUMMARY: &'static str = "Asks a reward model what each completion is worth.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "reward"},
"reward": {"type": "string", "default": "reward"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        match config.reward.trim() {
            "" => Err(Error::Config("`reward` is empty, expected a name".into())),
            _ => Ok(RewardModel { config }),
        }
    }
}

impl Judge for RewardModel {
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        let Config { model, reward } = &self.config;
        let prompt = &record.prompt.text;
        let (mut names, mut requests) = (Vec::new(), Vec::new());
        for (variant, completion) in record.completions() {
            names.push(&variant.name);
            requests.push(RewardRequest::of(model, prompt.clone(), &completion.text).into());
        }
        if names.is_empty() {
            return Err(Error::Input("it has no completion to judge".into()));
        }
        let mut rewards = Vec::new();
        for (name, answer) in names.into_iter().zip(ask.all(requests)?) {
            match answer.reward() {
                Ok(value) => {
                    rewards.push(Reward { variant: name.clone(), name: reward.clone(), value });
                }
                Err(Error::Unanswered(why)) => {
                    return Ok(Opinion::Unparsable(format!("{name}: no reward: {why}")));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Opinion::Rewards(rewards))
    }
}

export_judge!(RewardModel);

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, VariantRole, testing};

    use super::*;

    /// Judges with a model that likes long answers; an empty one it cannot read.
    fn judge(config: &str, record: &Record) -> Result<Opinion, Error> {
        let plugin: RewardModel = testing::plugin(config).unwrap();
        testing::judge(&plugin, record, |request: &Request| {
            let Request::Reward(request) = request else { panic!("asked for something else") };
            assert_eq!(request.prompt, record.prompt.text);
            match request.completion.len() {
                0 => Answer::Unanswered("there is nothing to read".into()),
                length => Answer::Reward(length as f64 - 4.0),
            }
        })
    }

    fn record(texts: &[(&str, &str)]) -> Record {
        let mut record = testing::record("p-1", "How many days has a week?");
        for (name, text) in texts {
            // What a variant was written under is not what it is judged under.
            let variant = testing::variant(name, VariantRole::Good, "Be brief. How many?", text);
            record.variants.push(variant);
        }
        record
    }

    #[test]
    fn every_completion_gets_its_reward_under_the_prompt_as_it_is() {
        let record = record(&[("good", "Seven."), ("bad", "Six")]);
        let rewards = |name: &str| {
            [("good", 2.0), ("bad", -1.0)].map(|(variant, value)| Reward {
                variant: variant.into(),
                name: name.into(),
                value,
            })
        };
        assert_eq!(judge("{}", &record), Ok(Opinion::Rewards(rewards("reward").into())));
        let named = judge(r#"{"model": "rm", "reward": "helpful"}"#, &record);
        assert_eq!(named, Ok(Opinion::Rewards(rewards("helpful").into())));
        let plugin: RewardModel = testing::plugin(r#"{"model": "rm"}"#).unwrap();
        let answer = |request: &Request| {
            let Request::Reward(request) = request else { panic!("asked for something else") };
            assert_eq!(request.model, "rm");
            Answer::Reward(0.0)
        };
        testing::judge(&plugin, &record, answer).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_unparsable_and_says_which() {
        let unread = judge("{}", &record(&[("good", "Seven."), ("bad", "")]));
        let why = "bad: no reward: there is nothing to read";
        assert_eq!(unread, Ok(Opinion::Unparsable(why.into())));
        assert!(matches!(judge("{}", &record(&[])), Err(Error::Input(_))));
    }

    #[test]
    fn a_reward_has_a_name() {
        assert!(matches!(
            testing::plugin::<RewardModel>(r#"{"reward": " "}"#),
            Err(Error::Config(_))
        ));
    }
}
