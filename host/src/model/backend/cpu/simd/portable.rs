//! Lanes for any processor, in vectors of four.

#[cfg(any(test, not(target_arch = "x86_64")))]
mod arrays;
#[cfg(target_arch = "x86_64")]
mod sse2;

use super::{Lanes, Sixteen};
#[cfg(not(target_arch = "x86_64"))]
use arrays::{Four, Integers};
#[cfg(target_arch = "x86_64")]
use sse2::{Four, Integers};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Portable([Four; 2]);

// SAFETY (all methods): only what loads or stores does anything unsafe, with pointers that have eight
// numbers behind them by the trait's contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Lanes for Portable {
    type Integers = [Integers; 2];
    type Sixteen = [Portable; 2];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Portable(unsafe { [Four::load(from), Four::load(from.add(4))] })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            self.0[0].store(to);
            self.0[1].store(to.add(4));
        }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([Four::splat(x); 2])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Portable([self.0[0].add(other.0[0]), self.0[1].add(other.0[1])])
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Portable([self.0[0].sub(other.0[0]), self.0[1].sub(other.0[1])])
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Portable([self.0[0].mul(other.0[0]), self.0[1].mul(other.0[1])])
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Portable([self.0[0].div(other.0[0]), self.0[1].div(other.0[1])])
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Portable([self.0[0].max(other.0[0]), self.0[1].max(other.0[1])])
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Portable([self.0[0].min(other.0[0]), self.0[1].min(other.0[1])])
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // Not `f32::mul_add`, which is a function call on machines without the instruction.
        unsafe { self.mul(factor).add(term) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Portable([self.0[0].round(), self.0[1].round()])
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        Portable(unsafe { [self.0[0].exp2_integer(), self.0[1].exp2_integer()] })
    }

    #[inline(always)]
    unsafe fn zero_where_below(self, limit: Self, value: Self) -> Self {
        let [low, high] = self.0;
        let low = low.zero_where_below(limit.0[0], value.0[0]);
        Portable([low, high.zero_where_below(limit.0[1], value.0[1])])
    }

    #[inline(always)]
    unsafe fn array(self) -> [f32; 8] {
        let mut array = [0.0; 8];
        unsafe { self.store(array.as_mut_ptr()) };
        array
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> (Self, Self) {
        let (low, high) = unsafe { (Four::load_bf16(from), Four::load_bf16(from.add(4))) };
        (Portable([low.0, high.0]), Portable([low.1, high.1]))
    }

    #[inline(always)]
    unsafe fn load_bf16_row(from: *const u16) -> Self {
        Portable(unsafe { [Four::load_bf16_row(from), Four::load_bf16_row(from.add(4))] })
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 8]) -> [Self; 8] {
        let mut turned = rows;
        for side in 0..2 {
            for block in 0..2 {
                let fours = [0, 1, 2, 3].map(|i| rows[4 * block + i].0[side]);
                for (i, four) in Four::transpose(fours).into_iter().enumerate() {
                    turned[4 * side + i].0[block] = four;
                }
            }
        }
        turned
    }

    #[inline(always)]
    unsafe fn zero_integers() -> [Integers; 2] {
        [Four::zero_integers(); 2]
    }

    #[inline(always)]
    unsafe fn add_dots(sums: [Integers; 2], weights: *const i8, x: [i8; 4]) -> [Integers; 2] {
        let [low, high] = sums;
        unsafe { [Four::add_dots(low, weights, x), Four::add_dots(high, weights.add(16), x)] }
    }

    #[inline(always)]
    unsafe fn from_integers(integers: [Integers; 2]) -> Self {
        Portable([Four::from_integers(integers[0]), Four::from_integers(integers[1])])
    }
}

// SAFETY (all methods): as above, with sixteen numbers behind pointers.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one comment above for all")]
impl Sixteen for [Portable; 2] {
    const MANY: bool = false;
    const PAIRS: bool = true;

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
        unsafe { [Lanes::splat(x); 2] }
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{arrays, sse2};

    /// The bits of what every method of a `Four` makes of some numbers.
    macro_rules! results {
        ($four:path) => {{
            use $four as Four;
            let numbers = |seed: f32| [0.5, -1.75, 2.5, 3.1].map(|x: f32| x * seed);
            let words = [0x3f80_4049_u32, 0xbf12_c2f7, 0, 0x4049_3f80];
            let weights: [i8; 16] = [127, -127, 3, 0, 1, 2, 3, 4, -9, 8, -7, 6, 100, 50, -25, 12];
            let mut bits = vec![];
            // SAFETY: all pointers are to arrays that are long enough, and integers in range.
            unsafe {
                let [a, b] = [1.0, -3.0].map(|seed| Four::load(numbers(seed).as_ptr()));
                let n = a.mul(Four::splat(2.0)).round();
                let none = Four::splat(f32::NAN);
                let (low, high) = Four::load_bf16(words.as_ptr());
                let [c, d, e, f] = Four::transpose([a, b, low, high]);
                let sums = Four::add_dots(Four::zero_integers(), weights.as_ptr(), [1, -127, 5, 9]);
                let sums = Four::add_dots(sums, weights.as_ptr(), [-127, 127, 0, 1]);
                let fours = [
                    a.add(b),
                    a.sub(b),
                    a.mul(b),
                    a.div(b),
                    a.max(b),
                    none.max(a),
                    a.min(b),
                    none.min(a),
                    b.round(),
                    n,
                    n.exp2_integer(),
                    Four::splat(-126.0).exp2_integer(),
                    Four::splat(127.0).exp2_integer(),
                    a.zero_where_below(b, Four::splat(7.0)),
                    low,
                    high,
                    Four::load_bf16_row(words.as_ptr().cast()),
                    c,
                    d,
                    e,
                    f,
                    Four::from_integers(sums),
                ];
                for four in fours {
                    let mut array = [0.0; 4];
                    four.store(array.as_mut_ptr());
                    bits.push(array.map(f32::to_bits));
                }
            }
            bits
        }};
    }

    #[test]
    fn arrays_do_as_the_instructions_do() {
        assert_eq!(results!(arrays::Four), results!(sse2::Four));
    }
}
