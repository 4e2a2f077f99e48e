//! Topics that the model thinks of for a type of question.

use std::collections::BTreeSet;

/// The longest topic, in bytes: it stands in a tag.
const LONGEST: usize = 60;

/// Writes a request for topics that goes on from those there are.
pub(crate) fn prompt(kind: &str, known: &[&str], topics: usize) -> String {
    let mut text = format!(
        "Somebody collects questions about {kind}. List {topics} topics that such questions can be \
         about. A topic has one to three words, begins with a capital letter and stands on a line of \
         its own.\n\nTopics:\n"
    );
    for topic in known {
        text.push_str(&format!("- {topic}\n"));
    }
    text.push('-');
    text
}

/// Reads the topics, each once. The last line does not count where it was cut off.
///
/// A topic has one to three words, begins with A to Z and ends with no punctuation mark. The mark
/// or number of a list before it does not count.
pub(crate) fn read(text: &str, cut_off: bool) -> Vec<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    if cut_off {
        lines.pop();
    }
    let (mut topics, mut seen) = (Vec::new(), BTreeSet::new());
    for line in lines {
        let marks = |c: char| c.is_whitespace() || matches!(c, '-' | '*' | '.' | ')' | '0'..='9');
        let topic = line.trim_start_matches(marks).trim_end();
        let words = topic.split_whitespace().count();
        let keeps = (1..=3).contains(&words)
            && topic.len() <= LONGEST
            && topic.starts_with(|c: char| c.is_ascii_uppercase())
            && !topic.ends_with(|c: char| c.is_ascii_punctuation())
            && !topic.contains(char::is_control);
        if keeps && seen.insert(topic.to_lowercase()) {
            topics.push(topic.to_owned());
        }
    }
    topics
}

/// Says whether two topics differ in nothing but capital letters.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_on_from_the_topics_there_are() {
        let text = prompt("a word", &["River banks", "Bats"], 10);
        assert!(text.starts_with("Somebody collects questions about a word. List 10 topics"));
        assert!(text.ends_with("\n\nTopics:\n- River banks\n- Bats\n-"), "{text}");
    }

    #[test]
    fn topics_are_short_noun_phrases_on_lines_of_their_own() {
        let check = |text: &str, expected: &[&str]| assert_eq!(read(text, false), expected);
        check(
            " River boats\n- Old Roman coins\n3. Bats\n* Égalité\n",
            &["River boats", "Old Roman coins", "Bats"],
        );
        check("One two three four\nsmall words\nWhy?\nTopics:\n\n-\n", &[]);
        check("Bats\nBATS\nOwls", &["Bats", "Owls"]);
        check(&format!("A{}", "b".repeat(60)), &[]);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_count() {
        assert_eq!(read("Bats\nOw", true), ["Bats"]);
        assert!(read("", true).is_empty());
    }
}
