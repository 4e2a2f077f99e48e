//! Products with packed weights: `x · Wᵀ` and, from the same pack, `dy · W`.
//!
//! The rows of the left operand are brought into the order in which tiles read them, once for the
//! whole product; see [`super::tile`] for the innermost loop. Going forward the right operand is a
//! panel of 16 outputs as it lies in memory. Going backward it is 16 inputs: blocks of the weight are
//! transposed on the way, which is little work against the rows that use them.
//!
//! A sum runs over blocks of about [`DEPTH`] terms: each block's terms in ascending order from zero,
//! the blocks' sums in ascending order. Products in tile registers ([`super::amx`]) have blocks of
//! their own and go on from what is there. Blocks depend on the number of terms and on the kernels
//! alone, so nothing else has a say in a sum.

mod backward;
mod operand;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::int8;
#[cfg(target_arch = "x86_64")]
use super::matrix::Pair;
use super::matrix::{Matrix, Numbers};
use super::simd::{Isa, Kernel, Lanes, Shared};
#[cfg(target_arch = "x86_64")]
use super::tile::TALL_TILE;
use super::tile::{Line, PANEL, Sums};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512};
use crate::model::backend::Write;
pub(super) use backward::linear_backward;
#[cfg(target_arch = "x86_64")]
use operand::Rounded;
use operand::{Form, Operand, Panel, interleaved_len};

/// Terms in a block of a sum, at most: two panels of so many leave room in the first-level cache for
/// the rows that go by.
const DEPTH: usize = 192;
/// Bytes of a weight that products in tile registers go over with all rows before the next: a part of
/// the second-level cache.
#[cfg(target_arch = "x86_64")]
const GROUP: usize = 384 << 10;
/// Tiles of a task from which on they ask for what the next ones read: of fewer, each would have to ask
/// for more than it computes.
#[cfg(target_arch = "x86_64")]
const WORTH_ASKING: usize = 8;

/// Returns the length of a block of a sum of so many terms: nearly equal parts, and whole pairs,
/// panels and quads.
fn depth(terms: usize) -> usize {
    terms.div_ceil(terms.div_ceil(DEPTH).max(1)).next_multiple_of(32).max(32)
}

/// `y` `[rows, outputs]` = or += `x` `[rows, inputs]` · `w`ᵀ.
pub(super) fn linear(isa: Isa, x: &[f32], rows: usize, w: &Matrix, y: &mut [f32], write: Write) {
    let (outputs, inputs) = w.shape();
    let y = &mut y[..rows * outputs];
    if inputs == 0 && write == Write::Set {
        y.fill(0.0);
    }
    let panels = outputs.div_ceil(PANEL);
    let operand = Operand::forward(isa, x, rows, w, panels);
    let y = Shared::new(y);
    operand.over_blocks(panels, |tiles, panels| {
        isa.run(Forward {
            operand: &operand,
            tiles,
            w,
            panels,
            outputs,
            // Tasks write disjoint rows and columns.
            y: y.get(),
            stride: outputs,
            write,
        });
    });
}

/// Returns how many numbers a product works in at most: `rows` of `terms` numbers become rows of
/// `columns`.
pub(super) fn scratch_len(rows: usize, terms: usize, columns: usize) -> usize {
    interleaved_len(rows, terms, columns.div_ceil(PANEL))
}

/// Products of runs of rows with any panels of a weight, one task at a time.
pub(super) struct Runs<'a> {
    isa: Isa,
    operand: Operand<'a>,
    w: &'a Matrix,
    /// Tiles in a run.
    each: usize,
}

impl<'a> Runs<'a> {
    /// Brings `x` `[rows, inputs]` into order, to be used in runs of at most `most` rows.
    pub(super) fn new(isa: Isa, x: &'a [f32], rows: usize, most: usize, w: &'a Matrix) -> Self {
        let panels = w.shape().0.div_ceil(PANEL);
        let operand = Operand::forward(isa, x, rows, w, panels);
        let each = (most / operand.height).max(1);
        Runs { isa, operand, w, each }
    }

    /// Returns how many runs there are.
    pub(super) fn count(&self) -> usize {
        self.operand.tiles().div_ceil(self.each)
    }

    /// Returns the rows of a run.
    pub(super) fn rows_of(&self, run: usize) -> Range<usize> {
        let tiles = self.tiles_of(run);
        let rows = |tile| self.operand.rows_of(tile);
        rows(tiles.start).start..rows(tiles.end - 1).end
    }

    fn tiles_of(&self, run: usize) -> Range<usize> {
        run * self.each..self.operand.tiles().min((run + 1) * self.each)
    }

