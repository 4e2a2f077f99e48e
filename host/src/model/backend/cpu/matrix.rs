//! A weight, packed for the kernels, in one of three number formats.
//!
//! A weight `[outputs, inputs]` is cut into panels of 16 outputs. Within a panel the inputs follow
//! each other, each with the weights of all 16 outputs, so that one walk along memory serves a whole
//! panel. The same pack serves both directions of a product and the embedding lookup.

use super::int8::{self, Block};
use super::pages::{Pages, Plain};
use super::simd::Lanes;
use super::threads::over_parts;
use super::tile::{Line, PANEL};
use crate::model::backend::WeightType;

/// Two inputs' weights in a panel: input `2i` in the low half of each word, `2i + 1` in the high
/// half, both bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pair(pub(super) [u32; PANEL]);

impl Pair {
    /// Rounds two numbers to bf16 and puts the first into the low half of a word.
    pub(super) fn word(even: f32, odd: f32) -> u32 {
        let bits = |value| u32::from(half::bf16::from_f32(value).to_bits());
        bits(even) | bits(odd) << 16
    }
}

// SAFETY: plain numbers of 64 bytes.
unsafe impl Plain for Line {}
// SAFETY: as above.
unsafe impl Plain for Pair {}

/// A weight `[outputs, inputs]` in panels; see the [module](self).
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    pub(super) numbers: Numbers,
}

/// The numbers of a weight, zeros beyond its last output and input.
pub(super) enum Numbers {
    /// `[panels, inputs]`
    F32(Pages<Line>),
    /// `[panels, inputs / 2 rounded up]`
    Bf16(Pages<Pair>),
    /// `[panels, inputs / 32 rounded up]`
    Int8(Pages<Block>),
}

/// Trainers see to it that this is never said.
const NOT_F32: &str = "a weight that is trained itself is f32";

