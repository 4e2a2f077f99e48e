//! Products with packed weights: `x · Wᵀ` and, from the same pack, `dy · W`.
//!
//! The rows of the left operand are brought into the order in which tiles read them, once for the
//! whole product; see [`super::tile`] for the innermost loop. Going forward the right operand is a
//! panel of 16 outputs as it lies in memory. Going backward it is 16 inputs: blocks of the weight are
//! transposed on the way, which is little work against the rows that use them.
//!
//! A sum runs over blocks of about [`DEPTH`] terms: each block's terms in ascending order from zero,
//! the blocks' sums in ascending order. Blocks depend on the number of terms alone, so nothing else
//! has a say in a sum.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::int8;
use super::matrix::{Matrix, Numbers, Pair};
use super::simd::{Isa, Kernel, Lanes, Shared};
use super::tile::{Left, Line, PANEL, Sums, TILE, interleave, rows_of, tile, tile_bf16, with_rows};
use crate::model::backend::Write;

/// Terms in a block of a sum, at most; 16 columns of so many fit into the first-level cache.
const DEPTH: usize = 256;
/// Tiles that one task takes at most.
const TILES: usize = 60;
/// Panels from which on it pays to bring the rows into the tiles' order.
const WORTH_PACKING: usize = 4;
/// Multiplications below which a task is not worth handing to another thread.
const GRAIN: usize = 100_000;

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
            isa,
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
        let each = (most / operand.height()).max(1);
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
            isa: self.isa,
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

/// The rows of a product, as its tiles read them.
struct Operand<'a> {
    rows: usize,
    terms: usize,
    form: Form<'a>,
}

enum Form<'a> {
    /// As they came, `[rows, terms]`.
    Plain(&'a [f32]),
    /// For each block of terms, for each tile `[terms, rows]`: tile after tile is read straight
    /// through.
    Interleaved(Scratch),
    /// The same rounded to bf16, in pairs of terms: for each block, for each tile
    /// `[terms / 2 rounded up, rows]`.
    Pairs(Vec<u32>),
    /// Rounded.
    Int8(int8::Rows),
}

impl<'a> Operand<'a> {
    /// For a product with `panels` panels of a weight.
    fn forward(isa: Isa, x: &'a [f32], rows: usize, w: &Matrix, panels: usize) -> Operand<'a> {
        let (_, terms) = w.shape();
        let form = match w.numbers {
            Numbers::Int8(_) => Form::Int8(int8::Rows::new(&x[..rows * terms], rows, terms)),
            Numbers::Bf16(_) if isa.multiplies_bf16() => Form::Pairs(pairs(x, rows, terms)),
            _ => return Operand::new(x, rows, terms, panels),
        };
        Operand { rows, terms, form }
    }

    fn new(x: &'a [f32], rows: usize, terms: usize, panels: usize) -> Operand<'a> {
        let x = &x[..rows * terms];
        let len = interleaved_len(rows, terms, panels);
        if len == 0 {
            return Operand { rows, terms, form: Form::Plain(x) };
        }
        let mut scratch = Scratch::take(len);
        let to = Shared::new(&mut scratch.0);
        over_tiles(rows.div_ceil(TILE), TILE * terms, |tile| {
            let of_tile = rows_of(tile, rows, TILE);
            for term in (0..terms).step_by(depth(terms)) {
                let depth = depth(terms).min(terms - term);
                // SAFETY: a tile has its rows of `x`, and as much room in each block of the scratch,
                // which no other touches.
                unsafe {
                    let from = x.as_ptr().add(of_tile.start * terms + term);
                    let to = to.get().add(rows * term + of_tile.start * depth);
                    interleave(from, terms, of_tile.len(), depth, to);
                }
            }
        });
        Operand { rows, terms, form: Form::Interleaved(scratch) }
    }

    /// Runs `task` for tiles and panels that make up the product, so that each thread gets a few
    /// tasks worth having.
    fn over_blocks(&self, panels: usize, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let (tiles, rows) = (self.tiles(), self.rows.min(TILES * TILE));
        let blocks = tiles.div_ceil(TILES);
        let tasks = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
        let least = GRAIN.div_ceil((rows * PANEL * self.terms).max(1));
        let group = panels.div_ceil(tasks.max(1)).max(least).max(1);
        let groups = panels.div_ceil(group);
        parallel(blocks * groups, |i| {
            let (tile, panel) = (i / groups * TILES, i % groups * group);
            task(tile..tiles.min(tile + TILES), panel..panels.min(panel + group));
        });
    }

    #[inline(always)]
    fn height(&self) -> usize {
        if matches!(self.form, Form::Int8(_)) { int8::TILE } else { TILE }
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.height())
    }

    #[inline(always)]
    fn rows_of(&self, tile: usize) -> Range<usize> {
        rows_of(tile, self.rows, self.height())
    }

    /// Sums `depth` terms from `term` on of a tile's rows by a panel.
    ///
    /// # Safety
    ///
    /// The tile and the terms are there; `panel` has the lines; `sums.y` is the place of the tile's
    /// first row and has all its rows; the machine has the lanes.
    #[inline(always)]
    unsafe fn tile<L: Lanes>(
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
                        Panel::F32(panel) => tile::<L, N>(left, panel, depth, sums),
                        Panel::Bf16(panel) => tile_bf16::<L, N>(left, panel, depth, sums),
                    });
                }
                (Form::Interleaved(x), panel) => with_rows!(rows.len(), N => {
                    let from = x.0.as_ptr().add(self.rows * term + rows.start * depth);
                    let left = Left { from, row_stride: 1, step: N };
                    match panel {
                        Panel::F32(panel) => tile::<L, N>(left, panel, depth, sums),
                        Panel::Bf16(panel) => tile_bf16::<L, N>(left, panel, depth, sums),
                    }
                }),
                (Form::Int8(_) | Form::Pairs(_), _) => {
                    unreachable!("rounded rows have tiles of their own")
                }
            }
        }
    }
}

