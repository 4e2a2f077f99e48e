//! Arbitrary bytes as a plugin set.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aligner_fuzz::data::read("plugin_set", bytes));
