//! Writing to stdout.

use std::io::{self, Write};

use super::{CliError, exit};

/// Writes text to stdout. A reader that has gone away, as in `aligner methods | head -1`, is none of
/// our business; a full disk is.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(exit::INTERNAL, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
