//! What a judge made of pairs whose better completion is known, and of labelled completions.

use std::cmp::Ordering;

use super::calibration::{Calibration, calibration};
use super::curve::{Curve, curve};
use super::outcome::{Choice, Facts, Judged, Scored, beginning};
use super::resample::intervals;
use super::slices::{Part, Slice, Slices};
use crate::measure::figure::{Figure, Interval};

/// Examples of what could not be read.
const EXAMPLES: usize = 5;

/// Pairs, by the credit that a judge has for them: in each order 1 for the labelled completion, a half
/// for a tie or an answer that cannot be read, else 0; both orders together in quarters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits([u64; 5]);

impl std::ops::AddAssign for Credits {
    fn add_assign(&mut self, other: Credits) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl Credits {
    fn pair(quarters: usize) -> Credits {
        let mut credits = Credits::default();
        credits.0[quarters] = 1;
        credits
    }

    /// Mean credit and share of pairs with all of it.
    fn rates(counts: &[u64; 5]) -> [f64; 2] {
        let n = counts.iter().sum::<u64>() as f64;
        let quarters: u64 = counts.iter().enumerate().map(|(i, count)| i as u64 * count).sum();
        [quarters as f64 / (4.0 * n), counts[4] as f64 / n]
    }
}

impl Part for Credits {
    fn rows(&self) -> u64 {
        self.0.iter().sum()
    }

    fn figures(&self) -> Vec<Figure> {
        let n = self.rows() as usize;
        let ([accuracy, right], intervals) =
            (Self::rates(&self.0), intervals(&self.0, Self::rates));
        let figure = |name: &str, value: f64, interval: Option<Interval>| Figure {
            name: name.to_owned(),
            value: value.is_finite().then_some(value),
            n,
            interval,
        };
        vec![
            figure("accuracy", accuracy, intervals[0]),
            figure("always-right", right, intervals[1]),
        ]
    }
}

/// Rows by whether all of their pairs are right, where some row has several.
#[derive(Clone, Copy, Debug, Default)]
struct WholeRows {
    rows: u64,
    right: u64,
    /// The row that was noted last, and whether all of it so far is right.
    last: Option<(usize, bool)>,
    several: bool,
}

impl WholeRows {
    /// Adds a pair; those of a row follow each other.
    fn note(&mut self, row: usize, right: bool) {
        match &mut self.last {
            Some((last, all)) if *last == row => {
                self.several = true;
                if *all && !right {
                    *all = false;
                    self.right -= 1;
                }
            }
            last => {
                *last = Some((row, right));
                self.rows += 1;
                self.right += u64::from(right);
            }
        }
    }

    fn figure(&self) -> Option<Figure> {
        let share = || Figure::share("whole-row", self.right as usize, self.rows as usize);
        self.several.then(share)
    }
}

/// Counts of a judge over pairs.
#[derive(Clone, Debug, Default)]
pub struct JudgeTally {
    credits: Credits,
    /// Calls: one for each order.
    calls: u64,
    ties: u64,
    unparsable: u64,
    failed: u64,
    /// Calls that showed both completions and preferred one, and those among them that preferred the
    /// first.
    ordered: u64,
    first: u64,
    /// Pairs that were preferred by place in both orders.
    by_place: u64,
    together: u64,
    /// Calls that preferred one of two completions of different length, and the longer one.
    uneven: u64,
    longer: u64,
    /// Pairs of different length, and those whose labelled completion is the longer one.
    uneven_pairs: u64,
    labelled_longer: u64,
    margins: Vec<f64>,
    slices: Slices<Credits>,
    whole_rows: WholeRows,
    examples: Vec<String>,
}

impl JudgeTally {
    /// Adds a pair; `length` compares the labelled completion with the other. Returns whether the judge
    /// is right in every order it was asked in.
    pub fn note(&mut self, facts: Facts<'_>, length: Ordering, judged: &Judged) -> bool {
        if length != Ordering::Equal {
            self.uneven_pairs += 1;
            self.labelled_longer += u64::from(length == Ordering::Greater);
        }
        let quarters = match judged {
            Judged::Together(front, back) => {
                self.together += 1;
                for (choice, labelled_first) in [(front, true), (back, false)] {
                    if let Some(right) = right(choice) {
                        self.ordered += 1;
                        self.first += u64::from(right == labelled_first);
                    }
                }
                let by_place = matches!((right(front), right(back)), (Some(a), Some(b)) if a != b);
                self.by_place += u64::from(by_place);
                self.call(length, front) + self.call(length, back)
            }
            Judged::Apart(choice) => 2 * self.call(length, choice),
        };
        let margins: Vec<f64> = match judged {
            Judged::Together(front, back) => [front, back].into_iter().filter_map(margin).collect(),
            Judged::Apart(choice) => margin(choice).into_iter().collect(),
        };
        if !margins.is_empty() {
            self.margins.push(margins.iter().sum::<f64>() / margins.len() as f64);
        }
        let credits = Credits::pair(quarters);
        self.credits += credits;
        self.slices.note(facts, credits);
        self.whole_rows.note(facts.row, quarters == 4);
        quarters == 4
    }

