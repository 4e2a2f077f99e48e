//! Gradients of an adapter's pairs: of matrices with one narrow side, the rank.
//!
//! Going over the rows, each number of the narrow side is multiplied with a few vectors of the wide
//! one. So the wide side, which is far away, is read as it lies, once for every [`NARROW`] numbers of
//! the narrow one.
//!
//! Sums over rows run in blocks of a fixed number of rows, and blocks are added in order, so neither
//! threads nor tasks have a say in them.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::product::{Left, PANEL, Panels, Target, View, product};
use super::simd::{Isa, Kernel, Lanes, Shared, Sixteen};
use super::threads::parallel;
use crate::model::backend::Write;

/// Rows whose sum is formed before it is added to the gradient.
const ROWS: usize = 256;
/// Numbers of the narrow side whose sums are held together.
const NARROW: usize = 8;
/// Vectors of the wide side in a strip.
const VECTORS: usize = 3;
/// Columns of the wide side that one task takes.
const TASK: usize = 2 * VECTORS * PANEL;
/// Rows ahead of the sums for which the wide side is asked.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 32;

/// `dw` `[outputs, inputs]` += `scale` · `dy` `[rows, outputs]`ᵀ · `x` `[rows, inputs]`.
///
/// One sum for each block of [`ROWS`] rows, added in order.
#[expect(clippy::too_many_arguments, reason = "two operands, their shape and the result")]
pub(super) fn pair_gradient(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    rows: usize,
    outputs: usize,
    inputs: usize,
    scale: f32,
    dw: &mut [f32],
) {
    let (dy, x) = (&dy[..rows * outputs], &x[..rows * inputs]);
    let dw = Shared::new(&mut dw[..outputs * inputs]);
    let across = outputs > inputs;
    let wide = outputs.max(inputs);
    parallel(wide.div_ceil(TASK), |task| {
        let range = task * TASK..wide.min((task + 1) * TASK);
        let shape = Shape { rows, outputs, inputs, scale };
        isa.run(PairGradient { dy, x, shape, across, range, dw: dw.get() });
    });
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    outputs: usize,
    inputs: usize,
    scale: f32,
}

/// Some columns of the wide side.
struct PairGradient<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    shape: Shape,
    /// Whether the outputs are the wide side.
    across: bool,
    range: Range<usize>,
    /// All of it; only what belongs to this task's columns is written.
    dw: *mut f32,
}

impl Kernel for PairGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if L::Sixteen::MANY && self.range.len().is_multiple_of(PANEL) {
            self.in_strips::<L>();
        } else {
            self.in_tiles::<L>();
        }
    }
}

