//! Drawing a token from a row of logits.
//!
//! The order is that of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p.
//! Weights are `exp((logit - max) / temperature)`; ties go to the lower token id.

use super::Sampling;
use crate::model::backend::cpu;

/// Draws a token.
///
/// - `logits`: `[V]`, as the model gave them.
/// - `context`: the tokens of prompt and completion so far, which the penalty is for.
/// - `uniform`: the draw, in [0, 1).
pub(crate) fn draw(logits: &[f32], sampling: &Sampling, context: &[u32], uniform: f64) -> u32 {
    let penalised;
    let logits = if sampling.repetition_penalty == 1.0 {
        logits
    } else {
        penalised = penalise(logits, sampling.repetition_penalty, context);
        &penalised
    };
    if sampling.temperature == 0.0 {
        return argmax(logits);
    }
    let weights = cpu::exp_weights(logits, 1.0 / sampling.temperature);
    let keep = match sampling.top_k as usize {
        0 => weights.len(),
        top_k => top_k.min(weights.len()),
    };
    if keep == weights.len() && sampling.top_p >= 1.0 {
        return pick_from_all(&weights, uniform);
    }
    let nucleus = nucleus(&weights, keep, sampling.top_p);
    pick(nucleus.iter().map(|&(weight, token)| (weight, token)), uniform)
}

/// Divides positive and multiplies negative logits of tokens that occurred (CTRL,
/// <https://arxiv.org/abs/1909.05858>), once for each token however often it occurred.
fn penalise(logits: &[f32], penalty: f64, context: &[u32]) -> Vec<f32> {
    let mut penalised = logits.to_vec();
    for &token in context {
        let logit = logits[token as usize];
        let penalty = penalty as f32;
        penalised[token as usize] = if logit > 0.0 { logit / penalty } else { logit * penalty };
    }
    penalised
}

/// Returns the token with the largest logit, the lowest of equals.
fn argmax(logits: &[f32]) -> u32 {
    // In two steps, as the first is then done eight at a time.
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(rest, f32::max);
    logits.iter().position(|&logit| logit == max).unwrap_or(0) as u32
}

/// Returns the tokens that top-k and top-p leave, the most probable first: of the `keep` largest
/// weights the fewest that together have at least `top_p` of these weights' sum.
fn nucleus(weights: &[f32], keep: usize, top_p: f64) -> Vec<(f32, u32)> {
    let heavier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let whole = keep == weights.len();
    let total: f64 = if whole { sum(weights) } else { 0.0 };
    // Only the head of the distribution needs sorting. The largest weight is 1; lower the bar until
    // what is above it is enough.
    for bar in [1e-2, 1e-4, 0.0] {
        let mut head: Vec<(f32, u32)> = weights
            .iter()
            .enumerate()
            .filter(|&(_, &weight)| weight >= bar)
            .map(|(token, &weight)| (weight, token as u32))
            .collect();
        let enough = if whole {
            head.iter().map(|&(weight, _)| weight as f64).sum::<f64>() >= top_p * total
        } else {
            head.len() >= keep
        };
        if !enough && bar > 0.0 {
            continue;
        }
        head.sort_unstable_by(heavier);
        head.truncate(keep);
        let total = if whole { total } else { head.iter().map(|&(w, _)| w as f64).sum() };
        if top_p < 1.0 {
            let mut mass = 0.0;
            let mut count = 0;
            while count < head.len() && (count == 0 || mass < top_p * total) {
                mass += head[count].0 as f64;
                count += 1;
            }
            head.truncate(count);
        }
        return head;
    }
    unreachable!("nothing is below the last bar")
}

/// Draws from weights in the order in which they come.
fn pick(weights: impl Iterator<Item = (f32, u32)> + Clone, uniform: f64) -> u32 {
    let target = uniform * weights.clone().map(|(weight, _)| weight as f64).sum::<f64>();
    let mut mass = 0.0;
    let mut last = 0;
    for (weight, token) in weights {
        if weight > 0.0 {
            mass += weight as f64;
            last = token;
            if mass > target {
                break;
            }
        }
    }
    last
}

/// Weights that are added up before the place of a draw is sought among them.
const BLOCK: usize = 256;

fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0f32; 8];
    for chunk in block.chunks(8) {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += weight;
        }
    }
    lanes.into_iter().map(f64::from).sum()
}

fn sum(weights: &[f32]) -> f64 {
    weights.chunks(BLOCK).map(block_sum).sum()
}

