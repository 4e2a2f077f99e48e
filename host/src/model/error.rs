//! What can go wrong between the name of a model and its tokens.

use std::path::{Path, PathBuf};

use super::checkpoint::CheckpointError;

/// Why a model could not be found, read or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Nothing of this name exists.
    #[error("there is no model `{name}`")]
    Unknown {
        /// What the user named.
        name: String,
        /// The way out.
        hint: String,
    },
    /// An adapter stands where a model belongs.
    #[error("`{}` is a PEFT adapter, and no model", path.display())]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// The way out.
        hint: String,
    },
    /// A file could not be read or written.
    #[error("`{}` cannot be {action}: {source}", path.display())]
    Io {
        /// `read`, `written`, …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("`{}` {message}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Continues the sentence that begins with the path.
        message: String,
    },
    /// The model needs something that the engine does not do.
    #[error("`{}` asks for {what}, which is not supported", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// The setting and its value.
        what: String,
        /// What is supported instead.
        hint: String,
    },
    /// A tensor or the list of tensors is wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be used with this model.
    #[error("the tokenizer in `{}` {message}", path.display())]
    Tokenizer {
        /// Where it comes from.
        path: PathBuf,
        /// Continues the sentence.
        message: String,
    },
    /// The chat template cannot be used, or not with this conversation.
    #[error("the chat template of `{model}` {message}")]
    Template {
        /// The model's name.
        model: String,
        /// Continues the sentence.
        message: String,
        /// The way out.
        hint: String,
    },
    /// A model could not be fetched.
    #[error("`{name}` could not be fetched: {message}")]
    Fetch {
        /// What the user named.
        name: String,
        /// What was tried and what came of it.
        message: String,
        /// The way out.
        hint: String,
    },
    /// There is no place to keep what is fetched.
    #[error("no folder for the cache is known: none of ALIGNER_CACHE, XDG_CACHE_HOME, HOME is set")]
    NoCache,
    /// The ids of a prompt are not those of any text that could be sent in their place.
    #[error(
        "its {tokens} tokens cannot be sent as text to a server that takes no tokens: `{model}` would read other ones"
    )]
    NotAsText {
        /// How many there are.
        tokens: usize,
        /// The model's name.
        model: String,
    },
    /// A prompt or an example does not fit the model.
    #[error("{what} has {tokens} tokens, and `{model}` reads at most {limit}")]
    TooLong {
        /// `the prompt`, `the example`.
        what: &'static str,
        /// The model's name.
        model: String,
        /// How many it has.
        tokens: usize,
        /// How many it may have.
        limit: usize,
    },
    /// An example has no token to learn from or to score.
    #[error("the completion is empty: there is nothing to train on or to score")]
    NothingToTrain,
    /// Two begin-of-text tokens in a row, which makes every model worse without a word.
    #[error("the prompt for `{model}` begins with two begin-of-text tokens (`{token}`)")]
    DoubleBos {
        /// The model's name.
        model: String,
        /// The token's text.
        token: String,
    },
    /// The conversation cannot be put to a model.
    #[error("{0}")]
    Conversation(&'static str),
}

impl ModelError {
    /// Returns the way out, where there is one to name.
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelError::Unknown { hint, .. }
            | ModelError::Adapter { hint, .. }
            | ModelError::Unsupported { hint, .. }
            | ModelError::Template { hint, .. }
            | ModelError::Fetch { hint, .. } => Some(hint.clone()),
            ModelError::NoCache => {
                Some("set ALIGNER_CACHE to a folder that may be written to".to_owned())
            }
            ModelError::TooLong { .. } => {
                Some("shorten the text, or use a model with a longer context".to_owned())
            }
            ModelError::DoubleBos { .. } => Some(
                "the text or the chat template already writes it; leave it out of one".to_owned(),
            ),
            _ => None,
        }
        .filter(|hint| !hint.is_empty())
    }

    pub(super) fn read(path: &Path, source: std::io::Error) -> ModelError {
        ModelError::Io { action: "read", path: path.to_owned(), source }
    }

    pub(super) fn written(path: &Path, source: std::io::Error) -> ModelError {
        ModelError::Io { action: "written", path: path.to_owned(), source }
    }

    pub(super) fn malformed(path: &Path, message: impl Into<String>) -> ModelError {
        ModelError::Malformed { path: path.to_owned(), message: message.into() }
    }

    pub(super) fn tokenizer(path: &Path, message: impl Into<String>) -> ModelError {
        ModelError::Tokenizer { path: path.to_owned(), message: message.into() }
    }
}
