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

use super::tile::{Line, PANEL, Sums};
use super::{amx, trial};

/// Which of the tiles the machine can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// How it multiplies bf16.
    pub(super) bf16: Bf16,
}

/// How products of bf16 are computed. Each way adds in an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bf16 {
    /// As f32, into which the weights are widened.
    Widened,
    /// With AVX512-BF16, two terms at a time.
    Pairs,
    /// With AMX, 32 terms at a time.
    Tiles,
}

/// What [`Wide::detect`] found.
static DETECTED: LazyLock<Option<Wide>> = LazyLock::new(|| {
    if !is_x86_feature_detected!("avx512f") || !computes_f32() {
        return None;
    }
    let has_bf16 = is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && computes_bf16();
    let bf16 = match has_bf16 {
        true if amx::is_available() => Bf16::Tiles,
        true => Bf16::Pairs,
        false => Bf16::Widened,
    };
    Some(Wide { bf16 })
});

impl Wide {
    /// Returns what this machine has, and nothing where it has none of it.
    pub(super) fn detect() -> Option<Wide> {
        *DETECTED
    }
}

/// Runs `$body` with the constant `$n` that `$rows` is, from 1 to [`TALL_TILE`](super::tile::TALL_TILE).
macro_rules! with_tall_rows {
    ($rows:expr, $n:ident => $body:expr) => {
        with_tall_rows!($rows, $n => $body; 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    ($rows:expr, $n:ident => $body:expr; $($count:literal)*) => {
        match $rows {
            $($count => {
                const $n: usize = $count;
                $body
            })*
            rows => unreachable!("{rows} rows in a tile"),
        }
    };
}

/// Sums `depth` terms of up to [`TALL_TILE`](super::tile::TALL_TILE) rows by two panels of f32.
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
    unsafe { with_tall_rows!(rows, N => tile_f32::<N>(x, panels, depth, sums)) }
}

/// The same of bf16, in pairs of terms: `x` is `[rows, pairs]`, its rows `stride` pairs apart, and
/// each panel has `pairs` lines.
///
/// # Safety
///
/// As for [`tile`]; the machine has the instructions for bf16.
#[inline(always)]
pub(super) unsafe fn tile_of_pairs(
    x: *const u32,
    stride: usize,
    rows: usize,
    panels: [*const u32; 2],
    pairs: usize,
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe { with_tall_rows!(rows, N => tile_bf16::<N>(x, stride, panels, pairs, sums)) }
}

/// Rounds numbers to bf16, as many as `to` has. Subnormal ones become 0, as products take them.
///
/// # Safety
///
/// The machine has AVX512-BF16 and AVX512-BW.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn round(x: &[f32], to: &mut [u16]) {
    let x = &x[..to.len()];
    for (x, to) in x.chunks(32).zip(to.chunks_mut(32)) {
        let mask = (1u64 << x.len()).wrapping_sub(1) as u32;
        // SAFETY: only numbers that are there are read and written.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, x.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(16));
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi16(to.as_mut_ptr().cast(), mask, rounded);
        }
    }
}

/// Turns 16 outputs by 16 inputs of a weight in bf16: lines of two inputs by 16 outputs become lines
/// of two outputs by 16 inputs.
///
/// # Safety
///
/// `from` has 8 lines, `to` has room for 8; the machine has AVX512-BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn turn(from: *const u32, to: *mut u32) {
    // Within 64 bits, which hold two inputs of two outputs, the middle numbers change places; then the
    // eight lines are transposed as an 8 × 8 matrix of 64 bits.
    let within =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    // SAFETY: as the caller promises.
    unsafe {
        let line =
            |i: usize| _mm512_shuffle_epi8(_mm512_loadu_si512(from.add(i * PANEL).cast()), within);
        let lines: [__m512i; 8] = std::array::from_fn(line);
        let twos: [__m512i; 8] = std::array::from_fn(|i| {
            let (a, b) = (lines[i / 2 * 2], lines[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
        });
        // `twos[2j + k]` has, in its lane of 128 bits `l`, of lines `2j` and `2j + 1` number `2l + k`.
        for k in 0..2 {
            let [a, b, c, d] = [twos[k], twos[2 + k], twos[4 + k], twos[6 + k]];
            let (ab, cd) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d));
            let (ab2, cd2) =
                (_mm512_shuffle_i64x2::<0xee>(a, b), _mm512_shuffle_i64x2::<0xee>(c, d));
            let outs = [
                _mm512_shuffle_i64x2::<0x88>(ab, cd),
                _mm512_shuffle_i64x2::<0xdd>(ab, cd),
                _mm512_shuffle_i64x2::<0x88>(ab2, cd2),
                _mm512_shuffle_i64x2::<0xdd>(ab2, cd2),
            ];
            for (l, out) in outs.into_iter().enumerate() {
                _mm512_storeu_si512(to.add((2 * l + k) * PANEL).cast(), out);
            }
        }
    }
}

