//! Products of several weights at once.

use super::{all, poisoned, random, rounding_card};
use crate::model::backend::{Backend, WeightType, Write};

/// They are to the bit those of each weight alone.
#[test]
fn several_weights_give_what_each_gives() {
    let Some(b) = rounding_card() else { return };
    // Weights that go into one launch, and some that are cut otherwise; outputs that no tile and no vector divides.
    for (inputs, outputs) in [
        (136, vec![48, 21, 300]),
        (64, vec![4104, 7, 9]),
        (64, vec![96]),
        (200, vec![130, 4200, 4100, 64]),
        // What the library multiplies.
        (31, vec![48, 20]),
    ] {
        for weight_type in [WeightType::Bf16, WeightType::F32] {
            let weight = |outputs: &usize| {
                let values = random(&format!("w {outputs}"), outputs * inputs, 0.1);
                b.pack(&values, *outputs, inputs, weight_type).unwrap()
            };
            let weights: Vec<_> = outputs.iter().map(weight).collect();
            for rows in [1, 9, 20, 140] {
                let x = b.upload(&random("x", rows * inputs, 1.0)).unwrap();
                let room = |outputs: &usize| poisoned(b, rows * outputs);
                let mut alone: Vec<_> = outputs.iter().map(room).collect();
                for (weight, y) in weights.iter().zip(&mut alone) {
                    b.linear(&x, rows, weight, y, Write::Set);
                }
                let mut together: Vec<_> = outputs.iter().map(room).collect();
                let mut products: Vec<_> = weights.iter().zip(&mut together).collect();
                b.linear_each(&x, rows, &mut products);
                for ((alone, together), outputs) in alone.iter().zip(&together).zip(&outputs) {
                    let same = all(b, alone) == all(b, together);
                    assert!(same, "{weight_type}, {rows} rows, {inputs} inputs, {outputs} outputs");
                }
            }
        }
    }
}
