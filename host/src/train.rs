//! Training: data and a model in, a better adapter or better weights out, one step at a time.
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
//! Preference objectives learn from items of several sequences, and most compare the policy with a
//! reference:
//!
//! ```no_run
//! # use aligner::{model::{adapter::Adapter, backend::TrainingBackend, forward::Engine}, objective::Preference, train::*};
//! # fn run<B: TrainingBackend>(engine: Engine<B>, start: Adapter) -> Result<(), TrainError> {
//! let items = vec![Item::pair("first", &[1, 2, 3], &[4, 5], &[6])];
//! let objective = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };
//! let data = Data::Preference { items, objective, reference: Reference::Initial };
//! let mut trainer = Trainer::new(engine, &start, data, TrainSettings::default())?;
//! # Ok(()) }
//! ```
//!
//! What is trained is an adapter beside frozen weights ([`Trainer::new`]) or every weight of a model
//! ([`Trainer::full`]); all else is the same. What is trained, its gradients and moments are f32.
//!
//! A step's examples are cut into micro-batches that fit in memory; the sequences of an item stay
//! together. Gradients are divided by the number of trained tokens of the whole step, or by that of
//! its items, so the update does not depend on the cut but for rounding, and for one cut not at all
//! on the number of threads, or of processes that form it together ([`Ranks`]).

mod batches;
mod error;
mod items;
mod learner;
mod memory;
mod metrics;
mod ranks;
mod reference;
mod schedule;
mod settings;
mod startup;
mod state;
mod subject;
mod sums;
mod unpaired;
mod weights_state;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use sha2::{Digest, Sha256};

pub use batches::order;
pub use error::TrainError;
pub use items::{Data, Item, ItemProblem, Sequence, SequenceProblem, shares_prompts};
pub use memory::{TrainMemory, reference_memory};
pub use metrics::{PreferenceMetrics, StepMetrics};
pub use ranks::{Base, RankError, Ranks, WireError, Work, Worker, WorkerError};
pub use reference::{Reference, reference_logprobs};
pub use schedule::Schedule;
pub use settings::{Example, LrSchedulerType, SettingsError, TrainSettings, check_examples};
pub use startup::StartupError;
pub use state::{StateError, TrainState};
pub use unpaired::{Rated, unpaired};
pub use weights_state::WeightsState;

use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::training::AdamWStep;
use crate::model::backend::{TrainingBackend, WeightType};
use crate::model::checkpoint::Checkpoint;
use crate::model::forward::Engine;
use crate::model::spec::Spec;
use crate::model::weights::{Weights, WeightsCheckpoint};
use crate::objective::kto;
use items::Task;
use learner::{Cut, Learner};
use metrics::Share;
use startup::{Rate, Seen, Startup};
use subject::{Moments, Subject};
use sums::Sums;

/// Trains an adapter, or every weight of a model, on examples or preferences.
pub struct Trainer<B: TrainingBackend> {
    learner: Learner<B>,
    sums: Sums<B>,
    schedule: Schedule,
    /// In the order of the gradients.
    moments: Vec<Moments<B>>,
    startup: Startup,
    step: u64,
    task: String,
    /// Who else works on each step.
    ranks: Option<Arc<Mutex<Ranks>>>,
}

impl<B: TrainingBackend> Trainer<B> {
    /// Starts training from an adapter, which may be fresh ([`Adapter::init`]) or that of the round
    /// before, and has a head ([`Adapter::with_score`]) where a reward model is trained and only there. `data`
    /// are [`Data`], or examples for supervised fine-tuning.
    ///
    /// Where there is a reference, everything is scored under it here, once.
    pub fn new(
        engine: Engine<B>,
        start: &Adapter,
        data: impl Into<Data>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        settings.check()?;
        start.check(&engine.weights.spec)?;
        let data = data.into();
        data.check_head(Some(start))?;
        let task = Task::new(&engine, data, &settings)?;
        let Engine { backend, weights } = engine;
        let subject = Subject::adapter(&*backend, weights, start)?;
        Trainer::begin(backend, subject, task, settings)
    }

