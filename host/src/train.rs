//! Training: examples and a model in, a better adapter or better weights out, one step at a time.
//!
//! The caller drives the loop, so it can save, show progress, and stop between any two steps:
//!
//! ```no_run
//! # use aligner::{model::{adapter::Adapter, backend::TrainingBackend, forward::Engine}, train::*};
//! # fn run<B: TrainingBackend>(engine: Engine<B>, start: Adapter, examples: Vec<Example>) -> Result<Adapter, TrainError> {
//! let mut trainer = Trainer::new(engine, &start, examples, TrainSettings::default())?;
//! while let Some(metrics) = trainer.step()? {
//!     println!("{}/{} loss {:.4}", metrics.step, metrics.steps, metrics.loss);
//! }
//! trainer.adapter()
//! # }
//! ```
//!
//! What is trained is an adapter beside frozen weights ([`Trainer::new`]) or every weight of a model
//! ([`Trainer::full`]); all else is the same. Weights, gradients and moments are f32.
//!
//! A step's examples are cut into micro-batches that fit in memory. Gradients are divided by the number of
//! trained tokens of the whole step, so the update does not depend on the cut but for rounding, and
//! for one cut not at all on the number of threads.

mod batches;
mod memory;
mod schedule;
mod settings;
mod startup;
mod state;
mod subject;
mod weights_state;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use memory::TrainMemory;
pub use schedule::Schedule;
pub use settings::{Example, LrSchedulerType, SettingsError, TrainSettings, check_examples};
pub use startup::StartupError;
pub use state::{StateError, TrainState};
pub use weights_state::WeightsState;

use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{Adapter, AdapterError, LoraConfig};
use crate::model::backend::training::AdamWStep;
use crate::model::backend::{BackendError, TrainingBackend};
use crate::model::backward::Sequences;
use crate::model::forward::Engine;
use crate::model::save::SaveError;
use crate::model::spec::Spec;
use crate::model::weights::{Weights, WeightsError};
use crate::objective;
use crate::run::seed;
use batches::{Batches, largest_micro_batch, micro_batches};
use startup::{Seen, Startup};
use subject::{Moments, Subject};

/// Trains an adapter, or every weight of a model, on examples by supervised fine-tuning.
pub struct Trainer<B: TrainingBackend> {
    backend: Arc<B>,
    subject: Subject<B>,
    examples: Vec<Example>,
    settings: TrainSettings,
    batches: Batches,
    schedule: Schedule,
    /// In the order of the gradients.
    moments: Vec<Moments<B>>,
    activations: Activations<B::Buffer>,
    startup: Startup,
    step: u64,
    task: String,
}

/// What one step came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Number of the step, from 1.
    pub step: u64,
    /// Number of steps in all.
    pub steps: u64,
    /// Mean over the trained tokens of the negative logprob before the update, in nats.
    pub loss: f64,
    /// Global norm of the gradients before they are clipped.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// How many times the examples have been seen, this step included.
    pub epoch: f64,
    /// Tokens that were trained.
    pub trained_tokens: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
}

impl<B: TrainingBackend> Trainer<B> {
    /// Starts training from an adapter, which may be fresh ([`Adapter::init`]) or that of the round
    /// before.
    pub fn new(
        engine: Engine<B>,
        start: &Adapter,
        examples: Vec<Example>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let Engine { backend, weights } = engine;
        settings.check()?;
        check_examples(&examples, &weights.spec)?;
        start.check(&weights.spec)?;
        let subject = Subject::adapter(&*backend, weights, start)?;
        Trainer::begin(backend, subject, examples, settings)
    }

    /// Starts training every weight of a model. The trainer owns the weights, which it changes.
    pub fn full(
        backend: Arc<B>,
        weights: Weights<B>,
        examples: Vec<Example>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        settings.check()?;
        check_examples(&examples, &weights.spec)?;
        let subject = Subject::weights(&*backend, weights)?;
        Trainer::begin(backend, subject, examples, settings)
    }

