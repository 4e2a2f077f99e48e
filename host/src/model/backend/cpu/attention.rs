//! The paged key and value cache, and attention over it.
//!
//! Keys and values are f32. Where weights are bf16 and the processor multiplies bf16 in tile
//! registers, they are rounded to bf16, too, and so are queries and attention's weights: that takes
//! half the memory and a fraction of the time.

use super::CpuPlan;
use super::pages::Pages;
use super::simd::{Isa, Shared};
use super::threads::parallel;
#[cfg(target_arch = "x86_64")]
use crate::model::backend::WeightType;
use crate::model::backend::{AttentionShape, CacheShape, PAGE, Segment};

mod exact;
#[cfg(target_arch = "x86_64")]
mod narrow;
#[cfg(test)]
mod tests;

/// Rows that one task takes.
const ROWS: usize = 16;

/// Keys and values of all blocks, in pages.
pub struct Cache {
    shape: CacheShape,
    numbers: Numbers,
}

/// What the pages of a cache hold: `[layers, kv_heads, pages]` of each head's keys and values.
enum Numbers {
    /// Of keys `[width, PAGE]`, of values `[PAGE, width]`, with a head's width padded to whole
    /// vectors: both products then run along memory.
    Exact { width: usize, keys: Pages<f32>, values: Pages<f32> },
    /// As [`narrow::Widths`] says.
    #[cfg(target_arch = "x86_64")]
    Narrow { widths: narrow::Widths, keys: Pages<u32>, values: Pages<u32> },
}

impl Cache {
    pub(super) fn new(isa: Isa, shape: CacheShape) -> Cache {
        let pages = shape.layers * shape.kv_heads * shape.pages;
        #[cfg(target_arch = "x86_64")]
        if is_narrow(isa, shape) {
            let widths = narrow::Widths::of(shape.head_dim);
            let keys = Pages::apart(pages * widths.key_words());
            let values = Pages::apart(pages * widths.value_words());
            return Cache { shape, numbers: Numbers::Narrow { widths, keys, values } };
        }
        let width = exact::width(shape.head_dim);
        let len = pages * width * PAGE;
        let (keys, values) = (Pages::apart(len), Pages::apart(len));
        Cache { shape, numbers: Numbers::Exact { width, keys, values } }
    }

    /// Returns how many bytes a cache takes once its pages are written; until then the system gives
    /// it none.
    pub(super) fn bytes(isa: Isa, shape: CacheShape) -> usize {
        let pages = shape.layers * shape.kv_heads * shape.pages;
        #[cfg(target_arch = "x86_64")]
        if is_narrow(isa, shape) {
            let widths = narrow::Widths::of(shape.head_dim);
            return size_of::<u32>() * pages * (widths.key_words() + widths.value_words());
        }
        2 * size_of::<f32>() * pages * exact::width(shape.head_dim) * PAGE
    }

    /// Returns which page of all blocks and heads is the first of a block's head.
    fn first_page(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * self.shape.pages
    }
}

/// Says whether keys and values are rounded to bf16.
#[cfg(target_arch = "x86_64")]
fn is_narrow(isa: Isa, shape: CacheShape) -> bool {
    isa.has_tiles() && shape.weight_type == WeightType::Bf16
}

/// Writes a key and a value into a slot of a page.
type WriteSlot<'a> = dyn Fn(usize, usize, &[f32], &[f32]) + Sync + 'a;

