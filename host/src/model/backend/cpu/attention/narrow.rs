//! Attention over keys and values in bf16, in the tile registers of AMX.
//!
//! Query vectors go over their sequences in blocks of [`BLOCK`] positions, counted from position 0, as
//! those of [`exact`](super::exact) do, and what a vector comes to depends on itself alone. So rows of
//! several sequences go together over the pages that these share, sixteen vectors in a register, and
//! then each goes on over its own.
//!
//! Queries and weights are rounded to bf16 for their products; sums, the maximum and what the
//! weights add up to are f32. Queries are scaled so that weights are powers of two.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Rows;
use crate::model::backend::cpu::amx::attention::{COLUMNS, PANEL_WORDS, TERMS, Tiles, VECTORS};
use crate::model::backend::cpu::avx512;
use crate::model::backend::cpu::simd::sum8;
use crate::model::backend::{AttentionShape, PAGE, Segment};

/// Positions between two looks at the running maximum; whole pairs of pages.
const BLOCK: usize = 128;
/// From one vector's scores to the next one's, so that they do not all fall into the same few lines
/// of the cache.
const STRIDE: usize = BLOCK + 16;
/// Query vectors of a task. What tile registers store has to arrive in the cache before it can be
/// loaded, so scores, weights and values are each done for many vectors before the next.
const MANY: usize = 3 * VECTORS;
/// Stands for the score of a position that a vector does not see: its weight is 0.
const UNSEEN: f32 = -1e30;

/// Padded widths of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widths {
    /// Of a key: whole steps.
    key: usize,
    /// Of a value: whole groups of columns.
    value: usize,
}

impl Widths {
    pub(super) fn of(head_dim: usize) -> Widths {
        Widths { key: head_dim.next_multiple_of(TERMS), value: head_dim.next_multiple_of(COLUMNS) }
    }

    /// Returns how many words a page of one head's keys takes: `[key / 2, PAGE]`, each of two
    /// neighbouring dimensions of a position.
    pub(super) fn key_words(self) -> usize {
        self.key / 2 * PAGE
    }

    /// Returns how many words a page of one head's values takes: `[value / 16, PAGE / 2, 16]`, each
    /// of two neighbouring positions of a dimension.
    pub(super) fn value_words(self) -> usize {
        self.value / 2 * PAGE
    }
}

/// Writes a position's key and value of one head into the page that `keys` and `values` are.
///
/// The first position of a page clears what an earlier sequence left there: values of positions that
/// no vector sees yet weigh nothing, which would not help if they were infinite.
///
/// # Safety
///
/// The machine has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn store(
    key: &[f32],
    value: &[f32],
    slot: usize,
    keys: &mut [u32],
    values: &mut [u32],
) {
    let mut bits = [0; COLUMNS];
    for (key, lines) in key.chunks(COLUMNS).zip(keys.chunks_mut(COLUMNS / 2 * PAGE)) {
        bits[key.len() - 1..].fill(0);
        // SAFETY: the machine has the instructions.
        unsafe { avx512::round(key, &mut bits[..key.len()]) };
        for (line, pair) in lines.chunks_exact_mut(PAGE).zip(bits.chunks_exact(2)) {
            line[slot] = u32::from(pair[0]) | u32::from(pair[1]) << 16;
        }
    }
    if slot == 0 {
        values.fill(0);
    }
    let (shift, kept) = if slot.is_multiple_of(2) { (0, 0xffff_0000) } else { (16, 0x0000_ffff) };
    for (value, panels) in value.chunks(COLUMNS).zip(values.chunks_exact_mut(4 * PANEL_WORDS)) {
        // SAFETY: as above.
        unsafe { avx512::round(value, &mut bits[..value.len()]) };
        let columns = bits[..value.len()].chunks(16);
        for (columns, panel) in columns.zip(panels.chunks_exact_mut(PANEL_WORDS)) {
            for (word, &bits) in panel[slot / 2 * 16..].iter_mut().zip(columns) {
                *word = *word & kept | u32::from(bits) << shift;
            }
        }
    }
}

/// Rows that go together, of one or several segments.
pub(super) struct Team<'a> {
    /// Each with its segment's pages.
    members: Vec<(Rows, &'a [u32])>,
    /// How many pages, from the first on, all of them share and see; whole blocks.
    shared: usize,
}

