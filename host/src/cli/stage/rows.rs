//! The rows of a shard: records, and what plugins have said of them so far.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    data::{RecordRow, RowProblem},
    record::{Opinion, Record, Verdict},
};

/// A row on its way through stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// From 1.
    pub line: usize,
    /// As the stages before have left it.
    pub record: Record,
    /// What plugins have said of it, in order.
    pub said: Vec<Said>,
    /// Where it was dropped; later stages let it pass.
    pub dropped: Option<Dropped>,
    /// What the user's row had besides.
    pub columns: Map<String, Value>,
}

/// What a plugin said of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// For example `filter-generate`.
    pub stage: String,
    /// From 1.
    pub round: u32,
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// A filter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// A judge's; absent where it failed on the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opinion: Option<Opinion>,
    /// A difficulty plugin's; absent where it failed on the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
}

/// Why a record is not among those that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// For example `filter-generate`.
    pub stage: String,
    /// The plugin's name; `aligner` where a completion had nothing to be compared with.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// The plugin's word, `plugin-error`, or `unparsable`.
    pub reason: String,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(flatten)]
    record: &'a Record,
    #[serde(skip_serializing_if = "<[Said]>::is_empty")]
    said: &'a [Said],
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<&'a Dropped>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    columns: &'a Map<String, Value>,
}

impl Row {
    /// Reads a row: a user's, or one that a stage has written.
    pub fn of(row: RecordRow) -> Result<Row, RowProblem> {
        let RecordRow { line, record, mut rest, is_whole } = row;
        if !is_whole {
            return Ok(Row { line, record, said: Vec::new(), dropped: None, columns: rest });
        }
        if rest.shift_remove("id").is_some_and(|id| id != record.id()) {
            let what = format!("`id` is another one than that of the prompt, `{}`", record.id());
            return Err(RowProblem::Wrong(what));
        }
        let said = part(&mut rest, "said")?.unwrap_or_default();
        let dropped = part(&mut rest, "dropped")?;
        let mut columns: Map<String, Value> = part(&mut rest, "columns")?.unwrap_or_default();
        columns.extend(rest);
        Ok(Row { line, record, said, dropped, columns })
    }

    /// Writes the row as a line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Row { record, said, dropped, columns, .. } = self;
        let line = Line { id: record.id(), record, said, dropped: dropped.as_ref(), columns };
        serde_json::to_writer(&mut *out, &line).expect("our own types serialise");
        out.push(b'\n');
    }
}

/// Takes a part out of a row that a stage has written.
fn part<T: serde::de::DeserializeOwned>(
    rest: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, RowProblem> {
    let Some(value) = rest.shift_remove(name) else { return Ok(None) };
    serde_json::from_value(value).map_err(|error| {
        RowProblem::Wrong(format!("`{name}` is not as `aligner stage` writes it: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{RecordFile, Upto};

    fn read(text: &str) -> Result<Row, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        let rows = RecordFile::open_shard(&path, Upto::Completions).unwrap().chunk(2);
        let row = rows.map_err(|error| error.to_string())?.remove(0);
        Row::of(row).map_err(|problem| problem.to_string())
    }

    fn written(row: &Row) -> String {
        let mut line = Vec::new();
        row.write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut row = read(
            r#"{"id": "a", "prompt": "Why?", "completion": "So.", "said": "x", "dropped": true, "n": 0.1}"#,
        )
        .unwrap();
        assert_eq!(row.columns.len(), 3, "a user's columns are a user's: {:?}", row.columns);
        row.said.push(Said {
            stage: "filter-generate".into(),
            round: 1,
            plugin: "length".into(),
            version: "0.1.0".into(),
            verdict: Some(Verdict::Drop("too-short".into())),
            opinion: None,
            difficulty: None,
        });
        row.dropped = Some(Dropped {
            stage: "filter-generate".into(),
            plugin: "length".into(),
            version: "0.1.0".into(),
            reason: "too-short".into(),
        });
        let line = written(&row);
        let again = read(&line).unwrap();
        assert_eq!(again, row);
        assert_eq!(written(&again), line);
    }

    #[test]
    fn rows_that_no_stage_has_written_are_refused() {
        let check = |more: &str, expected: &str| {
            let text = format!(r#"{{"prompt": {{"id": "p", "text": {{"raw": "Q"}}}}, {more}}}"#);
            let said = read(&text).unwrap_err();
            assert!(said.contains(expected), "{said}\n  lacks\n{expected}");
        };
        check(r#""id": "q""#, "another one than that of the prompt, `p`");
        check(r#""said": [{"stage": "judge"}]"#, "`said` is not as `aligner stage` writes it");
        check(r#""dropped": true"#, "`dropped` is not as");
        check(r#""columns": 1"#, "`columns` is not as");
    }
}
