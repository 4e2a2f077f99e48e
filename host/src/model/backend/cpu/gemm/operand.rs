//! The rows of a product, in the order in which tiles read them.

use std::ops::Range;

use super::super::int8;
use super::super::matrix::{Matrix, Numbers};
use super::super::scratch::Scratch;
use super::super::simd::{Isa, Kernel, Lanes, Shared};
use super::super::threads::{GRAIN, over_ranges, over_tiles};
use super::super::tile::{
    Left, Lines, PANEL, Sums, TALL_TILE, TILE, Words, interleave, rows_of, tile, with_rows,
};
#[cfg(target_arch = "x86_64")]
use super::super::{amx, avx512};
use super::depth;

/// Rows that one task takes at most: with a few thousand terms they fit into the second-level cache.
const ROWS: usize = 384;
/// Panels from which on it pays to bring the rows into the tiles' order.
const WORTH_PACKING: usize = 4;
/// Panels that some kernels go over at a time.
const TOGETHER: usize = 2;
/// What rounding a number takes, in multiplications.
#[cfg(target_arch = "x86_64")]
const ROUNDING: usize = 4;

/// The rows of a product, as its tiles read them.
pub(super) struct Operand<'a> {
    pub(super) rows: usize,
    pub(super) terms: usize,
    /// Rows in a tile, at most.
    pub(super) height: usize,
    pub(super) form: Form<'a>,
}

pub(super) enum Form<'a> {
    /// As they came, `[rows, terms]`.
    Plain(&'a [f32]),
    /// For each block of terms, for each tile `[terms, rows]`: tile after tile is read straight
    /// through.
    Interleaved(Scratch),
    /// Rounded to bf16.
    #[cfg(target_arch = "x86_64")]
    Bf16(Rounded),
    /// Rounded to eight bits.
    Int8(int8::Rows),
}

/// Returns how many numbers the rows of a product take in the order of its tiles; 0 where they stay
/// as they came. Rows that are rounded for a weight take less.
pub(super) fn interleaved_len(rows: usize, terms: usize, panels: usize) -> usize {
    if rows <= 1 || panels < WORTH_PACKING { 0 } else { rows * terms }
}

/// Returns how many rows of f32 a tile has at most: more where it is two panels wide.
fn tile_height(isa: Isa) -> usize {
    if isa.is_wide() { TALL_TILE } else { TILE }
}

impl<'a> Operand<'a> {
    /// For a product of `x` `[rows, inputs]` with `panels` panels of a weight.
    pub(super) fn forward(
        isa: Isa,
        x: &'a [f32],
        rows: usize,
        w: &Matrix,
        panels: usize,
    ) -> Operand<'a> {
        let (_, terms) = w.shape();
        match w.numbers {
            Numbers::F32(_) => Operand::new(isa, x, rows, terms, panels, tile_height(isa)),
            #[cfg(target_arch = "x86_64")]
            Numbers::Bf16(_) if isa.multiplies_bf16() => {
                // A panel whose inputs are no whole steps ends within one.
                let registers = isa.has_tiles() && terms.is_multiple_of(amx::TERMS);
                Operand::rounded(x, rows, terms, registers)
            }
            Numbers::Bf16(_) => Operand::new(isa, x, rows, terms, panels, TILE),
            Numbers::Int8(_) => {
                let form = Form::Int8(int8::Rows::new(&x[..rows * terms], rows, terms));
                Operand { rows, terms, height: int8::TILE, form }
            }
        }
    }

    /// For a product of `dy` `[rows, outputs]` with `panels` panels of inputs of a weight.
    pub(super) fn backward(
        isa: Isa,
        dy: &'a [f32],
        rows: usize,
        w: &Matrix,
        panels: usize,
    ) -> Operand<'a> {
        let (terms, _) = w.shape();
        match w.numbers {
            #[cfg(target_arch = "x86_64")]
            Numbers::Bf16(_) if isa.multiplies_bf16() => {
                Operand::rounded(dy, rows, terms, isa.has_tiles())
            }
            _ => Operand::new(isa, dy, rows, terms, panels, tile_height(isa)),
        }
    }

    /// Rounds `x` `[rows, terms]` for one kind of tiles or the other, both of which multiply bf16.
    #[cfg(target_arch = "x86_64")]
    fn rounded(x: &[f32], rows: usize, terms: usize, in_tile_registers: bool) -> Operand<'a> {
        // No terms make no step.
        let in_tile_registers = in_tile_registers && terms > 0;
        let height = if in_tile_registers { amx::ROWS } else { TALL_TILE };
        let form = Form::Bf16(Rounded::new(x, rows, terms, in_tile_registers));
        Operand { rows, terms, height, form }
    }

    /// Brings `x` `[rows, terms]` into order where that pays, for tiles of at most `height` rows.
    fn new(
        isa: Isa,
        x: &'a [f32],
        rows: usize,
        terms: usize,
        panels: usize,
        height: usize,
    ) -> Operand<'a> {
        let x = &x[..rows * terms];
        let len = interleaved_len(rows, terms, panels);
        if len == 0 {
            return Operand { rows, terms, height: TILE, form: Form::Plain(x) };
        }
        let mut scratch = Scratch::take(len);
        let to = Shared::new(&mut scratch.0);
        over_tiles(rows.div_ceil(height), height * terms, |tile| {
            let of_tile = rows_of(tile, rows, height);
            isa.run(Interleave { x, rows, terms, of_tile, to: to.get() });
        });
        Operand { rows, terms, height, form: Form::Interleaved(scratch) }
    }

    /// Runs `task` for tiles and panels that make up the product.
    pub(super) fn over_blocks(
        &self,
        panels: usize,
        task: impl Fn(Range<usize>, Range<usize>) + Sync,
    ) {
        let (tiles, rows) = (self.tiles(), self.rows.min(ROWS));
        let blocks = tiles.div_ceil(ROWS / self.height);
        let pairs = panels.div_ceil(TOGETHER);
        let least = GRAIN.div_ceil((rows * TOGETHER * PANEL * self.terms).max(1));
        // Block after block, pair after pair.
        over_ranges(blocks * pairs, least, |mut range| {
            while !range.is_empty() {
                let (block, first) = (range.start / pairs, range.start % pairs);
                let end = pairs.min(first + range.len());
                let tiles = block * tiles / blocks..(block + 1) * tiles / blocks;
                task(tiles, first * TOGETHER..panels.min(end * TOGETHER));
                range.start += end - first;
            }
        });
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.height)
    }

    #[inline(always)]
    pub(super) fn rows_of(&self, tile: usize) -> Range<usize> {
        rows_of(tile, self.rows, self.height)
    }

    /// Sums `depth` terms from `term` on of a tile's rows by a panel.
    ///
    /// # Safety
    ///
    /// The tile and the terms are there; `panel` has the lines; `sums.y` is the place of the tile's
    /// first row and has all its rows; the machine has the lanes.
    #[inline(always)]
    pub(super) unsafe fn tile<L: Lanes>(
        &self,
        tile_index: usize,
        term: usize,
        depth: usize,
        panel: Panel,
        sums: Sums,
    ) {
        let rows = self.rows_of(tile_index);
        let terms = self.terms;
        // SAFETY: as the caller promises.
        unsafe {
            match (&self.form, panel) {
                (Form::Plain(x), panel) => {
                    let from = x.as_ptr().add(rows.start * terms + term);
                    let left = Left { from, row_stride: terms, step: 1 };
                    with_rows!(rows.len(), N => match panel {
                        Panel::F32(panel) => tile::<L, N>(left, Lines::packed(panel), depth, sums),
                        Panel::Bf16(panel) => tile::<L, N>(left, Words(panel), depth, sums),
                    });
                }
                (Form::Interleaved(x), panel) => with_rows!(rows.len(), N => {
                    let from = x.0.as_ptr().add(self.rows * term + rows.start * depth);
                    let left = Left { from, row_stride: 1, step: N };
                    match panel {
                        Panel::F32(panel) => tile::<L, N>(left, Lines::packed(panel), depth, sums),
                        Panel::Bf16(panel) => tile::<L, N>(left, Words(panel), depth, sums),
                    }
                }),
                _ => unreachable!("rounded rows have tiles of their own"),
            }
        }
    }
}

