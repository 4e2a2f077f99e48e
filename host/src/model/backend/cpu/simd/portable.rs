//! Lanes as arrays, which compilers turn into what instructions there are.

use super::{Lanes, Sixteen};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Portable([f32; 8]);

// SAFETY (all methods): only `load` and `store` do anything unsafe, with pointers that have eight
// numbers behind them by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Lanes for Portable {
    type Integers = [i32; 8];
    type Sixteen = [Portable; 2];

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

// SAFETY (all methods): as above, with sixteen numbers behind pointers.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Sixteen for [Portable; 2] {
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { [Lanes::load(from), Lanes::load(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            self[0].store(to);
            self[1].store(to.add(8));
        }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [Portable([x; 8]); 2]
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { [self[0].add(other[0]), self[1].add(other[1])] }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { [self[0].mul(other[0]), self[1].mul(other[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        unsafe { [self[0].mul_add(factor[0], term[0]), self[1].mul_add(factor[1], term[1])] }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
        unsafe {
            let (low0, high0) = Portable::load_bf16(from);
            let (low1, high1) = Portable::load_bf16(from.add(8));
            ([low0, low1], [high0, high1])
        }
    }
}
