//! Prompts, held-out prompts and rows to score, from JSONL.
//!
//! One JSON object a line. Rows that other tools write are read as they are: columns that are not
//! known here are left alone. A file with one bad row is refused with that row's line, before any
//! model loads, because a run over most of a file is not the run that was asked for.

mod pairs;

pub use pairs::{GivenPair, GivenSteered, read_pairs};

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader},
};

use serde_json::{Map, Value};

use crate::{
    plugin_set::Source,
    record::{Message, Prompt, Speaker, Text},
};

/// The longest line that is read, in bytes.
pub const LONGEST_LINE: usize = 16 << 20;

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

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("cannot read data file `{name}`: {error}")]
    Read {
        /// The file.
        name: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// A folder was given.
    #[error("data file `{name}` is a folder")]
    Folder {
        /// The folder.
        name: String,
    },
    /// No embedded file has the name.
    #[error("no embedded data is called `{name}`")]
    NoBuiltin {
        /// Without `builtin:`.
        name: String,
    },
    /// The file has no row.
    #[error("data file `{name}` holds no row")]
    Empty {
        /// The file.
        name: String,
    },
    /// A row is wrong.
    #[error("{problem}\n  --> {name}:{line}")]
    Row {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: RowProblem,
    },
}

impl DataError {
    /// Returns the way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        let DataError::Row { problem, .. } = self else { return None };
        let hint = match problem {
            RowProblem::NoPrompt => {
                "a row has `prompt` or `messages`, for example {\"id\": \"p-1\", \"prompt\": \"…\"}"
            }
            RowProblem::NotAnObject | RowProblem::NotJson(_) => {
                "write one JSON object a line (JSONL), without a list around them"
            }
            RowProblem::NotUtf8 => "save the file as UTF-8",
            RowProblem::LastNotUser(Speaker::Assistant) => {
                "leave the assistant's answer out: the model writes it"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// Over [`LONGEST_LINE`].
    #[error("the line has more than {} MiB", LONGEST_LINE >> 20)]
    TooLong,
    /// Bytes that are no text.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// The parser's sentence.
    #[error("the line is not JSON: {0}")]
    NotJson(String),
    /// A list, a string, a number.
    #[error("the line is not a JSON object")]
    NotAnObject,
    /// None of the columns that hold a prompt.
    #[error("the row has no prompt")]
    NoPrompt,
    /// A column that must be there.
    #[error("the row has no `{0}`")]
    Missing(&'static str),
    /// A column of another type.
    #[error("`{column}` must be {expected}")]
    Type {
        /// The column.
        column: String,
        /// With its article.
        expected: &'static str,
    },
    /// Nothing but white space.
    #[error("`{0}` is empty")]
    Empty(String),
    /// Not `system`, `user` or `assistant`.
    #[error("`{column}` has role `{role}`, expected `system`, `user` or `assistant`")]
    Role {
        /// The message.
        column: String,
        /// As in the file.
        role: String,
    },
    /// The conversation of a prompt does not end with the user.
    #[error("the last message is the {}'s, expected the user's", .0.as_str())]
    LastNotUser(Speaker),
    /// The conversation of a row to score does not end with the assistant.
    #[error("the last message is the {}'s, expected the assistant's", .0.as_str())]
    LastNotAssistant(Speaker),
    /// Completions that are compared do not begin alike.
    #[error("`chosen` and `rejected` follow different prompts")]
    Apart,
    /// Two rows with other texts and the same id.
    #[error("id `{id}` stands in line {first} already")]
    DuplicateId {
        /// The id.
        id: String,
        /// The line where it stood first.
        first: usize,
    },
    /// An id that would not fit into tables and messages.
    #[error("`id` has more than 200 bytes or a control character")]
    Id,
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
        Source::File(path) if path.is_dir() => Err(DataError::Folder { name }),
        Source::File(path) => match File::open(path) {
            Ok(file) => rows_of(&name, BufReader::new(file), each),
            Err(error) => Err(DataError::Read { name, error }),
        },
    }
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

fn prompt(row: &Map<String, Value>, line: usize) -> Result<Prompt, RowProblem> {
    let columns = ["prompt", "messages", "instruction", "question", "query"];
    let column = columns.into_iter().find(|key| present(row, key)).ok_or(RowProblem::NoPrompt)?;
    let text = match (&row[column], column) {
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
    };
    Ok(Prompt { id: id(row, line)?, text, tags: tags(row)? })
}

fn id(row: &Map<String, Value>, line: usize) -> Result<String, RowProblem> {
    let id = match row.get("id") {
        None | Some(Value::Null) => return Ok(format!("line-{line}")),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) if id.is_u64() || id.is_i64() => id.to_string(),
        Some(_) => return Err(wrong_type("id", "a text or an integer")),
    };
    if id.trim().is_empty() {
        return Err(RowProblem::Empty("id".to_owned()));
    }
    if id.len() > 200 || id.contains(char::is_control) {
        return Err(RowProblem::Id);
    }
    Ok(id)
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
fn present(row: &Map<String, Value>, key: &str) -> bool {
    row.get(key).is_some_and(|value| !value.is_null())
}

fn text<'a>(value: &'a Value, column: &str, expected: &'static str) -> Result<&'a str, RowProblem> {
    value.as_str().ok_or_else(|| wrong_type(column, expected))
}

fn filled_text<'a>(value: &'a Value, column: &str) -> Result<&'a str, RowProblem> {
    match text(value, column, "a text")? {
        text if text.trim().is_empty() => Err(RowProblem::Empty(column.to_owned())),
        text => Ok(text),
    }
}

fn wrong_type(column: &str, expected: &'static str) -> RowProblem {
    RowProblem::Type { column: column.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(file: &[u8]) -> Result<Prompts, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        std::fs::write(&path, file).unwrap();
        read_prompts(&Source::File(path), &|_| None).map_err(|error| {
            error.to_string().replace(&folder.path().display().to_string(), "").replace("/p", "p")
        })
    }

    fn check(file: &str, expected: &str) {
        let shown = match prompts(file.as_bytes()) {
            Err(error) => error.replace("\n  --> ", " @ "),
            Ok(read) => {
                let text = |prompt: &Prompt| match &prompt.text {
                    Text::Raw(text) => format!("raw {text}"),
                    Text::Chat(messages) => messages
                        .iter()
                        .map(|message| format!("{}={}", message.speaker.as_str(), message.content))
                        .collect::<Vec<_>>()
                        .join("|"),
                };
                let mut rows: Vec<String> = read
                    .prompts
                    .iter()
                    .map(|prompt| {
                        format!("{}: {}{}", prompt.id, text(prompt), prompt.tags.join("#"))
                    })
                    .collect();
                if read.duplicates > 0 {
                    rows.push(format!("-{}", read.duplicates));
                }
                rows.join("; ")
            }
        };
        assert_eq!(shown, expected, "{file}");
    }

    #[test]
    fn rows_of_all_tools_are_read() {
        check(r#"{"id": "a", "prompt": "x"}"#, "a: user=x");
        check(r#"{"id": 7, "prompt": "x", "lineage": [1], "score": null}"#, "7: user=x");
        check(r#"{"prompt": "x", "id": null}"#, "line-1: user=x");
        check("\n\n{\"prompt\": \"x\"}\n\n", "line-3: user=x");
        check(r#"{"prompt": "x", "tags": ["t"]}"#, "line-1: user=xt");
        check(r#"{"prompt": " x\n"}"#, "line-1: user= x\n");
        check(
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}"#,
            "line-1: system=s|user=u",
        );
        check(r#"{"prompt": [{"role": "user", "content": "u", "name": "n"}]}"#, "line-1: user=u");
        check(r#"{"instruction": "i", "input": "x", "output": "o"}"#, "line-1: user=i\nx");
        check(r#"{"instruction": "i", "input": ""}"#, "line-1: user=i");
        check(r#"{"instruction": "i", "input": null}"#, "line-1: user=i");
        check(r#"{"question": "q", "query": "r"}"#, "line-1: user=q");
        check(r#"{"query": "q"}"#, "line-1: user=q");
        check(r#"{"prompt": null, "question": "q"}"#, "line-1: user=q");
        // UltraChat has the first prompt beside the whole conversation.
        check(
            r#"{"prompt": "x", "messages": [{"role": "assistant", "content": "a"}]}"#,
            "line-1: user=x",
        );
    }

    #[test]
    fn files_of_all_systems_are_read() {
        check(
            "\u{feff}{\"prompt\": \"x\"}\r\n{\"prompt\": \"y\"}\r\n",
            "line-1: user=x; line-2: user=y",
        );
        check("{\"prompt\": \"é終🦀\"}", "line-1: user=é終🦀");
        check("{\"prompt\": \"\\ud83e\\udd80\"}", "line-1: user=🦀");
    }

    #[test]
    fn duplicates_are_counted() {
        check("{\"prompt\": \"x\"}\n{\"prompt\": \"x\"}\n{\"query\": \"x\"}", "line-1: user=x; -2");
        check("{\"id\": 1, \"prompt\": \"x\"}\n{\"id\": 1, \"prompt\": \"x\"}", "1: user=x; -1");
        check("{\"prompt\": \"x\"}\n{\"prompt\": \"x \"}", "line-1: user=x; line-2: user=x ");
        check(
            "{\"id\": \"a\", \"prompt\": \"x\"}\n{\"id\": \"a\", \"prompt\": \"y\"}",
            "id `a` stands in line 1 already @ p.jsonl:2",
        );
        check(
            "{\"id\": \"line-2\", \"prompt\": \"x\"}\n{\"prompt\": \"y\"}",
            "id `line-2` stands in line 1 already @ p.jsonl:2",
        );
    }

    #[test]
    fn bad_rows_are_refused_with_their_line() {
        check("", "data file `p.jsonl` holds no row");
        check("\n \r\n", "data file `p.jsonl` holds no row");
        check("{\"prompt\": \"x\"}\n[1]", "the line is not a JSON object @ p.jsonl:2");
        check("[", "the line is not JSON: EOF while parsing a list at column 1 @ p.jsonl:1");
        check(
            "{\"prompt\": \"x\"",
            "the line is not JSON: EOF while parsing an object at column 14 @ p.jsonl:1",
        );
        check(
            "{\"prompt\": \"x\"} {}",
            "the line is not JSON: trailing characters at column 17 @ p.jsonl:1",
        );
        check("hello", "the line is not JSON: expected value at column 1 @ p.jsonl:1");
        check(
            "{\"prompt\": \"\\ud83e\"}",
            "the line is not JSON: unexpected end of hex escape at column 19 @ p.jsonl:1",
        );
        check("{}", "the row has no prompt @ p.jsonl:1");
        check(r#"{"text": "x"}"#, "the row has no prompt @ p.jsonl:1");
        check(r#"{"prompt": null}"#, "the row has no prompt @ p.jsonl:1");
        check(r#"{"prompt": ""}"#, "`prompt` is empty @ p.jsonl:1");
        check(r#"{"prompt": " \n\t"}"#, "`prompt` is empty @ p.jsonl:1");
        check(r#"{"prompt": 3}"#, "`prompt` must be a text or a list of messages @ p.jsonl:1");
        check(r#"{"prompt": []}"#, "`prompt` is empty @ p.jsonl:1");
        check(r#"{"messages": "x"}"#, "`messages` must be a list of messages @ p.jsonl:1");
        check(
            r#"{"messages": ["x"]}"#,
            "`messages[0]` must be an object with `role` and `content` @ p.jsonl:1",
        );
        check(
            r#"{"messages": [{"role": "user", "content": 1}]}"#,
            "`messages[0].content` must be a text @ p.jsonl:1",
        );
        check(
            r#"{"messages": [{"role": "user", "content": " "}]}"#,
            "`messages[0].content` is empty @ p.jsonl:1",
        );
        check(
            r#"{"messages": [{"role": "human", "content": "x"}]}"#,
            "`messages[0]` has role `human`, expected `system`, `user` or `assistant` @ p.jsonl:1",
        );
        check(
            r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
            "the last message is the assistant's, expected the user's @ p.jsonl:1",
        );
        check(r#"{"instruction": "i", "input": 3}"#, "`input` must be a text @ p.jsonl:1");
        check(r#"{"prompt": "x", "tags": "t"}"#, "`tags` must be a list of texts @ p.jsonl:1");
        check(r#"{"prompt": "x", "tags": [1]}"#, "`tags` must be a list of texts @ p.jsonl:1");
        check(r#"{"prompt": "x", "id": 1.5}"#, "`id` must be a text or an integer @ p.jsonl:1");
        check(r#"{"prompt": "x", "id": " "}"#, "`id` is empty @ p.jsonl:1");
        check(
            r#"{"prompt": "x", "id": "a\nb"}"#,
            "`id` has more than 200 bytes or a control character @ p.jsonl:1",
        );
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_lines_are_refused() {
        let error = prompts(b"{\"prompt\": \"x\"}\n{\"prompt\": \"caf\xe9\"}").unwrap_err();
        assert_eq!(error, "the line is not UTF-8\n  --> p.jsonl:2");
        let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(LONGEST_LINE));
        let error = prompts(long.as_bytes()).unwrap_err();
        assert_eq!(error, "the line has more than 16 MiB\n  --> p.jsonl:1");
        let just = format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(LONGEST_LINE - 16));
        assert_eq!(prompts(just.as_bytes()).unwrap().prompts.len(), 1);
        let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
        assert!(prompts(deep.as_bytes()).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn files_that_are_none_are_named() {
        let error = |source| read_prompts(&source, &|_| None).unwrap_err().to_string();
        assert_eq!(error(Source::File("/".into())), "data file `/` is a folder");
        assert_eq!(error(Source::Builtin("x".into())), "no embedded data is called `x`");
        assert!(
            error(Source::File("/nowhere.jsonl".into()))
                .starts_with("cannot read data file `/nowhere.jsonl`: ")
        );
        let read = read_prompts(&Source::Builtin("x".into()), &|_| Some("{\"prompt\": \"y\"}"));
        assert_eq!(read.unwrap().prompts.len(), 1);
    }

    #[test]
    fn held_out_rows_have_answers() {
        let read = |text: &str| {
            read_held_out(&Source::Builtin("x".into()), &|_| Some(text))
                .map(|rows| rows.into_iter().map(|row| row.answer).collect::<Vec<_>>().join(";"))
                .unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(read(r#"{"prompt": "x", "answer": "y"}"#), "y");
        assert_eq!(read(r#"{"instruction": "x", "input": "", "output": "y"}"#), "y");
        assert_eq!(read(r#"{"prompt": "x", "answer": null, "completion": "y"}"#), "y");
        assert_eq!(read(r#"{"prompt": "x"}"#), "the row has no `answer`\n  --> builtin:x:1");
        assert_eq!(
            read(r#"{"prompt": "x", "answer": ""}"#),
            "`answer` is empty\n  --> builtin:x:1"
        );
        assert_eq!(
            read(r#"{"prompt": "x", "answer": 4}"#),
            "`answer` must be a text\n  --> builtin:x:1"
        );
    }

    #[test]
    fn score_rows_are_raw_or_chat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            match read_score_rows(&Source::File(path.clone())) {
                Err(error) => error.to_string().lines().next().unwrap().to_owned(),
                Ok(rows) => rows
                    .iter()
                    .map(|row| {
                        let kind = if matches!(row.prompt, Text::Raw(_)) { "raw" } else { "chat" };
                        format!("{} {kind} {:?} {:?}", row.id, row.prompt.gist(), row.completion)
                    })
                    .collect::<Vec<_>>()
                    .join("; "),
            }
        };
        let user = r#"{"role": "user", "content": "u"}"#;
        let assistant = r#"{"role": "assistant", "content": "a"}"#;
        let check = |text: String, expected: &str| assert_eq!(read(&text), expected, "{text}");
        check(r#"{"prompt": " p", "completion": " c "}"#.into(), r#"line-1 raw " p" " c ""#);
        check(r#"{"id": 3, "prompt": "", "completion": "c"}"#.into(), r#"3 raw "" "c""#);
        check(r#"{"prompt": "p", "completion": "\n"}"#.into(), r#"line-1 raw "p" "\n""#);
        check(format!("{{\"messages\": [{user}, {assistant}]}}"), r#"line-1 chat "u" "a""#);
        check(format!("{{\"prompt\": [{user}], \"completion\": \"a\"}}"), r#"line-1 chat "u" "a""#);
        check(
            format!("{{\"prompt\": [{user}], \"completion\": [{assistant}]}}"),
            r#"line-1 chat "u" "a""#,
        );
        check(r#"{"prompt": "p", "completion": ""}"#.into(), "`completion` is empty");
        check(r#"{"prompt": "p"}"#.into(), "the row has no `completion`");
        check("{}".into(), "the row has no prompt");
        check(
            format!("{{\"messages\": [{user}]}}"),
            "the last message is the user's, expected the assistant's",
        );
        check(format!("{{\"messages\": [{assistant}]}}"), "the row has no prompt");
        check(
            format!("{{\"messages\": [{user}, {assistant}, {assistant}]}}"),
            "the last message is the assistant's, expected the user's",
        );
    }
}
