//! Arbitrary bytes as the files of a run.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aligner_fuzz::data::read("journal", bytes));
