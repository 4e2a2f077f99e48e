//! Why a file of data could not be read.

use std::io;

use super::{LONGEST_LINE, MOST_VALUES};
use crate::{pack::PackError, record::Speaker};

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("cannot read data file `{name}`: {error}")]
    Read {
        /// The file.
        name: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// A folder was given.
    #[error("data file `{name}` is a folder")]
    Folder {
        /// The folder.
        name: String,
    },
    /// A named pipe was given.
    #[error("data file `{name}` is a named pipe")]
    Pipe {
        /// The pipe.
        name: String,
    },
    /// No embedded file has the name.
    #[error("no embedded data is called `{name}`")]
    NoBuiltin {
        /// Without `builtin:`.
        name: String,
    },
    /// It would have to be fetched.
    #[error("data file `{name}` is elsewhere; only plugins are fetched")]
    Remote {
        /// Where it is.
        name: String,
    },
    /// The file has no row.
    #[error("data file `{name}` holds no row")]
    Empty {
        /// The file.
        name: String,
    },
    /// A row is wrong.
    #[error("{problem}\n  --> {name}:{line}")]
    Row {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: RowProblem,
    },
}

impl DataError {
    /// Returns the way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        let problem = match self {
            DataError::Row { problem, .. } => problem,
            DataError::Empty { name } | DataError::Read { name, .. }
                if name.starts_with("/dev/") =>
            {
                return Some("what is piped can be read once: write the rows to a file".into());
            }
            DataError::Pipe { .. } => {
                return Some(
                    "write the rows to a file: a run reads them again when it is resumed".into(),
                );
            }
            DataError::Read { error, .. } => {
                return error.get_ref()?.downcast_ref::<PackError>()?.hint();
            }
            _ => return None,
        };
        let hint = match problem {
            RowProblem::NoPrompt => {
                "a row has `prompt` or `messages`, for example {\"id\": \"p-1\", \"prompt\": \"…\"}"
            }
            RowProblem::NotAnObject | RowProblem::NotJson(_) => {
                "write one JSON object a line (JSONL), without a list around them"
            }
            RowProblem::Unpaired => {
                "put a completion whose `label` is true as `chosen` and one whose `label` is false as \
                 `rejected` into one row with their prompt; objective `kto` learns from each by itself"
            }
            RowProblem::NoId => {
                "give every row an `id` of its own before the data is cut: draws are keyed by it, and lines \
                 change with the cut"
            }
            RowProblem::NotUtf8 => "save the file as UTF-8",
            RowProblem::LastNotUser(Speaker::Assistant) => {
                "leave the assistant's answer out: the model writes it"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// Over [`LONGEST_LINE`].
    #[error("the line has more than {} MiB", LONGEST_LINE >> 20)]
    TooLong,
    /// Over [`MOST_VALUES`].
    #[error("the line has more than {MOST_VALUES} values")]
    TooMany,
    /// Bytes that are no text.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// The parser's sentence.
    #[error("the line is not JSON: {0}")]
    NotJson(String),
    /// A list, a string, a number.
    #[error("the line is not a JSON object")]
    NotAnObject,
    /// None of the columns that hold a prompt.
    #[error("the row has no prompt")]
    NoPrompt,
    /// No id, where the line does not stand for one.
    #[error("the row has no `id`")]
    NoId,
    /// A column that must be there.
    #[error("the row has no `{0}`")]
    Missing(&'static str),
    /// TRL's columns of unpaired completions, where pairs are wanted.
    #[error("the row has one completion with a `label`, and no pair of them")]
    Unpaired,
    /// A column of another type.
    #[error("`{column}` must be {expected}")]
    Type {
        /// The column.
        column: String,
        /// With its article.
        expected: &'static str,
    },
    /// Nothing but white space.
    #[error("`{0}` is empty")]
    Empty(String),
    /// Not `system`, `user` or `assistant`.
    #[error("`{column}` has role `{role}`, expected `system`, `user` or `assistant`")]
    Role {
        /// The message.
        column: String,
        /// As in the file.
        role: String,
    },
    /// The conversation of a prompt does not end with the user.
    #[error("the last message is the {}'s, expected the user's", .0.as_str())]
    LastNotUser(Speaker),
    /// The conversation of a row to score does not end with the assistant.
    #[error("the last message is the {}'s, expected the assistant's", .0.as_str())]
    LastNotAssistant(Speaker),
    /// Completions that are compared do not begin alike.
    #[error("`chosen` and `rejected` follow different prompts")]
    Apart,
    /// Two rows with other texts and the same id.
    #[error("id `{id}` stands in line {first} already")]
    DuplicateId {
        /// The id.
        id: String,
        /// The line where it stood first.
        first: usize,
    },
    /// An id that would not fit into tables and messages.
    #[error("`id` has more than 200 bytes or a control character")]
    Id,
    /// What a measure says of a row that it cannot read.
    #[error("{0}")]
    Wrong(String),
}
