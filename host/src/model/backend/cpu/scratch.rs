//! Memory that products work in.

use std::cell::RefCell;

use super::pages;

thread_local! {
    /// Scratch memory for the next product.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that is kept from one product to the next: taking it from the system each time would cost
/// as much as some products.
pub(super) struct Scratch(pub(super) Vec<f32>);

impl Scratch {
    /// Returns at least `len` numbers, of any value.
    pub(super) fn take(len: usize) -> Scratch {
        let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < len {
            memory = vec![0.0; len.next_power_of_two()];
            pages::advise(&mut memory);
        }
        Scratch(memory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| free.push(std::mem::take(&mut self.0)));
    }
}
