//! Runs: their directory, journal and seeds.

pub mod directory;
pub mod journal;
pub mod seed;
