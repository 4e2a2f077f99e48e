//! Four lanes as an array, which compilers turn into what instructions there are.

use std::array::from_fn;

/// Four f32; see [`Lanes`](super::super::Lanes) for what the methods do.
#[derive(Clone, Copy)]
pub(super) struct Four([f32; 4]);

/// Four i32.
pub(super) type Integers = [i32; 4];

// SAFETY (all methods): pointers have four numbers behind them by the contract of `Lanes`, and
// integers are in the range of i32.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Four {
    #[inline(always)]
    pub(super) unsafe fn load(from: *const f32) -> Four {
        Four(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    pub(super) unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Four {
        Four([x; 4])
    }

    #[inline(always)]
    pub(super) fn add(self, other: Four) -> Four {
        Four(from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    pub(super) fn sub(self, other: Four) -> Four {
        Four(from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    pub(super) fn mul(self, other: Four) -> Four {
        Four(from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    pub(super) fn div(self, other: Four) -> Four {
        Four(from_fn(|i| self.0[i] / other.0[i]))
    }

    #[inline(always)]
    pub(super) fn max(self, other: Four) -> Four {
        // As the x86 instruction: the second operand where one is not a number.
        Four(from_fn(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }

    #[inline(always)]
    pub(super) fn min(self, other: Four) -> Four {
        Four(from_fn(|i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] }))
    }

    #[inline(always)]
    pub(super) fn round(self) -> Four {
        // Not `f32::round_ties_even`, which is a function call on machines without the instruction.
        // With 1.5 · 2^23 added there is no room for a fraction.
        const SHIFT: f32 = 12_582_912.0;
        Four(from_fn(|i| (self.0[i] + SHIFT) - SHIFT))
    }

    #[inline(always)]
    pub(super) unsafe fn exp2_integer(self) -> Four {
        // No check of the range, which would keep compilers from doing four at a time.
        let exponent = |x: f32| unsafe { x.to_int_unchecked::<i32>() } + 127;
        Four(from_fn(|i| f32::from_bits((exponent(self.0[i]) as u32) << 23)))
    }

    #[inline(always)]
    pub(super) fn zero_where_below(self, limit: Four, value: Four) -> Four {
        Four(from_fn(|i| if self.0[i] < limit.0[i] { 0.0 } else { value.0[i] }))
    }

    #[inline(always)]
    pub(super) unsafe fn load_bf16(from: *const u32) -> (Four, Four) {
        let words = unsafe { from.cast::<[u32; 4]>().read_unaligned() };
        let low = words.map(|word| f32::from_bits(word << 16));
        (Four(low), Four(words.map(|word| f32::from_bits(word & 0xffff_0000))))
    }

    #[inline(always)]
    pub(super) unsafe fn load_bf16_row(from: *const u16) -> Four {
        let numbers = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Four(numbers.map(|number| f32::from_bits(u32::from(number) << 16)))
    }

    #[inline(always)]
    pub(super) fn transpose(rows: [Four; 4]) -> [Four; 4] {
        from_fn(|i| Four(from_fn(|j| rows[j].0[i])))
    }

    #[inline(always)]
    pub(super) fn zero_integers() -> Integers {
        [0; 4]
    }

    #[inline(always)]
    pub(super) unsafe fn add_dots(sums: Integers, weights: *const i8, x: [i8; 4]) -> Integers {
        let weights = unsafe { weights.cast::<[[i8; 4]; 4]>().read_unaligned() };
        from_fn(|lane| {
            let products = weights[lane].iter().zip(&x).map(|(&w, &x)| i32::from(w) * i32::from(x));
            sums[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    pub(super) fn from_integers(integers: Integers) -> Four {
        Four(integers.map(|x| x as f32))
    }
}
