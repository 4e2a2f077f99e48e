//! The paged key and value cache, and attention over it.
//!
//! Within a page and head, keys are stored as `[D, PAGE]` and values as `[PAGE, D]`, with the head's
//! width `D` padded to whole vectors: both products then run along memory.
//!
//! A query vector goes over its sequence in blocks of [`BLOCK`] positions, counted from position 0,
//! and keeps a running maximum, sum and weighted sum of values. What it sees of a block depends on
//! its own position and the window only; that up to six vectors go together, and which, changes no
//! bit, as positions that a vector does not see weigh exactly nothing. Pages that none of them sees
//! are not read.

use super::CpuPlan;
use super::simd::{Isa, Kernel, Lanes, Shared, Sixteen, exp, sum8};
use super::threads::parallel;
use crate::model::backend::{AttentionShape, CacheShape, PAGE, Segment};

/// Positions between two looks at the running maximum; whole pairs of pages.
const BLOCK: usize = 128;
/// Query vectors in a tile.
const TILE: usize = 6;
/// Rows that one task takes.
const ROWS: usize = 16;
/// Padding of a head's width.
const WIDTH: usize = 16;

/// Keys and values of all blocks, in pages.
pub struct Cache {
    shape: CacheShape,
    /// Padded width of a head.
    width: usize,
    /// `[layers, kv_heads, pages, width, PAGE]`
    keys: Vec<f32>,
    /// `[layers, kv_heads, pages, PAGE, width]`
    values: Vec<f32>,
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Cache {
        let (width, len) = (width(shape), len(shape));
        Cache { shape, width, keys: vec![0.0; len], values: vec![0.0; len] }
    }

    /// Returns how many bytes a cache takes once its pages are written; until then the system gives
    /// it none.
    pub(super) fn bytes(shape: CacheShape) -> usize {
        2 * size_of::<f32>() * len(shape)
    }

    /// Returns where the pages of a block's head begin, in either array.
    fn offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * self.shape.pages * self.width * PAGE
    }
}

/// Returns the padded width of a head.
fn width(shape: CacheShape) -> usize {
    shape.head_dim.next_multiple_of(WIDTH)
}

/// Returns how many numbers keys, or values, take.
fn len(shape: CacheShape) -> usize {
    shape.layers * shape.kv_heads * shape.pages * width(shape) * PAGE
}

/// Writes keys and values `[rows, kv_heads, head_dim]` of one block into their pages.
pub(super) fn store(keys: &[f32], values: &[f32], layer: usize, plan: &CpuPlan, cache: &mut Cache) {
    let CacheShape { kv_heads, head_dim, .. } = cache.shape;
    let width = cache.width;
    for head in 0..kv_heads {
        let head_offset = cache.offset(layer, head);
        for (row, (&position, &segment)) in
            plan.positions.iter().zip(&plan.row_segments).enumerate()
        {
            let position = position as usize;
            let page = plan.segments[segment as usize].pages[position / PAGE] as usize;
            let (offset, slot) = (head_offset + page * width * PAGE, position % PAGE);
            let from = (row * kv_heads + head) * head_dim;
            let page_keys = cache.keys[offset..][..head_dim * PAGE].chunks_exact_mut(PAGE);
            for (keys, &key) in page_keys.zip(&keys[from..from + head_dim]) {
                keys[slot] = key;
            }
            cache.values[offset + slot * width..][..head_dim]
                .copy_from_slice(&values[from..from + head_dim]);
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
    parallel(plan.rows.len() * kv_heads, |task| {
        // Longest first, as the last rows of a pass have the most to attend to.
        let rows = plan.rows[plan.rows.len() - 1 - task / kv_heads];
        let head = task % kv_heads;
        isa.run(Attend {
            queries,
            shape,
            group: heads / kv_heads,
            head,
            rows,
            pages: &plan.segments[rows.segment].pages,
            width: cache.width,
            keys: &cache.keys[cache.offset(layer, head)..],
            values: &cache.values[cache.offset(layer, head)..],
            y: y.get(),
        });
    });
}

/// The query vectors of some rows that attend to one key and value head.
struct Attend<'a> {
    queries: &'a [f32],
    shape: AttentionShape,
    /// Query heads that attend to the head.
    group: usize,
    head: usize,
    rows: Rows,
    pages: &'a [u32],
    width: usize,
    keys: &'a [f32],
    values: &'a [f32],
    /// As long as `queries`; only this task's rows and heads are written.
    y: *mut f32,
}

/// What a tile of query vectors knows so far.
struct Tile {
    /// The first position that each vector sees.
    starts: [usize; TILE],
    /// The position after the last that it sees.
    limits: [usize; TILE],
    /// The vectors, scaled: `[head_dim, N]`.
    queries: Vec<f32>,
    /// Scores of a block, then their weights.
    scores: [[f32; BLOCK]; TILE],
    max: [f32; TILE],
    sum: [f32; TILE],
    /// Sums of values, `[N, width]`.
    values: Vec<f32>,
}

/// What a tile sees of a block.
#[derive(Clone, Copy)]
struct Seen {
    /// Where the block starts in the sequence.
    start: usize,
    /// The first position, counted from `start`; whole pages.
    from: usize,
    /// The position after the last, counted from `start`.
    to: usize,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut tile = Tile {
            starts: [0; TILE],
            limits: [0; TILE],
            queries: vec![0.0; self.shape.head_dim * TILE],
            scores: [[0.0; BLOCK]; TILE],
            max: [0.0; TILE],
            sum: [0.0; TILE],
            values: vec![0.0; self.width * TILE],
        };
        let vectors = self.rows.count * self.group;
        let tiles = vectors.div_ceil(TILE);
        for i in 0..tiles {
            let (first, end) = (i * vectors / tiles, (i + 1) * vectors / tiles);
            match end - first {
                6 => self.tile::<L, 6>(first, &mut tile),
                5 => self.tile::<L, 5>(first, &mut tile),
                4 => self.tile::<L, 4>(first, &mut tile),
                3 => self.tile::<L, 3>(first, &mut tile),
                2 => self.tile::<L, 2>(first, &mut tile),
                _ => self.tile::<L, 1>(first, &mut tile),
            }
        }
    }
}

