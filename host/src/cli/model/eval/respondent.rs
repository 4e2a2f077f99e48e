//! A model that is asked for answers and for the logprobs of answers: text in, text out.

use std::ops::ControlFlow;

use crate::{
    cli::{CliError, cancel, exit},
    generate::{self, Hooks, Job, Sampling, SequenceError, Settings},
    logprob,
    measure::suite::Decoding,
    model::{ModelError, backend::AnyDevice, weights::LoadedAdapter},
    progress::{Progress, go_on},
    record::{Finish, Text},
    reward::{self, RewardModel},
    round::{Loaded, RunError, row_ending},
};

/// A model, with an adapter or without.
#[derive(Clone, Copy)]
pub(super) struct Respondent<'a> {
    pub loaded: &'a Loaded,
    pub adapter: Option<&'a LoadedAdapter<AnyDevice>>,
    pub progress: &'a Progress,
}

/// An answer.
pub(super) struct Answered {
    /// Without the end of the turn.
    pub text: String,
    /// With it.
    pub tokens: usize,
    /// Whether the model ended its turn.
    pub ended: bool,
}

/// What is scored: a completion after a prompt, and whether the end of its turn is a part of it.
pub(super) struct Asked<'a> {
    /// The row's id, for messages.
    pub row: &'a str,
    pub prompt: &'a Text,
    pub completion: &'a str,
    pub finish: Finish,
}

/// The logprob of a completion in nats, and its tokens.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub logprob: f64,
    pub tokens: usize,
}

impl Respondent<'_> {
    /// Answers prompts, each with the id of its row and the seed of its draws. `None` where a prompt
    /// with its longest answer does not fit into the model's context.
    pub fn answers(
        &self,
        what: &str,
        prompts: &[(&str, Text, u64)],
        decoding: &Decoding,
    ) -> Result<Vec<Option<Answered>>, CliError> {
        let model = &*self.loaded.model;
        let mut answers: Vec<Option<Answered>> = Vec::new();
        answers.resize_with(prompts.len(), || None);
        let (mut jobs, mut places) = (Vec::new(), Vec::new());
        for (place, (row, prompt, seed)) in prompts.iter().enumerate() {
            let Some(prompt) = fitting(row, model.encode_prompt(prompt))? else { continue };
            if prompt.len() + decoding.max_new_tokens > model.spec.context_length {
                continue;
            }
            let sampling = Sampling {
                temperature: decoding.temperature,
                top_p: decoding.top_p,
                top_k: 0,
                repetition_penalty: 1.0,
                max_new_tokens: decoding.max_new_tokens,
            };
            jobs.push(Job { prompt, sampling, seed: *seed });
            places.push(place);
        }
        let end_tokens = model.tokenizer.stop_tokens();
        let settings = Settings {
            end_tokens: end_tokens.clone(),
            ..Settings::on(&self.loaded.engine.backend)
        };
        let bar = self.progress.stage(what, jobs.len() as u64, "answers");
        let mut failed = None;
        let hooks = Hooks {
            stop: &|_, _| false,
            on_done: &mut |job, output| {
                bar.note_tokens(output.tokens.len() as u64);
                bar.inc(1);
                let text = match output.tokens.split_last() {
                    Some((last, before)) if end_tokens.contains(last) => before,
                    _ => &output.tokens,
                };
                match model.tokenizer.decode(text) {
                    Ok(text) => {
                        let (tokens, ended) = (output.tokens.len(), output.ended);
                        answers[places[job]] = Some(Answered { text, tokens, ended });
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            },
            progress: &mut |_| go_on(cancel::flag()),
        };
        let result = generate::generate(&self.loaded.engine, self.adapter, &jobs, &settings, hooks);
        bar.finish();
        match failed {
            Some(error) => Err(error.into()),
            None => {
                result.map_err(|error| stopped(error, |job| prompts[places[job]].0))?;
                Ok(answers)
            }
        }
    }

    /// Returns the reward model that it is, if it is one.
    pub fn reward_model(&self) -> Option<RewardModel<'_, AnyDevice>> {
        self.adapter.and_then(RewardModel::of)
    }

    /// Asks a reward model for rewards. `None` where prompt and completion do not fit into the model's
    /// context.
    pub fn rewards(
        &self,
        model: &RewardModel<'_, AnyDevice>,
        what: &str,
        asked: &[Asked<'_>],
    ) -> Result<Vec<Option<f64>>, CliError> {
        let read = &self.loaded.model;
        let (sequences, places) =
            encoded(asked, |asked| Ok(read.encode_judged(asked.prompt, asked.completion)?.tokens))?;
        let bar = self.progress.stage(what, sequences.len() as u64, "rewards");
        let mut heard = bar.follow();
        let (engine, settings) = (&self.loaded.engine, Settings::on(&self.loaded.engine.backend));
        let rewards = reward::rewards(engine, model, &sequences, &settings, &mut |state| {
            heard(state.done as u64);
            go_on(cancel::flag())
        });
        drop(heard);
        bar.finish();
        let mut said = vec![None; asked.len()];
        let rewards = rewards.map_err(|error| stopped(error, |row| asked[places[row]].row))?;
        for (place, reward) in places.into_iter().zip(rewards) {
            said[place] = Some(reward);
        }
        Ok(said)
    }

    /// Scores completions. `None` where prompt and completion do not fit into the model's context.
    pub fn scores(&self, what: &str, asked: &[Asked<'_>]) -> Result<Vec<Option<Said>>, CliError> {
        let model = &*self.loaded.model;
        let (rows, places) = encoded(asked, |asked| {
            row_ending(model, asked.prompt, asked.completion, asked.finish)
        })?;
        let bar = self.progress.stage(what, rows.len() as u64, "scores");
        let mut heard = bar.follow();
        let scores = logprob::score(
            &self.loaded.engine,
            self.adapter,
            &rows,
            &Settings::on(&self.loaded.engine.backend),
            &mut |state| {
                heard(state.done as u64);
                go_on(cancel::flag())
            },
        );
        drop(heard);
        bar.finish();
        let mut said = vec![None; asked.len()];
        let scores = scores.map_err(|error| stopped(error, |row| asked[places[row]].row))?;
        for (place, score) in places.into_iter().zip(scores) {
            let tokens = score.token_logprobs.len();
            said[place] = Some(Said { logprob: score.logprob, tokens });
        }
        Ok(said)
    }
}

/// Returns what fits into the model's context as the model reads it, and which of `asked` each is.
fn encoded<T>(
    asked: &[Asked<'_>],
    encode: impl Fn(&Asked<'_>) -> Result<T, ModelError>,
) -> Result<(Vec<T>, Vec<usize>), CliError> {
    let (mut encoded, mut places) = (Vec::new(), Vec::new());
    for (place, asked) in asked.iter().enumerate() {
        if let Some(one) = fitting(asked.row, encode(asked))? {
            encoded.push(one);
            places.push(place);
        }
    }
    Ok((encoded, places))
}

/// What is too long is counted; whatever else is wrong with a row ends the command.
fn fitting<T>(row: &str, encoded: Result<T, ModelError>) -> Result<Option<T>, CliError> {
    match encoded {
        Ok(encoded) => Ok(Some(encoded)),
        Err(ModelError::TooLong { .. }) => Ok(None),
        Err(error) => Err(CliError::from(error).context(&format!("row `{row}`"))),
    }
}

fn stopped<'a>(error: SequenceError, row: impl FnOnce(usize) -> &'a str) -> CliError {
    match error {
        SequenceError::Cancelled => CliError::new(exit::INTERRUPTED, "interrupted"),
        error => RunError::of_engine(error, row).into(),
    }
}
