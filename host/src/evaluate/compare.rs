//! Two plugins on the same rows: which is right more often, and whether that may be chance.

use serde::Serialize;

use super::resample::intervals;
use crate::measure::figure::Interval;

/// Rows by which of two plugins is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paired {
    /// Both are.
    pub both: u64,
    /// The first alone is.
    pub first: u64,
    /// The second alone is.
    pub second: u64,
    /// Neither is.
    pub neither: u64,
}

/// A comparison of two plugins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the first plugin.
    pub first: String,
    /// Name of the second.
    pub second: String,
    /// Rows that both were called for.
    pub n: u64,
    /// Rows on which the first alone is right.
    pub first_only: u64,
    /// Rows on which the second alone is right.
    pub second_only: u64,
    /// Share of right rows of the first, less that of the second.
    pub difference: f64,
    /// The bootstrap's interval of the difference, over rows.
    pub interval: Option<Interval>,
    /// McNemar's exact test: how likely at least such a difference is where both are as often right.
    pub p: f64,
    /// The same, corrected for the number of comparisons (Holm 1979).
    pub p_holm: f64,
}

impl Paired {
    /// Adds a row.
    pub fn note(&mut self, first: bool, second: bool) {
        *match (first, second) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.first,
            (false, true) => &mut self.second,
            (false, false) => &mut self.neither,
        } += 1;
    }

    /// Returns the comparison of two plugins; `None` without a row.
    pub fn compare(&self, first: &str, second: &str) -> Option<Comparison> {
        let counts = [self.both, self.first, self.second, self.neither];
        let n: u64 = counts.iter().sum();
        if n == 0 {
            return None;
        }
        let difference = |counts: &[u64; 4]| [(counts[1] as f64 - counts[2] as f64) / n as f64];
        let [interval] = intervals(&counts, difference);
        let p = mcnemar(self.first, self.second);
        Some(Comparison {
            first: first.to_owned(),
            second: second.to_owned(),
            n,
            first_only: self.first,
            second_only: self.second,
            difference: difference(&counts)[0],
            interval,
            p,
            p_holm: p,
        })
    }
}

/// Returns the two-sided p-value of McNemar's exact test.
pub fn mcnemar(first_only: u64, second_only: u64) -> f64 {
    let (n, fewer) = (first_only + second_only, first_only.min(second_only));
    // The terms of the binomial distribution, by their logarithms: the first is 2⁻ⁿ.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = term.exp();
    for k in 0..fewer {
        term += ((n - k) as f64 / (k + 1) as f64).ln();
        tail += term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Corrects the p-values of several comparisons (Holm 1979): the chance that any of them is wrongly
/// below a level stays below that level.
pub fn correct(comparisons: &mut [Comparison]) {
    let mut order: Vec<usize> = (0..comparisons.len()).collect();
    order.sort_by(|&a, &b| comparisons[a].p.total_cmp(&comparisons[b].p));
    let mut largest = 0.0_f64;
    for (rank, &place) in order.iter().enumerate() {
        let left = (comparisons.len() - rank) as f64;
        largest = largest.max((left * comparisons[place].p).min(1.0));
        comparisons[place].p_holm = largest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_paired() {
        let mut paired = Paired::default();
        for (first, second) in [(true, true), (true, false), (true, false), (false, true)] {
            paired.note(first, second);
        }
        let found = paired.compare("a", "b").unwrap();
        assert_eq!((found.n, found.first_only, found.second_only), (4, 2, 1));
        assert_eq!(found.difference, 0.25);
        assert!(found.interval.unwrap().low <= 0.25);
        assert_eq!(found.p, 1.0);
        assert_eq!(Paired::default().compare("a", "b"), None);
    }

    #[test]
    fn few_disagreements_are_no_evidence() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(1, 0), 1.0);
        assert!((mcnemar(0, 10) - 2.0 / 1024.0).abs() < 1e-15);
        assert!(mcnemar(40_000, 60_000) < 1e-300);
    }

    #[test]
    fn holm_multiplies_and_keeps_the_order() {
        let of = |p: f64| Comparison {
            first: "a".into(),
            second: "b".into(),
            n: 1,
            first_only: 0,
            second_only: 0,
            difference: 0.0,
            interval: None,
            p,
            p_holm: p,
        };
        let mut all = [of(0.04), of(0.01), of(0.03)];
        correct(&mut all);
        let found = all.map(|one| one.p_holm);
        assert!(
            found.iter().zip([0.06, 0.03, 0.06]).all(|(a, b)| (a - b).abs() < 1e-12),
            "{found:?}"
        );
    }
}