impl PairGradient<'_> {
    /// Holds the sums of a strip of the wide side by a few numbers of the narrow one.
    #[inline(always)]
    fn in_strips<L: Lanes>(&self) {
        let Shape { rows, outputs, inputs, scale } = self.shape;
        // What is multiplied by the scale is the inputs' side, as in tiles.
        let (wide, width, wide_scale, narrow, count, narrow_scale) = match self.across {
            true => (self.dy, outputs, 1.0, self.x, inputs, scale),
            false => (self.x, inputs, scale, self.dy, outputs, 1.0),
        };
        let padded = count.next_multiple_of(NARROW);
        let mut packed = vec![0f32; rows.min(ROWS) * padded];
        for row in (0..rows).step_by(ROWS) {
            let depth = ROWS.min(rows - row);
            let from = narrow[row * count..].chunks_exact(count.max(1));
            for (to, from) in packed.chunks_exact_mut(padded.max(1)).zip(from) {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = narrow_scale * from;
                }
            }
            for column in self.range.clone().step_by(VECTORS * PANEL) {
                let vectors = VECTORS.min((self.range.end - column) / PANEL);
                for first in (0..padded).step_by(NARROW) {
                    let mut sums = [[0f32; VECTORS * PANEL]; NARROW];
                    // SAFETY: `wide` has `depth` rows from `row` on and as many columns from
                    // `column` on as the vectors have, `packed` has as many rows and eight numbers
                    // from `first` on; what is added to is this task's alone.
                    unsafe {
                        let wide = wide.as_ptr().add(row * width + column);
                        let strip = Strip { wide, width, scale: wide_scale, depth };
                        let narrow = packed.as_ptr().add(first);
                        match vectors {
                            3 => strip.sums::<L, 3>(narrow, padded, &mut sums),
                            2 => strip.sums::<L, 2>(narrow, padded, &mut sums),
                            _ => strip.sums::<L, 1>(narrow, padded, &mut sums),
                        }
                        let narrow = first..count.min(first + NARROW);
                        self.add::<L>(&sums, column, vectors * PANEL, narrow);
                    }
                }
            }
        }
    }

    /// Adds the sums of some columns of the wide side by some of the narrow one.
    ///
    /// # Safety
    ///
    /// They are there, and this task's alone; the machine has the lanes.
    #[inline(always)]
    unsafe fn add<L: Lanes>(
        &self,
        sums: &[[f32; VECTORS * PANEL]; NARROW],
        column: usize,
        columns: usize,
        narrow: Range<usize>,
    ) {
        let Shape { inputs, .. } = self.shape;
        // SAFETY: as the caller promises.
        unsafe {
            if !self.across {
                for (sums, output) in sums.iter().zip(narrow) {
                    let to = self.dw.add(output * inputs + column);
                    for (i, sum) in sums.iter().enumerate().take(columns) {
                        *to.add(i) += sum;
                    }
                }
                return;
            }
            for first in (0..columns).step_by(8) {
                let mut block = [L::splat(0.0); NARROW];
                for (to, sums) in block.iter_mut().zip(sums) {
                    *to = L::load(sums.as_ptr().add(first));
                }
                for (i, line) in L::transpose(block).into_iter().enumerate() {
                    let to = self.dw.add((column + first + i) * inputs + narrow.start);
                    if narrow.len() == NARROW {
                        L::load(to).add(line).store(to);
                    } else {
                        for (j, sum) in line.array().into_iter().enumerate().take(narrow.len()) {
                            *to.add(j) += sum;
                        }
                    }
                }
            }
        }
    }

    /// The same, sum by sum, where there are fewer registers or columns are left.
    #[inline(always)]
    fn in_tiles<L: Lanes>(&self) {
        let Shape { rows, outputs, inputs, scale } = self.shape;
        let (output_range, input_range) = match self.across {
            true => (self.range.clone(), 0..inputs),
            false => (0..outputs, self.range.clone()),
        };
        let mut packed = Panels::default();
        for row in (0..rows).step_by(ROWS) {
            let depth = ROWS.min(rows - row);
            let x = &self.x[row * inputs + input_range.start..];
            let columns = input_range.len();
            let right = View::of(x, inputs, depth, columns, scale, &mut packed);
            let left = Left {
                from: self.dy[row * outputs + output_range.start..].as_ptr(),
                row_stride: 1,
                step: outputs,
                rows: output_range.len(),
            };
            // SAFETY: `dy` has `depth` rows from `row` on, and `dw` is `[outputs, inputs]`, of which
            // these ranges are this task's alone.
            unsafe {
                let first = output_range.start * inputs + input_range.start;
                let (to, write) = (self.dw.add(first), Write::Add);
                let target = Target { to, stride: inputs, columns, write };
                product::<L>(left, right, depth, target);
            }
        }
    }
}

/// A strip of the wide side.
struct Strip {
    wide: *const f32,
    /// From one row to the next.
    width: usize,
    scale: f32,
    /// Rows.
    depth: usize,
}