impl Attend<'_> {
    /// Returns where a vector begins in `queries` and `y`.
    #[inline(always)]
    fn at(&self, vector: usize) -> usize {
        let (row, head) = (vector / self.group, self.head * self.group + vector % self.group);
        ((self.rows.first + row) * self.shape.heads + head) * self.shape.head_dim
    }

    /// Does `N` vectors from the first to the last position that one of them sees.
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&self, first: usize, tile: &mut Tile) {
        let head_dim = self.shape.head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        for i in 0..N {
            let query = &self.queries[self.at(first + i)..][..head_dim];
            for (d, &query) in query.iter().enumerate() {
                tile.queries[d * N + i] = query * scale;
            }
            let position = self.rows.position + (first + i) / self.group;
            tile.starts[i] = self.shape.first_seen(position);
            tile.limits[i] = position + 1;
        }
        tile.values[..N * self.width].fill(0.0);
        tile.max = [f32::NEG_INFINITY; TILE];
        tile.sum = [0.0; TILE];
        // Positions ascend with the vectors, so the first vector's window begins first.
        let (begin, end) = (tile.starts[0], tile.limits[N - 1]);
        for start in (begin / BLOCK * BLOCK..end).step_by(BLOCK) {
            let seen = Seen {
                start,
                from: begin.saturating_sub(start) / PAGE * PAGE,
                to: BLOCK.min(end - start),
            };
            // SAFETY: the caller runs under `Isa::run`; the sequence has pages up to `end`.
            unsafe {
                self.score::<L, N>(seen, tile);
                let factors = self.weigh::<L, N>(seen, tile);
                self.add_values::<L, N>(seen, factors, tile);
            }
        }
        for i in 0..N {
            let at = self.at(first + i);
            // SAFETY: the vector's place in `y` is this task's alone.
            let y = unsafe { std::slice::from_raw_parts_mut(self.y.add(at), head_dim) };
            let inverse = 1.0 / tile.sum[i];
            for (y, &value) in y.iter_mut().zip(&tile.values[i * self.width..]) {
                *y = value * inverse;
            }
        }
    }

    /// Sets the scores of a block.
    ///
    /// # Safety
    ///
    /// The machine has the lanes, and the sequence has pages for the positions.
    #[inline(always)]
    unsafe fn score<L: Lanes, const N: usize>(&self, seen: Seen, tile: &mut Tile) {
        let pages = &self.pages[seen.start / PAGE..(seen.start + seen.to).div_ceil(PAGE)];
        let keys = |page: usize| self.keys[pages[page] as usize * self.width * PAGE..].as_ptr();
        let mut page = seen.from / PAGE;
        // Few vectors take several pages at a time: one would leave the adders waiting.
        // SAFETY: pages are whole, and there are at most `BLOCK / PAGE`.
        unsafe {
            while N <= 3 && L::Sixteen::MANY && page + 4 <= pages.len() {
                let four = [keys(page), keys(page + 1), keys(page + 2), keys(page + 3)];
                self.score_pages::<L, N, 4>(four, page * PAGE, tile);
                page += 4;
            }
            while (N <= 3 || L::Sixteen::MANY) && page + 2 <= pages.len() {
                self.score_pages::<L, N, 2>([keys(page), keys(page + 1)], page * PAGE, tile);
                page += 2;
            }
            while page < pages.len() {
                self.score_pages::<L, N, 1>([keys(page)], page * PAGE, tile);
                page += 1;
            }
        }
    }

    /// # Safety
    ///
    /// The machine has the lanes; each of `keys` is a page's; `at + P * PAGE <= BLOCK`.
    #[inline(always)]
    unsafe fn score_pages<L: Lanes, const N: usize, const P: usize>(
        &self,
        keys: [*const f32; P],
        at: usize,
        tile: &mut Tile,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sums = [[L::Sixteen::splat(0.0); P]; N];
            let queries = tile.queries.as_ptr();
            for d in 0..self.shape.head_dim {
                for (p, keys) in keys.iter().enumerate() {
                    let keys = L::Sixteen::load(keys.add(d * PAGE));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let query = L::Sixteen::splat(*queries.add(d * N + i));
                        sums[p] = query.mul_add(keys, sums[p]);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    sum.store(tile.scores[i].as_mut_ptr().add(at + p * PAGE));
                }
            }
        }
    }

    /// Turns a block's scores into weights below the running maximum, and returns by what the sums
    /// so far shrink as the maximum grows.
    ///
    /// # Safety
    ///
    /// The machine has the lanes.
    #[inline(always)]
    unsafe fn weigh<L: Lanes, const N: usize>(&self, seen: Seen, tile: &mut Tile) -> [f32; N] {
        let mut factors = [1.0; N];
        let Seen { start, from, to } = seen;
        for (i, factor) in factors.iter_mut().enumerate() {
            let scores = &mut tile.scores[i][from..to.next_multiple_of(PAGE)];
            // The vector's own part of what the tile sees, counted from `start + from`.
            let own = |position: usize| position.saturating_sub(start).clamp(from, to) - from;
            let (first, end) = (own(tile.starts[i]), own(tile.limits[i]));
            if first >= end {
                scores.fill(0.0);
                continue;
            }
            scores[..first].fill(f32::NEG_INFINITY);
            scores[end..].fill(f32::NEG_INFINITY);
            // SAFETY: pages are whole, so the length is a multiple of eight.
            unsafe {
                let mut max = L::splat(tile.max[i]);
                for chunk in scores.chunks_exact(8) {
                    max = max.max(L::load(chunk.as_ptr()));
                }
                let max = max.array().into_iter().fold(f32::NEG_INFINITY, f32::max);
                let shift = L::splat(max);
                let mut sum = L::splat(0.0);
                for chunk in scores.chunks_exact_mut(8) {
                    let weight = exp(L::load(chunk.as_ptr()).sub(shift));
                    sum = sum.add(weight);
                    weight.store(chunk.as_mut_ptr());
                }
                *factor = exp(L::splat(tile.max[i] - max)).array()[0];
                tile.sum[i] = tile.sum[i] * *factor + sum8(sum.array());
                tile.max[i] = max;
            }
        }
        factors
    }

    /// Adds a block's weighted values.
    ///
    /// # Safety
    ///
    /// The machine has the lanes, and the sequence has pages for the positions.
    #[inline(always)]
    unsafe fn add_values<L: Lanes, const N: usize>(
        &self,
        seen: Seen,
        factors: [f32; N],
        tile: &mut Tile,
    ) {
        let mut column = 0;
        // SAFETY: columns end at `width`, a multiple of `WIDTH`.
        unsafe {
            while N <= 3 && L::Sixteen::MANY && column + 4 * WIDTH <= self.width {
                self.add_columns::<L::Sixteen, N, 4>(seen, &factors, column, tile);
                column += 4 * WIDTH;
            }
            while (N <= 3 || L::Sixteen::MANY) && column + 2 * WIDTH <= self.width {
                self.add_columns::<L::Sixteen, N, 2>(seen, &factors, column, tile);
                column += 2 * WIDTH;
            }
            while column < self.width {
                self.add_columns::<L::Sixteen, N, 1>(seen, &factors, column, tile);
                column += WIDTH;
            }
        }
    }

    /// # Safety
    ///
    /// As for `add_values`; there are `C` times `WIDTH` columns from `column` on.
    #[inline(always)]
    unsafe fn add_columns<S: Sixteen, const N: usize, const C: usize>(
        &self,
        seen: Seen,
        factors: &[f32; N],
        column: usize,
        tile: &mut Tile,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sums = [[S::splat(0.0); C]; N];
            for (i, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    let before =
                        S::load(tile.values.as_ptr().add(i * self.width + column + WIDTH * c));
                    *sum = before.mul(S::splat(factors[i]));
                }
            }
            let weights = tile.scores.as_ptr().cast::<f32>();
            let pages = &self.pages[(seen.start + seen.from) / PAGE..];
            for (at, &page) in (seen.from..seen.to).step_by(PAGE).zip(pages) {
                let page = self.values[page as usize * self.width * PAGE..].as_ptr().add(column);
                for slot in 0..PAGE.min(seen.to - at) {
                    let mut values = [S::splat(0.0); C];
                    for (c, value) in values.iter_mut().enumerate() {
                        *value = S::load(page.add(slot * self.width + WIDTH * c));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let weight = S::splat(*weights.add(i * BLOCK + at + slot));
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = weight.mul_add(value, *sum);
                        }
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    sum.store(tile.values.as_mut_ptr().add(i * self.width + column + WIDTH * c));
                }
            }
        }
    }
}
