//! Reward models: which models are some, and what they give.

use std::sync::atomic::AtomicBool;

use super::{Models, Policy, Read, ScoreJob, read_jobs};
use crate::generate;
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
            _ if self.is_named(name) => None,
            _ => Some(saved.as_ref().unwrap_or(policy)),
        };
        match policy.and_then(|policy| policy.adapter.as_deref()) {
            Some(adapter) if adapter.is_reward_model() => Kind::Rewards,
            _ => Kind::Writes,
        }
    }

    /// Asks a reward model about jobs and hands each answer over as soon as it is there. Returns early where
    /// `cancel` is set. `progress` hears how many are done.
    pub fn reward(
        &self,
        name: &str,
        policy: &Policy,
        jobs: &[ScoreJob],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(u64),
        done: &mut Read<'_, Answer>,
    ) -> Result<(), RunError> {
        let model = self.text(name);
        let encode = |job: &ScoreJob| Ok(model.encode_judged(&job.prompt, &job.completion)?.tokens);
        read_jobs(jobs, encode, cancel, progress, done, |sequences, heard| {
            let (engine, adapter) = self.find(name, policy)?;
            let Some(model) = adapter.as_deref().and_then(RewardModel::of) else {
                unreachable!("who asks for rewards has seen that it is a reward model")
            };
            let settings = generate::Settings::on(self.device());
            let said = reward::rewards(&engine, &model, sequences, &settings, heard);
            Ok(said.map(|rewards| {
                let answer = |(value, read): (f64, &Vec<u32>)| {
                    let tokens = read.len() as u32;
                    Answer::Reward { value, tokens }
                };
                rewards.into_iter().zip(sequences).map(answer).collect()
            }))
        })
        .map_err(RunError::of_policy(self.maker(name, policy)))
    }
}
