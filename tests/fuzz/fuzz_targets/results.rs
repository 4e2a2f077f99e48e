//! Arbitrary bytes as what a plugin gives back: the first byte chooses the call, the others are the
//! guest's memory from address 0, where the host reads the result.
#![no_main]

use std::sync::LazyLock;

use aligner::plugin::{Interface, Loaded, Source};
use aligner_fuzz::{RUNTIME, call, check, image, limits};
use libfuzzer_sys::fuzz_target;

static IMAGE: LazyLock<Loaded> = LazyLock::new(|| {
    let source = Source::bytes("image.wasm", image());
    RUNTIME.open(&source, &limits()).expect("the guest loads")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let letter = match which & 0x30 {
        0x10 => 'c',
        0x20 => 'L',
        _ => 'r',
    };
    let half = |half: u8| char::from(b'a' + half);
    let digits = bytes.iter().flat_map(|byte| [half(byte >> 4), half(byte & 15)]);
    let config: String = std::iter::once(letter).chain(digits).collect();
    let interface = Interface::ALL[usize::from(which & 7) % Interface::ALL.len()];
    check(call(&IMAGE, interface, which & 8 != 0, config));
});