    /// `y` `[rows of the run, panels * 16]` = the product, on this thread; the last panel may be cut
    /// off by the end of the weight, where `y` gets zeros.
    pub(super) fn product(&self, run: usize, panels: Range<usize>, y: &mut [f32]) {
        let stride = panels.len() * PANEL;
        let rows = self.rows_of(run);
        assert!(y.len() >= rows.len() * stride && panels.end <= self.w.shape().0.div_ceil(PANEL));
        if self.w.shape().1 == 0 {
            y.fill(0.0);
        }
        self.isa.run(Forward {
            operand: &self.operand,
            tiles: self.tiles_of(run),
            w: self.w,
            outputs: usize::MAX,
            // Rows and panels count from the first of all.
            y: y.as_mut_ptr().wrapping_sub(rows.start * stride + panels.start * PANEL),
            panels,
            stride,
            write: Write::Set,
        });
    }
}

/// Some rows of `y` for some panels.
struct Forward<'a> {
    operand: &'a Operand<'a>,
    tiles: Range<usize>,
    w: &'a Matrix,
    panels: Range<usize>,
    /// Columns of `y` from here on are not written.
    outputs: usize,
    /// Of the first row's first column; only this task's rows and panels are written.
    y: *mut f32,
    stride: usize,
    write: Write,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (_, inputs) = self.w.shape();
        // Not cleared: what is read of it was written for the same panel.
        let mut widened = MaybeUninit::<[Line; DEPTH]>::uninit();
        match (&self.operand.form, &self.w.numbers) {
            (Form::Int8(rows), _) => self.int8::<L>(rows),
            #[cfg(target_arch = "x86_64")]
            (Form::Bf16(rows), Numbers::Bf16(pairs)) if rows.in_tile_registers => {
                self.tile_registers(rows, pairs);
            }
            #[cfg(target_arch = "x86_64")]
            (Form::Bf16(rows), Numbers::Bf16(pairs)) => self.wide_bf16(rows, pairs),
            #[cfg(target_arch = "x86_64")]
            (Form::Interleaved(rows), Numbers::F32(lines)) if self.operand.height == TALL_TILE => {
                self.wide_f32(&rows.0, lines);
            }
            _ => {
                // Panel by panel, so that the sums of all blocks of terms are added where they are
                // near.
                for panel in self.panels.clone() {
                    for term in (0..inputs).step_by(depth(inputs)) {
                        self.panel::<L>(panel, term, widened.as_mut_ptr().cast());
                    }
                }
            }
        }
    }
}

