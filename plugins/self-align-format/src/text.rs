//! What the rules do to texts. Every function takes time linear in its input, up to a logarithm.

use std::collections::BTreeSet;

/// Returns what stands before the first of the markers, each at the start of a paragraph.
pub(crate) fn before_next_turn<'a>(answer: &'a str, markers: &[&str]) -> Option<&'a str> {
    let at = markers.iter().filter_map(|marker| match marker.starts_with('\n') {
        true => answer.find(marker),
        false => answer.find(&format!("\n\n{marker}")),
    });
    at.min().map(|at| &answer[..at])
}

/// Cuts a text where a clause repeats an earlier one exactly, leading space included. Clauses end
/// after a line break or one of `. ? ! ; : ,`; those of fewer than `words` words, and those
/// without any letter or digit, do not count.
pub(crate) fn before_loop(text: &str, words: usize) -> Option<&str> {
    let mut seen = BTreeSet::new();
    let mut start = 0;
    for clause in text.split_inclusive(['\n', '.', '?', '!', ';', ':', ',']) {
        let counts =
            clause.contains(char::is_alphanumeric) && clause.split_whitespace().count() >= words;
        if counts && !seen.insert(clause) {
            return Some(&text[..start]);
        }
        start += clause.len();
    }
    None
}

/// Drops the last word, which may be half of one. A single word is all lost.
pub(crate) fn without_last_word(text: &str) -> &str {
    text.trim_end().rsplit_once(char::is_whitespace).map_or("", |(before, _)| before.trim_end())
}

/// Returns what ends with the last `.`, `!` or `?`, or their like in other scripts.
pub(crate) fn sentences(text: &str) -> Option<&str> {
    let (at, end) = text.rmatch_indices(['.', '!', '?', '。', '！', '？', '؟', '।']).next()?;
    Some(&text[..at + end.len()])
}

/// Says whether a text contains something like `3 (helpful)`: a number of one or two digits and a
/// name of letters, spaces and hyphens in parentheses.
pub(crate) fn cites_a_rule(text: &str) -> bool {
    text.match_indices(" (").any(|(at, _)| {
        let before = &text.as_bytes()[..at];
        let digits = before.iter().rev().take(3).take_while(|byte| byte.is_ascii_digit()).count();
        let name = &text[at + 2..];
        // No rule has a longer name; the bound keeps the search linear.
        let end = name.bytes().take(40).position(|byte| byte == b')').unwrap_or(0);
        let is_name = |byte: u8| byte.is_ascii_alphabetic() || byte == b' ' || byte == b'-';
        (1..=2).contains(&digits) && end > 2 && name.bytes().take(end).all(is_name)
    })
}

/// Returns a text's words in lower case: runs of letters and digits, with apostrophes inside.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|word| word.trim_matches(['\'', '’']).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Returns the share of different runs of `n` words among all such runs, in [0, 1]; 1 for texts of
/// fewer than eight words, which repeat some by chance.
pub(crate) fn distinct(words: &[String], n: usize) -> f64 {
    if words.len() < 8.max(n) {
        return 1.0;
    }
    let all = words.len() + 1 - n;
    words.windows(n).collect::<BTreeSet<_>>().len() as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_cut_at_the_first_repeated_clause() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(before_loop(text, 1).map(str::trim_end), expected, "{text}");
        };
        check("Yes, yes, yes, ok.", Some("Yes, yes,"));
        check("One.Two.One.Two.", Some("One.Two."));
        check("Hi\nHi\nThere", Some("Hi"));
        check("A cat. A dog. A cat. More text.", None);
        check("Well... then, no.", None);
        check("1. a\n2. b\n1. c", Some("1. a\n2. b"));
        check("", None);
        check("no delimiter at all", None);
    }

    #[test]
    fn short_clauses_can_be_let_through() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(before_loop(text, 3).map(str::trim_end), expected, "{text}");
        };
        check("Yes, yes, yes, ok.", None);
        check(
            "So I am glad, and I am glad, and I am glad, too.",
            Some("So I am glad, and I am glad,"),
        );
    }

    #[test]
    fn a_next_turn_ends_the_answer() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(before_next_turn(text, &["\n\nUser:", "Thoughts:"]), expected, "{text:?}");
        };
        check("Fine.\n\nUser: And?\n\nThoughts: x", Some("Fine."));
        check("Fine.\n\nThoughts: x\n\nUser: And?", Some("Fine."));
        check("\n\nUser: And?", Some(""));
        check("The word User: in a line", None);
        check("Fine.\nUser: one line break", None);
    }

    #[test]
    fn half_words_and_sentences_are_cut() {
        assert_eq!(without_last_word("one two thr"), "one two");
        assert_eq!(without_last_word("one\u{a0}two "), "one");
        assert_eq!(without_last_word("one"), "");
        assert_eq!(without_last_word(""), "");
        assert_eq!(sentences("One. Two? Thr"), Some("One. Two?"));
        assert_eq!(sentences("一。二"), Some("一。"));
        assert_eq!(sentences("no end"), None);
    }

    #[test]
    fn citations_of_rules_are_told_from_other_parentheses() {
        let check = |text: &str, expected: bool| assert_eq!(cites_a_rule(text), expected, "{text}");
        check("there are 2 (candor).", true);
        check("13 (step-by-step), 5 (reasoning)", true);
        check("4 (question assessment)", true);
        check("in 1990 (the year)", false);
        check("12 (3 x 4)", false);
        check("two (helpful)", false);
        check("5 (", false);
        check("(a) and 5 ()", false);
    }

    #[test]
    fn distinct_shares_fall_with_repetition() {
        let check = |text: &str, n: usize, expected: f64| {
            let share = distinct(&words(text), n);
            assert!((share - expected).abs() < 1e-9, "{text}: {share}");
        };
        check("a a a a a a a a", 1, 1.0 / 8.0);
        check("a b c d e f g h", 3, 1.0);
        check("a b c a b c a b c a", 3, 3.0 / 8.0);
        check("no no no", 1, 1.0);
        check("", 3, 1.0);
    }

    #[test]
    fn words_keep_apostrophes_inside() {
        assert_eq!(words("\"Don't!\" 'he' said—twice."), ["don't", "he", "said", "twice"]);
        assert!(words("?! … 🙂").is_empty());
    }
}
