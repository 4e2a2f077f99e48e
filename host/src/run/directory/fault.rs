//! Faults on purpose, for the tests that kill a run at every write.
//!
//! `ALIGNER_FAULT=kill:N` kills the process at the N-th point where it is in the middle of a write or
//! between two, from 1; `ALIGNER_FAULT=full:N` fails there, and from there on, as a full disk does.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

enum Kind {
    Kill,
    Full,
}

static WANTED: LazyLock<Option<(Kind, u64)>> = LazyLock::new(|| {
    let text = std::env::var("ALIGNER_FAULT").ok()?;
    let (kind, number) = text.split_once(':')?;
    let kind = match kind {
        "kill" => Kind::Kill,
        "full" => Kind::Full,
        _ => return None,
    };
    Some((kind, number.parse().ok()?))
});
static PASSED: AtomicU64 = AtomicU64::new(0);

pub fn point() -> io::Result<()> {
    let Some((kind, number)) = &*WANTED else { return Ok(()) };
    let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    match kind {
        Kind::Kill if passed == *number => {
            // SAFETY: sends a signal to this process; nothing of Rust's state is touched.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            unreachable!("SIGKILL cannot be held off")
        }
        Kind::Full if passed >= *number => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}
