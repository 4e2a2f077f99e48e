//! Prompts, held-out prompts and rows to score, from JSONL.
//!
//! One JSON object a line. Rows that other tools write are read as they are: columns that are not
//! known here are left alone. A file with one bad row is refused with that row's line, before any
//! model loads, because a run over most of a file is not the run that was asked for.

mod csv;
mod error;
mod labelled;
mod pairs;
mod records;

pub use error::{DataError, RowProblem};
pub use labelled::{
    Columns, Labelled, LabelledFile, LabelledPair, LabelledRow, LabelledRows,
    ROLES as LABELLED_ROLES,
};
pub use pairs::{GivenPair, GivenSteered, read_pairs};
pub use records::{RecordFile, RecordRow, Upto};

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use serde_json::{Map, Value};

use crate::{
    file, pack,
    plugin_set::Source,
    record::{Message, Prompt, Speaker, Text},
};

/// The longest line that is read, in bytes.
pub const LONGEST_LINE: usize = 16 << 20;
/// The most values that a line may have: numbers, texts, lists and objects. Each takes a hundred bytes of memory
/// or so, and two in the file.
pub const MOST_VALUES: usize = 200_000;

/// The prompts of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    /// In the order of the file; texts and ids are unique.
    pub prompts: Vec<Prompt>,
    /// How many rows were left out because an earlier one has the same text.
    pub duplicates: usize,
}

/// A prompt whose right answer is known.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// What is asked.
    pub prompt: Prompt,
    /// The trusted answer; not empty.
    pub answer: String,
}

/// A completion whose logprob is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRow {
    /// From the row, or made from its line.
    pub id: String,
    /// What comes before: raw text, or a conversation that ends with the user.
    pub prompt: Text,
    /// What is scored: text as it stands, or the assistant's message; not empty.
    pub completion: String,
}

/// Reads a prompt pool. `builtin` gives the text of embedded data by name.
///
/// A row has an `id` (text or integer; absent: `line-N`), `tags` (a list of texts), and one of `prompt`
/// (text or messages), `messages`, `instruction` with perhaps `input`, `question` and `query`, of which
/// the first present counts. Rows whose text stood before are left out and counted.
pub fn read_prompts<'a>(
    source: &Source,
    builtin: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Prompts, DataError> {
    let mut seen = Seen::default();
    let mut prompts = Vec::new();
    let mut duplicates = 0;
    rows(source, builtin, |line, row| {
        let prompt = prompt(row, line)?;
        match seen.is_new(&prompt, line)? {
            true => prompts.push(prompt),
            false => duplicates += 1,
        }
        Ok(())
    })?;
    Ok(Prompts { prompts, duplicates })
}

/// Reads held-out prompts: rows as [`read_prompts`] reads them, with the trusted answer in `answer`,
/// `completion` or `output`. A prompt that stood before is left out.
pub fn read_held_out<'a>(
    source: &Source,
    builtin: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Vec<HeldOut>, DataError> {
    let mut seen = Seen::default();
    let mut held_out = Vec::new();
    rows(source, builtin, |line, row| {
        let column = ["answer", "completion", "output"].into_iter().find(|key| present(row, key));
        let column = column.ok_or(RowProblem::Missing("answer"))?;
        let answer = filled_text(&row[column], column)?.to_owned();
        let prompt = prompt(row, line)?;
        if seen.is_new(&prompt, line)? {
            held_out.push(HeldOut { prompt, answer });
        }
        Ok(())
    })?;
    Ok(held_out)
}

/// Reads rows to score: `prompt` and `completion` as raw text, or both as messages, or `messages` of
/// which the last is the assistant's. One for each row of the file, repeated ones too.
pub fn read_score_rows(source: &Source) -> Result<Vec<ScoreRow>, DataError> {
    let mut scored = Vec::new();
    rows(source, &|_| None, |line, row| {
        let (prompt, completion) = match (row.get("prompt"), row.get("messages")) {
            (Some(Value::Array(prompt)), _) => {
                let mut messages = messages(prompt, "prompt")?;
                match row.get("completion").ok_or(RowProblem::Missing("completion"))? {
                    Value::Array(items) => messages.extend(self::messages(items, "completion")?),
                    other => messages.push(Message {
                        speaker: Speaker::Assistant,
                        content: filled_text(other, "completion")?.to_owned(),
                    }),
                }
                split_answer(messages)?
            }
            (Some(prompt), _) => {
                let prompt = text(prompt, "prompt", "a text or a list of messages")?;
                let completion = row.get("completion").ok_or(RowProblem::Missing("completion"))?;
                let completion = text(completion, "completion", "a text")?;
                if completion.is_empty() {
                    return Err(RowProblem::Empty("completion".to_owned()));
                }
                (Text::Raw(prompt.to_owned()), completion.to_owned())
            }
            (None, Some(Value::Array(items))) => split_answer(messages(items, "messages")?)?,
            (None, Some(_)) => return Err(wrong_type("messages", "a list of messages")),
            (None, None) => return Err(RowProblem::NoPrompt),
        };
        scored.push(ScoreRow { id: id(row, line)?, prompt, completion });
        Ok(())
    })?;
    Ok(scored)
}

