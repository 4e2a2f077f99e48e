//! Attention over the cache against sums in f64.

use crate::model::backend::cpu::{Cpu, Isa};
use crate::model::backend::{AttentionShape, Backend, CacheShape, PAGE, Segment, WeightType};
use crate::model::tiny::normal;

const SHAPES: [AttentionShape; 4] = [
    AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, window: None },
    AttentionShape { heads: 4, kv_heads: 4, head_dim: 80, window: Some(150) },
    AttentionShape { heads: 14, kv_heads: 2, head_dim: 16, window: None },
    AttentionShape { heads: 20, kv_heads: 1, head_dim: 128, window: Some(40) },
];

/// Sequences, of which some share their first pages, and what is known of them.
struct Case {
    shape: AttentionShape,
    weight_type: WeightType,
    /// Each sequence's pages.
    pages: Vec<Vec<u32>>,
    /// Keys and values of each position of each page, `[kv_heads, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    /// Four sequences of 330 positions: the first two share 256 positions with each other, and 128
    /// with the third.
    fn new(shape: AttentionShape, weight_type: WeightType) -> Case {
        let own = |sequence: u32| (sequence * 21..sequence * 21 + 21).collect::<Vec<u32>>();
        let mut pages: Vec<Vec<u32>> = (0..4).map(own).collect();
        let first = pages[0].clone();
        pages[1][..16].copy_from_slice(&first[..16]);
        pages[2][..8].copy_from_slice(&first[..8]);
        let len = 84 * PAGE * shape.kv_heads * shape.head_dim;
        Case { shape, weight_type, pages, keys: normal(1, len, 1.0), values: normal(2, len, 1.0) }
    }

    fn places(&self, segment: &Segment) -> Vec<usize> {
        let positions = segment.position..segment.position + segment.rows;
        positions.map(|p| segment.pages[p / PAGE] as usize * PAGE + p % PAGE).collect()
    }

    /// Attends with queries that each depend on sequence and position alone, after `dirty` was left in
    /// the cache by somebody else.
    fn attend(&self, isa: Isa, segments: &[(usize, usize, usize)], dirty: f32) -> Vec<f32> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let cpu = Cpu::from(isa);
        let weight_type = self.weight_type;
        let shape = CacheShape { layers: 2, kv_heads, head_dim, pages: 84, weight_type };
        let mut cache = cpu.cache(shape).unwrap();
        let width = kv_heads * head_dim;
        let before = |page: u32| Segment::cached(PAGE, 0, vec![page]);
        let before: Vec<Segment> = (0..84).map(before).collect();
        let dirty = cpu.upload(&vec![dirty; 84 * PAGE * width]).unwrap();
        cpu.store(&dirty, &dirty, 1, &cpu.plan(&before).unwrap(), &mut cache);
        for pages in &self.pages {
            // No more than the rows see.
            let end = segments.iter().map(|&(_, position, rows)| position + rows).max().unwrap();
            let segment = Segment::cached(end, 0, pages.clone());
            let rows = |from: &[f32]| {
                let places = self.places(&segment).into_iter();
                let rows = places.flat_map(|at| from[at * width..(at + 1) * width].to_vec());
                cpu.upload(&rows.collect::<Vec<f32>>()).unwrap()
            };
            let plan = cpu.plan(std::slice::from_ref(&segment)).unwrap();
            cpu.store(&rows(&self.keys), &rows(&self.values), 1, &plan, &mut cache);
        }
        let mut queries = vec![];
        for &(sequence, position, rows) in segments {
            for position in position..position + rows {
                queries.extend(self.query(sequence, position));
            }
        }
        let segment = |&(sequence, position, rows): &(usize, usize, usize)| {
            Segment::cached(rows, position, self.pages[sequence].clone())
        };
        let plan = cpu.plan(&segments.iter().map(segment).collect::<Vec<_>>()).unwrap();
        let mut y = cpu.upload(&vec![f32::NAN; queries.len()]).unwrap();
        let queries = cpu.upload(&queries).unwrap();
        cpu.attend(&queries, self.shape, 1, &plan, &cache, &mut y);
        assert_eq!(y.len() % (heads * head_dim), 0);
        y.to_vec()
    }

    fn query(&self, sequence: usize, position: usize) -> Vec<f32> {
        normal((sequence * 1000 + position) as u64, self.shape.heads * self.shape.head_dim, 1.0)
    }

    fn expected(&self, sequence: usize, position: usize) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let query = self.query(sequence, position);
        let first = self.shape.first_seen(position);
        let segment = Segment::cached(position + 1 - first, first, self.pages[sequence].clone());
        let places = self.places(&segment);
        let at = |place: usize, head: usize| (place * kv_heads + head) * head_dim;
        let mut y = vec![];
        for (head, query) in query.chunks_exact(head_dim).enumerate() {
            let head = head / (heads / kv_heads);
            let score = |&place: &usize| {
                let key = &self.keys[at(place, head)..][..head_dim];
                let products = query.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b));
                (products.sum::<f64>() / (head_dim as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = places.iter().map(score).collect();
            let sum: f64 = weights.iter().sum();
            y.extend((0..head_dim).map(|d| {
                let values =
                    places.iter().map(|&place| f64::from(self.values[at(place, head) + d]));
                values.zip(&weights).map(|(value, weight)| value * weight / sum).sum::<f64>()
            }));
        }
        y
    }
}

