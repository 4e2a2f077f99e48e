//! Training over several processes of one host, each with a GPU or processors of its own.
//!
//! The process of rank 0 is the run: it has the trainer, and all other stages are its own. The others work for it:
//! each holds the same frozen weights, gets the adapter before every step, and forms the gradients of its part of the
//! step's micro-batches. Of `n` processes, that of rank `r` forms those of micro-batches `r`, `r + n`, `r + 2n`, …;
//! rank 0 adds them in the order of the micro-batches. As a trainer on its own adds them just so, what is trained is
//! the same bit for bit over any number of processes, and a run may go on over another number than it began with.
//!
//! Only gradients and values of the adapter pass between processes; nothing of the optimiser leaves rank 0.

mod link;
mod wire;
mod worker;

use std::borrow::Cow;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use wire::WireError;
pub use worker::{Work, Worker, WorkerError};

use super::items::{Item, Objective};
use super::learner::{Learner, Looked};
use super::metrics::Share;
use super::subject::Subject;
use super::{TrainError, TrainSettings};
use crate::model::adapter::LoraConfig;
use crate::model::backend::{TrainingBackend, WeightType};
use crate::model::template::ChatSettings;
use crate::objective::Preference;
use wire::Wire;

/// Processes of two versions do not understand each other.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a rank that is in a step may say nothing, where this one does its own part quickly.
const IN_STEP: Duration = Duration::from_secs(600);

/// How long a rank may go on with its part of a step once the user wants to stop, where this one does its own part quickly.
const GRACE: Duration = Duration::from_secs(10);

/// The ranks that work for this process, rank 0.
pub struct Ranks {
    size: usize,
    /// In the order of ranks once all have come.
    peers: Vec<Peer>,
    /// Whether numbers pass between the devices themselves.
    is_linked: bool,
}

struct Peer {
    rank: usize,
    wire: Wire,
    /// Whether it is within a step, and so will say that it is done or has failed.
    in_step: bool,
    /// Whether the connection is of no use any more: nothing is sent or expected.
    is_gone: bool,
}

/// What a rank is for, said by itself when it comes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    rank: usize,
    size: usize,
    /// Of aligner.
    version: String,
}

/// What rank 0 has the others do.
#[derive(Debug, Serialize, Deserialize)]
enum Order<'a> {
    /// Load the model: [`Base`] as JSON.
    Load(String),
    /// Link the device to those of the other ranks, by this key.
    Link(Vec<u8>),
    /// Whether all are linked, or none is.
    Linked(bool),
    /// Get ready to learn from `items`; settings, objective and what is trained are JSON.
    Begin { items: Cow<'a, [Item]>, reference: Cow<'a, [Vec<f64>]>, task: String },
    /// Work on a step, from 0; the values of the adapter follow.
    Step(u64),
    /// The step's reference point.
    Point(Option<f64>),
    /// All is done.
    End,
}

/// The frozen weights that each rank has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// The model as `[models]` names it.
    pub model: String,
    /// Its digest.
    pub digest: String,
    /// What its chat template is told, of which the digest is made too.
    pub chat: ChatSettings,
    /// How its weights are kept.
    pub weight_type: WeightType,
    /// Device, number type and kernels ([`AnyDevice::class`](crate::model::backend::AnyDevice::class)).
    pub class: String,
}

/// What is trained, on what, and how: what JSON holds of [`Order::Begin`].
#[derive(Debug, Serialize, Deserialize)]
struct Assignment {
    lora: LoraConfig,
    /// Whether there is a reward model's head.
    scores: bool,
    objective: Option<Preference>,
    settings: TrainSettings,
}

/// What a rank says.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It has loaded the model, is linked, or is ready for the first step.
    Ready,
    Looked(Looked),
    /// The gradients follow.
    Learnt(Share),
    /// The step is over.
    Done,
    /// It could not do what it should.
    Failed {
        message: String,
        out_of_memory: bool,
    },
}

/// Why a rank does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum RankError {
    /// The connection with it is of no use any more.
    #[error("rank {rank} cannot be worked with: {source}")]
    Wire {
        /// Which.
        rank: usize,
        /// Why.
        source: WireError,
    },
    /// It says that it cannot.
    #[error("rank {rank}: {message}")]
    Failed {
        /// Which.
        rank: usize,
        /// Why, as it says it.
        message: String,
        /// Whether its device's memory does not suffice.
        out_of_memory: bool,
    },
    /// It is of another version of the program.
    #[error("rank {rank} is of aligner {version}, rank 0 of {VERSION}")]
    Version {
        /// Which.
        rank: usize,
        /// Its version.
        version: String,
    },
}

impl Ranks {
    /// Begins with rank 0 alone, of so many.
    pub fn new(size: usize) -> Ranks {
        Ranks { size, peers: Vec::new(), is_linked: false }
    }

