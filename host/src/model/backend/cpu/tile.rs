//! The innermost loops of every product: a tile of sums kept in registers.
//!
//! A tile is up to [`TILE`] rows of the left operand by one panel of [`PANEL`] columns of the right
//! one. Terms are added in ascending order, whatever the height of the tile.

use super::simd::{Lanes, Sixteen};

/// Columns in a panel.
pub(super) const PANEL: usize = 16;
/// Rows in a tile.
pub(super) const TILE: usize = 6;
/// Rows in a tile of AVX-512, which is two panels wide: so many keep both adders busy and leave
/// registers for the operands.
pub(super) const TALL_TILE: usize = 12;

/// One term's numbers in a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; PANEL]);

/// A panel of f32: a line of [`PANEL`] numbers for each term, `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) from: *const f32,
    pub(super) stride: usize,
}

impl Lines {
    /// A panel whose lines follow each other.
    pub(super) fn packed(from: *const f32) -> Lines {
        Lines { from, stride: PANEL }
    }
}

/// Where a tile's sums go.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// The first row's first column.
    pub(super) y: *mut f32,
    /// From one row to the next.
    pub(super) stride: usize,
    /// How many columns are written.
    pub(super) columns: usize,
    /// Add to what is there.
    pub(super) add: bool,
}

/// A left operand: element `(row, term)` is `row * row_stride + term * step` numbers after `from`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) from: *const f32,
    pub(super) row_stride: usize,
    pub(super) step: usize,
}

/// Runs `$body` with the constant `$n` that `$rows` is, from 1 to 6.
macro_rules! with_rows {
    ($rows:expr, $n:ident => $body:expr) => {
        match $rows {
            6 => {
                const $n: usize = 6;
                $body
            }
            5 => {
                const $n: usize = 5;
                $body
            }
            4 => {
                const $n: usize = 4;
                $body
            }
            3 => {
                const $n: usize = 3;
                $body
            }
            2 => {
                const $n: usize = 2;
                $body
            }
            _ => {
                const $n: usize = 1;
                $body
            }
        }
    };
}
pub(super) use with_rows;

/// The rows of tile `tile` when `rows` are cut into tiles of at most `height`, nearly equal ones: a
/// lone last row would leave the adders idle.
#[inline(always)]
pub(super) fn rows_of(tile: usize, rows: usize, height: usize) -> std::ops::Range<usize> {
    let tiles = rows.div_ceil(height);
    tile * rows / tiles..(tile + 1) * rows / tiles
}

/// Sums `depth` terms of `N` rows by a panel.
///
/// # Safety
///
/// `left` has `N` rows of `depth` terms, `panel` has the lines of so many, `sums.y` has `N` rows; the
/// machine has the lanes.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, const N: usize>(
    left: Left,
    panel: impl Right,
    depth: usize,
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe {
        if !L::Sixteen::PAIRS {
            return put(&panel.times::<L::Sixteen, N>(left, depth), sums);
        }
        for row in (0..N).step_by(2) {
            let left = Left { from: left.from.add(row * left.row_stride), ..left };
            let sums = Sums { y: sums.y.add(row * sums.stride), ..sums };
            match N - row {
                1 => put(&panel.times::<L::Sixteen, 1>(left, depth), sums),
                _ => put(&panel.times::<L::Sixteen, 2>(left, depth), sums),
            }
        }
    }
}

/// The right operand of a tile: a panel of the terms that are summed.
pub(super) trait Right: Copy {
    /// Sums `depth` terms of `N` rows.
    ///
    /// # Safety
    ///
    /// As for [`tile`].
    unsafe fn times<S: Sixteen, const N: usize>(self, left: Left, depth: usize) -> [S; N];
}

impl Right for Lines {
    #[inline(always)]
    unsafe fn times<S: Sixteen, const N: usize>(self, left: Left, depth: usize) -> [S; N] {
        // SAFETY: as the caller promises.
        unsafe {
            let mut tile = [S::splat(0.0); N];
            let (mut x, mut w) = (left.from, self.from);
            // Four terms a turn: the loop's own instructions are not for free.
            for _ in 0..depth / 4 {
                for i in 0..4 {
                    let line = S::load(w.add(i * self.stride));
                    term(x.add(i * left.step), left.row_stride, line, &mut tile);
                }
                // After the last term they may be further than one past the end.
                (x, w) = (x.wrapping_add(4 * left.step), w.wrapping_add(4 * self.stride));
            }
            for i in 0..depth % 4 {
                let line = S::load(w.add(i * self.stride));
                term(x.add(i * left.step), left.row_stride, line, &mut tile);
            }
            tile
        }
    }
}

/// A panel of bf16 in pairs: term `2i` of each column in the low half of a word, term `2i + 1` in the
/// high half. The number of terms is even but at the end of the panel, where the word's high half is
/// zero.
#[derive(Clone, Copy)]
pub(super) struct Words(pub(super) *const u32);

