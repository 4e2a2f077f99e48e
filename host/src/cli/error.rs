//! What ends a command before its work is done.

use std::fmt;

use super::exit;
use crate::{
    data::DataError,
    plugin_set::{OverrideError, PluginSetError, lock::LockError},
    shown::printable,
};

/// An error as the user sees it, with the code that the program exits with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// One of [`super::exit`].
    pub code: u8,
    /// What failed, in lower case and without a final period; further lines say where.
    pub message: String,
    /// The way out, where one is known.
    pub hint: Option<String>,
}

impl CliError {
    /// Returns an error without a hint.
    pub fn new(code: u8, message: impl Into<String>) -> CliError {
        CliError { code, message: message.into(), hint: None }
    }

    /// Returns an error of the command line.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::new(exit::USAGE, message)
    }

    /// Adds where it happened.
    pub fn context(mut self, place: &str) -> CliError {
        self.message = format!("{}\n  in {place}", self.message);
        self
    }

    /// Adds the way out.
    pub fn hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = Some(hint.into());
        self
    }
}

/// The whole text for stderr, without a final newline. Words of files that it quotes steer no terminal.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", lines(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {}", lines(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

impl From<PluginSetError> for CliError {
    fn from(error: PluginSetError) -> CliError {
        CliError { code: exit::USAGE, message: error.to_string(), hint: error.hint() }
    }
}

impl From<OverrideError> for CliError {
    fn from(error: OverrideError) -> CliError {
        PluginSetError::from(error).into()
    }
}

impl From<LockError> for CliError {
    fn from(error: LockError) -> CliError {
        PluginSetError::from(error).into()
    }
}

impl From<DataError> for CliError {
    fn from(error: DataError) -> CliError {
        CliError { code: exit::MODEL_OR_DATA, message: error.to_string(), hint: error.hint() }
    }
}

impl From<anyhow::Error> for CliError {
    /// Errors that nobody gave a sentence of their own; the chain of causes is joined by colons.
    fn from(error: anyhow::Error) -> CliError {
        CliError::new(exit::INTERNAL, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_the_style() {
        let error = CliError::usage("`x` is no device").hint("use `cpu`");
        assert_eq!(error.to_string(), "error: `x` is no device\n\nhint: use `cpu`");
        assert_eq!(CliError::new(exit::INTERNAL, "no").to_string(), "error: no");
        let chain = anyhow::anyhow!("inner").context("outer");
        assert_eq!(CliError::from(chain).to_string(), "error: outer: inner");
    }
}
