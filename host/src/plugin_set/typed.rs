//! What the user typed: a tree of TOML values that know where they stand.
//!
//! The file and the `--set` arguments of the command line make one tree, so checking it once covers
//! both, and an error points at the line or at the argument that is wrong.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Where something was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes of the file.
    File(Range<usize>),
    /// The argument of the command line with this index.
    Argument(usize),
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    pub place: Place,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    String(String),
    /// `None` where it does not fit into 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key with its value; no key stands twice in a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

impl Node {
    /// Returns the text of a string; `None` for anything else.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the kind with its article, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a float",
            Kind::Boolean(_) => "a boolean",
            Kind::Datetime(_) => "a date",
            Kind::Array(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }

    /// Returns the value as JSON with sorted keys; dates become strings. Fails for numbers that JSON
    /// does not have.
    pub fn to_json(&self) -> Result<Value, Problem> {
        let no_json = |what: &str| {
            Err(Problem::new(format!("{what} cannot be handed to a plugin"), &self.place)
                .label("expected a number that JSON has"))
        };
        match &self.kind {
            Kind::String(text) | Kind::Datetime(text) => Ok(Value::from(text.as_str())),
            Kind::Integer(Some(number)) => Ok(Value::from(*number)),
            Kind::Integer(None) => no_json("an integer of more than 64 bits"),
            Kind::Float(number) if !number.is_finite() => no_json("a number that is not finite"),
            Kind::Float(number) => Ok(Value::from(*number)),
            Kind::Boolean(truth) => Ok(Value::from(*truth)),
            Kind::Array(items) => {
                items.iter().map(Node::to_json).collect::<Result<_, _>>().map(Value::Array)
            }
            Kind::Table(entries) => {
                let mut sorted: Vec<&Entry> = entries.iter().collect();
                sorted.sort_by(|a, b| a.key.cmp(&b.key));
                sorted
                    .into_iter()
                    .map(|entry| Ok((entry.key.clone(), entry.value.to_json()?)))
                    .collect::<Result<_, _>>()
                    .map(Value::Object)
            }
        }
    }
}

/// Reads a file's text into a table.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    match DeTable::parse(text) {
        Ok(table) => {
            let place = Place::File(table.span());
            Ok(Node { kind: table_kind(table.into_inner(), &Place::File), place })
        }
        Err(error) => {
            let place = Place::File(error.span().unwrap_or(0..0));
            let mut lines = error.message().lines();
            let problem = Problem::new(format!("not TOML: {}", lines.next().unwrap_or("")), &place);
            Err(match lines.next() {
                Some(rest) => problem.label(rest.trim()),
                None => problem,
            })
        }
    }
}

fn node(value: Spanned<DeValue<'_>>, at: &dyn Fn(Range<usize>) -> Place) -> Node {
    let place = at(value.span());
    let kind = match value.into_inner() {
        DeValue::String(text) => Kind::String(text.into_owned()),
        DeValue::Integer(number) => {
            Kind::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok())
        }
        // What does not fit reads as infinite, and every key's range refuses that.
        DeValue::Float(number) => Kind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(truth) => Kind::Boolean(truth),
        DeValue::Datetime(date) => Kind::Datetime(date.to_string()),
        DeValue::Array(items) => {
            Kind::Array(items.into_iter().map(|item| node(item, at)).collect())
        }
        DeValue::Table(table) => table_kind(table, at),
    };
    Node { kind, place }
}

fn table_kind(table: DeTable<'_>, at: &dyn Fn(Range<usize>) -> Place) -> Kind {
    let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
        let place = at(key.span());
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        Entry { key: key.into_owned(), place, value: node(value, at) }
    };
    Kind::Table(table.into_iter().map(entry).collect())
}

/// A value from the command line that stands over what the file says.
#[derive(Clone, Debug)]
pub struct Override {
    /// As the user typed it, for messages.
    pub(super) argument: String,
    path: Vec<String>,
    value: Kind,
}

/// Why an argument of `--set` is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// There is no `=`.
    #[error("`--set {0}` has no `=`")]
    NoValue(String),
    /// What stands before the `=` is no dotted key.
    #[error("`--set {0}` does not begin with a dotted key")]
    NoKey(String),
}

