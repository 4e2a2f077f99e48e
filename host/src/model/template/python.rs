//! What templates expect of Python: how values print, JSON, `strip`, and the clock.

use minijinja::value::{Kwargs, StringInput, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::date::Date;

/// Makes an environment behave as Jinja does in Python.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", |text: StringInput<'_>, letters: Option<String>| {
        strip(text.as_str(), letters.as_deref(), true, true).to_owned()
    });
}

/// Returns `strftime_now` for a day.
pub(super) fn clock(date: Date) -> impl Fn(String) -> Result<String, Error> {
    move |pattern: String| {
        date.format(&pattern).map_err(|directive| {
            let what = format!("asks `strftime_now` for `{directive}`, which is not known here");
            Error::new(ErrorKind::InvalidOperation, what)
        })
    }
}

/// Returns a setting as a template sees it.
pub(super) fn value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::from(number),
            None => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(self::value).collect(),
        serde_json::Value::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, item)| (key.as_str(), self::value(item))))
        }
    }
}

/// Python's methods of strings, lists and dictionaries.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let sides = match name {
        "strip" => (true, true),
        "lstrip" => (true, false),
        "rstrip" => (false, true),
        // The filters of the same name count the bytes that they make before these are there.
        "replace" if args.len() == 2 && value.as_str().is_some() => {
            return state
                .apply_filter("replace", &[value.clone(), args[0].clone(), args[1].clone()]);
        }
        "join" if args.len() == 1 && value.as_str().is_some() => {
            return state.apply_filter("join", &[args[0].clone(), value.clone()]);
        }
        "replace" | "format" if value.as_str().is_some_and(|text| is_long(text, name, args)) => {
            return Err(ErrorKind::OutOfFuel.into());
        }
        _ => return unknown_method_callback(state, value, name, args),
    };
    match (value.as_str(), args) {
        (Some(text), []) => Ok(Value::from(strip(text, None, sides.0, sides.1))),
        (Some(text), [letters]) if letters.as_str().is_some() => {
            Ok(Value::from(strip(text, letters.as_str(), sides.0, sides.1)))
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// The longest text that a method or `tojson` makes, in bytes.
const MOST_BYTES: usize = 4 << 20;

/// Returns whether a method of a text would make too long a one: of a template as `"{:>1000000}"`, or where a piece is
/// replaced by a long one so many times.
fn is_long(text: &str, name: &str, args: &[Value]) -> bool {
    match (name, args) {
        ("replace", [_, new, count, ..]) => {
            let count = count.as_i64().and_then(|count| usize::try_from(count).ok());
            let count = count.unwrap_or(usize::MAX).min(text.len() + 1);
            let new = new.as_str().map_or(0, str::len);
            count.saturating_mul(new).saturating_add(text.len()) > MOST_BYTES
        }
        ("format", _) => text.split('{').skip(1).any(|field| {
            let field = field.split('}').next().unwrap_or(field);
            field.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4)
        }),
        _ => false,
    }
}

/// Takes the bytes that a value has about, as JSON, from those that are left; fails where there are none.
fn weigh(value: &Value, left: &mut usize) -> Result<(), Error> {
    let own = 8 + value.as_str().map_or(0, str::len);
    *left = left.checked_sub(own).ok_or(ErrorKind::OutOfFuel)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| weigh(&item, left))
        }
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            weigh(&key, left)?;
            weigh(&value.get_item(&key)?, left)
        }),
        _ => Ok(()),
    }
}

/// Bytes that end.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(std::io::Error::other("it is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `str.strip`: besides what Unicode calls white space, Python takes off the four separators
/// U+001C to U+001F.
fn strip<'a>(text: &'a str, letters: Option<&str>, left: bool, right: bool) -> &'a str {
    let off = |letter: char| match letters {
        Some(letters) => letters.contains(letter),
        None => letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter),
    };
    let text = if left { text.trim_start_matches(off) } else { text };
    if right { text.trim_end_matches(off) } else { text }
}

/// Prints truth values and nothing as Python does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::None => "None",
        _ => {
            // What is charged for once it is printed has to have an end before.
            if value.as_object().is_some() {
                weigh(value, &mut { MOST_BYTES })?;
            }
            return minijinja::escape_formatter(out, state, value);
        }
    };
    out.write_str(text).map_err(Error::from)
}

/// Python's `json.dumps(value, ensure_ascii=False)` and its options: a space after commas and colons, and nothing
/// escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let fail = |error: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    };
    let mut value = json(value)?;
    if sorted {
        value.sort_all_objects();
    }
    let mut bytes = Bounded::default();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            serde::Serialize::serialize(
                &value,
                &mut Serializer::with_formatter(&mut bytes, formatter),
            )
        }
        None => serde::Serialize::serialize(
            &value,
            &mut Serializer::with_formatter(&mut bytes, OneLine),
        ),
    }
    .map_err(fail)?;
    let text = String::from_utf8(bytes.0)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON"))?;
    Ok(if ascii { escape_non_ascii(&text) } else { text })
}

fn escape_non_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_ascii() {
            true => out.push(letter),
            false => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out
}

fn json(value: &Value) -> Result<serde_json::Value, Error> {
    // What is too long is so before it is escaped for HTML and read again.
    let mut left = MOST_BYTES;
    weigh(value, &mut left)?;
    let compact =
        minijinja::filters::tojson(value, None, Kwargs::from_iter::<[(&str, Value); 0]>([]))?;
    serde_json::from_str(compact.as_str().unwrap_or("null")).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    })
}

/// One line with a space after commas and colons.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
