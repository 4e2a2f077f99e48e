//! What can be counted in a text.

/// Returns the number of runs of letters, digits and underscores.
pub(super) fn words(text: &str) -> usize {
    text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns whether a word stands in a text with no letter, digit or underscore beside it.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let ends = (word.chars().next().is_some_and(is_word), word.chars().last().is_some_and(is_word));
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(is_word);
        let after = text[at + word.len()..].chars().next().is_some_and(is_word);
        !(ends.0 && before || ends.1 && after)
    })
}

/// What ends in a point within a sentence, in lower case.
const ABBREVIATIONS: [&str; 26] = [
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "cf", "fig", "approx", "inc", "ltd",
    "co", "corp", "dept", "gen", "col", "capt", "rev", "hon", "vol", "ed", "pp", "ca",
];

/// Returns the number of sentences: parts with a letter or digit that end in `.`, `!`, `?` or their like
/// before white space, or at the end of the text.
///
/// A point ends none after an abbreviation, an initial or the number of a list, and several points none
/// before a small letter. A new line by itself ends none.
pub(super) fn sentences(text: &str) -> usize {
    let chars: Vec<char> = text.chars().collect();
    let (mut count, mut open, mut word_from, mut at) = (0, false, 0, 0);
    while at < chars.len() {
        let c = chars[at];
        if c.is_whitespace() {
            word_from = at + 1;
        }
        open |= c.is_alphanumeric();
        if !is_end(c) {
            at += 1;
            continue;
        }
        let word: String = chars[word_from..at].iter().collect();
        let first = at;
        while at < chars.len() && (is_end(chars[at]) || is_closing(chars[at])) {
            at += 1;
        }
        // Only one point can be a part of its word.
        let point = c == '.' && chars[first + 1..at].iter().all(|c| !is_end(*c));
        let wide = matches!(c, '。' | '！' | '？');
        let apart = wide || chars.get(at).is_none_or(|c| c.is_whitespace());
        let next = chars[at..].iter().find(|c| !c.is_whitespace());
        let may_go_on = c == '…' || (c == '.' && !point) || word.eq_ignore_ascii_case("etc");
        let goes_on = may_go_on && next.is_some_and(|c| c.is_lowercase());
        let first_in_line =
            chars[..word_from].iter().rev().find(|c| **c == '\n' || !c.is_whitespace());
        let of_list = first_in_line.is_none_or(|c| *c == '\n') && is_list_number(&word);
        let within = point && next.is_some() && (of_list || ends_in_point(&word));
        if open && apart && !goes_on && !within {
            count += 1;
            open = false;
        }
    }
    count + usize::from(open)
}

fn is_end(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '。' | '！' | '？' | '।' | '؟' | '۔')
}

fn is_closing(c: char) -> bool {
    matches!(c, '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '*' | '_' | '」' | '』')
}

/// Returns whether the point after a word belongs to it.
fn ends_in_point(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
    let mut chars = word.chars();
    match (chars.next(), chars.next()) {
        (Some(only), None) if only.is_uppercase() && only != 'I' => return true,
        _ => {}
    }
    let dotted = word.contains('.') && word.split('.').all(|part| part.chars().count() == 1);
    dotted || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

fn is_list_number(word: &str) -> bool {
    !word.is_empty() && word.len() < 4 && word.chars().all(|c| c.is_ascii_digit())
}

/// Returns the number of words all of whose letters are capital ones; one with a hyphen is one word.
pub(super) fn capital_words(text: &str) -> usize {
    let parts = text.split(|c: char| c.is_whitespace() || ",;:@#$%&?!()[]{}<>\"“”".contains(c));
    parts.flat_map(|part| part.split("--")).filter(|word| is_upper(word)).count()
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

/// Returns the number of lines that begin with `-`, or with one `*` and no second one.
pub(super) fn bullets(text: &str) -> usize {
    let is_bullet = |line: &&str| {
        let line = line.trim_start();
        let starred =
            line.strip_prefix('*').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('*'));
        starred || line.starts_with('-')
    };
    text.lines().filter(is_bullet).count()
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
        behind.starts_with(|c: char| c.is_numeric())
    };
    text.match_indices(marker).filter(numbered).count()
}

/// Returns whether all of a text is JSON, perhaps within a fence of three backticks.
pub(super) fn is_json(text: &str) -> bool {
    let mut inside = text.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        inside = inside.strip_prefix(fence).unwrap_or(inside);
    }
    let inside = inside.strip_suffix("```").unwrap_or(inside).trim();
    serde_json::from_str::<serde_json::Value>(inside).is_ok()
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
