//! Memory that products work in.

use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pages::Pages;

/// Memory for the next products, the smallest first: as much as those needed that ran at the same
/// time. A list for each thread would come to as much for each thread that one of them began on.
static FREE: Mutex<Vec<Pages<f32>>> = Mutex::new(Vec::new());

/// Memory that is kept from one product to the next: taking it from the system each time would cost
/// as much as some products.
pub(super) struct Scratch(pub(super) ManuallyDrop<Pages<f32>>);

impl Scratch {
    /// Returns at least `len` numbers, of any value: the smallest piece that is large enough, or else
    /// a new one in place of the largest.
    pub(super) fn take(len: usize) -> Scratch {
        let mut free = free();
        let place = free.partition_point(|memory| memory.len() < len);
        if place < free.len() {
            return Scratch(ManuallyDrop::new(free.remove(place)));
        }
        let outgrown = free.pop();
        drop(free);
        drop(outgrown);
        Scratch(ManuallyDrop::new(Pages::apart(len)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut free = free();
        let place = free.partition_point(|memory| memory.len() < self.0.len());
        // SAFETY: nothing comes after this.
        free.insert(place, unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

fn free() -> MutexGuard<'static, Vec<Pages<f32>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}
