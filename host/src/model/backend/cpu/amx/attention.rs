//! The products of attention in tile registers: scores of up to sixteen query vectors with the keys of
//! two pages, and their weights by the values of many pages.
//!
//! A page's positions fill a register when they are columns, and half of one when they are terms.

use std::arch::asm;

use super::super::tile::PANEL;
use super::super::trial;
use super::{LINE, Registers, trial_panel};

/// Query vectors in a tile, at most.
pub(in super::super) const VECTORS: usize = 16;
/// Terms of a step of a score.
pub(in super::super) const TERMS: usize = 32;
/// Columns of values that are summed at a time, one panel for each register of sums.
pub(in super::super) const COLUMNS: usize = 64;
/// Words of a panel of a page's values: pairs of positions by columns.
pub(in super::super) const PANEL_WORDS: usize = 8 * 16;

/// The registers cut for query vectors.
#[derive(Default)]
pub(in super::super) struct Tiles(Registers);

impl Tiles {
    /// Cuts the registers for `vectors` query vectors, from 1 to [`VECTORS`].
    ///
    /// # Safety
    ///
    /// The machine has the instructions, and no others of the thread are cut.
    #[inline]
    pub(in super::super) unsafe fn cut(&mut self, vectors: usize) {
        assert!((1..=VECTORS).contains(&vectors), "{vectors} vectors in a tile");
        let shapes = || {
            // Four of sums, one of queries, one of weights, one of keys, one of values.
            let (of_vectors, line) = (vectors as u8, LINE as u16);
            let mut shapes = [(of_vectors, line); 8];
            shapes[5] = (of_vectors, line / 2);
            shapes[6] = (16, line);
            shapes[7] = (8, line);
            shapes
        };
        // SAFETY: as the caller promises; no register is too large.
        unsafe { self.0.cut(vectors, shapes) };
    }

    /// Sets the scores of the vectors with the positions of two pages, next to each other.
    ///
    /// # Safety
    ///
    /// The registers are cut. There are `32 * steps` numbers of each query, `stride` apart; each page's
    /// keys have `16 * steps` lines; `scores` has room for 32 numbers of each vector, `scores_stride` apart.
    #[inline(always)]
    pub(in super::super) unsafe fn score(
        &self,
        queries: *const u16,
        stride: usize,
        keys: [*const u32; 2],
        steps: usize,
        scores: *mut f32,
        scores_stride: usize,
    ) {
        debug_assert!(self.0.rows > 0 && steps > 0);
        let [near, far] = keys;
        // SAFETY: as the caller promises; the compiler uses no tile registers of its own.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{queries} + {stride}]",
                "tileloadd tmm6, [{near} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm6, [{far} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "add {queries}, 64",
                "add {near}, 1024",
                "add {far}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{scores} + {scores_stride}], tmm0",
                "tilestored [{scores} + {scores_stride} + 64], tmm1",
                queries = inout(reg) queries => _,
                near = inout(reg) near => _,
                far = inout(reg) far => _,
                steps = inout(reg) steps => _,
                stride = in(reg) 2 * stride,
                line = in(reg) LINE,
                scores = in(reg) scores,
                scores_stride = in(reg) 4 * scores_stride,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _,
                options(nostack),
            );
        }
    }

    /// Adds the weighted values of some pages to [`COLUMNS`] columns of sums.
    ///
    /// # Safety
    ///
    /// The registers are cut. `weights` has 16 numbers for each page and vector, vectors `stride`
    /// apart; each page has the four panels of the columns; `sums` has these columns of each
    /// vector, `sums_stride` apart.
    #[inline(always)]
    pub(in super::super) unsafe fn add_values(
        &self,
        weights: *const u16,
        stride: usize,
        pages: &[*const u32],
        sums: *mut f32,
        sums_stride: usize,
    ) {
        debug_assert!(self.0.rows > 0 && !pages.is_empty());
        // SAFETY: as the caller promises; the compiler uses no tile registers of its own.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {sums_stride}]",
                "tileloadd tmm1, [{sums} + {sums_stride} + 64]",
                "tileloadd tmm2, [{sums} + {sums_stride} + 128]",
                "tileloadd tmm3, [{sums} + {sums_stride} + 192]",
                "2:",
                "mov {page}, [{pages}]",
                "tileloadd tmm5, [{weights} + {stride}]",
                "tileloadd tmm7, [{page} + {line}]",
                "tdpbf16ps tmm0, tmm5, tmm7",
                "tileloadd tmm7, [{page} + {line} + 512]",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tileloadd tmm7, [{page} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm7",
                "tileloadd tmm7, [{page} + {line} + 1536]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {weights}, 32",
                "add {pages}, 8",
                "dec {count}",
                "jnz 2b",
                "tilestored [{sums} + {sums_stride}], tmm0",
                "tilestored [{sums} + {sums_stride} + 64], tmm1",
                "tilestored [{sums} + {sums_stride} + 128], tmm2",
                "tilestored [{sums} + {sums_stride} + 192], tmm3",
                weights = inout(reg) weights => _,
                pages = inout(reg) pages.as_ptr() => _,
                count = inout(reg) pages.len() => _,
                page = out(reg) _,
                stride = in(reg) 2 * stride,
                line = in(reg) LINE,
                sums = in(reg) sums,
                sums_stride = in(reg) 4 * sums_stride,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm5") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Tries both products for so many vectors on numbers whose sums are exact.
pub(super) fn computes(vectors: usize) -> bool {
    let terms = |row, term| if term < trial::DEPTH { trial::left(row, term) } else { 0.0 };
    let bf16 = |x: f32| (x.to_bits() >> 16) as u16;
    let rows = |width: usize| -> Vec<u16> {
        (0..vectors * width).map(|i| bf16(terms(i / width, i % width))).collect()
    };
    let sum = |vector, column| -> f32 {
        (0..trial::DEPTH).map(|t| trial::left(vector, t) * trial::right(t, column)).sum()
    };
    let mut tiles = Tiles::default();

    let (queries, near, far) = (rows(TERMS), trial_panel(0, TERMS), trial_panel(PANEL, TERMS));
    let mut scores = vec![0.0f32; vectors * 2 * PANEL];
    // SAFETY: the arrays are as long as both products ask for, and the registers may be used.
    unsafe {
        tiles.cut(vectors);
        let keys = [near.as_ptr(), far.as_ptr()];
        tiles.score(queries.as_ptr(), TERMS, keys, 1, scores.as_mut_ptr(), 2 * PANEL);
    }

    // Twice the same page, and what was there before.
    const POSITIONS: usize = 16;
    let weights: Vec<u16> = rows(POSITIONS)
        .chunks_exact(POSITIONS)
        .flat_map(|of_page| [of_page, of_page].concat())
        .collect();
    let page: Vec<u32> =
        (0..COLUMNS / PANEL).flat_map(|panel| trial_panel(panel * PANEL, POSITIONS)).collect();
    let mut sums = vec![1.0f32; vectors * COLUMNS];
    // SAFETY: as above.
    unsafe {
        let pages = [page.as_ptr(); 2];
        tiles.add_values(weights.as_ptr(), 2 * POSITIONS, &pages, sums.as_mut_ptr(), COLUMNS);
    }
    let right = |found: &[f32], columns: usize, of: &dyn Fn(usize, usize) -> f32| {
        found.iter().enumerate().all(|(i, &x)| x == of(i / columns, i % columns))
    };
    right(&scores, 2 * PANEL, &sum)
        && right(&sums, COLUMNS, &|vector, column| 1.0 + 2.0 * sum(vector, column))
}
