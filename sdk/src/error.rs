use std::fmt;

use crate::bindings::common::aligner::plugin::types;

/// Why a plugin could not do its work.
///
/// An error ends the run, or drops the record at fault where the plugin set says
/// `on_error = "drop"`. A record that is merely bad is no error: a filter drops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The configuration is wrong; names the key and what it must be.
    Config(String),
    /// The record is not something this plugin can work on; says what is missing. The SDK puts the
    /// record's id in front.
    Input(String),
    /// A fault of the plugin itself.
    Internal(String),
    /// The host could not carry out a request, for example because the prompt is longer than the
    /// model's context; says why. Match on it to go on without the answer.
    Unanswered(String),
    /// No failure: the answer to a request is not there yet. Hand it on with `?`.
    Pending,
}

impl Error {
    /// Returns the error as it crosses the boundary, with the place in front where one is known.
    pub(crate) fn at(self, place: &str) -> types::Error {
        let told = |text: String| match place {
            "" => text,
            place => format!("{place}: {text}"),
        };
        match self {
            Error::Config(text) => types::Error::Config(text),
            Error::Input(text) => types::Error::Input(told(text)),
            Error::Internal(text) => types::Error::Internal(told(text)),
            Error::Unanswered(text) => {
                types::Error::Input(told(format!("the model gave no answer: {text}")))
            }
            Error::Pending => types::Error::Internal(told(
                "`Error::Pending` without a request; only `Ask` returns it".into(),
            )),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(text) | Error::Input(text) | Error::Internal(text) => f.write_str(text),
            Error::Unanswered(text) => write!(f, "the model gave no answer: {text}"),
            Error::Pending => f.write_str("the answer is not there yet"),
        }
    }
}

impl std::error::Error for Error {}
