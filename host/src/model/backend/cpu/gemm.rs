//! Products with packed weights: `x · Wᵀ` and, from the same pack, `dy · W`.
//!
//! A weight `[outputs, inputs]` is cut into panels of 16 outputs, each stored as `[inputs, 16]`, so
//! that one input's 16 weights are one cache line. Both kernels keep a tile of 6 × 16 sums in
//! registers. Going forward the 16 are outputs and the 6 are rows; going backward the 16 are rows
//! and the 6 are inputs, with weights broadcast and rows of `dy` packed. So one copy of a weight
//! serves both, and the embedding lookup too.
//!
//! A sum runs over blocks of [`DEPTH`] terms: each block's terms in ascending order from zero, the
//! blocks' sums in ascending order. Nothing else has a say in it.

use rayon::prelude::*;

use super::simd::{Isa, Kernel, Lanes, Shared};
use crate::model::backend::Write;

/// Outputs in a panel.
const PANEL: usize = 16;
/// Rows (forward) or inputs (backward) in a tile.
const TILE: usize = 6;
/// Terms in a block of a sum.
const DEPTH: usize = 256;
/// Rows that one task takes: with `DEPTH` terms each they fit into the second-level cache.
const ROWS: usize = 120;
/// Panels that one task takes at most.
const PANELS: usize = 16;
/// Multiplications below which a task is not worth handing to another thread.
const GRAIN: usize = 100_000;

/// One input's weights in a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; PANEL]);

/// A weight `[outputs, inputs]` in panels; see the [module](self).
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    /// `[outputs / 16 rounded up, inputs]`; zeros beyond the last output.
    lines: Vec<Line>,
}

impl Matrix {
    /// Packs `values`, row-major.
    pub(super) fn new(values: &[f32], outputs: usize, inputs: usize) -> Matrix {
        let lines = vec![Line([0.0; PANEL]); outputs.div_ceil(PANEL) * inputs];
        let mut matrix = Matrix { outputs, inputs, lines };
        matrix.fill(values, 1.0);
        matrix
    }

    /// Overwrites the weight with `scale` times `values`, row-major.
    pub(super) fn fill(&mut self, values: &[f32], scale: f32) {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let values = &values[..outputs * inputs];
        if values.is_empty() {
            return;
        }
        self.lines.par_chunks_mut(inputs).enumerate().for_each(|(panel, lines)| {
            let rows = &values[panel * PANEL * inputs..];
            for (lane, row) in rows.chunks_exact(inputs).take(PANEL).enumerate() {
                for (line, &value) in lines.iter_mut().zip(row) {
                    line.0[lane] = scale * value;
                }
            }
        });
    }

    /// Returns `(outputs, inputs)`.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }

    /// Returns the numbers as they lie, padding included.
    pub(super) fn packed(&self) -> &[f32] {
        // SAFETY: a line is sixteen f32 and nothing else.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), PANEL * self.lines.len()) }
    }

