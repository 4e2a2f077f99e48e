//! Attention against the processor's, over the cache and in training.

use super::{all, card, check, compare, poisoned, random, rounding_card};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::cuda::Cuda;
use crate::model::backend::training::{AttentionGradients, AttentionSaved, TrainingBackend};
use crate::model::backend::{AttentionShape, Backend, CacheShape, PAGE, Segment, WeightType};

const SHAPES: [(usize, usize, usize); 6] =
    [(4, 2, 12), (9, 3, 64), (7, 1, 16), (4, 4, 10), (12, 2, 128), (40, 1, 32)];

#[test]
fn attention_over_the_cache() {
    for (heads, kv_heads, head_dim) in SHAPES {
        for window in [None, Some(1), Some(23), Some(700)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            // A long prompt in two passes, two short ones beside it, and single rows after them.
            let lengths = [1200, 40, 17];
            let mut next = 0;
            let pages: Vec<Vec<u32>> = lengths
                .iter()
                .map(|&length: &usize| {
                    let count = (length + 1).div_ceil(PAGE) as u32;
                    next += count;
                    (next - count..next).rev().collect()
                })
                .collect();
            let segment =
                |i: usize, position, rows| Segment { rows, position, pages: pages[i].clone() };
            let passes = [
                vec![segment(0, 0, 700), segment(1, 0, 40)],
                vec![segment(2, 0, 17), segment(0, 700, 500)],
                vec![segment(0, 1200, 1), segment(1, 40, 1), segment(2, 17, 1)],
            ];
            check!(1e-5, b => {
                let cache = CacheShape { layers: 2, kv_heads, head_dim, pages: next as usize, weight_type: WeightType::F32 };
                let mut cache = b.cache(cache).unwrap();
                let mut found = vec![];
                for (i, segments) in passes.iter().enumerate() {
                    let rows: usize = segments.iter().map(|segment| segment.rows).sum();
                    let plan = b.plan(segments).unwrap();
                    let numbers = |name: &str, heads: usize| {
                        let name = format!("{name} {i}");
                        b.upload(&random(&name, rows * heads * head_dim, 1.0)).unwrap()
                    };
                    let [q, k, v] =
                        [("q", heads), ("k", kv_heads), ("v", kv_heads)].map(|(n, h)| numbers(n, h));
                    b.store(&k, &v, 1, &plan, &mut cache);
                    let mut y = poisoned(b, rows * heads * head_dim);
                    b.attend(&q, shape, 1, &plan, &cache, &mut y);
                    found.push((format!("attend {heads} {kv_heads} {head_dim} {window:?}"), all(b, &y)));
                }
                found
            });
        }
    }
}

/// A row's attention does not depend on the pass that it is in.
#[test]
fn attention_in_chunks_gives_the_same_bits() {
    let Some(b) = card() else { return };
    let (heads, kv_heads, head_dim, length) = (9, 3, 64, 1100);
    let [q, k, v] = [("q", heads), ("k", kv_heads), ("v", kv_heads)]
        .map(|(name, heads)| random(name, length * heads * head_dim, 1.0));
    let shape = AttentionShape { heads, kv_heads, head_dim, window: None };
    let pages: Vec<u32> = (0..length.div_ceil(PAGE) as u32).collect();
    let run = |chunk: usize| {
        let cache = CacheShape {
            layers: 1,
            kv_heads,
            head_dim,
            pages: pages.len(),
            weight_type: WeightType::F32,
        };
        let mut cache = b.cache(cache).unwrap();
        let mut found = vec![];
        for position in (0..length).step_by(chunk) {
            let rows = chunk.min(length - position);
            let part = |values: &[f32], heads: usize| {
                let width = heads * head_dim;
                b.upload(&values[position * width..][..rows * width]).unwrap()
            };
            let plan = b.plan(&[Segment { rows, position, pages: pages.clone() }]).unwrap();
            b.store(&part(&k, kv_heads), &part(&v, kv_heads), 0, &plan, &mut cache);
            let mut y = poisoned(b, rows * heads * head_dim);
            b.attend(&part(&q, heads), shape, 0, &plan, &cache, &mut y);
            found.extend(all(b, &y));
        }
        found
    };
    let whole = run(length);
    for chunk in [1, 7, 100, 512, 513] {
        assert!(run(chunk) == whole, "chunks of {chunk}");
    }
}

#[test]
fn attention_in_training() {
    for (heads, kv_heads, head_dim) in SHAPES {
        for window in [None, Some(1), Some(23), Some(150)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            attention_of(shape, card(), 2e-5);
            attention_of(shape, rounding_card(), 2e-2);
        }
    }
}

fn attention_of(shape: AttentionShape, card: Option<&'static Cuda>, bound: f64) {
    let AttentionShape { heads, kv_heads, head_dim, window } = shape;
    let lengths = [1, 300, 31, 65];
    let rows: usize = lengths.iter().sum();
    let segments = lengths.map(|rows| Segment { rows, position: 0, pages: Vec::new() });
    check!(card, bound, b => {
        let plan = b.plan(&segments).unwrap();
        let numbers = |name: &str, heads: usize| {
            b.upload(&random(name, rows * heads * head_dim, 1.0)).unwrap()
        };
        let [queries, dy] = ["q", "dy"].map(|name| numbers(name, heads));
        let [keys, values] = ["k", "v"].map(|name| numbers(name, kv_heads));
        // With a row's own key alone, these are 0 but for rounding.
        let near = |x: Vec<f32>| match window {
            Some(1) => x.into_iter().map(|x| x + 1.0).collect(),
            _ => x,
        };
        let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
        let (mut y, mut log_sums) = (poisoned(b, wide), poisoned(b, rows * heads));
        b.attention(&queries, &keys, &values, shape, &plan, &mut y, &mut log_sums);
        let mut dqueries = poisoned(b, wide);
        let [mut dkeys, mut dvalues] = [poisoned(b, narrow), poisoned(b, narrow)];
        let saved = AttentionSaved {
            queries: &queries, keys: &keys, values: &values, y: &y, log_sums: &log_sums,
        };
        let gradients = AttentionGradients {
            dqueries: &mut dqueries, dkeys: &mut dkeys, dvalues: &mut dvalues,
        };
        b.attention_backward(&dy, saved, shape, &plan, gradients);
        vec![
            (format!("attention {heads} {kv_heads} {head_dim} {window:?}"), all(b, &y)),
            ("log_sums".into(), all(b, &log_sums)),
            ("dqueries".into(), near(all(b, &dqueries))),
            ("dkeys".into(), near(all(b, &dkeys))),
            ("dvalues".into(), all(b, &dvalues)),
        ]
    });
}
