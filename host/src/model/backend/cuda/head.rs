//! What the output head says of targets, the logits of some rows at a time.

use std::sync::Arc;

use super::argument::Argument;
use super::buffer::Rows;
use super::driver::{Device, Memory};
use super::product::{Kind, Number, Product};
use super::{Buffer, Cuda, Matrix, Place, arguments};
use crate::model::backend::{BackendError, TokenLogprob, Write};

/// Numbers that the kernel writes for a row.
const SAID: usize = 4;
/// Logits of a part of a row, of which a block has one, and bytes of what it comes to (`kernels/head.cuh`).
const PART: usize = 4096;
const PART_BYTES: usize = size_of::<[f32; 5]>();
/// Rows whose logits are held at a time; no more than the rows of a narrow product.
pub(super) const HEAD_ROWS: usize = 1024;

impl Cuda {
    pub(super) fn logprobs_in_runs(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
        training: bool,
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let held = targets.len().min(HEAD_ROWS) * head.outputs;
        let logits = Memory::new(&self.device, size_of::<f32>() * held)?;
        let said = Said::new(&self.device, targets.len())?;
        let wanted = Memory::of(&self.device, targets)?;
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(targets.len() - first);
            let to = logits.address();
            match training {
                true => self.logits_in_training(hidden, first, rows, head, to),
                false => {
                    let to = Place::f32(to);
                    self.product(Kind::Forward, hidden, first, rows, head, to, Write::Set);
                }
            }
            self.say(to, head.outputs, wanted.address(), &said, first, rows);
        }
        said.hear()
    }

    pub(super) fn say_of_logits(
        &self,
        logits: u64,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let said = Said::new(&self.device, targets.len())?;
        let wanted = Memory::of(&self.device, targets)?;
        self.say(logits, vocab, wanted.address(), &said, 0, targets.len());
        said.hear()
    }

    /// Forms the logits of rows from `first` on, by what is fastest on a device that rounds.
    fn logits_in_training(
        &self,
        hidden: &Buffer,
        first: usize,
        rows: usize,
        head: &Matrix,
        to: u64,
    ) {
        let (result, number) = (Place::f32(to), head.operand().number);
        self.with_operand(hidden, first..first + rows, head.inputs, number, false, |left| {
            let product = Product::with_weight(Kind::Forward, left, rows, head, None, result);
            self.products.run(Product { alike: number == Number::F32, ..product });
        });
    }

    pub(super) fn logprobs_and_gradients(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
        dhidden: &mut Buffer,
        mut dhead: Option<&mut Buffer>,
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let Matrix { outputs: vocab, inputs, .. } = *head;
        let number = head.operand().number;
        let held = targets.len().min(HEAD_ROWS) * vocab;
        let logits = Memory::new(&self.device, size_of::<f32>() * held)?;
        let rounded = match number {
            Number::F32 => None,
            Number::Bf16 => Some(Memory::new(&self.device, number.bytes() * held)?),
        };
        let said = Said::new(&self.device, targets.len())?;
        let (wanted, weights) =
            (Memory::of(&self.device, targets)?, Memory::of(&self.device, weights)?);
        let to = dhidden.written(targets.len() * inputs);
        let at = |memory: &Memory, number: usize| memory.address() + (4 * number) as u64;
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(targets.len() - first);
            let from = logits.address();
            let of_hidden = first..first + rows;
            self.logits_in_training(hidden, first, rows, head, from);
            self.say(from, vocab, wanted.address(), &said, first, rows);
            let (name, gradient) = match &rounded {
                None => ("logit_gradient_f32", from),
                Some(rounded) => ("logit_gradient_bf16", rounded.address()),
            };
            let (targets, weights) = (at(&wanted, first), at(&weights, first));
            let arguments = arguments![from, vocab, targets, weights, said.row(first), gradient];
            self.device.launch(name, [vocab.div_ceil(1024), rows, 1], 256, 0, arguments);
            let left = Rows { address: gradient, number, width: vocab, margin: 0 };
            let result = Place::f32(to).after(first * inputs);
            let back = Product::with_weight(Kind::Backward, left, rows, head, None, result);
            self.products.run(back);
            if let Some(dhead) = &mut dhead {
                assert!(head.number == Number::F32, "a head that is trained itself is f32");
                let result = Place::f32(dhead.written(vocab * inputs));
                self.with_operand(hidden, of_hidden, inputs, number, false, |right| {
                    let (kind, before, added) = (Kind::Gradient, 1.0, result.address);
                    let right = right.operand();
                    self.products.run(Product { kind, right, result, added, before, ..back });
                });
            }
        }
        said.hear()
    }

    /// Writes what rows of logits say of the targets from `first` on, which lie at an address.
    fn say(&self, logits: u64, vocab: usize, targets: u64, said: &Said, first: usize, rows: usize) {
        let Some(parts) = self.parts(logits, vocab, 0, rows) else { return };
        let targets = targets + (size_of::<u32>() * first) as u64;
        let arguments = arguments![logits, vocab, targets, parts.address(), said.row(first)];
        self.device.launch("logprobs", [rows, 1, 1], 32, 0, arguments);
    }

    /// Draws a token from each row of logits by the rules at an address, and writes what the row says of it.
    pub(super) fn draw_and_say(
        &self,
        logits: u64,
        vocab: usize,
        rules: u64,
        said: &Said,
        rows: usize,
    ) {
        let Some(parts) = self.parts(logits, vocab, rules, rows) else { return };
        let tokens = said.targets();
        let arguments = arguments![logits, vocab, rules, parts.address(), tokens];
        self.device.launch("draw", [rows, 1, 1], 1024, 0, arguments);
        let arguments = arguments![logits, vocab, tokens, parts.address(), said.row(0)];
        self.device.launch("logprobs", [rows, 1, 1], 32, 0, arguments);
    }

    /// Returns what the parts of rows of logits come to; `rules` is the address of those that tokens are drawn by, or 0.
    fn parts(&self, logits: u64, vocab: usize, rules: u64, rows: usize) -> Option<Memory> {
        let count = vocab.div_ceil(PART);
        let parts = self.room(PART_BYTES * rows * count)?;
        let arguments = arguments![logits, vocab, rules, parts.address()];
        self.device.launch("logit_parts", [rows, count, 1], 256, 0, arguments);
        Some(parts)
    }
}