/// Draws from all tokens, in the order of their ids.
fn pick_from_all(weights: &[f32], uniform: f64) -> u32 {
    let sums: Vec<f64> = weights.chunks(BLOCK).map(block_sum).collect();
    let target = uniform * sums.iter().sum::<f64>();
    let mut before = 0.0;
    let mut block = 0;
    while block + 1 < sums.len() && before + sums[block] <= target {
        before += sums[block];
        block += 1;
    }
    let weights = &weights[block * BLOCK..weights.len().min((block + 1) * BLOCK)];
    let inside: f64 = weights.iter().map(|&weight| weight as f64).sum();
    let uniform = if inside > 0.0 { ((target - before) / inside).clamp(0.0, 1.0) } else { 0.0 };
    let tokens = weights.iter().enumerate();
    pick(tokens.map(|(i, &weight)| (weight, (block * BLOCK + i) as u32)), uniform)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_p: f64, top_k: u32) -> Sampling {
        Sampling { temperature, top_p, top_k, repetition_penalty: 1.0, max_new_tokens: 1 }
    }

    /// Every token that some draw gives, and how often in 1000.
    fn tokens(logits: &[f32], sampling: Sampling) -> Vec<(u32, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for i in 0..1000 {
            *counts.entry(draw(logits, &sampling, &[], i as f64 / 1000.0)).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[track_caller]
    fn check(probabilities: &[f32], sampling: Sampling, expected: &[(u32, usize)]) {
        let found = tokens(&logits(probabilities), sampling);
        let close = found.len() == expected.len()
            && found.iter().zip(expected).all(|(f, e)| f.0 == e.0 && f.1.abs_diff(e.1) <= 1);
        assert!(close, "{found:?}, but expected {expected:?}");
    }

    #[test]
    fn draws_follow_the_probabilities() {
        check(&[0.1, 0.6, 0.3], sampling(1.0, 1.0, 0), &[(0, 100), (1, 600), (2, 300)]);
        // Temperature one half squares them.
        check(&[0.25, 0.75], sampling(0.5, 1.0, 0), &[(0, 100), (1, 900)]);
        check(&[0.25, 0.75], sampling(1e-3, 1.0, 0), &[(1, 1000)]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let p = [0.1, 0.5, 0.15, 0.25];
        check(&p, sampling(1.0, 0.49, 0), &[(1, 1000)]);
        check(&p, sampling(1.0, 0.51, 0), &[(1, 667), (3, 333)]);
        check(&p, sampling(1.0, 0.74, 0), &[(1, 667), (3, 333)]);
        check(&p, sampling(1.0, 0.76, 0), &[(1, 556), (2, 167), (3, 278)]);
        check(&p, sampling(1.0, 1e-9, 0), &[(1, 1000)]);
    }

    #[test]
    fn top_k_keeps_the_largest_and_comes_before_top_p() {
        let p = [0.1, 0.5, 0.15, 0.25];
        check(&p, sampling(1.0, 1.0, 1), &[(1, 1000)]);
        check(&p, sampling(1.0, 1.0, 2), &[(1, 667), (3, 333)]);
        check(&p, sampling(1.0, 1.0, 100), &[(0, 100), (1, 500), (2, 150), (3, 250)]);
        // 0.5 of 0.75 is two thirds, which reaches 0.6; of the whole it would not.
        check(&p, sampling(1.0, 0.6, 2), &[(1, 1000)]);
    }

    #[test]
    fn ties_go_to_the_lower_token() {
        let four = [0.25; 4];
        check(&four, sampling(0.0, 1.0, 0), &[(0, 1000)]);
        check(&four, sampling(1.0, 1.0, 2), &[(0, 500), (1, 500)]);
        check(&four, sampling(1.0, 0.3, 0), &[(0, 500), (1, 500)]);
        check(&four, sampling(1.0, 0.5, 0), &[(0, 500), (1, 500)]);
    }

    #[test]
    fn the_penalty_divides_what_is_positive_and_multiplies_what_is_negative() {
        let greedy = |logits: &[f32], penalty, context: &[u32]| {
            let sampling = Sampling { repetition_penalty: penalty, ..sampling(0.0, 1.0, 0) };
            draw(logits, &sampling, context, 0.0)
        };
        assert_eq!(greedy(&[2.0, 1.5, 0.0], 1.0, &[0]), 0);
        assert_eq!(greedy(&[2.0, 1.5, 0.0], 2.0, &[0]), 1);
        assert_eq!(greedy(&[2.0, 1.5, 0.0], 1.2, &[0, 0, 0, 0]), 0, "once however often");
        assert_eq!(greedy(&[-1.0, -1.5, -9.0], 2.0, &[0]), 1);
        assert_eq!(greedy(&[-1.0, -1.5, -9.0], 2.0, &[0, 1]), 0);
    }

    #[test]
    fn a_large_vocabulary_gives_what_sorting_it_would() {
        let logits: Vec<f32> =
            (0..5000).map(|i| 6.0 * crate::run::seed::uniform(5, i) as f32).collect();
        for (temperature, top_p, top_k) in
            [(1.0, 0.9, 0), (0.3, 0.95, 0), (5.0, 0.99, 0), (1.0, 0.5, 40), (1.0, 1.0, 3000)]
        {
            let total: f64 = logits.iter().map(|&l| (l as f64 / temperature).exp()).sum();
            let mut sorted: Vec<(f64, u32)> = (0..5000)
                .map(|i| ((logits[i as usize] as f64 / temperature).exp() / total, i))
                .collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            if top_k > 0 {
                sorted.truncate(top_k);
            }
            let total: f64 = sorted.iter().map(|p| p.0).sum();
            let mut mass = 0.0;
            let count = sorted.iter().take_while(|p| {
                let keep = mass < top_p * total;
                mass += p.0;
                keep
            });
            let want = count.count();
            let weights = cpu::exp_weights(&logits, 1.0 / temperature);
            let keep = if top_k > 0 { top_k } else { 5000 };
            let found = nucleus(&weights, keep, top_p);
            assert!(found.len().abs_diff(want) <= 1, "{} {want}", found.len());
            let same = found.iter().zip(&sorted).filter(|(f, s)| f.1 == s.1).count();
            assert!(same + 4 >= want, "{same} of {want}");
        }
    }

    #[test]
    fn draws_at_both_ends_are_tokens_that_can_be_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        logits[300] = 1.0;
        logits[700] = 1.0;
        let settings = sampling(1.0, 1.0, 0);
        assert_eq!(draw(&logits, &settings, &[], 0.0), 300);
        assert_eq!(draw(&logits, &settings, &[], 1.0 - f64::EPSILON / 2.0), 700);
        let settings = sampling(1.0, 0.99, 0);
        assert_eq!(draw(&logits, &settings, &[], 0.0), 300);
        assert_eq!(draw(&logits, &settings, &[], 1.0 - f64::EPSILON / 2.0), 700);
    }
}
