//! Completions and pairs whose worth is known, read in chunks: a file may be larger than the memory.
//!
//! JSONL, or one JSON list of objects, as they are or under gzip (`.gz`). Rows of known collections are
//! read as they are (`known`).

pub(super) mod known;
pub(super) mod objects;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{
    DataError, RowProblem, filled_text, messages, present, prompt_text, split_answer, text,
    wrong_type,
};
use crate::record::{Finish, Message, Speaker, Text};
use objects::Objects;

/// Columns that are slices where nothing else is asked for.
const SLICES: [&str; 4] = ["source", "subset", "category", "language"];

/// What the columns of a file are called, and how they are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    /// The column of `prompt`, `completion`, `label`, `score`, `chosen` or `rejected`, where it is called
    /// otherwise.
    pub names: BTreeMap<String, String>,
    /// A completion whose score is this or more is good.
    pub threshold: f64,
    /// By which rows are told apart; empty: `source`, `subset`, `category` and `language`, where they are
    /// there.
    pub slices: Vec<String>,
}

impl Default for Columns {
    fn default() -> Columns {
        Columns { names: BTreeMap::new(), threshold: 0.5, slices: Vec::new() }
    }
}

/// The names that `Columns::names` may hold.
pub const ROLES: [&str; 6] = ["prompt", "completion", "label", "score", "chosen", "rejected"];

/// A completion that is known to be good or bad.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// From 1.
    pub line: usize,
    /// What is asked.
    pub prompt: Text,
    /// May be empty.
    pub completion: String,
    /// From `finish` (`stop` or `length`); `stop` where there is none.
    pub finish: Finish,
    /// Whether it should be kept.
    pub good: bool,
    /// The number in the column of scores, where there is one.
    pub score: Option<f64>,
    /// Columns by which rows are told apart, with their values.
    pub slices: Vec<(String, String)>,
}

/// Completions of one prompt of which some are known to be better than the others: most often one and one.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPair {
    /// From 1.
    pub line: usize,
    /// What is asked.
    pub prompt: Text,
    /// The better ones: at least one; a text may be empty.
    pub chosen: Vec<String>,
    /// The worse ones: at least one; a text may be empty.
    pub rejected: Vec<String>,
    /// Columns by which rows are told apart, with their values.
    pub slices: Vec<(String, String)>,
}

/// A row of labelled data.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelledRow {
    /// With `label` or `score`.
    Completion(Labelled),
    /// With `chosen` and `rejected`, or as a known collection has them.
    Pair(LabelledPair),
    /// A pair of which people say that neither is better.
    Undecided,
}

/// The rows of a chunk: a file has either.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelledRows {
    /// Completions.
    Completions(Vec<Labelled>),
    /// Pairs.
    Pairs(Vec<LabelledPair>),
}

/// A file of labelled data that is being read.
pub struct LabelledFile {
    name: String,
    columns: Columns,
    objects: Objects,
    /// Whether its rows are pairs, once one has told.
    pairs: Option<bool>,
    undecided: u64,
}

impl LabelledFile {
    /// Opens a file.
    pub fn open(path: &Path, columns: Columns) -> Result<LabelledFile, DataError> {
        let name = path.display().to_string();
        let objects = Objects::open(path, &name)?;
        Ok(LabelledFile { name, columns, objects, pairs: None, undecided: 0 })
    }

    /// Returns how many pairs were left out so far because neither completion is better.
    pub fn undecided(&self) -> u64 {
        self.undecided
    }

    /// Returns how many bytes of the file were read so far, as they lie on the disk: a little more than
    /// the rows that came out of them.
    pub fn bytes_read(&self) -> u64 {
        self.objects.bytes_read()
    }

