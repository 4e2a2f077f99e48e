//! A device whose memory ends, to try what becomes of work then.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Cpu;
use crate::model::backend::BackendError;

/// How much more a device allocates.
#[derive(Debug)]
pub struct Room {
    /// Bytes of one allocation, at most.
    most: usize,
    /// Allocations until one fails, itself included; those after it are granted again. 0: none fails.
    until_failure: AtomicUsize,
    /// How many were refused.
    refused: AtomicUsize,
}

impl Room {
    /// Refuses every allocation over `most` bytes, and the one with the number `failing`, from 1.
    pub fn new(most: usize, failing: usize) -> Room {
        let until_failure = AtomicUsize::new(failing);
        Room { most, until_failure, refused: AtomicUsize::new(0) }
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
        let left = room.until_failure.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        match left == Ok(1) || bytes > room.most {
            true => {
                room.refused.fetch_add(1, Ordering::Relaxed);
                Err(BackendError::OutOfMemory { device: "cpu".into(), bytes })
            }
            false => Ok(()),
        }
    }
}
