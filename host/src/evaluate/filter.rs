//! What a filter made of labelled completions.

use std::collections::BTreeMap;

use serde::Serialize;

use super::confusion::Confusion;
use super::curve::{Curve, curve};
use super::outcome::{Facts, Sifted, beginning};
use super::slices::{Part, Slice, Slices};
use crate::measure::figure::Figure;

/// The most reasons that are counted apart; a plugin could make one up for every row.
const MAX_REASONS: usize = 50;
/// Examples of a reason.
const EXAMPLES: usize = 3;

/// Counts of a filter.
#[derive(Clone, Debug, Default)]
pub struct FilterTally {
    counts: Confusion,
    revised: u64,
    failed: u64,
    reasons: BTreeMap<String, Reason>,
    slices: Slices<Confusion>,
    /// The file's scores of completions, each with whether it is kept.
    scored: Vec<(f64, bool)>,
    /// What was measured of completions for the filter, each with whether it is labelled good.
    measured: Vec<(f64, bool)>,
}

/// Why completions are dropped, or how the plugin failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reason {
    /// In the plugin's words.
    pub reason: String,
    /// Completions.
    pub n: u64,
    /// Those among them that are labelled good.
    pub good: u64,
    /// How some of them begin.
    pub examples: Vec<String>,
}

impl Part for Confusion {
    fn rows(&self) -> u64 {
        Confusion::rows(self)
    }

    fn figures(&self) -> Vec<Figure> {
        self.short()
    }
}

impl FilterTally {
    /// Adds a completion; returns whether the verdict is the label's. A plugin that fails is not right.
    pub fn note(&mut self, facts: Facts<'_>, good: bool, sifted: &Sifted) -> bool {
        let kept = match sifted {
            Sifted::Kept => true,
            Sifted::Revised => {
                self.revised += 1;
                true
            }
            Sifted::Dropped(reason) => {
                self.note_reason(reason, good, facts.shown);
                false
            }
            Sifted::Failed(why) => {
                self.failed += 1;
                self.note_reason(&format!("(failed) {}", beginning(why)), good, facts.shown);
                return false;
            }
        };
        self.scored.extend(facts.score.map(|score| (score, kept)));
        let row = Confusion::row(good, kept);
        self.counts += row;
        self.slices.note(facts, row);
        kept == good
    }

    /// Adds the number that the filter reads of a completion: higher where it is better.
    pub fn note_measured(&mut self, value: f64, good: bool) {
        self.measured.push((value, good));
    }

    /// Returns how well what the filter reads tells good completions from bad ones, over all thresholds;
    /// `None` where it reads nothing that is measured.
    pub fn curve(&self) -> Option<Curve> {
        curve(&self.measured)
    }

    fn note_reason(&mut self, reason: &str, good: bool, shown: &str) {
        let known = self.reasons.contains_key(reason);
        let name =
            if known || self.reasons.len() < MAX_REASONS { reason } else { "(other reasons)" };
        let entry = self.reasons.entry(name.to_owned()).or_default();
        entry.reason = name.to_owned();
        entry.n += 1;
        entry.good += u64::from(good);
        if entry.examples.len() < EXAMPLES {
            entry.examples.push(beginning(shown));
        }
    }

    /// Returns the numbers: those of the verdicts, the shares of revised and failed completions, and where
    /// the file has scores `kept-above`: how often a kept completion has a higher one than a dropped one.
    pub fn figures(&self) -> Vec<Figure> {
        let rows = self.counts.rows() as usize;
        let mut figures = self.counts.figures();
        let dropped = (self.counts.bad_dropped + self.counts.good_dropped) as usize;
        figures.push(Figure::share("dropped", dropped, rows));
        figures.push(Figure::share("revised", self.revised as usize, rows));
        figures.push(Figure::share("failed", self.failed as usize, rows + self.failed as usize));
        if let Some(curve) = curve(&self.scored) {
            figures.push(Figure { name: "kept-above".to_owned(), ..curve.roc_auc });
        }
        figures
    }

    /// Returns the counts of labels and verdicts.
    pub fn counts(&self) -> Confusion {
        self.counts
    }

    /// Returns why completions were dropped, the most frequent reason first.
    pub fn reasons(&self) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = self.reasons.values().cloned().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.n));
        reasons
    }

    /// Returns the numbers by slice.
    pub fn slices(&self) -> Vec<Slice> {
        self.slices.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_and_reasons_are_counted() {
        let mut tally = FilterTally::default();
        let mut note = |good: bool, sifted: Sifted| {
            let facts = Facts { characters: 3, shown: "a b", ..Facts::default() };
            tally.note(facts, good, &sifted)
        };
        assert!(note(true, Sifted::Kept));
        assert!(note(true, Sifted::Revised));
        assert!(note(false, Sifted::Dropped("short".into())));
        assert!(!note(true, Sifted::Dropped("short".into())));
        assert!(!note(false, Sifted::Kept));
        assert!(!note(true, Sifted::Failed("it trapped".into())));
        let value = |name: &str| {
            let figures = tally.figures();
            figures.iter().find(|figure| figure.name == name).unwrap().value.unwrap()
        };
        assert_eq!(value("accuracy"), 0.6);
        assert_eq!((value("dropped"), value("revised")), (0.4, 0.2));
        assert_eq!(value("failed"), 1.0 / 6.0);
        let reasons = tally.reasons();
        assert_eq!((reasons[0].reason.as_str(), reasons[0].n, reasons[0].good), ("short", 2, 1));
        assert_eq!(reasons[0].examples, ["a b", "a b"]);
        assert_eq!(reasons[1].reason, "(failed) it trapped");
    }

    #[test]
    fn scores_of_the_file_and_measurements_are_compared_over_all_thresholds() {
        let mut tally = FilterTally::default();
        for i in 0..10 {
            let score = f64::from(i);
            let facts = Facts { score: Some(score), ..Facts::default() };
            let sifted = if i < 5 { Sifted::Dropped("low".into()) } else { Sifted::Kept };
            tally.note(facts, i >= 3, &sifted);
            tally.note_measured(-score, i < 5);
        }
        let figures = tally.figures();
        let found = figures.iter().find(|figure| figure.name == "kept-above").unwrap();
        assert_eq!((found.value, found.n), (Some(1.0), 10));
        assert_eq!(tally.curve().unwrap().roc_auc.value, Some(1.0));
        assert!(FilterTally::default().curve().is_none());
    }

    #[test]
    fn made_up_reasons_do_not_pile_up() {
        let mut tally = FilterTally::default();
        for i in 0..1000 {
            let facts = Facts { characters: 1, shown: "x", ..Facts::default() };
            tally.note(facts, false, &Sifted::Dropped(format!("r{i}")));
        }
        let reasons = tally.reasons();
        assert_eq!(reasons.len(), MAX_REASONS + 1);
        assert_eq!((reasons[0].reason.as_str(), reasons[0].n), ("(other reasons)", 950));
        assert_eq!(reasons[0].examples.len(), EXAMPLES);
    }
}
