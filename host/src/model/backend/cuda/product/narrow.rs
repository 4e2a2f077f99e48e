//! Products of few rows in bf16, by the kernels of `kernels/narrow.cuh`.

use super::super::argument::Argument;
use super::super::{Cuda, Matrix, arguments};
use crate::model::backend::Write;

/// A weight with the address of what its product goes to.
pub(super) type To<'a> = (&'a Matrix, u64);

impl Cuda {
    /// Multiplies few rows in bf16 with weights of as many inputs; `kernels/narrow.cuh` says in which order.
    pub(super) fn narrow_products(&self, x: u64, rows: usize, weights: &[To<'_>], write: Write) {
        if rows == 0 {
            return;
        }
        // What is cut alike goes into one launch.
        let way = |weight: &Matrix| (cut(weight.outputs), weight.operand().pitch());
        for alike in weights.chunk_by(|(a, _), (b, _)| way(a) == way(b)) {
            for some in alike.chunks(TOGETHER) {
                self.narrow_launch(x, rows, some, write == Write::Add);
            }
        }
    }

    /// Returns the bytes that products of few rows work in, with weights of so many outputs.
    pub(in super::super) fn narrow_bytes(&self, rows: usize, outputs: usize) -> usize {
        match (1usize << cut(outputs), rows <= super::NARROW) {
            (1, _) | (_, false) => 0,
            (parts, true) => size_of::<f32>() * TOGETHER * parts * rows * outputs,
        }
    }

    fn narrow_launch(&self, x: u64, rows: usize, weights: &[To<'_>], add: bool) {
        let Matrix { outputs, inputs, .. } = *weights[0].0;
        let (cut, pitch) = (cut(outputs), weights[0].0.operand().pitch());
        let bf16 = size_of::<half::bf16>();
        let all: usize = weights.iter().map(|(weight, _)| weight.outputs).sum();
        if rows <= 16 {
            // Four warps have sums of 8 outputs by `most` rows, and room for some blocks of their terms.
            let (name, most, ahead) =
                if rows <= 8 { ("narrow_few_8", 8, 8) } else { ("narrow_few_16", 16, 6) };
            let shared = 4 * (8 * most * size_of::<f32>() + ahead * (8 + most) * TERMS * bf16);
            let (places, outputs, blocks) = arguments_of(weights, 32 >> cut);
            let arguments = arguments![places, outputs, pitch, x, rows, inputs, cut, add];
            return self.device.launch(name, [blocks, 1, 1], 128, shared, arguments);
        }
        let (tile, parts) = self.tile(rows, weights, inputs, cut);
        let (places, outputs, blocks) = arguments_of(weights, tile.outputs);
        let grid = [rows.div_ceil(tile.rows), blocks, parts];
        let len = if parts > 1 { parts * rows * all } else { 0 };
        let Some(sums) = self.room(size_of::<f32>() * len) else { return };
        let mut sums_at = sums.address();
        let arguments = arguments![places, outputs, pitch, x, rows, inputs, cut, sums_at, add];
        let (threads, shared) = (tile.outputs / 48 * 64, tile.shared(parts, cut));
        self.device.launch(tile.name, grid, threads, shared, arguments);
        if parts > 1 {
            for (weight, y) in weights {
                let len = rows * weight.outputs;
                self.device.each("add_slices", len / 4, arguments![sums_at, cut, len, *y, add]);
                sums_at += (size_of::<f32>() * parts * len) as u64;
            }
        }
    }

    /// Returns the tile that a product of many rows should take least time with, and in how many parts
    /// its terms are given to blocks.
    fn tile(
        &self,
        rows: usize,
        weights: &[To<'_>],
        inputs: usize,
        cut: usize,
    ) -> (&'static Tile, usize) {
        // Nanoseconds of a second kernel, which adds up parts, and numbers that it moves in one.
        const LAUNCH: usize = 2500;
        const NUMBERS: usize = 1000;
        let processors = self.device.processors as usize;
        let choices = TILES.iter().flat_map(|tile| [(tile, 1), (tile, 1usize << cut)]);
        let fits =
            choices.filter(|(tile, parts)| self.device.has_room_for(tile.shared(*parts, cut)));
        let fastest = fits.min_by_key(|&(tile, parts)| {
            let across = |(weight, _): &To<'_>| weight.outputs.div_ceil(tile.outputs);
            let blocks =
                rows.div_ceil(tile.rows) * weights.iter().map(across).sum::<usize>() * parts;
            let turns = blocks.div_ceil(processors * tile.at_once);
            let multiply = turns * (tile.begin + tile.terms * inputs.div_ceil(TERMS * parts));
            let outputs: usize = weights.iter().map(|(weight, _)| weight.outputs).sum();
            let add = LAUNCH * weights.len() + (parts + 1) * rows * outputs / NUMBERS;
            multiply + if parts > 1 { add } else { 0 }
        });
        fastest.expect("the smallest fits every card")
    }
}

/// Weights of one launch, at most.
const TOGETHER: usize = 3;

/// Returns `Weights` and `Outputs` of the kernels, for blocks of so many outputs, and how many blocks all take.
fn arguments_of(weights: &[To<'_>], each: usize) -> (Argument, Argument, usize) {
    let (mut places, mut outputs, mut blocks) = ([0u64; 2 * TOGETHER], [0i32; 2 * TOGETHER], 0);
    for number in 0..TOGETHER {
        match weights.get(number) {
            Some((weight, y)) => {
                places[number] = weight.operand().address;
                places[TOGETHER + number] = *y;
                outputs[number] = weight.outputs as i32;
                outputs[TOGETHER + number] = blocks as i32;
                blocks += weight.outputs.div_ceil(each);
            }
            // No block is of it.
            None => outputs[TOGETHER + number] = i32::MAX,
        }
    }
    (Argument::from(places), Argument::from(outputs), blocks)
}

/// Terms of a block, in the kernels for few rows.
const TERMS: usize = 64;

/// Returns how often the terms of a sum are halved, for the parts to be added up on their own: an output
/// has as many warps in a product of one row. It must not depend on the rows.
fn cut(outputs: usize) -> usize {
    match outputs {
        8192.. => 0,
        4096.. => 1,
        _ => 2,
    }
}

/// A kernel of many rows.
struct Tile {
    name: &'static str,
    /// Rows and outputs of a block.
    rows: usize,
    outputs: usize,
    /// Blocks of terms that are on their way.
    stages: usize,
    /// Blocks that a processor has at a time.
    at_once: usize,
    /// Nanoseconds of a block: as such, and for TERMS terms. Measured on an H100.
    begin: usize,
    terms: usize,
}

#[rustfmt::skip]
static TILES: [Tile; 3] = [
    Tile { name: "narrow_64_96", rows: 64, outputs: 96, stages: 4, at_once: 2, begin: 2200, terms: 700 },
    Tile { name: "narrow_128_96", rows: 128, outputs: 96, stages: 4, at_once: 1, begin: 12600, terms: 720 },
    Tile { name: "narrow_128_192", rows: 128, outputs: 192, stages: 3, at_once: 1, begin: 10000, terms: 1000 },
];

impl Tile {
    /// Returns the bytes of shared memory of a block: of its stages, and of totals where it adds up slices.
    fn shared(&self, parts: usize, cut: usize) -> usize {
        let stages = self.stages * (self.rows + self.outputs) * TERMS * size_of::<half::bf16>();
        let totals = if parts == 1 && cut > 0 { self.rows * self.outputs } else { 0 };
        stages + totals * size_of::<f32>()
    }
}