impl Override {
    /// Reads the argument of `--set`: a dotted key, `=`, and a TOML value or a bare string, for example
    /// `generate.temperature=0.5`, `filter.0.config.min=3` or `train.start=initial`.
    pub fn parse(argument: &str) -> Result<Override, OverrideError> {
        let (key, value) =
            argument.split_once('=').ok_or_else(|| OverrideError::NoValue(argument.to_owned()))?;
        let path = dotted(key.trim()).ok_or_else(|| OverrideError::NoKey(argument.to_owned()))?;
        let value = value.trim();
        let value = match DeValue::parse(value) {
            Ok(value) => node(value, &|_| Place::Argument(0)).kind,
            Err(_) => Kind::String(value.to_owned()),
        };
        Ok(Override { argument: format!("--set {argument}"), path, value })
    }

    /// Returns the override that a flag of its own stands for, for example `--rounds 2` for
    /// `run.rounds`.
    pub fn integer(flag: &str, path: &[&str], value: i64) -> Override {
        Override {
            argument: format!("{flag} {value}"),
            path: path.iter().map(|&part| part.to_owned()).collect(),
            value: Kind::Integer(Some(value)),
        }
    }

    /// Returns the override that a flag of its own stands for, for example `--model hf:owner/name` for
    /// `models.policy`.
    pub fn string(flag: &str, path: &[&str], value: &str) -> Override {
        Override {
            argument: format!("{flag} {value}"),
            path: path.iter().map(|&part| part.to_owned()).collect(),
            value: Kind::String(value.to_owned()),
        }
    }

    /// Puts the value into `root`; `index` is this argument's place in messages.
    pub(super) fn apply(&self, root: &mut Node, index: usize) -> Result<(), Problem> {
        let place = Place::Argument(index);
        let mut at = root;
        let mut walked = String::new();
        let is_model = self.path.first().is_some_and(|first| first == "models");
        for (depth, part) in self.path.iter().enumerate() {
            // A model that is named by itself is the base of the one that becomes a table.
            if is_model && depth == 2 && at.as_text().is_some() {
                let base = at.clone();
                let (key, place) = ("base".to_owned(), base.place.clone());
                at.kind = Kind::Table(vec![Entry { key, place, value: base }]);
            }
            let kind_name = at.kind_name();
            at = match &mut at.kind {
                Kind::Table(entries) => {
                    let position = entries.iter().position(|entry| entry.key == *part);
                    let position = position.unwrap_or_else(|| {
                        let value = Node { kind: Kind::Table(Vec::new()), place: place.clone() };
                        let (key, place) = (part.clone(), place.clone());
                        entries.push(Entry { key, place, value });
                        entries.len() - 1
                    });
                    &mut entries[position].value
                }
                Kind::Array(items) => {
                    let count = items.len();
                    let item = part.parse::<usize>().ok().and_then(|part| items.get_mut(part));
                    item.ok_or_else(|| {
                        let expected = match count {
                            0 => "the list is empty".to_owned(),
                            1 => "expected `0`, the list has one entry".to_owned(),
                            _ => format!("expected a number from `0` to `{}`", count - 1),
                        };
                        Problem::new(format!("`{walked}` has no entry `{part}`"), &place)
                            .label(expected)
                    })?
                }
                _ => {
                    let message = format!("`{walked}` is {kind_name}, it has no key `{part}`");
                    return Err(Problem::new(message, &place));
                }
            };
            if !walked.is_empty() {
                walked.push('.');
            }
            walked.push_str(part);
        }
        // Another model on the same server.
        if is_model && self.path.len() == 2 && matches!(self.value, Kind::String(_)) {
            at = base_of(at);
        }
        *at = Node { kind: self.value.clone(), place: place.clone() };
        replace_places(at, &place);
        Ok(())
    }
}

/// Returns the base of a model that is a server's, else the model.
fn base_of(model: &mut Node) -> &mut Node {
    let base = match &model.kind {
        Kind::Table(entries) => entries.iter().position(|entry| entry.key == "base"),
        _ => None,
    };
    match base {
        None => model,
        Some(base) => match &mut model.kind {
            Kind::Table(entries) => &mut entries[base].value,
            _ => unreachable!("it was found in a table"),
        },
    }
}

