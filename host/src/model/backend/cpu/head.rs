//! What the output head says of targets, without holding all logits.
//!
//! The vocabulary is cut into chunks of [`CHUNK`]. A chunk of a row's logits becomes a few numbers,
//! and the chunks' numbers are put together in ascending order in f64. Sampling, which does hold a
//! row of logits, goes through the same chunks, so a completion that is scored again gets the
//! logprobs it was drawn with.

use std::ops::Range;

use super::gemm::Runs;
use super::matrix::Matrix;
use super::simd::{Isa, Kernel, Lanes, Shared, exp, sum8};
use super::threads::{over_parts, parallel};
use crate::model::backend::TokenLogprob;

/// Words of the vocabulary in a chunk; a multiple of the panels' width.
const CHUNK: usize = 512;
/// Chunks of logits that one task reduces.
const SOME: usize = 16;
/// Rows whose logits one task holds at a time.
const ROWS: usize = 60;

/// What a chunk of logits comes to.
#[derive(Clone, Copy, Default)]
struct Part {
    max: f32,
    /// Sum of `exp(logit - max)`.
    sum: f32,
    /// Sum of `exp(logit - max) * (logit - max)`.
    weighted: f32,
    /// Sum of the logits.
    total: f32,
}

/// Returns what the head `[vocab, inputs]` says of each row's target.
pub(super) fn logprobs(
    isa: Isa,
    hidden: &[f32],
    head: &Matrix,
    targets: &[u32],
) -> Vec<TokenLogprob> {
    let (vocab, _) = head.shape();
    let (rows, chunks) = (targets.len(), vocab.div_ceil(CHUNK));
    let mut parts = vec![Part::default(); rows * chunks];
    let mut logits = vec![0f32; rows];
    let (parts_out, logits_out) = (Shared::new(&mut parts), Shared::new(&mut logits));
    let product = Runs::new(isa, hidden, rows, ROWS, head);
    parallel(product.count() * chunks, |task| {
        let (run, chunk) = (task / chunks, task % chunks);
        let Range { start: first, end } = product.rows_of(run);
        let words = chunk * CHUNK..vocab.min((chunk + 1) * CHUNK);
        let panels = words.start / 16..words.end.div_ceil(16);
        let width = panels.len() * 16;
        let mut tile = vec![0f32; (end - first) * width];
        product.product(run, panels, &mut tile);
        for (r, row) in tile.chunks_exact(width).enumerate() {
            let part = isa.run(Reduce(&row[..words.len()]));
            // SAFETY: this task alone writes these rows' parts for this chunk, and of a row's tasks
            // one alone has its target.
            unsafe {
                *parts_out.get().add((first + r) * chunks + chunk) = part;
                let target = targets[first + r] as usize;
                if words.contains(&target) {
                    *logits_out.get().add(first + r) = row[target - words.start];
                }
            }
        }
    });
    parts
        .chunks_exact(chunks)
        .zip(&logits)
        .map(|(parts, &logit)| finish(parts, logit, vocab))
        .collect()
}

/// Returns what each row of logits says of its target.
pub(super) fn logprobs_of_logits(
    isa: Isa,
    logits: &[f32],
    vocab: usize,
    targets: &[u32],
) -> Vec<TokenLogprob> {
    let chunks = vocab.div_ceil(CHUNK);
    let mut parts = vec![Part::default(); targets.len() * chunks];
    over_parts(&mut parts, SOME, |some, parts| {
        for (part, i) in parts.iter_mut().zip(some * SOME..) {
            let logits = &logits[i / chunks * vocab..][..vocab];
            let first = i % chunks * CHUNK;
            *part = isa.run(Reduce(&logits[first..vocab.min(first + CHUNK)]));
        }
    });
    let rows = parts.chunks_exact(chunks).zip(logits.chunks_exact(vocab)).zip(targets);
    rows.map(|((parts, logits), &target)| finish(parts, logits[target as usize], vocab)).collect()
}

fn finish(parts: &[Part], logit: f32, vocab: usize) -> TokenLogprob {
    let max = parts.iter().map(|part| part.max).fold(f32::NEG_INFINITY, f32::max) as f64;
    let (mut sum, mut weighted, mut total) = (0f64, 0f64, 0f64);
    for part in parts {
        let shift = part.max as f64 - max;
        let factor = shift.exp();
        sum += factor * part.sum as f64;
        weighted += factor * (part.weighted as f64 + shift * part.sum as f64);
        total += part.total as f64;
    }
    let log_sum = max + sum.ln();
    let logprob = logit as f64 - log_sum;
    TokenLogprob {
        // Rounding may lift it over 0; a NaN must stay one, so no `min`.
        logprob: if logprob > 0.0 { 0.0 } else { logprob as f32 },
        log_sum: log_sum as f32,
        entropy: (sum.ln() - weighted / sum).max(0.0) as f32,
        mean_logit: (total / vocab as f64) as f32,
    }
}

struct Reduce<'a>(&'a [f32]);

impl Kernel for Reduce<'_> {
    type Output = Part;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Part {
        let logits = self.0;
        let whole = logits.len() - logits.len() % 8;
        let mut last = [f32::MIN; 8];
        last[..logits.len() - whole].copy_from_slice(&logits[whole..]);
        // SAFETY: `Isa::run` picked the lanes, and every load is of eight numbers.
        unsafe {
            let last = L::load(last.as_ptr());
            let (mut max, mut total) = (last, L::splat(0.0));
            for i in (0..whole).step_by(8) {
                let x = L::load(logits.as_ptr().add(i));
                max = max.max(x);
                total = total.add(x);
            }
            let total = sum8(total.array()) + logits[whole..].iter().sum::<f32>();
            let max = max.array().into_iter().fold(f32::MIN, f32::max);
            let shift = L::splat(max);
            let (mut sum, mut weighted) = (L::splat(0.0), L::splat(0.0));
            for i in (0..=whole).step_by(8) {
                let x = if i < whole { L::load(logits.as_ptr().add(i)) } else { last };
                // Far below the maximum the product with `exp` must be 0, not -inf times 0.
                let x = x.sub(shift).max(L::splat(-200.0));
                let e = exp(x);
                sum = sum.add(e);
                weighted = e.mul_add(x, weighted);
            }
            Part { max, sum: sum8(sum.array()), weighted: sum8(weighted.array()), total }
        }
    }
}
