//! A process that works for rank 0.

use std::io;
use std::os::unix::net::UnixStream;

use super::wire::Wire;
use super::{Answer, Assignment, Base, Hello, Order, VERSION, WireError};
use crate::model::adapter::Adapter;
use crate::model::backend::TrainingBackend;
use crate::model::forward::Engine;
use crate::train::TrainError;
use crate::train::items::{Item, Objective};
use crate::train::learner::Learner;
use crate::train::subject::Subject;

/// The connection of a rank above 0 with rank 0.
pub struct Worker {
    pub(super) wire: Wire,
    pub(super) rank: usize,
    pub(super) size: usize,
    /// Whether numbers pass between the devices themselves.
    pub(super) is_linked: bool,
}

/// What rank 0 wants of a worker.
pub enum Work {
    /// The model that it is to load ([`Worker::work`]).
    Load(Base),
    /// Nothing more.
    End,
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("rank 0 cannot be worked for: {0}")]
pub struct WorkerError(#[from] pub WireError);

impl From<io::Error> for WorkerError {
    fn from(error: io::Error) -> WorkerError {
        WorkerError(error.into())
    }
}

impl Worker {
    /// Tells rank 0 who this is: `rank` of `size`.
    pub fn join(stream: UnixStream, rank: usize, size: usize) -> Result<Worker, WorkerError> {
        let mut wire = Wire::new(stream)?;
        wire.send(&Hello { rank, size, version: VERSION.to_owned() })?;
        Ok(Worker { wire, rank, size, is_linked: false })
    }

    /// Waits for the model that is to be loaded.
    pub fn wait(&mut self) -> Result<Work, WorkerError> {
        match self.wire.receive()? {
            Order::Load(base) => {
                Ok(Work::Load(serde_json::from_str(&base).map_err(|_| WireError::Garbled)?))
            }
            Order::End => Ok(Work::End),
            _ => Err(WireError::Garbled.into()),
        }
    }

    /// Tells rank 0 why there will be no work.
    pub fn refuse(&mut self, message: &str) -> Result<(), WorkerError> {
        Ok(self.fail(message, false)?)
    }

    /// Works with the model that was loaded until rank 0 needs nothing more.
    pub fn work<B: TrainingBackend>(mut self, engine: &Engine<B>) -> Result<(), WorkerError> {
        self.wire.send(&Answer::Ready)?;
        self.work_on(engine)
    }

    pub(super) fn work_on<B: TrainingBackend>(
        mut self,
        engine: &Engine<B>,
    ) -> Result<(), WorkerError> {
        let mut learner = None;
        loop {
            match self.wire.receive()? {
                Order::Link(key) => self.link(&*engine.backend, &key)?,
                Order::Linked(linked) => self.linked(&*engine.backend, linked),
                Order::Begin { items, reference, task } => {
                    // Two at once might not find room.
                    drop(learner.take());
                    let task = serde_json::from_str(&task).map_err(|_| WireError::Garbled)?;
                    match assigned(engine, items.into_owned(), reference.into_owned(), task) {
                        Ok(assigned) => {
                            learner = Some(assigned);
                            self.wire.send(&Answer::Ready)?;
                        }
                        Err(error) => self.failed(&error)?,
                    }
                }
                Order::Step(step) => {
                    let learner = learner.as_mut().ok_or(WireError::Garbled)?;
                    match self.receive_values(learner)? {
                        true => self.step(learner, step)?,
                        false => self.wire.send(&Answer::Done)?,
                    }
                }
                // Of a step that has failed.
                Order::Point(_) => {}
                Order::Load(_) => return Err(WireError::Garbled.into()),
                Order::End => return Ok(()),
            }
        }
    }

    /// Does this rank's part of a step.
    fn step<B: TrainingBackend>(
        &mut self,
        learner: &mut Learner<B>,
        step: u64,
    ) -> Result<(), WireError> {
        let (rank, size) = (self.rank, self.size);
        let cut = learner.cut(step, &learner.batches.of_step(step));
        for turn in cut.looked_at.chunks(size) {
            let Some(micro_batch) = turn.get(rank) else { continue };
            match learner.look(&cut, micro_batch) {
                Ok(looked) => self.wire.send(&Answer::Looked(looked))?,
                Err(error) => return self.failed(&error),
            }
        }
        let kl = match learner.objective.is_paired() {
            true => None,
            false => match self.wire.receive()? {
                Order::Point(kl) => kl,
                _ => return Err(WireError::Garbled),
            },
        };
        for turn in cut.learnt.chunks(size) {
            let Some(micro_batch) = turn.get(rank) else { continue };
            let share = match learner.learn(&cut, micro_batch, kl) {
                Ok(share) => share,
                Err(error) => return self.failed(&error),
            };
            let (backend, Subject::Adapter { adapter, .. }) = (&learner.backend, &learner.subject)
            else {
                return Err(WireError::Garbled);
            };
            // What rank 0 takes from device to device has no place for a failure.
            if let Err(error) = backend.settle() {
                return self.failed(&error.into());
            }
            self.wire.send(&Answer::Learnt(share))?;
            if self.is_linked {
                let gradients: Vec<_> =
                    adapter.parameters().map(|parameter| &parameter.gradient).collect();
                self.transfer(|still| backend.send(&gradients, 0..1, still))?;
                continue;
            }
            for parameter in adapter.parameters() {
                match backend.view(&parameter.gradient, 0..parameter.len()) {
                    Ok(values) => self.wire.send_numbers(&values)?,
                    Err(error) => return self.failed(&error.into()),
                }
            }
        }
        self.wire.send(&Answer::Done)
    }

    /// Takes the adapter as rank 0 has it; false where rank 0 has left the step.
    fn receive_values<B: TrainingBackend>(
        &mut self,
        learner: &mut Learner<B>,
    ) -> Result<bool, WireError> {
        let Learner { backend, subject: Subject::Adapter { adapter, .. }, .. } = learner else {
            return Err(WireError::Garbled);
        };
        if self.is_linked {
            let mut values: Vec<_> =
                adapter.parameters_mut().map(|parameter| &mut parameter.values).collect();
            self.transfer(|still| backend.receive(&mut values, 0, still))?;
            adapter.repack(backend);
            return Ok(true);
        }
        let mut numbers = Vec::new();
        for parameter in adapter.parameters_mut() {
            let len = parameter.len();
            if self.wire.receive_numbers(&mut numbers, len)?.is_some() {
                return Ok(false);
            }
            backend.write(&numbers, &mut parameter.values, 0);
        }
        adapter.repack(backend);
        Ok(true)
    }

    fn failed(&mut self, error: &TrainError) -> Result<(), WireError> {
        self.fail(&error.to_string(), error.is_out_of_memory())
    }

    pub(super) fn fail(&mut self, message: &str, out_of_memory: bool) -> Result<(), WireError> {
        self.wire.send(&Answer::Failed { message: message.to_owned(), out_of_memory })
    }
}

/// Gets ready for what rank 0 trains. All of it is checked there.
fn assigned<B: TrainingBackend>(
    engine: &Engine<B>,
    items: Vec<Item>,
    reference: Vec<Vec<f64>>,
    task: Assignment,
) -> Result<Learner<B>, TrainError> {
    let Engine { backend, weights } = engine;
    let mut adapter = Adapter::zeros(&weights.spec, task.lora)?;
    if task.scores {
        adapter.score = Some(vec![0.0; weights.spec.hidden]);
    }
    let objective = match task.objective {
        None => Objective::Sft,
        Some(objective) => Objective::Preference { objective, reference },
    };
    let subject = Subject::adapter(&**backend, weights.clone(), &adapter)?;
    Ok(Learner::new(backend.clone(), subject, items, objective, task.settings)?)
}