/// What stood in earlier rows.
#[derive(Default)]
struct Seen {
    texts: HashSet<Text>,
    ids: std::collections::HashMap<String, usize>,
}

impl Seen {
    /// Returns whether the text is new; fails where it is and its id is not.
    fn is_new(&mut self, prompt: &Prompt, line: usize) -> Result<bool, RowProblem> {
        if !self.texts.insert(prompt.text.clone()) {
            return Ok(false);
        }
        match self.ids.insert(prompt.id.clone(), line) {
            None => Ok(true),
            Some(first) => Err(RowProblem::DuplicateId { id: prompt.id.clone(), first }),
        }
    }
}

/// Gives each row of a file to `each`, with its line: JSON objects of JSONL, or records of CSV under the
/// names of its first line, as texts.
pub(crate) fn file_rows(
    path: &Path,
    each: impl FnMut(usize, &Map<String, Value>) -> Result<(), RowProblem>,
) -> Result<(), DataError> {
    let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    match is_csv {
        true => csv::rows(path, each),
        false => rows(&Source::File(path.to_owned()), &|_| None, each),
    }
}

fn rows<'a>(
    source: &Source,
    builtin: &dyn Fn(&str) -> Option<&'a str>,
    each: impl FnMut(usize, &Map<String, Value>) -> Result<(), RowProblem>,
) -> Result<(), DataError> {
    let name = source.to_string();
    match source {
        Source::Builtin(short) => {
            let text = builtin(short).ok_or(DataError::NoBuiltin { name: short.clone() })?;
            rows_of(&name, text.as_bytes(), each)
        }
        Source::Packed { pack, name: file } => match pack::read(pack, file) {
            Ok(bytes) => rows_of(&name, &bytes[..], each),
            Err(error) => Err(DataError::Read { name, error: error.into() }),
        },
        Source::File(path) => rows_of(&name, BufReader::new(open(path, &name)?), each),
        Source::Url(_) | Source::Oci(_) => Err(DataError::Remote { name }),
    }
}

/// Opens a data file. A named pipe, which may stay without a writer for ever, is refused; one that a shell
/// makes (`<(…)`) has no name, and a writer.
fn open(path: &Path, name: &str) -> Result<File, DataError> {
    let failed = |error| DataError::Read { name: name.to_owned(), error };
    if path.metadata().map_err(failed)?.is_dir() {
        return Err(DataError::Folder { name: name.to_owned() });
    }
    if file::is_named_pipe(path) {
        return Err(DataError::Pipe { name: name.to_owned() });
    }
    File::open(path).map_err(failed)
}

fn rows_of(
    name: &str,
    mut reader: impl BufRead,
    mut each: impl FnMut(usize, &Map<String, Value>) -> Result<(), RowProblem>,
) -> Result<(), DataError> {
    let mut buffer = Vec::new();
    let mut any = false;
    for line in 1.. {
        buffer.clear();
        let mut bounded = io::Read::take(&mut reader, LONGEST_LINE as u64 + 1);
        let read = bounded
            .read_until(b'\n', &mut buffer)
            .map_err(|error| DataError::Read { name: name.to_owned(), error })?;
        if read == 0 {
            break;
        }
        match row(&buffer, line == 1) {
            Ok(None) => continue,
            Ok(Some(row)) => each(line, &row),
            Err(problem) => Err(problem),
        }
        .map_err(|problem| DataError::Row { name: name.to_owned(), line, problem })?;
        any = true;
    }
    if any { Ok(()) } else { Err(DataError::Empty { name: name.to_owned() }) }
}

/// Returns the row in a line; `None` where it is blank.
fn row(line: &[u8], first: bool) -> Result<Option<Map<String, Value>>, RowProblem> {
    if line.len() > LONGEST_LINE {
        return Err(RowProblem::TooLong);
    }
    let line = std::str::from_utf8(line).map_err(|_| RowProblem::NotUtf8)?;
    let line = if first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > MOST_VALUES && values(line) > MOST_VALUES {
        return Err(RowProblem::TooMany);
    }
    match serde_json::from_str(line) {
        Ok(Value::Object(row)) => Ok(Some(row)),
        Ok(_) => Err(RowProblem::NotAnObject),
        Err(error) => {
            // The parser counts lines in a text of one line.
            let message = error.to_string().replace(" at line 1 column ", " at column ");
            Err(RowProblem::NotJson(message))
        }
    }
}

