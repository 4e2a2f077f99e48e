//! Logprobs of completions.

use std::ops::ControlFlow;

use crate::generate::batch::{Batch, Made, Start};
use crate::generate::read::read;
use crate::generate::{Progress, SequenceError, Settings, Unfit, check_policy, check_tokens};
use crate::model::backend::Backend;
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;

/// A sequence to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// The first token that is scored, at least 1: the length of the prompt.
    pub from: usize,
}

/// What a model says of a row's scored tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Sum of the logprobs, in nats.
    pub logprob: f64,
    /// Logprob of each scored token, in nats.
    pub token_logprobs: Vec<f32>,
    /// Sum over the scored tokens of the entropy of their distributions, in nats.
    pub entropy: f64,
}

impl Score {
    /// Returns `exp` of minus the mean logprob; 1 where nothing was scored.
    pub fn perplexity(&self) -> f64 {
        (-self.logprob / self.token_logprobs.len().max(1) as f64).exp()
    }
}

/// Scores rows under a model, in their order.
///
/// `adapter` is the policy's, or none for the initial model. Logits are never held for more than a
/// few rows and words. Of `settings`, the size of the cache and of a pass are used; neither changes
/// a score, and a completion of [`generate`](crate::generate::generate) gets the logprob that it was
/// drawn with. All rows are checked before the first pass.
pub fn score<B: Backend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    rows: &[Row],
    settings: &Settings,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Score>, SequenceError> {
    check_policy(adapter)?;
    for (index, row) in rows.iter().enumerate() {
        check_tokens(engine, &row.tokens, 0)
            .and(if row.from == 0 { Err(Unfit::Empty) } else { Ok(()) })
            .map_err(SequenceError::of(index))?;
    }
    // Rows with nothing to score need no pass.
    let places: Vec<usize> =
        (0..rows.len()).filter(|&i| rows[i].from < rows[i].tokens.len()).collect();
    let starts: Vec<Start> = places
        .iter()
        .map(|&i| {
            // The last token is scored, but never read.
            let positions = rows[i].tokens.len() - 1;
            let tokens = &rows[i].tokens[..positions];
            Start { tokens, wanted_from: rows[i].from - 1, positions }
        })
        .collect();
    let (backend, head) = (&*engine.backend, engine.weights.head());
    let mut scores = vec![Score::default(); rows.len()];
    let mut note = |batch: &Batch<'_, B>, made: &[Made]| {
        let targets: Vec<u32> =
            made.iter().map(|m| rows[places[m.index]].tokens[m.position + 1]).collect();
        let said = backend.enter(|| backend.logprobs(batch.hidden(), head, &targets))?;
        for (&Made { index, position }, said) in made.iter().zip(said) {
            let index = places[index];
            if !said.logprob.is_finite() {
                return Err(SequenceError::of(index)(Unfit::NotFinite { position }));
            }
            let score = &mut scores[index];
            if position + 1 == rows[index].from {
                *score = Score::default();
            }
            score.logprob += said.logprob as f64;
            score.entropy += said.entropy as f64;
            score.token_logprobs.push(said.logprob);
        }
        Ok(())
    };
    let done = rows.len() - places.len();
    read(engine, adapter, &starts, settings, done, &mut note, progress)?;
    Ok(scores)
}