/// Puts rows into teams: those that alone would leave most of a register empty go with others before
/// them that have blocks of pages in common.
pub(super) fn teams<'a>(rows: &[Rows], segments: &'a [Segment], group: usize) -> Vec<Team<'a>> {
    let mut teams: Vec<Team<'a>> = Vec::with_capacity(rows.len());
    let mut vectors = 0;
    for &rows in rows {
        let pages = &segments[rows.segment].pages[..];
        // Its last block a row does not see whole.
        let whole = rows.position / BLOCK * (BLOCK / PAGE);
        if let Some(team) = teams.last_mut() {
            let (_, first) = team.members[0];
            let shared = first.iter().zip(&pages[..whole]).take_while(|(a, b)| a == b).count();
            let shared = shared.min(team.shared) / (BLOCK / PAGE) * (BLOCK / PAGE);
            if shared > 0 && vectors + rows.count * group <= MANY {
                team.members.push((rows, pages));
                team.shared = shared;
                vectors += rows.count * group;
                continue;
            }
        }
        teams.push(Team { members: vec![(rows, pages)], shared: whole });
        vectors = rows.count * group;
    }
    teams
}

/// The query vectors of a team that attend to one key and value head.
pub(super) struct Attend<'a> {
    pub(super) queries: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) head: usize,
    pub(super) widths: Widths,
    /// The head's pages.
    pub(super) keys: &'a [u32],
    pub(super) values: &'a [u32],
    /// As long as `queries`; only this task's rows and heads are written.
    pub(super) y: *mut f32,
}

/// Neighbouring vectors that go over the same positions of the same pages.
struct Part<'a> {
    vectors: Range<usize>,
    pages: &'a [u32],
    /// The positions that one of them sees at least.
    seen: Range<usize>,
}

impl<'a> Part<'a> {
    /// Returns the part's pages in a block, and the position of the first.
    fn block(&self, start: usize) -> (&'a [u32], usize) {
        let from = self.seen.start.max(start) / PAGE;
        let to = self.seen.end.min(start + BLOCK).div_ceil(PAGE);
        // A block before or after what is seen has none.
        (if from < to { &self.pages[from..to] } else { &[] }, from * PAGE)
    }
}

/// What is known so far of some query vectors.
struct State {
    /// How many there are.
    count: usize,
    /// Where each begins in `queries` and `y`.
    places: [usize; MANY],
    /// Which positions each sees.
    seen: [(usize, usize); MANY],
    max: [f32; MANY],
    /// What the weights add up to, page by page.
    sums: [[[f32; 8]; 2]; MANY],
    /// The vectors, scaled: `[MANY, key width]`.
    queries: Vec<u16>,
    /// Sums of values: `[MANY, value width]`.
    values: Vec<f32>,
    /// Scores of a block, and over them, from each vector's first on, their weights in bf16.
    scores: Scores,
}

/// `[MANY, STRIDE]`
#[repr(align(64))]
struct Scores([f32; MANY * STRIDE]);

