//! What the policy is held to, and what that says of items.

use std::ops::ControlFlow;

use super::batches::micro_batches;
use super::items::{Item, ItemProblem, SequenceProblem};
use super::settings::SettingsError;
use super::{TrainError, TrainMemory, TrainSettings};
use crate::generate::{Progress, SequenceError, Unfit, check_policy, check_tokens};
use crate::model::adapter::Adapter;
use crate::model::backend::TrainingBackend;
use crate::model::backward::{Reading, Sequences};
use crate::model::forward::Engine;
use crate::model::weights::LoadedAdapter;
use crate::objective::Preference;

/// What the policy is held to.
#[derive(Clone, Debug)]
pub enum Reference {
    /// The model without an adapter; in full training, as it is before the first step.
    Initial,
    /// The model with a frozen adapter, such as that of the round before.
    Adapter(Adapter),
    /// The logprobs themselves, in nats: for each item, the sum over each sequence's completion. See
    /// [`reference_logprobs`].
    Logprobs(Vec<Vec<f64>>),
}

/// Returns the summed logprob of each sequence's completion, for each item, in nats.
///
/// `adapter` is a frozen one, or none for the initial model. Items go through the model in passes like those of
/// training with `settings`, and no larger: so what is rounded there is rounded here, and a policy that is its own
/// reference is at no distance from it, but for last bits. The same items in the same order give the same bits, and may
/// be kept and given as [`Reference::Logprobs`]. On the CPU no bit depends on the other items.
pub fn reference_logprobs<B: TrainingBackend>(
    engine: &Engine<B>,
    adapter: Option<&LoadedAdapter<B>>,
    items: &[Item],
    settings: &TrainSettings,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Vec<f64>>, SequenceError> {
    check_policy(adapter)?;
    for (index, sequence) in items.iter().flat_map(|item| &item.sequences).enumerate() {
        let prompt = if sequence.prompt().is_empty() { Err(Unfit::Empty) } else { Ok(()) };
        let fits = prompt.and_then(|()| check_tokens(engine, &sequence.tokens, 0));
        fits.map_err(SequenceError::of(index))?;
    }
    let rows: Vec<usize> = items.iter().map(|item| item.rows(item.all(), true)).collect();
    let most = TrainMemory::rows(&rows, settings);
    let mut reading = Reading::new(&*engine.backend, &engine.weights, adapter, most)?;
    let (mut sums, mut index) = (Vec::with_capacity(items.len()), 0);
    let mut state = Progress { total: items.len(), ..Progress::default() };
    let order: Vec<usize> = (0..items.len()).collect();
    for micro_batch in micro_batches(&order, &rows, most) {
        let items = micro_batch.iter().map(|&i| &items[i]);
        let mut sequences = Sequences::default();
        for (sequence, shared) in items.clone().flat_map(|item| item.shared(item.all(), true)) {
            sequences.branch(&sequence.tokens, &sequence.trained, shared, 0);
        }
        let said = engine.backend.enter(|| reading.logprobs(&sequences))?;
        let mut said = said.into_iter();
        for item in items {
            let mut of_item = Vec::with_capacity(item.sequences.len());
            for sequence in &item.sequences {
                let mut sum = 0.0;
                let counted = sequence.trained.iter().enumerate().filter(|&(_, &counts)| counts);
                for ((position, _), said) in counted.zip(&mut said) {
                    if !said.logprob.is_finite() {
                        let position = position - 1;
                        return Err(SequenceError::of(index)(Unfit::NotFinite { position }));
                    }
                    sum += f64::from(said.logprob);
                }
                of_item.push(sum);
                index += 1;
            }
            sums.push(of_item);
        }
        (state.done, state.tokens) = (sums.len(), state.tokens + sequences.targets.len());
        if progress(state).is_break() {
            return Err(SequenceError::Cancelled);
        }
    }
    Ok(sums)
}

impl Reference {
    /// Returns the finite logprobs of checked items.
    pub(super) fn logprobs<B: TrainingBackend>(
        self,
        engine: &Engine<B>,
        objective: &Preference,
        items: &[Item],
        settings: &TrainSettings,
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let adapter = match self {
            Reference::Logprobs(logprobs) => {
                check_reference(&logprobs, objective, items)?;
                return Ok(logprobs);
            }
            Reference::Initial => None,
            Reference::Adapter(adapter) => {
                adapter.check(&engine.weights.spec)?;
                Some(engine.load_adapter(&adapter, 1.0)?)
            }
        };
        let adapter = adapter.as_ref();
        let mut progress = |_| ControlFlow::Continue(());
        match reference_logprobs(engine, adapter, items, settings, &mut progress) {
            Ok(logprobs) => Ok(logprobs),
            Err(SequenceError::Sequence { index, problem: Unfit::NotFinite { .. } }) => {
                let roles = objective.roles();
                let (item, role) = (&items[index / roles.len()], roles[index % roles.len()]);
                let problem = SequenceProblem::Reference { logprob: f64::NAN };
                let problem = ItemProblem::Sequence { role, problem };
                Err(SettingsError::Item { id: item.id.clone(), problem }.into())
            }
            Err(source) => Err(TrainError::Reference { source }),
        }
    }

    /// Returns what decides the logprobs, for the digest of a task.
    pub(super) fn identity(&self) -> String {
        match self {
            Reference::Initial => "initial".into(),
            Reference::Adapter(adapter) => adapter.digest(),
            Reference::Logprobs(logprobs) => {
                let bits = |x: &f64| format!("{:x}", x.to_bits());
                let item = |of: &Vec<f64>| of.iter().map(bits).collect::<Vec<_>>().join(" ");
                logprobs.iter().map(item).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// Checks logprobs that somebody else made.
fn check_reference(
    logprobs: &[Vec<f64>],
    objective: &Preference,
    items: &[Item],
) -> Result<(), SettingsError> {
    if logprobs.len() != items.len() {
        let (found, expected) = (logprobs.len(), items.len());
        return Err(SettingsError::References { found, expected });
    }
    for (item, logprobs) in items.iter().zip(logprobs) {
        let id = || item.id.clone();
        let (found, expected) = (logprobs.len(), item.sequences.len());
        if found != expected {
            let problem = ItemProblem::References { found, expected };
            return Err(SettingsError::Item { id: id(), problem });
        }
        for (&logprob, &role) in logprobs.iter().zip(objective.roles()) {
            // A logprob is finite and at most 0.
            if !(f64::MIN..=0.0).contains(&logprob) {
                let problem = SequenceProblem::Reference { logprob };
                let problem = ItemProblem::Sequence { role, problem };
                return Err(SettingsError::Item { id: id(), problem });
            }
        }
    }
    Ok(())
}
