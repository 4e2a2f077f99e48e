//! How a plugin set wants a plugin: as what, with which configuration, rights and limits.

use std::collections::BTreeSet;

use super::asking::MAX_REQUESTS;
use super::inspect::Kind;
use super::limits::Limits;

/// The requests that a stage may make where the plugin set gives no number.
pub const DEFAULT_REQUESTS: u64 = 1_000_000;

/// The right to ask models.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The models that may be asked: `policy`, `initial`, `previous`, or names from `[models]`.
    pub models: BTreeSet<String>,
    /// Tokens that the answers to one stage of one round may have in all.
    pub tokens: u64,
    /// The same over the whole run, counted on when it is resumed; absent where that has no limit.
    pub run_tokens: Option<u64>,
    /// Requests in one stage of one round.
    pub requests: u64,
    /// Requests in the whole run, counted on when it is resumed; absent where that has no limit.
    pub run_requests: Option<u64>,
    /// Requests for one record, at most [`MAX_REQUESTS`].
    pub record_requests: usize,
    /// What a request without `max-new-tokens` counts as: `max_new_tokens` of `[generate]`.
    pub default_max_new_tokens: u32,
}

impl Grant {
    /// Returns the right to ask these models, up to a number of tokens a stage, with no other limit than
    /// everybody has.
    pub fn new(
        models: impl IntoIterator<Item = String>,
        tokens: u64,
        default_max_new_tokens: u32,
    ) -> Grant {
        Grant {
            models: models.into_iter().collect(),
            tokens,
            run_tokens: None,
            requests: DEFAULT_REQUESTS,
            run_requests: None,
            record_requests: MAX_REQUESTS,
            default_max_new_tokens,
        }
    }
}

/// What happens when a call fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The stage fails.
    #[default]
    Stop,
    /// The records at fault are found and dropped with reason [`PLUGIN_ERROR`](super::PLUGIN_ERROR).
    Drop,
}

/// How the plugin set wants a plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The kind that its place in the plugin set wants.
    pub kind: Kind,
    /// The text of a JSON object; `{}` where there is none.
    pub config: String,
    /// For each call.
    pub limits: Limits,
    /// Absent where it may not ask.
    pub grant: Option<Grant>,
    /// What happens when a call fails.
    pub on_error: OnError,
}

impl Setup {
    /// Returns a setup with an empty configuration, the default limits and no right to ask.
    pub fn new(kind: Kind) -> Setup {
        Setup {
            kind,
            config: "{}".into(),
            limits: Limits::default(),
            grant: None,
            on_error: OnError::Stop,
        }
    }
}
