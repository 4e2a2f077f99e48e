//! What the rules look for. Each function takes time linear in its text.

/// Who speaks next, or what comes next, in a talk that runs on.
const TURNS: [&str; 6] = ["assistant", "system", "human", "question", "output", "user"];

/// Says whether a line after the first begins with the name of a turn and a colon, or is nothing
/// but that name and not the last line. `lower` is in lower case.
pub(crate) fn next_turn(lower: &str) -> bool {
    lower.match_indices('\n').any(|(at, _)| {
        let line = &lower[at + 1..];
        TURNS
            .iter()
            .any(|turn| line.strip_prefix(turn).is_some_and(|rest| rest.starts_with([':', '\n'])))
    })
}

/// Says whether `answer choices:` stands in a text, with any one white space in it.
pub(crate) fn choices(lower: &str) -> bool {
    follows(lower, "answer", |rest| {
        let mut rest = rest.chars();
        rest.next().is_some_and(char::is_whitespace) && rest.as_str().starts_with("choices:")
    })
}

/// Says whether a line after the first begins with `can you`, an empty line before it or not.
pub(crate) fn can_you(lower: &str) -> bool {
    lower.contains("\ncan you")
}

/// Says whether `do you ` is followed by a question mark on its line, 1 to 50 characters later.
pub(crate) fn do_you_question(lower: &str) -> bool {
    follows(lower, "do you ", |rest| question_within(rest, 50))
}

/// Says whether `do you ` is followed by anything on its line.
pub(crate) fn do_you(lower: &str) -> bool {
    follows(lower, "do you ", |rest| !rest.is_empty() && !rest.starts_with('\n'))
}

/// Says whether a paragraph after the first has a question mark on its first line, 1 to 100
/// characters later.
pub(crate) fn follow_up(text: &str) -> bool {
    follows(text, "\n\n", |rest| question_within(rest, 100))
}

/// Says whether an ideograph of U+4E00 to U+9FFF stands in a text.
pub(crate) fn ideograph(text: &str) -> bool {
    text.contains(|c| matches!(c, '\u{4e00}'..='\u{9fff}'))
}

/// Says whether a line begins with the label of an option, such as `B.`, `b)` or `(B)`.
pub(crate) fn option_line(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix('(').unwrap_or(line);
        let rest = line.strip_prefix(is_option);
        rest.and_then(|rest| rest.strip_prefix(['.', ')'])).is_some_and(|rest| {
            // `e.g.` and `a.m.` are no labels.
            !rest.starts_with(char::is_alphanumeric)
        })
    })
}

/// Says whether a word of one letter A to E stands before a full stop, or such a letter in
/// parentheses.
pub(crate) fn option_anywhere(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(is_option).any(|(at, letter)| {
        let (before, after) = (&text[..at], &text[at + letter.len()..]);
        after.starts_with('.') && !before.ends_with(word)
            || after.starts_with(')') && before.ends_with('(')
    })
}

/// Says whether 1 to 20 characters of one line stand in angle brackets.
pub(crate) fn in_brackets(text: &str) -> bool {
    follows(text, "<", |rest| {
        rest.chars().take(21).take_while(|&c| c != '\n').skip(1).any(|c| c == '>')
    })
}

/// Returns a text without the labels `答案:` and `答案：` at its beginning, each with one white
/// space before and after it where there is one.
pub(crate) fn without_answer_labels(text: &str) -> &str {
    let mut rest = text;
    loop {
        let label = rest.strip_prefix(char::is_whitespace).unwrap_or(rest);
        let Some(after) = label.strip_prefix("答案").and_then(|it| it.strip_prefix([':', '：']))
        else {
            return rest;
        };
        rest = after.strip_prefix(char::is_whitespace).unwrap_or(after);
    }
}

/// Says whether `condition` holds for what follows any occurrence of a text.
fn follows(text: &str, what: &str, condition: impl Fn(&str) -> bool) -> bool {
    // Every occurrence, also of those that overlap: after three line breaks there are two.
    let mut start = 0;
    while let Some(at) = text[start..].find(what) {
        if condition(&text[start + at + what.len()..]) {
            return true;
        }
        start += at + what.chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// Says whether a question mark stands on the line, after 1 to `characters` other characters.
fn question_within(rest: &str, characters: usize) -> bool {
    rest.chars().take(characters + 1).take_while(|&c| c != '\n').skip(1).any(|c| c == '?')
}

fn is_option(c: char) -> bool {
    matches!(c, 'A'..='E' | 'a'..='e')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> bool, yes: &[&str], no: &[&str]) {
        yes.iter().for_each(|text| assert!(rule(text), "{text:?}"));
        no.iter().for_each(|text| assert!(!rule(text), "{text:?}"));
        assert!(!rule(""));
    }

    #[test]
    fn turns_and_questions_are_told_from_prose() {
        check(
            next_turn,
            &["fine.\nuser: more", "fine.\n\nhuman\nmore", "\noutput:"],
            &["user: fine", "fine.\nusers: two", "fine.\nthe user: me", "fine.\nuser"],
        );
        check(
            choices,
            &["answer choices: a", "x answer\nchoices:"],
            &["answerchoices:", "answer  choices:"],
        );
        check(can_you, &["fine.\ncan you", "fine.\n\ncan you help"], &["can you", "how can you"]);
        check(
            do_you_question,
            &["how do you do?", "do you\ndo you go?"],
            &["what do you do.", "do you ?", "do you go\n?"],
        );
        check(do_you, &["as do you x", "do you ?"], &["do you", "do you ", "do you \n", "do your"]);
        check(
            follow_up,
            &["fine.\n\nmore?", "fine.\n\n\nmore?"],
            &["fine? more?", "fine.\nmore?", "fine.\n\n?", "fine.\n\nmore.\n?"],
        );
    }

    #[test]
    fn distances_are_counted_in_characters() {
        let asks = |n: usize| format!("do you {}?", "é".repeat(n));
        assert!(do_you_question(&asks(50)) && !do_you_question(&asks(51)));
        let asks = |n: usize| format!("\n\n{}?", "é".repeat(n));
        assert!(follow_up(&asks(100)) && !follow_up(&asks(101)));
        let holds = |n: usize| format!("<{}>", "é".repeat(n));
        assert!(in_brackets(&holds(1)) && in_brackets(&holds(20)));
        assert!(!in_brackets(&holds(0)) && !in_brackets(&holds(21)));
    }

    #[test]
    fn labels_of_options_are_told_from_abbreviations() {
        check(
            option_line,
            &["A. Paris", "fine:\n  b) Rome", "(C) Oslo", "D."],
            &["i.e. plan B.", "e.g. this", "a.m. is morning", "A Paris", "F. x", "(a word)"],
        );
        check(
            option_anywhere,
            &["A. Paris", "plan B.", "see (a)", "i.e. this", "e.g. this"],
            &["ABBA.", "A Paris", "(ab)", "F.", "b)", "_a."],
        );
    }

    #[test]
    fn scripts_and_brackets_are_seen() {
        check(ideograph, &["the sign 水"], &["かな", "한국", "é"]);
        check(in_brackets, &["dear <name>", "<<a>"], &["<>", "a < b", "<a\n>", "a > b < c"]);
    }

    #[test]
    fn labels_of_answers_go() {
        let check = |text: &str, expected: &str| assert_eq!(without_answer_labels(text), expected);
        check("答案:Yes", "Yes");
        check(" 答案： 答案:\nYes", "Yes");
        check("Yes 答案:", "Yes 答案:");
        check("答案 Yes", "答案 Yes");
        check(" Yes", " Yes");
        check("答案:", "");
    }
}
