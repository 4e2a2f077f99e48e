//! The same numbers for parts of the rows: by the values of a column, and by length.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;

use super::outcome::Facts;
use crate::measure::figure::Figure;

/// The most values of a column that have a slice of their own; the rest are one together.
const MAX_VALUES: usize = 40;
/// Bins of lengths between one power of two and the next.
const BINS_AN_OCTAVE: f64 = 16.0;
/// Slices by length.
const LENGTHS: u64 = 10;

/// The column under which slices by length stand.
pub const LENGTH: &str = "characters";

/// What is counted of rows, and adds up.
pub trait Part: Clone + Default + AddAssign {
    /// Returns the number of rows.
    fn rows(&self) -> u64;
    /// Returns the figures of a slice.
    fn figures(&self) -> Vec<Figure>;
}

/// A part of the rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slice {
    /// The column, or [`LENGTH`].
    pub column: String,
    /// Its value, or a range.
    pub value: String,
    /// Rows.
    pub n: u64,
    /// Its numbers.
    pub figures: Vec<Figure>,
}

/// Counts by slice.
#[derive(Clone, Debug, Default)]
pub struct Slices<T> {
    columns: BTreeMap<String, Column<T>>,
    lengths: Vec<T>,
}

#[derive(Clone, Debug, Default)]
struct Column<T> {
    values: BTreeMap<String, T>,
    others: T,
}

impl<T: Part> Slices<T> {
    /// Adds a row.
    pub fn note(&mut self, facts: Facts<'_>, part: T) {
        for (name, value) in facts.slices {
            if !self.columns.contains_key(name) {
                self.columns.insert(name.clone(), Column::default());
            }
            let Some(column) = self.columns.get_mut(name) else { continue };
            let room = column.values.len() < MAX_VALUES;
            match column.values.get_mut(value) {
                Some(sum) => *sum += part.clone(),
                None if room => {
                    column.values.insert(value.clone(), part.clone());
                }
                None => column.others += part.clone(),
            }
        }
        let bin = bin(facts.characters);
        if self.lengths.len() <= bin {
            self.lengths.resize_with(bin + 1, T::default);
        }
        self.lengths[bin] += part;
    }

    /// Returns every slice with a row, columns in the order of the alphabet and lengths last: about a
    /// tenth of the rows each, as far as equal lengths allow.
    pub fn finish(&self) -> Vec<Slice> {
        let mut slices = Vec::new();
        let mut push = |column: &str, value: String, part: &T| {
            if part.rows() > 0 {
                let (column, n) = (column.to_owned(), part.rows());
                slices.push(Slice { column, value, n, figures: part.figures() });
            }
        };
        for (name, column) in &self.columns {
            for (value, part) in &column.values {
                push(name, value.clone(), part);
            }
            push(name, "(other values)".to_owned(), &column.others);
        }
        let rows: u64 = self.lengths.iter().map(Part::rows).sum();
        let (mut sum, mut from, mut seen) = (T::default(), 0, 0);
        for (bin, part) in self.lengths.iter().enumerate() {
            sum += part.clone();
            seen += part.rows();
            let cuts = LENGTHS * (seen - sum.rows()) / rows.max(1);
            let full = LENGTHS * seen >= (cuts + 1) * rows;
            if full || bin + 1 == self.lengths.len() {
                push(LENGTH, format!("{}–{}", lowest(from), lowest(bin + 1) - 1), &sum);
                (sum, from) = (T::default(), bin + 1);
            }
        }
        slices
    }
}

fn bin(characters: usize) -> usize {
    // Rounded as in `lowest`, so that a length is never below the least of its bin.
    let bin = ((characters as f64 + 1.0).log2() * BINS_AN_OCTAVE) as usize;
    if lowest(bin + 1) <= characters { bin + 1 } else { bin }
}

/// Returns the least number of characters of a bin.
fn lowest(bin: usize) -> usize {
    ((bin as f64 / BINS_AN_OCTAVE).exp2() - 1.0).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::confusion::Confusion;

    fn note(slices: &mut Slices<Confusion>, source: &str, characters: usize, right: bool) {
        let columns = [("source".to_owned(), source.to_owned())];
        let facts = Facts { slices: &columns, characters, ..Facts::default() };
        slices.note(facts, Confusion::row(true, right));
    }

    #[test]
    fn bins_hold_their_lengths() {
        for characters in (0..5000).chain([65_535, 65_536, 1 << 20]) {
            let bin = bin(characters);
            assert!(
                lowest(bin) <= characters && characters < lowest(bin + 1),
                "{characters} {bin}"
            );
        }
    }

    #[test]
    fn columns_and_lengths_are_told_apart() {
        let mut slices = Slices::default();
        for i in 0..1000 {
            note(&mut slices, if i % 4 == 0 { "a" } else { "b" }, i, i >= 500);
        }
        let found = slices.finish();
        let shown =
            |column: &str| found.iter().filter(|it| it.column == column).collect::<Vec<_>>();
        assert_eq!(shown("source").iter().map(|it| it.n).collect::<Vec<_>>(), [250, 750]);
        let lengths = shown(LENGTH);
        assert!((8..=10).contains(&lengths.len()), "{lengths:?}");
        assert_eq!(lengths.iter().map(|it| it.n).sum::<u64>(), 1000);
        assert!(lengths.iter().all(|it| (60..=180).contains(&it.n)), "{lengths:?}");
        assert_eq!(lengths[0].figures[0].value, Some(0.0));
        assert_eq!(lengths[lengths.len() - 1].figures[0].value, Some(1.0));
    }

    #[test]
    fn many_values_share_a_slice() {
        let mut slices = Slices::default();
        for i in 0..60 {
            note(&mut slices, &format!("s{i:02}"), 5, true);
        }
        let found = slices.finish();
        let others = found.iter().find(|it| it.value == "(other values)").unwrap();
        assert_eq!(others.n, 20);
        // One length: one slice.
        assert_eq!(found.iter().filter(|it| it.column == LENGTH).count(), 1);
        assert!(Slices::<Confusion>::default().finish().is_empty());
    }
}
