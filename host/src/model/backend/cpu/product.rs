//! Small products within one task: any left operand, a right operand packed for the occasion.
//!
//! What [`super::gemm`] is for weights, this is for everything else in training: scores and their
//! gradients, and the gradients of weights, whose left operand is read along its columns.

use super::simd::{Lanes, Sixteen};
pub(super) use super::tile::PANEL;
use super::tile::{self, Line, Lines, Sums, TILE, rows_of, with_rows};
use crate::model::backend::Write;

/// A right operand `[depth, columns]` in panels of 16 columns, each stored as `[depth, 16]`, with zeros
/// beyond the last column.
#[derive(Default)]
pub(super) struct Panels {
    depth: usize,
    columns: usize,
    lines: Vec<Line>,
}

impl Panels {
    /// Takes `scale` times a matrix `[depth, columns]` whose rows are `stride` apart.
    #[inline(always)]
    pub(super) fn fill(
        &mut self,
        values: &[f32],
        stride: usize,
        depth: usize,
        columns: usize,
        scale: f32,
    ) {
        self.reset(depth, columns);
        for (panel, lines) in self.lines.chunks_exact_mut(depth.max(1)).enumerate() {
            let first = panel * PANEL;
            let count = PANEL.min(columns - first);
            for (k, line) in lines.iter_mut().enumerate() {
                let row = &values[k * stride + first..][..count];
                for (to, &from) in line.0.iter_mut().zip(row) {
                    *to = scale * from;
                }
            }
        }
    }

    /// Takes the transpose of a matrix `[columns, depth]` whose rows are `stride` apart.
    #[inline(always)]
    pub(super) fn fill_transposed(
        &mut self,
        values: &[f32],
        stride: usize,
        depth: usize,
        columns: usize,
    ) {
        self.reset(depth, columns);
        for (panel, lines) in self.lines.chunks_exact_mut(depth.max(1)).enumerate() {
            for lane in 0..PANEL.min(columns - panel * PANEL) {
                let row = &values[(panel * PANEL + lane) * stride..][..depth];
                for (line, &value) in lines.iter_mut().zip(row) {
                    line.0[lane] = value;
                }
            }
        }
    }

    fn reset(&mut self, depth: usize, columns: usize) {
        (self.depth, self.columns) = (depth, columns);
        self.lines.clear();
        self.lines.resize(depth * columns.div_ceil(PANEL), Line([0.0; PANEL]));
    }
}

/// A right operand, or the end of one.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    depth: usize,
    columns: usize,
    /// From one line of a panel to the next.
    line_stride: usize,
    /// From one panel to the next.
    panel_stride: usize,
    /// Of the first panel on; panels are whole.
    numbers: &'a [f32],
}

impl<'a> View<'a> {
    /// Takes `scale` times a matrix `[depth, columns]` whose rows are `stride` apart: as it lies, where
    /// it has whole panels and is not scaled, else packed.
    #[inline(always)]
    pub(super) fn of(
        values: &'a [f32],
        stride: usize,
        depth: usize,
        columns: usize,
        scale: f32,
        packed: &'a mut Panels,
    ) -> View<'a> {
        if scale != 1.0 || !columns.is_multiple_of(PANEL) || depth == 0 {
            packed.fill(values, stride, depth, columns, scale);
            return View::from(&*packed);
        }
        let numbers = &values[..(depth - 1) * stride + columns];
        View { depth, columns, line_stride: stride, panel_stride: PANEL, numbers }
    }

    /// Returns the operand from row `row` of its depth on.
    #[inline(always)]
    pub(super) fn rows_from(self, row: usize) -> View<'a> {
        let numbers = &self.numbers[row * self.line_stride..];
        View { depth: self.depth - row, numbers, ..self }
    }

    /// Returns the operand from column `column` on, a multiple of [`PANEL`].
    #[inline(always)]
    pub(super) fn columns_from(self, column: usize) -> View<'a> {
        let numbers = &self.numbers[column / PANEL * self.panel_stride..];
        View { columns: self.columns - column, numbers, ..self }
    }
}

