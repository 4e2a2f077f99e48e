//! What crosses crates: the whole program from outside.

mod runs;
mod runtime;
