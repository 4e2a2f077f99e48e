//! Backward passes and the optimiser on the processor.

use super::elementwise::{inverse_rms, over_rows};
use super::gemm;
use super::scratch::Scratch;
use super::simd::{Isa, Kernel, Lanes, Shared, exp};
use super::threads::over_parts;
use super::training_attention::{self, dot};
use super::{Buffer, Cpu, CpuPlan, Matrix, head, pair_gradient, weight_gradient};
use crate::model::backend::training::{
    AdamWFactors, AdamWStep, AdamWTensor, AttentionGradients, AttentionSaved, Draw, TrainingBackend,
};
use crate::model::backend::{AttentionShape, BackendError, TokenLogprob, WeightType, Write};
use crate::run::seed;

/// Rows whose logits are held at a time.
const HEAD_ROWS: usize = 256;

/// Processors of one host have its memory.
#[cfg(not(test))]
impl crate::model::backend::Linking for Cpu {}

impl TrainingBackend for Cpu {
    /// What branches have for the keys and values that they share, which are fewer than all rows.
    fn attention_gradient_bytes(&self, shape: AttentionShape, rows: usize) -> usize {
        2 * size_of::<f32>() * rows * shape.kv_heads * shape.head_dim
    }

    fn clear(&self, buffer: &mut Buffer) {
        buffer.fill(0.0);
    }