    /// Adds a call; returns its credit in halves.
    fn call(&mut self, length: Ordering, choice: &Choice) -> usize {
        self.calls += 1;
        if let (Some(right), Ordering::Greater | Ordering::Less) = (right(choice), length) {
            self.uneven += 1;
            self.longer += u64::from(right == (length == Ordering::Greater));
        }
        match choice {
            Choice::Right(_) => 2,
            Choice::Wrong(_) => 0,
            Choice::Tie => {
                self.ties += 1;
                1
            }
            Choice::Unparsable(why) => {
                self.unparsable += 1;
                self.example("unparsable", why);
                1
            }
            Choice::Failed(why) => {
                self.failed += 1;
                self.example("failed", why);
                0
            }
        }
    }

    fn example(&mut self, what: &str, why: &str) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{what}: {}", beginning(why)));
        }
    }

    /// Returns the numbers.
    ///
    /// - `accuracy`: the mean credit; `always-right`: pairs that are right in every order.
    /// - `whole-row`, where rows have several pairs: rows that are right in every pair and order.
    /// - `prefers-first`: among calls that preferred one of two; 0.5 where the place does not matter.
    ///   `by-place`: pairs in which the place alone decided.
    /// - `prefers-longer` beside `labelled-longer`: how often the longer completion is preferred, and
    ///   how often it should be.
    /// - `tie`, `unparsable`, `failed`: shares of the calls.
    pub fn figures(&self) -> Vec<Figure> {
        let share = |name: &str, hits: u64, n: u64| Figure::share(name, hits as usize, n as usize);
        let mut figures = self.credits.figures();
        figures.extend(self.whole_rows.figure());
        figures.extend([
            share("prefers-first", self.first, self.ordered),
            share("by-place", self.by_place, self.together),
            share("prefers-longer", self.longer, self.uneven),
            share("labelled-longer", self.labelled_longer, self.uneven_pairs),
            share("tie", self.ties, self.calls),
            share("unparsable", self.unparsable, self.calls),
            share("failed", self.failed, self.calls),
        ]);
        if let Some(calibration) = self.calibration() {
            let n = self.margins.len();
            figures.push(Figure::plain("calibration-error", Some(calibration.expected_error), n));
            figures.push(Figure::plain("brier", Some(calibration.brier), n));
        }
        figures
    }

    /// Returns how sure the judge is against how often it is right, where it gives rewards.
    pub fn calibration(&self) -> Option<Calibration> {
        calibration(&self.margins)
    }

    /// Returns the numbers by slice.
    pub fn slices(&self) -> Vec<Slice> {
        self.slices.finish()
    }

    /// Returns what could not be read, and how the plugin failed: the first few.
    pub fn examples(&self) -> &[String] {
        &self.examples
    }
}