    /// Returns the numbers as they lie, padding included, which must stay 0.
    pub(super) fn packed_mut(&mut self) -> &mut [f32] {
        let len = PANEL * self.lines.len();
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// Copies one row, `[inputs]`, out of its panel.
    pub(super) fn row(&self, row: usize, y: &mut [f32]) {
        assert!(row < self.outputs, "row {row} of a matrix with {} rows", self.outputs);
        let lines = &self.lines[row / PANEL * self.inputs..][..self.inputs];
        for (y, line) in y.iter_mut().zip(lines) {
            *y = line.0[row % PANEL];
        }
    }
}

/// `y` `[rows, outputs]` = or += `x` `[rows, inputs]` · `w`ᵀ.
pub(super) fn linear(isa: Isa, x: &[f32], rows: usize, w: &Matrix, y: &mut [f32], write: Write) {
    let (x, y) = (&x[..rows * w.inputs], &mut y[..rows * w.outputs]);
    let stride = w.outputs;
    let y = Shared::new(y);
    let panels = w.outputs.div_ceil(PANEL);
    let row_blocks = rows.div_ceil(ROWS);
    let group = group(panels, row_blocks, rows.min(ROWS) * PANEL * w.inputs);
    let groups = panels.div_ceil(group);
    parallel(row_blocks * groups, |task| {
        let (block, group_index) = (task / groups, task % groups);
        let (row, panel) = (block * ROWS, group_index * group);
        let (rows, panels) = (ROWS.min(rows - row), group.min(panels - panel));
        // SAFETY: `y` has `rows * outputs` numbers, and tasks write disjoint rows and columns.
        unsafe { block_forward(isa, x, row, rows, w, panel, panels, y.get(), stride, write) }
    });
}

/// `y` `[rows, panels * 16]` = `x` · `w`ᵀ for some of the panels, on this thread; the last panel
/// may be cut off by the end of the weight, where `y` gets zeros.
pub(super) fn linear_panels(
    isa: Isa,
    x: &[f32],
    rows: usize,
    w: &Matrix,
    panels: std::ops::Range<usize>,
    y: &mut [f32],
) {
    let (x, stride) = (&x[..rows * w.inputs], panels.len() * PANEL);
    assert!(y.len() >= rows * stride && panels.end <= w.outputs.div_ceil(PANEL));
    let y = y.as_mut_ptr().wrapping_sub(panels.start * PANEL);
    let padded = Forward {
        x: x.as_ptr(),
        inputs: w.inputs,
        rows,
        lines: w.lines.as_ptr(),
        panels,
        outputs: usize::MAX,
        y,
        stride,
        write: Write::Set,
    };
    isa.run(padded);
}

/// # Safety
///
/// `y` has room for rows `row..row + rows` of `stride` numbers each, and no other thread touches
/// the columns of these panels in them.
#[expect(clippy::too_many_arguments, reason = "two ranges and three matrices")]
unsafe fn block_forward(
    isa: Isa,
    x: &[f32],
    row: usize,
    rows: usize,
    w: &Matrix,
    panel: usize,
    panels: usize,
    y: *mut f32,
    stride: usize,
    write: Write,
) {
    isa.run(Forward {
        x: x[row * w.inputs..(row + rows) * w.inputs].as_ptr(),
        inputs: w.inputs,
        rows,
        lines: w.lines.as_ptr(),
        panels: panel..panel + panels,
        outputs: w.outputs,
        // SAFETY: the row is within `y`, says the caller.
        y: unsafe { y.add(row * stride) },
        stride,
        write,
    });
}

/// Some rows of `y` for some panels.
struct Forward {
    x: *const f32,
    inputs: usize,
    rows: usize,
    lines: *const Line,
    panels: std::ops::Range<usize>,
    /// Columns of `y` from here on are not written.
    outputs: usize,
    y: *mut f32,
    stride: usize,
    write: Write,
}

impl Kernel for Forward {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.inputs == 0 && self.write == Write::Set {
            for row in 0..self.rows {
                for column in self.panels.start * PANEL..(self.panels.end * PANEL).min(self.outputs)
                {
                    // SAFETY: within the part of `y` that is this task's.
                    unsafe { *self.y.add(row * self.stride + column) = 0.0 };
                }
            }
        }
        let tiles = self.rows.div_ceil(TILE);
        for start in (0..self.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.inputs - start);
            let add = start > 0 || self.write == Write::Add;
            for panel in self.panels.clone() {
                let columns = PANEL.min(self.outputs - panel * PANEL);
                // Tiles of nearly equal height: a lone last row would leave the adders idle.
                for tile in 0..tiles {
                    let (row, end) = (tile * self.rows / tiles, (tile + 1) * self.rows / tiles);
                    // SAFETY: rows and columns are within `x`, `lines` and this task's part of `y`.
                    unsafe {
                        let x = self.x.add(row * self.inputs + start);
                        let w = self.lines.add(panel * self.inputs + start).cast::<f32>();
                        let y = self.y.wrapping_add(row * self.stride + panel * PANEL);
                        let sums = Sums { y, stride: self.stride, columns, add };
                        // Each tile fetches a part of the next panel while it computes.
                        let part = (panel + 1) * self.inputs + start + tile * DEPTH / 4;
                        let ahead = self.lines.wrapping_add(part).cast::<f32>();
                        let ahead = if tile < 4 { ahead } else { w };
                        match end - row {
                            6 => tile_forward::<L, 6>(x, self.inputs, w, ahead, depth, sums),
                            5 => tile_forward::<L, 5>(x, self.inputs, w, ahead, depth, sums),
                            4 => tile_forward::<L, 4>(x, self.inputs, w, ahead, depth, sums),
                            3 => tile_forward::<L, 3>(x, self.inputs, w, ahead, depth, sums),
                            2 => tile_forward::<L, 2>(x, self.inputs, w, ahead, depth, sums),
                            _ => tile_forward::<L, 1>(x, self.inputs, w, ahead, depth, sums),
                        }
                    }
                }
            }
        }
    }
}

