//! What can be counted in a text.

mod sentences;

use std::sync::LazyLock;

use fancy_regex::Regex;

pub(super) use sentences::sentences;

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is well formed")
}

/// Letters with their marks, digits, and what joins words, such as the underscore.
static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\w+"));

/// A decimal number, in the digits of any script.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d"));

/// Returns the number of runs of letters, digits and underscores.
pub(super) fn words(text: &str) -> usize {
    WORD.find_iter(text).count()
}

fn is_word(c: char) -> bool {
    WORD.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false)
}

/// Returns whether a word stands in a text with no letter, digit or underscore beside it.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let ends = (word.chars().next().is_some_and(is_word), word.chars().last().is_some_and(is_word));
    let stands = |at: usize| {
        let before = text[..at].chars().next_back().is_some_and(is_word);
        let after = text[at + word.len()..].chars().next().is_some_and(is_word);
        !(ends.0 && before || ends.1 && after)
    };
    // A word may begin within itself, as "no no" does in "casino no no".
    let mut from = 0;
    while let Some(at) = text[from..].find(word).map(|at| from + at) {
        if stands(at) {
            return true;
        }
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// What stands between words: white space, most punctuation, and commas and colons but in numbers.
/// Points, hyphens and slashes by themselves join words; an apostrophe begins one behind another mark.
static BETWEEN_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r#"[\s«»“”„‘’`;@#$%&?!*\[\](){}<>"\u{2012}-\u{2015}]|--|\.{2,}|''|[:,](?!\d)"#,
        r"|(?<!\w)'(?!(?i:re|ve|ll|m|t|s|d|n)\b)(?=\w)",
    ))
});

/// Two words that are written as one.
static MERGED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(can(?=not)|d(?='ye)|gim(?=me)|gon(?=na)|got(?=ta)|lem(?=me)|more(?='n)|wan(?=na$))",
        r"(not|'ye|me|na|ta|'n)\b",
    ))
});

/// Returns the number of words all of whose letters are capital ones, as the Penn Treebank parts words:
/// one with a hyphen or a slash is one word, one with a short form behind it is two (`IT'S`, `DON'T`),
/// and so is one of two that are written as one (`CANNOT`).
pub(super) fn capital_words(text: &str) -> usize {
    let words = BETWEEN_WORDS.split(text).filter_map(Result::ok);
    words.map(|word| capital_parts(word.strip_suffix('\'').unwrap_or(word))).sum()
}

fn capital_parts(word: &str) -> usize {
    let (word, first) = without(word, &["'s", "'S", "'m", "'M", "'d", "'D"]);
    let (word, second) = without(word, &["'ll", "'LL", "'re", "'RE", "'ve", "'VE", "n't", "N'T"]);
    let word = MERGED.try_replacen(word, 0, " $1 $2 ").unwrap_or(word.into());
    word.split(' ').chain([first, second]).filter(|part| is_upper(part)).count()
}

/// Parts the first of some endings that is there from a word.
fn without<'a>(word: &'a str, endings: &[&str]) -> (&'a str, &'a str) {
    let stem = |ending: &&str| {
        let stem = word.strip_suffix(*ending)?;
        (!stem.is_empty() && !stem.ends_with('\'')).then_some(stem)
    };
    let stem = endings.iter().find_map(stem).unwrap_or(word);
    (stem, &word[stem.len()..])
}

/// Returns whether there is a letter with a case, and none of them is small.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

/// Returns whether there is a letter with a case, and none of them is capital.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Returns the first word of a paragraph in lower case, without quotation marks before it and up to a
/// mark of punctuation.
pub(super) fn first_word(paragraph: &str) -> String {
    let word = paragraph.split_whitespace().next().unwrap_or("");
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    word.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or("").to_lowercase()
}

/// Returns the number of square brackets that close on their line.
pub(super) fn placeholders(text: &str) -> usize {
    let in_line = |line: &str| {
        let (mut rest, mut count) = (line, 0);
        while let Some((_, behind)) = rest.split_once('[')
            && let Some((_, after)) = behind.split_once(']')
        {
            rest = after;
            count += 1;
        }
        count
    };
    text.lines().map(in_line).sum()
}

