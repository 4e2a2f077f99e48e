//! What a training pass keeps between its forward and its backward half, and what it works in.
//!
//! For each block: its input, rotated queries and keys (and both as they were before their norms,
//! where they have some), values, what attention made of them with the
//! log sums of its weights, the residual stream between attention and MLP, gate and up projections,
//! and `A·x` beside each layer that has a pair. With gradient checkpointing only the input is kept of
//! each block, there is one such set for all of them, and the backward half fills it again block by
//! block, with the same operations, so that no bit differs. A pass that only reads keeps nothing: the inputs of two
//! blocks take turns, and there are no gradients.
//!
//! Everything is generic over the buffers, so what a pass takes is computed by the code that
//! allocates it ([`Activations::bytes`]).

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::adapter::PairConfig;
use super::backend::Room;
use super::spec::{Linear, Spec};

/// What decides how much room a pass needs.
#[derive(Clone, Copy, Debug)]
pub struct PassShape<'a> {
    /// The model.
    pub spec: &'a Spec,
    /// The pairs of the adapter that is trained; none where it is the weights.
    pub pairs: &'a BTreeMap<(usize, Linear), PairConfig>,
    /// Whether inputs of pairs are dropped.
    pub dropout: bool,
    /// Most tokens that go through at once.
    pub rows: usize,
    /// Whether only the input is kept of each block.
    pub gradient_checkpointing: bool,
}

/// What a pass does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Reads,
    Learns,
}

/// The activations and gradients of a pass, kept from one pass to the next.
pub struct Activations<T> {
    /// What goes into each block, `[rows, hidden]`; two that take turns where a pass only reads.
    pub(super) inputs: Vec<T>,
    /// For each block, or one for all with gradient checkpointing.
    pub(super) kept: Vec<Kept<T>>,
    /// What comes out of the last block, then the gradient of the residual stream,
    /// `[rows, hidden]`.
    pub(super) stream: T,
    pub(super) scratch: Scratch<T>,
    /// The rows that are scored, before and after the last norm, and the gradients of both,
    /// `[rows, hidden]`.
    pub(super) scored: [T; 4],
}

/// What the forward pass keeps of a block besides its input.
pub(super) struct Kept<T> {
    /// Queries and keys before their norms, where the model has them.
    pub(super) before_norms: Option<[T; 2]>,
    /// `[rows, heads, head_dim]`, rotated.
    pub(super) queries: T,
    /// `[rows, kv_heads, head_dim]`, rotated.
    pub(super) keys: T,
    /// `[rows, kv_heads, head_dim]`
    pub(super) values: T,
    /// `[rows, heads, head_dim]`
    pub(super) attended: T,
    /// `[rows, heads]`
    pub(super) log_sums: T,
    /// The residual stream between attention and MLP, `[rows, hidden]`.
    pub(super) middle: T,
    /// `[rows, intermediate]`
    pub(super) gate: T,
    /// `[rows, intermediate]`
    pub(super) up: T,
    /// `A·x` beside each linear layer that has a pair, `[rows, r]`.
    pub(super) low: [Option<T>; 7],
}

/// What one block needs for the moment.
pub(super) struct Scratch<T> {
    /// What linear layers read, `[rows, hidden]`.
    pub(super) normed: T,
    pub(super) dnormed: T,
    /// `[rows, intermediate]`
    pub(super) active: T,
    pub(super) dactive: T,
    pub(super) dgate: T,
    pub(super) dup: T,
    /// `[rows, heads, head_dim]`
    pub(super) dattended: T,
    pub(super) dqueries: T,
    /// `[rows, kv_heads, head_dim]`
    pub(super) dkeys: T,
    pub(super) dvalues: T,
    pub(super) low: LowScratch<T>,
}

/// What one pair needs for the moment.
pub(super) struct LowScratch<T> {
    /// The gradient of `A·x`, `[rows, r]`.
    pub(super) dlow: T,
    /// The input with some numbers dropped, and its gradient; empty without dropout.
    pub(super) dropped: T,
    pub(super) ddropped: T,
}

impl<T> Activations<T> {
    /// Makes room for passes of this shape; `room` returns a buffer for so many numbers of a kind.
    pub fn new<E>(
        shape: PassShape<'_>,
        room: &mut dyn FnMut(Room) -> Result<T, E>,
    ) -> Result<Activations<T>, E> {
        Self::make(shape, Does::Learns, room)
    }

    /// The same for passes that only read, of so many rows beside these pairs.
    pub(super) fn of_reading<E>(
        spec: &Spec,
        pairs: &BTreeMap<(usize, Linear), PairConfig>,
        rows: usize,
        room: &mut dyn FnMut(Room) -> Result<T, E>,
    ) -> Result<Activations<T>, E> {
        Self::make(of_reading(spec, pairs, rows), Does::Reads, room)
    }