/// Returns about how many values a line of JSON has: one more for each comma and bracket outside of texts.
fn values(line: &str) -> usize {
    let (mut values, mut in_text, mut escaped) = (0, false, false);
    for byte in line.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

fn prompt(row: &Map<String, Value>, line: usize) -> Result<Prompt, RowProblem> {
    let text = prompt_text(row)?;
    Ok(Prompt { id: id(row, line)?, text, tags: tags(row)? })
}

/// Returns what is asked, from the first column that holds a prompt.
fn prompt_text(row: &Map<String, Value>) -> Result<Text, RowProblem> {
    let columns = ["prompt", "messages", "instruction", "question", "query"];
    let column = columns.into_iter().find(|key| present(row, key)).ok_or(RowProblem::NoPrompt)?;
    Ok(match (&row[column], column) {
        (Value::Array(items), "prompt" | "messages") => {
            let messages = messages(items, column)?;
            let last = messages.last().map_or(Speaker::System, |message| message.speaker);
            if last != Speaker::User {
                return Err(RowProblem::LastNotUser(last));
            }
            Text::Chat(messages)
        }
        (_, "messages") => return Err(wrong_type(column, "a list of messages")),
        (value, "instruction") => {
            let instruction = filled_text(value, column)?;
            match row.get("input").filter(|input| !input.is_null()) {
                None => Text::user(instruction),
                Some(input) => match text(input, "input", "a text")? {
                    input if input.trim().is_empty() => Text::user(instruction),
                    input => Text::user(format!("{instruction}\n{input}")),
                },
            }
        }
        (value, "prompt") => {
            text(value, column, "a text or a list of messages")?;
            Text::user(filled_text(value, column)?)
        }
        (value, _) => Text::user(filled_text(value, column)?),
    })
}

pub(crate) fn id(row: &Map<String, Value>, line: usize) -> Result<String, RowProblem> {
    let id = match row.get("id") {
        None | Some(Value::Null) => return Ok(format!("line-{line}")),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) if id.is_u64() || id.is_i64() => id.to_string(),
        Some(_) => return Err(wrong_type("id", "a text or an integer")),
    };
    check_id(&id)?;
    Ok(id)
}

fn check_id(id: &str) -> Result<(), RowProblem> {
    if id.trim().is_empty() {
        return Err(RowProblem::Empty("id".to_owned()));
    }
    match id.len() > 200 || id.contains(char::is_control) {
        true => Err(RowProblem::Id),
        false => Ok(()),
    }
}

fn tags(row: &Map<String, Value>) -> Result<Vec<String>, RowProblem> {
    let wrong = || wrong_type("tags", "a list of texts");
    match row.get("tags") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(tags)) => {
            tags.iter().map(|tag| tag.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn messages(items: &[Value], column: &str) -> Result<Vec<Message>, RowProblem> {
    if items.is_empty() {
        return Err(RowProblem::Empty(column.to_owned()));
    }
    let message = |(index, item): (usize, &Value)| {
        let column = format!("{column}[{index}]");
        let (Some(role), Some(content)) = (item.get("role"), item.get("content")) else {
            return Err(wrong_type(&column, "an object with `role` and `content`"));
        };
        let role = text(role, &format!("{column}.role"), "a text")?;
        let content = text(content, &format!("{column}.content"), "a text")?;
        let speaker = match role {
            "system" => Speaker::System,
            "user" => Speaker::User,
            "assistant" => Speaker::Assistant,
            role => return Err(RowProblem::Role { column, role: role.to_owned() }),
        };
        if content.trim().is_empty() {
            return Err(RowProblem::Empty(format!("{column}.content")));
        }
        Ok(Message { speaker, content: content.to_owned() })
    };
    items.iter().enumerate().map(message).collect()
}

/// Takes the assistant's last message off a conversation.
fn split_answer(mut messages: Vec<Message>) -> Result<(Text, String), RowProblem> {
    let last = messages.pop().ok_or(RowProblem::NoPrompt)?;
    if last.speaker != Speaker::Assistant {
        return Err(RowProblem::LastNotAssistant(last.speaker));
    }
    match messages.last() {
        None => Err(RowProblem::NoPrompt),
        Some(before) if before.speaker != Speaker::User => {
            Err(RowProblem::LastNotUser(before.speaker))
        }
        Some(_) => Ok((Text::Chat(messages), last.content)),
    }
}

/// Columns that other tools fill with null are absent.
pub(crate) fn present(row: &Map<String, Value>, key: &str) -> bool {
    row.get(key).is_some_and(|value| !value.is_null())
}

pub(crate) fn text<'a>(
    value: &'a Value,
    column: &str,
    expected: &'static str,
) -> Result<&'a str, RowProblem> {
    value.as_str().ok_or_else(|| wrong_type(column, expected))
}

pub(crate) fn filled_text<'a>(value: &'a Value, column: &str) -> Result<&'a str, RowProblem> {
    match text(value, column, "a text")? {
        text if text.trim().is_empty() => Err(RowProblem::Empty(column.to_owned())),
        text => Ok(text),
    }
}

pub(crate) fn wrong_type(column: &str, expected: &'static str) -> RowProblem {
    RowProblem::Type { column: column.to_owned(), expected }
}

#[cfg(test)]
mod tests;