/// Where a tile's sums go.
struct Sums {
    y: *mut f32,
    stride: usize,
    columns: usize,
    add: bool,
}

/// # Safety
///
/// `x` has `N` rows of `depth` numbers, `stride` apart; `w` has `depth` lines; `sums.y` has `N` rows
/// of `sums.columns` numbers; the machine has the lanes.
#[inline(always)]
unsafe fn tile_forward<L: Lanes, const N: usize>(
    x: *const f32,
    stride: usize,
    w: *const f32,
    ahead: *const f32,
    depth: usize,
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut tile = [[L::splat(0.0); 2]; N];
        // Four terms a turn: the loop's own instructions are not for free.
        let whole = depth - depth % 4;
        for i in (0..whole).step_by(4) {
            L::prefetch(ahead.wrapping_add(i / 4 * PANEL));
            for i in i..i + 4 {
                term(x.add(i), stride, w.add(i * PANEL), &mut tile);
            }
        }
        for i in whole..depth {
            term(x.add(i), stride, w.add(i * PANEL), &mut tile);
        }
        for (r, &sum) in tile.iter().enumerate() {
            put(sum, sums.y.add(r * sums.stride), sums.columns, sums.add);
        }
    }
}

/// Adds one term to each sum of a tile.
///
/// # Safety
///
/// `x` has `N` numbers, `stride` apart; `w` has a line; the machine has the lanes.
#[inline(always)]
unsafe fn term<L: Lanes, const N: usize>(
    x: *const f32,
    stride: usize,
    w: *const f32,
    tile: &mut [[L; 2]; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let (low, high) = (L::load(w), L::load(w.add(8)));
        for (r, sum) in tile.iter_mut().enumerate() {
            let x = L::splat(*x.add(r * stride));
            sum[0] = x.mul_add(low, sum[0]);
            sum[1] = x.mul_add(high, sum[1]);
        }
    }
}

/// Writes or adds the first `columns` of 16 numbers.
///
/// # Safety
///
/// `y` has room for `columns` numbers; the machine has the lanes.
#[inline(always)]
unsafe fn put<L: Lanes>(sum: [L; 2], y: *mut f32, columns: usize, add: bool) {
    // SAFETY: whole panels go straight to `y`, others only as far as `columns`.
    unsafe {
        if columns == PANEL {
            for (half, sum) in sum.into_iter().enumerate() {
                let y = y.add(8 * half);
                (if add { L::load(y).add(sum) } else { sum }).store(y);
            }
        } else {
            let sum = [sum[0].array(), sum[1].array()];
            for (i, &sum) in sum.as_flattened().iter().take(columns).enumerate() {
                *y.add(i) = if add { *y.add(i) + sum } else { sum };
            }
        }
    }
}

/// Rows that one task of the backward product takes, in panels of 16.
const ROW_PANELS: usize = 8;
/// Inputs that one task of the backward product takes; a multiple of `TILE`.
const INPUTS: usize = 192;