    fn add_scaled(&self, x: &Buffer, scale: f32, len: usize, y: &mut Buffer, write: Write) {
        over_rows(&mut y[..len], 1, |first, y| {
            let x = &x[first..][..y.len()];
            match write {
                Write::Set => y.iter_mut().zip(x).for_each(|(y, x)| *y = scale * x),
                Write::Add => y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x),
            }
        });
    }

    fn dropout(
        &self,
        x: &Buffer,
        width: usize,
        draws: &[Draw],
        rate: f64,
        y: &mut Buffer,
        write: Write,
    ) {
        let keep = (1.0 / (1.0 - rate)) as f32;
        let mut start = 0;
        for draw in draws {
            let (x, len) = (&x[start..], draw.rows * width);
            over_rows(&mut y[start..start + len], 1, |first, y| {
                for (i, (y, x)) in y.iter_mut().zip(&x[first..]).enumerate() {
                    let kept = seed::uniform(draw.seed, (first + i) as u64) >= rate;
                    let value = if kept { keep * x } else { 0.0 };
                    *y = if write == Write::Add { *y + value } else { value };
                }
            });
            start += len;
        }
    }

    fn scatter(&self, x: &Buffer, width: usize, rows: &[usize], total: usize, y: &mut Buffer) {
        y[..total * width].fill(0.0);
        for (x, &row) in x.chunks_exact(width).zip(rows) {
            y[row * width..(row + 1) * width].copy_from_slice(x);
        }
    }

    fn weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        outputs: usize,
        inputs: usize,
        scale: f32,
        dw: &mut Buffer,
    ) {
        pair_gradient::pair_gradient(self.isa, dy, x, rows, outputs, inputs, scale, dw);
    }

    fn packed_len(&self, outputs: usize, inputs: usize) -> usize {
        weight_gradient::packed_len(outputs, inputs)
    }

    fn packed_weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        weight: &Matrix,
        dw: &mut Buffer,
    ) {
        let (outputs, inputs) = weight.shape();
        weight_gradient::packed(self.isa, dy, x, rows, outputs, inputs, dw);
    }

    fn unpack(&self, weight: &Matrix) -> Result<Vec<f32>, BackendError> {
        Ok(weight.values())
    }

    fn unpack_buffer(
        &self,
        packed: &Buffer,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<f32>, BackendError> {
        Ok(weight_gradient::unpack(packed, outputs, inputs))
    }

    fn pack_buffer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<Buffer, BackendError> {
        Ok(Buffer::from(Matrix::new(values, outputs, inputs, WeightType::F32).packed()))
    }

    fn embed_backward(&self, dy: &Buffer, tokens: &[u32], embedding: &Matrix, dw: &mut Buffer) {
        let (_, inputs) = embedding.shape();
        weight_gradient::scatter_add(dy, tokens, inputs, dw);
    }

    fn bias_gradient(&self, dy: &Buffer, rows: usize, width: usize, db: &mut Buffer) {
        weight_gradient::sum_of_rows(self.isa, dy, None, rows, width, db);
    }

    fn rms_norm_weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        width: usize,
        eps: f32,
        dw: &mut Buffer,
    ) {
        weight_gradient::sum_of_rows(self.isa, dy, Some((x, eps)), rows, width, dw);
    }

    fn rms_norm_backward(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        weight: &Buffer,
        eps: f32,
        dx: &mut Buffer,
        write: Write,
    ) {
        let width = weight.len();
        over_rows(&mut dx[..rows * width], width, |first, dx| {
            let part = first * width..first * width + dx.len();
            let (dy, x) = (&dy[part.clone()], &x[part]);
            self.isa.run(RmsNormBackward { dy, x, weight, eps, dx, write });
        });
    }

    fn swiglu_backward(
        &self,
        dy: &Buffer,
        gate: &Buffer,
        up: &Buffer,
        len: usize,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        let dup = Shared::new(&mut dup[..len]);
        over_rows(&mut dgate[..len], 1, |first, dgate| {
            let part = first..first + dgate.len();
            // SAFETY: `dup` is as long as `dgate`, and tasks get disjoint parts of both.
            let dup = unsafe { dup.part(part.clone()) };
            let (dy, gate, up) = (&dy[part.clone()], &gate[part.clone()], &up[part]);
            self.isa.run(SwigluBackward { dy, gate, up, dgate, dup });
        });
    }

    fn attention(
        &self,
        queries: &Buffer,
        keys: &Buffer,
        values: &Buffer,
        shape: AttentionShape,
        plan: &CpuPlan,
        y: &mut Buffer,
        log_sums: &mut Buffer,
    ) {
        training_attention::attention(self.isa, queries, keys, values, shape, plan, y, log_sums);
    }

    fn attention_backward(
        &self,
        dy: &Buffer,
        saved: AttentionSaved<'_, Buffer>,
        shape: AttentionShape,
        plan: &CpuPlan,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        training_attention::attention_backward(self.isa, dy, saved, shape, plan, gradients);
    }

    fn logprobs_backward(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
        dhidden: &mut Buffer,
        mut dhead: Option<&mut Buffer>,
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let (vocab, inputs) = head.shape();
        let mut logits = Scratch::take(self.held_logits(targets.len(), vocab));
        let mut logprobs = Vec::with_capacity(targets.len());
        for first in (0..targets.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(targets.len() - first);
            let (targets, weights) = (&targets[first..][..rows], &weights[first..][..rows]);
            let logits = &mut logits.0[..rows * vocab];
            let hidden = &hidden[first * inputs..];
            gemm::linear(self.isa, hidden, rows, head, logits, Write::Set);
            let block = head::logprobs_of_logits(self.isa, logits, vocab, targets);
            over_parts(logits, vocab, |row, logits| {
                let (log_sum, weight) = (block[row].log_sum, weights[row]);
                self.isa.run(LogitGradient { logits, log_sum, weight });
                logits[targets[row] as usize] += weight;
            });
            let dhidden = &mut dhidden[first * inputs..];
            gemm::linear_backward(self.isa, logits, rows, head, dhidden, Write::Set);
            if let Some(dhead) = &mut dhead {
                weight_gradient::packed(self.isa, logits, hidden, rows, vocab, inputs, dhead);
            }
            logprobs.extend(block);
        }
        Ok(logprobs)
    }

    fn scale_rows(&self, x: &mut Buffer, width: usize, factors: &[f32]) {
        over_rows(&mut x[..factors.len() * width], width, |first, x| {
            for (x, factor) in x.chunks_exact_mut(width).zip(&factors[first..]) {
                x.iter_mut().for_each(|x| *x *= factor);
            }
        });
    }

    fn held_logits(&self, targets: usize, vocab: usize) -> usize {
        targets.min(HEAD_ROWS) * vocab
    }

    fn squared_norm(&self, buffers: &[&Buffer]) -> Result<f64, BackendError> {
        let of_one = |x: &&Buffer| {
            let mut sums = vec![0f64; x.len().div_ceil(CHUNK)];
            over_parts(&mut sums, 1, |i, sum| {
                sum[0] = self.isa.run(SquaredNorm(&x[i * CHUNK..x.len().min((i + 1) * CHUNK)]));
            });
            sums.iter().sum::<f64>()
        };
        Ok(buffers.iter().map(of_one).fold(0.0, |sum, one| sum + one))
    }

    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Buffer>], step: &AdamWStep) {
        for AdamWTensor { parameters, gradient, first, second } in tensors {
            adamw(self.isa, parameters, gradient, first, second, step);
        }
    }

    fn adamw_packed(
        &self,
        weight: &mut Matrix,
        gradient: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
        step: &AdamWStep,
    ) {
        adamw(self.isa, weight.packed_mut(), gradient, first, second, step);
    }
}

/// Numbers that one task of the optimiser takes.
const CHUNK: usize = 64 * 1024;

fn adamw(
    isa: Isa,
    parameters: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    step: &AdamWStep,
) {
    let len = parameters.len();
    let moments = [&mut first[..len], &mut second[..len]].map(Shared::new);
    over_parts(parameters, CHUNK, |i, parameters| {
        let part = i * CHUNK..i * CHUNK + parameters.len();
        // SAFETY: both are as long as the parameters, and each task has its own part of them.
        let [first, second] = moments.each_ref().map(|all| unsafe { all.part(part.clone()) });
        isa.run(AdamW { parameters, gradient: &gradient[part], first, second, step });
    });
}

/// Sums squares in f64: eight sums, then these in order.
struct SquaredNorm<'a>(&'a [f32]);

