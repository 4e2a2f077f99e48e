//! Attention against the processor's, over the cache and in training.

use super::{all, card, check, compare, poisoned, random, rounding_card};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::cuda::Cuda;
use crate::model::backend::training::{AttentionGradients, AttentionSaved, TrainingBackend};
use crate::model::backend::{
    AttentionShape, Backend, CacheShape, PAGE, Room, Segment, WeightType, Write,
};

const SHAPES: [(usize, usize, usize); 8] = [
    (4, 2, 12),
    (9, 3, 64),
    (2, 2, 64),
    (7, 1, 16),
    (4, 4, 10),
    (12, 2, 128),
    (40, 1, 32),
    // More query heads of one key head than blocks of the tensor cores take.
    (130, 1, 64),
];

/// What a layer reads, as wide as the device keeps it.
fn operands<B: TrainingBackend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut y = backend.make_room(Room::Operands(values.len())).unwrap();
    let values = backend.upload(values).unwrap();
    backend.add_scaled(&values, 1.0, backend.len(&values), &mut y, Write::Set);
    y
}

/// The same where every number must be overwritten.
fn poisoned_operands<B: TrainingBackend>(backend: &B, len: usize) -> B::Buffer {
    operands(backend, &vec![f32::NAN; len])
}

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
    let (Some(card), Some(rounding)) = (card(), rounding_card()) else { return };
    for (heads, kv_heads, head_dim) in SHAPES {
        for window in [None, Some(1), Some(23), Some(700)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            let check = |card: &Cuda, weight_type, wanted: &[Vec<f32>], bound| {
                let found = over_the_cache(card, shape, weight_type, weight_type);
                for (wanted, found) in wanted.iter().zip(&found) {
                    let what =
                        format!("attend {weight_type} {heads} {kv_heads} {head_dim} {window:?}");
                    compare(&what, found, wanted, bound);
                }
            };
            let wanted = |values| over_the_cache(&Cpu::new(), shape, WeightType::F32, values);
            check(card, WeightType::F32, &wanted(WeightType::F32), 1e-5);
            // What the cache holds is no other for being in bf16, and all else is f32 but for tensor cores.
            let wanted = wanted(WeightType::Bf16);
            check(card, WeightType::Bf16, &wanted, 1e-5);
            // What it comes to is an operand there, and so bf16.
            check(rounding, WeightType::Bf16, &wanted, 1e-2);
        }
    }
}

/// Attends over a cache for weights of a type, with keys and values that another type has.
fn over_the_cache<B: TrainingBackend>(
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
    let segment = |i: usize, position, rows| Segment::cached(rows, position, pages[i].clone());
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
        let mut y = poisoned_operands(b, rows * heads * head_dim);
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
    let plan = card.plan(&[Segment::cached(20, 0, vec![1, 0])]).unwrap();
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
    let (Some(card), Some(rounding)) = (card(), rounding_card()) else { return };
    in_chunks(card, WeightType::F32, 64);
    in_chunks(card, WeightType::Bf16, 64);
    in_chunks(rounding, WeightType::Bf16, 64);
    in_chunks(rounding, WeightType::Bf16, 128);
}

fn in_chunks(b: &Cuda, weight_type: WeightType, head_dim: usize) {
    let (heads, kv_heads, length) = (3, 1, 1100);
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
            let plan = b.plan(&[Segment::cached(rows, position, pages.clone())]).unwrap();
            b.store(&part(&k, kv_heads), &part(&v, kv_heads), 0, &plan, &mut cache);
            let mut y = poisoned_operands(b, rows * heads * head_dim);
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

/// Rows whose sequences begin with the same pages get what the processor computes, and the bits that they get alone.
#[test]
fn attention_over_pages_that_are_shared() {
    let (Some(card), Some(rounding)) = (card(), rounding_card()) else { return };
    for (heads, kv_heads, head_dim) in [(12, 2, 128), (9, 3, 64), (40, 1, 64), (4, 4, 12)] {
        for window in [None, Some(300)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, window };
            let what = format!("attend shared {heads} {kv_heads} {head_dim} {window:?}");
            let wanted = over_shared(&Cpu::new(), shape, WeightType::F32, false);
            for (card, bound) in [(card, 1e-5), (rounding, 1e-2)] {
                let found = over_shared(card, shape, WeightType::Bf16, false);
                compare(&what, &found.concat(), &wanted.concat(), bound);
                let alone = over_shared(card, shape, WeightType::Bf16, true);
                for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
                    assert!(found == alone, "{what}: segment {i}");
                }
            }
        }
    }
}

