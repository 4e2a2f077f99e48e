//! Eight lanes of f32, and the choice of instructions at run time.
//!
//! A kernel is written once over [`Lanes`] and compiled for each instruction set; [`Isa::run`]
//! enters the version that the machine supports. Versions may differ in the last bit, as one has
//! fused multiply-add; on one machine the choice is always the same.

#[cfg(target_arch = "x86_64")]
use super::avx512::{Bf16, Wide};
use crate::model::backend::WeightType;

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 for products, AVX2 and FMA for the rest.
    #[cfg(target_arch = "x86_64")]
    Avx512(Wide),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of arrays.
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
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512(wide) if wide.bf16 != Bf16::Widened);
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Says whether such products go over blocks of tile registers.
    #[inline(always)]
    pub(super) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512(Wide { bf16: Bf16::Tiles }));
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: only `detect` makes these variants outside of it, having found the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Avx2 => unsafe { avx2(kernel) },
            Isa::Portable => kernel.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
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
    /// Zero in the lanes where `self < limit`, `self` elsewhere taken from `value`.
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

/// The sum of eight numbers in one fixed order.
#[inline(always)]
pub(super) fn sum8(x: [f32; 8]) -> f32 {
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}

/// `e` to the power of each lane, to about 1e-7 relative; 0 where the result would be subnormal.
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

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(std::arch::x86_64::__m256);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Avx2, Lanes};

    // SAFETY (all methods): the trait's contract says that AVX2 and FMA are there and that pointers
    // have eight numbers behind them.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
    impl Lanes for Avx2 {
        type Integers = __m256i;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Avx2(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            Avx2(unsafe { _mm256_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_min_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        unsafe fn round(self) -> Self {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            Avx2(unsafe { _mm256_round_ps::<NEAREST>(self.0) })
        }

        #[inline(always)]
        unsafe fn exp2_integer(self) -> Self {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
            }
        }

        #[inline(always)]
        unsafe fn zero_where_below(self, limit: Self, value: Self) -> Self {
            unsafe {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
                Avx2(_mm256_andnot_ps(below, value.0))
            }
        }

        #[inline(always)]
        unsafe fn array(self) -> [f32; 8] {
            let mut lanes = [0.0; 8];
            unsafe { self.store(lanes.as_mut_ptr()) };
            lanes
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
            unsafe {
                let words = _mm256_loadu_si256(from.cast());
                let low = _mm256_slli_epi32::<16>(words);
                let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                (Avx2(_mm256_castsi256_ps(low)), Avx2(_mm256_castsi256_ps(high)))
            }
        }

        #[inline(always)]
        unsafe fn load_bf16_row(from: *const u16) -> Self {
            unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
            }
        }

        #[inline(always)]
        unsafe fn transpose(r: [Self; 8]) -> [Self; 8] {
            unsafe {
                // Pairs, then fours within each half, then the halves change places.
                let low = |a: usize, b: usize| _mm256_unpacklo_ps(r[a].0, r[b].0);
                let high = |a: usize, b: usize| _mm256_unpackhi_ps(r[a].0, r[b].0);
                let (a0, a1, a2, a3) = (low(0, 1), high(0, 1), low(2, 3), high(2, 3));
                let (a4, a5, a6, a7) = (low(4, 5), high(4, 5), low(6, 7), high(6, 7));
                let (b0, b1) =
                    (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
                let (b2, b3) =
                    (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
                let (b4, b5) =
                    (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
                let (b6, b7) =
                    (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
                [
                    Avx2(_mm256_permute2f128_ps::<0x20>(b0, b4)),
                    Avx2(_mm256_permute2f128_ps::<0x20>(b1, b5)),
                    Avx2(_mm256_permute2f128_ps::<0x20>(b2, b6)),
                    Avx2(_mm256_permute2f128_ps::<0x20>(b3, b7)),
                    Avx2(_mm256_permute2f128_ps::<0x31>(b0, b4)),
                    Avx2(_mm256_permute2f128_ps::<0x31>(b1, b5)),
                    Avx2(_mm256_permute2f128_ps::<0x31>(b2, b6)),
                    Avx2(_mm256_permute2f128_ps::<0x31>(b3, b7)),
                ]
            }
        }

        #[inline(always)]
        unsafe fn zero_integers() -> __m256i {
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        unsafe fn add_dots(sums: __m256i, weights: *const i8, x: [i8; 4]) -> __m256i {
            unsafe {
                // The instruction multiplies unsigned with signed numbers: the sign of `x` goes to
                // the weights. Two products of at most 127 · 127 fit into 16 bits.
                let weights = _mm256_loadu_si256(weights.cast());
                let x = _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
                let products =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
                let fours = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
                _mm256_add_epi32(sums, fours)
            }
        }

        #[inline(always)]
        unsafe fn from_integers(integers: __m256i) -> Self {
            Avx2(unsafe { _mm256_cvtepi32_ps(integers) })
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

// SAFETY (all methods): only `load` and `store` do anything unsafe, with pointers that have eight
// numbers behind them by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Lanes for Portable {
    type Integers = [i32; 8];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] / other.0[i]))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // As the x86 instruction: the second operand where one is not a number.
        Portable(std::array::from_fn(
            |i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] },
        ))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Portable(std::array::from_fn(
            |i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] },
        ))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // Not `f32::mul_add`, which is a function call on machines without the instruction.
        Portable(std::array::from_fn(|i| self.0[i] * factor.0[i] + term.0[i]))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Portable(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        Portable(self.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }

    #[inline(always)]
    unsafe fn zero_where_below(self, limit: Self, value: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < limit.0[i] { 0.0 } else { value.0[i] }))
    }

    #[inline(always)]
    unsafe fn array(self) -> [f32; 8] {
        self.0
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        let low = words.map(|word| f32::from_bits(word << 16));
        (Portable(low), Portable(words.map(|word| f32::from_bits(word & 0xffff_0000))))
    }

    #[inline(always)]
    unsafe fn load_bf16_row(from: *const u16) -> Self {
        let words = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Portable(words.map(|word| f32::from_bits(u32::from(word) << 16)))
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 8]) -> [Self; 8] {
        std::array::from_fn(|i| Portable(std::array::from_fn(|j| rows[j].0[i])))
    }

    #[inline(always)]
    unsafe fn zero_integers() -> [i32; 8] {
        [0; 8]
    }

    #[inline(always)]
    unsafe fn add_dots(sums: [i32; 8], weights: *const i8, x: [i8; 4]) -> [i32; 8] {
        let weights = unsafe { weights.cast::<[[i8; 4]; 8]>().read_unaligned() };
        std::array::from_fn(|lane| {
            let products = weights[lane].iter().zip(&x).map(|(&w, &x)| i32::from(w) * i32::from(x));
            sums[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    unsafe fn from_integers(integers: [i32; 8]) -> Self {
        Portable(integers.map(|x| x as f32))
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