impl Kernel for SquaredNorm<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f64 {
        let mut sums = [0f64; 8];
        let mut chunks = self.0.chunks_exact(8);
        for chunk in chunks.by_ref() {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.iter().sum()
    }
}

struct RmsNormBackward<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dx: &'a mut [f32],
    write: Write,
}

impl Kernel for RmsNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        // The gradient of the normalised row, which is what the mean square depends on.
        let mut scaled = vec![0f32; width];
        let rows = self.dy.chunks_exact(width).zip(self.x.chunks_exact(width));
        for ((dy, x), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            for ((scaled, dy), weight) in scaled.iter_mut().zip(dy).zip(self.weight) {
                *scaled = dy * weight;
            }
            let inverse = inverse_rms::<L>(x, self.eps);
            // SAFETY: equally long, and under `Isa::run`.
            let along = unsafe { dot::<L>(&scaled, x) };
            let back = along * inverse * inverse * inverse / width as f32;
            for ((dx, scaled), x) in dx.iter_mut().zip(&scaled).zip(x) {
                let gradient = scaled * inverse - x * back;
                *dx = if self.write == Write::Add { *dx + gradient } else { gradient };
            }
        }
    }
}

struct SwigluBackward<'a> {
    dy: &'a [f32],
    gate: &'a [f32],
    up: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for SwigluBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let len = self.dy.len();
        let whole = len - len % 8;
        for i in (0..whole).step_by(8) {
            // SAFETY: all five slices have `len` numbers, and `i + 8 <= len`.
            unsafe {
                let [dy, gate, up] = [self.dy, self.gate, self.up].map(|x| x.as_ptr().add(i));
                let (dgate, dup) = gate_and_up(L::load(dy), L::load(gate), L::load(up));
                dgate.store(self.dgate.as_mut_ptr().add(i));
                dup.store(self.dup.as_mut_ptr().add(i));
            }
        }
        if whole < len {
            // The last few through the same lanes.
            let [dy, gate, up] = [self.dy, self.gate, self.up].map(|x| {
                let mut eight = [0f32; 8];
                eight[..len - whole].copy_from_slice(&x[whole..]);
                eight
            });
            // SAFETY: arrays of eight.
            let (dgate, dup) = unsafe {
                let [dy, gate, up] = [dy, gate, up].map(|x| L::load(x.as_ptr()));
                let (dgate, dup) = gate_and_up(dy, gate, up);
                (dgate.array(), dup.array())
            };
            self.dgate[whole..].copy_from_slice(&dgate[..len - whole]);
            self.dup[whole..].copy_from_slice(&dup[..len - whole]);
        }
    }
}

/// # Safety
///
/// The machine has the lanes.
#[inline(always)]
unsafe fn gate_and_up<L: Lanes>(dy: L, gate: L, up: L) -> (L, L) {
    // SAFETY: as the caller promises.
    unsafe {
        let one = L::splat(1.0);
        let sigmoid = one.div(one.add(exp(L::splat(0.0).sub(gate))));
        let slope = sigmoid.mul(gate.mul_add(one.sub(sigmoid), one));
        (dy.mul(up).mul(slope), dy.mul(gate).mul(sigmoid))
    }
}

/// Turns a row of logits into `-weight * softmax`: the gradient but for the target's own part.
struct LogitGradient<'a> {
    logits: &'a mut [f32],
    log_sum: f32,
    weight: f32,
}

impl Kernel for LogitGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut chunks = self.logits.chunks_exact_mut(8);
        for chunk in chunks.by_ref() {
            // SAFETY: a chunk has eight numbers; under `Isa::run`.
            unsafe { turn_logits::<L>(chunk, self.log_sum, self.weight) };
        }
        let rest = chunks.into_remainder();
        let mut last = [0f32; 8];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: an array of eight; under `Isa::run`.
        unsafe { turn_logits::<L>(&mut last, self.log_sum, self.weight) };
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// # Safety
///
/// There are eight logits, and the machine has the lanes.
#[inline(always)]
unsafe fn turn_logits<L: Lanes>(logits: &mut [f32], log_sum: f32, weight: f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let p = exp(L::load(logits.as_ptr()).sub(L::splat(log_sum)));
        p.mul(L::splat(-weight)).store(logits.as_mut_ptr());
    }
}

struct AdamW<'a> {
    parameters: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    step: &'a AdamWStep,
}

impl Kernel for AdamW<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let AdamWFactors { scale, rest1, beta2, rest2, decay, size, root, eps } =
            self.step.factors();
        let moments = self.first.iter_mut().zip(self.second);
        for ((parameter, gradient), (first, second)) in
            self.parameters.iter_mut().zip(self.gradient).zip(moments)
        {
            let gradient = scale * gradient;
            *first += rest1 * (gradient - *first);
            *second = beta2 * *second + rest2 * gradient * gradient;
            *parameter = decay * *parameter - size * *first / (second.sqrt() / root + eps);
        }
    }
}