    /// Starts training every weight of a model. The trainer owns the weights, which it changes; they
    /// must be in f32.
    ///
    /// Where there is a reference, it is the model as it is now: everything is scored under it here,
    /// and what came out is kept with the state.
    pub fn full(
        backend: Arc<B>,
        weights: Weights<B>,
        data: impl Into<Data>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        settings.check()?;
        let weight_type = weights.weight_type;
        if weight_type != WeightType::F32 {
            return Err(TrainError::WeightType { weight_type });
        }
        let data = data.into();
        data.check_head(None)?;
        let engine = Engine { backend, weights: Arc::new(weights) };
        let task = Task::new(&engine, data, &settings)?;
        let Engine { backend, weights } = engine;
        let Some(weights) = Arc::into_inner(weights) else {
            unreachable!("scoring is over, so nobody else has the weights")
        };
        let subject = Subject::weights(&*backend, weights)?;
        Trainer::begin(backend, subject, task, settings)
    }

    fn begin(
        backend: Arc<B>,
        subject: Subject<B>,
        task: Task,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let Task { items, objective, digest } = task;
        let (spec, lora) = (&subject.model().spec, subject.lora());
        let task = task_digest(spec, &digest, &settings, lora);
        let learner = Learner::new(backend, subject, items, objective, settings)?;
        let Learner { backend, subject, settings, batches, .. } = &learner;
        let schedule = Schedule::new(settings, batches.steps());
        let sums = Sums::new(&**backend, subject)?;
        let mut moments = Vec::new();
        for gradient in subject.gradients() {
            let len = backend.len(gradient);
            moments.push([backend.zeros(len)?, backend.zeros(len)?]);
        }
        let startup = Startup::new(subject.names());
        Ok(Trainer { learner, sums, schedule, moments, startup, step: 0, task, ranks: None })
    }

    /// Has other ranks work on each step from now on, which changes no bit of what is trained. Fails where the
    /// weights themselves are trained.
    pub fn share_with(&mut self, ranks: Arc<Mutex<Ranks>>) -> Result<(), TrainError> {
        lock(&ranks).begin(&self.learner)?;
        self.ranks = Some(ranks);
        Ok(())
    }

    /// Goes on from a saved state, with the model, data and settings that it was started with.
    /// What follows is the same, to the last bit, as if it had never stopped.
    pub fn resume(
        engine: Engine<B>,
        state: TrainState,
        data: impl Into<Data>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let (spec, data) = (&engine.weights.spec, data.into());
        let lora = Some(&state.adapter.config);
        if state.task != task_digest(spec, &data.digest(), &settings, lora) {
            return Err(StateError::OtherTask.into());
        }
        for moments in [&state.first, &state.second] {
            moments.check(spec)?;
        }
        let mut trainer = Trainer::new(engine, &state.adapter, data, settings)?;
        let saved = state.first.tensors().zip(state.second.tensors());
        for (moments, (first, second)) in trainer.moments.iter_mut().zip(saved) {
            let backend = &trainer.learner.backend;
            backend.write(first.values, &mut moments[0], 0);
            backend.write(second.values, &mut moments[1], 0);
        }
        trainer.startup = state.startup;
        trainer.step = state.step;
        Ok(trainer)
    }

    /// Goes on with full training from what [`save`](Trainer::save) wrote, with the data and settings
    /// that it was started with; the same, to the last bit, as if it had never stopped.
    pub fn resume_full(
        backend: Arc<B>,
        state: &WeightsState,
        data: impl Into<Data>,
        settings: TrainSettings,
    ) -> Result<Trainer<B>, TrainError> {
        let (weights_state::Header { step, task, startup, .. }, data) =
            (&state.header, data.into());
        if *task != task_digest(state.weights.spec(), &data.digest(), &settings, None) {
            return Err(StateError::OtherTask.into());
        }
        let weights = Weights::load(&*backend, &state.weights, &mut |_, _| {})?;
        // The weights are no longer those that the reference had.
        let data = data.with_reference(state.header.reference());
        let mut trainer = Trainer::full(backend, weights, data, settings)?;
        state.read_moments(&*trainer.learner.backend, &mut trainer.moments)?;
        (trainer.step, trainer.task, trainer.startup) = (*step, task.clone(), startup.clone());
        Ok(trainer)
    }

    /// Returns how many steps are done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Returns how many steps there are in all.
    pub fn steps(&self) -> u64 {
        self.learner.batches.steps()
    }

