//! Room for what templates nest: it is parsed, printed and dropped by recursion, and a hostile one nests deeply.

use std::thread;

use minijinja::{Error, ErrorKind};

/// The stack, in bytes. What a template of [`MAX_BYTES`](super::MAX_BYTES), or of as many steps as it may take,
/// can nest takes less; of what is not used no memory is taken.
const BYTES: usize = 256 << 20;

/// Does work on a thread of its own, with a stack that is deep enough.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let name = "chat template".to_owned();
        let thread = thread::Builder::new().name(name).stack_size(BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::InvalidOperation, format!("no thread for it: {error}"))
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
