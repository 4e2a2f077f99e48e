//! Eight lanes of f32, and the choice of instructions at run time.
//!
//! A kernel is written once over [`Lanes`] and compiled for each instruction set; [`Isa::run`]
//! enters the version that the machine supports. Versions may differ in the last bit, as one has
//! fused multiply-add; on one machine the choice is always the same.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::avx512::{Bf16, Wide};
use crate::model::backend::WeightType;
use portable::Portable;

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 where it pays, AVX2 and FMA for the rest.
    #[cfg(target_arch = "x86_64")]
    Avx512(Wide),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of an architecture has.
    Portable,
}

/// A computation to run with the lanes of an instruction set.
///
/// Implementations of `run` are `#[inline(always)]`, as is all they call, so that they are compiled
/// with the instruction set's features.
pub(super) trait Kernel {
    type Output;
    fn run<L: Lanes>(self) -> Self::Output;
}

impl Isa {
    /// Returns the best instruction set of this machine.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Wide::detect().map_or(Isa::Avx2, Isa::Avx512);
        }
        Isa::Portable
    }

    /// Names what decides the last bits of a product with weights of a type, for example `avx2`.
    pub fn class(self, weight_type: WeightType) -> &'static str {
        match (self, weight_type) {
            // Of f32 the same terms are added in the same order as with AVX2.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(Wide { bf16: Bf16::Tiles }), WeightType::Bf16) => "amx-bf16",
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(Wide { bf16: Bf16::Pairs }), WeightType::Bf16) => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(_) | Isa::Avx2, _) => "avx2",
            (Isa::Portable, _) => "portable",
        }
    }

    /// Returns every set of kernels that this machine can run, the best first.
    pub fn all() -> Vec<Isa> {
        let mut all = vec![Isa::detect()];
        #[cfg(target_arch = "x86_64")]
        if let Isa::Avx512(Wide { bf16 }) = all[0] {
            if bf16 == Bf16::Tiles {
                all.push(Isa::Avx512(Wide { bf16: Bf16::Pairs }));
            }
            all.push(Isa::Avx2);
        }
        if all[0] != Isa::Portable {
            all.push(Isa::Portable);
        }
        all
    }

    /// Says whether products go over two panels of a weight at a time.
    #[inline(always)]
    pub(super) fn is_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512(_));
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Says whether products with bf16 weights round the rows to bf16, too.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512(wide) if wide.bf16 != Bf16::Widened);
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Says whether such products go over blocks of tile registers.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_tiles(self) -> bool {
        matches!(self, Isa::Avx512(Wide { bf16: Bf16::Tiles }))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: only `detect` makes these variants outside of it, having found the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => unsafe { avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2(kernel) },
            Isa::Portable => kernel.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<x86::Eight<x86::Two>>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<x86::Eight<x86::One>>()
}

/// Eight f32.
///
/// # Safety
///
/// The methods of a type may only be called on a machine with its instruction set, which [`Isa::run`]
/// sees to; `load` and `store` need eight numbers behind the pointer, of any alignment.
pub(super) trait Lanes: Copy {
    /// Eight i32.
    type Integers: Copy;
    /// Twice as many lanes.
    type Sixteen: Sixteen;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// Two to the power of each lane, which holds an integer in -126..=127.
    unsafe fn exp2_integer(self) -> Self;
    /// `value`, but zero in the lanes where `self < limit`.
    unsafe fn zero_where_below(self, limit: Self, value: Self) -> Self;
    /// The lanes in order.
    unsafe fn array(self) -> [f32; 8];
    /// Eight words of two bf16 each, as f32: the low halves and the high halves.
    unsafe fn load_bf16(from: *const u32) -> (Self, Self);
    /// Eight bf16 in a row, as f32.
    unsafe fn load_bf16_row(from: *const u16) -> Self;
    /// Transposes eight vectors as an 8 × 8 matrix.
    unsafe fn transpose(rows: [Self; 8]) -> [Self; 8];
    unsafe fn zero_integers() -> Self::Integers;
    /// To each lane its product of four weights with `x`; all are in -127..=127, and there are 32
    /// weights.
    unsafe fn add_dots(sums: Self::Integers, weights: *const i8, x: [i8; 4]) -> Self::Integers;
    unsafe fn from_integers(integers: Self::Integers) -> Self;
}