/// Rows that decode, rows that go through a prompt, and a lone one at the start.
const SEGMENTS: [(usize, usize, usize); 5] =
    [(0, 300, 1), (1, 311, 1), (2, 290, 2), (3, 100, 60), (3, 0, 1)];

#[test]
fn attention_is_that_of_the_formula() {
    for shape in SHAPES {
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let case = Case::new(shape, weight_type);
            for isa in Isa::all() {
                let got = case.attend(isa, &SEGMENTS, 0.0);
                let rows = SEGMENTS.iter().flat_map(|&(sequence, position, rows)| {
                    (position..position + rows).map(move |position| (sequence, position))
                });
                let width = shape.heads * shape.head_dim;
                let mut worst = 0f64;
                for ((sequence, position), got) in rows.zip(got.chunks_exact(width)) {
                    let want = case.expected(sequence, position);
                    for (got, want) in got.iter().zip(want) {
                        worst = worst.max((f64::from(*got) - want).abs());
                    }
                }
                // Values are about 1, and bf16 has eight bits.
                let narrow = isa.class(weight_type) == "amx-bf16";
                println!("{shape:?} {isa:?} {weight_type}: {worst:e}");
                assert!(worst < if narrow { 0.03 } else { 3e-6 }, "{isa:?} {worst:e}");
                assert_eq!(worst > 1e-4, narrow, "{isa:?} {worst:e}");
            }
        }
    }
}

#[test]
fn what_else_is_in_a_pass_changes_no_bit() {
    for shape in SHAPES {
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let case = Case::new(shape, weight_type);
            for isa in Isa::all() {
                let together = case.attend(isa, &SEGMENTS, 0.0);
                let mut alone = vec![];
                for &(sequence, position, rows) in &SEGMENTS {
                    for position in position..position + rows {
                        alone.extend(case.attend(isa, &[(sequence, position, 1)], 0.0));
                    }
                }
                assert!(together == alone, "{shape:?} {isa:?} {weight_type}");
            }
        }
    }
}

#[test]
fn what_an_earlier_sequence_left_in_a_page_is_not_seen() {
    for weight_type in [WeightType::F32, WeightType::Bf16] {
        let case = Case::new(SHAPES[0], weight_type);
        for isa in Isa::all() {
            let clean = case.attend(isa, &[(0, 300, 1), (1, 311, 1)], 0.0);
            for dirty in [f32::NAN, f32::INFINITY] {
                let got = case.attend(isa, &[(0, 300, 1), (1, 311, 1)], dirty);
                assert!(got == clean, "{isa:?} {weight_type} after {dirty}");
            }
        }
    }
}
