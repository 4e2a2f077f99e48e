//! Columns of text that line up.

use unicode_width::UnicodeWidthStr;

pub(super) use crate::shown::printable;

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table with one line of headings, and one over it where columns belong to a group.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Vec<(String, String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new() -> Table {
        Table::default()
    }

    /// Adds a column under a group, which may be empty.
    pub fn column(&mut self, heading: &str, group: &str, align: Align) {
        self.columns.push((printable(heading), group.to_owned(), align));
    }

    /// Adds a row; cells that are missing at its end are empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Returns headings and rows as cells, the headings first.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let headings = self.columns.iter().map(|(heading, ..)| heading.clone()).collect();
        [vec![headings], self.rows.clone()].concat()
    }

    /// Returns the columns that are shown: beyond the fourth, those without a single cell are left out.
    fn filled(&self) -> Vec<usize> {
        let cell = |row: &[String], column: usize| row.get(column).is_some_and(|it| !it.is_empty());
        let filled = |column: usize| self.rows.iter().any(|row| cell(row, column));
        (0..self.columns.len()).filter(|&column| column < 4 || filled(column)).collect()
    }

    /// Returns headings, with their groups on a line before them, and rows as cells, the headings first; the
    /// same columns as [`render`](Table::render) shows.
    pub fn shown(&self) -> Vec<Vec<String>> {
        let shown = self.filled();
        let heading = |&column: &usize| {
            let (heading, group, _) = &self.columns[column];
            format!("{group}\n{heading}").trim().to_owned()
        };
        let cells = |row: &Vec<String>| {
            shown.iter().map(|&column| row.get(column).cloned().unwrap_or_default()).collect()
        };
        let headings = vec![shown.iter().map(heading).collect()];
        headings.into_iter().chain(self.rows.iter().map(cells)).collect()
    }

    /// Returns the table, each line ending in a newline and none in a space. Beyond the fourth, columns
    /// without a single cell are left out.
    pub fn render(&self) -> String {
        let cell = |row: &'_ [String], column: usize| row.get(column).cloned().unwrap_or_default();
        let shown = self.filled();
        let width = |column: usize| {
            let (heading, group, _) = &self.columns[column];
            let cells = self.rows.iter().map(|row| cell(row, column).width()).max().unwrap_or(0);
            cells.max(heading.width()).max(group.width())
        };
        let line = |text: &dyn Fn(usize) -> String| {
            let cells = shown.iter().map(|&column| {
                let text = text(column);
                let room = " ".repeat(width(column).saturating_sub(text.width()));
                match self.columns[column].2 {
                    Align::Left => text + &room,
                    Align::Right => room + &text,
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        let mut text = String::new();
        if shown.iter().any(|&column| !self.columns[column].1.is_empty()) {
            text.push_str(&line(&|column| self.columns[column].1.clone()));
        }
        text.push_str(&line(&|column| self.columns[column].0.clone()));
        for row in &self.rows {
            text.push_str(&line(&|column| cell(row, column)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new();
        table.column("a", "", Align::Left);
        table.column("b", "", Align::Right);
        table.row(vec!["日本".into(), "1".into()]);
        table.row(vec!["x".into(), "22".into()]);
        table.row(vec!["x\n".into()]);
        assert_eq!(table.render(), "a      b\n日本   1\nx     22\nx\u{fffd}\n");
    }
}
