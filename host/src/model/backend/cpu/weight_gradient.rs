//! Gradients of weights that are trained themselves, in the layout of the weights.
//!
//! A packed weight lies in panels of 16 outputs, each `[inputs, 16]` (see [`super::matrix`]), and its
//! gradient lies likewise. So a tile of sums, 6 inputs by 16 outputs, is added where it belongs as
//! it stands in registers. The outputs' side of the product, rows of `dy`, is packed panel by panel
//! within the tasks; the inputs' side, columns of `x`, once for all of them.
//!
//! Sums over rows run in blocks of a fixed number of rows, and blocks are added in order, so neither
//! threads nor tasks have a say in them.

use std::ops::Range;

use super::elementwise::inverse_rms;
use super::product::{Left, PANEL, Panels, Target, View, product_apart};
use super::scratch::Scratch;
use super::simd::{Isa, Kernel, Lanes, Shared};
use super::threads::{over_parts, parallel};
use crate::model::backend::Write;

/// Rows whose sum is formed before it is added to the gradient.
const ROWS: usize = 256;
/// Inputs in a tile of sums.
const TILE: usize = 6;

/// Returns how many numbers a packed weight has.
pub(super) fn packed_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// `dw`, packed, += `dy` `[rows, outputs]`ᵀ · `x` `[rows, inputs]`.
pub(super) fn packed(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    rows: usize,
    outputs: usize,
    inputs: usize,
    dw: &mut [f32],
) {
    let (dy, x) = (&dy[..rows * outputs], &x[..rows * inputs]);
    let dw = Shared::new(&mut dw[..packed_len(outputs, inputs)]);
    let panels = outputs.div_ceil(PANEL);
    // A few tasks for each thread.
    let group = panels.div_ceil(8 * rayon::current_num_threads()).max(1);
    let mut columns = Scratch::take(rows.min(ROWS) * TILE * inputs.div_ceil(TILE));
    for row in (0..rows).step_by(ROWS) {
        let depth = ROWS.min(rows - row);
        let tile_len = depth * TILE;
        let columns = &mut columns.0[..tile_len * inputs.div_ceil(TILE)];
        over_parts(columns, tile_len, |tile, columns| {
            pack_columns(&x[row * inputs..][..depth * inputs], inputs, tile * TILE, columns);
        });
        let dy = &dy[row * outputs..][..depth * outputs];
        let columns = &columns[..];
        parallel(panels.div_ceil(group), |task| {
            let panels = task * group..panels.min((task + 1) * group);
            isa.run(PackedGradient { dy, columns, depth, outputs, inputs, panels, dw: dw.get() });
        });
    }
}

/// Copies `TILE` columns of `x` `[depth, inputs]`, or as many as are left, to `[depth, TILE]`.
fn pack_columns(x: &[f32], inputs: usize, first: usize, columns: &mut [f32]) {
    let count = TILE.min(inputs - first);
    for (to, from) in columns.chunks_exact_mut(TILE).zip(x.chunks_exact(inputs)) {
        match from[first..].first_chunk::<TILE>() {
            Some(from) => to.copy_from_slice(from),
            None => to[..count].copy_from_slice(&from[first..]),
        }
    }
}

/// Some panels of a gradient, for one block of rows.
struct PackedGradient<'a> {
    /// `[depth, outputs]`
    dy: &'a [f32],
    /// `[inputs / TILE rounded up, depth, TILE]`
    columns: &'a [f32],
    depth: usize,
    outputs: usize,
    inputs: usize,
    panels: Range<usize>,
    /// All of it; only these panels are written.
    dw: *mut f32,
}

impl Kernel for PackedGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let PackedGradient { dy, columns, depth, outputs, inputs, .. } = self;
        let mut right = Panels::default();
        for panel in self.panels.clone().step_by(2) {
            let first = panel * PANEL;
            let count = (self.panels.end.min(panel + 2) * PANEL).min(outputs) - first;
            right.fill(&dy[first..], outputs, depth, count, 1.0);
            for (tile, columns) in columns.chunks_exact(depth * TILE).enumerate() {
                let input = tile * TILE;
                let rows = TILE.min(inputs - input);
                let left = Left { from: columns.as_ptr(), row_stride: 1, step: TILE, rows };
                // SAFETY: `columns` has `depth` rows of `TILE`; the panels are this task's alone and
                // have a line for each input.
                unsafe {
                    let to = self.dw.add((panel * inputs + input) * PANEL);
                    // As many columns as panels have, of which the last are zeros.
                    let columns = 2 * PANEL;
                    let target = Target { to, stride: PANEL, columns, write: Write::Add };
                    product_apart::<L>(left, View::from(&right), depth, target, inputs * PANEL);
                }
            }
        }
    }
}

