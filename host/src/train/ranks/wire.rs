//! What two ranks say to each other: messages, and numbers as they lie in memory.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::backend::BackendError;

/// How often a rank that waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(200);

/// Numbers that are turned into bytes at a time.
const CHUNK: usize = 1 << 14;

/// Says that the other end has ended, whatever is there to read.
#[cfg(target_os = "linux")]
const ENDED: libc::c_short = libc::POLLRDHUP;
#[cfg(not(target_os = "linux"))]
const ENDED: libc::c_short = libc::POLLHUP;

/// What a frame holds, its first byte; its length follows as a u64.
const MESSAGE: u8 = 0;
const NUMBERS: u8 = 1;

/// A connection with another rank.
pub(super) struct Wire {
    stream: UnixStream,
    /// How long nothing may come, or be taken; without it for ever.
    pub(super) patience: Option<Duration>,
    /// What ends waiting.
    pub(super) cancel: Option<&'static AtomicBool>,
    /// How long it is waited for all the same once the user wants to stop.
    pub(super) grace: Duration,
    /// When that was first seen.
    cancelled: Cell<Option<Instant>>,
}

/// Why a frame has not come or gone.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The process at the other end has ended.
    #[error("its process has ended")]
    Gone,
    /// It does nothing.
    #[error("nothing has come from it for {} s", patience.as_secs())]
    Silent {
        /// How long it was waited for.
        patience: Duration,
    },
    /// The user wants to stop.
    #[error("interrupted while it was waited for")]
    Cancelled,
    /// The system failed.
    #[error("{0}")]
    Io(io::Error),
    /// The way between the devices failed.
    #[error("{0}")]
    Link(BackendError),
    /// It is another version of the program, or no rank.
    #[error("it says what no rank of this aligner says")]
    Garbled,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WriteZero};
        match error.kind() {
            UnexpectedEof | BrokenPipe | ConnectionReset | WriteZero => WireError::Gone,
            _ => WireError::Io(error),
        }
    }
}

impl Wire {
    /// Takes a stream, which is waited for as long as it takes.
    pub(super) fn new(stream: UnixStream) -> io::Result<Wire> {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(LOOK))?;
        let (grace, cancelled) = (Duration::ZERO, Cell::new(None));
        Ok(Wire { stream, patience: None, cancel: None, grace, cancelled })
    }

    /// Sends a message.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), WireError> {
        self.send_encoded(&Wire::encoded(message))
    }

    /// Returns a message's bytes, for several to get.
    pub(super) fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
        postcard::to_stdvec(message).expect("a message of plain fields has bytes")
    }

    /// Sends a message's bytes.
    pub(super) fn send_encoded(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.send_head(MESSAGE, bytes.len())?;
        self.send_bytes(bytes)
    }

    /// Sends numbers.
    pub(super) fn send_numbers(&mut self, numbers: &[f32]) -> Result<(), WireError> {
        self.send_head(NUMBERS, 4 * numbers.len())?;
        let mut bytes = Vec::with_capacity(4 * CHUNK.min(numbers.len()));
        for chunk in numbers.chunks(CHUNK) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
            self.send_bytes(&bytes)?;
        }
        Ok(())
    }

    /// Receives a message. Numbers that come before it are skipped: what they were for has failed.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        loop {
            let (tag, len) = self.receive_head()?;
            let bytes = self.receive_bytes(len)?;
            if tag == MESSAGE {
                return Wire::decoded(&bytes);
            }
        }
    }

    /// Returns the message that bytes are of.
    pub(super) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
        postcard::from_bytes(bytes).map_err(|_| WireError::Garbled)
    }

    /// Receives numbers, which must be as many. Where a message comes in their place, what they are of has failed:
    /// returns its bytes.
    pub(super) fn receive_numbers(
        &mut self,
        numbers: &mut Vec<f32>,
        count: usize,
    ) -> Result<Option<Vec<u8>>, WireError> {
        let (tag, len) = self.receive_head()?;
        if tag == MESSAGE {
            return Ok(Some(self.receive_bytes(len)?));
        }
        if len != 4 * count {
            return Err(WireError::Garbled);
        }
        numbers.clear();
        numbers.reserve(count);
        let mut bytes = vec![0; 4 * CHUNK.min(count)];
        let mut left = len;
        while left > 0 {
            let part = left.min(bytes.len());
            self.read_exact(&mut bytes[..part])?;
            let four = bytes[..part].chunks_exact(4);
            numbers.extend(four.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            left -= part;
        }
        Ok(None)
    }

    /// Returns whether something has come that nobody has taken, without waiting; fails where the other process has ended,
    /// whatever it said before.
    pub(super) fn has_come(&self) -> Result<bool, WireError> {
        let mut of =
            libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLIN | ENDED, revents: 0 };
        // SAFETY: it is one, and alive.
        match unsafe { libc::poll(&raw mut of, 1, 0) } {
            0.. if of.revents & !libc::POLLIN != 0 => Err(WireError::Gone),
            0.. => Ok(of.revents != 0),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error.into()),
            },
        }
    }

    fn send_head(&mut self, tag: u8, len: usize) -> Result<(), WireError> {
        let mut head = [tag; 9];
        head[1..].copy_from_slice(&(len as u64).to_le_bytes());
        self.send_bytes(&head)
    }

    fn receive_head(&mut self) -> Result<(u8, usize), WireError> {
        let mut head = [0; 9];
        self.read_exact(&mut head)?;
        let [tag, len @ ..] = head;
        match usize::try_from(u64::from_le_bytes(len)) {
            Ok(len) if tag <= NUMBERS => Ok((tag, len)),
            _ => Err(WireError::Garbled),
        }
    }

    /// Receives a frame's bytes, whose memory grows with what has come, not with what was said to.
    fn receive_bytes(&mut self, len: usize) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let (begun, part) = (bytes.len(), (len - bytes.len()).min(1 << 20));
            bytes.resize(begun + part, 0);
            self.read_exact(&mut bytes[begun..])?;
        }
        Ok(bytes)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), WireError> {
        self.pass(bytes.len(), |stream, done| stream.read(&mut bytes[done..]))
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.pass(bytes.len(), |stream, done| stream.write(&bytes[done..]))
    }

    /// Has so many bytes pass, of which each call passes some behind those that are done.
    fn pass(
        &mut self,
        len: usize,
        mut some: impl FnMut(&mut UnixStream, usize) -> io::Result<usize>,
    ) -> Result<(), WireError> {
        let mut done = 0;
        let mut heard = Instant::now();
        while done < len {
            match some(&mut self.stream, done) {
                Ok(0) => return Err(WireError::Gone),
                Ok(passed) => {
                    done += passed;
                    heard = Instant::now();
                }
                Err(error) => self.look(error, heard)?,
            }
        }
        Ok(())
    }

    /// Returns whether the user wants to stop, and has waited long enough for that.
    pub(super) fn is_cancelled(&self) -> bool {
        if !self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return false;
        }
        let since = self.cancelled.get().unwrap_or_else(Instant::now);
        self.cancelled.set(Some(since));
        since.elapsed() >= self.grace
    }

    /// Looks whether to go on after nothing has come or gone for a moment.
    fn look(&self, error: io::Error, heard: Instant) -> Result<(), WireError> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
            return Err(error.into());
        }
        if self.is_cancelled() {
            return Err(WireError::Cancelled);
        }
        match self.patience {
            Some(patience) if heard.elapsed() >= patience => Err(WireError::Silent { patience }),
            _ => Ok(()),
        }
    }
}
