//! Why a run stopped.

use std::path::PathBuf;

use super::assess::UNPARSABLE;
use super::lessons::TOO_LONG;
use super::pair::{IDENTICAL, NO_PAIR, TIE};
use crate::data::DataError;
use crate::generate::{SequenceError, Unfit};
use crate::memory::Shortage;
use crate::model::ModelError;
use crate::model::adapter::AdapterError;
use crate::model::backend::BackendError;
use crate::model::export::ExportError;
use crate::model::peft::PeftError;
use crate::model::save::SaveError;
use crate::model::weights::WeightsError;
use crate::plugin::PluginError;
use crate::report::NothingKept;
use crate::run::directory::DirectoryError;
use crate::server::ServerError;
use crate::train::{RankError, TrainError};
use crate::trainer::TrainerError;

/// Why a run stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run directory could not be read or written, or is not ours to write.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A plugin failed, or asked for what it may not.
    #[error(transparent)]
    Plugin(PluginError),
    /// A model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A data file is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Weights or an adapter do not fit the model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter folder cannot be read or written.
    #[error(transparent)]
    Adapter(#[from] PeftError),
    /// The engine could not go on.
    #[error(transparent)]
    Engine(SequenceError),
    /// The engine could not go on with a record.
    #[error("record `{id}` {problem}")]
    Sequence {
        /// The record's id, or a held-out row's.
        id: String,
        /// What is wrong with it.
        problem: Unfit,
    },
    /// A model cannot read a record.
    #[error("record `{id}`: {source}")]
    Record {
        /// The record's id, or a held-out row's.
        id: String,
        /// Why not.
        source: ModelError,
    },
    /// The training could not go on.
    #[error(transparent)]
    Train(TrainError),
    /// An external trainer came to no adapter.
    #[error("{place}: {source}")]
    Trainer {
        /// The run directory.
        path: PathBuf,
        /// For example `round 1: train`.
        place: String,
        /// Why not.
        source: TrainerError,
    },
    /// The perplexity of the trusted answers is no number.
    #[error("the perplexity of the trusted answers is not finite {}", after(*round))]
    Perplexity {
        /// The round whose policy it is; 0 is the initial model.
        round: u32,
    },
    /// Numbers of a policy that the run has made are not finite any more.
    #[error("{source}")]
    Diverged {
        /// The round that made the policy.
        blamed: u32,
        /// Where that showed.
        source: Box<RunError>,
    },
    /// An adapter cannot be scaled.
    #[error(transparent)]
    Scaled(#[from] AdapterError),
    /// A trained model cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The settings contradict each other in a way that only shows with plugins and data at hand.
    #[error("{what}")]
    Settings {
        /// One sentence that names the thing.
        what: String,
        /// The way out.
        hint: String,
    },
    /// The tokens that a server may read and write for the run are used up, and what is not done cannot be left out.
    #[error("the run's budget of tokens on the server is used up, and {who} needs more answers")]
    Budget {
        /// Who asks.
        who: String,
    },
    /// No record came through a round, or no prompt into the pool: there is nothing to train on.
    #[error("{nothing}")]
    NothingKept {
        /// The run directory.
        path: PathBuf,
        /// What was dropped.
        nothing: NothingKept,
    },
    /// There is less memory than when the run began.
    #[error("in round {round}, {shortage}")]
    Memory {
        /// The run directory.
        path: PathBuf,
        /// From 1.
        round: u32,
        /// What there is too little for.
        shortage: Shortage,
    },
    /// A server cannot go on.
    #[error("{source}")]
    Server {
        /// The model's name in `[models]`.
        model: String,
        /// Why not.
        source: ServerError,
    },
    /// The user asked to stop while data was checked.
    #[error("interrupted while the prompts were checked; this start has done nothing")]
    NotBegun,
    /// The user asked to stop.
    #[error("interrupted; all finished work is in `{}`", path.display())]
    Interrupted {
        /// The run directory.
        path: PathBuf,
    },
}

impl From<PluginError> for RunError {
    /// What went wrong while a plugin's questions were answered is not the plugin's fault: it comes
    /// back as it was.
    fn from(error: PluginError) -> RunError {
        match error {
            PluginError::Answer(source) => match source.downcast::<RunError>() {
                Ok(inner) => *inner,
                Err(source) => RunError::Plugin(PluginError::Answer(source)),
            },
            error => RunError::Plugin(error),
        }
    }
}

impl From<TrainError> for RunError {
    /// Where a state cannot be written, the run directory cannot be.
    fn from(error: TrainError) -> RunError {
        match error {
            TrainError::Save(SaveError::Io { path, source }) => {
                DirectoryError::Io { action: "write", path, source }.into()
            }
            error => RunError::Train(error),
        }
    }
}

impl RunError {
    /// Returns the error of an engine that was given records; `id` tells their ids by their places.
    pub fn of_engine<'a>(error: SequenceError, id: impl FnOnce(usize) -> &'a str) -> RunError {
        match error {
            SequenceError::Sequence { index, problem } => {
                RunError::Sequence { id: id(index).to_owned(), problem }
            }
            error => RunError::Engine(error),
        }
    }

    /// Returns the error of a model that cannot read a record.
    pub fn of_record(id: &str) -> impl FnOnce(ModelError) -> RunError {
        move |source| RunError::Record { id: id.to_owned(), source }
    }

    /// Returns what tells an error of numbers that are not finite that they are of the policy which round
    /// `blamed` made; the initial model, 0, has not diverged.
    pub fn of_policy(blamed: u32) -> impl Fn(RunError) -> RunError {
        move |error| match error {
            RunError::Train(TrainError::NotFinite { .. })
            | RunError::Sequence { problem: Unfit::NotFinite { .. }, .. }
            | RunError::Perplexity { .. }
                if blamed > 0 =>
            {
                RunError::Diverged { blamed, source: Box::new(error) }
            }
            error => error,
        }
    }

    /// Returns the way out, where there is one to tell.
    pub fn hint(&self) -> Option<String> {
        match self {
            RunError::Directory(error) => error.hint(),
            // Its sentence holds the way out.
            RunError::Plugin(_) => None,
            RunError::Model(error) | RunError::Record { source: error, .. } => error.hint(),
            RunError::Sequence { problem: Unfit::NotFinite { .. }, .. } => Some(
                "the model has collapsed, or its weights are broken: a lower `train.learning_rate` \
                 keeps it from collapsing, `aligner model chat` shows what it says"
                    .into(),
            ),
            RunError::Perplexity { round: 0 } => {
                Some("take other trusted answers, or another model".into())
            }
            RunError::Perplexity { .. } => {
                Some("lower `train.learning_rate`, or train on more records".into())
            }
            RunError::Diverged { source, .. } => source.hint(),
            RunError::Sequence { .. } => {
                Some("leave the record out, or take a model with a longer context".into())
            }
            RunError::Data(error) => error.hint(),
            RunError::Engine(SequenceError::Backend(error))
            | RunError::Train(TrainError::Backend(error))
            | RunError::Weights(WeightsError::Backend(error))
            | RunError::Train(TrainError::Weights(WeightsError::Backend(error))) => no_room(error),
            RunError::Weights(_)
            | RunError::Adapter(_)
            | RunError::Scaled(_)
            | RunError::NotBegun => None,
            RunError::Train(TrainError::NotFinite { .. }) => {
                Some("try a smaller `learning_rate`, or leave these examples out".into())
            }
            RunError::Train(TrainError::Rank(RankError::Failed { out_of_memory: true, .. })) => Some(
                "lower `train.micro_batch_tokens` in a new run, or go on with `aligner resume` on larger GPUs".into(),
            ),
            RunError::Train(TrainError::Rank(_)) => Some(
                "`aligner resume` with the run directory goes on, over as many ranks as there are then".into(),
            ),
            RunError::Engine(_) | RunError::Train(_) => None,
            RunError::Export(error) => error.hint(),
            RunError::Server { model, source } => source.hint(model),
            RunError::Trainer { path, source, .. } => Some(source.hint().unwrap_or_else(|| {
                format!(
                    "`aligner resume {}` starts the job again, from its last checkpoint",
                    path.display()
                )
            })),
            RunError::Settings { hint, .. } => Some(hint.clone()),
            RunError::Budget { .. } => Some(
                "all finished work stays: with a larger `tokens` of the model the run goes on by `--resume`"
                    .into(),
            ),
            RunError::NothingKept { path, nothing } => Some(format!(
                "{}; then begin a new run with `aligner --plugins SET`: the same settings end here again, \
                 so name another folder with `--out`, or throw this run away with `--fresh`",
                match nothing.round {
                    0 => "too long: shorten the prompts, show fewer exemplars, lower \
                          `generate.max_new_tokens`, or take a model with a longer context"
                        .to_owned(),
                    _ => format!(
                        "`aligner show {} --dropped` lists what was dropped; {}",
                        path.display(),
                        way_out(nothing)
                    ),
                }
            )),
            RunError::Memory { path, .. } => Some(format!(
                "all finished work is there; `aligner resume {}` goes on once there is more memory",
                path.display()
            )),
            RunError::Interrupted { path } => {
                Some(format!("`aligner resume {}` goes on", path.display()))
            }
        }
    }
}