impl Attend<'_> {
    /// Does all vectors of a team.
    ///
    /// # Safety
    ///
    /// The machine has AVX512-BF16 and AMX. `y` is as long as `queries`, and the team's places in
    /// it are this call's alone. The pages hold the positions that the vectors see.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn run(&self, team: &Team<'_>) {
        let mut state = State::new(self.widths);
        let mut tiles = Tiles::default();
        let group = self.shape.heads / self.shape.kv_heads;
        if let [(rows, pages)] = team.members[..] {
            let vectors = rows.count * group;
            let times = vectors.div_ceil(MANY);
            for i in 0..times {
                state.count = 0;
                let own = i * vectors / times..(i + 1) * vectors / times;
                self.take(rows, own, &mut state);
                let mut parts = vec![];
                state.cut(0..state.count, pages, 0..usize::MAX, &mut parts);
                // SAFETY: as the caller promises.
                unsafe {
                    self.go(&parts, &mut tiles, &mut state);
                    self.finish(&state);
                }
            }
            return;
        }
        let (_, first) = team.members[0];
        let shared = team.shared * PAGE;
        let (mut together, mut alone) = (vec![], vec![]);
        for &(rows, pages) in &team.members {
            let from = state.count;
            self.take(rows, 0..rows.count * group, &mut state);
            state.cut(from..state.count, pages, shared..usize::MAX, &mut alone);
        }
        state.cut(0..state.count, first, 0..shared, &mut together);
        // SAFETY: as the caller promises.
        unsafe {
            self.go(&together, &mut tiles, &mut state);
            self.go(&alone, &mut tiles, &mut state);
            self.finish(&state);
        }
    }

    /// Takes vectors of some rows into a state.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn take(&self, rows: Rows, vectors: Range<usize>, state: &mut State) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let group = heads / kv_heads;
        let Widths { key, value } = self.widths;
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        for vector in vectors {
            let (row, head) = (vector / group, self.head * group + vector % group);
            let (place, position) = (state.count, rows.position + row);
            let at = ((rows.first + row) * heads + head) * head_dim;
            state.count += 1;
            state.places[place] = at;
            state.seen[place] = (self.shape.first_seen(position), position + 1);
            state.max[place] = f32::NEG_INFINITY;
            state.sums[place] = [[0.0; 8]; 2];
            state.values[place * value..(place + 1) * value].fill(0.0);
            let to = &mut state.queries[place * key..][..head_dim];
            // The scores are free until the first block.
            let scaled = &mut state.scores.0[..BLOCK];
            for (from, to) in self.queries[at..].chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
                for (scaled, query) in scaled.iter_mut().zip(&from[..to.len()]) {
                    *scaled = query * scale;
                }
                // SAFETY: the machine has the instructions.
                unsafe { avx512::round(&scaled[..to.len()], to) };
            }
        }
    }

    /// Takes parts of a state over the positions that they see.
    ///
    /// # Safety
    ///
    /// The machine has AMX. The pages hold the positions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn go(&self, parts: &[Part<'_>], tiles: &mut Tiles, state: &mut State) {
        let Widths { key, value } = self.widths;
        let begin = parts.iter().map(|part| part.seen.start).min().unwrap_or(0);
        let end = parts.iter().map(|part| part.seen.end).max().unwrap_or(0);
        let mut places = [std::ptr::null(); BLOCK / PAGE];
        for start in (begin / BLOCK * BLOCK..end).step_by(BLOCK) {
            for part in parts {
                let (pages, _) = part.block(start);
                let first = part.vectors.start;
                let keys =
                    |page: u32| self.keys[page as usize * self.widths.key_words()..].as_ptr();
                for (i, pair) in pages.chunks(2).enumerate() {
                    // SAFETY: a page of keys is `key / 2` lines; the scores have room for a block.
                    unsafe {
                        tiles.cut(part.vectors.len());
                        tiles.score(
                            state.queries.as_ptr().add(first * key),
                            key,
                            [keys(pair[0]), keys(pair[pair.len() - 1])],
                            key / TERMS,
                            state.scores.0.as_mut_ptr().add(first * STRIDE + i * 2 * PAGE),
                            STRIDE,
                        );
                    }
                }
            }
            for part in parts {
                let (pages, from) = part.block(start);
                for vector in part.vectors.clone() {
                    state.weigh(vector, from, pages.len(), value);
                }
            }
            for part in parts {
                let (pages, _) = part.block(start);
                if pages.is_empty() {
                    continue;
                }
                let first = part.vectors.start;
                for column in (0..value).step_by(COLUMNS) {
                    for (place, &page) in places.iter_mut().zip(pages) {
                        let page = page as usize * self.widths.value_words();
                        *place = self.values[page + column / 16 * PANEL_WORDS..].as_ptr();
                    }
                    // SAFETY: a page of values has whole groups of columns.
                    unsafe {
                        tiles.cut(part.vectors.len());
                        tiles.add_values(
                            state.scores.0.as_ptr().add(first * STRIDE).cast(),
                            2 * STRIDE,
                            &places[..pages.len()],
                            state.values.as_mut_ptr().add(first * value + column),
                            value,
                        );
                    }
                }
            }
        }
    }

    /// Writes what the vectors came to.
    ///
    /// # Safety
    ///
    /// The places in `y` are this call's alone.
    unsafe fn finish(&self, state: &State) {
        let head_dim = self.shape.head_dim;
        for vector in 0..state.count {
            // SAFETY: as the caller promises.
            let y = unsafe {
                std::slice::from_raw_parts_mut(self.y.add(state.places[vector]), head_dim)
            };
            let [low, high] = state.sums[vector];
            let inverse = 1.0 / (sum8(low) + sum8(high));
            for (y, &value) in y.iter_mut().zip(&state.values[vector * self.widths.value..]) {
                *y = value * inverse;
            }
        }
    }
}

