//! The paged key and value cache, and attention over it.
//!
//! Within a page and head, keys are stored as `[head_dim, PAGE]` and values as `[PAGE, head_dim]`:
//! both products then run along memory.

use super::CpuPlan;
use super::gemm::parallel;
use super::simd::Shared;
use crate::model::backend::{CacheShape, PAGE};

/// Keys and values of all blocks, in pages.
pub struct Cache {
    shape: CacheShape,
    /// `[layers, kv_heads, pages, head_dim, PAGE]`
    keys: Vec<f32>,
    /// `[layers, kv_heads, pages, PAGE, head_dim]`
    values: Vec<f32>,
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Cache {
        let len = shape.layers * shape.kv_heads * shape.pages * shape.head_dim * PAGE;
        Cache { shape, keys: vec![0.0; len], values: vec![0.0; len] }
    }

    /// Returns where a page of a block's head begins, in either array.
    #[inline(always)]
    fn offset(&self, layer: usize, head: usize, page: u32) -> usize {
        let CacheShape { kv_heads, head_dim, pages, .. } = self.shape;
        ((layer * kv_heads + head) * pages + page as usize) * head_dim * PAGE
    }
}

/// Writes keys and values `[rows, kv_heads, head_dim]` of one block into their pages.
pub(super) fn store(keys: &[f32], values: &[f32], layer: usize, plan: &CpuPlan, cache: &mut Cache) {
    let CacheShape { kv_heads, head_dim, .. } = cache.shape;
    let mut row = 0;
    for segment in &plan.segments {
        for position in segment.position..segment.position + segment.rows {
            let (page, slot) = (segment.pages[position / PAGE], position % PAGE);
            for head in 0..kv_heads {
                let offset = cache.offset(layer, head, page);
                let from = (row * kv_heads + head) * head_dim;
                for (i, &key) in keys[from..from + head_dim].iter().enumerate() {
                    cache.keys[offset + i * PAGE + slot] = key;
                }
                cache.values[offset + slot * head_dim..][..head_dim]
                    .copy_from_slice(&values[from..from + head_dim]);
            }
            row += 1;
        }
    }
}

/// Causal attention of each row over its sequence, up to its own position.
pub(super) fn attend(
    queries: &[f32],
    heads: usize,
    layer: usize,
    plan: &CpuPlan,
    cache: &Cache,
    y: &mut [f32],
) {
    let CacheShape { kv_heads, head_dim, .. } = cache.shape;
    let group = heads / kv_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let rows = plan.positions.len();
    let y = Shared::new(&mut y[..rows * heads * head_dim]);
    parallel(rows, |row| {
        let segment = &plan.segments[plan.row_segments[row] as usize];
        let length = plan.positions[row] as usize + 1;
        for head in 0..heads {
            let at = (row * heads + head) * head_dim;
            let query = &queries[at..at + head_dim];
            let page = |p: usize| cache.offset(layer, head / group, segment.pages[p / PAGE]);
            let mut scores: Vec<f32> = (0..length)
                .map(|p| {
                    let keys = &cache.keys[page(p) + p % PAGE..];
                    let dot =
                        query.iter().enumerate().fold(0.0, |s, (i, q)| s + q * keys[i * PAGE]);
                    dot * scale
                })
                .collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let sum: f32 = scores.iter().sum();
            // SAFETY: each task writes one row of `y`.
            let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(at), head_dim) };
            y.fill(0.0);
            for (p, score) in scores.iter().enumerate() {
                let values = &cache.values[page(p) + p % PAGE * head_dim..][..head_dim];
                for (y, value) in y.iter_mut().zip(values) {
                    *y += score / sum * value;
                }
            }
        }
    });
}