/// Sixteen f32, for the loops that take most of the time. Each lane computes what a lane of eight
/// would, so the two differ in no bit.
///
/// # Safety
///
/// As for [`Lanes`], with sixteen numbers behind pointers.
pub(super) trait Sixteen: Copy {
    /// Whether there are registers for a dozen of them.
    const MANY: bool;
    /// Whether registers hold two rows of a tile and no more.
    const PAIRS: bool;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Sixteen words of two bf16 each, as f32: the low halves and the high halves.
    unsafe fn load_bf16(from: *const u32) -> (Self, Self);
}

/// The sum of eight numbers in one fixed order.
#[inline(always)]
pub(super) fn sum8(x: [f32; 8]) -> f32 {
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}

/// `e` to the power of each lane, to about 1e-7 relative; 0 where the result would be subnormal. What
/// becomes of a NaN differs between processors: callers see to it that there is none, or that it stays
/// in another term of what they compute.
///
/// # Safety
///
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        let lowest = L::splat(-87.33654);
        let clamped = x.max(lowest).min(L::splat(88.72283));
        // x = n·ln 2 + r with |r| <= ln 2 / 2; ln 2 is split so that n·HIGH is exact.
        let n = clamped.mul(L::splat(std::f32::consts::LOG2_E)).round().min(L::splat(127.0));
        let r = n.mul_add(L::splat(-0.693_359_4), clamped);
        let r = n.mul_add(L::splat(2.121_944_4e-4), r);
        // The Taylor series of (e^r - 1 - r) / r², its coefficients moved to be best on the interval.
        let mut p = L::splat(1.987_569_2e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.mul_add(r, L::splat(coefficient));
        }
        let value = p.mul_add(r.mul(r), r).add(L::splat(1.0)).mul(n.exp2_integer());
        x.zero_where_below(lowest, value)
    }
}

/// A pointer that threads may share: each writes its own part.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(*mut T);

// SAFETY: it is only an address; whoever reads or writes through it says why that is sound.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr())
    }

    #[inline(always)]
    pub(super) fn get(&self) -> *mut T {
        self.0
    }

    /// Returns a part.
    ///
    /// # Safety
    ///
    /// The slice has the part, and nobody else uses it meanwhile.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller sees to it that parts are used once")]
    pub(super) unsafe fn part(&self, part: Range<usize>) -> &mut [T] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(part.start), part.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp([f32; 8]);

    impl Kernel for Exp {
        type Output = [f32; 8];

        #[inline(always)]
        fn run<L: Lanes>(self) -> [f32; 8] {
            // SAFETY: `Isa::run` picked lanes that this machine has.
            unsafe { exp(L::load(self.0.as_ptr())).array() }
        }
    }

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for isa in [Isa::detect(), Isa::Portable] {
            let mut worst = 0f64;
            for i in 0..200_000 {
                let x = -87.3 + i as f32 * (88.7 + 87.3) / 200_000.0;
                let got = isa.run(Exp([x; 8]))[3] as f64;
                let want = (x as f64).exp();
                worst = worst.max(((got - want) / want).abs());
            }
            assert!(worst < 2.4e-7, "{isa:?} {worst:e}");
        }
    }

    #[test]
    fn exp_at_the_edges() {
        for isa in [Isa::detect(), Isa::Portable] {
            let [a, b, c, d, e, f, ..] =
                isa.run(Exp([0.0, -0.0, f32::NEG_INFINITY, -1000.0, -87.5, 1000.0, 0.0, 0.0]));
            assert_eq!([a, b, c, d, e], [1.0, 1.0, 0.0, 0.0, 0.0], "{isa:?}");
            assert!(f > 3.0e38 && f.is_finite(), "{isa:?} {f}");
        }
    }
}