/// Whether a choice is right; `None` where there is none.
fn right(choice: &Choice) -> Option<bool> {
    match choice {
        Choice::Right(_) => Some(true),
        Choice::Wrong(_) => Some(false),
        _ => None,
    }
}

/// The labelled completion's reward less the other's.
fn margin(choice: &Choice) -> Option<f64> {
    match choice {
        Choice::Right(margin) => *margin,
        Choice::Wrong(margin) => margin.map(|margin| -margin),
        _ => None,
    }
}

/// Rewards with labels.
#[derive(Clone, Debug, Default)]
struct Scores(Vec<(f64, bool)>);

impl std::ops::AddAssign for Scores {
    fn add_assign(&mut self, other: Scores) {
        self.0.extend(other.0);
    }
}

impl Part for Scores {
    fn rows(&self) -> u64 {
        self.0.len() as u64
    }

    fn figures(&self) -> Vec<Figure> {
        areas(curve(&self.0).as_ref(), self.0.len())
    }
}

/// Returns the areas of a curve.
fn areas(curve: Option<&Curve>, n: usize) -> Vec<Figure> {
    match curve {
        Some(curve) => vec![curve.roc_auc.clone(), curve.average_precision.clone()],
        None => ["roc-auc", "average-precision"].map(|it| Figure::plain(it, None, n)).into(),
    }
}

/// Counts of a judge over labelled completions.
#[derive(Clone, Debug, Default)]
pub struct ScoreTally {
    scored: Scores,
    slices: Slices<Scores>,
    unparsable: u64,
    failed: u64,
    examples: Vec<String>,
}