impl State {
    fn new(widths: Widths) -> State {
        State {
            count: 0,
            places: [0; MANY],
            seen: [(0, 0); MANY],
            max: [0.0; MANY],
            sums: [[[0.0; 8]; 2]; MANY],
            queries: vec![0; MANY * widths.key],
            values: vec![0.0; MANY * widths.value],
            scores: Scores([0.0; MANY * STRIDE]),
        }
    }

    /// Cuts vectors into parts of a register each, for what they see of `positions` of some pages.
    fn cut<'a>(
        &self,
        vectors: Range<usize>,
        pages: &'a [u32],
        positions: Range<usize>,
        parts: &mut Vec<Part<'a>>,
    ) {
        let (first, len) = (vectors.start, vectors.len());
        let count = len.div_ceil(VECTORS);
        for i in 0..count {
            let vectors = first + i * len / count..first + (i + 1) * len / count;
            let seen = &self.seen[vectors.clone()];
            let start = seen.iter().map(|seen| seen.0).min().unwrap_or(0).max(positions.start);
            let end = seen.iter().map(|seen| seen.1).max().unwrap_or(0).min(positions.end);
            if start < end {
                parts.push(Part { vectors, pages, seen: start..end });
            }
        }
    }

    /// Turns a vector's scores with the positions of some pages from `start` on into weights below
    /// its running maximum, and shrinks its sums as the maximum grows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn weigh(&mut self, vector: usize, start: usize, pages: usize, width: usize) {
        let scores = &mut self.scores.0[vector * STRIDE..][..pages * PAGE];
        let own = |position: usize| position.saturating_sub(start).min(scores.len());
        let (first, end) = (own(self.seen[vector].0), own(self.seen[vector].1));
        if first >= end {
            scores.fill(0.0);
            return;
        }
        scores[..first].fill(UNSEEN);
        scores[end..].fill(UNSEEN);
        let scores = scores.as_mut_ptr();
        // SAFETY: there are sixteen scores for each page; a weight is written over a score that has been
        // read.
        unsafe {
            let mut max = _mm512_loadu_ps(scores);
            for page in 1..pages {
                max = _mm512_max_ps(max, _mm512_loadu_ps(scores.add(PAGE * page)));
            }
            // After the first blocks it seldom grows.
            let before = _mm512_set1_ps(self.max[vector]);
            if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(max, before) != 0 {
                let max = _mm512_reduce_max_ps(max);
                let factor = exp2(_mm512_set1_ps((self.max[vector] - max).max(-160.0)));
                let sums = self.sums[vector].as_mut_ptr().cast();
                _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), factor));
                for values in self.values[vector * width..][..width].chunks_exact_mut(16) {
                    let scaled = _mm512_mul_ps(_mm512_loadu_ps(values.as_ptr()), factor);
                    _mm512_storeu_ps(values.as_mut_ptr(), scaled);
                }
                self.max[vector] = max;
            }
            let max = _mm512_set1_ps(self.max[vector]);
            let mut sum = _mm512_loadu_ps(self.sums[vector].as_ptr().cast());
            for page in 0..pages {
                let score = _mm512_loadu_ps(scores.add(PAGE * page));
                let weight = exp2(_mm512_sub_ps(score, max));
                sum = _mm512_add_ps(sum, weight);
                let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(weight));
                _mm256_storeu_si256(scores.cast::<u16>().add(PAGE * page).cast(), narrow);
            }
            _mm512_storeu_ps(self.sums[vector].as_mut_ptr().cast(), sum);
        }
    }
}

/// Two to the power of each lane, none above 0, to 4e-6; 0 far below.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let whole = _mm512_roundscale_ps::<NEAREST>(x);
    let rest = _mm512_sub_ps(x, whole);
    // The polynomial that agrees with 2^rest at Chebyshev's points of [-1/2, 1/2], and at 0.
    let mut p = _mm512_set1_ps(0.009_666_368);
    for coefficient in [0.055_921_976, 0.240_223_5, 0.693_121, 1.0] {
        p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(p, whole)
}