impl Strip {
    /// Sets `sums` to those of the products with `NARROW` numbers of each row, `stride` apart.
    ///
    /// # Safety
    ///
    /// The strip has its rows of `V` vectors, and `narrow` as many; the machine has the lanes.
    #[inline(always)]
    unsafe fn sums<L: Lanes, const V: usize>(
        &self,
        narrow: *const f32,
        stride: usize,
        sums: &mut [[f32; VECTORS * PANEL]; NARROW],
    ) {
        let (mut wide, mut narrow) = (self.wide, narrow);
        // SAFETY: as the caller promises.
        unsafe {
            let scale = L::Sixteen::splat(self.scale);
            let mut tile = [[L::Sixteen::splat(0.0); V]; NARROW];
            for _ in 0..self.depth {
                let mut line = [scale; V];
                for (v, line) in line.iter_mut().enumerate() {
                    // Rows that are further apart than a page are not foreseen.
                    #[cfg(target_arch = "x86_64")]
                    {
                        let ahead = wide.wrapping_add(AHEAD * self.width + v * PANEL);
                        avx512::ask_for(ahead.cast(), 1, 0, 1);
                    }
                    *line = L::Sixteen::load(wide.add(v * PANEL)).mul(scale);
                }
                for (n, sums) in tile.iter_mut().enumerate() {
                    let x = L::Sixteen::splat(*narrow.add(n));
                    for (sum, line) in sums.iter_mut().zip(line) {
                        *sum = x.mul_add(line, *sum);
                    }
                }
                // After the last term they may be further than one past the end.
                (wide, narrow) = (wide.wrapping_add(self.width), narrow.wrapping_add(stride));
            }
            for (to, from) in sums.iter_mut().zip(tile) {
                for (v, sum) in from.into_iter().enumerate() {
                    sum.store(to.as_mut_ptr().add(v * PANEL));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::WeightType;
    use crate::run::seed;

    fn draw(seed: u64, len: usize) -> Vec<f32> {
        (0..len).map(|i| seed::uniform(seed, i as u64) as f32 - 0.5).collect()
    }

    #[test]
    fn a_gradient_is_the_sum_over_rows() {
        let check = |rows: usize, outputs: usize, inputs: usize| {
            let (dy, x) = (draw(1, rows * outputs), draw(2, rows * inputs));
            let before = draw(3, outputs * inputs);
            for (isa, scale) in Isa::all().into_iter().flat_map(|isa| [(isa, 1.0), (isa, 0.5)]) {
                let mut dw = before.clone();
                pair_gradient(isa, &dy, &x, rows, outputs, inputs, scale, &mut dw);
                for o in 0..outputs {
                    for i in 0..inputs {
                        let sum: f64 = (0..rows)
                            .map(|r| dy[r * outputs + o] as f64 * x[r * inputs + i] as f64)
                            .sum();
                        let want = before[o * inputs + i] as f64 + f64::from(scale) * sum;
                        let got = dw[o * inputs + i] as f64;
                        assert!((got - want).abs() < 2e-5, "{isa:?} {rows} {o} {i} {got} {want}");
                    }
                }
            }
        };
        check(1, 1, 1);
        check(7, 4, 33);
        check(300, 16, 100);
        check(513, 101, 4);
        // Whole strips of each width, and a narrow side that is padded.
        check(270, 16, 144);
        check(270, 112, 8);
        check(30, 32, 20);
        check(0, 3, 3);
    }

    #[test]
    fn threads_and_kernels_of_a_class_change_no_bit() {
        let of = |isa: Isa, threads, outputs: usize, inputs: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (dy, x) = (draw(1, 300 * outputs), draw(2, 300 * inputs));
            let mut dw = draw(3, outputs * inputs);
            pool.install(|| pair_gradient(isa, &dy, &x, 300, outputs, inputs, 0.7, &mut dw));
            (isa.class(WeightType::F32), dw)
        };
        for (outputs, inputs) in [(16, 208), (208, 12), (5, 201)] {
            let (class, want) = of(Isa::detect(), 1, outputs, inputs);
            for (isa, threads) in Isa::all().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let (other, got) = of(isa, threads, outputs, inputs);
                assert!(got == want || other != class, "{isa:?} {threads} {outputs} {inputs}");
            }
        }
    }
}
