//! What the output head says of targets, the logits of some rows at a time.

use super::driver::{Argument, Memory};
use super::product::{Kind, Number, Product};
use super::{Buffer, Cuda, Matrix, arguments};
use crate::model::backend::{BackendError, TokenLogprob, Write};

/// What the kernel writes for a row.
const SAID: usize = 4;
/// Rows whose logits are held at a time; no more than the rows of a narrow product.
pub(super) const HEAD_ROWS: usize = 1024;

impl Cuda {
    pub(super) fn logprobs_in_runs(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let held = targets.len().min(HEAD_ROWS) * head.outputs;
        let logits = Memory::new(&self.device, size_of::<f32>() * held)?;
        let said = Memory::new(&self.device, SAID * size_of::<f32>() * targets.len())?;
        let wanted = Memory::of(&self.device, targets)?;
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(targets.len() - first);
            let to = logits.address();
            self.product(Kind::Forward, hidden, first, rows, head, to, Write::Set);
            self.say(to, head.outputs, &wanted, &said, first, rows);
        }
        self.hear(&said, targets.len())
    }

    pub(super) fn say_of_logits(
        &self,
        logits: u64,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let said = Memory::new(&self.device, SAID * size_of::<f32>() * targets.len())?;
        let wanted = Memory::of(&self.device, targets)?;
        self.say(logits, vocab, &wanted, &said, 0, targets.len());
        self.hear(&said, targets.len())
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
        let Matrix { outputs: vocab, inputs, number, .. } = *head;
        let held = targets.len().min(HEAD_ROWS) * vocab;
        let logits = Memory::new(&self.device, size_of::<f32>() * held)?;
        let rounded = match number {
            Number::F32 => None,
            Number::Bf16 => Some(Memory::new(&self.device, number.bytes() * held)?),
        };
        let said = Memory::new(&self.device, SAID * size_of::<f32>() * targets.len())?;
        let (wanted, weights) =
            (Memory::of(&self.device, targets)?, Memory::of(&self.device, weights)?);
        let to = dhidden.written(targets.len() * inputs);
        let at = |memory: &Memory, number: usize| memory.address() + (4 * number) as u64;
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(targets.len() - first);
            let from = logits.address();
            self.product(Kind::Forward, hidden, first, rows, head, from, Write::Set);
            self.say(from, vocab, &wanted, &said, first, rows);
            let (name, gradient) = match &rounded {
                None => ("logit_gradient_f32", from),
                Some(rounded) => ("logit_gradient_bf16", rounded.address()),
            };
            let (targets, weights) = (at(&wanted, first), at(&weights, first));
            let arguments =
                arguments![from, vocab, targets, weights, at(&said, SAID * first), gradient];
            self.device.launch(name, [vocab.div_ceil(1024), rows, 1], 256, 0, arguments);
            let product = Product {
                kind: Kind::Backward,
                number,
                rows,
                outputs: vocab,
                inputs,
                left: gradient,
                right: head.memory.address(),
                result: to + (4 * first * inputs) as u64,
                scale: 1.0,
                before: 0.0,
            };
            self.products.run(product);
            if let Some(dhead) = &mut dhead {
                assert!(number == Number::F32, "a head that is trained itself is f32");
                self.products.run(Product {
                    kind: Kind::Gradient,
                    right: hidden.read((first + rows) * inputs) + (4 * first * inputs) as u64,
                    result: dhead.written(vocab * inputs),
                    before: 1.0,
                    ..product
                });
            }
        }
        self.hear(&said, targets.len())
    }

    /// Writes what rows of logits say of the targets from `first` on.
    fn say(
        &self,
        logits: u64,
        vocab: usize,
        targets: &Memory,
        said: &Memory,
        first: usize,
        rows: usize,
    ) {
        let targets = targets.address() + (size_of::<u32>() * first) as u64;
        let said = said.address() + (SAID * size_of::<f32>() * first) as u64;
        let arguments = arguments![logits, vocab, targets, said];
        self.device.launch("logprobs", [rows, 1, 1], 512, 0, arguments);
    }

    fn hear(&self, said: &Memory, rows: usize) -> Result<Vec<TokenLogprob>, BackendError> {
        let said: Vec<f32> = said.read(0, SAID * rows)?;
        let token = |said: &[f32]| TokenLogprob {
            logprob: said[0],
            log_sum: said[1],
            entropy: said[2],
            mean_logit: said[3],
        };
        Ok(said.chunks_exact(SAID).map(token).collect())
    }
}
