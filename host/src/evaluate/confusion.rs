//! What a filter drops and keeps, against what is labelled to be dropped.

use super::resample::intervals;
use crate::measure::figure::{Figure, wilson};

/// Rows by label and verdict. To drop is the positive class: a filter is a detector of what is bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Labelled bad, and dropped.
    pub bad_dropped: u64,
    /// Labelled good, and dropped.
    pub good_dropped: u64,
    /// Labelled bad, and kept.
    pub bad_kept: u64,
    /// Labelled good, and kept.
    pub good_kept: u64,
}

impl std::ops::AddAssign for Confusion {
    fn add_assign(&mut self, other: Confusion) {
        self.bad_dropped += other.bad_dropped;
        self.good_dropped += other.good_dropped;
        self.bad_kept += other.bad_kept;
        self.good_kept += other.good_kept;
    }
}

impl Confusion {
    /// Returns one row.
    pub fn row(good: bool, kept: bool) -> Confusion {
        let mut row = Confusion::default();
        match (good, kept) {
            (false, false) => row.bad_dropped = 1,
            (true, false) => row.good_dropped = 1,
            (false, true) => row.bad_kept = 1,
            (true, true) => row.good_kept = 1,
        }
        row
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Returns the number of rows whose verdict is the label's.
    pub fn right(&self) -> u64 {
        self.bad_dropped + self.good_kept
    }

    fn counts(&self) -> [u64; 4] {
        [self.bad_dropped, self.good_dropped, self.bad_kept, self.good_kept]
    }

    /// Returns precision, recall and F1 of dropping, the accuracy, and Cohen's kappa, with the
    /// bootstrap's intervals; and the share of good rows that are kept, with Wilson's.
    pub fn figures(&self) -> Vec<Figure> {
        let values = rates(&self.counts());
        let intervals = intervals(&self.counts(), rates);
        let dropped = self.bad_dropped + self.good_dropped;
        let bad = self.bad_dropped + self.bad_kept;
        let rows = self.rows();
        let named = [
            ("precision", dropped),
            ("recall", bad),
            ("f1", rows),
            ("accuracy", rows),
            ("kappa", rows),
        ];
        let mut figures: Vec<Figure> = (named.into_iter().zip(values).zip(intervals))
            .map(|(((name, n), value), interval)| Figure {
                name: name.to_owned(),
                value: value.is_finite().then_some(value),
                n: n as usize,
                interval: interval.filter(|_| value.is_finite()),
            })
            .collect();
        let good = self.good_kept + self.good_dropped;
        figures.push(Figure::share("good-kept", self.good_kept as usize, good as usize));
        figures
    }

    /// Returns the figures of a slice: its accuracy, F1 and share of dropped rows.
    pub fn short(&self) -> Vec<Figure> {
        let [_, _, f1, accuracy, _] = rates(&self.counts());
        let (rows, right) = (self.rows() as usize, self.right() as usize);
        let dropped = (self.bad_dropped + self.good_dropped) as usize;
        let finite = |value: f64| value.is_finite().then_some(value);
        vec![
            Figure {
                interval: wilson(right, rows),
                ..Figure::plain("accuracy", finite(accuracy), rows)
            },
            Figure::plain("f1", finite(f1), rows),
            Figure::share("dropped", dropped, rows),
        ]
    }
}

/// Precision, recall, F1, accuracy, kappa; NaN where a number is not defined.
fn rates(counts: &[u64; 4]) -> [f64; 5] {
    let [bad_dropped, good_dropped, bad_kept, good_kept] = counts.map(|count| count as f64);
    let n = bad_dropped + good_dropped + bad_kept + good_kept;
    let right = (bad_dropped + good_kept) / n;
    let (dropped, bad) = (bad_dropped + good_dropped, bad_dropped + bad_kept);
    let by_chance = (dropped * bad + (n - dropped) * (n - bad)) / (n * n);
    [
        bad_dropped / dropped,
        bad_dropped / bad,
        2.0 * bad_dropped / (dropped + bad),
        right,
        (right - by_chance) / (1.0 - by_chance),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(confusion: Confusion, name: &str) -> Option<f64> {
        let figures = confusion.figures();
        figures.iter().find(|figure| figure.name == name).unwrap().value
    }

    #[test]
    fn numbers_follow_from_the_counts() {
        let some = Confusion { bad_dropped: 20, good_dropped: 5, bad_kept: 10, good_kept: 15 };
        assert_eq!(value(some, "precision"), Some(0.8));
        assert!((value(some, "recall").unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(value(some, "accuracy"), Some(0.7));
        // Cohen's own example.
        assert!((value(some, "kappa").unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(value(some, "good-kept"), Some(0.75));
        assert!(some.figures().iter().all(|figure| figure.interval.is_some()));
    }

    #[test]
    fn what_is_not_defined_has_no_value() {
        let never = Confusion { good_kept: 5, bad_kept: 5, ..Confusion::default() };
        assert_eq!(value(never, "precision"), None);
        assert_eq!(value(never, "recall"), Some(0.0));
        assert_eq!(value(never, "kappa"), Some(0.0));
        let one_class = Confusion { good_kept: 5, ..Confusion::default() };
        assert_eq!(value(one_class, "kappa"), None);
        assert!(Confusion::default().figures().iter().all(|figure| figure.value.is_none()));
        assert!(Confusion::default().short().iter().all(|figure| figure.value.is_none()));
    }

    #[test]
    fn rows_add_up() {
        let mut sum = Confusion::default();
        for (good, kept) in [(true, true), (true, false), (false, true), (false, false)] {
            sum += Confusion::row(good, kept);
        }
        assert_eq!((sum.rows(), sum.right()), (4, 2));
    }
}
