//! Tiles for processors with AVX-512: two panels at once, with bf16 products where there are
//! instructions for them.
//!
//! The f32 tile adds the same terms in the same order as that of AVX2, so the two give the same bits.
//! The bf16 tile rounds the rows to bf16 as well and adds two products at a time.
//!
//! [`Wide::detect`] tries each tile on a small product before it is used: an emulator or a hypervisor
//! may announce instructions that it does not have right.

use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::tile::{PANEL, Sums, with_rows};

/// Which of the tiles the machine can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// It multiplies bf16, too.
    pub(super) bf16: bool,
}

/// What [`Wide::detect`] found.
static DETECTED: LazyLock<Option<Wide>> = LazyLock::new(|| {
    if !is_x86_feature_detected!("avx512f") || !computes_f32() {
        return None;
    }
    let bf16 = is_x86_feature_detected!("avx512bf16") && computes_bf16();
    Some(Wide { bf16 })
});

impl Wide {
    /// Returns what this machine has, and nothing where it has none of it.
    pub(super) fn detect() -> Option<Wide> {
        *DETECTED
    }
}

/// Sums `depth` terms of up to six rows by two panels of f32.
///
/// # Safety
///
/// `x` is `[depth, rows]`, each panel has `depth` lines, and `sums`, of the first panel, has room for
/// both; `sums.columns` counts the columns of both. The machine has AVX-512.
#[inline(always)]
pub(super) unsafe fn tile(
    x: *const f32,
    rows: usize,
    panels: [*const f32; 2],
    depth: usize,
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe { with_rows!(rows, N => tile_f32::<N>(x, panels, depth, sums)) }
}

/// The same of bf16, in pairs of terms: `x` is `[pairs, rows]`, each panel has `pairs` lines.
///
/// # Safety
///
/// As for [`tile`]; the machine has the instructions for bf16.
#[inline(always)]
pub(super) unsafe fn tile_of_pairs(
    x: *const u32,
    rows: usize,
    panels: [*const u32; 2],
    pairs: usize,
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe { with_rows!(rows, N => tile_bf16::<N>(x, panels, pairs, sums)) }
}

/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32<const N: usize>(
    mut x: *const f32,
    [mut low, mut high]: [*const f32; 2],
    depth: usize,
    sums: Sums,
) {
    let mut tile = [[_mm512_setzero_ps(); 2]; N];
    for _ in 0..depth {
        // SAFETY: as the caller promises.
        unsafe {
            let line = [_mm512_loadu_ps(low), _mm512_loadu_ps(high)];
            for (r, sum) in tile.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(r));
                sum[0] = _mm512_fmadd_ps(x, line[0], sum[0]);
                sum[1] = _mm512_fmadd_ps(x, line[1], sum[1]);
            }
            (x, low, high) = (x.add(N), low.add(PANEL), high.add(PANEL));
        }
    }
    // SAFETY: as the caller promises.
    unsafe { put(&tile, sums) }
}

/// # Safety
///
/// As for [`tile_of_pairs`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16<const N: usize>(
    mut x: *const u32,
    [mut low, mut high]: [*const u32; 2],
    pairs: usize,
    sums: Sums,
) {
    let mut tile = [[_mm512_setzero_ps(); 2]; N];
    for _ in 0..pairs {
        // SAFETY: as the caller promises; both types are 512 bits without a meaning of their own.
        unsafe {
            let load = |from: *const u32| -> __m512bh {
                std::mem::transmute(_mm512_loadu_si512(from.cast()))
            };
            let line = [load(low), load(high)];
            for (r, sum) in tile.iter_mut().enumerate() {
                let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(r) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], x, line[0]);
                sum[1] = _mm512_dpbf16_ps(sum[1], x, line[1]);
            }
            (x, low, high) = (x.add(N), low.add(PANEL), high.add(PANEL));
        }
    }
    // SAFETY: as the caller promises.
    unsafe { put(&tile, sums) }
}

/// Writes or adds a tile's sums.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn put<const N: usize>(tile: &[[__m512; 2]; N], sums: Sums) {
    let Sums { y, stride, columns, add } = sums;
    for (r, sum) in tile.iter().enumerate() {
        for (panel, &sum) in sum.iter().enumerate() {
            let first = panel * PANEL;
            let count = columns.saturating_sub(first).min(PANEL);
            let mask = ((1u32 << count) - 1) as __mmask16;
            // SAFETY: only columns that are there are read and written.
            unsafe {
                let y = y.wrapping_add(r * stride + first);
                let sum = match add {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum),
                    false => sum,
                };
                _mm512_mask_storeu_ps(y, mask, sum);
            }
        }
    }
}

/// A small product: numbers that sums of any order give exactly.
const ROWS: usize = 5;
const DEPTH: usize = 6;
const COLUMNS: usize = 20;

fn left(row: usize, term: usize) -> f32 {
    (row * 3 + term) as f32 - 4.0
}

fn right(term: usize, column: usize) -> f32 {
    (term + column * 2) as f32 - 11.0
}

/// Says whether `y`, rows of 32, holds the small product on top of ones, and no more.
fn is_right(y: &[f32]) -> bool {
    (0..ROWS * 32).all(|i| {
        let (row, column) = (i / 32, i % 32);
        let sum: f32 = (0..DEPTH).map(|term| left(row, term) * right(term, column)).sum();
        y[i] == if column < COLUMNS { 1.0 + sum } else { 1.0 }
    })
}

fn sums(y: &mut [f32]) -> Sums {
    Sums { y: y.as_mut_ptr(), stride: 32, columns: COLUMNS, add: true }
}

fn computes_f32() -> bool {
    let x: Vec<f32> = (0..DEPTH * ROWS).map(|i| left(i % ROWS, i / ROWS)).collect();
    let panel = |first: usize| -> Vec<f32> {
        (0..DEPTH * PANEL).map(|i| right(i / PANEL, first + i % PANEL)).collect()
    };
    let (low, high, mut y) = (panel(0), panel(PANEL), vec![1.0; ROWS * 32]);
    // SAFETY: the arrays are as long as the tile asks for, and the caller has seen the feature.
    unsafe { tile(x.as_ptr(), ROWS, [low.as_ptr(), high.as_ptr()], DEPTH, sums(&mut y)) };
    is_right(&y)
}

fn computes_bf16() -> bool {
    // Small whole numbers are exact in bf16: the high half of f32.
    let word = |even: f32, odd: f32| (even.to_bits() >> 16) | (odd.to_bits() & 0xffff_0000);
    let x: Vec<u32> = (0..DEPTH / 2 * ROWS)
        .map(|i| word(left(i % ROWS, i / ROWS * 2), left(i % ROWS, i / ROWS * 2 + 1)))
        .collect();
    let panel = |first: usize| -> Vec<u32> {
        (0..DEPTH / 2 * PANEL)
            .map(|i| {
                let (term, column) = (i / PANEL * 2, first + i % PANEL);
                word(right(term, column), right(term + 1, column))
            })
            .collect()
    };
    let (low, high, mut y) = (panel(0), panel(PANEL), vec![1.0; ROWS * 32]);
    let panels = [low.as_ptr(), high.as_ptr()];
    // SAFETY: the arrays are as long as the tile asks for, and the caller has seen the feature.
    unsafe { tile_of_pairs(x.as_ptr(), ROWS, panels, DEPTH / 2, sums(&mut y)) };
    is_right(&y)
}
