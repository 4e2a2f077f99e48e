//! Whether a judge is right more often where its rewards are further apart.

use serde::Serialize;

/// Bins of about as many pairs each.
const BINS: usize = 10;

/// Pairs whose rewards are about as far apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Mean distance of the two rewards.
    pub margin: f64,
    /// Mean of `sigmoid(margin)`: how sure a Bradley-Terry model would be.
    pub confidence: f64,
    /// Share of pairs in which the chosen completion has the higher reward.
    pub accuracy: f64,
    /// Pairs.
    pub n: usize,
}

/// How sure a judge is, against how often it is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// By rising distance.
    pub bins: Vec<Bin>,
    /// Expected calibration error over these bins, where rewards are read as Bradley-Terry logits.
    pub expected_error: f64,
    /// Mean of `(sigmoid(margin) - right)²`, read the same way.
    pub brier: f64,
}

/// Returns the calibration of pairs, each with the reward of the chosen completion less that of the
/// rejected one. Pairs without a difference say nothing. `None` for fewer than two pairs in a bin.
pub fn calibration(margins: &[f64]) -> Option<Calibration> {
    let mut sorted: Vec<f64> = margins.iter().copied().filter(|margin| *margin != 0.0).collect();
    let n = sorted.len();
    if n < 2 * BINS {
        return None;
    }
    sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let sure = |margin: f64| 1.0 / (1.0 + (-margin.abs()).exp());
    let bin = |place: usize| {
        let pairs = &sorted[place * n / BINS..(place + 1) * n / BINS];
        let mean = |of: &dyn Fn(f64) -> f64| {
            pairs.iter().map(|&margin| of(margin)).sum::<f64>() / pairs.len() as f64
        };
        Bin {
            margin: mean(&f64::abs),
            confidence: mean(&sure),
            accuracy: mean(&|margin| f64::from(u8::from(margin > 0.0))),
            n: pairs.len(),
        }
    };
    let bins: Vec<Bin> = (0..BINS).map(bin).collect();
    let error = |bin: &Bin| bin.n as f64 * (bin.confidence - bin.accuracy).abs();
    let squared = |margin: &f64| (sure(*margin) - f64::from(u8::from(*margin > 0.0))).powi(2);
    Some(Calibration {
        expected_error: bins.iter().map(error).sum::<f64>() / n as f64,
        brier: sorted.iter().map(squared).sum::<f64>() / n as f64,
        bins,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_apart_is_a_later_bin() {
        let margins: Vec<f64> = (1..=40)
            .map(|i| if i <= 20 && i % 2 == 0 { -f64::from(i) } else { f64::from(i) })
            .collect();
        let found = calibration(&margins).unwrap();
        assert_eq!(found.bins.iter().map(|bin| bin.n).sum::<usize>(), 40);
        assert!(found.bins.is_sorted_by(|a, b| a.margin < b.margin));
        assert_eq!((found.bins[0].accuracy, found.bins[9].accuracy), (0.5, 1.0));
        assert_eq!(calibration(&[1.0, 0.0]), None);
    }
}
