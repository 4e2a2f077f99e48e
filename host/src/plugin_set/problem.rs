//! What is wrong with a plugin set, with the line it stands on.

use std::{fmt, io, ops::Range, path::PathBuf};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{
    lock::LockError,
    typed::{OverrideError, Place},
};
use crate::{pack::PackError, shown::is_hidden};

/// Why there is no plugin set.
#[derive(Debug, thiserror::Error)]
pub enum PluginSetError {
    /// Neither a file nor an embedded set has the name.
    #[error("no plugin set `{name}`: neither a file nor the name of an embedded one")]
    Missing {
        /// What was asked for.
        name: String,
        /// The names that are there.
        embedded: Vec<String>,
    },
    /// A folder was given.
    #[error("plugin set `{}` is a folder", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read plugin set `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// It is longer than any plugin set.
    #[error("plugin set `{}` has more than 256 KiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("plugin set `{}` is not UTF-8, from line {line} on", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A folder's name cannot stand in `run.json`.
    #[error("the path of folder `{}` is not UTF-8", path.display())]
    FolderNotUtf8 {
        /// The folder.
        path: PathBuf,
    },
    /// A pack cannot be opened.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A `--set` argument cannot be read.
    #[error(transparent)]
    Override(#[from] OverrideError),
    /// The lock beside it cannot be read.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A key or value is wrong.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

impl PluginSetError {
    /// Returns the way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            PluginSetError::Missing { name, embedded } => {
                let stem = name.strip_prefix("builtin:").unwrap_or(name);
                let stem = stem.strip_suffix(".toml").unwrap_or(stem);
                match closest(stem, embedded.iter().map(String::as_str)) {
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None if embedded.is_empty() => None,
                    None => Some(format!("embedded are {}", list(embedded))),
                }
            }
            PluginSetError::Folder { .. } => Some("name the TOML file in it".to_owned()),
            PluginSetError::TooLarge { .. } => {
                Some("it names its data in files of their own, under `[data]`".to_owned())
            }
            PluginSetError::NotUtf8 { .. } => Some("save it as UTF-8".to_owned()),
            PluginSetError::Override(_) => Some(
                "write `--set KEY=VALUE`, for example `--set generate.temperature=0.5`".to_owned(),
            ),
            PluginSetError::Pack(error) => error.hint(),
            PluginSetError::Lock(error) => error.hint(),
            PluginSetError::Invalid(invalid) => invalid.hint.clone(),
            PluginSetError::Read { .. } | PluginSetError::FolderNotUtf8 { .. } => None,
        }
    }
}

/// A key or value that is wrong; displayed with its place, without its hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong, naming the key.
    pub message: String,
    /// The place, drawn over several lines.
    pub excerpt: String,
    /// The way out, where one is known.
    pub hint: Option<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.message, self.excerpt)
    }
}

/// What is wrong, before it is known how to draw the place.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub message: String,
    place: Place,
    label: String,
    hint: Option<String>,
}

impl Problem {
    pub fn new(message: impl Into<String>, place: &Place) -> Problem {
        Problem { message: message.into(), place: place.clone(), label: String::new(), hint: None }
    }

