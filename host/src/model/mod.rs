//! Models: shape, weights, tokenizer and chat template, wherever they come from.

pub mod activations;
pub mod adapter;
mod architecture;
pub mod backend;
pub mod backward;
mod base_name;
pub mod checkpoint;
pub mod config;
mod conversation;
pub mod digest;
pub mod error;
pub mod export;
pub mod forward;
pub mod gguf;
pub(crate) mod guard;
pub(crate) mod head;
pub mod layout;
pub mod merge;
pub mod peft;
pub mod safetensors;
pub mod save;
pub mod source;
pub mod spec;
pub mod template;
pub mod text;
pub mod tokenizer;
pub mod trainable;
pub mod weights;

#[cfg(test)]
mod narrow_tests;
#[cfg(test)]
pub(crate) mod tiny;

pub use error::ModelError;
