//! What a plugin author depends on: one trait and one macro for each plugin kind.
//!
//! A plugin is a pure function over records. It is built for `wasm32-unknown-unknown`, imports
//! nothing but the log, and *asks* for whatever needs a model. A whole filter, with its
//! configuration:
//!
//! ```
//! use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
//!
//! /// Drops answers with too few words.
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! pub struct MinWords {
//!     words: usize,
//! }
//!
//! impl Plugin for MinWords {
//!     type Config = MinWords;
//!     const NAME: &'static str = "min-words";
//!     const SUMMARY: &'static str = "Drops answers with too few words.";
//!
//!     fn new(config: MinWords) -> Result<Self, Error> {
//!         Ok(config)
//!     }
//! }
//!
//! impl Filter for MinWords {
//!     fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
//!         let short = |text: &str| text.split_whitespace().count() < self.words;
//!         Ok(match record.completions().any(|(_, completion)| short(&completion.text)) {
//!             true => Verdict::Drop("too-short".into()),
//!             false => Verdict::Keep,
//!         })
//!     }
//! }
//!
//! export_filter!(MinWords);
//!
//! // The macro does nothing outside wasm, so the plugin is tested like any other code.
//! use aligner_sdk::testing;
//! let plugin: MinWords = testing::plugin(r#"{"words": 3}"#).unwrap();
//! let record = testing::answered("p-1", "Are you there?", "Yes.");
//! let verdict = testing::filter(&plugin, &record, testing::no_model).unwrap();
//! assert_eq!(verdict, Verdict::Drop("too-short".into()));
//! ```
//!
//! The crate has `crate-type = ["cdylib", "rlib"]` and depends on `aligner-sdk` and `serde`.
//!
//! # Asking a model
//!
//! [`Ask`] turns the contract's ask-and-call-again into straight-line code. Where the answer is not
//! there yet, the call returns [`Error::Pending`], which `?` hands to the SDK; the host carries out
//! the requests of the whole stage and calls again, and the method runs from its beginning with
//! one more answer at hand. So it must come to the same requests each time: it may depend on the
//! record, the configuration and [`Ask::seed`], which is all a plugin can see.
//!
//! ```
//! use aligner_sdk::{Ask, Context, Decoding, Error, GenerateRequest, Record, Text, Verdict};
//!
//! fn filter(_: &Context, record: &Record, ask: &mut Ask) -> Result<Verdict, Error> {
//!     let question = format!("Is this polite? {}", record.prompt.text.gist());
//!     let decoding = Decoding { max_new_tokens: Some(4), ..Decoding::greedy() };
//!     let answer =
//!         ask.generate(GenerateRequest { decoding, ..GenerateRequest::of("policy", Text::user(question)) })?;
//!     Ok(if answer.text.trim().starts_with("No") { Verdict::Drop("impolite".into()) } else { Verdict::Keep })
//! }
//! ```
//!
//! # Determinism
//!
//! There is no clock, no file and no random source. [`Ask::rng`] (and the seeds that samplers get)
//! are the only randomness; use `BTreeMap` rather than `HashMap` wherever the order of a map can
//! reach a result.
#![warn(missing_docs)]

mod ask;
mod config;
mod error;
mod kinds;
mod prompt;
mod random;
mod types;

#[doc(hidden)]
#[allow(missing_docs, clippy::all)]
pub mod bindings;
#[doc(hidden)]
pub mod glue;
pub mod log;
pub mod testing;

pub use ask::Ask;
pub use error::Error;
pub use kinds::{Difficulty, Filter, Judge, Plugin, Principle, PromptWriter, Sampler, SetFilter};
pub use prompt::{RenderAs, System};
pub use random::Rng;
pub use types::{
    Answer, Candidate, Card, Completion, Context, Decoding, Equipment, Exemplar, Finish,
    GenerateRequest, Measurement, Message, Opinion, Pair, Prompt, Record, Request, Revision,
    Reward, RewardRequest, Score, ScoreRequest, Slot, Speaker, Text, Turn, Variant, VariantRole,
    Verdict,
};
