//! A device whose memory ends, to try what becomes of work then.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use crate::model::backend::BackendError;

/// How much more a device allocates.
#[derive(Debug)]
pub struct Room {
    /// Bytes of one allocation, at most.
    most: usize,
    /// Allocations until one fails; those after it are granted again.
    before_failure: AtomicUsize,
    /// How many were refused.
    refused: AtomicUsize,
}

impl Room {
    /// Refuses every allocation over `most` bytes, and one after `before_failure` others.
    pub fn new(most: usize, before_failure: usize) -> Room {
        let before_failure = AtomicUsize::new(before_failure);
        Room { most, before_failure, refused: AtomicUsize::new(0) }
    }

    /// Returns how many allocations were refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Cpu {
    /// Returns this processor with memory that ends.
    pub fn within(self, room: &'static Room) -> Cpu {
        Cpu { room: Some(room), ..self }
    }

    /// Fails where there is no room for so many bytes.
    pub(super) fn allocate(&self, bytes: usize) -> Result<(), BackendError> {
        let Some(room) = self.room else { return Ok(()) };
        let count = |left: usize| left.checked_sub(1);
        let last = |left: Result<usize, usize>| left == Ok(1);
        let fails =
            last(room.before_failure.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count));
        match fails || bytes > room.most {
            true => {
                room.refused.fetch_add(1, Ordering::Relaxed);
                Err(BackendError::OutOfMemory { device: "cpu".into(), bytes })
            }
            false => Ok(()),
        }
    }
}
