//! What the result was trained on, in TRL's columns: rows of one shape are a table of its own, as readers
//! want the same type in each row of a column.

use serde_json::{Map, Value};

use crate::record::{Finish, Message};
use crate::round::rows::{Column, Lesson, Steered, Trained};

/// Rows with the same columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Of its files, without an ending: `train`, or `train-1` and so on where there are several.
    pub name: String,
    /// In the order in which they were trained on, before they were shuffled.
    pub rows: Vec<Row>,
}

/// The cells of a row under their columns' names. `difficulty` alone may be absent from some rows of a table.
pub type Row = Vec<(&'static str, Cell)>;

/// What stands in a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A string.
    Text(String),
    /// A list of messages, each with `role` and `content`.
    Messages(Vec<Message>),
    /// At least 0.
    Integer(u32),
    /// Finite.
    Number(f64),
}

/// Returns the tables of rows, those of the first row first.
pub fn tables(rows: &[Trained]) -> Vec<Table> {
    let mut tables: Vec<(Vec<(&str, bool)>, Table)> = Vec::new();
    for row in rows.iter().map(cells) {
        let shape = shape(&row);
        match tables.iter_mut().find(|(known, _)| *known == shape) {
            Some((_, table)) => table.rows.push(row),
            None => tables.push((shape, Table { name: "train".into(), rows: vec![row] })),
        }
    }
    let mut tables: Vec<Table> = tables.into_iter().map(|(_, table)| table).collect();
    if tables.len() > 1 {
        for (number, table) in (1..).zip(&mut tables) {
            table.name = format!("train-{number}");
        }
    }
    tables
}

/// Returns a row's columns, and of which of them are messages.
fn shape(row: &Row) -> Vec<(&'static str, bool)> {
    let columns = row.iter().filter(|(name, _)| *name != DIFFICULTY);
    columns.map(|(name, cell)| (*name, matches!(cell, Cell::Messages(_)))).collect()
}

const DIFFICULTY: &str = "difficulty";

fn cells(row: &Trained) -> Row {
    let text = |column: &Column| match column {
        Column::Text(text) => Cell::Text(text.clone()),
        Column::Messages(messages) => Cell::Messages(messages.clone()),
    };
    let mut cells = vec![("prompt", text(&row.prompt))];
    match &row.lesson {
        Lesson::Completion { completion, finish } => {
            cells.push(("completion", text(completion)));
            cells.push(("finish", ending(*finish)));
        }
        Lesson::Preference { chosen, chosen_finish, rejected, rejected_finish, steered } => {
            cells.extend([("chosen", text(chosen)), ("rejected", text(rejected))]);
            cells.push(("chosen_finish", ending(*chosen_finish)));
            cells.push(("rejected_finish", ending(*rejected_finish)));
            if let Some(Steered { good_prompt, bad_prompt, plain, plain_finish }) = steered {
                cells.push(("good_prompt", text(good_prompt)));
                cells.push(("bad_prompt", text(bad_prompt)));
                cells.push(("plain", text(plain)));
                cells.push(("plain_finish", ending(*plain_finish)));
            }
        }
    }
    cells.push(("record_id", Cell::Text(row.record_id.clone())));
    cells.push(("round", Cell::Integer(row.round)));
    cells.extend(row.difficulty.map(|score| (DIFFICULTY, Cell::Number(score))));
    cells
}

fn ending(finish: Finish) -> Cell {
    let name = match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    Cell::Text(name.into())
}

impl Table {
    /// Returns the columns in order, each with a cell of it.
    pub fn columns(&self) -> Vec<(&'static str, &Cell)> {
        let mut columns: Vec<(&'static str, &Cell)> = Vec::new();
        for (name, cell) in self.rows.iter().flatten() {
            if !columns.iter().any(|(known, _)| known == name) {
                columns.push((name, cell));
            }
        }
        columns
    }

    /// Returns the cells of a column, one for each row.
    pub fn column(&self, name: &str) -> impl Iterator<Item = Option<&Cell>> {
        let of = move |row: &Row| row.iter().position(|(column, _)| *column == name);
        self.rows.iter().map(move |row| of(row).map(|at| &row[at].1))
    }

    /// Returns the rows as JSON, one a line.
    pub fn jsonl(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for row in &self.rows {
            let row: Map<String, Value> =
                row.iter().map(|(name, cell)| ((*name).to_owned(), cell.json())).collect();
            text.extend(Value::from(row).to_string().into_bytes());
            text.push(b'\n');
        }
        text
    }
}

impl Cell {
    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => text.as_str().into(),
            Cell::Messages(messages) => {
                serde_json::to_value(messages).expect("our own types serialise")
            }
            Cell::Integer(number) => (*number).into(),
            Cell::Number(number) => (*number).into(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Rows of both shapes, and of both kinds of prompts.
    pub fn rows() -> Vec<Trained> {
        let lines = [
            r#"{"record_id":"a","round":1,"prompt":[{"role":"user","content":"Who?"}],"completion":[{"role":"assistant","content":"Ännchen"}],"finish":"stop","difficulty":1.5}"#,
            r#"{"record_id":"b","round":2,"prompt":[{"role":"system","content":"Be kind."},{"role":"user","content":"Why?"}],"completion":[{"role":"assistant","content":"So."}],"finish":"length"}"#,
            r#"{"record_id":"c","round":2,"prompt":"Once","completion":" upon","finish":"length"}"#,
            r#"{"record_id":"d","round":3,"prompt":"Once","chosen":" upon","chosen_finish":"stop","rejected":"","rejected_finish":"length"}"#,
        ];
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn rows_of_one_shape_are_a_table() {
        let rows = rows();
        let [only] = &tables(&rows[..2])[..] else { panic!() };
        assert_eq!(only.name, "train");
        let lines = String::from_utf8(only.jsonl()).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"prompt":[{"role":"user","content":"Who?"}],"completion":[{"role":"assistant","content":"Ännchen"}],"finish":"stop","record_id":"a","round":1,"difficulty":1.5}"#
        );
        assert!(lines[1].ends_with(r#""record_id":"b","round":2}"#), "{}", lines[1]);
        assert_eq!(
            only.columns().iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["prompt", "completion", "finish", "record_id", "round", "difficulty"]
        );
        assert_eq!(only.column("difficulty").collect::<Vec<_>>(), [Some(&Cell::Number(1.5)), None]);

        let tables = tables(&rows);
        let found: Vec<(&str, usize)> =
            tables.iter().map(|table| (table.name.as_str(), table.rows.len())).collect();
        assert_eq!(found, [("train-1", 2), ("train-2", 1), ("train-3", 1)]);
        let pair = String::from_utf8(tables[2].jsonl()).unwrap();
        assert!(
            pair.contains(r#""chosen":" upon","rejected":"","chosen_finish":"stop""#),
            "{pair}"
        );
        assert_eq!(super::tables(&[]), []);
    }
}