/// Returns, `[outputs, inputs]` row-major, what lies packed.
pub(super) fn unpack(packed: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut values = vec![0f32; outputs * inputs];
    if values.is_empty() {
        return values;
    }
    over_parts(&mut values, inputs, |output, row| {
        let panel = &packed[output / PANEL * PANEL * inputs..];
        for (value, line) in row.iter_mut().zip(panel.chunks_exact(PANEL)) {
            *value = line[output % PANEL];
        }
    });
    values
}

/// Inputs that one task of [`scatter_add`] takes.
const INPUTS: usize = 64;

/// Adds row `i` of `dy` `[rows, inputs]` to row `rows[i]` of a packed gradient.
pub(super) fn scatter_add(dy: &[f32], rows: &[u32], inputs: usize, dw: &mut [f32]) {
    let len = dw.len();
    let dw = Shared::new(dw);
    parallel(inputs.div_ceil(INPUTS), |task| {
        let range = task * INPUTS..inputs.min((task + 1) * INPUTS);
        for (dy, &row) in dy.chunks_exact(inputs).zip(rows) {
            let (panel, lane) = (row as usize / PANEL, row as usize % PANEL);
            for i in range.clone() {
                let at = (panel * inputs + i) * PANEL + lane;
                assert!(at < len, "row {row} of a gradient of {len} numbers");
                // SAFETY: within `dw`, and this task's alone, as no other has this input.
                unsafe { *dw.get().add(at) += dy[i] };
            }
        }
    });
}

/// Rows whose sum is formed at once in [`sum_of_rows`].
const SUM_ROWS: usize = 64;

/// `sum` `[width]` += the sum of the rows of `dy` `[rows, width]`; each number times its own of `x`
/// after RMS normalisation with `eps`, where `x` is given.
pub(super) fn sum_of_rows(
    isa: Isa,
    dy: &[f32],
    x: Option<(&[f32], f32)>,
    rows: usize,
    width: usize,
    sum: &mut [f32],
) {
    let blocks = rows.div_ceil(SUM_ROWS);
    let mut parts = vec![0f32; blocks * width];
    if parts.is_empty() {
        return;
    }
    over_parts(&mut parts, width, |block, part| {
        let rows = block * SUM_ROWS..rows.min((block + 1) * SUM_ROWS);
        let range = rows.start * width..rows.end * width;
        let x = x.map(|(x, eps)| (&x[range.clone()], eps));
        isa.run(SumOfRows { dy: &dy[range], x, part });
    });
    for part in parts.chunks_exact(width) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}

struct SumOfRows<'a> {
    dy: &'a [f32],
    x: Option<(&'a [f32], f32)>,
    part: &'a mut [f32],
}