    /// Returns the adapter as it is now. Fails where the weights themselves are trained.
    pub fn adapter(&self) -> Result<Adapter, TrainError> {
        let Learner { backend, subject, .. } = &self.learner;
        match subject {
            Subject::Adapter { adapter, .. } => Ok(adapter.download(backend)?),
            Subject::Weights { .. } => Err(TrainError::NoAdapter),
        }
    }

    /// Returns the weights of the model as they are now: the trained ones in full training, else the
    /// frozen ones.
    pub fn weights(&self) -> &Weights<B> {
        self.learner.subject.model()
    }

    /// Returns the same to be read tensor by tensor, as it is from a file.
    pub fn checkpoint(&self) -> WeightsCheckpoint<'_, B> {
        WeightsCheckpoint::new(&self.learner.backend, self.weights())
    }

    /// Ends full training and returns the weights; none where an adapter is trained.
    pub fn into_weights(self) -> Option<Weights<B>> {
        match self.learner.subject {
            Subject::Weights { weights, .. } => Some(weights),
            Subject::Adapter { .. } => None,
        }
    }

    /// Writes all that [`resume_full`](Trainer::resume_full) needs into an empty folder, four times
    /// the model less its gradients. Fails where an adapter is trained, whose state is small:
    /// [`state`](Trainer::state).
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let Learner { backend, subject, .. } = &self.learner;
        let Subject::Weights { weights, gradients } = subject else {
            return Err(TrainError::NotFull);
        };
        let header = weights_state::Header::new(self);
        weights_state::write(folder, &**backend, &header, weights, gradients, &self.moments)
    }

    /// Returns all that [`resume`](Trainer::resume) needs. Fails where the weights themselves are
    /// trained: [`save`](Trainer::save).
    pub fn state(&self) -> Result<TrainState, TrainError> {
        let backend = &*self.learner.backend;
        let adapter = self.adapter()?;
        let moments = |which: usize| -> Result<Adapter, TrainError> {
            let mut shaped = adapter.clone();
            let mut moments = self.moments.iter().map(|pair| &pair[which]);
            for values in shaped.values_mut() {
                let moment = moments.next().expect("a moment for each matrix");
                *values = backend.view(moment, 0..values.len())?.into_owned();
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
        let indices = self.learner.batches.of_step(self.step);
        let share = self.accumulate(&indices)?;
        let preference = share.preference();
        let Share { loss, entropy, tokens, trained_tokens, .. } = share;
        let grad_norm = self.gradient_norm()?;
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                let ids = indices.iter().map(|&i| self.learner.items[i].id.clone()).collect();
                let (step, steps) = (self.step + 1, self.steps());
                return Err(TrainError::NotFinite { what, value, step, steps, ids });
            }
        }

        let learning_rate = self.schedule.learning_rate(self.step);
        // A completion right after a prompt of one token says nothing to queries and keys, and a loss of
        // next to zero, which has no gradient left in f32, says nothing to anybody: such a step proves nothing.
        let late = |&i: &usize| {
            let mut sequences = self.learner.items[i].sequences.iter();
            sequences.any(|sequence| sequence.trained.iter().skip(2).any(|&trained| trained))
        };
        let telling = loss > f64::from(f32::EPSILON) && indices.iter().any(late);
        let rate = Rate::of(learning_rate, self.learner.settings.learning_rate);
        let watched = telling && self.startup.wants(rate);
        let seen = self.update(grad_norm, learning_rate, watched)?;
        if watched {
            self.startup.observe(self.step + 1, rate, &seen)?;
        }

        self.step += 1;
        Ok(Some(StepMetrics {
            step: self.step,
            steps: self.steps(),
            loss,
            grad_norm,
            learning_rate,
            epoch: self.learner.batches.epochs_after(self.step),
            entropy: (!self.learner.objective.makes_reward_model())
                .then(|| entropy / trained_tokens as f64),
            trained_tokens,
            tokens,
            preference,
        }))
    }

    /// Fills the gradients with those of the loss of a step's items.
    fn accumulate(&mut self, indices: &[usize]) -> Result<Share, TrainError> {
        let Trainer { learner, sums, step, ranks, .. } = self;
        let cut = learner.cut(*step, indices);
        let Some(ranks) = ranks else { return accumulate(learner, sums, &cut, None) };
        let mut ranks = lock(ranks);
        let share = accumulate(learner, sums, &cut, Some(&mut ranks));
        if share.is_err() {
            ranks.leave_step(&*learner.backend, &mut learner.subject);
        }
        share
    }

    /// Returns the global norm of the gradients.
    fn gradient_norm(&self) -> Result<f64, TrainError> {
        let Learner { backend, subject, .. } = &self.learner;
        Ok(backend.squared_norm(&subject.gradients())?.sqrt())
    }

    /// Clips the gradients as PyTorch does, and moves every parameter. Returns what that did to each,
    /// where it is watched.
    fn update(
        &mut self,
        grad_norm: f64,
        learning_rate: f64,
        watched: bool,
    ) -> Result<Vec<Seen>, TrainError> {
        let TrainSettings { adam_beta1, adam_beta2, adam_epsilon, .. } = self.learner.settings;
        let TrainSettings { weight_decay, max_grad_norm, .. } = self.learner.settings;
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
        let Trainer { learner: Learner { backend, subject, .. }, moments, .. } = self;
        Ok(backend.enter(|| subject.update(backend, moments, &step, watched))?)
    }
}