impl Matrix {
    /// Packs `values`, row-major.
    pub(super) fn new(
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Matrix {
        let len = Matrix::len(outputs, inputs, weight_type);
        let numbers = match weight_type {
            WeightType::F32 => Numbers::F32(Pages::zeros(len)),
            WeightType::Bf16 => Numbers::Bf16(Pages::zeros(len)),
            WeightType::Int8 => Numbers::Int8(Pages::zeros(len)),
        };
        let mut matrix = Matrix { outputs, inputs, numbers };
        matrix.fill(values, 1.0);
        matrix
    }

    /// Returns how many lines, pairs or blocks a weight has.
    fn len(outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        let of_panel = match weight_type {
            WeightType::F32 => inputs,
            WeightType::Bf16 => inputs.div_ceil(2),
            WeightType::Int8 => inputs.div_ceil(int8::BLOCK),
        };
        outputs.div_ceil(PANEL) * of_panel
    }

    /// Returns how many bytes a weight takes.
    pub(super) fn bytes(outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        let each = match weight_type {
            WeightType::F32 => size_of::<Line>(),
            WeightType::Bf16 => size_of::<Pair>(),
            WeightType::Int8 => size_of::<Block>(),
        };
        each * Matrix::len(outputs, inputs, weight_type)
    }

    /// Overwrites the weight with `scale` times `values`, row-major.
    pub(super) fn fill(&mut self, values: &[f32], scale: f32) {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let values = &values[..outputs * inputs];
        if values.is_empty() {
            return;
        }
        let rows = |panel: usize| {
            let rows = values[panel * PANEL * inputs..].chunks_exact(inputs);
            rows.take(PANEL).enumerate()
        };
        match &mut self.numbers {
            Numbers::F32(lines) => {
                over_parts(lines, inputs, |panel, lines| {
                    for (lane, row) in rows(panel) {
                        for (line, &value) in lines.iter_mut().zip(row) {
                            line.0[lane] = scale * value;
                        }
                    }
                });
            }
            Numbers::Bf16(pairs) => {
                over_parts(pairs, inputs.div_ceil(2), |panel, pairs| {
                    for (lane, row) in rows(panel) {
                        for (pair, values) in pairs.iter_mut().zip(row.chunks(2)) {
                            let odd = values.get(1).map_or(0.0, |&value| scale * value);
                            pair.0[lane] = Pair::word(scale * values[0], odd);
                        }
                    }
                });
            }
            Numbers::Int8(blocks) => {
                let each = inputs.div_ceil(int8::BLOCK);
                over_parts(blocks, each, |panel, blocks| {
                    for (lane, row) in rows(panel) {
                        for (block, values) in blocks.iter_mut().zip(row.chunks(int8::BLOCK)) {
                            block.quantize(lane, values, scale);
                        }
                    }
                });
            }
        }
    }

    /// Returns `(outputs, inputs)`.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }

    /// Returns all numbers, `[outputs, inputs]` row-major.
    pub(super) fn values(&self) -> Vec<f32> {
        let mut values = vec![0f32; self.outputs * self.inputs];
        if !values.is_empty() {
            over_parts(&mut values, self.inputs, |row, values| self.row(row, values));
        }
        values
    }

    /// Returns the numbers of a weight in f32 as they lie, padding included.
    pub(super) fn packed(&self) -> &[f32] {
        let Numbers::F32(lines) = &self.numbers else { panic!("{NOT_F32}") };
        // SAFETY: a line is sixteen f32 and nothing else.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), PANEL * lines.len()) }
    }

    /// Returns the numbers of a weight in f32 as they lie, padding included, which must stay 0.
    pub(super) fn packed_mut(&mut self) -> &mut [f32] {
        let Numbers::F32(lines) = &mut self.numbers else { panic!("{NOT_F32}") };
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), PANEL * lines.len()) }
    }

    /// Copies one row, `[inputs]`, out of its panel.
    pub(super) fn row(&self, row: usize, y: &mut [f32]) {
        assert!(row < self.outputs, "row {row} of a matrix with {} rows", self.outputs);
        let (panel, lane, inputs) = (row / PANEL, row % PANEL, self.inputs);
        match &self.numbers {
            Numbers::F32(lines) => {
                for (y, line) in y.iter_mut().zip(&lines[panel * inputs..][..inputs]) {
                    *y = line.0[lane];
                }
            }
            Numbers::Bf16(pairs) => {
                let pairs = &pairs[panel * inputs.div_ceil(2)..];
                for (y, pair) in y[..inputs].chunks_mut(2).zip(pairs) {
                    y[0] = f32::from_bits(pair.0[lane] << 16);
                    if let Some(odd) = y.get_mut(1) {
                        *odd = f32::from_bits(pair.0[lane] & 0xffff_0000);
                    }
                }
            }
            Numbers::Int8(blocks) => {
                let blocks = &blocks[panel * inputs.div_ceil(int8::BLOCK)..];
                for (y, block) in y[..inputs].chunks_mut(int8::BLOCK).zip(blocks) {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = block.value(lane, i);
                    }
                }
            }
        }
    }

    /// Returns the weights of one input in a panel, as f32.
    ///
    /// # Safety
    ///
    /// The panel and the input are there; the machine has the lanes.
    #[inline(always)]
    pub(super) unsafe fn line<L: Lanes>(&self, panel: usize, input: usize) -> [L; 2] {
        // SAFETY: as the caller promises.
        unsafe {
            match &self.numbers {
                Numbers::F32(lines) => {
                    let line = lines.as_ptr().add(panel * self.inputs + input).cast::<f32>();
                    [L::load(line), L::load(line.add(8))]
                }
                Numbers::Bf16(pairs) => {
                    let pair = pairs.as_ptr().add(panel * self.inputs.div_ceil(2) + input / 2);
                    let pair = pair.cast::<u32>();
                    let [low, high] = [L::load_bf16(pair), L::load_bf16(pair.add(8))];
                    if input.is_multiple_of(2) { [low.0, high.0] } else { [low.1, high.1] }
                }
                Numbers::Int8(blocks) => {
                    let each = self.inputs.div_ceil(int8::BLOCK);
                    let block = &*blocks.as_ptr().add(panel * each + input / int8::BLOCK);
                    let line: [f32; PANEL] =
                        std::array::from_fn(|lane| block.value(lane, input % int8::BLOCK));
                    [L::load(line.as_ptr()), L::load(line.as_ptr().add(8))]
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tiny::normal;

    #[test]
    fn rows_come_back_out_of_the_pack() {
        for (outputs, inputs) in [(35, 9), (16, 64), (1, 1), (33, 70)] {
            let values = normal(1, outputs * inputs, 1.0);
            for (weight_type, bound) in
                [(WeightType::F32, 0.0), (WeightType::Bf16, 0.004), (WeightType::Int8, 0.03)]
            {
                let mut matrix = Matrix::new(&values, outputs, inputs, weight_type);
                for scale in [1.0, -2.0] {
                    matrix.fill(&values, scale);
                    for (i, want) in values.chunks(inputs).enumerate() {
                        let mut row = vec![f32::NAN; inputs];
                        matrix.row(i, &mut row);
                        assert_eq!(row, matrix.values()[i * inputs..][..inputs]);
                        for (got, want) in row.iter().zip(want) {
                            let difference = (got / scale - want).abs();
                            let bound = if weight_type == WeightType::Bf16 {
                                bound * want.abs()
                            } else {
                                bound
                            };
                            assert!(difference <= bound, "{weight_type:?} {got} {want}");
                        }
                    }
                }
            }
        }
    }
}
