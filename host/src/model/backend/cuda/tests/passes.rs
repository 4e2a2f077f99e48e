//! Passes that are noted, and replayed as graphs.

use std::sync::atomic::Ordering;

use super::{all, open, poisoned, random};
use crate::model::backend::cuda::{Buffer, Cuda, Matrix};
use crate::model::backend::{Backend, WeightType, Write};

const ROWS: usize = 20;
const WIDTH: usize = 64;
const LEN: usize = ROWS * WIDTH;

/// Returns how many graphs were launched.
fn graphs(card: &Cuda) -> u64 {
    card.graphs.load(Ordering::Relaxed)
}

/// A pass over some rows: kernels, products with weights of both types, rows that are brought, and room to work in.
struct Pass<'a> {
    card: &'a Cuda,
    x: Buffer,
    scale: Buffer,
    weights: [Matrix; 2],
    middle: [Buffer; 3],
    y: Buffer,
}

impl<'a> Pass<'a> {
    fn new(card: &'a Cuda) -> Pass<'a> {
        let weight = |weight_type| {
            let values = random("weight", WIDTH * WIDTH, 0.1);
            card.pack(&values, WIDTH, WIDTH, weight_type).unwrap()
        };
        Pass {
            card,
            x: poisoned(card, LEN),
            scale: card.upload(&random("scale", WIDTH, 1.0)).unwrap(),
            weights: [weight(WeightType::F32), weight(WeightType::Bf16)],
            middle: [0; 3].map(|_| poisoned(card, LEN)),
            y: poisoned(card, LEN),
        }
    }

    fn fill(&mut self, values: &[f32]) {
        self.card.write(values, &mut self.x, 0);
    }

    /// Asks for a pass over the rows in some order, and returns what was seen in its middle, if it was looked at.
    fn ask(&mut self, order: &[usize], look: bool) -> Option<Vec<f32>> {
        let Pass { card, x, scale, weights: [first, second], middle: [a, b, c], y } = self;
        card.gather(x, WIDTH, order, a);
        card.rms_norm(a, order.len(), scale, 1e-5, b);
        card.linear(b, order.len(), first, c, Write::Set);
        let seen = look.then(|| all(*card, c));
        card.linear(c, order.len(), second, a, Write::Set);
        card.linear(a, order.len(), second, y, Write::Set);
        card.swiglu(a, b, order.len() * WIDTH, c);
        card.linear(c, order.len(), second, y, Write::Add);
        seen
    }

    /// Asks for a pass that begins like that one, and ends early or goes on otherwise.
    fn leave(&mut self, order: &[usize], early: bool) {
        let Pass { card, x, scale, weights: [first, _], middle: [a, b, c], y } = self;
        card.gather(x, WIDTH, order, a);
        card.rms_norm(a, order.len(), scale, 1e-5, b);
        card.linear(b, order.len(), first, c, Write::Set);
        if !early {
            card.swiglu(c, b, order.len() * WIDTH, y);
        }
    }

    /// Frees all but what the pass came to.
    fn end(self) -> Buffer {
        self.y
    }
}

#[test]
fn a_pass_that_repeats_gives_what_it_gives_once() {
    for weight_type in [WeightType::F32, WeightType::Bf16] {
        // No other test has its passes.
        let Some(card) = &open(weight_type) else { return };
        let (mut repeated, mut once) = (Pass::new(card), Pass::new(card));
        for round in 0..24 {
            let values = random(&format!("round {round}"), LEN, 1.0);
            // The order changes in its contents, then in its length, and comes back; now and then somebody looks.
            let rows = if round % 12 < 8 { ROWS } else { 3 };
            let order: Vec<usize> = (0..rows).map(|i| (i * 7 + round) % ROWS).collect();
            let look = round % 12 == 6;
            once.fill(&values);
            let wanted = (once.ask(&order, look), all(card, &once.y));
            repeated.fill(&values);
            let seen = card.repeating(|| repeated.ask(&order, look));
            assert!((seen, all(card, &repeated.y)) == wanted, "round {round}");
        }
        assert!(graphs(card) >= 6, "{}", graphs(card));
    }
}

#[test]
fn a_pass_that_leaves_its_graph_gives_what_it_gives_once() {
    let Some(card) = &open(WeightType::Bf16) else { return };
    let (mut repeated, mut once) = (Pass::new(card), Pass::new(card));
    let order: Vec<usize> = (0..ROWS).rev().collect();
    for round in 0..24 {
        let values = random(&format!("round {round}"), LEN, 1.0);
        let ask = |pass: &mut Pass<'_>| match round % 8 {
            5 | 7 => pass.leave(&order, round % 8 == 5),
            _ => drop(pass.ask(&order, false)),
        };
        once.fill(&values);
        ask(&mut once);
        repeated.fill(&values);
        card.repeating(|| ask(&mut repeated));
        for (at, (once, repeated)) in once.middle.iter().zip(&repeated.middle).enumerate() {
            assert!(all(card, once) == all(card, repeated), "round {round}, {at}");
        }
        assert!(all(card, &once.y) == all(card, &repeated.y), "round {round}");
    }
    assert!(graphs(card) >= 12, "{}", graphs(card));
}

#[test]
fn passes_of_several_threads_do_not_mix() {
    let Some(card) = &open(WeightType::Bf16) else { return };
    std::thread::scope(|scope| {
        for thread in 0..3usize {
            scope.spawn(move || {
                let (mut repeated, mut once) = (Pass::new(card), Pass::new(card));
                let order: Vec<usize> = (0..ROWS).rev().collect();
                for round in 0..12 {
                    let values = random(&format!("{thread} {round}"), LEN, 1.0);
                    once.fill(&values);
                    once.ask(&order, false);
                    repeated.fill(&values);
                    card.repeating(|| repeated.ask(&order, false));
                    assert!(all(card, &once.y) == all(card, &repeated.y), "{thread} {round}");
                }
            });
        }
    });
    assert!(graphs(card) > 0);
}

#[test]
fn memory_that_is_freed_in_a_pass_is_there_until_its_end() {
    let Some(card) = &open(WeightType::Bf16) else { return };
    let order: Vec<usize> = (0..ROWS).collect();
    let values = random("values", LEN, 1.0);
    let filled = || {
        let mut pass = Pass::new(card);
        pass.fill(&values);
        pass
    };
    let mut once = filled();
    once.ask(&order, false);
    let wanted = all(card, &once.y);
    for _ in 0..4 {
        let (mut first, mut second) = (filled(), filled());
        let y = card.repeating(|| {
            first.ask(&order, false);
            let y = first.end();
            // What this brings and works in may lie where that lay.
            second.ask(&order, false);
            y
        });
        assert!(all(card, &y) == wanted);
        assert!(all(card, &second.y) == wanted);
    }
}