/// Fills the gradients with those of the loss of a step. Of each turn of micro-batches the first is worked on here, and
/// the others by the other ranks; what they come to is added in the order of the micro-batches.
fn accumulate<B: TrainingBackend>(
    learner: &mut Learner<B>,
    sums: &mut Sums<B>,
    cut: &Cut,
    mut ranks: Option<&mut Ranks>,
) -> Result<Share, TrainError> {
    let backend = learner.backend.clone();
    let size = ranks.as_ref().map_or(1, |ranks| ranks.size());
    if let Some(ranks) = &mut ranks {
        ranks.step(&*backend, &learner.subject, cut.step)?;
    }
    let mut share = Share::default();
    if !learner.objective.is_paired() {
        let mut mismatched = Vec::new();
        for turn in cut.looked_at.chunks(size) {
            for (rank, micro_batch) in turn.iter().enumerate() {
                let looked = match &mut ranks {
                    Some(ranks) if rank > 0 => ranks.looked(rank)?,
                    _ => learner.look(cut, micro_batch)?,
                };
                share.tokens += looked.tokens;
                mismatched.extend(looked.scored);
            }
        }
        share.kl = Some(kto::reference_point(&mismatched));
        if let Some(ranks) = &mut ranks {
            ranks.point(share.kl)?;
        }
    }
    sums.begin(&*backend, &mut learner.subject);
    for turn in cut.learnt.chunks(size) {
        for (rank, micro_batch) in turn.iter().enumerate() {
            let of_micro_batch = match &mut ranks {
                Some(ranks) if rank > 0 => ranks.learnt(rank, &*backend, &mut learner.subject)?,
                _ => {
                    let begun = Instant::now();
                    let of_own = learner.learn(cut, micro_batch, share.kl)?;
                    if let Some(ranks) = &mut ranks {
                        ranks.be_patient(begun.elapsed());
                    }
                    of_own
                }
            };
            sums.add(&*backend, &mut learner.subject);
            share.append(of_micro_batch);
        }
    }
    sums.finish(&mut learner.subject);
    if let Some(ranks) = &mut ranks {
        ranks.done()?;
    }
    Ok(share)
}

fn lock(ranks: &Mutex<Ranks>) -> MutexGuard<'_, Ranks> {
    ranks.lock().expect("nothing panics while it is held")
}

/// Returns a digest of everything that decides what a trainer comes to, but for where it starts.
fn task_digest(
    spec: &Spec,
    data: &[u8; 32],
    settings: &TrainSettings,
    lora: Option<&LoraConfig>,
) -> String {
    let mut hash = Sha256::new();
    // What is computed twice takes less memory and changes no bit, so it may begin in the middle.
    let settings = TrainSettings { gradient_checkpointing: false, ..settings.clone() };
    let settings = serde_json::to_string(&settings).expect("settings are plain numbers");
    hash.update(format!("{spec:?}\n{settings}\n{lora:?}\n"));
    hash.update(data);
    format!("{:x}", hash.finalize())
}

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod preference_tests;
#[cfg(test)]
mod reward_tests;
#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