    /// Takes the connection of a rank, which says first who it is; false where it says nothing for as long as `patience`
    /// and `cancel` allow, is none that is missing, or has gone, and so is let go.
    pub fn admit(
        &mut self,
        stream: UnixStream,
        patience: Duration,
        cancel: &'static AtomicBool,
    ) -> Result<bool, RankError> {
        let Ok(mut wire) = Wire::new(stream) else { return Ok(false) };
        (wire.patience, wire.cancel) = (Some(patience), Some(cancel));
        let Ok(Hello { rank, size, version }) = wire.receive() else { return Ok(false) };
        if version != VERSION {
            return Err(RankError::Version { rank, version });
        }
        let is_here = self.peers.iter().any(|peer| peer.rank == rank);
        if size != self.size || rank == 0 || rank >= size || is_here {
            return Ok(false);
        }
        self.peers.push(Peer { rank, wire, in_step: false, is_gone: false });
        self.peers.sort_by_key(|peer| peer.rank);
        Ok(true)
    }

    /// Returns how many of the others have come.
    pub fn come(&self) -> usize {
        self.peers.len()
    }

    /// Returns how many ranks there are, this one included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Has all ranks load the model, for which each may take as long as `patience`
    /// ([`loaded`](Ranks::loaded)).
    pub fn load(&mut self, base: &Base, patience: Duration) -> Result<(), RankError> {
        self.peers.iter_mut().for_each(|peer| peer.wire.patience = Some(patience));
        let base = serde_json::to_string(base).expect("settings are plain fields");
        self.tell(&Order::Load(base))
    }

    /// Waits until all ranks have loaded the model; `loaded` hears of each.
    pub fn loaded(&mut self, loaded: &mut dyn FnMut()) -> Result<(), RankError> {
        self.ready(loaded)?;
        self.be_patient(Duration::ZERO);
        Ok(())
    }

    fn tell(&mut self, order: &Order<'_>) -> Result<(), RankError> {
        let order = Wire::encoded(order);
        self.peers.iter_mut().try_for_each(|peer| peer.on(|wire| wire.send_encoded(&order)))
    }

    /// Hears of all ranks that they are ready, and then of the first that is not.
    fn ready(&mut self, each: &mut dyn FnMut()) -> Result<(), RankError> {
        let mut heard = Ok(());
        for peer in &mut self.peers {
            let of_peer = match peer.receive() {
                Ok(Answer::Ready) => {
                    each();
                    Ok(())
                }
                Ok(_) => Err(garbled(peer.rank)),
                Err(error) => Err(error),
            };
            heard = heard.and(of_peer);
        }
        heard
    }

    /// Lets ranks take longer for a part of a step than this one did, by far.
    pub(super) fn be_patient(&mut self, own: Duration) {
        for Peer { wire, .. } in &mut self.peers {
            (wire.patience, wire.grace) = (Some(IN_STEP.max(own * 10)), GRACE.max(own * 2));
        }
    }

    /// Has all ranks get ready for what a trainer learns.
    pub(super) fn begin<B: TrainingBackend>(
        &mut self,
        learner: &Learner<B>,
    ) -> Result<(), TrainError> {
        let Subject::Adapter { adapter, .. } = &learner.subject else {
            return Err(TrainError::NoAdapter);
        };
        let (objective, reference) = match &learner.objective {
            Objective::Sft => (None, &[][..]),
            Objective::Preference { objective, reference } => (Some(*objective), &reference[..]),
        };
        let task = Assignment {
            lora: adapter.config().clone(),
            scores: adapter.has_score(),
            objective,
            settings: learner.settings.clone(),
        };
        let task = serde_json::to_string(&task).expect("settings are plain numbers");
        let (items, reference) = (Cow::from(&learner.items), Cow::from(reference));
        self.tell(&Order::Begin { items, reference, task })?;
        Ok(self.ready(&mut || ())?)
    }

    /// Has all ranks begin a step, from 0, with the adapter as it is.
    pub(super) fn step<B: TrainingBackend>(
        &mut self,
        backend: &B,
        subject: &Subject<B>,
        step: u64,
    ) -> Result<(), TrainError> {
        let begun = self.begin_step(backend, subject, step);
        if begun.is_err() && self.is_linked {
            // Who has heard of the step waits for values that nobody sends.
            self.give_up();
        }
        begun
    }

    fn begin_step<B: TrainingBackend>(
        &mut self,
        backend: &B,
        subject: &Subject<B>,
        step: u64,
    ) -> Result<(), TrainError> {
        let order = Wire::encoded(&Order::Step(step));
        for peer in &mut self.peers {
            peer.in_step = true;
            peer.on(|wire| wire.send_encoded(&order))?;
        }
        let Subject::Adapter { adapter, .. } = subject else { return Err(TrainError::NoAdapter) };
        if self.is_linked {
            let values: Vec<_> = adapter.parameters().map(|parameter| &parameter.values).collect();
            let others = 1..self.size;
            return self.transfer(others.clone(), |still| backend.send(&values, others, still));
        }
        for parameter in adapter.parameters() {
            let values = backend.view(&parameter.values, 0..parameter.len())?;
            self.peers
                .iter_mut()
                .try_for_each(|peer| peer.on(|wire| wire.send_numbers(&values)))?;
        }
        Ok(())
    }

