//! Records as plugins see them, from rows that tell no opinion: prompts, completions, pairs, whole records.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::labelled::objects::Objects;
use super::labelled::{Columns, completion, known};
use super::{
    DataError, RowProblem, check_id, id, messages, present, prompt_text, split_answer, tags, text,
    wrong_type,
};
use crate::record::{
    Completion, Finish, Measurement, Pair, Prompt, Record, Speaker, Text, Variant, VariantRole,
};

/// What of a row a record carries: where in a round the plugin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// The prompt alone.
    Prompts,
    /// Completions: `plain`, or `good` and `bad` where the row has `chosen` and `rejected`.
    Completions,
    /// These, and that `good` is preferred.
    Pairs,
}

/// A record, with the line that it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordRow {
    /// From 1.
    pub line: usize,
    /// What a plugin is given.
    pub record: Record,
    /// What the row has besides, under its names.
    pub rest: Map<String, Value>,
    /// Whether the row is a whole record, as a run's files hold them.
    pub is_whole: bool,
}

impl RecordRow {
    fn of_columns(line: usize, record: Record, mut row: Map<String, Value>) -> RecordRow {
        row.retain(|key, _| !COLUMNS.contains(&key.as_str()));
        RecordRow { line, record, rest: row, is_whole: false }
    }
}

/// A file of records that is being read.
pub struct RecordFile {
    name: String,
    objects: Objects,
    upto: Upto,
    is_shard: bool,
    any: bool,
}

/// Columns of a row that become its record.
const COLUMNS: [&str; 16] = [
    "id",
    "prompt",
    "messages",
    "instruction",
    "input",
    "question",
    "query",
    "completion",
    "response",
    "answer",
    "output",
    "chosen",
    "rejected",
    "finish",
    "tags",
    "measurements",
];

/// The fields of a whole record.
const FIELDS: [&str; 7] =
    ["prompt", "exemplars", "variants", "rewards", "pair", "difficulty", "measurements"];

impl RecordFile {
    /// Opens a file: JSONL or a JSON list, under gzip too; `-` is stdin.
    pub fn open(path: &Path, upto: Upto) -> Result<RecordFile, DataError> {
        let name = match path == Path::new("-") {
            true => "stdin".to_owned(),
            false => path.display().to_string(),
        };
        let stdin = Path::new("/dev/stdin");
        let objects = Objects::open(if name == "stdin" { stdin } else { path }, &name)?;
        Ok(RecordFile { name, objects, upto, is_shard: false, any: false })
    }

    /// Opens a part of some data: each row has an id of its own, since its line says nothing of it, and there
    /// may be none.
    pub fn open_shard(path: &Path, upto: Upto) -> Result<RecordFile, DataError> {
        Ok(RecordFile { is_shard: true, any: true, ..RecordFile::open(path, upto)? })
    }

    /// Returns what the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many bytes of rows were read so far, those of gzip unpacked.
    pub fn bytes_read(&self) -> u64 {
        self.objects.bytes_read()
    }

