//! Whole passes with weights in bf16 and in eight bits, on every set of kernels that this machine has,
//! against the plain model in f32.

use std::collections::BTreeMap;

use crate::model::backend::WeightType;
use crate::model::backend::cpu::{Cpu, Isa};
use crate::model::forward::Engine;
use crate::model::forward::tests::logits;
use crate::model::spec::Spec;
use crate::model::tiny;
use crate::model::weights::Weights;
use crate::run::seed;
use crate::train::{Example, StepMetrics, TrainSettings, Trainer};

/// Widths that are whole steps of every kernel, and widths that are not.
fn specs() -> [Spec; 2] {
    let ragged = tiny::spec(12, false);
    [Spec { hidden: 64, intermediate: 160, ..tiny::spec(16, true) }, ragged]
}

fn engine(isa: Isa, spec: &Spec, weight_type: WeightType) -> Engine<Cpu> {
    let checkpoint = tiny::checkpoint(spec.clone(), 1);
    let weights = Weights::load_as(&Cpu::from(isa), &checkpoint, weight_type, &mut |_, _| ());
    Engine::new(Cpu::from(isa), weights.unwrap())
}

fn tokens(spec: &Spec, seed: u64, len: u64) -> Vec<u32> {
    (0..len).map(|i| seed::bits(seed, i) as u32 % spec.vocab as u32).collect()
}

#[test]
fn logits_are_near_those_of_the_plain_model_and_chunks_change_no_bit() {
    for spec in specs() {
        let tokens = tokens(&spec, 2, 75);
        let want = tiny::oracle(&tiny::checkpoint(spec.clone(), 1), None, &tokens);
        let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        for isa in Isa::all() {
            for (weight_type, bound) in [(WeightType::Bf16, 0.02), (WeightType::Int8, 0.06)] {
                let engine = engine(isa, &spec, weight_type);
                let got = logits(&engine, None, &tokens, 512);
                let distances = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
                let worst = distances.fold(0.0, f32::max) / largest;
                println!("{isa:?} {weight_type}: logits differ by {worst:e} of the largest");
                // Not at all would mean that the weights are not what they are said to be.
                assert!((1e-4..bound).contains(&worst), "{isa:?} {weight_type}: {worst:e}");
                for chunk in [1, 7, 16, 40] {
                    let again = logits(&engine, None, &tokens, chunk);
                    assert!(again == got, "{isa:?} {weight_type} in chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn training_over_bf16_weights_is_near_that_over_f32() {
    for spec in specs() {
        let examples: Vec<Example> = (0..6)
            .map(|i| Example {
                id: i.to_string(),
                tokens: tokens(&spec, 10 + i, 12 + 7 * i),
                trained: (0..12 + 7 * i).map(|t| t > 4).collect(),
            })
            .collect();
        let adapter = tiny::adapter(&spec, 3);
        let train = |isa, weight_type| -> Vec<StepMetrics> {
            let engine = engine(isa, &spec, weight_type);
            let settings = TrainSettings { learning_rate: 1e-2, ..TrainSettings::default() };
            let mut trainer = Trainer::new(engine, &adapter, examples.clone(), settings).unwrap();
            std::iter::from_fn(|| trainer.step().unwrap()).collect()
        };
        let exact = train(Isa::Portable, WeightType::F32);
        assert!(!exact.is_empty());
        for isa in Isa::all() {
            for (step, want) in train(isa, WeightType::Bf16).iter().zip(&exact) {
                for (what, got, want) in [
                    ("loss", step.loss, want.loss),
                    ("gradient norm", step.grad_norm, want.grad_norm),
                ] {
                    let distance = (got / want - 1.0).abs();
                    println!("{isa:?} step {}: {what} differs by {distance:e}", step.step);
                    assert!(distance < 0.02, "{isa:?} step {}: {what} {got} {want}", step.step);
                }
            }
        }
    }
}

#[test]
fn kernels_of_one_class_give_the_same_bits() {
    for spec in specs() {
        let tokens = tokens(&spec, 5, 300);
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
            let mut classes: BTreeMap<&str, (Isa, Vec<f32>)> = BTreeMap::new();
            for isa in Isa::all() {
                let engine = engine(isa, &spec, weight_type);
                let got: Vec<f32> =
                    [300, 7, 1].iter().flat_map(|&n| logits(&engine, None, &tokens, n)).collect();
                let (first, want) =
                    classes.entry(isa.class(weight_type)).or_insert((isa, got.clone()));
                assert!(got == *want, "{weight_type}: {isa:?} and {first:?} are one class");
            }
        }
    }
}