    /// Reads up to `rows` more rows, or fewer where they are long; `None` at the end. A file without a row
    /// is an error, and so is a row that cannot be read, with its line.
    pub fn chunk(&mut self, rows: usize) -> Result<Option<LabelledRows>, DataError> {
        loop {
            let raw = self.objects.take(rows)?;
            if raw.is_empty() {
                return match self.pairs {
                    None if self.undecided == 0 => {
                        Err(DataError::Empty { name: self.name.clone() })
                    }
                    _ => Ok(None),
                };
            }
            let columns = &self.columns;
            let parsed: Vec<Result<LabelledRow, RowProblem>> =
                raw.par_iter().map(|(line, bytes)| read(bytes, *line, columns)).collect();
            let (mut completions, mut pairs) = (Vec::new(), Vec::new());
            for ((line, _), row) in raw.iter().zip(parsed) {
                let problem =
                    |problem| DataError::Row { name: self.name.clone(), line: *line, problem };
                let row = row.map_err(problem)?;
                let is_pair = match &row {
                    LabelledRow::Undecided => {
                        self.undecided += 1;
                        continue;
                    }
                    row => matches!(row, LabelledRow::Pair(_)),
                };
                if *self.pairs.get_or_insert(is_pair) != is_pair {
                    return Err(problem(RowProblem::Wrong(MIXED.to_owned())));
                }
                match row {
                    LabelledRow::Completion(row) => completions.push(row),
                    LabelledRow::Pair(row) => pairs.push(row),
                    LabelledRow::Undecided => {}
                }
            }
            match (completions.is_empty(), pairs.is_empty()) {
                (false, _) => return Ok(Some(LabelledRows::Completions(completions))),
                (_, false) => return Ok(Some(LabelledRows::Pairs(pairs))),
                _ => {}
            }
        }
    }
}

const MIXED: &str = "a file holds either labelled completions or pairs, and this row is the other";

impl Columns {
    fn name<'a>(&'a self, role: &'a str) -> &'a str {
        self.names.get(role).map_or(role, String::as_str)
    }

    fn get<'a>(&self, row: &'a Map<String, Value>, role: &str) -> Option<&'a Value> {
        row.get(self.name(role)).filter(|value| !value.is_null())
    }

    /// Returns the column of a role, where the user said what it is called: it has to be there.
    fn get_named<'a>(
        &self,
        row: &'a Map<String, Value>,
        role: &'static str,
    ) -> Result<Option<&'a Value>, RowProblem> {
        match (self.get(row, role), self.names.contains_key(role)) {
            (None, true) => Err(self.missing(role)),
            (value, _) => Ok(value),
        }
    }

    /// Says that a row lacks the column of a role, by the name that the user gave it.
    fn missing(&self, role: &'static str) -> RowProblem {
        match self.names.get(role) {
            Some(name) => {
                RowProblem::Wrong(format!("the row has no `{name}`, which should be its {role}"))
            }
            None => RowProblem::Missing(role),
        }
    }
}

/// Reads a row.
fn read(bytes: &[u8], line: usize, columns: &Columns) -> Result<LabelledRow, RowProblem> {
    let row = super::row(bytes, line == 1)?.ok_or(RowProblem::NotAnObject)?;
    let slices = slices(&row, columns);
    if columns.names.is_empty()
        && let Some(known) = known::read(&row)?
    {
        return Ok(match known.chosen_and_rejected {
            None => LabelledRow::Undecided,
            Some((chosen, rejected)) => LabelledRow::Pair(LabelledPair {
                line,
                prompt: known.prompt,
                chosen: vec![chosen],
                rejected: vec![rejected],
                slices,
            }),
        });
    }
    match (columns.get_named(&row, "chosen")?, columns.get_named(&row, "rejected")?) {
        (Some(chosen), Some(rejected)) => {
            let (prompt, chosen, rejected) = pair(&row, columns, chosen, rejected)?;
            Ok(LabelledRow::Pair(LabelledPair { line, prompt, chosen, rejected, slices }))
        }
        (Some(_), None) | (None, Some(_)) => Err(RowProblem::Wrong(
            "the row has one of `chosen` and `rejected` without the other".to_owned(),
        )),
        (None, None) => {
            let good = good(&row, columns)?;
            let (prompt, completion) = completion(&row, columns)?;
            let finish = match row.get("finish") {
                None | Some(Value::Null) => Finish::Stop,
                Some(Value::String(finish)) if finish == "stop" => Finish::Stop,
                Some(Value::String(finish)) if finish == "length" => Finish::Length,
                Some(_) => return Err(wrong_type("finish", "`stop` or `length`")),
            };
            let score = columns.get_named(&row, "score")?.and_then(Value::as_f64);
            let row = Labelled { line, prompt, completion, finish, good, score, slices };
            Ok(LabelledRow::Completion(row))
        }
    }
}

/// Returns the prompt, from the column that it is said to be in, or from where prompts are found.
fn prompt(row: &Map<String, Value>, columns: &Columns) -> Result<Text, RowProblem> {
    let Some(name) = columns.names.get("prompt") else { return prompt_text(row) };
    match row.get(name) {
        None | Some(Value::Null) => Err(columns.missing("prompt")),
        Some(Value::Array(items)) => {
            let messages = messages(items, name)?;
            match messages.last().map(|message| message.speaker) {
                Some(Speaker::User) => Ok(Text::Chat(messages)),
                last => Err(RowProblem::LastNotUser(last.unwrap_or(Speaker::System))),
            }
        }
        Some(value) => Ok(Text::user(filled_text(value, name)?)),
    }
}

