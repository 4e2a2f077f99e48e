//! Bad input of every kind, the short way: the seeds of `make fuzz`, and the same few hundred mutations of them
//! each time.

#[path = "inputs.rs"]
pub mod inputs;
mod templates;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aligner::run::seed;
use inputs::INPUTS;

/// Returns how many mutations of all seeds of a kind are tried; `make soak` tries many.
fn mutations() -> usize {
    if std::env::var_os("ALIGNER_SOAK").is_some() { 20_000 } else { 400 }
}

/// Numbers that are the same in every run of the tests.
struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    /// Returns a number under `below`, which is above 0.
    fn roll(&mut self, below: usize) -> usize {
        self.drawn += 1;
        (seed::uniform(self.seed, self.drawn) * below as f64) as usize
    }
}

/// Cuts, repeats, overwrites or joins what is there, a few times.
fn mutate(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    const TOKENS: [&[u8]; 12] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"9223372036854775807",
        b"-1",
        b"1e999",
        b"null",
        b"\"",
        b"{",
        b"[[[[[[[[",
        b"}",
        b"\n",
        b"\xe2\x80\xae",
    ];
    let mut bytes = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        let length = dice.roll(32.min(bytes.len() - at) + 1);
        match dice.roll(6) {
            0 => drop(bytes.drain(at..at + length)),
            1 => bytes.truncate(at),
            2 => {
                let piece = bytes[at..at + length].repeat(1 + dice.roll(8));
                drop(bytes.splice(at..at, piece));
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            4 => {
                let other = &seeds[dice.roll(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.roll(other.len() + 1)..]);
            }
            _ => drop(bytes.splice(at..at + length, TOKENS[dice.roll(12)].iter().copied())),
        }
    }
    bytes
}

#[test]
fn bad_input_of_every_kind_is_answered() {
    templates::isolate();
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
    let folder = tempfile::tempdir().unwrap();
    for input in INPUTS {
        let begun = Instant::now();
        let mut files: Vec<_> = std::fs::read_dir(seeds.join(input.name))
            .unwrap_or_else(|error| panic!("no seeds of {}: {error}", input.name))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(whole.len() >= 2, "{} seeds of {}", whole.len(), input.name);
        let mut dice = Dice { seed: seed::of([input.name.into()]), drawn: 0 };
        let mutated: Vec<_> = (0..mutations()).map(|_| mutate(&mut dice, &whole)).collect();
        for bytes in whole.iter().chain(&mutated) {
            let place = folder.path().join(input.name);
            let begun = Instant::now();
            let read = catch_unwind(AssertUnwindSafe(|| (input.read)(&place, bytes)));
            let shown = || String::from_utf8_lossy(bytes).escape_debug().to_string();
            assert!(read.is_ok(), "{} panics at {}", input.name, shown());
            let seconds = begun.elapsed();
            // A template that never ends is ended, in each of its renderings.
            let most = if input.name == "template" { 60 } else { 5 };
            assert!(
                seconds < Duration::from_secs(most),
                "{}: {seconds:?} for {}",
                input.name,
                shown()
            );
        }
        println!("{}: {} inputs in {:?}", input.name, whole.len() + mutated.len(), begun.elapsed());
    }
}
