//! Lanes of AVX2, and sixteen at a time of AVX-512.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{Lanes, Sixteen};

/// Eight lanes, of which what goes over sixteen takes `S`.
#[derive(Clone, Copy)]
pub(in super::super) struct Eight<S>(__m256, PhantomData<S>);

/// Sixteen lanes in two registers.
#[derive(Clone, Copy)]
pub(in super::super) struct Two(__m256, __m256);

/// Sixteen lanes in one register of AVX-512.
#[derive(Clone, Copy)]
pub(in super::super) struct One(__m512);

#[inline(always)]
fn eight<S>(lanes: __m256) -> Eight<S> {
    Eight(lanes, PhantomData)
}

// SAFETY (all methods): the trait's contract says that AVX2 and FMA are there and that pointers
// have eight numbers behind them.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl<S: Sixteen> Lanes for Eight<S> {
    type Integers = __m256i;
    type Sixteen = S;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        eight(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        eight(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        eight(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        eight(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        eight(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        eight(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        eight(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        eight(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        eight(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        eight(unsafe { _mm256_round_ps::<NEAREST>(self.0) })
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            eight(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    unsafe fn zero_where_below(self, limit: Self, value: Self) -> Self {
        unsafe {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            eight(_mm256_andnot_ps(below, value.0))
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
            (eight(_mm256_castsi256_ps(low)), eight(_mm256_castsi256_ps(high)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_row(from: *const u16) -> Self {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            eight(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
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
            let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
            let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
            let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
            let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
            [
                eight(_mm256_permute2f128_ps::<0x20>(b0, b4)),
                eight(_mm256_permute2f128_ps::<0x20>(b1, b5)),
                eight(_mm256_permute2f128_ps::<0x20>(b2, b6)),
                eight(_mm256_permute2f128_ps::<0x20>(b3, b7)),
                eight(_mm256_permute2f128_ps::<0x31>(b0, b4)),
                eight(_mm256_permute2f128_ps::<0x31>(b1, b5)),
                eight(_mm256_permute2f128_ps::<0x31>(b2, b6)),
                eight(_mm256_permute2f128_ps::<0x31>(b3, b7)),
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
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
            let fours = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
            _mm256_add_epi32(sums, fours)
        }
    }

    #[inline(always)]
    unsafe fn from_integers(integers: __m256i) -> Self {
        eight(unsafe { _mm256_cvtepi32_ps(integers) })
    }
}

// SAFETY (all methods): as above, with sixteen numbers behind pointers.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Sixteen for Two {
    const MANY: bool = false;
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Two(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Two(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Two(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Two(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        unsafe {
            let low = _mm256_fmadd_ps(self.0, factor.0, term.0);
            Two(low, _mm256_fmadd_ps(self.1, factor.1, term.1))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
        unsafe {
            let (low0, high0) = Eight::<Two>::load_bf16(from);
            let (low1, high1) = Eight::<Two>::load_bf16(from.add(8));
            (Two(low0.0, low1.0), Two(high0.0, high1.0))
        }
    }
}

// SAFETY (all methods): as above; AVX-512 is there.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Sixteen for One {
    const MANY: bool = true;
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        One(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        One(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        One(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        One(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        One(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
        unsafe {
            let words = _mm512_loadu_si512(from.cast());
            let low = _mm512_slli_epi32::<16>(words);
            let high = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (One(_mm512_castsi512_ps(low)), One(_mm512_castsi512_ps(high)))
        }
    }
}
