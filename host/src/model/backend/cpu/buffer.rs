//! What passes work in.

use std::ops::{Deref, DerefMut};

use super::pages::Pages;

/// Numbers from which on a buffer has memory of its own: two large pages.
const APART: usize = (4 << 20) / size_of::<f32>();

/// A flat array of f32 that does not grow. It begins at a line of the cache, as vectors that cross
/// lines cost twice, and lies in large pages, as a tile's rows are each in another small one.
pub struct Buffer(Pages<f32>);

impl Buffer {
    /// Returns `len` zeros.
    pub(super) fn zeros(len: usize) -> Buffer {
        match len < APART {
            true => Buffer(Pages::zeros(len)),
            false => Buffer(Pages::apart(len)),
        }
    }
}

impl From<&[f32]> for Buffer {
    fn from(values: &[f32]) -> Buffer {
        let mut buffer = Buffer::zeros(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::from(&**self)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
