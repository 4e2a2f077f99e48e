//! Runs: their directory, journal and seeds.

pub mod seed;
