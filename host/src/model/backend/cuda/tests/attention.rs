//! Attention against the processor's, over the cache and in training.

use super::{all, card, check, compare, poisoned, random, rounding_card};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::cuda::Cuda;
use crate::model::backend::training::{AttentionGradients, AttentionSaved, TrainingBackend};
use crate::model::backend::{AttentionShape, Backend, CacheShape, PAGE, Segment, WeightType};

const SHAPES: [(usize, usize, usize); 6] =
    [(4, 2, 12), (9, 3, 64), (7, 1, 16), (4, 4, 10), (12, 2, 128), (40, 1, 32)];

/// Numbers that bf16 has, where weights are of that type.
fn cached(name: &str, len: usize, weight_type: WeightType) -> Vec<f32> {
    let values = random(name, len, 1.0);
    match weight_type {
        WeightType::F32 => values,
        _ => values.into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect(),
    }
}

#[test]
fn attention_over_the_cache() {
    let Some(card) = card() else { return };
    for (heads, kv_heads, head_dim) in SHAPES {
        for window in [None, Some(1), Some(23), Some(700)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            for weight_type in [WeightType::F32, WeightType::Bf16] {
                // What the cache holds is no other for being in bf16, and all else is f32.
                let wanted = over_the_cache(&Cpu::new(), shape, WeightType::F32, weight_type);
                let found = over_the_cache(card, shape, weight_type, weight_type);
                for (wanted, found) in wanted.iter().zip(&found) {
                    let what =
                        format!("attend {weight_type} {heads} {kv_heads} {head_dim} {window:?}");
                    compare(&what, found, wanted, 1e-5);
                }
            }
        }
    }
}

/// Attends over a cache for weights of a type, with keys and values that another type has.
fn over_the_cache<B: Backend>(
    b: &B,
    shape: AttentionShape,
    weight_type: WeightType,
    values: WeightType,
) -> Vec<Vec<f32>> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    // A long prompt and two short ones beside it, and single rows after them. Of the long one rows attend where
    // their positions come to be in a second chunk, and in the third.
    let lengths = [1200, 40, 17];
    let mut next = 0;
    let pages = lengths.map(|length: usize| {
        let count = (length + 1).div_ceil(PAGE) as u32;
        next += count;
        (next - count..next).rev().collect::<Vec<_>>()
    });
    let segment = |i: usize, position, rows| Segment { rows, position, pages: pages[i].clone() };
    let passes = [
        (false, vec![segment(0, 0, 480)]),
        (true, vec![segment(0, 480, 60), segment(1, 0, 40)]),
        (false, vec![segment(0, 540, 560)]),
        (true, vec![segment(2, 0, 17), segment(0, 1100, 100)]),
        (true, vec![segment(0, 1200, 1), segment(1, 40, 1), segment(2, 17, 1)]),
    ];
    let cache = CacheShape { layers: 2, kv_heads, head_dim, pages: next as usize, weight_type };
    let mut cache = b.cache(cache).unwrap();
    let pass = |(i, (attends, segments)): (usize, &(bool, Vec<Segment>))| {
        let rows: usize = segments.iter().map(|segment| segment.rows).sum();
        let plan = b.plan(segments).unwrap();
        let q = b.upload(&random(&format!("q {i}"), rows * heads * head_dim, 1.0)).unwrap();
        let [k, v] = ["k", "v"].map(|name| {
            let name = format!("{name} {i}");
            b.upload(&cached(&name, rows * kv_heads * head_dim, values)).unwrap()
        });
        b.store(&k, &v, 1, &plan, &mut cache);
        if !attends {
            return None;
        }
        let mut y = poisoned(b, rows * heads * head_dim);
        b.attend(&q, shape, 1, &plan, &cache, &mut y);
        Some(all(b, &y))
    };
    passes.iter().enumerate().filter_map(pass).collect()
}

/// Keys and values in bf16 are rounded to the nearest, and take half the bytes.
#[test]
fn a_cache_in_bf16_holds_what_is_rounded() {
    let Some(card) = card() else { return };
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 64, window: Some(1) };
    let cache =
        |weight_type| CacheShape { layers: 1, kv_heads: 1, head_dim: 64, pages: 2, weight_type };
    let [wide, narrow] =
        [WeightType::F32, WeightType::Bf16].map(|weight_type| card.cache_bytes(cache(weight_type)));
    assert_eq!((wide, narrow), (2 * 4 * 64 * 2 * PAGE, 2 * 2 * 64 * 2 * PAGE));
    let values = random("values", 20 * 64, 1.0);
    let x = card.upload(&values).unwrap();
    let plan = card.plan(&[Segment { rows: 20, position: 0, pages: vec![1, 0] }]).unwrap();
    let mut cache = card.cache(cache(WeightType::Bf16)).unwrap();
    card.store(&x, &x, 0, &plan, &mut cache);
    let mut y = poisoned(card, 20 * 64);
    card.attend(&x, shape, 0, &plan, &cache, &mut y);
    // A row that sees itself alone gets its own value.
    let rounded: Vec<f32> = values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    assert!(all(card, &y) == rounded);
}

/// A row's attention does not depend on the pass that it is in.
#[test]
fn attention_in_chunks_gives_the_same_bits() {
    let Some(b) = card() else { return };
    for weight_type in [WeightType::F32, WeightType::Bf16] {
        in_chunks(b, weight_type);
    }
}

fn in_chunks(b: &Cuda, weight_type: WeightType) {
    let (heads, kv_heads, head_dim, length) = (3, 1, 64, 1100);
    let [q, k, v] = [("q", heads), ("k", kv_heads), ("v", kv_heads)]
        .map(|(name, heads)| random(name, length * heads * head_dim, 1.0));
    let shape = AttentionShape { heads, kv_heads, head_dim, window: None };
    let pages: Vec<u32> = (0..length.div_ceil(PAGE) as u32).collect();
    let run = |chunk: usize| {
        let cache = CacheShape { layers: 1, kv_heads, head_dim, pages: pages.len(), weight_type };
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
