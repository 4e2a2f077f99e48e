//! Models: shape, weights, tokenizer and chat template, wherever they come from.

pub mod adapter;
pub mod backend;
pub mod backward;
pub mod checkpoint;
pub mod forward;
pub mod peft;
pub mod spec;
#[cfg(test)]
pub(crate) mod tiny;
pub mod weights;