/// Attends with sequences that begin with the same pages, all in one pass or each in its own; returns what each gets.
fn over_shared<B: TrainingBackend>(
    b: &B,
    shape: AttentionShape,
    weight_type: WeightType,
    alone: bool,
) -> Vec<Vec<f32>> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    // How many pages of the first sequence others have too, where they go on, and with how many rows.
    let others: [(usize, usize); 9] =
        [(33, 1), (33, 1), (33, 1), (33, 30), (33, 2), (33, 1), (16, 40), (20, 1), (0, 50)];
    let first: Vec<u32> = (0..33).rev().collect();
    let mut next = first.len() as u32;
    let mut segments = vec![Segment::cached(33 * PAGE, 0, first.clone())];
    for (common, rows) in others.into_iter().chain([(33, 1); 14]) {
        let own = rows.div_ceil(PAGE) as u32;
        let pages = first[..common].iter().copied().chain(next..next + own).collect();
        next += own;
        segments.push(Segment::cached(rows, common * PAGE, pages));
    }
    let cache = CacheShape { layers: 1, kv_heads, head_dim, pages: next as usize, weight_type };
    let mut cache = b.cache(cache).unwrap();
    let numbers = |i: usize, name: &str, heads: usize| {
        cached(&format!("{name} {i}"), segments[i].rows * heads * head_dim, WeightType::Bf16)
    };
    let mut pass = |which: std::ops::Range<usize>| {
        let plan = b.plan(&segments[which.clone()]).unwrap();
        let [q, k, v] = [("q", heads), ("k", kv_heads), ("v", kv_heads)].map(|(name, heads)| {
            let each: Vec<Vec<f32>> = which.clone().map(|i| numbers(i, name, heads)).collect();
            b.upload(&each.concat()).unwrap()
        });
        b.store(&k, &v, 0, &plan, &mut cache);
        let rows: usize = segments[which.clone()].iter().map(|segment| segment.rows).sum();
        let mut y = poisoned_operands(b, rows * heads * head_dim);
        b.attend(&q, shape, 0, &plan, &cache, &mut y);
        let mut y = all(b, &y);
        let each = |i: usize| y.drain(..segments[i].rows * heads * head_dim).collect::<Vec<f32>>();
        which.map(each).collect::<Vec<_>>()
    };
    let mut found = pass(0..1);
    match alone {
        true => (1..segments.len()).for_each(|i| found.extend(pass(i..i + 1))),
        false => found.extend(pass(1..segments.len())),
    }
    found
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
    // Some branch off another after so many of its rows: two off the second, one off all of the third.
    let parts = [
        (1, None),
        (300, None),
        (150, Some((1, 130))),
        (70, Some((1, 3))),
        (31, None),
        (65, Some((301 + 220, 31))),
    ];
    let rows: usize = parts.iter().map(|&(rows, _)| rows).sum();
    let segments = parts.map(|(rows, branch)| Segment {
        rows,
        position: branch.map_or(0, |(_, position)| position),
        pages: Vec::new(),
        stem: branch.map(|(stem, _)| stem),
    });
    check!(card, bound, b => {
        let plan = b.plan(&segments).unwrap();
        let numbers =
            |name: &str, heads: usize| operands(b, &random(name, rows * heads * head_dim, 1.0));
        let [queries, dy] = ["q", "dy"].map(|name| numbers(name, heads));
        let [keys, values] = ["k", "v"].map(|name| numbers(name, kv_heads));
        // With a row's own key alone, these are 0 but for rounding.
        let near = |x: Vec<f32>| match window {
            Some(1) => x.into_iter().map(|x| x + 1.0).collect(),
            _ => x,
        };
        let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
        let (mut y, mut log_sums) = (poisoned_operands(b, wide), poisoned(b, rows * heads));
        b.attention(&queries, &keys, &values, shape, &plan, &mut y, &mut log_sums);
        let mut dqueries = poisoned_operands(b, wide);
        let [mut dkeys, mut dvalues] = [poisoned_operands(b, narrow), poisoned_operands(b, narrow)];
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
