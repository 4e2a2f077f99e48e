//! Room for what templates nest: it is parsed, printed and dropped by recursion, and a hostile one nests deeply.

use std::thread;

use minijinja::{Error, ErrorKind};

use crate::model::guard::unpanicked;

/// The stack, in bytes. What a template of [`MAX_BYTES`](super::engine::MAX_BYTES), or of as many steps as it may take,
/// can nest takes less; of what is not used no memory is taken.
const BYTES: usize = 256 << 20;

/// Does work on a thread of its own, with a stack that is deep enough.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let name = "chat template".to_owned();
        let failed = |what: String| Error::new(ErrorKind::InvalidOperation, what);
        let makes_no_sense = |said| failed(format!("it makes no sense to its reader ({said})"));
        let work = || unpanicked(work);
        let thread = thread::Builder::new().name(name).stack_size(BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed(format!("no thread for it: {error}")))?;
        match thread.join() {
            Ok(Ok(done)) => done,
            Ok(Err(said)) => Err(makes_no_sense(said)),
            Err(_) => Err(makes_no_sense("no reason".to_owned())),
        }
    })
}
