//! Products that go backward through a weight: `dy · W`.

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::matrix::Matrix;
#[cfg(target_arch = "x86_64")]
use super::super::matrix::{Numbers, Pair};
use super::super::simd::{Isa, Kernel, Lanes, Shared};
use super::super::tile::{Line, PANEL, Sums};
#[cfg(target_arch = "x86_64")]
use super::super::{amx, avx512};
use super::operand::{Form, Operand, Panel};
use super::{DEPTH, depth};
#[cfg(target_arch = "x86_64")]
use super::{WORTH_ASKING, operand::Rounded};
use crate::model::backend::Write;

/// Outputs whose weights are turned at a time where both operands are bf16.
#[cfg(target_arch = "x86_64")]
const TURNED: usize = 1024;

/// `dx` `[rows, inputs]` = or += `dy` `[rows, outputs]` · `w`.
pub(in super::super) fn linear_backward(
    isa: Isa,
    dy: &[f32],
    rows: usize,
    w: &Matrix,
    dx: &mut [f32],
    write: Write,
) {
    let (outputs, inputs) = w.shape();
    let dx = &mut dx[..rows * inputs];
    if outputs == 0 && write == Write::Set {
        dx.fill(0.0);
    }
    let panels = inputs.div_ceil(PANEL);
    let operand = Operand::backward(isa, dy, rows, w, panels);
    let dx = Shared::new(dx);
    operand.over_blocks(panels, |tiles, panels| {
        isa.run(Backward { isa, operand: &operand, tiles, w, panels, dx: dx.get(), write });
    });
}

/// Some rows of `dx` for some panels of inputs.
struct Backward<'a> {
    isa: Isa,
    operand: &'a Operand<'a>,
    tiles: Range<usize>,
    w: &'a Matrix,
    panels: Range<usize>,
    /// All of it; only this task's rows and panels are written.
    dx: *mut f32,
    write: Write,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (outputs, inputs) = self.w.shape();
        #[cfg(target_arch = "x86_64")]
        if let (Form::Bf16(rows), Numbers::Bf16(pairs)) = (&self.operand.form, &self.w.numbers) {
            return self.bf16(rows, pairs);
        }
        // Two panels of inputs at a time where tiles are as wide.
        let together = match &self.operand.form {
            Form::Interleaved(_) if self.isa.is_wide() => 2,
            _ => 1,
        };
        let mut turned = [[Line([0.0; PANEL]); DEPTH]; 2];
        for term in (0..outputs).step_by(depth(outputs)) {
            let depth = depth(outputs).min(outputs - term);
            for panel in self.panels.clone().step_by(together) {
                let count = together.min(self.panels.end - panel);
                let columns = (count * PANEL).min(inputs - panel * PANEL);
                for (i, turned) in turned.iter_mut().enumerate().take(count) {
                    let input = (panel + i) * PANEL;
                    let columns = PANEL.min(inputs - input);
                    let blocks = turned[..depth.next_multiple_of(PANEL)].chunks_exact_mut(PANEL);
                    for (block, turned) in blocks.enumerate() {
                        // SAFETY: blocks begin at whole panels of outputs; the inputs are there.
                        unsafe { self.turn::<L>(term / PANEL + block, input, columns, turned) };
                    }
                }
                for tile in self.tiles.clone() {
                    let rows = self.operand.rows_of(tile);
                    // SAFETY: this part of `dx` is this task's alone, and the tile is there.
                    unsafe {
                        let sums = Sums {
                            y: self.dx.add(rows.start * inputs + panel * PANEL),
                            stride: inputs,
                            columns,
                            add: term > 0 || self.write == Write::Add,
                        };
                        #[cfg(target_arch = "x86_64")]
                        if let (2, Form::Interleaved(x)) = (together, &self.operand.form) {
                            self.ask_for(panel + 2, term, depth, tile);
                            let first = self.operand.rows * term + rows.start * depth;
                            let panels = [&turned[0], &turned[1]].map(|turned| turned.as_ptr());
                            let panels = panels.map(|turned| turned.cast());
                            avx512::tile(x.0.as_ptr().add(first), rows.len(), panels, depth, sums);
                            continue;
                        }
                        let numbers = Panel::F32(turned[0].as_ptr().cast());
                        self.operand.tile::<L>(tile, term, depth, numbers, sums);
                    }
                }
            }
        }
    }
}