    fn begin(
        backend: Arc<B>,
        subject: Subject<B>,
        examples: Vec<Example>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let (spec, lora) = (&subject.model().spec, subject.lora());
        let task = task_digest(spec, &examples, &settings, lora);
        let batches = Batches::new(&settings, examples.len());
        let schedule = Schedule::new(&settings, batches.steps());
        let (per_step, most) = (settings.examples_per_step(), settings.micro_batch_tokens);
        let rows = largest_micro_batch(&examples, per_step, most);
        let TrainSettings { gradient_checkpointing, .. } = settings;
        let shape = PassShape { spec, lora, rows, gradient_checkpointing };
        let activations = Activations::new(shape, &mut |len| backend.zeros(len))?;
        let mut moments = Vec::new();
        for gradient in subject.gradients() {
            let len = backend.len(gradient);
            moments.push([backend.zeros(len)?, backend.zeros(len)?]);
        }
        let startup = Startup::new(subject.names());
        Ok(Trainer {
            backend,
            subject,
            examples,
            settings,
            batches,
            schedule,
            moments,
            activations,
            startup,
            step: 0,
            task,
        })
    }

    /// Goes on from a saved state, with the model, examples and settings that it was started with.
    /// What follows is the same, to the last bit, as if it had never stopped.
    pub fn resume(
        engine: Engine<B>,
        state: TrainState,
        examples: Vec<Example>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let spec = &engine.weights.spec;
        if state.task != task_digest(spec, &examples, &settings, Some(&state.adapter.config)) {
            return Err(StateError::OtherTask.into());
        }
        for moments in [&state.first, &state.second] {
            moments.check(spec)?;
        }
        let mut trainer = Trainer::new(engine, &state.adapter, examples, settings)?;
        let saved = state.first.tensors().zip(state.second.tensors());
        for (moments, (first, second)) in trainer.moments.iter_mut().zip(saved) {
            let backend = &trainer.backend;
            backend.write(first.values, &mut moments[0], 0);
            backend.write(second.values, &mut moments[1], 0);
        }
        trainer.startup = state.startup;
        trainer.step = state.step;
        Ok(trainer)
    }

    /// Goes on with full training from what [`save`](Trainer::save) wrote, with the examples and
    /// settings that it was started with; the same, to the last bit, as if it had never stopped.
    pub fn resume_full(
        backend: Arc<B>,
        state: &WeightsState,
        examples: Vec<Example>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let weights = Weights::load(&*backend, &state.weights, &mut |_, _| {})?;
        if state.header.task != task_digest(&weights.spec, &examples, &settings, None) {
            return Err(StateError::OtherTask.into());
        }
        let mut trainer = Trainer::full(backend, weights, examples, settings)?;
        state.read_moments(&*trainer.backend, &mut trainer.moments)?;
        trainer.startup = state.header.startup.clone();
        trainer.step = state.header.step;
        Ok(trainer)
    }

    /// Returns how many steps are done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Returns how many steps there are in all.
    pub fn steps(&self) -> u64 {
        self.batches.steps()
    }

    /// Returns the adapter as it is now. Fails where the weights themselves are trained.
    pub fn adapter(&self) -> Result<Adapter, TrainError> {
        match &self.subject {
            Subject::Adapter { adapter, .. } => Ok(adapter.download(&self.backend)?),
            Subject::Weights { .. } => Err(TrainError::NoAdapter),
        }
    }

    /// Returns the weights of the model as they are now: the trained ones in full training, else the
    /// frozen ones.
    pub fn weights(&self) -> &Weights<B> {
        self.subject.model()
    }

    /// Ends full training and returns the weights; none where an adapter is trained.
    pub fn into_weights(self) -> Option<Weights<B>> {
        match self.subject {
            Subject::Weights { weights, .. } => Some(weights),
            Subject::Adapter { .. } => None,
        }
    }

