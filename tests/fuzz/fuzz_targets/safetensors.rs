//! Arbitrary bytes as a safetensors file of weights and of an adapter.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aligner_fuzz::data::read("safetensors", bytes));