/// Room for what is said of rows, and behind it for targets that the device finds itself.
pub(super) struct Said {
    memory: Memory,
    rows: usize,
}

impl Said {
    fn new(device: &Arc<Device>, rows: usize) -> Result<Said, BackendError> {
        Ok(Said { memory: Memory::new(device, size_of::<[f32; SAID]>() * rows)?, rows })
    }

    /// The same with room for the targets, so that both are heard of at once.
    pub(super) fn with_targets(device: &Arc<Device>, rows: usize) -> Result<Said, BackendError> {
        let each = size_of::<[f32; SAID]>() + size_of::<u32>();
        Ok(Said { memory: Memory::new(device, each * rows)?, rows })
    }

    /// Returns where a row's numbers begin.
    fn row(&self, row: usize) -> u64 {
        self.memory.address() + (size_of::<[f32; SAID]>() * row) as u64
    }

    /// Returns where the targets begin.
    fn targets(&self) -> u64 {
        self.row(self.rows)
    }

    /// Waits, and returns what was said.
    fn hear(&self) -> Result<Vec<TokenLogprob>, BackendError> {
        let said: Vec<u32> = self.memory.read(0, SAID * self.rows)?;
        Ok(said.chunks_exact(SAID).map(token).collect())
    }

    /// Waits, and returns the targets with what was said of them.
    pub(super) fn hear_with_targets(&self) -> Result<Vec<(u32, TokenLogprob)>, BackendError> {
        let all: Vec<u32> = self.memory.read(0, (SAID + 1) * self.rows)?;
        let (said, targets) = all.split_at(SAID * self.rows);
        Ok(targets.iter().copied().zip(said.chunks_exact(SAID).map(token)).collect())
    }
}

/// Reads what was said of a row from its bits.
fn token(said: &[u32]) -> TokenLogprob {
    let said = |number: usize| f32::from_bits(said[number]);
    TokenLogprob { logprob: said(0), log_sum: said(1), entropy: said(2), mean_logit: said(3) }
}
