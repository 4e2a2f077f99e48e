//! Memory that products work in.

use std::cell::RefCell;

use super::pages;

thread_local! {
    /// Memory for the next products, the smallest first.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that is kept from one product to the next: taking it from the system each time would cost
/// as much as some products.
pub(super) struct Scratch(pub(super) Vec<f32>);

impl Scratch {
    /// Returns at least `len` numbers, of any value: the smallest piece that is large enough, or else
    /// a new one in place of the largest.
    pub(super) fn take(len: usize) -> Scratch {
        let memory = FREE.with_borrow_mut(|free| {
            let place = free.partition_point(|memory| memory.len() < len);
            match place < free.len() {
                true => Some(free.remove(place)),
                false => {
                    free.pop();
                    None
                }
            }
        });
        Scratch(memory.unwrap_or_else(|| {
            let mut memory = vec![0.0; len];
            pages::advise(&mut memory);
            memory
        }))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| {
            let place = free.partition_point(|memory| memory.len() < self.0.len());
            free.insert(place, std::mem::take(&mut self.0));
        });
    }
}
