//! Questions that the model writes for a type and a topic.

use crate::Triple;

/// Writes a request for questions: the examples, then type and topic of each question wanted. It
/// ends where the first of these begins.
pub(crate) fn prompt(examples: &[&Triple], wanted: &[(&str, &str)]) -> String {
    let mut text = String::from(
        "Each line has a number, a type of question, a topic, and a question of that type about that \
         topic.\n\n",
    );
    for (number, example) in (1..).zip(examples) {
        let hint = hint(number, &example.kind, &example.topic);
        text.push_str(&format!("{hint} {}\n", example.question));
    }
    if wanted.len() > 1 {
        text.push_str("\nNow the same for:\n\n");
        for (number, (kind, topic)) in (examples.len() + 1..).zip(wanted) {
            text.push_str(&format!("{}\n", pair(number, kind, topic)));
        }
        text.push_str("\nThe questions:\n\n");
    }
    if let Some((kind, topic)) = wanted.first() {
        text.push_str(&hint(examples.len() + 1, kind, topic));
    }
    text
}

/// Reads a question for each type and topic wanted, `None` where there is none.
///
/// A line counts where it begins with exactly what the request gave for it, numbers from `first`
/// on. The last line does not count where it was cut off.
pub(crate) fn read(
    completion: &str,
    first: usize,
    wanted: &[(&str, &str)],
    cut_off: bool,
) -> Vec<Option<String>> {
    let hints: Vec<String> =
        (first..).zip(wanted).map(|(number, (kind, topic))| hint(number, kind, topic)).collect();
    let Some(given) = hints.first() else { return Vec::new() };
    let text = match completion.trim_start().starts_with(given.as_str()) {
        // In a conversation it may be said again.
        true => completion.trim_start().to_owned(),
        false => format!("{given} {}", completion.trim_start()),
    };
    let mut lines: Vec<&str> = text.lines().collect();
    if cut_off {
        lines.pop();
    }
    let question = |hint: &String| {
        let question = lines.iter().find_map(|line| line.strip_prefix(hint.as_str()))?.trim();
        (!question.is_empty()).then(|| question.to_owned())
    };
    hints.iter().map(question).collect()
}

fn pair(number: usize, kind: &str, topic: &str) -> String {
    format!("{number}. type: {kind}, topic: {topic}")
}

fn hint(number: usize, kind: &str, topic: &str) -> String {
    format!("{}, question:", pair(number, kind, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [(&str, &str); 2] = [("a price", "Bread"), ("a place", "Lakes")];

    fn check(completion: &str, cut_off: bool, expected: [Option<&str>; 2]) {
        let expected = expected.map(|it| it.map(String::from));
        assert_eq!(read(completion, 6, &WANTED, cut_off), expected, "{completion:?}");
    }

    #[test]
    fn a_request_ends_where_the_first_question_begins() {
        let example = Triple {
            kind: "a taste".into(),
            topic: "Tea".into(),
            question: "Green or black?".into(),
        };
        let text = prompt(&[&example], &WANTED);
        let end = "\n\n1. type: a taste, topic: Tea, question: Green or black?\n\nNow the same \
                   for:\n\n2. type: a price, topic: Bread\n3. type: a place, topic: \
                   Lakes\n\nThe questions:\n\n2. type: a price, topic: Bread, question:";
        assert!(text.ends_with(end), "{text}");
        let one = prompt(&[&example], &WANTED[..1]);
        let end = "Green or black?\n2. type: a price, topic: Bread, question:";
        assert!(one.ends_with(end), "{one}");
    }

    #[test]
    fn a_line_begins_with_exactly_its_hint() {
        let second = "7. type: a place, topic: Lakes, question: Which?";
        check(&format!(" How much?\n{second}"), false, [Some("How much?"), Some("Which?")]);
        check(&format!(" How much?\n {second}"), false, [Some("How much?"), None]);
        check(
            &format!(" How much?\n{}", second.replace("Lakes", "Sea")),
            false,
            [Some("How much?"), None],
        );
        check(
            &format!(" How much?\n{}", second.replace('7', "8")),
            false,
            [Some("How much?"), None],
        );
        check(second, false, [Some(second), None]);
        check("\n", false, [None, None]);
        check(
            &format!("6. type: a price, topic: Bread, question: How?\n{second}"),
            false,
            [Some("How?"), Some("Which?")],
        );
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_count() {
        let second = "7. type: a place, topic: Lakes, question: Whi";
        check(&format!(" How much?\n{second}"), true, [Some("How much?"), None]);
        check(" How mu", true, [None, None]);
    }
}
