//! Held-out measures: what a model's answers are worth, the same for every method and apart from any
//! method's own judge.
//!
//! Pure functions over text and numbers. Which model answers, and how, is not known here:
//! `aligner model eval` reads a [`suite`], asks the models, and hands what they said to the measures.

pub mod choice;
pub mod figure;
pub mod generation;
pub mod instructions;
pub mod letters;
pub mod pairwise;
pub mod perplexity;
pub mod preferences;
pub mod suite;
