//! Arbitrary bytes as a `tokenizer.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aligner_fuzz::data::read("tokenizer", bytes));