/// Rows in bf16, `[rows, terms]` with zeros up to whole steps of 32 terms.
#[cfg(target_arch = "x86_64")]
pub(super) struct Rounded {
    numbers: Scratch,
    /// From one row to the next.
    pub(super) stride: usize,
    /// Whether blocks of tile registers do the product.
    pub(super) in_tile_registers: bool,
}

#[cfg(target_arch = "x86_64")]
impl Rounded {
    fn new(x: &[f32], rows: usize, terms: usize, in_tile_registers: bool) -> Rounded {
        let stride = terms.next_multiple_of(amx::TERMS);
        let mut numbers = Scratch::take(rows * stride / 2);
        let to = Shared::new(&mut numbers.0);
        let x = &x[..rows * terms];
        over_tiles(rows, terms * ROUNDING, |row| {
            // SAFETY: rows are disjoint and within the scratch, two numbers in the place of one; the
            // machine multiplies bf16.
            unsafe {
                let to = to.get().cast::<u16>().add(row * stride);
                let to = std::slice::from_raw_parts_mut(to, stride);
                avx512::round(&x[row * terms..][..terms], &mut to[..terms]);
                to[terms..].fill(0);
            }
        });
        Rounded { numbers, stride, in_tile_registers }
    }

    /// Returns where a term of a row is.
    pub(super) fn at(&self, row: usize, term: usize) -> *const u16 {
        self.numbers.0.as_ptr().cast::<u16>().wrapping_add(row * self.stride + term)
    }
}

/// Brings the rows of a tile into order, block of terms by block.
struct Interleave<'a> {
    /// `[rows, terms]`
    x: &'a [f32],
    rows: usize,
    terms: usize,
    of_tile: Range<usize>,
    /// As long as `x`; only this tile's part of each block is written.
    to: *mut f32,
}

impl Kernel for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Interleave { x, rows, terms, of_tile, to } = self;
        for term in (0..terms).step_by(depth(terms)) {
            let depth = depth(terms).min(terms - term);
            // SAFETY: a tile has its rows of `x`, and as much room in each block, which no other
            // touches; under `Isa::run`.
            unsafe {
                let from = x.as_ptr().add(of_tile.start * terms + term);
                let to = to.add(rows * term + of_tile.start * depth);
                interleave::<L>(from, terms, of_tile.len(), depth, to);
            }
        }
    }
}

/// A panel's numbers from some term on.
#[derive(Clone, Copy)]
pub(super) enum Panel {
    F32(*const f32),
    Bf16(*const u32),
}