impl Backward<'_> {
    /// Asks for a tile's share of the weights that are turned for the next two panels of inputs.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn ask_for(&self, panel: usize, term: usize, depth: usize, tile: usize) {
        let Numbers::F32(lines) = &self.w.numbers else { return };
        let ((_, inputs), tiles) = (self.w.shape(), self.tiles.len());
        if panel < self.panels.end && tiles >= WORTH_ASKING {
            let (blocks, tile) = (depth.div_ceil(PANEL), tile - self.tiles.start);
            for block in tile * blocks / tiles..(tile + 1) * blocks / tiles {
                let line = (term / PANEL + block) * inputs + panel * PANEL;
                avx512::ask_for(lines.as_ptr().wrapping_add(line), 2 * PANEL, 0, 1);
            }
        }
    }

    /// Does all tiles with a weight in bf16, two panels of inputs at a time.
    #[cfg(target_arch = "x86_64")]
    fn bf16(&self, dy: &Rounded, pairs: &[Pair]) {
        let (outputs, inputs) = self.w.shape();
        let mut turned = [const { MaybeUninit::<[Pair; TURNED / 2]>::uninit() }; 2];
        let mut registers = amx::Tiles::default();
        for term in (0..outputs).step_by(TURNED) {
            let steps = TURNED.min(outputs - term).div_ceil(amx::TERMS);
            for panel in self.panels.clone().step_by(2) {
                let count = 2.min(self.panels.end - panel);
                for (i, turned) in turned.iter_mut().enumerate().take(count) {
                    let lines = turned.as_mut_ptr().cast::<Pair>();
                    for block in 0..steps * amx::TERMS / PANEL {
                        // SAFETY: there are so many blocks of eight lines in `turned`.
                        unsafe {
                            let to = lines.add(block * PANEL / 2);
                            turn_pairs(pairs, self.w.shape(), term / PANEL + block, panel + i, to);
                        }
                    }
                }
                let panels = [0, count - 1].map(|i| turned[i].as_ptr().cast());
                for tile in self.tiles.clone() {
                    let rows = self.operand.rows_of(tile);
                    let from = dy.at(rows.start, term);
                    let sums = Sums {
                        y: self.dx.wrapping_add(rows.start * inputs + panel * PANEL),
                        stride: inputs,
                        columns: (count * PANEL).min(inputs - panel * PANEL),
                        add: term > 0 || self.write == Write::Add,
                    };
                    // SAFETY: this part of `dx` is this task's alone; rows and steps are there, and
                    // the panels were turned so far. `Isa` has found the tiles, and this task alone
                    // uses the registers of its thread.
                    unsafe {
                        if dy.in_tile_registers {
                            registers.cut(rows.len());
                            registers.block(from, dy.stride, panels, steps, sums);
                        } else {
                            let pairs = steps * amx::TERMS / 2;
                            let (from, stride) = (from.cast(), dy.stride / 2);
                            avx512::tile_of_pairs(from, stride, rows.len(), panels, pairs, sums);
                        }
                    }
                }
            }
        }
    }

    /// Sets `turned` `[16 outputs, 16 inputs]` to a panel's weights from `input` on, zeros beyond
    /// `columns`.
    ///
    /// # Safety
    ///
    /// The panel and the inputs are there; the machine has the lanes.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(
        &self,
        panel: usize,
        input: usize,
        columns: usize,
        turned: &mut [Line],
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if let (Numbers::F32(lines), true) = (&self.w.numbers, self.isa.is_wide())
                && columns == PANEL
            {
                let from = lines.as_ptr().add(panel * self.w.shape().1 + input);
                return avx512::turn_f32(from, turned.as_mut_ptr());
            }
            for half in 0..2 {
                let mut lines = [[L::splat(0.0); 2]; 8];
                for (i, line) in lines.iter_mut().enumerate() {
                    if half * 8 + i < columns {
                        *line = self.w.line::<L>(panel, input + half * 8 + i);
                    }
                }
                for side in 0..2 {
                    // No closures: one that is not inlined has no lanes.
                    let mut block = [L::splat(0.0); 8];
                    for (row, line) in block.iter_mut().zip(&lines) {
                        *row = line[side];
                    }
                    let block = L::transpose(block);
                    for (i, row) in block.into_iter().enumerate() {
                        row.store(turned[side * 8 + i].0.as_mut_ptr().add(half * 8));
                    }
                }
            }
        }
    }
}

/// Sets eight lines, pairs of outputs by 16 inputs, to a panel's weights for one panel of inputs; zeros
/// where there are none.
///
/// # Safety
///
/// `to` has room for eight lines; the machine multiplies bf16.
#[cfg(target_arch = "x86_64")]
unsafe fn turn_pairs(
    pairs: &[Pair],
    (outputs, inputs): (usize, usize),
    panel: usize,
    input_panel: usize,
    to: *mut Pair,
) {
    const LINES: usize = PANEL / 2;
    let each = inputs.div_ceil(2);
    let first = input_panel * LINES;
    let mut some = [Pair([0; PANEL]); LINES];
    let lines = match () {
        () if panel * PANEL >= outputs => &some,
        () if first + LINES <= each => &pairs[panel * each + first..][..LINES],
        () => {
            let count = each - first;
            some[..count].copy_from_slice(&pairs[panel * each + first..][..count]);
            &some[..]
        }
    };
    // SAFETY: as the caller promises.
    unsafe { avx512::turn(lines.as_ptr().cast(), to.cast()) };
}
