//! Writing to stdout.

use std::io::{self, IsTerminal, Write};

use super::{CliError, exit};

/// Says whether stdout shows colours: a terminal whose user has not said that there should be none.
pub fn is_coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

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
