//! Weights in eight bits: blocks of 32 inputs with a scale for each output, and what they are
//! multiplied with in the same form.
//!
//! A product with such a weight rounds the rows to eight bits as well, each block of 32 numbers with
//! a scale of its own, and sums exactly in integers within a block, blocks in ascending order in f32.

use super::pages::Plain;
use super::simd::{Lanes, Shared, Sixteen};
use super::threads::over_tiles;
use super::tile::{PANEL, Sums, put, rows_of, with_rows};

/// Inputs that share a scale.
pub(super) const BLOCK: usize = 32;
/// Inputs whose products a kernel adds at once.
const QUAD: usize = 4;
/// Rows in a tile: integer sums and f32 sums are both in registers.
pub(super) const TILE: usize = 3;

/// 32 inputs' weights in a panel.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Block {
    /// In -127..=127.
    quads: [[[i8; QUAD]; PANEL]; BLOCK / QUAD],
    /// bf16: the high halves of f32.
    scales: [u16; PANEL],
}

// SAFETY: plain numbers, 544 bytes without a gap.
unsafe impl Plain for Block {}

impl Block {
    /// Rounds `scale` times up to 32 inputs of one output.
    pub(super) fn quantize(&mut self, lane: usize, values: &[f32], scale: f32) {
        let largest = values.iter().map(|value| (scale * value).abs()).fold(0.0, f32::max);
        // Rounded up, so that the largest weight still fits into 127 steps.
        let bits = (largest / 127.0).to_bits();
        let step = (bits >> 16) as u16 + u16::from(bits & 0xffff != 0);
        let inverse = 1.0 / f32::from_bits(u32::from(step) << 16);
        self.scales[lane] = step;
        for i in 0..BLOCK {
            let steps = values.get(i).map_or(0.0, |value| scale * value * inverse);
            // A weight of zeros has a step of zero, and 0 · ∞ is not a number, which casts to 0.
            self.quads[i / QUAD][lane][i % QUAD] =
                steps.round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }

    /// Returns the weight of one output for one input.
    pub(super) fn value(&self, lane: usize, input: usize) -> f32 {
        let step = f32::from_bits(u32::from(self.scales[lane]) << 16);
        f32::from(self.quads[input / QUAD][lane][input % QUAD]) * step
    }
}

/// Rows rounded to eight bits, ready for tiles of up to [`TILE`] rows.
#[derive(Default)]
pub(super) struct Rows {
    /// For each tile `[blocks, 8 quads, rows]`.
    quads: Vec<[i8; QUAD]>,
    /// For each tile `[blocks, rows]`.
    scales: Vec<f32>,
}

impl Rows {
    /// Rounds `x` `[rows, inputs]`.
    pub(super) fn new(x: &[f32], rows: usize, inputs: usize) -> Rows {
        const QUADS: usize = BLOCK / QUAD;
        let blocks = inputs.div_ceil(BLOCK);
        let mut quads = vec![[0; QUAD]; rows * blocks * QUADS];
        let mut scales = vec![0.0; rows * blocks];
        let (quads_out, scales_out) = (Shared::new(&mut quads), Shared::new(&mut scales));
        over_tiles(rows.div_ceil(TILE), TILE * inputs, |tile| {
            let of_tile = rows_of(tile, rows, TILE);
            let height = of_tile.len();
            for (r, row) in of_tile.clone().enumerate() {
                for (block, values) in x[row * inputs..][..inputs].chunks(BLOCK).enumerate() {
                    let first = of_tile.start * blocks + block * height;
                    // A number that is none must not get lost: it makes the scale one, too.
                    let largest = values.iter().fold(0f32, |largest, x| {
                        if x.abs() > largest || x.is_nan() { x.abs() } else { largest }
                    });
                    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    let mut steps = [0; BLOCK];
                    for (step, &value) in steps.iter_mut().zip(values) {
                        *step = (value * inverse).round_ties_even() as i8;
                    }
                    // SAFETY: a tile has its own part of both, which no other touches.
                    unsafe {
                        *scales_out.get().add(first + r) = largest / 127.0;
                        for (i, quad) in steps.as_chunks::<QUAD>().0.iter().enumerate() {
                            *quads_out.get().add(first * QUADS + i * height + r) = *quad;
                        }
                    }
                }
            }
        });
        Rows { quads, scales }
    }
}

/// Sums all blocks of a panel for the rows of one tile.
///
/// # Safety
///
/// `left` was made of `rows.end` rows or more of as many blocks; `sums.y` is the place of the tile's
/// first row and has all its rows; the machine has the lanes.
#[inline(always)]
pub(super) unsafe fn panel<L: Lanes>(
    left: &Rows,
    rows: std::ops::Range<usize>,
    blocks: &[Block],
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let first = rows.start * blocks.len();
        let quads = left.quads.as_ptr().add(first * (BLOCK / QUAD));
        let scales = left.scales.as_ptr().add(first);
        with_rows!(rows.len().min(TILE), N => tile::<L, N>(quads, scales, blocks, sums));
    }
}

/// # Safety
///
/// As for [`panel`], with pointers to the tile's own numbers.
#[inline(always)]
unsafe fn tile<L: Lanes, const N: usize>(
    mut quads: *const [i8; QUAD],
    mut scales: *const f32,
    blocks: &[Block],
    sums: Sums,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut total = [[L::splat(0.0); 2]; N];
        for block in blocks {
            let mut dots = [[L::zero_integers(); 2]; N];
            for weights in &block.quads {
                let weights = weights.as_ptr().cast::<i8>();
                for (r, dots) in dots.iter_mut().enumerate() {
                    let x = *quads.add(r);
                    dots[0] = L::add_dots(dots[0], weights, x);
                    dots[1] = L::add_dots(dots[1], weights.add(32), x);
                }
                quads = quads.add(N);
            }
            let steps = block.scales.as_ptr();
            let steps = [L::load_bf16_row(steps), L::load_bf16_row(steps.add(8))];
            for (r, dots) in dots.into_iter().enumerate() {
                let scale = L::splat(*scales.add(r));
                for half in 0..2 {
                    let dots = L::from_integers(dots[half]);
                    total[r][half] = dots.mul_add(steps[half].mul(scale), total[r][half]);
                }
            }
            scales = scales.add(N);
        }
        let mut tile = [L::Sixteen::splat(0.0); N];
        for (tile, total) in tile.iter_mut().zip(total) {
            let line = total.map(|half| half.array());
            *tile = L::Sixteen::load(line.as_flattened().as_ptr());
        }
        put(&tile, sums);
    }
}