impl ScoreTally {
    /// Adds a completion.
    pub fn note(&mut self, facts: Facts<'_>, good: bool, scored: &Scored) {
        let (what, why) = match scored {
            Scored::Reward(value) => {
                let one = Scores(vec![(*value, good)]);
                self.slices.note(facts, one.clone());
                self.scored += one;
                return;
            }
            Scored::Unparsable(why) => {
                self.unparsable += 1;
                ("unparsable", why)
            }
            Scored::Failed(why) => {
                self.failed += 1;
                ("failed", why)
            }
        };
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{what}: {}", beginning(why)));
        }
    }

    /// Returns how well the rewards tell good completions from bad ones.
    pub fn curve(&self) -> Option<Curve> {
        curve(&self.scored.0)
    }

    /// Returns the numbers: the areas of `curve`, and the shares of what could not be read and of
    /// failures.
    pub fn figures(&self, curve: Option<&Curve>) -> Vec<Figure> {
        let scored = self.scored.0.len();
        let calls = scored + (self.unparsable + self.failed) as usize;
        [
            areas(curve, scored),
            vec![
                Figure::share("unparsable", self.unparsable as usize, calls),
                Figure::share("failed", self.failed as usize, calls),
            ],
        ]
        .concat()
    }

    /// Returns the areas by slice.
    pub fn slices(&self) -> Vec<Slice> {
        self.slices.finish()
    }

    /// Returns what could not be read, and how the plugin failed: the first few.
    pub fn examples(&self) -> &[String] {
        &self.examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'_> = Facts { row: 0, slices: &[], characters: 10, shown: "", score: None };

    fn value(figures: &[Figure], name: &str) -> (Option<f64>, usize) {
        let figure = figures.iter().find(|figure| figure.name == name).unwrap();
        (figure.value, figure.n)
    }

    #[test]
    fn both_orders_count() {
        let (right, wrong) = (|| Choice::Right(None), || Choice::Wrong(None));
        let mut tally = JudgeTally::default();
        let mut row = 0;
        let mut note = |front, back, length| {
            row += 1;
            tally.note(Facts { row, ..FACTS }, length, &Judged::Together(front, back))
        };
        assert!(note(right(), right(), Ordering::Greater));
        // The first place in both orders: half the credit.
        assert!(!note(right(), wrong(), Ordering::Less));
        assert!(!note(wrong(), wrong(), Ordering::Less));
        assert!(!note(Choice::Tie, right(), Ordering::Equal));
        assert!(!note(
            Choice::Failed("trap".into()),
            Choice::Unparsable("?".into()),
            Ordering::Less
        ));
        let figures = tally.figures();
        assert_eq!(value(&figures, "accuracy"), (Some((1.0 + 0.5 + 0.0 + 0.75 + 0.25) / 5.0), 5));
        assert_eq!(value(&figures, "always-right"), (Some(0.2), 5));
        // Of seven calls with a preference, first places: 1, then 2, then 1, then 0.
        assert_eq!(value(&figures, "prefers-first"), (Some(4.0 / 7.0), 7));
        assert_eq!(value(&figures, "by-place"), (Some(0.2), 5));
        // The labelled one is longer in one of four; preferred longer: 2, then 1, then 2 of two each.
        assert_eq!(value(&figures, "labelled-longer"), (Some(0.25), 4));
        assert_eq!(value(&figures, "prefers-longer"), (Some(5.0 / 6.0), 6));
        assert_eq!(value(&figures, "tie"), (Some(0.1), 10));
        assert_eq!(value(&figures, "unparsable"), (Some(0.1), 10));
        assert_eq!(value(&figures, "failed"), (Some(0.1), 10));
        assert_eq!(tally.examples(), ["failed: trap", "unparsable: ?"]);
        assert!(tally.calibration().is_none());
    }

    #[test]
    fn judges_that_see_each_by_itself_have_no_place_to_prefer() {
        let mut tally = JudgeTally::default();
        for i in 1..=40 {
            let margin = Some(f64::from(i));
            let choice = if i % 4 == 0 { Choice::Wrong(margin) } else { Choice::Right(margin) };
            tally.note(FACTS, Ordering::Equal, &Judged::Apart(choice));
        }
        let figures = tally.figures();
        assert_eq!(value(&figures, "accuracy"), (Some(0.75), 40));
        assert_eq!(value(&figures, "prefers-first"), (None, 0));
        assert_eq!(value(&figures, "by-place"), (None, 0));
        assert!(value(&figures, "brier").0.is_some());
        assert_eq!(tally.slices().len(), 1);
    }

    #[test]
    fn rewards_of_single_completions_make_a_curve() {
        let mut tally = ScoreTally::default();
        for i in 0..10 {
            let slices =
                [("source".to_owned(), if i % 2 == 0 { "even" } else { "odd" }.to_owned())];
            let facts = Facts { slices: &slices, ..FACTS };
            tally.note(facts, i >= 5, &Scored::Reward(f64::from(i)));
        }
        tally.note(FACTS, true, &Scored::Unparsable("hm".into()));
        tally.note(FACTS, true, &Scored::Failed("trap".into()));
        let figures = tally.figures(tally.curve().as_ref());
        assert_eq!(value(&figures, "roc-auc"), (Some(1.0), 10));
        assert_eq!(value(&figures, "failed"), (Some(1.0 / 12.0), 12));
        assert_eq!(value(&ScoreTally::default().figures(None), "roc-auc"), (None, 0));
        let slices = tally.slices();
        let shown: Vec<_> = slices.iter().map(|it| (it.value.as_str(), it.n)).collect();
        assert_eq!(shown, [("even", 5), ("odd", 5), ("0–10", 10)]);
        assert!(slices.iter().all(|it| value(&it.figures, "roc-auc").0 == Some(1.0)));
    }

    #[test]
    fn a_row_of_several_pairs_is_right_as_a_whole() {
        let mut tally = JudgeTally::default();
        for (row, right) in [(1, true), (2, true), (2, true), (3, true), (3, false), (3, true)] {
            let choice = if right { Choice::Right(None) } else { Choice::Wrong(None) };
            tally.note(Facts { row, ..FACTS }, Ordering::Equal, &Judged::Apart(choice));
        }
        let figures = tally.figures();
        assert_eq!(value(&figures, "whole-row"), (Some(2.0 / 3.0), 3));
        assert_eq!(value(&figures, "always-right"), (Some(5.0 / 6.0), 6));
    }
}
