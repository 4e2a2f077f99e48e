//! Numbers with what they rest on: how many cases, and a 95 % interval.

use serde::Serialize;

use crate::round::diversity::mean;
use crate::run::seed;

/// A 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// One number of a measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// For example `prompt-strict`.
    pub name: String,
    /// Finite; absent where there is no case to count.
    pub value: Option<f64>,
    /// The cases that it was counted over.
    pub n: usize,
    /// Absent where too few cases say nothing of the spread, or the number has none.
    pub interval: Option<Interval>,
}

impl Figure {
    /// Returns a share of cases, with Wilson's interval.
    pub fn share(name: &str, hits: usize, n: usize) -> Figure {
        let value = (n > 0).then(|| hits as f64 / n as f64);
        Figure { name: name.to_owned(), value, n, interval: wilson(hits, n) }
    }

    /// Returns the mean of the cases, with the interval of the normal distribution.
    pub fn mean(name: &str, values: &[f64]) -> Figure {
        let value = mean(values.iter().copied());
        Figure { name: name.to_owned(), value, n: values.len(), interval: normal(values) }
    }

    /// Returns the mean of cases that are shares themselves; the interval stays within [0, 1].
    pub fn mean_share(name: &str, values: &[f64]) -> Figure {
        let mut figure = Figure::mean(name, values);
        if let Some(Interval { low, high }) = &mut figure.interval {
            *low = low.max(0.0);
            *high = high.min(1.0);
        }
        figure
    }

    /// Returns a number that has no interval.
    pub fn plain(name: &str, value: Option<f64>, n: usize) -> Figure {
        Figure { name: name.to_owned(), value, n, interval: None }
    }

    /// Returns a number that is computed from all cases together, with the bootstrap's interval.
    pub fn resampled(name: &str, n: usize, of: impl Fn(&[usize]) -> f64) -> Figure {
        let all: Vec<usize> = (0..n).collect();
        let value = (n > 0).then(|| of(&all)).filter(|value| value.is_finite());
        Figure { name: name.to_owned(), value, n, interval: bootstrap(n, of) }
    }
}

/// The normal distribution has 95 % of its mass within so many standard deviations of its mean.
const Z: f64 = 1.959_963_984_540_054;

/// Returns Wilson's score interval for a share (Wilson 1927), within [0, 1]; `None` where `n` is 0.
pub fn wilson(hits: usize, n: usize) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let (p, n) = (hits as f64 / n as f64, n as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    Some(Interval { low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
}

/// Returns the normal distribution's interval around a mean; `None` for fewer than two values.
pub fn normal(values: &[f64]) -> Option<Interval> {
    let mean = mean(values.iter().copied())?;
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = Z * (variance / n).sqrt();
    Some(Interval { low: mean - half, high: mean + half })
}

/// Samples that the bootstrap draws.
const RESAMPLES: u64 = 1000;

/// Returns the bootstrap's percentile interval of a number that is computed from cases, given by index;
/// the same in every run. `None` for fewer than two cases, or where the number is not finite.
pub fn bootstrap(n: usize, of: impl Fn(&[usize]) -> f64) -> Option<Interval> {
    if n < 2 {
        return None;
    }
    let seed = seed::of(["bootstrap".into(), (n as u64).into()]);
    let mut sample = vec![0; n];
    let mut values = Vec::with_capacity(RESAMPLES as usize);
    for round in 0..RESAMPLES {
        for (place, drawn) in sample.iter_mut().enumerate() {
            *drawn = below(seed, round * n as u64 + place as u64, n);
        }
        values.push(of(&sample));
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[(share * (RESAMPLES - 1) as f64).round() as usize];
    let interval = Interval { low: at(0.025), high: at(0.975) };
    (interval.low.is_finite() && interval.high.is_finite()).then_some(interval)
}

/// Returns a number below `n`, drawn under `seed`; `n` is over 0 and below 2³².
pub(super) fn below(seed: u64, index: u64, n: usize) -> usize {
    ((seed::bits(seed, index) as u128 * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(interval: Option<Interval>, low: f64, high: f64) {
        let found = interval.unwrap();
        assert!((found.low - low).abs() < 1e-4 && (found.high - high).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn wilsons_interval_stays_within_a_share() {
        near(wilson(5, 10), 0.2366, 0.7634);
        near(wilson(0, 10), 0.0, 0.2775);
        near(wilson(10, 10), 0.7225, 1.0);
        near(wilson(1, 1), 0.2065, 1.0);
        assert_eq!(wilson(0, 0), None);
        assert_eq!(Figure::share("x", 0, 0).value, None);
    }

    #[test]
    fn means_have_the_interval_of_their_spread() {
        // Variance 1, so 1.96 / sqrt(3) around 2.
        near(normal(&[1.0, 2.0, 3.0]), 2.0 - 1.1316, 2.0 + 1.1316);
        assert_eq!(normal(&[1.0]), None);
        // Variance 1/4, so 0.49 around 1/4 and 3/4.
        near(Figure::mean_share("x", &[0.0, 1.0, 0.0, 0.0]).interval, 0.0, 0.74);
        near(Figure::mean_share("x", &[1.0, 0.0, 1.0, 1.0]).interval, 0.26, 1.0);
        assert_eq!(mean([]), None);
        assert_eq!(Figure::mean("x", &[1.0, 3.0]).value, Some(2.0));
    }

    #[test]
    fn the_bootstrap_is_near_the_normal_interval_and_always_the_same() {
        let values: Vec<f64> = (0..200).map(|i| seed::uniform(5, i)).collect();
        let of = |cases: &[usize]| {
            cases.iter().map(|&case| values[case]).sum::<f64>() / cases.len() as f64
        };
        let (drawn, normal) = (bootstrap(200, of).unwrap(), normal(&values).unwrap());
        assert!((drawn.low - normal.low).abs() < 0.01, "{drawn:?} {normal:?}");
        assert!((drawn.high - normal.high).abs() < 0.01, "{drawn:?} {normal:?}");
        assert_eq!(bootstrap(200, of), Some(drawn));
        assert_eq!(bootstrap(1, of), None);
        assert_eq!(bootstrap(5, |_| f64::INFINITY), None);
    }
}