impl Kernel for SumOfRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.part.len();
        for (row, dy) in self.dy.chunks_exact(width).enumerate() {
            match self.x {
                None => self.part.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy),
                Some((x, eps)) => {
                    let x = &x[row * width..][..width];
                    let inverse = inverse_rms::<L>(x, eps);
                    for ((sum, dy), x) in self.part.iter_mut().zip(dy).zip(x) {
                        *sum += dy * (x * inverse);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::WeightType;
    use crate::model::backend::cpu::Matrix;
    use crate::model::tiny::normal;

    fn pack(values: &[f32], outputs: usize, inputs: usize) -> Matrix {
        Matrix::new(values, outputs, inputs, WeightType::F32)
    }

    #[test]
    fn a_packed_gradient_is_the_sum_over_rows() {
        let check = |rows: usize, outputs: usize, inputs: usize| {
            let (dy, x) = (normal(1, rows * outputs, 1.0), normal(2, rows * inputs, 1.0));
            let before = normal(3, outputs * inputs, 1.0);
            for isa in Isa::all() {
                let mut dw = pack(&before, outputs, inputs).packed().to_vec();
                packed(isa, &dy, &x, rows, outputs, inputs, &mut dw);
                let got = unpack(&dw, outputs, inputs);
                for o in 0..outputs {
                    for i in 0..inputs {
                        let sum: f64 = (0..rows)
                            .map(|r| f64::from(dy[r * outputs + o]) * f64::from(x[r * inputs + i]))
                            .sum();
                        let want = f64::from(before[o * inputs + i]) + sum;
                        let distance = (f64::from(got[o * inputs + i]) - want).abs();
                        assert!(distance < 4e-6 * (rows as f64 + 4.0).sqrt(), "{rows} {o} {i}");
                    }
                }
                // What is no weight stays 0.
                let zeros = dw.iter().filter(|&&x| x == 0.0).count();
                assert_eq!(zeros, packed_len(outputs, inputs) - outputs * inputs);
            }
        };
        check(1, 1, 1);
        check(7, 4, 33);
        check(300, 17, 100);
        check(513, 101, 4);
        check(40, 48, 12);
        check(0, 3, 3);
    }

    #[test]
    fn threads_change_no_bit() {
        let (rows, outputs, inputs) = (300, 130, 70);
        let (dy, x) = (normal(1, rows * outputs, 1.0), normal(2, rows * inputs, 1.0));
        let tokens: Vec<u32> = (0..rows as u32).map(|r| r * 7 % 40).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let isa = Isa::detect();
                let mut dw = vec![0.0; packed_len(outputs, inputs)];
                packed(isa, &dy, &x, rows, outputs, inputs, &mut dw);
                scatter_add(&x, &tokens, inputs, &mut dw);
                let mut sum = vec![0.0; inputs];
                sum_of_rows(isa, &x, Some((&x, 1e-5)), rows, inputs, &mut sum);
                (dw, sum)
            })
        };
        assert!(on(1) == on(2) && on(1) == on(3));
    }

    #[test]
    fn what_is_packed_comes_back() {
        for (outputs, inputs) in [(1, 1), (35, 9), (16, 4), (3, 0)] {
            let values = normal(1, outputs * inputs, 1.0);
            let matrix = pack(&values, outputs, inputs);
            assert_eq!(matrix.packed().len(), packed_len(outputs, inputs));
            assert_eq!(unpack(matrix.packed(), outputs, inputs), values);
        }
    }

    #[test]
    fn rows_are_added_where_they_were_looked_up() {
        let (tokens, inputs) = ([3u32, 20, 3], 70);
        let dy = normal(1, tokens.len() * inputs, 1.0);
        let mut dw = vec![0.0; packed_len(21, inputs)];
        scatter_add(&dy, &tokens, inputs, &mut dw);
        let got = unpack(&dw, 21, inputs);
        for (row, got) in got.chunks_exact(inputs).enumerate() {
            for (i, &got) in got.iter().enumerate() {
                let want = match row {
                    3 => dy[i] + dy[2 * inputs + i],
                    20 => dy[inputs + i],
                    _ => 0.0,
                };
                assert_eq!(got, want, "{row} {i}");
            }
        }
    }

    #[test]
    fn rows_are_summed_as_they_are_and_normalised() {
        for (rows, width) in [(1, 3), (63, 8), (64, 48), (200, 17), (0, 4)] {
            let (dy, x) = (normal(1, rows * width, 1.0), normal(2, rows * width, 1.0));
            for isa in Isa::all() {
                let (mut plain, mut scaled) = (vec![1.0; width], vec![2.0; width]);
                sum_of_rows(isa, &dy, None, rows, width, &mut plain);
                sum_of_rows(isa, &dy, Some((&x, 1e-5)), rows, width, &mut scaled);
                for i in 0..width {
                    let (mut want, mut want_scaled) = (1f64, 2f64);
                    for r in 0..rows {
                        let row = &x[r * width..(r + 1) * width];
                        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
                        let inverse = 1.0 / (mean / width as f64 + 1e-5).sqrt();
                        let dy = f64::from(dy[r * width + i]);
                        want += dy;
                        want_scaled += dy * f64::from(row[i]) * inverse;
                    }
                    assert!((f64::from(plain[i]) - want).abs() < 1e-4, "{rows} {width} {i}");
                    assert!((f64::from(scaled[i]) - want_scaled).abs() < 1e-4, "{rows} {width}");
                }
            }
        }
    }
}