    fn make<E>(
        shape: PassShape<'_>,
        does: Does,
        room: &mut dyn FnMut(Room) -> Result<T, E>,
    ) -> Result<Activations<T>, E> {
        use Room::{Operands, Rows, Sums};
        let PassShape { spec, pairs, dropout, rows, gradient_checkpointing } = shape;
        let (hidden, intermediate) = (rows * spec.hidden, rows * spec.intermediate);
        let wide = rows * spec.heads * spec.head_dim;
        let narrow = rows * spec.kv_heads * spec.head_dim;
        // What layers with a pair read, going forward or backward, but for what attention makes.
        let beside = |rows, width| match pairs.is_empty() {
            true => Operands(rows * width),
            false => Rows { rows, width },
        };
        let (inputs_kept, back) = match does {
            Does::Reads => (spec.layers.min(2), 0),
            Does::Learns => (spec.layers, rows),
        };
        let widest = match dropout {
            true => hidden.max(intermediate).max(wide),
            false => 0,
        };
        let mut inputs = Vec::with_capacity(inputs_kept);
        for _ in 0..inputs_kept {
            inputs.push(room(Sums(hidden))?);
        }
        let sets = if gradient_checkpointing { spec.layers.min(1) } else { spec.layers };
        let mut kept = Vec::with_capacity(sets);
        for set in 0..sets {
            // A set that serves all blocks takes the largest rank among them.
            let block = |layer: usize| sets == 1 || layer == set;
            let rank = |wanted: Linear| {
                let here =
                    pairs.iter().filter(|&(&(layer, linear), _)| block(layer) && linear == wanted);
                here.map(|(_, pair)| pair.r).max()
            };
            let mut lows: [Option<T>; 7] = Default::default();
            for linear in Linear::ALL {
                if let Some(rank) = rank(linear) {
                    lows[linear as usize] = Some(room(Operands(rows * rank))?);
                }
            }
            kept.push(Kept {
                before_norms: match spec.qk_norm {
                    true => Some([room(Operands(wide))?, room(Operands(narrow))?]),
                    false => None,
                },
                queries: room(Operands(wide))?,
                keys: room(Operands(narrow))?,
                values: room(Operands(narrow))?,
                attended: room(Operands(wide))?,
                log_sums: room(Sums(rows * spec.heads))?,
                middle: room(Sums(hidden))?,
                gate: room(Operands(intermediate))?,
                up: room(Operands(intermediate))?,
                low: lows,
            });
        }
        let low = back * pairs.values().map(|pair| pair.r).max().unwrap_or(0);
        let (dwide, dnarrow) =
            (back * spec.heads * spec.head_dim, back * spec.kv_heads * spec.head_dim);
        let scratch = Scratch {
            normed: room(beside(rows, spec.hidden))?,
            dnormed: room(Sums(back * spec.hidden))?,
            active: room(beside(rows, spec.intermediate))?,
            dactive: room(Operands(back * spec.intermediate))?,
            dgate: room(beside(back, spec.intermediate))?,
            dup: room(beside(back, spec.intermediate))?,
            dattended: room(Operands(dwide))?,
            dqueries: room(Operands(dwide))?,
            dkeys: room(Operands(dnarrow))?,
            dvalues: room(Operands(dnarrow))?,
            low: LowScratch {
                dlow: room(Operands(low))?,
                dropped: room(Operands(widest))?,
                ddropped: room(Operands(widest))?,
            },
        };
        let dscored = back * spec.hidden;
        let scored =
            [room(Sums(hidden))?, room(Sums(hidden))?, room(Sums(dscored))?, room(Sums(dscored))?];
        Ok(Activations { inputs, kept, stream: room(Sums(hidden))?, scratch, scored })
    }

    /// Returns where what is kept of a block lies.
    pub(super) fn place(&self, layer: usize) -> usize {
        layer.min(self.kept.len() - 1)
    }

    /// Returns whether there is less room than one set for each block.
    pub(super) fn checkpoints(&self) -> bool {
        self.kept.len() < self.inputs.len()
    }
}

#[cfg(test)]
impl<T: std::ops::Deref<Target = [f32]>> Activations<T> {
    /// Returns how long each buffer is.
    pub(crate) fn lens(&self) -> Vec<usize> {
        let Activations { inputs, kept, stream, scratch, scored } = self;
        let len = |buffer: &T| buffer.len();
        let mut lens: Vec<usize> = inputs.iter().chain(scored).map(len).collect();
        for kept in kept {
            let Kept { queries, keys, values, attended, log_sums, middle, gate, up, .. } = kept;
            let all = [queries, keys, values, attended, log_sums, middle, gate, up];
            let some = kept.low.iter().flatten().chain(kept.before_norms.iter().flatten());
            lens.extend(all.into_iter().chain(some).map(len));
        }
        let Scratch { normed, dnormed, active, dactive, dgate, dup, .. } = scratch;
        let Scratch { dattended, dqueries, dkeys, dvalues, low, .. } = scratch;
        let LowScratch { dlow, dropped, ddropped } = low;
        let all = [normed, dnormed, active, dactive, dgate, dup, dattended, dqueries, dkeys];
        lens.extend(all.into_iter().chain([dvalues, dlow, dropped, ddropped, stream]).map(len));
        lens
    }
}

impl Activations<()> {
    /// Returns how many bytes [`Activations::new`] asks room for; `bytes` says what room takes.
    pub fn bytes(shape: PassShape<'_>, bytes: &dyn Fn(Room) -> usize) -> usize {
        Activations::count(shape, Does::Learns, bytes)
    }

    /// The same of [`Activations::of_reading`].
    pub(super) fn bytes_of_reading(
        spec: &Spec,
        pairs: &BTreeMap<(usize, Linear), PairConfig>,
        rows: usize,
        bytes: &dyn Fn(Room) -> usize,
    ) -> usize {
        Activations::count(of_reading(spec, pairs, rows), Does::Reads, bytes)
    }

    fn count(shape: PassShape<'_>, does: Does, bytes: &dyn Fn(Room) -> usize) -> usize {
        let mut total = 0;
        let counted = Activations::make(shape, does, &mut |room| {
            total += bytes(room);
            Ok::<(), Infallible>(())
        });
        match counted {
            Ok(_) => total,
            Err(never) => match never {},
        }
    }
}

/// Returns the shape of a pass that only reads: one set serves all blocks.
fn of_reading<'a>(
    spec: &'a Spec,
    pairs: &'a BTreeMap<(usize, Linear), PairConfig>,
    rows: usize,
) -> PassShape<'a> {
    PassShape { spec, pairs, dropout: false, rows, gradient_checkpointing: true }
}