/// `dx` `[rows, inputs]` = or += `dy` `[rows, outputs]` · `w`.
pub(super) fn linear_backward(
    isa: Isa,
    dy: &[f32],
    rows: usize,
    w: &Matrix,
    dx: &mut [f32],
    write: Write,
) {
    let (dy, dx) = (&dy[..rows * w.outputs], &mut dx[..rows * w.inputs]);
    if w.outputs == 0 && write == Write::Set {
        dx.fill(0.0);
    }
    let dx = Shared::new(dx);
    let groups = w.inputs.div_ceil(INPUTS);
    parallel(rows.div_ceil(ROW_PANELS * PANEL) * groups, |task| {
        let (row, input) = (task / groups * ROW_PANELS * PANEL, task % groups * INPUTS);
        isa.run(Backward {
            dy,
            row,
            rows: (ROW_PANELS * PANEL).min(rows - row),
            w,
            input,
            inputs: INPUTS.min(w.inputs - input),
            dx: dx.get(),
            write,
        });
    });
}

/// Some rows of `dx` for some inputs.
struct Backward<'a> {
    dy: &'a [f32],
    row: usize,
    rows: usize,
    w: &'a Matrix,
    input: usize,
    inputs: usize,
    /// All of it; only this task's rows and columns are written.
    dx: *mut f32,
    write: Write,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let panels = self.rows.div_ceil(PANEL);
        let width = panels * PANEL;
        let tiles = self.inputs.div_ceil(TILE);
        let mut packed = vec![Line([0.0; PANEL]); panels * DEPTH];
        // The result transposed: `[inputs, rows]`, with room for a whole last tile.
        let mut sums = vec![0f32; tiles * TILE * width];
        for start in (0..self.w.outputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.w.outputs - start);
            for r in 0..self.rows {
                let dy = &self.dy[(self.row + r) * self.w.outputs + start..][..depth];
                let lines = &mut packed[r / PANEL * DEPTH..][..depth];
                for (line, &dy) in lines.iter_mut().zip(dy) {
                    line.0[r % PANEL] = dy;
                }
            }
            let first_line = start / PANEL * self.w.inputs + self.input;
            for tile in 0..tiles {
                let height = TILE.min(self.inputs - tile * TILE);
                let lines = &self.w.lines[first_line + tile * TILE..];
                for panel in 0..panels {
                    let rows = packed[panel * DEPTH..].as_ptr().cast::<f32>();
                    let sums = sums[tile * TILE * width + panel * PANEL..].as_mut_ptr();
                    // SAFETY: `lines` reaches the last input of the last panel of this block,
                    // `packed` has `depth` lines, and `sums` rows for a whole tile.
                    unsafe {
                        let w = lines.as_ptr().cast::<f32>();
                        if height == TILE {
                            tile_backward::<L, TILE>(w, self.w.inputs, rows, depth, sums, width);
                        } else {
                            for i in 0..height {
                                let (w, sums) = (w.add(i * PANEL), sums.add(i * width));
                                tile_backward::<L, 1>(w, self.w.inputs, rows, depth, sums, width);
                            }
                        }
                    }
                }
            }
        }
        for r in 0..self.rows {
            // SAFETY: these rows and inputs are this task's alone, and within `dx`.
            let dx = unsafe {
                let first = (self.row + r) * self.w.inputs + self.input;
                std::slice::from_raw_parts_mut(self.dx.add(first), self.inputs)
            };
            for (i, dx) in dx.iter_mut().enumerate() {
                let sum = sums[i * width + r];
                *dx = if self.write == Write::Add { *dx + sum } else { sum };
            }
        }
    }
}

/// Adds to `sums` `[N, 16 rows]` what `depth` outputs give for `N` inputs.
///
/// # Safety
///
/// `w` has the `N` lines of as many panels as `depth` outputs take, `inputs` lines apart; `rows` has
/// `depth` lines; `sums` has `N` rows of 16, `stride` apart; the machine has the lanes.
#[inline(always)]
unsafe fn tile_backward<L: Lanes, const N: usize>(
    w: *const f32,
    inputs: usize,
    rows: *const f32,
    depth: usize,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut tile = [[L::splat(0.0); 2]; N];
        let mut j = 0;
        while j < depth {
            let w = w.add(j * inputs);
            let lanes = PANEL.min(depth - j);
            for lane in 0..lanes {
                // The roles of rows and weights are swapped, the sum is the same.
                term(w.add(lane), PANEL, rows.add((j + lane) * PANEL), &mut tile);
            }
            j += PANEL;
        }
        for (i, &sum) in tile.iter().enumerate() {
            put(sum, sums.add(i * stride), PANEL, true);
        }
    }
}

