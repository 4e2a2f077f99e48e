//! Models: shape, weights, tokenizer and chat template, wherever they come from.

pub mod adapter;
pub mod checkpoint;
pub mod config;
pub mod digest;
pub mod error;
pub mod gguf;
pub mod layout;
pub mod safetensors;
pub mod source;
pub mod spec;
pub mod template;
pub mod text;
pub mod tokenizer;