impl Forward<'_> {
    /// Does all tiles, two panels at a time.
    #[cfg(target_arch = "x86_64")]
    fn wide_f32(&self, x: &[f32], lines: &[Line]) {
        let (_, inputs) = self.w.shape();
        for term in (0..inputs).step_by(depth(inputs)) {
            let depth = depth(inputs).min(inputs - term);
            let panel = |panel: usize| lines.as_ptr().wrapping_add(panel * inputs + term);
            self.by_two_panels(term, |tile, panels, sums| {
                let rows = self.operand.rows_of(tile);
                let first = self.operand.rows * term + rows.start * depth;
                if self.tiles.len() >= WORTH_ASKING {
                    let tile = tile - self.tiles.start;
                    for next in [2, 3].map(|i| panel(panels[0] + i)) {
                        avx512::ask_for(next, depth, tile, self.tiles.len());
                    }
                }
                // SAFETY: rows, terms and panels are there, and `Isa` has found the tiles.
                unsafe {
                    let x = x.as_ptr().add(first);
                    let panels = panels.map(|index| panel(index).cast());
                    avx512::tile(x, rows.len(), panels, depth, sums);
                }
            });
        }
    }

    /// The same with a weight in bf16.
    #[cfg(target_arch = "x86_64")]
    fn wide_bf16(&self, x: &Rounded, pairs: &[Pair]) {
        let (_, inputs) = self.w.shape();
        for term in (0..inputs).step_by(depth(inputs)) {
            let half = depth(inputs).min(inputs - term).div_ceil(2);
            let panel =
                |panel: usize| pairs[panel * inputs.div_ceil(2) + term / 2..].as_ptr().cast();
            self.by_two_panels(term, |tile, panels, sums| {
                let rows = self.operand.rows_of(tile);
                let (from, stride) = (x.at(rows.start, term).cast(), x.stride / 2);
                // SAFETY: as above.
                unsafe {
                    let panels = panels.map(panel);
                    avx512::tile_of_pairs(from, stride, rows.len(), panels, half, sums);
                }
            });
        }
    }

    /// Calls `task` with each tile of rows, two panels and where their sums go.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn by_two_panels(&self, term: usize, mut task: impl FnMut(usize, [usize; 2], Sums)) {
        for panel in self.panels.clone().step_by(2) {
            for tile in self.tiles.clone() {
                let row = self.operand.rows_of(tile).start;
                let (panels, sums) = self.two_panels(panel, row, term);
                task(tile, panels, sums);
            }
        }
    }

    /// Returns a panel and the next, and where their sums go. Where there is no next, it is the same
    /// again, and none of its columns is written.
    #[cfg(target_arch = "x86_64")]
    fn two_panels(&self, panel: usize, row: usize, term: usize) -> ([usize; 2], Sums) {
        let next = (panel + 1).min(self.panels.end - 1);
        let mut sums = self.sums(panel, row, term);
        if next > panel {
            sums.columns += PANEL.min(self.outputs - next * PANEL);
        }
        ([panel, next], sums)
    }

    /// Does all rows, block by block of tile registers.
    #[cfg(target_arch = "x86_64")]
    fn tile_registers(&self, x: &Rounded, pairs: &[Pair]) {
        let (_, inputs) = self.w.shape();
        let panel = |panel: usize| pairs[panel * inputs / 2..].as_ptr().cast();
        let mut registers = amx::Tiles::default();
        // So many panels that they stay near while all rows go over them.
        let group = (GROUP / (inputs * PANEL * size_of::<u16>()).max(1)).max(2) & !1;
        for group in self.panels.clone().step_by(group).map(|first| first..first + group) {
            for tile in self.tiles.clone() {
                let rows = self.operand.rows_of(tile);
                // SAFETY: rows and panels are there, the inputs are whole steps, `Isa` has found the
                // registers, and this task alone uses those of its thread.
                unsafe {
                    registers.cut(rows.len());
                    for first in (group.start..group.end.min(self.panels.end)).step_by(2) {
                        let (panels, sums) = self.two_panels(first, rows.start, 0);
                        let (from, stride) = (x.at(rows.start, 0), x.stride);
                        registers.block(from, stride, panels.map(panel), inputs / amx::TERMS, sums);
                    }
                }
            }
        }
    }

    /// Does all tiles for one panel and one block of terms; `widened` has room for [`DEPTH`] lines.
    #[inline(always)]
    fn panel<L: Lanes>(&self, panel: usize, term: usize, widened: *mut f32) {
        let (_, inputs) = self.w.shape();
        let depth = depth(inputs).min(inputs - term);
        // SAFETY: the panel and its terms are in the weight, the rows in the operand and in this
        // task's part of `y`.
        unsafe {
            let numbers = match &self.w.numbers {
                Numbers::F32(lines) => Panel::F32(lines.as_ptr().add(panel * inputs + term).cast()),
                // Widened once where several tiles use it.
                Numbers::Bf16(_) if self.tiles.len() > 2 => {
                    for i in 0..depth {
                        let [low, high] = self.w.line::<L>(panel, term + i);
                        low.store(widened.add(i * PANEL));
                        high.store(widened.add(i * PANEL + 8));
                    }
                    Panel::F32(widened)
                }
                Numbers::Bf16(pairs) => {
                    let pair = panel * inputs.div_ceil(2) + term / 2;
                    Panel::Bf16(pairs.as_ptr().add(pair).cast())
                }
                Numbers::Int8(_) => unreachable!("rows for an 8-bit weight are rounded"),
            };
            for tile in self.tiles.clone() {
                let sums = self.sums(panel, self.operand.rows_of(tile).start, term);
                self.operand.tile::<L>(tile, term, depth, numbers, sums);
            }
        }
    }

    #[inline(always)]
    fn int8<L: Lanes>(&self, rows: &int8::Rows) {
        let Numbers::Int8(blocks) = &self.w.numbers else {
            unreachable!("rows are rounded for an 8-bit weight alone")
        };
        let each = self.w.shape().1.div_ceil(int8::BLOCK);
        for panel in self.panels.clone() {
            let blocks = &blocks[panel * each..][..each];
            for tile in self.tiles.clone() {
                let range = self.operand.rows_of(tile);
                let sums = self.sums(panel, range.start, 0);
                // SAFETY: the rows are in the operand and in this task's part of `y`.
                unsafe { int8::panel::<L>(rows, range, blocks, sums) };
            }
        }
    }

    #[inline(always)]
    fn sums(&self, panel: usize, row: usize, term: usize) -> Sums {
        Sums {
            y: self.y.wrapping_add(row * self.stride + panel * PANEL),
            stride: self.stride,
            columns: PANEL.min(self.outputs - panel * PANEL),
            add: term > 0 || self.write == Write::Add,
        }
    }
}
