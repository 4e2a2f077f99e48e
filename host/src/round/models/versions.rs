//! Versions of the policy besides the one at hand: those that rounds saved under a name, one that is
//! given as aligned, and those on the line through two.

use std::sync::Arc;

use super::{Models, Opened, Policy, Version};
use crate::digest::sha256;
use crate::extrapolate::Extrapolated;
use crate::model::adapter::Adapter;
use crate::model::text::Model;
use crate::round::RunError;

/// The aligned model of `[models]`, which stands in for what rounds would train.
pub enum Aligned {
    /// An adapter for the initial model.
    Adapter(Adapter),
    /// A whole model.
    Model(Opened),
}

impl Aligned {
    /// Returns the digest of what it is.
    pub fn digest(&self) -> String {
        match self {
            Aligned::Adapter(adapter) => adapter.digest(),
            Aligned::Model(opened) => opened.model.digest.clone(),
        }
    }

    /// Returns tokenizer and configuration of a whole model.
    pub fn model(&self) -> Option<&Model> {
        match self {
            Aligned::Adapter(_) => None,
            Aligned::Model(opened) => Some(&opened.model),
        }
    }
}

impl Models {
    /// Keeps a policy under a name, to generate with and to ask.
    pub fn save(&self, name: &str, policy: &Policy) {
        let mut saved = self.saved.lock().expect("nothing panics while it is held");
        saved.insert(name.to_owned(), policy.clone());
    }

    /// Forgets a policy that was saved.
    pub fn forget(&self, name: &str) {
        self.saved.lock().expect("nothing panics while it is held").remove(name);
    }

    /// Returns the policy that was saved under a name.
    pub(super) fn saved(&self, name: &str) -> Option<Policy> {
        self.saved.lock().expect("nothing panics while it is held").get(name).cloned()
    }

    /// Returns a digest of what was saved under a name, if anything was.
    pub fn saved_state(&self, name: &str) -> Option<String> {
        self.saved(name).map(|policy| policy.digest)
    }

    /// Returns the policy that an aligned model is.
    pub fn aligned(&self, aligned: &Aligned) -> Result<Policy, RunError> {
        match aligned {
            Aligned::Adapter(adapter) => self.adapted(adapter.clone()),
            Aligned::Model(opened) => {
                Ok(self.with_checkpoint(opened.checkpoint.clone(), &opened.model.digest))
            }
        }
    }

    /// Returns `to + alpha (to - from)`; for an alpha of 0 that is `to`. Of whole models nothing is
    /// computed before the weights are asked for.
    ///
    /// Fails where `to` has an adapter and the line to it does not begin at the initial model.
    pub fn extrapolated(&self, from: &Policy, to: &Policy, alpha: f64) -> Result<Policy, RunError> {
        match (&from.adapter, &to.adapter) {
            _ if alpha == 0.0 => Ok(to.clone()),
            (None, Some(adapter)) if self.has_initial_weights(from) => {
                self.adapted(adapter.scaled(1.0 + alpha)?)
            }
            (None, None) => {
                let name = format!("{} {} extrapolated {:016x}", from.digest, to.digest, alpha.to_bits());
                let [from, to] = [from, to].map(|policy| policy.weights.checkpoint.clone());
                let checkpoint = Arc::new(Extrapolated::new(from, to, alpha));
                Ok(Policy {
                    weights: Version { digest: sha256(name.as_bytes()), checkpoint },
                    adapter: None,
                    loaded: None,
                    digest: sha256(name.as_bytes()),
                    round: 0,
                })
            }
            _ => Err(RunError::Settings {
                what: "an adapter can be extrapolated from the initial model alone".into(),
                hint: "set `from = \"initial\"` in `[extrapolate]`, or `start = \"initial\"` in `[train]`"
                    .into(),
            }),
        }
    }
}

impl Policy {
    /// Returns it as what a round made.
    pub fn of_round(self, round: u32) -> Policy {
        Policy { round, ..self }
    }

    /// Returns whether it is none: its adapter has the head of a reward model, which can be asked for rewards
    /// and for nothing else.
    pub fn is_reward_model(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.is_reward_model())
    }

    /// Returns the weights, as they are read.
    pub fn checkpoint(&self) -> &dyn crate::model::checkpoint::Checkpoint {
        &*self.weights.checkpoint
    }
}
