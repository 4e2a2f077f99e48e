//! What filters and judges are worth, on data whose answers are known.
//!
//! Pure functions over counts and numbers: `aligner evaluate` reads the rows, calls the plugins, and
//! hands what they said to the tallies here. What a tally holds does not grow with the rows, but for
//! 16 bytes a row and slice where there is a number for each: a judge's reward, the file's score, or what is
//! measured for a filter.

pub mod calibration;
pub mod compare;
pub mod confusion;
pub mod curve;
pub mod filter;
pub mod judge;
pub mod outcome;
mod resample;
pub mod slices;
pub mod summary;

#[cfg(test)]
mod fixture_tests;
