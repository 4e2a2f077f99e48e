//! How an in-context example is written.

use aligner_sdk::{Error, Exemplar};
use serde::Deserialize;

/// Says to the assistant how it is to answer.
pub(crate) const INSTRUCTION: &str =
    "First note one line of internal thoughts, then give the answer.";

/// The two ways of writing internal thoughts.
///
/// `self-align-format` knows the same names: it checks the opening sentence, which the prompt does
/// not give away, and finds the answer behind its marker.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// The paper's: who the assistant is, what the user wants, which principles follow.
    InternalThoughts,
    /// Only which principles are followed, behind a marker that no other turn begins with. A model
    /// of 135 million parameters keeps this one.
    Brief,
}

/// One line of `exemplars.jsonl`.
#[derive(Deserialize)]
struct Line {
    id: String,
    tags: Vec<String>,
    prompt: String,
    /// Ends with ` I should follow n (name), ….`
    thoughts: String,
    answer: String,
}

/// Reads the examples and renders each.
pub(crate) fn exemplars(lines: &str, format: Format) -> Result<Vec<Exemplar>, Error> {
    let exemplar = |line: &str| {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Error::Internal(format!("exemplars.jsonl: {error}")))?;
        let text = format.render(&line);
        Ok(Exemplar { id: line.id, tags: line.tags, text })
    };
    lines.lines().map(exemplar).collect()
}

impl Format {
    /// Returns the marker that the thoughts stand behind.
    pub(crate) fn thoughts(self) -> &'static str {
        match self {
            Format::InternalThoughts => "Assistant (internal thoughts):",
            Format::Brief => "Internal thoughts:",
        }
    }

    /// Says, in a text, how the examples below it are to be read.
    pub(crate) fn announcement(self) -> &'static str {
        match self {
            Format::InternalThoughts => {
                "Below are talks between a user and the assistant. The assistant first notes its \
                 internal thoughts in one line, then gives its answer."
            }
            Format::Brief => {
                "Below are talks between a user and the assistant. The assistant first notes one \
                 short thought, then gives its answer."
            }
        }
    }

    /// Takes an example apart: what the user says, and the whole reply.
    pub(crate) fn split(self, exemplar: &Exemplar) -> Option<(&str, &str)> {
        let text = exemplar.text.strip_prefix("User: ")?;
        let at = text.find(&format!("\n\n{}", self.thoughts()))?;
        Some((&text[..at], &text[at + 2..]))
    }

    fn render(self, Line { prompt, thoughts, answer, .. }: &Line) -> String {
        let thoughts = match self {
            Format::InternalThoughts => {
                format!("I am a helpful, honest and harmless assistant. {thoughts}")
            }
            Format::Brief => {
                let rules = thoughts.rsplit_once(" I should follow").map_or("", |(_, rules)| rules);
                format!("I am a helpful assistant. I follow{rules} Now I answer the user.")
            }
        };
        format!("User: {prompt}\n\n{} {thoughts}\n\nAssistant: {answer}", self.thoughts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id": "ex-1", "tags": ["t"], "prompt": "Why?", "thoughts": "The user asks why. I should follow 2 (informative), 5 (reasoning).", "answer": "Because."}"#;

    fn check(format: Format, expected: &str) {
        let exemplars = exemplars(LINE, format).unwrap();
        assert_eq!(exemplars[0].text, expected);
        let (question, reply) = format.split(&exemplars[0]).unwrap();
        assert_eq!(format!("User: {question}\n\n{reply}"), expected);
    }

    #[test]
    fn examples_are_rendered_as_they_appear_in_a_prompt() {
        check(
            Format::InternalThoughts,
            "User: Why?\n\nAssistant (internal thoughts): I am a helpful, honest and harmless \
             assistant. The user asks why. I should follow 2 (informative), 5 (reasoning).\n\n\
             Assistant: Because.",
        );
        check(
            Format::Brief,
            "User: Why?\n\nInternal thoughts: I am a helpful assistant. I follow 2 (informative), \
             5 (reasoning). Now I answer the user.\n\nAssistant: Because.",
        );
    }

    #[test]
    fn every_shipped_example_has_all_its_parts() {
        for format in [Format::InternalThoughts, Format::Brief] {
            for exemplar in exemplars(crate::EXEMPLARS, format).unwrap() {
                let (question, reply) = format.split(&exemplar).expect("a question and a reply");
                assert!(!question.is_empty(), "{}", exemplar.id);
                assert!(reply.contains(" follow ") && reply.contains("\n\nAssistant: "));
            }
        }
    }

    #[test]
    fn a_broken_line_is_an_error() {
        assert!(matches!(exemplars("{}", Format::Brief), Err(Error::Internal(_))));
    }
}
