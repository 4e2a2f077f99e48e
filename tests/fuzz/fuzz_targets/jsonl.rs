//! Arbitrary bytes as rows of prompts, pairs, labels and records.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aligner_fuzz::data::read("jsonl", bytes));
