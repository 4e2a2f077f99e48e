//! What passes between devices of several processes of one host, where they have a way of their own.
//!
//! A link is the device's: it has one or none. Whoever waits for another process is asked now and then whether it still
//! should; where not, the call fails and the link is given up, so that nothing waits for a process that has died.

use std::ops::Range;

use super::{Backend, BackendError};

/// A device that may be linked to those of other processes. By default it is not.
pub trait Linking: Backend {
    /// Returns a key for devices to meet by, made by one of them and given to all; none where the host's memory is the
    /// only way between devices of this kind. Fails where there is another and it cannot be gone.
    fn link_key(&self) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(None)
    }

    /// Waits until all `size` devices that have the key are linked, of which this is number `rank`, and tries the way
    /// between number 0 and each of the others.
    fn link(
        &self,
        _key: &[u8],
        _rank: usize,
        _size: usize,
        _still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        Err(unlinked())
    }

    /// Waits until all that was asked of the device is done, and fails where some of it has.
    fn settle(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Gives the link up, if there is one.
    fn unlink(&self) {}

    /// Sends all of some buffers to each of the devices with these numbers, and waits until they are there.
    fn send(
        &self,
        _buffers: &[&Self::Buffer],
        _to: Range<usize>,
        _still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        Err(unlinked())
    }

    /// Fills buffers with what the device with this number sends.
    fn receive(
        &self,
        _buffers: &mut [&mut Self::Buffer],
        _from: usize,
        _still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        Err(unlinked())
    }
}

/// Returns the error of a device without a link.
pub(super) fn unlinked() -> BackendError {
    let message = "it is linked to no other".to_owned();
    BackendError::Device { device: "this device".to_owned(), message }
}
