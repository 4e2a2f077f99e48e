//! Which of two letters a judge's words choose.

/// Which of the two answers that were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The first, answer A.
    A,
    /// The second, answer B.
    B,
}

/// Reads the choice. The first of these that tells the letters apart counts:
///
/// 1. the letter is all there is, in either case;
/// 2. one letter stands in brackets, `[[A]]` or `(B)`;
/// 3. the text begins with the letter, and not with `A and B`;
/// 4. one letter follows a word such as `answer`, `choose` or `is`, before the first `than`;
/// 5. one letter occurs, before the first `than`.
///
/// From the second on, letters are capitals; an `A` before a word is an article unless that word is
/// one such as `is`.
pub(crate) fn letter(text: &str) -> Option<Side> {
    let words = words(text);
    if let [only] = words.as_slice() {
        return side(&only.text.to_ascii_uppercase());
    }
    let letters: Vec<(usize, Side)> = words
        .iter()
        .enumerate()
        .filter(|(i, word)| !is_article(word, words.get(i + 1)))
        .filter_map(|(i, word)| Some((i, side(word.text)?)))
        .collect();
    let bracketed = letters.iter().filter(|(i, _)| words[*i].bracketed);
    let joined = words.get(1).is_some_and(|word| ["and", "or"].contains(&word.text));
    let first = letters.first().filter(|(i, _)| *i == 0 && !joined);
    let than = words.iter().position(|word| word.text.eq_ignore_ascii_case("than"));
    let before: Vec<_> =
        letters.iter().filter(|(i, _)| than.is_none_or(|than| *i < than)).collect();
    let is_cue = |i: &usize| {
        i.checked_sub(1).is_some_and(|before| {
            CUES.iter().any(|cue| words[before].text.eq_ignore_ascii_case(cue))
        })
    };
    let cued = before.iter().filter(|(i, _)| is_cue(i));
    agreed(bracketed.map(|(_, side)| *side))
        .or(first.map(|(_, side)| *side))
        .or_else(|| agreed(cued.map(|(_, side)| *side)))
        .or_else(|| agreed(before.iter().map(|(_, side)| *side)))
}

/// Words that a choice follows.
const CUES: [&str; 14] = [
    "answer",
    "answers",
    "assistant",
    "better",
    "best",
    "choice",
    "choose",
    "is",
    "option",
    "prefer",
    "reply",
    "response",
    "verdict",
    "winner",
];

/// Words that follow the letter `A` where it is no article.
const VERBS: [&str; 11] =
    ["and", "as", "because", "gives", "has", "is", "or", "over", "since", "was", "wins"];

/// A word, and how it stands in its text.
struct Word<'a> {
    text: &'a str,
    /// Between brackets.
    bracketed: bool,
    /// Followed by nothing but spaces before the next word.
    leads_on: bool,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(start) = rest.find(char::is_alphanumeric) {
        before = rest[..start].chars().next_back().unwrap_or(before);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        let next = after.chars().next();
        let gap = after.find(char::is_alphanumeric).map(|gap| &after[..gap]);
        words.push(Word {
            text,
            bracketed: matches!((before, next), ('[', Some(']')) | ('(', Some(')'))),
            leads_on: gap.is_some_and(|gap| gap.chars().all(|c| c == ' ')),
        });
        rest = after;
    }
    words
}

fn side(word: &str) -> Option<Side> {
    match word {
        "A" => Some(Side::A),
        "B" => Some(Side::B),
        _ => None,
    }
}

fn is_article(word: &Word<'_>, next: Option<&Word<'_>>) -> bool {
    let verb = |next: &Word<'_>| VERBS.iter().any(|it| next.text.eq_ignore_ascii_case(it));
    word.text == "A" && word.leads_on && next.is_some_and(|next| !verb(next))
}

/// Returns what all say, where any says something.
fn agreed(mut sides: impl Iterator<Item = Side>) -> Option<Side> {
    let first = sides.next()?;
    sides.all(|side| side == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    #[test]
    fn choices_are_read_with_tolerance() {
        let check = |text: &str, expected: Option<Side>| {
            assert_eq!(letter(text), expected, "{text}");
        };
        let (a, b) = (Some(Side::A), Some(Side::B));
        check("A", a);
        check(" b.\n", b);
        check("**B**", b);
        check("\"A\"", a);
        check("[[B]]", b);
        check("My verdict for answer A and answer B: [[B]]", b);
        check("(A)", a);
        check("B because it is true.", b);
        check("A. It says why.", a);
        check("A\nIt says why.", a);
        check("A is better, B is wrong", a);
        check("Answer B", b);
        check("The better answer is A.", a);
        check("Answer B is better than Answer A.", b);
        check("I prefer B over A", b);
        check("A better answer is B", b);
        check("A clear case: the second, B, says why", b);
        check("Verdict: A", a);
        check("A and B are equal", None);
        check("Both answer A and answer B are good.", None);
        check("A good answer would say why", None);
        check("neither", None);
        check("a better one", None);
        check("C", None);
        check("AB", None);
        check("", None);
    }

    #[test]
    fn awkward_texts_choose_nothing() {
        for text in testing::awkward_texts() {
            assert_eq!(letter(&text), None, "{}", text.chars().take(80).collect::<String>());
        }
    }
}