impl<'a> From<&'a Panels> for View<'a> {
    #[inline(always)]
    fn from(panels: &'a Panels) -> Self {
        let Panels { depth, columns, ref lines } = *panels;
        // SAFETY: a line is sixteen f32 and nothing else.
        let numbers =
            unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), PANEL * lines.len()) };
        View { depth, columns, line_stride: PANEL, panel_stride: PANEL * depth, numbers }
    }
}

/// The rows of a left operand.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) from: *const f32,
    pub(super) row_stride: usize,
    pub(super) step: usize,
    pub(super) rows: usize,
}

/// Where a product goes: rows of `columns` numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) write: Write,
}

/// `target` = or += `left` · the first `depth` rows of `right`, for as many columns as `target` has;
/// where it has more than `right`, as many as the panels of `right` have.
///
/// Each sum runs in ascending order from zero.
///
/// # Safety
///
/// Both pointers have the numbers behind them that their strides, the rows, `depth` and columns ask
/// for, and nobody else touches those of `target`; the machine has the lanes.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes>(left: Left, right: View<'_>, depth: usize, target: Target) {
    // SAFETY: as the caller promises.
    unsafe { product_apart::<L>(left, right, depth, target, PANEL) }
}

/// The same where each panel of the target's columns begins `apart` numbers after the one before.
///
/// # Safety
///
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn product_apart<L: Lanes>(
    left: Left,
    right: View<'_>,
    depth: usize,
    target: Target,
    apart: usize,
) {
    assert!(depth <= right.depth);
    let panels = target.columns.min(right.columns).div_ceil(PANEL);
    let tiles = left.rows.div_ceil(TILE);
    let together = if L::Sixteen::MANY { 2 } else { 1 };
    for panel in (0..panels).step_by(together) {
        let from = right.numbers.as_ptr().wrapping_add(panel * right.panel_stride);
        let lines = Lines { from, stride: right.line_stride };
        for tile in 0..tiles {
            let rows = rows_of(tile, left.rows, TILE);
            // SAFETY: rows below `left.rows`, columns below `target.columns`.
            unsafe {
                let sums = Sums {
                    y: target.to.add(rows.start * target.stride + panel * apart),
                    stride: target.stride,
                    columns: PANEL.min(target.columns - panel * PANEL),
                    add: target.write == Write::Add,
                };
                let from = left.from.add(rows.start * left.row_stride);
                let left = tile::Left { from, row_stride: left.row_stride, step: left.step };
                if panel + together > panels || together == 1 {
                    with_rows!(rows.len(), N => tile::tile::<L, N>(left, lines, depth, sums));
                    continue;
                }
                let far = Lines { from: lines.from.wrapping_add(right.panel_stride), ..lines };
                let columns = PANEL.min(target.columns - (panel + 1) * PANEL);
                let far_sums = Sums { y: sums.y.add(apart), columns, ..sums };
                let (lines, sums) = ([lines, far], [sums, far_sums]);
                with_rows!(rows.len(), N => two_panels::<L, N>(left, lines, depth, sums));
            }
        }
    }
}

/// Sums `depth` terms of `N` rows by two panels: the sums by one alone would leave the adders idle.
///
/// # Safety
///
/// As for [`tile::tile`], with both panels.
#[inline(always)]
unsafe fn two_panels<L: Lanes, const N: usize>(
    left: tile::Left,
    panels: [Lines; 2],
    depth: usize,
    sums: [Sums; 2],
) {
    let mut x = left.from;
    let [mut near, mut far] = panels.map(|panel| panel.from);
    // SAFETY: as the caller promises.
    unsafe {
        let mut tiles = [[L::Sixteen::splat(0.0); N]; 2];
        for _ in 0..depth {
            let lines = [L::Sixteen::load(near), L::Sixteen::load(far)];
            let [of_near, of_far] = &mut tiles;
            for (r, (of_near, of_far)) in of_near.iter_mut().zip(of_far).enumerate() {
                let x = L::Sixteen::splat(*x.add(r * left.row_stride));
                *of_near = x.mul_add(lines[0], *of_near);
                *of_far = x.mul_add(lines[1], *of_far);
            }
            // After the last term they may be further than one past the end.
            x = x.wrapping_add(left.step);
            near = near.wrapping_add(panels[0].stride);
            far = far.wrapping_add(panels[1].stride);
        }
        tile::put(&tiles[0], sums[0]);
        tile::put(&tiles[1], sums[1]);
    }
}