/// Writes keys and values `[rows, kv_heads, head_dim]` of one block into their pages.
pub(super) fn store(keys: &[f32], values: &[f32], layer: usize, plan: &CpuPlan, cache: &mut Cache) {
    let first_page = cache.first_page(layer, 0);
    let CacheShape { kv_heads, head_dim, pages, .. } = cache.shape;
    let segments: Vec<&[Rows]> = plan.rows.chunk_by(|a, b| a.segment == b.segment).collect();
    // Calls `write` with the page, slot, key and value of each row and head. No two segments write into
    // one page, and a segment's rows are written by one thread.
    let each = |write: &WriteSlot<'_>| {
        parallel(segments.len() * kv_heads, |task| {
            let (rows, head) = (segments[task / kv_heads], task % kv_heads);
            let segment = &plan.segments[rows[0].segment];
            for row in 0..segment.rows {
                let from = ((rows[0].first + row) * kv_heads + head) * head_dim;
                let position = segment.position + row;
                let page = first_page + head * pages + segment.pages[position / PAGE] as usize;
                let (key, value) = (&keys[from..from + head_dim], &values[from..from + head_dim]);
                write(page, position % PAGE, key, value);
            }
        });
    };
    let part = |page: usize, len: usize| page * len..(page + 1) * len;
    match &mut cache.numbers {
        Numbers::Exact { width, keys, values } => {
            let len = *width * PAGE;
            let (keys, values) = (Shared::new(keys), Shared::new(values));
            each(&|page, slot, key, value| {
                // SAFETY: the cache has the page, and no other thread uses it now.
                let [keys, values] =
                    [&keys, &values].map(|all| unsafe { all.part(part(page, len)) });
                exact::store(key, value, slot, keys, values);
            });
        }
        #[cfg(target_arch = "x86_64")]
        Numbers::Narrow { widths, keys, values } => {
            let (key_words, value_words) = (widths.key_words(), widths.value_words());
            let (keys, values) = (Shared::new(keys), Shared::new(values));
            each(&|page, slot, key, value| {
                // SAFETY: as above; `is_narrow` asked for the tile registers.
                unsafe {
                    let keys = keys.part(part(page, key_words));
                    let values = values.part(part(page, value_words));
                    narrow::store(key, value, slot, keys, values);
                }
            });
        }
    }
}

/// Some rows of a segment, for one task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// Place of the segment in the plan.
    segment: usize,
    /// The first row, counted from the pass's first.
    first: usize,
    /// Its position in its sequence.
    position: usize,
    count: usize,
}

impl Rows {
    /// Cuts the segments of a plan.
    pub(super) fn cut(segments: &[Segment]) -> Vec<Rows> {
        let mut all = vec![];
        let mut first = 0;
        for (segment, Segment { rows, position, .. }) in segments.iter().enumerate() {
            for start in (0..*rows).step_by(ROWS) {
                let (first, position) = (first + start, position + start);
                all.push(Rows { segment, first, position, count: ROWS.min(rows - start) });
            }
            first += rows;
        }
        all
    }
}

/// Causal attention of each row over its sequence; see
/// [`Backend::attend`](crate::model::backend::Backend::attend).
pub(super) fn attend(
    isa: Isa,
    queries: &[f32],
    shape: AttentionShape,
    layer: usize,
    plan: &CpuPlan,
    cache: &Cache,
    y: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    assert_eq!((kv_heads, head_dim), (cache.shape.kv_heads, cache.shape.head_dim));
    let len = plan.positions.len() * heads * head_dim;
    let (queries, y) = (&queries[..len], Shared::new(&mut y[..len]));
    match &cache.numbers {
        Numbers::Exact { width, keys, values } => {
            parallel(plan.rows.len() * kv_heads, |task| {
                // Longest first, as the last rows of a pass have the most to attend to.
                let rows = plan.rows[plan.rows.len() - 1 - task / kv_heads];
                let head = task % kv_heads;
                let page = cache.first_page(layer, head) * width * PAGE;
                isa.run(exact::Attend {
                    queries,
                    shape,
                    group: heads / kv_heads,
                    head,
                    rows,
                    pages: &plan.segments[rows.segment].pages,
                    width: *width,
                    keys: &keys[page..],
                    values: &values[page..],
                    y: y.get(),
                });
            });
        }
        #[cfg(target_arch = "x86_64")]
        Numbers::Narrow { widths, keys, values } => {
            let teams = narrow::teams(&plan.rows, &plan.segments, heads / kv_heads);
            parallel(teams.len() * kv_heads, |task| {
                let head = task % kv_heads;
                let page = cache.first_page(layer, head);
                let attend = narrow::Attend {
                    queries,
                    shape,
                    head,
                    widths: *widths,
                    keys: &keys[page * widths.key_words()..],
                    values: &values[page * widths.value_words()..],
                    y: y.get(),
                };
                // SAFETY: `is_narrow` asked for the tile registers; each row is in one team.
                unsafe { attend.run(&teams[teams.len() - 1 - task / kv_heads]) };
            });
        }
    }
}
