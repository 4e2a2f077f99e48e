//! How long 10,000 new prompts take against 10,000 that stand, 10 to 25 words each:
//!
//!     time cargo run --release --manifest-path plugins/Cargo.toml -p rouge-l --example speed
//!
//! Words are drawn by Zipf's law from 10,000; one new prompt in eight is an earlier one with a few
//! words changed.

use aligner_sdk::{Record, Rng, SetFilter, Verdict, testing};
use rouge_l::RougeL;

const STANDING: usize = 10_000;
const NEW: usize = 10_000;

fn main() {
    let prompts = prompts(STANDING + NEW);
    let mut plugin: RougeL = testing::plugin("{}").unwrap();
    for record in &prompts {
        plugin.observe(&testing::context(), record).unwrap();
    }
    let decide = |record| plugin.decide(&testing::context(), record).unwrap();
    let kept = prompts[STANDING..].iter().map(decide).filter(|it| *it == Verdict::Keep).count();
    println!("{kept} of {NEW} kept");
}

fn prompts(n: usize) -> Vec<Record> {
    let mut rng = Rng::new(1);
    let word = |rng: &mut Rng| 10_000f64.powf(rng.uniform()) as u32;
    let mut texts: Vec<Vec<u32>> = Vec::new();
    for i in 0..n {
        let text = match i > 0 && rng.below(8) == 0 {
            true => {
                let mut text = texts[rng.below(i)].clone();
                for _ in 0..rng.below(10) {
                    let place = rng.below(text.len());
                    text[place] = word(&mut rng);
                }
                text
            }
            false => (0..10 + rng.below(16)).map(|_| word(&mut rng)).collect(),
        };
        texts.push(text);
    }
    let record = |(i, text): (usize, &Vec<u32>)| {
        let words: Vec<_> = text.iter().map(|word| format!("w{word}")).collect();
        testing::record(&format!("p-{i}"), &words.join(" "))
    };
    texts.iter().enumerate().map(record).collect()
}
