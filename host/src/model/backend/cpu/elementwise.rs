//! Operations on single rows and single numbers.

use super::simd::{Isa, Kernel, Lanes, Shared, exp, sum8};
use super::threads::over_ranges;

/// Numbers that one task takes: enough to pay for handing it over.
const GRAIN: usize = 16 * 1024;
/// The same where each takes an exponential.
const EXP_GRAIN: usize = 2 * 1024;

/// Adds `bias` to each row of `y`.
pub(super) fn add_bias(bias: &[f32], rows: usize, y: &mut [f32]) {
    let width = bias.len();
    over_rows(&mut y[..rows * width], width, |_, y| {
        for y in y.chunks_exact_mut(width) {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    });
}

/// `y` = `x / sqrt(mean(x²) + eps) * weight` for each row.
pub(super) fn rms_norm(isa: Isa, x: &[f32], rows: usize, weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    let x = &x[..rows * width];
    over_rows(&mut y[..rows * width], width, |first, y| {
        let x = &x[first * width..][..y.len()];
        isa.run(RmsNorm { x, weight, eps, y });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let scale = inverse_rms::<L>(x, self.eps);
            for ((y, &x), &weight) in y.iter_mut().zip(x).zip(self.weight) {
                *y = x * scale * weight;
            }
        }
    }
}

/// Returns `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms<L: Lanes>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: the caller runs under `Isa::run`; a chunk has eight numbers.
    let mut sum = unsafe {
        let mut lanes = L::splat(0.0);
        for chunk in x.chunks_exact(8) {
            let x = L::load(chunk.as_ptr());
            lanes = x.mul_add(x, lanes);
        }
        sum8(lanes.array())
    };
    for x in x.chunks_exact(8).remainder() {
        sum += x * x;
    }
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// Rotates each head of `x` `[rows, heads, head_dim]` by its row's position; tables are
/// `[positions, head_dim / 2]`.
#[expect(clippy::too_many_arguments, reason = "a tensor with its shape and two tables")]
pub(super) fn rope(
    isa: Isa,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    let width = heads * head_dim;
    over_rows(&mut x[..positions.len() * width], width, |first, x| {
        let positions = &positions[first..];
        isa.run(Rotate { x, heads, head_dim, positions, cos, sin, inverse });
    });
}

struct Rotate<'a> {
    x: &'a mut [f32],
    heads: usize,
    head_dim: usize,
    positions: &'a [u32],
    cos: &'a [f32],
    sin: &'a [f32],
    inverse: bool,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let half = self.head_dim / 2;
        let sign = if self.inverse { -1.0 } else { 1.0 };
        for (row, &position) in
            self.x.chunks_exact_mut(self.heads * self.head_dim).zip(self.positions)
        {
            let cos = &self.cos[position as usize * half..][..half];
            let sin = &self.sin[position as usize * half..][..half];
            for head in row.chunks_exact_mut(self.head_dim) {
                let (low, high) = head.split_at_mut(half);
                for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (a, b, sin) = (*low, *high, sign * sin);
                    *low = a * cos - b * sin;
                    *high = b * cos + a * sin;
                }
            }
        }
    }
}

/// `y[i]` = `silu(gate[i]) * up[i]`.
pub(super) fn swiglu(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32]) {
    over_rows_of(y, 1, EXP_GRAIN, |first, y| {
        let (gate, up) = (&gate[first..][..y.len()], &up[first..][..y.len()]);
        isa.run(Swiglu { gate, up, y });
    });
}

struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let len = self.y.len();
        let whole = len - len % 8;
        for i in (0..whole).step_by(8) {
            // SAFETY: all three slices have `len` numbers, and `i + 8 <= len`.
            unsafe {
                let (gate, up) = (self.gate.as_ptr().add(i), self.up.as_ptr().add(i));
                silu_times(L::load(gate), L::load(up)).store(self.y.as_mut_ptr().add(i));
            }
        }
        if whole < len {
            // The last few through the same lanes, so that a number's place changes no bit.
            let (mut gate, mut up, mut y) = ([0f32; 8], [0f32; 8], [0f32; 8]);
            gate[..len - whole].copy_from_slice(&self.gate[whole..len]);
            up[..len - whole].copy_from_slice(&self.up[whole..len]);
            // SAFETY: arrays of eight.
            unsafe {
                let product = silu_times(L::load(gate.as_ptr()), L::load(up.as_ptr()));
                product.store(y.as_mut_ptr());
            }
            self.y[whole..].copy_from_slice(&y[..len - whole]);
        }
    }
}

/// # Safety
///
/// The machine has the lanes.
#[inline(always)]
unsafe fn silu_times<L: Lanes>(gate: L, up: L) -> L {
    // SAFETY: as the caller promises.
    unsafe {
        let one = L::splat(1.0);
        gate.div(one.add(exp(L::splat(0.0).sub(gate)))).mul(up)
    }
}

/// Returns `exp((logit - max) * factor)` for each logit, on this thread.
pub(crate) fn exp_weights(logits: &[f32], factor: f64) -> Vec<f32> {
    Isa::detect().run(ExpWeights { logits, factor: factor.min(f32::MAX as f64) as f32 })
}

struct ExpWeights<'a> {
    logits: &'a [f32],
    factor: f32,
}

impl Kernel for ExpWeights<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        let mut weights = self.logits.to_vec();
        // Whole vectors only: what is added weighs nothing and is cut off again.
        weights.resize(weights.len().next_multiple_of(8), f32::NEG_INFINITY);
        // SAFETY: `Isa::run` picked the lanes, and a chunk has eight numbers.
        unsafe {
            let mut max = L::splat(f32::NEG_INFINITY);
            for chunk in weights.chunks_exact(8) {
                max = max.max(L::load(chunk.as_ptr()));
            }
            let max = max.array().into_iter().fold(f32::NEG_INFINITY, f32::max);
            let (max, factor) = (L::splat(max), L::splat(self.factor));
            for chunk in weights.chunks_exact_mut(8) {
                exp(L::load(chunk.as_ptr()).sub(max).mul(factor)).store(chunk.as_mut_ptr());
            }
        }
        weights.truncate(self.logits.len());
        weights
    }
}

/// Calls `task(first, rows)` for runs of whole rows of `y`, in parallel where that pays.
pub(super) fn over_rows(y: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    over_rows_of(y, width, GRAIN, task);
}

/// The same for runs of at least `grain` numbers.
fn over_rows_of(
    y: &mut [f32],
    width: usize,
    grain: usize,
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let rows = y.len() / width;
    let y = Shared::new(y);
    over_ranges(rows, grain.div_ceil(width), |range| {
        // SAFETY: tasks get disjoint rows of `y`.
        task(range.start, unsafe { y.part(range.start * width..range.end * width) });
    });
}
