//! A small product to try tiles on before they are used: an emulator or a hypervisor may announce
//! instructions that it does not have right.

use super::tile::Sums;

/// Terms of the product; an even number.
pub(super) const DEPTH: usize = 6;
/// Columns of the product: more than one panel, less than two.
const COLUMNS: usize = 20;
/// From one row of the result to the next.
const STRIDE: usize = 32;

/// The left operand: small whole numbers, of which sums of any order and type are exact.
pub(super) fn left(row: usize, term: usize) -> f32 {
    ((row * 3 + term) % 23) as f32 - 4.0
}

/// The right operand.
pub(super) fn right(term: usize, column: usize) -> f32 {
    (term + column * 2) as f32 - 11.0
}

/// Two such numbers, exact in bf16, in a word: the first in the low half.
pub(super) fn word(even: f32, odd: f32) -> u32 {
    (even.to_bits() >> 16) | (odd.to_bits() & 0xffff_0000)
}

/// Lets `add` add the product of so many rows to where it is told, and says whether it did that and
/// no more.
pub(super) fn is_right(rows: usize, add: impl FnOnce(Sums)) -> bool {
    let mut y = vec![1.0; (rows + 1) * STRIDE];
    add(Sums { y: y.as_mut_ptr(), stride: STRIDE, columns: COLUMNS, add: true });
    y.iter().enumerate().all(|(i, &y)| {
        let (row, column) = (i / STRIDE, i % STRIDE);
        let sum: f32 = (0..DEPTH).map(|term| left(row, term) * right(term, column)).sum();
        y == if row < rows && column < COLUMNS { 1.0 + sum } else { 1.0 }
    })
}
