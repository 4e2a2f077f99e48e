//! Four lanes as every x86-64 processor has them.

use std::arch::x86_64::*;

/// Four f32; see [`Lanes`](super::super::Lanes) for what the methods do.
#[derive(Clone, Copy)]
pub(super) struct Four(__m128);

/// Four i32.
pub(super) type Integers = __m128i;

// SAFETY (all methods): the instructions are always there. Pointers have four numbers behind them by
// the contract of `Lanes`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Four {
    #[inline(always)]
    pub(super) unsafe fn load(from: *const f32) -> Four {
        Four(unsafe { _mm_loadu_ps(from) })
    }

    #[inline(always)]
    pub(super) unsafe fn store(self, to: *mut f32) {
        unsafe { _mm_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Four {
        Four(unsafe { _mm_set1_ps(x) })
    }

    #[inline(always)]
    pub(super) fn add(self, other: Four) -> Four {
        Four(unsafe { _mm_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn sub(self, other: Four) -> Four {
        Four(unsafe { _mm_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn mul(self, other: Four) -> Four {
        Four(unsafe { _mm_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn div(self, other: Four) -> Four {
        Four(unsafe { _mm_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn max(self, other: Four) -> Four {
        Four(unsafe { _mm_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn min(self, other: Four) -> Four {
        Four(unsafe { _mm_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    pub(super) fn round(self) -> Four {
        Four(unsafe { _mm_cvtepi32_ps(_mm_cvtps_epi32(self.0)) })
    }

    #[inline(always)]
    pub(super) unsafe fn exp2_integer(self) -> Four {
        unsafe {
            let exponents = _mm_add_epi32(_mm_cvtps_epi32(self.0), _mm_set1_epi32(127));
            Four(_mm_castsi128_ps(_mm_slli_epi32::<23>(exponents)))
        }
    }

    #[inline(always)]
    pub(super) fn zero_where_below(self, limit: Four, value: Four) -> Four {
        Four(unsafe { _mm_andnot_ps(_mm_cmplt_ps(self.0, limit.0), value.0) })
    }

    #[inline(always)]
    pub(super) unsafe fn load_bf16(from: *const u32) -> (Four, Four) {
        unsafe {
            let words = _mm_loadu_si128(from.cast());
            let high = _mm_and_si128(words, _mm_set1_epi32(0xffff_0000_u32 as i32));
            let low = _mm_slli_epi32::<16>(words);
            (Four(_mm_castsi128_ps(low)), Four(_mm_castsi128_ps(high)))
        }
    }

    #[inline(always)]
    pub(super) unsafe fn load_bf16_row(from: *const u16) -> Four {
        unsafe {
            let numbers = _mm_loadl_epi64(from.cast());
            Four(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), numbers)))
        }
    }

    #[inline(always)]
    pub(super) fn transpose(rows: [Four; 4]) -> [Four; 4] {
        let [Four(mut a), Four(mut b), Four(mut c), Four(mut d)] = rows;
        unsafe { _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d) };
        [Four(a), Four(b), Four(c), Four(d)]
    }

    #[inline(always)]
    pub(super) fn zero_integers() -> Integers {
        unsafe { _mm_setzero_si128() }
    }

    #[inline(always)]
    pub(super) unsafe fn add_dots(sums: Integers, weights: *const i8, x: [i8; 4]) -> Integers {
        unsafe {
            // Sixteen bits each, the two products of a pair added in 32.
            let weights = _mm_loadu_si128(weights.cast());
            let wide = |pairs| _mm_srai_epi16::<8>(pairs);
            let x = _mm_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
            let x = wide(_mm_unpacklo_epi8(x, x));
            let low = _mm_madd_epi16(wide(_mm_unpacklo_epi8(weights, weights)), x);
            let high = _mm_madd_epi16(wide(_mm_unpackhi_epi8(weights, weights)), x);
            let (low, high) = (_mm_castsi128_ps(low), _mm_castsi128_ps(high));
            let even = _mm_castps_si128(_mm_shuffle_ps::<0b10_00_10_00>(low, high));
            let odd = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(low, high));
            _mm_add_epi32(sums, _mm_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    pub(super) fn from_integers(integers: Integers) -> Four {
        Four(unsafe { _mm_cvtepi32_ps(integers) })
    }
}