/// Says after which round; 0 is before the first.
fn after(round: u32) -> String {
    match round {
        0 => "under the model as it began".to_owned(),
        round => format!("after round {round}: the model has collapsed"),
    }
}

/// Returns what can be done where a device's memory did not suffice, though what can be cut smaller was.
fn no_room(error: &BackendError) -> Option<String> {
    let BackendError::OutOfMemory { .. } = error else { return None };
    Some(
        "another program may hold the memory; a smaller `generate.max_new_tokens`, `train.max_length`, \
         `train.micro_batch_tokens` or model takes less. All finished work stays, and `aligner resume` with the run directory goes on"
            .into(),
    )
}

/// Returns what can be done about the reason for which most records were dropped.
fn way_out(nothing: &NothingKept) -> &'static str {
    let most = nothing.dropped.iter().rev().max_by_key(|(_, count)| **count);
    match most.map_or("", |(reason, _)| reason.as_str()) {
        IDENTICAL => {
            "where the completions that are compared are the same text there is nothing to learn: give \
             pairs that differ, raise `generate.temperature`, or take a model that heeds its principles"
        }
        NO_PAIR => {
            "a record needs two completions to compare: those of a good and a bad variant of the \
             principle plugin, or two that the judge rewards (`[pair]`)"
        }
        TIE => {
            "the judge finds no completion better than the other: take another judge or a larger model \
             for it, or raise `generate.temperature`"
        }
        UNPARSABLE => {
            "the judge could not read what its model answered (`judge.jsonl` has the words): take a \
             larger model for it, or ask it in another form in `[judge.config]`"
        }
        TOO_LONG => {
            "prompt and completion are longer than `train.max_length` or the model's context: shorten \
             what the principle plugin puts before a prompt, lower `generate.max_new_tokens`, or take a \
             model with a longer context"
        }
        _ => {
            "loosen the filter that dropped most; where the model wrote the completions, raise \
             `generate.max_new_tokens` or take a larger model"
        }
    }
}