    /// Writes all that [`resume_full`](Trainer::resume_full) needs into an empty folder, four times
    /// the model less its gradients. Fails where an adapter is trained, whose state is small:
    /// [`state`](Trainer::state).
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let Subject::Weights { weights, gradients } = &self.subject else {
            return Err(TrainError::NotFull);
        };
        let header = weights_state::Header::new(self.step, &self.task, &self.startup);
        let backend = &*self.backend;
        weights_state::write(folder, backend, &header, weights, gradients, &self.moments)
    }

    /// Returns all that [`resume`](Trainer::resume) needs. Fails where the weights themselves are
    /// trained: [`save`](Trainer::save).
    pub fn state(&self) -> Result<TrainState, TrainError> {
        let backend = &*self.backend;
        let adapter = self.adapter()?;
        let moments = |which: usize| -> Result<Adapter, TrainError> {
            let mut shaped = adapter.clone();
            let mut moments = self.moments.iter().map(|pair| &pair[which]);
            for pair in shaped.pairs.values_mut() {
                for values in [&mut pair.a, &mut pair.b] {
                    let moment = moments.next().expect("a moment for each matrix");
                    *values = backend.view(moment, 0..values.len())?.into_owned();
                }
            }
            Ok(shaped)
        };
        Ok(TrainState {
            step: self.step,
            first: moments(0)?,
            second: moments(1)?,
            adapter,
            startup: self.startup.clone(),
            task: self.task.clone(),
        })
    }

    /// Makes one optimiser step; none where all are done. After an error the trainer is of no use.
    pub fn step(&mut self) -> Result<Option<StepMetrics>, TrainError> {
        if self.step >= self.steps() {
            return Ok(None);
        }
        let indices = self.batches.of_step(self.step);
        let Share { loss, tokens, trained_tokens } = self.accumulate(&indices)?;
        let grad_norm = self.gradient_norm()?;
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                let ids = indices.iter().map(|&i| self.examples[i].id.clone()).collect();
                let (step, steps) = (self.step + 1, self.steps());
                return Err(TrainError::NotFinite { what, value, step, steps, ids });
            }
        }

        let learning_rate = self.schedule.learning_rate(self.step);
        // A completion right after a prompt of one token says nothing to queries and keys, and a
        // loss of exactly zero says nothing to anybody: such a step proves nothing.
        let late = |&i: &usize| self.examples[i].trained.iter().skip(2).any(|&trained| trained);
        let telling = loss > 0.0 && indices.iter().any(late);
        let watched = telling && !self.startup.is_done();
        let seen = self.update(grad_norm, learning_rate, watched)?;
        if watched {
            self.startup.observe(self.step + 1, learning_rate > 0.0, &seen)?;
        }

        self.step += 1;
        Ok(Some(StepMetrics {
            step: self.step,
            steps: self.steps(),
            loss,
            grad_norm,
            learning_rate,
            epoch: self.batches.epochs_after(self.step),
            trained_tokens,
            tokens,
        }))
    }

    /// Fills the gradients with those of some examples' loss.
    fn accumulate(&mut self, indices: &[usize]) -> Result<Share, TrainError> {
        let Trainer { backend, subject, examples, settings, activations, .. } = self;
        let backend = &**backend;
        let epoch = self.batches.epoch(self.step);
        let count = |of: fn(&Example) -> usize| indices.iter().map(|&i| of(&examples[i])).sum();
        let trained_tokens: usize = count(Example::trained_tokens);
        let mut loss = 0.0;
        subject.clear_gradients(backend);
        for micro_batch in micro_batches(indices, examples, settings.micro_batch_tokens) {
            let mut sequences = Sequences::default();
            for Example { id, tokens, trained } in micro_batch.iter().map(|&i| &examples[i]) {
                let place =
                    [settings.seed.into(), "dropout".into(), epoch.into(), id.as_str().into()];
                sequences.push(tokens, trained, seed::of(place));
            }
            let weights = vec![1.0; sequences.targets.len()];
            let slopes = objective::sft_gradient(&weights, trained_tokens as f64);
            let mut pass = subject.pass(backend, activations);
            let scored = backend.enter(|| {
                pass.forward(&sequences)?;
                pass.backward(&sequences, &slopes)
            })?;
            let logprobs: Vec<f32> = scored.iter().map(|token| token.logprob).collect();
            loss += objective::sft_loss(&logprobs, &weights, trained_tokens as f64);
        }
        Ok(Share { loss, tokens: count(|example| example.tokens.len()), trained_tokens })
    }

    /// Returns the global norm of the gradients.
    fn gradient_norm(&self) -> Result<f64, TrainError> {
        let mut sum = 0.0;
        for gradient in self.subject.gradients() {
            sum += self.backend.squared_norm(gradient, self.backend.len(gradient))?;
        }
        Ok(sum.sqrt())
    }

    /// Clips the gradients as PyTorch does, and moves every parameter. Returns what that did to each,
    /// where it is watched.
    fn update(
        &mut self,
        grad_norm: f64,
        learning_rate: f64,
        watched: bool,
    ) -> Result<Vec<Seen>, TrainError> {
        let TrainSettings { adam_beta1, adam_beta2, adam_epsilon, .. } = self.settings;
        let TrainSettings { weight_decay, max_grad_norm, .. } = self.settings;
        let gradient_scale = match max_grad_norm > 0.0 {
            true => (max_grad_norm / (grad_norm + 1e-6)).min(1.0),
            false => 1.0,
        };
        let step = AdamWStep {
            step: self.step + 1,
            learning_rate,
            beta1: adam_beta1,
            beta2: adam_beta2,
            eps: adam_epsilon,
            weight_decay,
            gradient_scale,
        };
        let Trainer { backend, subject, moments, .. } = self;
        Ok(backend.enter(|| subject.update(backend, moments, &step, watched))?)
    }
}