pub(super) fn completion(
    row: &Map<String, Value>,
    columns: &Columns,
) -> Result<(Text, String), RowProblem> {
    let found = match columns.names.get("completion") {
        Some(_) => columns.get_named(row, "completion")?,
        None => ["completion", "response", "answer", "output"]
            .into_iter()
            .find_map(|name| row.get(name).filter(|value| !value.is_null())),
    };
    match (found, row.get("messages")) {
        (Some(value), _) => Ok((prompt(row, columns)?, words(value, columns.name("completion"))?)),
        (None, Some(Value::Array(items))) => split_answer(messages(items, "messages")?),
        (None, _) => Err(RowProblem::Missing("completion")),
    }
}

/// Returns prompt, chosen and rejected completions.
fn pair(
    row: &Map<String, Value>,
    columns: &Columns,
    chosen: &Value,
    rejected: &Value,
) -> Result<(Text, Vec<String>, Vec<String>), RowProblem> {
    let has_prompt = columns.names.contains_key("prompt")
        || ["prompt", "instruction", "question", "query"].into_iter().any(|it| present(row, it));
    if has_prompt {
        let prompt = prompt(row, columns)?;
        let [better, worse] = ["chosen", "rejected"].map(|role| columns.name(role));
        return Ok((prompt, several(chosen, better)?, several(rejected, worse)?));
    }
    let (Value::Array(chosen), Value::Array(rejected)) = (chosen, rejected) else {
        return Err(RowProblem::NoPrompt);
    };
    let (prompt, chosen) = split_answer(messages(chosen, columns.name("chosen"))?)?;
    let (same, rejected) = split_answer(messages(rejected, columns.name("rejected"))?)?;
    if prompt != same {
        return Err(RowProblem::Apart);
    }
    Ok((prompt, vec![chosen], vec![rejected]))
}

/// Returns the words of a completion, or of each in a list of texts.
fn several(value: &Value, column: &str) -> Result<Vec<String>, RowProblem> {
    match value {
        Value::Array(items) if items.first().is_some_and(Value::is_string) => {
            items.iter().map(|item| text(item, column, "a text").map(str::to_owned)).collect()
        }
        value => Ok(vec![words(value, column)?]),
    }
}

/// Returns the words of a completion: a text, which may be empty, or a conversation of which the last
/// message is the assistant's.
fn words(value: &Value, column: &str) -> Result<String, RowProblem> {
    match value {
        Value::Array(items) => match messages(items, column)?.pop() {
            Some(Message { speaker: Speaker::Assistant, content }) => Ok(content),
            last => {
                let speaker = last.map_or(Speaker::System, |message| message.speaker);
                Err(RowProblem::LastNotAssistant(speaker))
            }
        },
        value => text(value, column, "a text").map(str::to_owned),
    }
}

/// Returns whether a completion is good.
fn good(row: &Map<String, Value>, columns: &Columns) -> Result<bool, RowProblem> {
    if let Some(label) = columns.get_named(row, "label")? {
        let word = match label {
            Value::Bool(good) => return Ok(*good),
            Value::Number(number) => number.to_string(),
            Value::String(word) => word.trim().to_lowercase(),
            _ => String::new(),
        };
        return match word.as_str() {
            "1" | "1.0" | "good" | "keep" | "true" | "yes" => Ok(true),
            "0" | "0.0" | "bad" | "drop" | "false" | "no" => Ok(false),
            _ => Err(wrong_type(
                columns.name("label"),
                "true or false, 1 or 0, `good` or `bad`, or `keep` or `drop`; other numbers are a `score`",
            )),
        };
    }
    match columns.get_named(row, "score")? {
        None => Err(columns.missing("label")),
        Some(score) => match score.as_f64() {
            Some(score) => Ok(score >= columns.threshold),
            None => Err(wrong_type(columns.name("score"), "a number")),
        },
    }
}

fn slices(row: &Map<String, Value>, columns: &Columns) -> Vec<(String, String)> {
    let one = |name: &str| {
        let value = match row.get(name)? {
            Value::String(value) => value.chars().take(60).collect(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            _ => return None,
        };
        Some((name.to_owned(), value))
    };
    match columns.slices.is_empty() {
        true => SLICES.into_iter().filter_map(one).collect(),
        false => columns.slices.iter().filter_map(|name| one(name)).collect(),
    }
}

#[cfg(test)]
mod tests;
