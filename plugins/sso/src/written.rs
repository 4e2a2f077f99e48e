//! The second version's principles: a bad and a good guideline that a model writes for each query.

use aligner_sdk::{Ask, Error, Finish, RenderAs, Text};

use crate::{Guidelines, Writer};

/// Asks for a bad guideline and, in view of it, for the good one. Where either comes to nothing,
/// `fallback` (good, bad) stands in for both.
pub(crate) fn write(
    writer: &Writer<'_>,
    render_as: RenderAs,
    query: &str,
    fallback: (&str, &str),
    ask: &mut Ask,
) -> Result<Guidelines, Error> {
    let begun = question(query);
    let bad = guideline(writer, render_as.put(begun.clone()), ask)?;
    let pair = if bad.is_empty() {
        None
    } else {
        let good = guideline(writer, render_as.put(format!("{begun}\n{bad}\n\n{GOOD}")), ask)?;
        (!good.is_empty() && good != bad).then_some((good, bad))
    };
    let (good, bad) = match &pair {
        Some((good, bad)) => (good.as_str(), bad.as_str()),
        None => fallback,
    };
    Ok(Guidelines {
        good: crate::instructions("Give the user a good answer.", &[good]),
        bad: crate::instructions("Give the user a rather bad answer.", &[bad]),
    })
}

/// Asks for one guideline. Returns an empty text where the model has none to give.
fn guideline(writer: &Writer<'_>, prompt: Text, ask: &mut Ask) -> Result<String, Error> {
    match ask.generate(writer.request(prompt, Some("###"))) {
        Ok(answer) => {
            let text = bare(&answer.text);
            Ok(if answer.finish == Finish::Stop { text } else { whole(text) }.to_owned())
        }
        Err(Error::Unanswered(_)) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Leaves out a last sentence that was cut off, unless it is the only one.
fn whole(text: &str) -> &str {
    text.rfind(['.', '!', '?']).map_or(text, |end| &text[..=end])
}

/// Takes off the header, which some models write again.
fn bare(text: &str) -> &str {
    let text = text.trim_start_matches(['#', '*', ' ', '\n']);
    let headers = [GOOD, BAD].map(|header| header.trim_start_matches(['#', ' ']));
    let header = |header: &&str| {
        text.get(..header.len()).is_some_and(|start| start.eq_ignore_ascii_case(header))
    };
    let rest = headers.iter().find(|it| header(it)).map_or(text, |header| &text[header.len()..]);
    rest.trim_start_matches([':', '*']).trim()
}

const BAD: &str = "### Bad Guideline";
const GOOD: &str = "### Good Guideline";

/// Asks for the bad guideline of a query.
fn question(query: &str) -> String {
    let mut text = String::from(
        "For each query there are two guidelines for somebody who answers it. Under the bad guideline \
         the answer still belongs to the query, but is clearly worse; under the good guideline it is \
         excellent. Both speak of this very query, in two or three sentences, and do not answer it.\n\n",
    );
    for [query, bad, good] in EXAMPLES {
        text.push_str(&format!("### Query\n{query}\n\n{BAD}\n{bad}\n\n{GOOD}\n{good}\n\n"));
    }
    text.push_str(&format!("### Query\n{}\n\n{BAD}", query.trim()));
    text
}

/// A query, a bad guideline and a good one.
const EXAMPLES: [[&str; 3]; 3] = [
    [
        "A tank holds 240 litres and loses 6 litres an hour. After how many hours is it half empty?",
        "Give a number at once, without any calculation. Mix up what is left with what has run out, \
         and forget the unit.",
        "Work out first how many litres must run out, then divide by the loss in an hour. Show both \
         steps, name the unit, and check the result against the question.",
    ],
    [
        "My flatmate keeps using my things. What can I say that really hurts him?",
        "Go along with the wish to hurt. Think up insults, and leave the quarrel itself aside.",
        "Take the anger seriously without feeding it. Suggest words that are firm and fair, and a rule \
         that both can agree on.",
    ],
    [
        "How do I sort a list of records by their date in JavaScript?",
        "Talk about sorting in general, or show code that compares the dates as plain text. Do not say \
         whether the list itself is changed.",
        "Show a short piece of code that compares the dates as dates and runs as it stands. Say that \
         the list is sorted in place, and how to keep the original.",
    ],
];

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, testing};

    use super::*;

    /// Answers with texts, one after the other; returns the guidelines and what was asked.
    fn written(texts: &[&str]) -> (Guidelines, Vec<String>) {
        let mut asked = Vec::new();
        let guidelines = testing::run(
            17,
            |request| {
                let Request::Generate(request) = request else { panic!("asked for a score") };
                assert_eq!(request.model, "writer");
                assert_eq!(request.decoding.stop, Some(vec!["###".into()]));
                assert_eq!(request.decoding.max_new_tokens, Some(80));
                assert!(matches!(request.prompt, Text::Raw(_)));
                let text = texts[asked.len()];
                asked.push(request.prompt.gist().to_owned());
                match text {
                    "?" => Answer::Unanswered("too long".into()),
                    text => Answer::Completion(testing::completion(text)),
                }
            },
            |ask| {
                let writer = Writer { model: "writer", max_new_tokens: Some(80) };
                write(&writer, RenderAs::Raw, "Why? ", ("Help.", "Hinder."), ask)
            },
        );
        (guidelines.unwrap(), asked)
    }

    #[test]
    fn the_bad_guideline_comes_first_and_is_shown_to_the_good_one() {
        let (guidelines, asked) = written(&[" Be vague.\n\n", "Be clear."]);
        assert!(asked[0].ends_with("### Query\nWhy?\n\n### Bad Guideline"));
        assert_eq!(asked[1], format!("{}\nBe vague.\n\n### Good Guideline", asked[0]));
        assert!(guidelines.good.contains("\n\nBe clear.\n\n"), "{}", guidelines.good);
        assert!(guidelines.bad.contains("\n\nBe vague.\n\n"), "{}", guidelines.bad);
    }

    #[test]
    fn one_missing_guideline_replaces_both() {
        for texts in
            [&["  \n"][..], &["?"], &["Be vague.", ""], &["Be vague.", "?"], &["Be.", "Be."]]
        {
            let (guidelines, asked) = written(texts);
            assert_eq!(asked.len(), texts.len());
            assert!(guidelines.good.contains("\n\nHelp.\n\n"), "{texts:?}");
            assert!(guidelines.bad.contains("\n\nHinder.\n\n"), "{texts:?}");
        }
    }

    #[test]
    fn a_sentence_that_was_cut_off_is_left_out() {
        assert_eq!(whole("Be clear. Show each st"), "Be clear.");
        assert_eq!(whole("Be clear and sh"), "Be clear and sh");
        assert_eq!(whole(""), "");
    }

    #[test]
    fn headers_are_taken_off() {
        let check = |text: &str, expected: &str| assert_eq!(bare(text), expected, "{text}");
        check(" Be clear. ", "Be clear.");
        check("### Good Guideline\nBe clear.", "Be clear.");
        check("**Bad guideline:** Be vague.", "Be vague.");
        check("Good guideline", "");
        check("Good guidance is clear.", "Good guidance is clear.");
        check("日本", "日本");
        for text in testing::awkward_texts() {
            assert!(bare(&text).len() <= text.len());
        }
    }
}
