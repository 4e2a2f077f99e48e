//! Models: shape, weights, tokenizer and chat template, wherever they come from.

pub mod adapter;
pub mod backend;
pub mod checkpoint;
pub mod peft;
pub mod spec;