    /// Says what was expected, beside the carets.
    pub fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// Points at the nearest of `candidates`, if one is near.
    pub fn suggest<'a>(
        self,
        typed: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Problem {
        match closest(typed, candidates) {
            Some(near) => self.hint(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    pub fn has_hint(&self) -> bool {
        self.hint.is_some()
    }

    /// Draws the place, in the file `name` with this `text` or in one of the `arguments`.
    pub fn locate(self, name: &str, text: &str, arguments: &[&str]) -> PluginSetError {
        let excerpt = match self.place {
            Place::File(span) => file_excerpt(name, text, span, &self.label),
            Place::Argument(index) => {
                let argument = arguments.get(index).copied().unwrap_or_default();
                argument_excerpt(argument, &self.label)
            }
        };
        PluginSetError::Invalid(Box::new(Invalid {
            message: printable(&self.message),
            excerpt,
            hint: self.hint.map(|hint| printable(&hint)),
        }))
    }
}

/// Columns of a drawn line.
const WIDTH: usize = 100;

fn file_excerpt(name: &str, text: &str, span: Range<usize>, label: &str) -> String {
    // Errors at the end of the file point behind its last character.
    let start = floor_char_boundary(text, span.start);
    let end = floor_char_boundary(text, span.end.max(start));
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let number = text[..line_start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;

    let line = text[line_start..line_end].trim_end_matches('\r');
    let before = printable(&text[line_start..start]);
    let marked = printable(&text[start..end.min(line_start + line.len()).max(start)]);
    let line = printable(line);
    let (line, before) = clip(line, before);
    let carets = marked.width().max(1).min(WIDTH.saturating_sub(before.width()).max(1));

    let digits = number.to_string().len().max(2);
    let gutter = " ".repeat(digits);
    let pointer = format!("{}{}", " ".repeat(before.width()), "^".repeat(carets));
    let indent = " ".repeat(pointer.width());
    let mut drawn = vec![
        format!("{gutter}--> {name}:{number}:{column}"),
        format!("{gutter} |"),
        format!("{number:>digits$} | {line}"),
    ];
    let labels = wrap(label, WIDTH.saturating_sub(pointer.width() + 1).max(40));
    for (index, label) in labels.iter().enumerate() {
        let left = if index == 0 { &pointer } else { &indent };
        drawn.push(format!("{gutter} | {left} {label}"));
    }
    drawn.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn argument_excerpt(argument: &str, label: &str) -> String {
    let mut drawn = format!("  --> {}", printable(argument));
    if !label.is_empty() {
        drawn.push_str("\n   |");
        for line in wrap(label, WIDTH) {
            drawn.push_str(&format!("\n   = {line}"));
        }
    }
    drawn
}

/// Cuts a long line down to what stands around its column; `before` is the part left of it.
fn clip(line: String, before: String) -> (String, String) {
    if line.width() <= WIDTH {
        return (line, before);
    }
    let column = before.chars().count();
    let skip = column.saturating_sub(WIDTH / 3);
    let lead = if skip > 0 { "…" } else { "" };
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width < WIDTH
    };
    let kept: String = line.chars().skip(skip).take_while(fits).collect();
    let tail = if line.chars().count() > skip + kept.chars().count() { "…" } else { "" };
    let before: String = before.chars().skip(skip).collect();
    (format!("{lead}{kept}{tail}"), format!("{lead}{before}"))
}

/// Replaces tabs and what would move the cursor.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("    "),
            '\n' => shown.push('⏎'),
            c if is_hidden(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a last line");
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// Returns the candidate that a person most likely meant, if one is near enough.
pub(crate) fn closest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().replace('-', "_");
    let typed = fold(typed);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&typed, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| {
            let letters = candidate.chars().count();
            *distance <= (letters / 3).max(1) && *distance < letters
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns "`a`, `b`".
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, span: Range<usize>, label: &str, expected: &str) {
        assert_eq!(file_excerpt("f", text, span, label), expected);
    }

    #[test]
    fn excerpts_point_at_the_span() {
        check("a = 1", 0..1, "x", "  --> f:1:1\n   |\n 1 | a = 1\n   | ^ x");
        check("a = 1\r\nbb = 2\r\n", 7..9, "", "  --> f:2:1\n   |\n 2 | bb = 2\n   | ^^");
        check("", 0..0, "x", "  --> f:1:1\n   |\n 1 |\n   | ^ x");
        check("\ta = 1", 1..2, "x", "  --> f:1:2\n   |\n 1 |     a = 1\n   |     ^ x");
        check("日本 = 1", 9..10, "x", "  --> f:1:6\n   |\n 1 | 日本 = 1\n   |        ^ x");
        check("a = [\n1]", 4..8, "x", "  --> f:1:5\n   |\n 1 | a = [\n   |     ^ x");
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let text = "ä\n日本語";
        for start in 0..15 {
            for end in 0..15 {
                file_excerpt("f", text, start..end, "x");
            }
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}KEY = {}", "x ".repeat(200), "y".repeat(5000));
        let drawn = file_excerpt("f", &text, 400..403, "here");
        assert!(drawn.contains("KEY = y"), "{drawn}");
        assert!(drawn.lines().all(|line| line.width() < 150), "{drawn}");
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[2].find("KEY").map(|at| lines[2][..at].width()), lines[3].find('^'));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let drawn = file_excerpt("f", "a = \"\u{1b}[2J\u{202e}\u{2066}\"", 0..1, "x");
        assert!(!drawn.contains(['\u{1b}', '\u{202e}', '\u{2066}']), "{drawn:?}");
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let check = |typed: &str, expected: Option<&str>| {
            let keys = ["temperature", "top_p", "r", "max_new_tokens"];
            assert_eq!(closest(typed, keys), expected, "{typed}");
        };
        check("temperatur", Some("temperature"));
        check("Temperature", Some("temperature"));
        check("top-p", Some("top_p"));
        check("max_tokens", Some("max_new_tokens"));
        check("t", None);
        check("something_else", None);
    }
}