impl Right for Words {
    #[inline(always)]
    unsafe fn times<S: Sixteen, const N: usize>(self, left: Left, depth: usize) -> [S; N] {
        // SAFETY: as the caller promises.
        unsafe {
            let mut tile = [S::splat(0.0); N];
            let (mut x, mut w) = (left.from, self.0);
            for _ in 0..depth / 2 {
                let (even, odd) = S::load_bf16(w);
                term(x, left.row_stride, even, &mut tile);
                term(x.add(left.step), left.row_stride, odd, &mut tile);
                (x, w) = (x.wrapping_add(2 * left.step), w.wrapping_add(PANEL));
            }
            if depth % 2 == 1 {
                term(x, left.row_stride, S::load_bf16(w).0, &mut tile);
            }
            tile
        }
    }
}

/// Adds one term to each sum of a tile.
///
/// # Safety
///
/// `x` has `N` numbers, `stride` apart; the machine has the lanes.
#[inline(always)]
unsafe fn term<S: Sixteen, const N: usize>(
    x: *const f32,
    stride: usize,
    line: S,
    tile: &mut [S; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for (r, sum) in tile.iter_mut().enumerate() {
            *sum = S::splat(*x.add(r * stride)).mul_add(line, *sum);
        }
    }
}

/// Writes or adds a tile's sums.
///
/// # Safety
///
/// `sums.y` has `N` rows of `sums.columns` numbers; the machine has the lanes.
#[inline(always)]
pub(super) unsafe fn put<S: Sixteen, const N: usize>(tile: &[S; N], sums: Sums) {
    let Sums { y, stride, columns, add } = sums;
    // SAFETY: whole panels go straight to `y`, others only as far as `columns`.
    unsafe {
        for (r, &sum) in tile.iter().enumerate() {
            let y = y.add(r * stride);
            if columns == PANEL {
                (if add { S::load(y).add(sum) } else { sum }).store(y);
            } else {
                let mut line = [0f32; PANEL];
                sum.store(line.as_mut_ptr());
                for (i, &sum) in line.iter().take(columns).enumerate() {
                    *y.add(i) = if add { *y.add(i) + sum } else { sum };
                }
            }
        }
    }
}

/// Copies `rows` rows of `depth` numbers, `stride` apart, to `[depth, rows]`, as tiles read them.
///
/// # Safety
///
/// `from` has those rows, at most 16, and `to` room for them; the machine has the lanes.
#[inline(always)]
pub(super) unsafe fn interleave<L: Lanes>(
    from: *const f32,
    stride: usize,
    rows: usize,
    depth: usize,
    to: *mut f32,
) {
    let groups = rows.div_ceil(8);
    let mut i = 0;
    // SAFETY: as the caller promises. A store has lanes of rows that are not there: they lie in what is
    // written next, and the last store of a turn ends within `to`. What is left is copied one by one.
    unsafe {
        while (i + 7) * rows + 8 * groups <= depth * rows {
            let mut turned = [[L::splat(0.0); 8]; 2];
            for (group, turned) in turned.iter_mut().enumerate().take(groups) {
                for (r, turned) in turned.iter_mut().enumerate() {
                    *turned = L::load(from.add((group * 8 + r).min(rows - 1) * stride + i));
                }
                *turned = L::transpose(*turned);
            }
            for k in 0..8 {
                for (group, turned) in turned.iter().enumerate().take(groups) {
                    turned[k].store(to.add((i + k) * rows + group * 8));
                }
            }
            i += 8;
        }
        for i in i..depth {
            for r in 0..rows {
                *to.add(i * rows + r) = *from.add(r * stride + i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Kernel};
    use super::*;

    struct Interleave<'a> {
        from: &'a [f32],
        rows: usize,
        depth: usize,
        to: &'a mut [f32],
    }

    impl Kernel for Interleave<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self) {
            let stride = self.depth + 8;
            assert!(
                self.from.len() >= self.rows * stride && self.to.len() >= self.rows * self.depth
            );
            // SAFETY: as long as asked for; under `Isa::run`.
            unsafe {
                let (from, to) = (self.from.as_ptr(), self.to.as_mut_ptr());
                interleave::<L>(from, stride, self.rows, self.depth, to);
            }
        }
    }

    #[test]
    fn rows_are_interleaved_and_nothing_beyond_is_written() {
        const BEYOND: usize = 32;
        for isa in Isa::all() {
            for (rows, depth) in (1..=12).flat_map(|rows| (0..=40).map(move |depth| (rows, depth)))
            {
                let stride = depth + 8;
                let from: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
                let mut to = vec![-1.0; rows * depth + BEYOND];
                isa.run(Interleave { from: &from, rows, depth, to: &mut to });
                for (i, &got) in to.iter().enumerate() {
                    let (term, row) = (i / rows, i % rows);
                    let want = if term < depth { from[row * stride + term] } else { -1.0 };
                    assert_eq!(got, want, "{isa:?}: {rows} rows of {depth}, number {i}");
                }
            }
        }
    }
}