/// Returns how many panels a task takes, so that each thread gets a few tasks worth having.
fn group(panels: usize, row_blocks: usize, work: usize) -> usize {
    let tasks = (4 * rayon::current_num_threads()).div_ceil(row_blocks.max(1));
    let least = GRAIN.div_ceil(work.max(1));
    panels.div_ceil(tasks.max(1)).max(least).clamp(1, PANELS.max(least))
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
    use crate::model::tiny::normal;

    /// Returns the largest difference from sums in f64, and the result's bits.
    fn differences(isa: Isa, rows: usize, outputs: usize, inputs: usize) -> (f64, f64) {
        let w = normal(1, outputs * inputs, 1.0);
        let matrix = Matrix::new(&w, outputs, inputs);
        let before = normal(4, rows * outputs.max(inputs), 1.0);
        let worst = |backward: bool| {
            let (terms, width) = if backward { (outputs, inputs) } else { (inputs, outputs) };
            let x = normal(2, rows * terms, 1.0);
            let product = |rows: usize, x: &[f32], y: &mut [f32], write| match backward {
                true => linear_backward(isa, x, rows, &matrix, y, write),
                false => linear(isa, x, rows, &matrix, y, write),
            };
            let mut y = vec![f32::NAN; rows * width];
            product(rows, &x, &mut y, Write::Set);
            let mut added = before[..rows * width].to_vec();
            product(rows, &x, &mut added, Write::Add);
            let mut worst = 0f64;
            for r in 0..rows {
                let mut alone = vec![0.0; width];
                product(1, &x[r * terms..(r + 1) * terms], &mut alone, Write::Set);
                assert!(alone == y[r * width..(r + 1) * width], "row {r} of {rows}");
                for c in 0..width {
                    let w = |t: usize| if backward { w[t * inputs + c] } else { w[c * inputs + t] };
                    let want: f64 = (0..terms).map(|t| x[r * terms + t] as f64 * w(t) as f64).sum();
                    let i = r * width + c;
                    let sum = added[i] as f64 - before[i] as f64;
                    worst = worst.max((y[i] as f64 - want).abs()).max((sum - want).abs());
                }
            }
            worst / (terms as f64).sqrt().max(1.0)
        };
        (worst(false), worst(true))
    }

    #[test]
    fn products_are_right_and_a_row_does_not_depend_on_the_others() {
        for isa in [Isa::detect(), Isa::Portable] {
            for rows in (0..18).chain([119, 121, 130, 259]) {
                for (outputs, inputs) in
                    [(1, 1), (17, 3), (16, 7), (40, 33), (5, 256), (33, 257), (300, 48), (2, 600)]
                {
                    let (forward, backward) = differences(isa, rows, outputs, inputs);
                    assert!(
                        forward < 4e-6 && backward < 4e-6,
                        "{isa:?} {rows} {outputs} {inputs}: {forward:e} {backward:e}"
                    );
                }
            }
            let (forward, backward) = differences(isa, 3, 520, 200);
            assert!(forward < 4e-6 && backward < 4e-6, "{forward:e} {backward:e}");
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (rows, outputs, inputs) = (150, 700, 300);
        let matrix = Matrix::new(&normal(1, outputs * inputs, 1.0), outputs, inputs);
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

    #[test]
    fn rows_come_back_out_of_the_pack() {
        let values = normal(1, 35 * 9, 1.0);
        let mut matrix = Matrix::new(&values, 35, 9);
        let row = |matrix: &Matrix, i| {
            let mut row = [0.0; 9];
            matrix.row(i, &mut row);
            row
        };
        for i in 0..35 {
            assert_eq!(row(&matrix, i), values[i * 9..(i + 1) * 9]);
        }
        matrix.fill(&values, 2.0);
        assert_eq!(row(&matrix, 34)[8], 2.0 * values[34 * 9 + 8]);
    }
}