/// Returns how many numbers the rows of a product take in the order of its tiles; 0 where they stay
/// as they came.
fn interleaved_len(rows: usize, terms: usize, panels: usize) -> usize {
    if rows <= 1 || panels < WORTH_PACKING { 0 } else { rows * terms }
}

/// Returns how many numbers a product works in at most: rows that are rounded for a weight take less.
pub(super) fn scratch_len(rows: usize, terms: usize, columns: usize) -> usize {
    interleaved_len(rows, terms, columns.div_ceil(PANEL))
}

/// Rounds rows to bf16 and puts two terms into a word, the first into its low half.
fn pairs(x: &[f32], rows: usize, terms: usize) -> Vec<u32> {
    let mut words = vec![0; rows * terms.div_ceil(2)];
    let to = Shared::new(&mut words);
    over_tiles(rows.div_ceil(TILE), TILE * terms, |tile| {
        let of_tile = rows_of(tile, rows, TILE);
        for term in (0..terms).step_by(depth(terms)) {
            let depth = depth(terms).min(terms - term);
            // Blocks but the last have whole pairs.
            let first = rows * (term / 2) + of_tile.start * depth.div_ceil(2);
            for (r, row) in of_tile.clone().enumerate() {
                for (i, values) in x[row * terms + term..][..depth].chunks(2).enumerate() {
                    let word = Pair::word(values[0], values.get(1).copied().unwrap_or(0.0));
                    // SAFETY: a tile has room for its rows in each block, which no other touches.
                    unsafe { *to.get().add(first + i * of_tile.len() + r) = word };
                }
            }
        }
    });
    words
}

/// A panel's numbers from some term on.
#[derive(Clone, Copy)]
enum Panel {
    F32(*const f32),
    Bf16(*const u32),
}

/// Some rows of `y` for some panels.
struct Forward<'a> {
    isa: Isa,
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
        if let Form::Int8(rows) = &self.operand.form {
            self.int8::<L>(rows);
        } else if self.is_wide() {
            self.wide();
        } else {
            // Panel by panel, so that the sums of all blocks of terms are added where they are near.
            for panel in self.panels.clone() {
                for term in (0..inputs).step_by(depth(inputs)) {
                    self.panel::<L>(panel, term, widened.as_mut_ptr().cast());
                }
            }
        }
    }
}

