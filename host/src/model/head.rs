//! The head of a reward model: what it makes of a hidden row.

/// Returns the product of a head and a hidden row, both `[hidden]`, added up in their order in f64.
pub(crate) fn product(score: &[f32], hidden: &[f32]) -> f64 {
    score.iter().zip(hidden).map(|(&score, &x)| f64::from(score) * f64::from(x)).sum()
}
