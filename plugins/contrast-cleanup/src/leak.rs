//! Whether an answer lets on under which instructions it was written.

use std::collections::BTreeSet;

use aligner_sdk::Text;

/// Says whether a text contains one of the phrases, in lower case, that the prompt does not contain.
pub(crate) fn mentions(text: &str, phrases: &[String], prompt: &str) -> bool {
    let (text, prompt) = (text.to_lowercase(), prompt.to_lowercase());
    phrases.iter().any(|phrase| text.contains(phrase.as_str()) && !prompt.contains(phrase.as_str()))
}

/// Says whether `length` words of the instructions occur in a row in a text. Instructions are what
/// the prompt that was completed has beyond the prompt as it is. 0 is never.
pub(crate) fn repeats(text: &str, completed: &Text, plain: &Text, length: usize) -> bool {
    if length == 0 || completed == plain {
        return false;
    }
    let (shown, asked) = (words(&completed.transcript()), words(&plain.transcript()));
    let said = words(text);
    // Either may have many pages; a set of the shorter one is soon made.
    let (few, many) = if said.len() < shown.len() { (&said, &shown) } else { (&shown, &said) };
    let few: BTreeSet<&[String]> = few.windows(length).collect();
    let mut repeated: BTreeSet<&[String]> =
        many.windows(length).filter(|run| few.contains(run)).collect();
    if !repeated.is_empty() {
        asked.windows(length).for_each(|run| {
            repeated.remove(&run);
        });
    }
    !repeated.is_empty()
}

/// Returns what follows a label such as `A helpful response:` where a text begins with one.
pub(crate) fn behind_label<'a>(text: &'a str, adjectives: &[String]) -> Option<&'a str> {
    let (words, rest) = head(text.trim_start())?;
    let answer = words.last().is_some_and(|last| ANSWERS.contains(&last.as_str()));
    let adjective = words.iter().any(|word| is_adjective(word, adjectives));
    (answer && adjective).then(|| rest.trim_start_matches(['*', '_']).trim_start())
}

/// Says whether a line of a text begins with such a label, or with nothing but adjectives before a
/// colon, which the prompt does not have.
pub(crate) fn labels(text: &str, adjectives: &[String], prompt: &str) -> bool {
    let is_label = |line: &str| {
        let bare = || {
            let joins = |word: &str| ["and", "but", "yet"].contains(&word);
            let tells = |word: &str| adjectives.iter().any(|it| it == word);
            head(line).is_some_and(|(words, _)| {
                words.iter().all(|word| joins(word) || tells(word))
                    && words.iter().any(|word| tells(word))
            })
        };
        behind_label(line, adjectives).is_some() || bare()
    };
    let asked = || prompt.lines().any(is_label);
    text.lines().any(is_label) && !asked()
}

/// Words for an answer that end a label.
const ANSWERS: [&str; 3] = ["response", "answer", "reply"];

/// What a model calls an answer that it was asked to make good or bad. By itself a heading that
/// gives nothing away, as in a list of what is good and what is bad.
const RATINGS: [&str; 2] = ["good", "bad"];

fn is_adjective(word: &str, adjectives: &[String]) -> bool {
    RATINGS.contains(&word) || adjectives.iter().any(|adjective| adjective == word)
}

/// Returns the words before a colon in the text's first sentence, in lower case, and what follows the
/// colon. A label is short.
fn head(text: &str) -> Option<(Vec<String>, &str)> {
    let (at, end) =
        text.char_indices().take(80).find(|(_, c)| [':', '\n', '.', '!', '?'].contains(c))?;
    let (head, rest) = text.split_at(at);
    let words = words(head);
    (end == ':' && !words.is_empty()).then(|| (words, &rest[1..]))
}

/// Returns a text's words in lower case: runs of letters and digits, with apostrophes inside.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|word| word.trim_matches(['\'', '’']).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjectives() -> Vec<String> {
        ["accurate", "logical", "unhelpful"].map(String::from).into()
    }

    #[test]
    fn labels_before_an_answer_are_found() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(behind_label(text, &adjectives()), expected, "{text}");
        };
        check("Accurate Response: Seven.", Some("Seven."));
        check("**Accurate and logical response:** Seven.", Some("Seven."));
        check("Here is a good answer:\n\nSeven.", Some("Seven."));
        check("An unhelpful reply : No.", Some("No."));
        check("Bad response:", Some(""));
        check("The answer: seven.", None);
        check("An accurate count: seven.", None);
        check("Answers are accurate. My answer: seven.", None);
        check("An accurate answer is seven.", None);
        check("An accurate\nanswer: seven.", None);
        check(&format!("An accurate {} answer: seven.", "word ".repeat(20)), None);
        check(": seven", None);
        check("正確な回答：七", None);
        check("", None);
    }

    #[test]
    fn labels_within_an_answer_are_found() {
        let check = |text: &str, prompt: &str, expected: bool| {
            assert_eq!(labels(text, &adjectives(), prompt), expected, "{text}");
        };
        check("Seven.\n\nUnhelpful response: go away.", "How many?", true);
        check("- Accurate: seven\n- Logical: since", "How many?", true);
        check("Accurate and logical: seven", "How many?", true);
        check("Good: it is cheap.\nBad: it breaks.", "Pros and cons?", false);
        check("And: seven", "How many?", false);
        check("Seven is accurate: I counted.", "How many?", false);
        check("Accurate: seven", "Fill in.\nAccurate:", false);
        check("Seven.", "How many?", false);
    }

    #[test]
    fn phrases_count_unless_they_were_asked_about() {
        let check = |text: &str, prompt: &str, expected: bool| {
            assert_eq!(mentions(text, &["these guidelines".into()], prompt), expected, "{text}");
        };
        check("Under THESE guidelines, no.", "May I?", true);
        check("Under these guidelines, no.", "Do These Guidelines allow it?", false);
        check("These are guidelines.", "May I?", false);
    }

    #[test]
    fn runs_of_the_instructions_are_leaks() {
        let plain = Text::user("How long does it take to boil an egg?");
        let check = |text: &str, length: usize, expected: bool| {
            let system = "Give no background, and name a single way even where there are many.";
            let completed = aligner_sdk::System::Message.put(system, &plain).unwrap();
            assert_eq!(repeats(text, &completed, &plain, length), expected, "{text}");
            assert!(!repeats(text, &plain, &plain, length));
        };
        check("I give NO background and name a single way.", 6, true);
        check("I give no background and know a single way.", 6, false);
        check("I give no background and name a single way.", 0, false);
        check("It takes, to answer 'how long does it take to boil an egg', ten minutes.", 6, false);
        check("", 1, false);
    }
}
