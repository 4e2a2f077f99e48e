//! Products of a layer that an adapter goes beside, both as one.
//!
//! Forward that is `[x, low] · [W, B]ᵀ`, backward `[dy, dlow] · [W; A]`, of which the library needs to know no more than
//! how far apart rows lie: rows and weights have a margin (`buffer::MARGIN`), where `low`, `B` and `A` are copied to. So
//! what a layer makes is written once, and what the adapter adds to it is neither read nor written on its own, which for
//! a small rank takes far longer than the additions themselves.
//!
//! What attention makes has no margin, as its kernels know none; there, and where a rank does not fit, the two products
//! are formed one after the other.

use super::super::argument::Argument;
use super::super::buffer::{Operand, Rows};
use super::super::{Buffer, Cuda, Matrix, Place, arguments};
use super::{Kind, NARROW, Number, Product};

impl Cuda {
    /// `result` = `before` + rows times a layer's weight, in a training pass going forward or backward. `beside` are
    /// rows of an adapter, and its matrix that they are multiplied with; returns whether that is in the result too.
    #[expect(clippy::too_many_arguments, reason = "a product, what goes beside it, and the result")]
    pub(in super::super) fn layer_product(
        &self,
        kind: Kind,
        x: &Buffer,
        rows: usize,
        weight: &Matrix,
        beside: Option<(&Buffer, &Matrix)>,
        before: Option<Place>,
        result: Place,
    ) -> bool {
        let Matrix { outputs, inputs, .. } = *weight;
        assert!(before.is_none_or(|before| before.number == result.number), "both of one type");
        assert!(kind != Kind::Gradient, "a product with a weight");
        let width = if kind == Kind::Forward { inputs } else { outputs };
        let weights = weight.operand();
        let mut together = false;
        self.with_operand(x, 0..rows, width, weights.number, true, |left| {
            // What is not rounded keeps one order for up to so many rows, as everywhere.
            let alike = weights.number == Number::F32 && kind == Kind::Forward && rows <= NARROW;
            let product = Product::with_weight(kind, left, rows, weight, before, result);
            let product = Product { alike, ..product };
            let most = left.margin.min(weights.margin);
            let Some((low, pair)) = beside.filter(|(_, pair)| fits(kind, pair, most)) else {
                return self.products.run(product);
            };
            together = true;
            let rank = rank(kind, pair);
            let sides =
                if kind == Kind::Forward { pair.outputs == outputs } else { pair.inputs == inputs };
            assert!(sides, "a matrix for another layer");
            let low = low.rows(rows, rank);
            assert!(low.number == Number::Bf16, "what products make for others is bf16");
            self.put_beside(low, rows, left.operand().after(left.width));
            let (side, at, count, longer) = match kind {
                Kind::Forward => (0, inputs, outputs, Product { inputs: inputs + rank, ..product }),
                _ => {
                    let below = outputs * weights.pitch();
                    (1, below, rank, Product { outputs: outputs + rank, ..product })
                }
            };
            // Held until the product is asked for, as another adapter may be beside the same weight.
            let mut stamps = weight.beside.lock().expect("nothing panics while it is held");
            if stamps[side] != pair.stamp {
                self.put_beside(pair.operand(), count, weights.operand().after(at));
                stamps[side] = pair.stamp;
            }
            self.products.run(longer);
        });
        together
    }

    /// Copies rows in bf16 to where they lie otherwise apart.
    fn put_beside(&self, from: Rows, count: usize, to: Operand) {
        assert!(
            from.margin == 0 && from.width.is_multiple_of(8),
            "whole rows, of 16 bytes each time"
        );
        let len = count * from.width / 8;
        let arguments = arguments![from.address, from.width / 8, len, to.address, to.pitch];
        self.device.each("put_beside", len, arguments);
    }
}

/// Returns the rank of an adapter by the matrix that goes beside a weight: `B` forward, `A` backward.
fn rank(kind: Kind, pair: &Matrix) -> usize {
    if kind == Kind::Forward { pair.inputs } else { pair.outputs }
}

/// Returns whether a margin has room for it, and begins and ends where 16 bytes do.
fn fits(kind: Kind, pair: &Matrix, margin: usize) -> bool {
    let rank = rank(kind, pair);
    (1..=margin).contains(&rank) && rank.is_multiple_of(8) && pair.operand().number == Number::Bf16
}
