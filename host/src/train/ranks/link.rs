//! The way between the devices of ranks, where they have one that is not the host's memory.
//!
//! All ranks are linked, or none is. The wire between processes stays: what is said is said there, and whoever waits for
//! numbers of a device looks there whether the other process is still alive.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::worker::Worker;
use super::{Answer, Order, RankError, Ranks, WireError, garbled};
use crate::model::backend::{BackendError, Linking};
use crate::train::TrainError;

/// How long a process may take to end after its device has failed.
const ENDING: Duration = Duration::from_secs(1);

impl Ranks {
    /// Links the devices of all ranks, where they are of a kind that can be, in as long as `patience`. Returns why they are
    /// not linked where that failed: numbers then pass through the host's memory.
    pub fn link<B: Linking>(
        &mut self,
        backend: &B,
        patience: Duration,
        cancel: &AtomicBool,
    ) -> Result<Option<String>, RankError> {
        let key = match backend.link_key() {
            Ok(Some(key)) => key,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error.to_string())),
        };
        for peer in &mut self.peers {
            (peer.wire.patience, peer.wire.grace) = (Some(patience), Duration::ZERO);
        }
        self.tell(&Order::Link(key.clone()))?;
        let begun = Instant::now();
        let mut heard: Vec<Option<Result<(), RankError>>> =
            self.peers.iter().map(|_| None).collect();
        let own = backend.link(&key, 0, self.size, &mut || {
            self.hear(&mut heard, false);
            let failed = heard.iter().flatten().any(Result::is_err);
            !failed && begun.elapsed() < patience && !cancel.load(Ordering::Relaxed)
        });
        if cancel.load(Ordering::Relaxed) {
            let (rank, source) = (self.peers[0].rank, WireError::Cancelled);
            return Err(RankError::Wire { rank, source });
        }
        if own.is_err() {
            // Who still waits for others stops.
            self.tell(&Order::Linked(false))?;
        }
        self.hear(&mut heard, true);
        let mut why = None;
        for of_peer in heard.into_iter().flatten() {
            match of_peer {
                Err(RankError::Failed { rank, message, .. }) => {
                    why.get_or_insert(format!("rank {rank}: {message}"));
                }
                of_peer => of_peer?,
            }
        }
        self.be_patient(Duration::ZERO);
        self.is_linked = own.is_ok() && why.is_none();
        if own.is_ok() {
            self.tell(&Order::Linked(self.is_linked))?;
        }
        if self.is_linked {
            return Ok(None);
        }
        backend.unlink();
        let of_own = |error: BackendError| match begun.elapsed() < patience {
            true => error.to_string(),
            false => format!("not all devices are linked after {} s", patience.as_secs()),
        };
        Ok(why.or(own.err().map(of_own)))
    }

    /// Hears from ranks whether they are linked: of those that have said so, or of all.
    fn hear(&mut self, heard: &mut [Option<Result<(), RankError>>], all: bool) {
        for (peer, heard) in self.peers.iter_mut().zip(heard) {
            // One that has gone is heard of by that.
            if heard.is_none() && (all || peer.wire.has_come().unwrap_or(true)) {
                *heard = Some(match peer.receive() {
                    Ok(Answer::Ready) => Ok(()),
                    Ok(_) => Err(garbled(peer.rank)),
                    Err(error) => Err(error),
                });
            }
        }
    }

    /// Passes numbers to or from the devices of some ranks, for as long as all ranks are there. Where it fails, no rank can be
    /// worked with any more: one may wait for numbers that never come.
    pub(super) fn transfer(
        &mut self,
        ranks: Range<usize>,
        transfer: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<(), BackendError>,
    ) -> Result<(), TrainError> {
        let begun = Instant::now();
        let passed = transfer(&mut || self.missing(ranks.start, begun).is_none());
        let Err(error) = passed else { return Ok(()) };
        let missing = self.missing(ranks.start, begun);
        self.give_up();
        Err(match missing {
            None => error.into(),
            Some((rank, source)) => RankError::Wire { rank, source }.into(),
        })
    }

    /// Expects nothing of any rank any more, which then end with this process.
    pub(super) fn give_up(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.is_gone = true);
    }

    /// Returns a rank that is not waited for any more: one that has ended, or `awaited` where that takes too long.
    fn missing(&self, awaited: usize, begun: Instant) -> Option<(usize, WireError)> {
        let gone = |peer: &super::Peer| Some((peer.rank, peer.wire.has_come().err()?));
        let silent = || {
            if self.peers[awaited - 1].wire.is_cancelled() {
                return Some((awaited, WireError::Cancelled));
            }
            let patience = self.peers[awaited - 1].wire.patience?;
            (begun.elapsed() >= patience).then_some((awaited, WireError::Silent { patience }))
        };
        self.peers.iter().find_map(gone).or_else(silent)
    }
}

impl Worker {
    /// Links this rank's device as rank 0 wants it, and says whether it is linked.
    pub(super) fn link<B: Linking>(&mut self, backend: &B, key: &[u8]) -> Result<(), WireError> {
        let Worker { wire, rank, size, .. } = self;
        // Rank 0 says nothing before it has heard of this, but that it has given up.
        match backend.link(key, *rank, *size, &mut || matches!(wire.has_come(), Ok(false))) {
            Ok(()) => self.wire.send(&Answer::Ready),
            Err(error) => self.fail(&error.to_string(), false),
        }
    }

    /// Hears whether all are linked.
    pub(super) fn linked<B: Linking>(&mut self, backend: &B, linked: bool) {
        self.is_linked = linked;
        if !linked {
            backend.unlink();
        }
    }

    /// Passes numbers to or from the device of rank 0, for as long as that is there.
    pub(super) fn transfer(
        &mut self,
        transfer: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<(), BackendError>,
    ) -> Result<(), WireError> {
        let Err(error) = transfer(&mut || self.wire.has_come().is_ok()) else { return Ok(()) };
        // A device that dies takes others with it, which may be seen before its process has ended.
        let begun = Instant::now();
        while begun.elapsed() < ENDING {
            self.wire.has_come()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(WireError::Link(error))
    }
}
