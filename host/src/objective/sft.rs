//! Supervised fine-tuning: the mean over tokens of the negative logprob.

/// The share of some tokens in the supervised loss of an optimiser batch, in nats a token.
///
/// `L = − Σ w·logp / Σ w`, over **all** trained tokens of the optimiser batch: the token mean that
/// transformers and TRL compute since their gradient-accumulation fix
/// (<https://huggingface.co/blog/gradient_accumulation>). A mean over examples of each example's mean
/// would weigh a token of a short completion more, and a mean over micro-batches would depend
/// on how the batch is cut.
///
/// - `logprobs`: of the trained tokens, in nats.
/// - `weights`: one for each token, not negative; 1 in plain training.
/// - `total_weight`: sum of the weights over the whole optimiser batch; positive.
///
/// Never negative where the logprobs are never positive. The sum is formed in f64.
pub fn sft_loss(logprobs: &[f32], weights: &[f32], total_weight: f64) -> f64 {
    let sum: f64 = logprobs.iter().zip(weights).map(|(&l, &w)| f64::from(l) * f64::from(w)).sum();
    -sum / total_weight
}

/// The gradient of [`sft_loss`] with respect to the logprobs: `−w / Σ w` for each token.
///
/// It does not depend on the logprobs, so the head can form its gradient in the same pass.
pub fn sft_gradient(weights: &[f32], total_weight: f64) -> Vec<f32> {
    weights.iter().map(|&w| (-f64::from(w) / total_weight) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_mean_over_tokens() {
        let check = |logprobs: &[f32], weights: &[f32], expected: f64| {
            let total = weights.iter().map(|&w| f64::from(w)).sum();
            assert!((sft_loss(logprobs, weights, total) - expected).abs() < 1e-12);
        };
        check(&[-1.0, -3.0], &[1.0, 1.0], 2.0);
        check(&[-1.0, -3.0], &[1.0, 0.0], 1.0);
        check(&[-1.0, -3.0, -5.0], &[0.5, 0.5, 1.0], 3.5);
        check(&[0.0], &[1.0], 0.0);
    }

    #[test]
    fn shares_add_up_to_the_whole_and_not_to_a_mean_of_means() {
        let (long, short) = ([-1.0, -1.0, -1.0], [-5.0]);
        let whole = sft_loss(&[-1.0, -1.0, -1.0, -5.0], &[1.0; 4], 4.0);
        let parts = sft_loss(&long, &[1.0; 3], 4.0) + sft_loss(&short, &[1.0], 4.0);
        assert_eq!(whole, parts);
        assert_eq!(whole, 2.0);
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let (logprobs, weights) = ([-0.5f32, -2.0, -1.0], [1.0f32, 0.25, 0.0]);
        let total = 1.25;
        for (i, slope) in sft_gradient(&weights, total).into_iter().enumerate() {
            let mut moved = logprobs;
            moved[i] += 0.125;
            let rise = sft_loss(&moved, &weights, total) - sft_loss(&logprobs, &weights, total);
            assert!((rise / 0.125 - f64::from(slope)).abs() < 1e-7, "{i}");
        }
    }
}
