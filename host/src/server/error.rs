//! Why a server does not do what a run needs of it.

use crate::plugin_set::Server as Settings;

/// Why a server does not do what a run needs of it. Nothing in it is a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// It cannot be asked at all from here.
    #[error("server `{server}` cannot be asked: {why}")]
    NoClient {
        /// Where it is.
        server: String,
        /// In words.
        why: String,
    },
    /// It answers nothing, and has not for longer than it may.
    #[error("server `{server}` {}: {why}", for_so_long(*seconds))]
    Away {
        /// Where it is.
        server: String,
        /// For how long.
        seconds: u64,
        /// The last thing that was seen of it.
        why: String,
    },
    /// It says no.
    #[error("server `{server}` refuses {what} with status {status}{}", said(message))]
    Refused {
        /// Where it is.
        server: String,
        /// What it was asked for.
        what: String,
        /// Of HTTP.
        status: u16,
        /// In its words, on one line; may be empty.
        message: String,
    },
    /// It breaks off, or gives what is no answer, however often it is asked.
    #[error("server `{server}` gives no whole answer to {what}{}: {why}", asked(*tries))]
    Broken {
        /// Where it is.
        server: String,
        /// What it was asked for.
        what: String,
        /// How often.
        tries: u32,
        /// What was wrong last.
        why: String,
    },
    /// Its answer is whole, and cannot be right.
    #[error("server `{server}` answers {what} with what cannot be right: {why}")]
    Wrong {
        /// Where it is.
        server: String,
        /// What it was asked for.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// It has no such model, or several to choose from.
    #[error("server `{server}` {what}")]
    Model {
        /// Where it is.
        server: String,
        /// What of models is not as it should be.
        what: String,
        /// The way out.
        hint: String,
    },
    /// What it says is too far from what the model says here, or from what it said before.
    #[error("server `{server}` is not the model that it should be: {why}")]
    Differs {
        /// Where it is.
        server: String,
        /// How far.
        why: String,
        /// The way out.
        hint: String,
    },
    /// It may read and write no more for this run.
    #[error(
        "the run may have {tokens} tokens read and written by server `{server}`, and the next request could take more"
    )]
    Budget {
        /// Where it is.
        server: String,
        /// The budget.
        tokens: u64,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Cancelled,
}

fn asked(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        tries => format!(", asked {tries} times"),
    }
}

/// Says for how long a server has answered nothing; at the start it was asked once.
fn for_so_long(seconds: u64) -> String {
    match seconds {
        0 => "does not answer".to_owned(),
        seconds => format!("has answered nothing for {seconds} s"),
    }
}

/// What a server said, as the end of a sentence.
fn said(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": \"{message}\""),
    }
}

impl ServerError {
    /// Returns the way out; `name` is the model's in `[models]`.
    pub fn hint(&self, name: &str) -> Option<String> {
        let key = |key: &str| format!("models.{name}.{key}");
        Some(match self {
            ServerError::NoClient { .. } | ServerError::Cancelled => return None,
            ServerError::Away { .. } => format!(
                "start it, or name another: {}. A run that has begun waits for it as long as `{}` says; all its \
                 finished work stays, and `aligner resume` with its directory goes on",
                match name {
                    "policy" => "`--server URL`, which `aligner resume` takes too".to_owned(),
                    _ => format!("`--set {}=URL`", key("server")),
                },
                key("patience_seconds")
            ),
            ServerError::Refused { status: 401 | 403, server, .. } => format!(
                "a key for it is given in the environment: {}={}=KEY",
                super::KEYS,
                super::origin(server)
            ),
            ServerError::Refused { status: 404, what, .. } if what.contains("adapter") => format!(
                "vLLM loads adapters while it runs with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` and `--enable-lora`; \
                 for a server that loads none, `{} = [\"adapters\"]` has the embedded engine use them",
                key("embedded")
            ),
            ServerError::Refused { what, .. } if what.contains("adapter") => format!(
                "the server has to see the run directory under the same path, and to allow the adapter's rank \
                 (vLLM: `--max-lora-rank`); `{} = [\"adapters\"]` has the embedded engine use adapters",
                key("embedded")
            ),
            ServerError::Refused { .. } | ServerError::Broken { .. } => {
                "its log may say more. Where the run has begun, all finished work stays, and `aligner resume` with \
                 its directory goes on"
                    .into()
            }
            ServerError::Wrong { .. } => format!(
                "it has to give token counts and logprobs as OpenAI's `/v1/completions` does, and `{}` has to be the \
                 model that it serves, with the same tokenizer and as long a context; where its scores alone are \
                 wrong, `{} = [\"scores\"]` leaves them to the embedded engine",
                key("base"),
                key("embedded")
            ),
            ServerError::Model { hint, .. } | ServerError::Differs { hint, .. } => hint.clone(),
            ServerError::Budget { .. } => format!(
                "all finished work stays: with a larger `{}` the run goes on by `--resume`; `{} = \"drop\"` leaves \
                 out what is not done",
                key("tokens"),
                key("on_budget")
            ),
        })
    }

    pub(super) fn wrong(settings: &Settings, what: &str, why: String) -> ServerError {
        ServerError::Wrong { server: settings.server.clone(), what: what.to_owned(), why }
    }
}
