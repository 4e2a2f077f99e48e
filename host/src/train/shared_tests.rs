//! A prompt that goes through the model once for the completions after it, against one that does so for each.

use std::collections::BTreeMap;

use super::tests::{furthest, largest};
use crate::model::activations::{Activations, PassShape};
use crate::model::backend::Backend;
use crate::model::backend::cpu::Cpu;
use crate::model::backward::{Pass, Sequences};
use crate::model::tiny;
use crate::model::trainable::{Gradients, Trained};
use crate::model::weights::Weights;
use crate::run::seed;
use crate::train::Item;

/// Tokens of a prompt, and of the completions after it.
type Family = (usize, &'static [usize]);

/// Around a block of queries and a panel of keys, and beside sequences that share nothing.
const FAMILIES: [Family; 6] =
    [(2, &[1, 1]), (70, &[3, 40]), (33, &[65, 2]), (9, &[20]), (120, &[31, 33]), (1, &[4, 4])];

fn sequences(share: bool) -> Sequences {
    let mut sequences = Sequences::default();
    for (family, (prompt, completions)) in FAMILIES.into_iter().enumerate() {
        for (nth, completion) in completions.iter().enumerate() {
            let token = |t: usize| {
                let part = if t < prompt { 0 } else { 1 + nth };
                (seed::uniform((100 * family + part) as u64, t as u64) * 300.0) as u32
            };
            let tokens: Vec<u32> = (0..prompt + completion).map(token).collect();
            let scored: Vec<bool> = (0..tokens.len()).map(|t| t >= prompt).collect();
            let shared = if share && nth > 0 { prompt - 1 } else { 0 };
            sequences.branch(&tokens, &scored, shared, 0);
        }
    }
    sequences
}

#[test]
fn what_is_shared_is_learnt_from_as_if_it_were_not() {
    for (window, qk_norm) in [(None, false), (Some(40), true)] {
        let mut spec = tiny::spec(12, true);
        (spec.sliding_windows, spec.qk_norm) = (vec![window, None], qk_norm);
        let checkpoint = tiny::checkpoint(spec, 5);
        for backend in [Cpu::new(), Cpu::portable()] {
            let weights = Weights::load(&backend, &checkpoint, &mut |_, _| {}).unwrap();
            let run = |sequences: &Sequences| {
                let shape = PassShape {
                    spec: &checkpoint.spec,
                    pairs: &BTreeMap::new(),
                    dropout: false,
                    rows: sequences.tokens.len(),
                    gradient_checkpointing: false,
                };
                let room = &mut |room| backend.make_room(room);
                let mut activations = Activations::new(shape, room).unwrap();
                let mut gradients = Gradients::new(&backend, &weights).unwrap();
                let trained = Trained { adapter: None, gradients: Some(&mut gradients) };
                let activations = &mut activations;
                let mut pass = Pass { backend: &backend, weights: &weights, trained, activations };
                let slopes: Vec<f32> =
                    (0..sequences.targets.len()).map(|i| [0.3, -0.2, 0.1][i % 3]).collect();
                pass.forward(sequences).unwrap();
                let said = pass.backward(sequences, &slopes).unwrap();
                let logprobs: Vec<f32> = said.iter().map(|token| token.logprob).collect();
                let values = |(name, gradient): (_, &<Cpu as Backend>::Buffer)| {
                    (format!("{name}"), gradient.to_vec())
                };
                (logprobs, gradients.iter().map(values).collect::<BTreeMap<_, _>>())
            };
            let (apart, together) = (sequences(false), sequences(true));
            assert_eq!(apart.targets, together.targets);
            assert_eq!(apart.tokens.len() - together.tokens.len(), 1 + 69 + 32 + 119);
            let ((want, wanted), (got, gradients)) = (run(&apart), run(&together));
            let distance = furthest(&got, &want);
            assert!(distance < 2e-5, "{window:?} {:?}: logprobs {distance:e}", backend.isa());
            assert_eq!(gradients.len(), wanted.len());
            for (name, gradient) in gradients {
                let want = &wanted[&name];
                let distance = furthest(&gradient, want) / largest(want);
                assert!(distance < 2e-5, "{window:?} {:?} {name}: {distance:e}", backend.isa());
            }
        }
    }
}

#[test]
fn the_second_of_a_pair_takes_the_prompt_of_the_first() {
    let mut item = Item::pair("a", &[1, 2, 3], &[4], &[5, 6]);
    item.sequences.extend(Item::pair("b", &[7], &[8, 9], &[8, 8]).sequences);
    let shared = |which, may| item.shared(which, may).map(|(_, shared)| shared).collect::<Vec<_>>();
    assert_eq!(shared(0..4, true), [0, 2, 0, 0]);
    assert_eq!(shared(2..4, true), [0, 0]);
    assert_eq!(shared(0..4, false), [0; 4]);
    assert_eq!((item.rows(0..4, true), item.rows(0..4, false)), (13, 15));
    assert_eq!(item.tokens(0..4), 15);
}