    /// Returns what a rank has looked at of a micro-batch.
    pub(super) fn looked(&mut self, rank: usize) -> Result<Looked, TrainError> {
        match self.peers[rank - 1].receive()? {
            Answer::Looked(looked) => Ok(looked),
            _ => Err(garbled(rank).into()),
        }
    }

    /// Tells all ranks the step's reference point.
    pub(super) fn point(&mut self, kl: Option<f64>) -> Result<(), TrainError> {
        Ok(self.tell(&Order::Point(kl))?)
    }

    /// Puts a rank's gradients of a micro-batch in the place of those that there are, and returns what it came to.
    pub(super) fn learnt<B: TrainingBackend>(
        &mut self,
        rank: usize,
        backend: &B,
        subject: &mut Subject<B>,
    ) -> Result<Share, TrainError> {
        let Answer::Learnt(share) = self.peers[rank - 1].receive()? else {
            return Err(garbled(rank).into());
        };
        self.take_gradients(rank, backend, subject)?;
        Ok(share)
    }

    /// Takes what a rank gives once it has said that it has learnt.
    fn take_gradients<B: TrainingBackend>(
        &mut self,
        rank: usize,
        backend: &B,
        subject: &mut Subject<B>,
    ) -> Result<(), TrainError> {
        let Subject::Adapter { adapter, .. } = subject else { return Err(TrainError::NoAdapter) };
        if self.is_linked {
            let mut gradients: Vec<_> =
                adapter.parameters_mut().map(|parameter| &mut parameter.gradient).collect();
            return self
                .transfer(rank..rank + 1, |still| backend.receive(&mut gradients, rank, still));
        }
        let peer = &mut self.peers[rank - 1];
        let mut numbers = Vec::new();
        for parameter in adapter.parameters_mut() {
            let len = parameter.len();
            if let Some(message) = peer.on(|wire| wire.receive_numbers(&mut numbers, len))? {
                let answer = peer.on(|_| Wire::decoded(&message))?;
                return Err(peer.heard(answer).err().unwrap_or_else(|| garbled(rank)).into());
            }
            backend.write(&numbers, &mut parameter.gradient, 0);
        }
        Ok(())
    }

    /// Hears from all ranks that the step is over.
    pub(super) fn done(&mut self) -> Result<(), TrainError> {
        for peer in &mut self.peers {
            let Answer::Done = peer.receive()? else { return Err(garbled(peer.rank).into()) };
            peer.in_step = false;
        }
        Ok(())
    }

    /// Leaves a step that has failed, so that all ranks are ready for what comes next. Gradients are of no use after it.
    pub(super) fn leave_step<B: TrainingBackend>(&mut self, backend: &B, subject: &mut Subject<B>) {
        for rank in 1..self.size {
            let peer = &mut self.peers[rank - 1];
            if !peer.in_step || peer.is_gone {
                continue;
            }
            // Who waits for it goes on; who does not passes over it.
            let mut left = peer.on(|wire| wire.send(&Order::Point(None))).is_err();
            while !left {
                left = match self.peers[rank - 1].receive() {
                    Ok(Answer::Looked(_)) => false,
                    // Who gives waits until it is taken.
                    Ok(Answer::Learnt(_)) => self.take_gradients(rank, backend, subject).is_err(),
                    _ => true,
                };
            }
            self.peers[rank - 1].in_step = false;
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.is_gone) {
            let _ = peer.on(|wire| wire.send(&Order::End));
        }
    }
}

impl Peer {
    fn receive(&mut self) -> Result<Answer, RankError> {
        let answer = self.on(Wire::receive)?;
        self.heard(answer)
    }

    /// Does something on the connection, which is of no use after it has failed.
    fn on<T>(
        &mut self,
        act: impl FnOnce(&mut Wire) -> Result<T, WireError>,
    ) -> Result<T, RankError> {
        act(&mut self.wire).map_err(|source| {
            self.is_gone = true;
            RankError::Wire { rank: self.rank, source }
        })
    }

    /// Passes an answer on; one that says that nothing more will come is an error.
    fn heard(&mut self, answer: Answer) -> Result<Answer, RankError> {
        match answer {
            Answer::Failed { message, out_of_memory } => {
                self.in_step = false;
                Err(RankError::Failed { rank: self.rank, message, out_of_memory })
            }
            answer => Ok(answer),
        }
    }
}

fn garbled(rank: usize) -> RankError {
    RankError::Wire { rank, source: WireError::Garbled }
}

#[cfg(test)]
mod tests;
