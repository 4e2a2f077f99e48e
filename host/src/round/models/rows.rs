//! Rows of token ids under a policy, as a trainer has them.

use std::sync::atomic::AtomicBool;

use super::{Models, Policy, Work};
use crate::generate::{SequenceError, Settings};
use crate::logprob::{self, Row};
use crate::progress::go_on;
use crate::round::RunError;

impl Models {
    /// Returns the mean logprob of the completion of each row under a policy, in nats a token: what a server says of
    /// it, where one answers for the policy, and else the embedded engine.
    pub fn mean_logprobs(
        &self,
        policy: &Policy,
        rows: &[Row],
        cancel: &AtomicBool,
    ) -> Result<Vec<f64>, RunError> {
        let of_rows = |error| RunError::of_engine(error, |_| "of the probe");
        if let Some(remote) = self.remote("policy", policy, Work::Score) {
            let said = remote.score_rows(rows, cancel)?;
            return said.ok_or_else(|| of_rows(SequenceError::Cancelled));
        }
        let (engine, adapter) = self.scorer(policy)?;
        let settings = Settings::on(self.device());
        let scores = logprob::score(&engine, adapter, rows, &settings, &mut |_| go_on(cancel));
        let scores = scores.map_err(of_rows)?;
        Ok(scores.iter().map(|score| score.logprob / score.token_logprobs.len() as f64).collect())
    }
}