/// Returns whether a postscript begins somewhere in a text of small letters. Its usual markers may have
/// white space in them.
pub(super) fn has_postscript(lower: &str, marker: &str) -> bool {
    match marker.trim() {
        "P.S." => has_spaced(lower, &["p.", "s."]),
        "P.P.S" => has_spaced(lower, &["p.", "p.", "s"]),
        marker => lower.contains(&marker.to_lowercase()),
    }
}

/// Returns whether parts follow each other with at most one white space between them.
fn has_spaced(text: &str, parts: &[&str]) -> bool {
    let follows = |mut rest: &str| {
        for (place, part) in parts.iter().enumerate() {
            if place > 0
                && let Some(c) = rest.chars().next().filter(|c| c.is_whitespace())
            {
                rest = &rest[c.len_utf8()..];
            }
            match rest.strip_prefix(part) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        true
    };
    text.match_indices(parts[0]).any(|(at, _)| follows(&text[at..]))
}

/// Returns the number of lines that begin with `-`, or with one `*` and no second one. A `*` with nothing
/// behind it is one together with the next line, and none where there is no next line.
pub(super) fn bullets(text: &str) -> usize {
    let mut lines = text.split('\n').map(str::trim_start).peekable();
    let (mut starred, mut dashed) = (0, 0);
    let mut joined = false;
    while let Some(line) = lines.next() {
        dashed += usize::from(line.starts_with('-'));
        let behind = line.strip_prefix('*').filter(|_| !joined);
        joined = behind == Some("") && lines.peek().is_some();
        starred +=
            usize::from(joined || behind.is_some_and(|c| !c.is_empty() && !c.starts_with('*')));
    }
    starred + dashed
}

/// Returns the number of texts between asterisks, one or two on each side, that are not blank.
pub(super) fn highlights(text: &str) -> usize {
    let in_line = |line: &str| {
        // Asterisks pair up from the left; what is between a pair is every second part.
        let parts: Vec<&str> = line.split('*').collect();
        let single = (1..parts.len().saturating_sub(1)).step_by(2);
        let single = single.filter(|&place| !parts[place].trim().is_empty()).count();
        let (mut rest, mut double) = (line, 0);
        while let Some(at) = rest.find("**") {
            let behind = &rest[at + 2..];
            match behind.split_once('*') {
                Some((inside, after)) if after.starts_with('*') => {
                    double += usize::from(!inside.trim().is_empty());
                    rest = &after[1..];
                }
                // Three asterisks: the second may begin a pair.
                _ => rest = &rest[at + 1..],
            }
        }
        single + double
    };
    text.lines().map(in_line).sum()
}

/// Returns how often a marker with a number behind it stands there, such as `Section 2`.
pub(super) fn sections(text: &str, marker: &str) -> usize {
    let numbered = |&(at, _): &(usize, &str)| {
        let behind = &text[at + marker.len()..];
        let behind = match behind.chars().next().filter(|c| c.is_whitespace()) {
            Some(c) => &behind[c.len_utf8()..],
            None => behind,
        };
        NUMBER.is_match(behind).unwrap_or(false)
    };
    text.match_indices(marker).filter(numbered).count()
}

/// Returns whether all of a text is JSON, perhaps within a fence of three backticks. What its numbers and
/// escapes stand for may be out of range.
pub(super) fn is_json(text: &str) -> bool {
    let mut inside = text.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        inside = inside.strip_prefix(fence).unwrap_or(inside);
    }
    let inside = inside.strip_suffix("```").unwrap_or(inside).trim();
    serde_json::from_str::<serde::de::IgnoredAny>(inside).is_ok()
}

/// Returns whether a line has a title in double angular brackets.
pub(super) fn has_title(text: &str) -> bool {
    let in_line = |line: &str| {
        let (Some(from), Some(to)) = (line.find("<<"), line.rfind(">>")) else { return false };
        let inside = line.get(from + 2..to).unwrap_or("");
        !inside.trim_start_matches('<').trim_end_matches('>').trim().is_empty()
    };
    text.lines().any(in_line)
}