/// What the examples of a step came to.
struct Share {
    loss: f64,
    tokens: usize,
    trained_tokens: usize,
}

/// Returns a digest of everything that decides what a trainer does, but for where it starts.
fn task_digest(
    spec: &Spec,
    examples: &[Example],
    settings: &TrainSettings,
    lora: Option<&LoraConfig>,
) -> String {
    let mut hash = Sha256::new();
    let settings = serde_json::to_string(settings).expect("settings are plain numbers");
    hash.update(format!("{spec:?}\n{settings}\n{lora:?}\n{}\n", examples.len()));
    for Example { id, tokens, trained } in examples {
        hash.update(format!("{id:?} {} {}\n", tokens.len(), trained.len()));
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        trained.iter().for_each(|&trained| hash.update([u8::from(trained)]));
    }
    format!("{:x}", hash.finalize())
}

/// Why training cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting or an example is unusable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The adapter to start from does not fit the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A saved state cannot be gone on from.
    #[error(transparent)]
    State(#[from] StateError),
    /// Some tensors do not learn.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A saved state's weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A state cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An adapter was asked for where there is none.
    #[error("every weight of the model is trained; there is no adapter")]
    NoAdapter,
    /// The state of full training was asked for where an adapter is trained.
    #[error("an adapter is trained; the model's weights stay as they are")]
    NotFull,
    /// Training has diverged, or an example is too much for the model.
    #[error(
        "{what} is {value} in step {step} of {steps}\n  the examples are {}\n\n\
         hint: try a smaller `learning_rate`, or leave these examples out",
        names(ids)
    )]
    NotFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// NaN or infinite.
        value: f64,
        /// In which step, from 1.
        step: u64,
        /// Of how many.
        steps: u64,
        /// Ids of the step's examples.
        ids: Vec<String>,
    },
}

/// Names the first few of a list.
fn names(ids: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = ids.iter().take(SHOWN).map(|id| format!("`{id}`")).collect();
    match ids.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod tests;
