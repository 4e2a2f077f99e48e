//! Reward models: which models are some, and what they give.

use std::sync::atomic::AtomicBool;

use super::{Models, Policy, ScoreJob};
use crate::generate::{self, SequenceError};
use crate::model::ModelError;
use crate::progress::go_on;
use crate::record::{Answer, Request};
use crate::reward::{self, RewardModel};
use crate::round::RunError;

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Writes completions and says how likely they are.
    Writes,
    /// Gives completions a reward.
    Rewards,
}

impl Kind {
    /// Returns what a model must do to be asked.
    pub fn of(request: &Request) -> Kind {
        match request {
            Request::Generate { .. } | Request::Score { .. } => Kind::Writes,
            Request::Reward { .. } => Kind::Rewards,
        }
    }
}

impl Models {
    /// Returns what a model does.
    pub fn kind(&self, name: &str, policy: &Policy) -> Kind {
        let saved = self.saved(name);
        let policy = match name {
            "initial" => None,
            _ if self.named.contains_key(name) => None,
            _ => Some(saved.as_ref().unwrap_or(policy)),
        };
        match policy.and_then(|policy| policy.adapter.as_deref()) {
            Some(adapter) if adapter.is_reward_model() => Kind::Rewards,
            _ => Kind::Writes,
        }
    }

    /// Asks a reward model about jobs, in their order; one that cannot be put to the model has the
    /// reason. Returns early, with fewer rewards, where `cancel` is set. `progress` hears how many are
    /// done.
    pub fn reward(
        &self,
        name: &str,
        policy: &Policy,
        jobs: &[ScoreJob],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<Result<Answer, ModelError>>, RunError> {
        let model = self.text(name);
        let mut answers = Vec::with_capacity(jobs.len());
        let (mut sequences, mut places) = (Vec::new(), Vec::new());
        for job in jobs {
            match model.encode_judged(&job.prompt, &job.completion) {
                Ok(read) => {
                    places.push(answers.len());
                    let tokens = read.tokens.len() as u32;
                    sequences.push(read.tokens);
                    answers.push(Ok(Answer::Reward { value: 0.0, tokens }));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        let (engine, adapter) = self.find(name, policy)?;
        let Some(model) = adapter.as_deref().and_then(RewardModel::of) else {
            unreachable!("who asks for rewards has seen that it is a reward model")
        };
        let settings = generate::Settings::default();
        let mut heard = |state: generate::Progress| {
            progress(state.done as u64);
            go_on(cancel)
        };
        match reward::rewards(&engine, &model, &sequences, &settings, &mut heard) {
            Ok(rewards) => {
                for (&place, reward) in places.iter().zip(rewards) {
                    if let Ok(Answer::Reward { value, .. }) = &mut answers[place] {
                        *value = reward;
                    }
                }
                Ok(answers)
            }
            Err(SequenceError::Cancelled) => Ok(Vec::new()),
            Err(error) => Err(RunError::of_engine(error, |index| &jobs[places[index]].record)),
        }
    }
}
