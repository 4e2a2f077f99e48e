//! Rows of a CSV file: RFC 4180, with a line of names at the top.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::{DataError, LONGEST_LINE, RowProblem, open};

/// Gives each record to `each`, with the line on which it begins. A cell is a text, and null where it is
/// empty; blank lines are passed by.
pub(super) fn rows(
    path: &Path,
    mut each: impl FnMut(usize, &Map<String, Value>) -> Result<(), RowProblem>,
) -> Result<(), DataError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    open(path, &name)?
        .read_to_end(&mut bytes)
        .map_err(|error| DataError::Read { name: name.clone(), error })?;
    let at = |line: usize, problem| DataError::Row { name: name.clone(), line, problem };
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        at(valid.iter().filter(|byte| **byte == b'\n').count() + 1, RowProblem::NotUtf8)
    })?;
    let mut records = Records::new(text.strip_prefix('\u{feff}').unwrap_or(&text));
    let mut next = || records.next().map_err(|(line, problem)| at(line, problem));
    let Some((line, names)) = next()? else { return Err(DataError::Empty { name: name.clone() }) };
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|column| !seen.insert(column.as_str())) {
        let problem = RowProblem::Wrong(format!("column `{twice}` stands twice in the first line"));
        return Err(at(line, problem));
    }
    let mut any = false;
    while let Some((line, cells)) = next()? {
        if cells.len() != names.len() {
            let (has, columns) = (cells.len(), names.len());
            let problem = format!("the row has {has} cells under {columns} columns");
            return Err(at(line, RowProblem::Wrong(problem)));
        }
        let cell = |cell: String| if cell.is_empty() { Value::Null } else { Value::String(cell) };
        let row = names.iter().cloned().zip(cells.into_iter().map(cell)).collect();
        each(line, &row).map_err(|problem| at(line, problem))?;
        any = true;
    }
    if any { Ok(()) } else { Err(DataError::Empty { name: name.clone() }) }
}

/// A record with the line on which it begins.
type Record = (usize, Vec<String>);

struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Records<'a> {
    fn new(text: &'a str) -> Records<'a> {
        Records { rest: text, line: 1 }
    }

    /// Returns the next record that is not a blank line; `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, (usize, RowProblem)> {
        while let Some(rest) =
            self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n'))
        {
            self.rest = rest;
            self.line += 1;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (begun, mut cells, mut size) = (self.line, Vec::new(), 0);
        loop {
            let cell = self.cell().map_err(|what| (begun, RowProblem::Wrong(what.to_owned())))?;
            size += cell.len();
            if size > LONGEST_LINE {
                return Err((begun, RowProblem::TooLong));
            }
            cells.push(cell);
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            self.rest = self.rest.strip_prefix('\r').unwrap_or(self.rest);
            if let Some(rest) = self.rest.strip_prefix('\n') {
                self.rest = rest;
                self.line += 1;
            }
            return Ok(Some((begun, cells)));
        }
    }

    /// Reads up to the comma or the end of the line after a cell.
    fn cell(&mut self) -> Result<String, &'static str> {
        let Some(mut quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
            let cell = self.rest[..end].strip_suffix('\r').unwrap_or(&self.rest[..end]);
            self.rest = &self.rest[cell.len()..];
            return Ok(cell.to_owned());
        };
        let mut cell = String::new();
        loop {
            let end = quoted.find('"').ok_or("a quotation mark is not closed")?;
            cell.push_str(&quoted[..end]);
            quoted = &quoted[end + 1..];
            match quoted.strip_prefix('"') {
                Some(rest) => {
                    cell.push('"');
                    quoted = rest;
                }
                None => break,
            }
        }
        self.line += cell.matches('\n').count();
        self.rest = quoted;
        let ends =
            quoted.is_empty() || quoted.starts_with([',', '\n']) || quoted.starts_with("\r\n");
        if ends { Ok(cell) } else { Err("text stands behind a closing quotation mark") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &[u8], expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.csv");
        std::fs::write(&path, file).unwrap();
        let mut read = Vec::new();
        let result = rows(&path, |line, row| {
            let cells: Vec<String> =
                row.iter().map(|(name, cell)| format!("{name}={cell}")).collect();
            read.push(format!("{line}: {}", cells.join(" ")));
            Ok(())
        });
        let shown = match result {
            Ok(()) => read.join("; "),
            Err(error) => error.to_string().replace(&format!("{}/", folder.path().display()), ""),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn records_are_read() {
        check(b"a,b\n1,2\n", r#"2: a="1" b="2""#);
        check(b"\xef\xbb\xbfa,b\r\n1,\r\n\r\n,x", r#"2: a="1" b=null; 4: a=null b="x""#);
        check(
            b"a,b\n\"x, \"\"y\"\"\",\"two\nlines\"\nz,w",
            r#"2: a="x, \"y\"" b="two\nlines"; 4: a="z" b="w""#,
        );
        check(b"a\n\"\"\n", "2: a=null");
        check("a\né日\n".as_bytes(), r#"2: a="é日""#);
    }

    #[test]
    fn what_is_no_record_is_named() {
        check(b"", "data file `f.csv` holds no row");
        check(b"a,b\n", "data file `f.csv` holds no row");
        check(b"a,b\n1\n", "the row has 1 cells under 2 columns\n  --> f.csv:2");
        check(b"a,b\n1,2\n1,2,3", "the row has 3 cells under 2 columns\n  --> f.csv:3");
        check(b"a,a\n1,2\n", "column `a` stands twice in the first line\n  --> f.csv:1");
        check(b"a,b\n1,2\n\"x", "a quotation mark is not closed\n  --> f.csv:3");
        check(b"a,b\n\"x\"y,2", "text stands behind a closing quotation mark\n  --> f.csv:2");
        check(b"a,b\n1,2\n\xff,3\n", "the line is not UTF-8\n  --> f.csv:3");
    }
}