impl Forward<'_> {
    /// Says whether tiles of two panels do it.
    #[inline(always)]
    fn is_wide(&self) -> bool {
        match (&self.operand.form, &self.w.numbers) {
            (Form::Pairs(_), _) => true,
            (Form::Interleaved(_), Numbers::F32(_)) => self.isa.is_wide(),
            _ => false,
        }
    }

    /// Does all tiles, two panels at a time.
    #[cfg(target_arch = "x86_64")]
    fn wide(&self) {
        let (_, inputs) = self.w.shape();
        let step = depth(inputs);
        for term in (0..inputs).step_by(step) {
            let depth = step.min(inputs - term);
            for panel in self.panels.clone().step_by(2) {
                // Where there is no second one, none of its columns is written.
                let next = (panel + 1).min(self.panels.end - 1);
                for tile in self.tiles.clone() {
                    let rows = self.operand.rows_of(tile);
                    let mut sums = self.sums(panel, rows.start, term);
                    if next > panel {
                        sums.columns += PANEL.min(self.outputs - next * PANEL);
                    }
                    // SAFETY: rows, terms and panels are there, and `Isa` has found the tiles.
                    unsafe {
                        match (&self.operand.form, &self.w.numbers) {
                            (Form::Pairs(words), Numbers::Bf16(pairs)) => {
                                let half = inputs.div_ceil(2);
                                let first =
                                    self.operand.rows * (term / 2) + rows.start * depth.div_ceil(2);
                                let lines =
                                    |panel: usize| pairs.as_ptr().add(panel * half + term / 2);
                                avx512::tile_of_pairs(
                                    words.as_ptr().add(first),
                                    rows.len(),
                                    [lines(panel).cast(), lines(next).cast()],
                                    depth.div_ceil(2),
                                    sums,
                                );
                            }
                            (Form::Interleaved(x), Numbers::F32(lines)) => {
                                let first = self.operand.rows * term + rows.start * depth;
                                let lines =
                                    |panel: usize| lines.as_ptr().add(panel * inputs + term);
                                avx512::tile(
                                    x.0.as_ptr().add(first),
                                    rows.len(),
                                    [lines(panel).cast(), lines(next).cast()],
                                    depth,
                                    sums,
                                );
                            }
                            _ => unreachable!("asked before"),
                        }
                    }
                }
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn wide(&self) {
        unreachable!("no other machine has tiles of two panels")
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

/// `dx` `[rows, inputs]` = or += `dy` `[rows, outputs]` · `w`.
pub(super) fn linear_backward(
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
    let operand = Operand::new(dy, rows, outputs, panels);
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
            for half in 0..2 {
                let mut lines = [[L::splat(0.0); 2]; 8];
                for (i, line) in lines.iter_mut().enumerate() {
                    if half * 8 + i < columns {
                        *line = self.w.line::<L>(panel, input + half * 8 + i);
                    }
                }
                for side in 0..2 {
                    let block = L::transpose(lines.map(|line| line[side]));
                    for (i, row) in block.into_iter().enumerate() {
                        row.store(turned[side * 8 + i].0.as_mut_ptr().add(half * 8));
                    }
                }
            }
        }
    }
}

/// Scratch memory for the next product: as much as products that ran at the same time needed, not as
/// much for each thread that one of them began on.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Memory that is kept from one product to the next: taking it from the system each time would cost
/// as much as some products.
pub(super) struct Scratch(pub(super) Vec<f32>);

impl Scratch {
    /// Returns at least `len` numbers, of any value.
    pub(super) fn take(len: usize) -> Scratch {
        let mut memory = free().pop().unwrap_or_default();
        if memory.len() < len {
            drop(memory);
            memory = vec![0.0; len.next_power_of_two()];
            super::pages::advise(&mut memory);
        }
        Scratch(memory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        free().push(std::mem::take(&mut self.0));
    }
}

fn free() -> MutexGuard<'static, Vec<Vec<f32>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `task` for each tile of `work` numbers, several in a go.
pub(super) fn over_tiles(tiles: usize, work: usize, task: impl Fn(usize) + Sync) {
    let each = GRAIN.div_ceil(work.max(1));
    parallel(tiles.div_ceil(each), |group| {
        (group * each..tiles.min((group + 1) * each)).for_each(&task);
    });
}

/// Runs tasks `0..count`, on other threads where there is more than one.
pub(super) fn parallel(count: usize, task: impl Fn(usize) + Sync) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(&task);
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::WeightType;
    use crate::model::tiny::normal;

    /// Returns by how much a product is off from sums in f64 over the weight as it is kept, for each
    /// root of the number of terms, and demands that a row has the same bits alone.
    fn error(
        isa: Isa,
        weight_type: WeightType,
        backward: bool,
        rows: usize,
        outputs: usize,
        inputs: usize,
    ) -> f64 {
        let values = normal(1, outputs * inputs, 1.0);
        let matrix = Matrix::new(&values, outputs, inputs, weight_type);
        let mut w = vec![0.0; outputs * inputs];
        for (o, row) in w.chunks_mut(inputs.max(1)).enumerate().take(outputs) {
            matrix.row(o, row);
        }
        let (terms, width) = if backward { (outputs, inputs) } else { (inputs, outputs) };
        let x = normal(2, rows * terms, 1.0);
        let before = normal(4, rows * width, 1.0);
        let product = |rows: usize, x: &[f32], y: &mut [f32], write| match backward {
            true => linear_backward(isa, x, rows, &matrix, y, write),
            false => linear(isa, x, rows, &matrix, y, write),
        };
        let mut y = vec![f32::NAN; rows * width];
        product(rows, &x, &mut y, Write::Set);
        let mut added = before.clone();
        product(rows, &x, &mut added, Write::Add);
        // Rows are rounded as well where a weight has eight bits.
        let mut rounded = x.clone();
        if weight_type == WeightType::Int8 && !backward {
            for block in rounded.chunks_mut(terms.max(1)).flat_map(|row| row.chunks_mut(32)) {
                let largest = block.iter().map(|x| x.abs()).fold(0.0, f32::max);
                block.iter_mut().for_each(|x| {
                    *x = (*x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
                });
            }
        }
        let mut worst = 0f64;
        for r in 0..rows {
            let mut alone = vec![0.0; width];
            product(1, &x[r * terms..(r + 1) * terms], &mut alone, Write::Set);
            assert!(alone == y[r * width..(r + 1) * width], "{weight_type:?} row {r} of {rows}");
            for c in 0..width {
                let w = |t: usize| if backward { w[t * inputs + c] } else { w[c * inputs + t] };
                let want: f64 =
                    (0..terms).map(|t| rounded[r * terms + t] as f64 * w(t) as f64).sum();
                let i = r * width + c;
                let sum = added[i] as f64 - before[i] as f64;
                worst = worst.max((y[i] as f64 - want).abs()).max((sum - want).abs());
            }
        }
        worst / (terms as f64).sqrt().max(1.0)
    }

    #[test]
    fn products_are_right_and_a_row_does_not_depend_on_the_others() {
        let check = |rows: usize, outputs: usize, inputs: usize| {
            for isa in Isa::all() {
                for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
                    for backward in [false, true] {
                        let error = error(isa, weight_type, backward, rows, outputs, inputs);
                        let what = (isa, weight_type, backward);
                        assert!(error < 4e-6, "{what:?} {rows} {outputs} {inputs}: {error:e}");
                    }
                }
            }
        };
        for rows in (0..20).chain([121, 185]) {
            for (outputs, inputs) in [(1, 1), (17, 3), (16, 7), (40, 33), (5, 256), (80, 97)] {
                check(rows, outputs, inputs);
            }
        }
        check(20, 33, 257);
        check(7, 300, 48);
        check(14, 2, 600);
        check(3, 520, 200);
        check(200, 70, 40);
    }

    #[test]
    fn what_is_no_number_is_not_lost() {
        let (rows, outputs, inputs) = (4, 20, 70);
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
            let values = normal(1, outputs * inputs, 1.0);
            let matrix = Matrix::new(&values, outputs, inputs, weight_type);
            for bad in [f32::NAN, f32::INFINITY] {
                for isa in Isa::all() {
                    let mut x = normal(2, rows * inputs, 1.0);
                    x[2 * inputs + 40] = bad;
                    let mut y = vec![0.0; rows * outputs];
                    linear(isa, &x, rows, &matrix, &mut y, Write::Set);
                    for (row, y) in y.chunks(outputs).enumerate() {
                        let finite = y.iter().all(|y| y.is_finite());
                        let none = y.iter().all(|y| !y.is_finite());
                        assert!(
                            if row == 2 { none } else { finite },
                            "{weight_type:?} {bad} {row}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (rows, outputs, inputs) = (250, 700, 300);
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
            let values = normal(1, outputs * inputs, 1.0);
            let matrix = Matrix::new(&values, outputs, inputs, weight_type);
            let (x, dy) = (normal(2, rows * inputs, 1.0), normal(3, rows * outputs, 1.0));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
                    linear(Isa::detect(), &x, rows, &matrix, &mut y, Write::Set);
                    linear_backward(Isa::detect(), &dy, rows, &matrix, &mut dx, Write::Set);
                    (y, dx)
                })
            };
            assert!(run(1) == run(2) && run(1) == run(3));
        }
    }
}
