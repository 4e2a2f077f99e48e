//! Training over several processes of one host, each with a GPU or processors of its own.
//!
//! The process of rank 0 is the run: it has the trainer, and all other stages are its own. The others work for it:
//! each holds the same frozen weights, gets the adapter before every step, and forms the gradients of its part of the
//! step's micro-batches. Of `n` processes, that of rank `r` forms those of micro-batches `r`, `r + n`, `r + 2n`, …;
//! rank 0 adds them in the order of the micro-batches. As a trainer on its own adds them just so, what is trained is
//! the same bit for bit over any number of processes, and a run may go on over another number than it began with.
//!
//! Only gradients and values of the adapter pass between processes; nothing of the optimiser leaves rank 0.

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

/// How long a rank that is in a step may say nothing.
const IN_STEP: Duration = Duration::from_secs(600);

/// The ranks that work for this process, rank 0.
pub struct Ranks {
    peers: Vec<Peer>,
}

struct Peer {
    rank: usize,
    wire: Wire,
    /// Whether it is within a step, and so will say that it is done or has failed.
    in_step: bool,
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
    /// It has loaded the model, or is ready for the first step.
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
    /// It is not one of the run's.
    #[error("{0}")]
    Stranger(String),
}

impl Ranks {
    /// Takes the connections of all other ranks, each of which says first who it is. Waits for as long as `patience`
    /// and `cancel` allow.
    pub fn join(
        streams: Vec<UnixStream>,
        patience: Duration,
        cancel: &'static AtomicBool,
    ) -> Result<Ranks, RankError> {
        let size = streams.len() + 1;
        let mut peers: Vec<Peer> = Vec::new();
        for stream in streams {
            let unknown =
                |source| RankError::Stranger(format!("a rank cannot be worked with: {source}"));
            let mut wire = Wire::new(stream).map_err(|error| unknown(error.into()))?;
            (wire.patience, wire.cancel) = (Some(patience), Some(cancel));
            let hello: Hello = wire.receive().map_err(unknown)?;
            let Hello { rank, size: expected, version } = &hello;
            let wrong = if *version != VERSION {
                Some(format!("rank {rank} is of aligner {version}, rank 0 of {}", VERSION))
            } else if *expected != size || *rank == 0 || *rank >= size {
                Some(format!("a process came as rank {rank} of {expected}, and there are {size}"))
            } else if peers.iter().any(|peer| peer.rank == *rank) {
                Some(format!("two processes came as rank {rank}"))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                return Err(RankError::Stranger(wrong));
            }
            peers.push(Peer { rank: *rank, wire, in_step: false });
        }
        peers.sort_by_key(|peer| peer.rank);
        Ok(Ranks { peers })
    }

    /// Returns how many ranks there are, this one included.
    pub fn size(&self) -> usize {
        self.peers.len() + 1
    }

    /// Has all ranks load the model, for which they take their time ([`loaded`](Ranks::loaded)).
    pub fn load(&mut self, base: &Base) -> Result<(), RankError> {
        let base = serde_json::to_string(base).expect("settings are plain fields");
        self.tell(&Order::Load(base))
    }

    /// Waits until all ranks have loaded the model; `loaded` hears of each.
    pub fn loaded(&mut self, loaded: &mut dyn FnMut()) -> Result<(), RankError> {
        for peer in &mut self.peers {
            peer.ready()?;
            loaded();
        }
        for peer in &mut self.peers {
            (peer.wire.patience, peer.wire.cancel) = (Some(IN_STEP), None);
        }
        Ok(())
    }

    fn tell(&mut self, order: &Order<'_>) -> Result<(), RankError> {
        let order = Wire::encoded(order);
        for Peer { rank, wire, .. } in &mut self.peers {
            wire.send_encoded(&order).map_err(named(*rank))?;
        }
        Ok(())
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
        for peer in &mut self.peers {
            peer.ready()?;
        }
        Ok(())
    }

    /// Has all ranks begin a step, from 0, with the adapter as it is.
    pub(super) fn step<B: TrainingBackend>(
        &mut self,
        backend: &B,
        subject: &Subject<B>,
        step: u64,
    ) -> Result<(), TrainError> {
        // Who does not get it is left like who does.
        self.peers.iter_mut().for_each(|peer| peer.in_step = true);
        self.tell(&Order::Step(step))?;
        let Subject::Adapter { adapter, .. } = subject else { return Err(TrainError::NoAdapter) };
        for parameter in adapter.parameters() {
            let values = backend.view(&parameter.values, 0..parameter.len())?;
            for Peer { rank, wire, .. } in &mut self.peers {
                wire.send_numbers(&values).map_err(named(*rank))?;
            }
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
        let peer = &mut self.peers[rank - 1];
        let Answer::Learnt(share) = peer.receive()? else { return Err(garbled(rank).into()) };
        let Subject::Adapter { adapter, .. } = subject else { return Err(TrainError::NoAdapter) };
        let mut numbers = Vec::new();
        for parameter in adapter.parameters_mut() {
            let len = parameter.len();
            if let Some(message) =
                peer.wire.receive_numbers(&mut numbers, len).map_err(named(rank))?
            {
                let answer = Wire::decoded(&message).map_err(named(rank))?;
                return Err(peer.heard(answer).err().unwrap_or_else(|| garbled(rank)).into());
            }
            backend.write(&numbers, &mut parameter.gradient, 0);
        }
        Ok(share)
    }

    /// Hears from all ranks that the step is over.
    pub(super) fn done(&mut self) -> Result<(), TrainError> {
        for peer in &mut self.peers {
            let Answer::Done = peer.receive()? else { return Err(garbled(peer.rank).into()) };
            peer.in_step = false;
        }
        Ok(())
    }

    /// Leaves a step that has failed, so that all ranks are ready for what comes next.
    pub(super) fn leave_step(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.in_step) {
            // Who waits for it goes on; who does not passes over it.
            let mut left = peer.wire.send(&Order::Point(None)).is_err();
            while !left {
                left = !matches!(peer.receive(), Ok(Answer::Looked(_) | Answer::Learnt(_)));
            }
            peer.in_step = false;
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            // Who is gone needs no word.
            let _ = peer.wire.send(&Order::End);
        }
    }
}

impl Peer {
    fn receive(&mut self) -> Result<Answer, RankError> {
        let answer = self.wire.receive().map_err(named(self.rank))?;
        self.heard(answer)
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

    fn ready(&mut self) -> Result<(), RankError> {
        match self.receive()? {
            Answer::Ready => Ok(()),
            _ => Err(garbled(self.rank)),
        }
    }
}

fn named(rank: usize) -> impl FnOnce(WireError) -> RankError {
    move |source| RankError::Wire { rank, source }
}

fn garbled(rank: usize) -> RankError {
    named(rank)(WireError::Garbled)
}

#[cfg(test)]
mod tests;
