//! Attention over keys and values in f32.
//!
//! A query vector goes over its sequence in blocks of [`BLOCK`] positions, counted from position 0,
//! and keeps a running maximum, sum and weighted sum of values. What it sees of a block depends on
//! its own position and the window only; that up to six vectors go together, and which, changes no
//! bit, as positions that a vector does not see weigh exactly nothing. Pages that none of them sees
//! are not read.

use super::Rows;
use crate::model::backend::cpu::simd::{Kernel, Lanes, Sixteen, exp, sum8};
use crate::model::backend::{AttentionShape, PAGE};

/// Positions between two looks at the running maximum; whole pairs of pages.
const BLOCK: usize = 128;
/// Query vectors in a tile.
const TILE: usize = 6;
/// Padding of a head's width.
const WIDTH: usize = 16;

/// Returns the padded width of a head.
pub(super) fn width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(WIDTH)
}

/// Writes a position's key and value of one head into the page that `keys` `[width, PAGE]` and `values`
/// `[PAGE, width]` are.
pub(super) fn store(key: &[f32], value: &[f32], slot: usize, keys: &mut [f32], values: &mut [f32]) {
    for (keys, &key) in keys.chunks_exact_mut(PAGE).zip(key) {
        keys[slot] = key;
    }
    let width = values.len() / PAGE;
    values[slot * width..][..value.len()].copy_from_slice(value);
}

/// The query vectors of some rows that attend to one key and value head.
pub(super) struct Attend<'a> {
    pub(super) queries: &'a [f32],
    pub(super) shape: AttentionShape,
    /// Query heads that attend to the head.
    pub(super) group: usize,
    pub(super) head: usize,
    pub(super) rows: Rows,
    pub(super) pages: &'a [u32],
    pub(super) width: usize,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// As long as `queries`; only this task's rows and heads are written.
    pub(super) y: *mut f32,
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