    /// Reads up to `most` more records, or fewer where they are long; none at the end. A file without a row
    /// is an error, and so is a row that cannot be read, with its line. Pairs of which people say that
    /// neither is better are left out.
    pub fn chunk(&mut self, most: usize) -> Result<Vec<RecordRow>, DataError> {
        loop {
            let raw = self.objects.take(most)?;
            if raw.is_empty() {
                return match self.any {
                    true => Ok(Vec::new()),
                    false => Err(DataError::Empty { name: self.name.clone() }),
                };
            }
            self.any = true;
            let (upto, is_shard) = (self.upto, self.is_shard);
            let read = |(line, bytes): (usize, Vec<u8>)| (line, read(&bytes, line, upto, is_shard));
            let parsed: Vec<_> = raw.into_par_iter().map(read).collect();
            let mut rows = Vec::with_capacity(parsed.len());
            for (line, row) in parsed {
                let name = || self.name.clone();
                rows.extend(row.map_err(|problem| DataError::Row {
                    name: name(),
                    line,
                    problem,
                })?);
            }
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }
}

/// Reads a row; none where it is a pair of equals. In a shard it has an id, and is none of these.
fn read(
    bytes: &[u8],
    line: usize,
    upto: Upto,
    is_shard: bool,
) -> Result<Option<RecordRow>, RowProblem> {
    let row = super::row(bytes, line == 1)?.ok_or(RowProblem::NotAnObject)?;
    if row.get("prompt").is_some_and(Value::is_object) {
        let (record, rest): (Map<_, _>, Map<_, _>) =
            row.into_iter().partition(|(key, _)| FIELDS.contains(&key.as_str()));
        return Ok(Some(RecordRow { line, record: whole(record)?, rest, is_whole: true }));
    }
    if is_shard && !present(&row, "id") {
        return Err(RowProblem::NoId);
    }
    let known = known::read(&row)?;
    let (text, variants) = match (known, row.get("chosen"), row.get("rejected")) {
        (Some(known), _, _) => {
            let Some((chosen, rejected)) = known.chosen_and_rejected else {
                return match is_shard {
                    true => {
                        Err(RowProblem::Wrong("neither completion of the row is better".into()))
                    }
                    false => Ok(None),
                };
            };
            (known.prompt.clone(), both(&known.prompt, &chosen, &rejected))
        }
        (None, Some(chosen), Some(rejected)) => {
            let (prompt, chosen, rejected) = pair(&row, chosen, rejected)?;
            (prompt.clone(), both(&prompt, &chosen, &rejected))
        }
        (None, None, None) if is_completed(&row) => {
            let (prompt, text) = completion(&row, &Columns::default())?;
            let finish = finish(&row)?;
            let plain = variant("plain", VariantRole::Plain, &prompt, &text, finish);
            (prompt, vec![plain])
        }
        (None, None, None) => (prompt_text(&row)?, Vec::new()),
        _ => {
            let what = "the row has one of `chosen` and `rejected` without the other";
            return Err(RowProblem::Wrong(what.to_owned()));
        }
    };
    let prompt = Prompt { id: id(&row, line)?, text, tags: tags(&row)? };
    let mut record = Record::new(prompt);
    if upto == Upto::Prompts {
        return Ok(Some(RecordRow::of_columns(line, record, row)));
    }
    if upto == Upto::Pairs && variants.len() == 2 {
        record.pair = Some(Pair { chosen: "good".into(), rejected: "bad".into() });
    }
    record.variants = variants;
    record.measurements = measurements(&row)?;
    Ok(Some(RecordRow::of_columns(line, record, row)))
}

/// Returns prompt, chosen and rejected completion: texts, or conversations, which hold the prompt where no
/// column does.
fn pair(
    row: &Map<String, Value>,
    chosen: &Value,
    rejected: &Value,
) -> Result<(Text, String, String), RowProblem> {
    let last = |value: &Value, column: &str| match value {
        Value::Array(items) => match messages(items, column)?.pop() {
            Some(last) if last.speaker == Speaker::Assistant => Ok(last.content),
            last => {
                Err(RowProblem::LastNotAssistant(last.map_or(Speaker::System, |it| it.speaker)))
            }
        },
        value => text(value, column, "a text").map(str::to_owned),
    };
    if ["prompt", "instruction", "question", "query"].into_iter().any(|name| present(row, name)) {
        return Ok((prompt_text(row)?, last(chosen, "chosen")?, last(rejected, "rejected")?));
    }
    let (Value::Array(chosen), Value::Array(rejected)) = (chosen, rejected) else {
        return Err(RowProblem::NoPrompt);
    };
    let (prompt, chosen) = split_answer(messages(chosen, "chosen")?)?;
    let (same, rejected) = split_answer(messages(rejected, "rejected")?)?;
    match prompt == same {
        true => Ok((prompt, chosen, rejected)),
        false => Err(RowProblem::Apart),
    }
}

/// A record as a run's files hold it: `prompt` is an object, and `variants` and so on stand beside it.
fn whole(row: Map<String, Value>) -> Result<Record, RowProblem> {
    let record: Record = serde_json::from_value(Value::Object(row))
        .map_err(|error| RowProblem::Wrong(format!("the row is no record: {error}")))?;
    check_id(record.id())?;
    let numbers = record.rewards.iter().map(|reward| reward.value);
    let numbers = numbers.chain(record.measurements.iter().map(|it| it.value));
    match numbers.chain(record.difficulty).all(f64::is_finite) {
        true => Ok(record),
        false => Err(RowProblem::Wrong("a number of the record is not finite".to_owned())),
    }
}

/// Returns whether a row has a completion.
fn is_completed(row: &Map<String, Value>) -> bool {
    let named =
        ["completion", "response", "answer", "output"].into_iter().any(|name| present(row, name));
    let last = row.get("messages").and_then(Value::as_array).and_then(|it| it.last());
    named || last.is_some_and(|message| message["role"] == "assistant")
}

fn finish(row: &Map<String, Value>) -> Result<Finish, RowProblem> {
    match row.get("finish") {
        None | Some(Value::Null) => Ok(Finish::Stop),
        Some(Value::String(finish)) if finish == "stop" => Ok(Finish::Stop),
        Some(Value::String(finish)) if finish == "length" => Ok(Finish::Length),
        Some(_) => Err(wrong_type("finish", "`stop` or `length`")),
    }
}

/// Reads `measurements`, an object of numbers under their names, such as `perplexity(plain)`.
fn measurements(row: &Map<String, Value>) -> Result<Vec<Measurement>, RowProblem> {
    let wrong = || wrong_type("measurements", "an object of numbers");
    match row.get("measurements") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(numbers)) => {
            let one = |(name, value): (&String, &Value)| {
                let value = value.as_f64().ok_or_else(wrong)?;
                Ok(Measurement { name: name.clone(), value })
            };
            numbers.iter().map(one).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn both(prompt: &Text, chosen: &str, rejected: &str) -> Vec<Variant> {
    vec![
        variant("good", VariantRole::Good, prompt, chosen, Finish::Stop),
        variant("bad", VariantRole::Bad, prompt, rejected, Finish::Stop),
    ]
}

fn variant(name: &str, role: VariantRole, prompt: &Text, text: &str, finish: Finish) -> Variant {
    let completion = Some(Completion::unmeasured(text, finish));
    Variant { name: name.to_owned(), role, prompt: prompt.clone(), completion }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, upto: Upto) -> Result<Option<Record>, String> {
        let row = read(text.as_bytes(), 3, upto, false).map_err(|problem| problem.to_string())?;
        Ok(row.map(|row| row.record))
    }

    #[test]
    fn rows_of_every_form_become_records() {
        let check = |text: &str, id: &str, variants: &[(&str, &str)]| {
            let record = read_text(text, Upto::Completions).unwrap().unwrap();
            let found: Vec<(&str, &str)> = record
                .variants
                .iter()
                .map(|it| (it.name.as_str(), it.completion.as_ref().unwrap().text.as_str()))
                .collect();
            assert_eq!((record.id(), found.as_slice()), (id, variants), "{text}");
            assert_eq!(record.pair, None);
        };
        check(r#"{"prompt": "Why?"}"#, "line-3", &[]);
        check(r#"{"id": 7, "instruction": "Add.", "input": "1 1"}"#, "7", &[]);
        check(r#"{"prompt": "Why?", "completion": ""}"#, "line-3", &[("plain", "")]);
        check(r#"{"instruction": "Add.", "output": "2"}"#, "line-3", &[("plain", "2")]);
        check(
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            "line-3",
            &[("plain", "b")],
        );
        check(
            r#"{"prompt": "Why?", "chosen": "x", "rejected": "y"}"#,
            "line-3",
            &[("good", "x"), ("bad", "y")],
        );
        check(
            r#"{"prompt": {"id": "p-1", "text": {"raw": "Q:"}}, "variants": [{"name": "few-shot", "role": "good",
                "prompt": {"raw": "Q:"}, "completion": {"text": "z", "tokens": 1, "logprob": -1, "entropy": 0.1,
                "finish": "stop"}}]}"#,
            "p-1",
            &[("few-shot", "z")],
        );
    }

    #[test]
    fn a_place_says_what_a_record_carries() {
        let row = r#"{"prompt": "Why?", "chosen": "x", "rejected": "y", "measurements": {"cluster(good)": 2}}"#;
        let paired = read_text(row, Upto::Pairs).unwrap().unwrap();
        assert_eq!(paired.pair.unwrap().chosen, "good");
        assert_eq!(paired.measurements[0].value, 2.0);
        let alone = read_text(row, Upto::Prompts).unwrap().unwrap();
        assert!(alone.variants.is_empty() && alone.measurements.is_empty());
    }

    #[test]
    fn what_a_row_has_besides_is_kept() {
        let check = |text: &str, expected: &str| {
            let row = read(text.as_bytes(), 3, Upto::Completions, true).unwrap().unwrap();
            assert_eq!(serde_json::to_string(&row.rest).unwrap(), expected, "{text}");
        };
        check(
            r#"{"id": 7, "prompt": "Why?", "completion": "", "b": 1, "a": [2]}"#,
            r#"{"b":1,"a":[2]}"#,
        );
        check(
            r#"{"id": "p", "prompt": {"id": "p", "text": {"raw": "Q:"}}, "said": []}"#,
            r#"{"id":"p","said":[]}"#,
        );
        let unnamed = read(br#"{"prompt": "Why?"}"#, 3, Upto::Completions, true);
        assert_eq!(unnamed, Err(RowProblem::NoId));
    }

    #[test]
    fn rows_that_cannot_be_read_say_why() {
        let check = |text: &str, expected: &str| {
            let message = read_text(text, Upto::Completions).unwrap_err();
            assert!(message.contains(expected), "{message}\n  lacks\n{expected}");
        };
        check("[]", "");
        check(r#"{"prompt": "Why?", "chosen": "x"}"#, "without the other");
        check(r#"{"prompt": {"id": "p"}}"#, "no record: missing field `text`");
        check(r#"{"prompt": "a", "completion": "b", "measurements": [1]}"#, "measurements");
        check(r#"{"prompt": "a", "completion": "b", "finish": "no"}"#, "finish");
        check(r#"{"completion": "b"}"#, "prompt");
    }
}