/// # Safety
///
/// As for [`tile`].
// Not inlined: a dozen heights would crowd out what else is to be inlined around them.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32<const N: usize>(
    mut x: *const f32,
    [mut low, mut high]: [*const f32; 2],
    depth: usize,
    sums: Sums,
) {
    // SAFETY: a prefetch reads nothing.
    unsafe { prefetch::<N>(sums) };
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
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16<const N: usize>(
    mut x: *const u32,
    stride: usize,
    [mut low, mut high]: [*const u32; 2],
    pairs: usize,
    sums: Sums,
) {
    // SAFETY: a prefetch reads nothing.
    unsafe { prefetch::<N>(sums) };
    let mut tile = [[_mm512_setzero_ps(); 2]; N];
    for _ in 0..pairs {
        // SAFETY: as the caller promises; both types are 512 bits without a meaning of their own.
        unsafe {
            let load = |from: *const u32| -> __m512bh {
                std::mem::transmute(_mm512_loadu_si512(from.cast()))
            };
            let line = [load(low), load(high)];
            for (r, sum) in tile.iter_mut().enumerate() {
                let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(r * stride) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], x, line[0]);
                sum[1] = _mm512_dpbf16_ps(sum[1], x, line[1]);
            }
            (x, low, high) = (x.add(1), low.add(PANEL), high.add(PANEL));
        }
    }
    // SAFETY: as the caller promises.
    unsafe { put(&tile, sums) }
}

/// Asks for the memory that a tile's sums go to, which is far away by now where products are large.
#[inline(always)]
unsafe fn prefetch<const N: usize>(sums: Sums) {
    for r in 0..N {
        let y = sums.y.wrapping_add(r * sums.stride).cast::<i8>();
        // SAFETY: a prefetch reads nothing.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(y);
            _mm_prefetch::<_MM_HINT_T0>(y.wrapping_add(64));
        }
    }
}

/// Asks for part `part` of `parts` equal ones of `lines` lines. What a product reads next is far away
/// where it is large, so each tile asks for a little of it.
#[inline(always)]
pub(super) fn ask_for(first: *const Line, lines: usize, part: usize, parts: usize) {
    for line in part * lines / parts..(part + 1) * lines / parts {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(line).cast()) };
    }
}

/// Turns 16 outputs by 16 inputs of a weight in f32: lines of 16 outputs become lines of 16 inputs.
///
/// # Safety
///
/// `from` has 16 lines, `to` has room for 16; the machine has AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn_f32(from: *const Line, to: *mut Line) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut rows = [_mm512_setzero_ps(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_ps(from.add(i).cast());
        }
        // Within each lane of 128 bits, the 4 x 4 numbers of four rows.
        let mut lanes = [_mm512_setzero_ps(); 16];
        for i in (0..16).step_by(4) {
            let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
            let [ab, cd] = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)];
            let [ab2, cd2] = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)];
            lanes[i] = _mm512_shuffle_ps::<0x44>(ab, cd);
            lanes[i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
            lanes[i + 2] = _mm512_shuffle_ps::<0x44>(ab2, cd2);
            lanes[i + 3] = _mm512_shuffle_ps::<0xee>(ab2, cd2);
        }
        // Then the 4 x 4 lanes.
        for i in 0..4 {
            let [a, b, c, d] = [lanes[i], lanes[4 + i], lanes[8 + i], lanes[12 + i]];
            let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
            let (ab2, cd2) =
                (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
            let outs = [
                _mm512_shuffle_f32x4::<0x88>(ab, cd),
                _mm512_shuffle_f32x4::<0x88>(ab2, cd2),
                _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                _mm512_shuffle_f32x4::<0xdd>(ab2, cd2),
            ];
            for (l, out) in outs.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(4 * l + i).cast(), out);
            }
        }
    }
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

fn computes_f32() -> bool {
    const ROWS: usize = 5;
    let x: Vec<f32> = (0..trial::DEPTH * ROWS).map(|i| trial::left(i % ROWS, i / ROWS)).collect();
    let panel = |first: usize| -> Vec<f32> {
        (0..trial::DEPTH * PANEL).map(|i| trial::right(i / PANEL, first + i % PANEL)).collect()
    };
    let (low, high) = (panel(0), panel(PANEL));
    trial::is_right(ROWS, |sums| {
        let panels = [low.as_ptr(), high.as_ptr()];
        // SAFETY: the arrays are as long as the tile asks for, and the caller has seen the feature.
        unsafe { tile(x.as_ptr(), ROWS, panels, trial::DEPTH, sums) }
    })
}

fn computes_bf16() -> bool {
    const ROWS: usize = 5;
    const PAIRS: usize = trial::DEPTH / 2;
    let x: Vec<f32> =
        (0..trial::DEPTH * ROWS).map(|i| trial::left(i / trial::DEPTH, i % trial::DEPTH)).collect();
    let mut rounded = vec![0; x.len()];
    let panel = |first: usize| -> Vec<u32> {
        let word =
            |term, column| trial::word(trial::right(term, column), trial::right(term + 1, column));
        (0..PAIRS * PANEL).map(|i| word(i / PANEL * 2, first + i % PANEL)).collect()
    };
    let (low, high) = (panel(0), panel(PANEL));
    trial::is_right(ROWS, |sums| {
        let panels = [low.as_ptr(), high.as_ptr()];
        // SAFETY: the arrays are as long as the tile asks for, and the caller has seen the feature.
        unsafe {
            round(&x, &mut rounded);
            tile_of_pairs(rounded.as_ptr().cast(), PAIRS, ROWS, panels, PAIRS, sums);
        }
    })
}