/// Splits a dotted key as TOML does, quotes included.
fn dotted(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '\r', '#', '=']) {
        return None;
    }
    let line = format!("{key} = 0");
    let mut table = DeTable::parse(&line).ok()?.into_inner();
    let mut path = Vec::new();
    loop {
        let (key, value) = table.into_iter().next()?;
        path.push(key.into_inner().into_owned());
        match value.into_inner() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

fn replace_places(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.kind {
        Kind::Array(items) => items.iter_mut().for_each(|item| replace_places(item, place)),
        Kind::Table(entries) => {
            for entry in entries {
                entry.place = place.clone();
                replace_places(&mut entry.value, place);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, arguments: &[&str], expected: &str) {
        let mut root = parse(file).unwrap_or_else(|problem| panic!("{}", problem.message));
        let mut error = None;
        for (index, argument) in arguments.iter().enumerate() {
            match Override::parse(argument) {
                Ok(set) => error = error.or(set.apply(&mut root, index).err().map(|e| e.message)),
                Err(e) => error = error.or(Some(e.to_string())),
            }
        }
        let found = error.unwrap_or_else(|| match root.to_json() {
            Ok(json) => json.to_string(),
            Err(problem) => problem.message,
        });
        assert_eq!(found, expected, "{file:?} {arguments:?}");
    }

    #[test]
    fn arguments_stand_over_the_file() {
        check("a = 1", &["a=2"], r#"{"a":2}"#);
        check("a = 1", &["b=0.5"], r#"{"a":1,"b":0.5}"#);
        check("", &["t.a=true"], r#"{"t":{"a":true}}"#);
        check("", &["t.a=b", "t.a=c"], r#"{"t":{"a":"c"}}"#);
        check(
            "[[f]]\nn = 1\n[[f]]\nn = 2",
            &["f.1.c.min=3"],
            r#"{"f":[{"n":1},{"c":{"min":3},"n":2}]}"#,
        );
        check("l = { r = 8 }", &["l.r=16"], r#"{"l":{"r":16}}"#);
        check("", &["a=[1, 'x']"], r#"{"a":[1,"x"]}"#);
        check("", &["a={ b = 1, c.d = 2 }"], r#"{"a":{"b":1,"c":{"d":2}}}"#);
        check("", &["'a.b'.c=1"], r#"{"a.b":{"c":1}}"#);
    }

    #[test]
    fn what_is_not_toml_is_a_string() {
        check("", &["a=builtin:x"], r#"{"a":"builtin:x"}"#);
        check("", &["a=data/x.jsonl"], r#"{"a":"data/x.jsonl"}"#);
        check("", &["a=1=2"], r#"{"a":"1=2"}"#);
        check("", &["a="], r#"{"a":""}"#);
        check("", &["a=\"1\""], r#"{"a":"1"}"#);
        check("", &["a=[1"], r#"{"a":"[1"}"#);
        check("", &["a=1\nb=2"], "{\"a\":\"1\\nb=2\"}");
    }

    #[test]
    fn bad_arguments_are_refused() {
        check("", &["a"], "`--set a` has no `=`");
        check("", &["=1"], "`--set =1` does not begin with a dotted key");
        check("", &["a..b=1"], "`--set a..b=1` does not begin with a dotted key");
        check("", &["a b=1"], "`--set a b=1` does not begin with a dotted key");
        check("", &["a\nb=1"], "`--set a\nb=1` does not begin with a dotted key");
        check("a = 1", &["a.b=1"], "`a` is an integer, it has no key `b`");
        check("a = [1]", &["a.1=1"], "`a` has no entry `1`");
        check("a = [1]", &["a.x=1"], "`a` has no entry `x`");
        check("a = [1]", &["a.-1=1"], "`a` has no entry `-1`");
    }

    #[test]
    fn json_has_no_infinity_and_sorted_keys() {
        check("b = 1\na = 2", &[], r#"{"a":2,"b":1}"#);
        check("a = inf", &[], "a number that is not finite cannot be handed to a plugin");
        check("a = nan", &[], "a number that is not finite cannot be handed to a plugin");
        check("a = 1e999", &[], "a number that is not finite cannot be handed to a plugin");
        check(
            "a = 99999999999999999999",
            &[],
            "an integer of more than 64 bits cannot be handed to a plugin",
        );
        check("a = 0x10\nb = 0b11", &[], r#"{"a":16,"b":3}"#);
        check("a = 1979-05-27", &[], r#"{"a":"1979-05-27"}"#);
        check("a = 1_000", &[], r#"{"a":1000}"#);
    }
}
