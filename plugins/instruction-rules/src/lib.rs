//! The rules that a prompt must keep that a model has written, before anybody answers it:
//! Self-Instruct's (Wang et al., 2022, <https://arxiv.org/abs/2212.10560>), with what Alpaca and
//! I-SHEEP (<https://arxiv.org/abs/2408.08072>) added. For `after = "sample"`.
//!
//! A prompt is an instruction and perhaps an input, which part at the first blank line. The
//! defaults are I-SHEEP's. Deviations from the published programs:
//!
//! 1. Words are told apart where neither side is a letter, digit or underscore in any script.
//! 2. A prompt without any word is `too-short` like one of three.

use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
use serde::Deserialize;

/// What stands under `config` of the filter; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstructionRules {
    /// Fewest words of the instruction. Reason `too-short`.
    min_words: usize,
    /// Most words of the instruction. Reason `too-long`.
    max_words: usize,
    /// Drops what asks for things that text cannot give: pictures, maps, files, drawing, going to a
    /// place. Reason `not-text`.
    not_text: bool,
    /// Alpaca: with `not_text`, videos, audio, music and diagrams too.
    not_text_more: bool,
    /// Alpaca: with `not_text`, looks at the input too.
    not_text_in_input: bool,
    /// Self-Instruct, not Alpaca: drops what begins with "Write a program". Reason `program`.
    program: bool,
    /// Drops an instruction that begins with a punctuation mark. Reason `opening`.
    punctuation: bool,
    /// Drops an instruction that begins with a character outside ASCII, so any in another script.
    /// Reason `opening`.
    ascii: bool,
    /// I-SHEEP: drops what holds the mark of an empty input. Reason `placeholder`.
    placeholder: bool,
    /// I-SHEEP: drops what holds a label of the list it was written in. Reason `label`.
    label: bool,
    /// I-SHEEP: drops what holds an address of the web. Reason `link`.
    link: bool,
}

impl Default for InstructionRules {
    fn default() -> Self {
        InstructionRules {
            min_words: 4,
            max_words: 150,
            not_text: true,
            not_text_more: true,
            not_text_in_input: true,
            program: false,
            punctuation: true,
            ascii: true,
            placeholder: true,
            label: true,
            link: true,
        }
    }
}

/// Words of Self-Instruct's list, each whole and in lower case.
const NOT_TEXT: [&str; 13] = [
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps",
    "draw", "plot", "go to",
];

/// What Alpaca added.
const NOT_TEXT_MORE: [&str; 5] = ["video", "audio", "music", "flowchart", "diagram"];

impl Plugin for InstructionRules {
    type Config = InstructionRules;
    const NAME: &'static str = "instruction-rules";
    const SUMMARY: &'static str = "Drops new prompts that are no good instructions.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"min_words": {"type": "integer", "minimum": 0, "default": 4},
"max_words": {"type": "integer", "minimum": 0, "default": 150},
"not_text": {"type": "boolean", "default": true},
"not_text_more": {"type": "boolean", "default": true},
"not_text_in_input": {"type": "boolean", "default": true},
"program": {"type": "boolean", "default": false},
"punctuation": {"type": "boolean", "default": true},
"ascii": {"type": "boolean", "default": true},
"placeholder": {"type": "boolean", "default": true},
"label": {"type": "boolean", "default": true},
"link": {"type": "boolean", "default": true}}}"#;

    fn new(config: InstructionRules) -> Result<Self, Error> {
        if config.min_words > config.max_words {
            return Err(Error::Config(format!(
                "`min_words` is {}, over `max_words`, which is {}",
                config.min_words, config.max_words
            )));
        }
        Ok(config)
    }
}

impl Filter for InstructionRules {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let (instruction, input) = record.prompt.text.instruction_and_input();
        Ok(match self.broken(instruction, input) {
            Some(reason) => Verdict::Drop(reason.into()),
            None => Verdict::Keep,
        })
    }
}

export_filter!(InstructionRules);

impl InstructionRules {
    /// Returns why a prompt is dropped.
    fn broken(&self, instruction: &str, input: &str) -> Option<&'static str> {
        let words = instruction.split_whitespace().count();
        if words < self.min_words {
            return Some("too-short");
        }
        if words > self.max_words {
            return Some("too-long");
        }
        let first = instruction.chars().next();
        if self.punctuation && first.is_some_and(|c| c.is_ascii_punctuation())
            || self.ascii && first.is_some_and(|c| !c.is_ascii())
        {
            return Some("opening");
        }
        if self.program && instruction.starts_with("Write a program") {
            return Some("program");
        }
        let (instruction, input) = (instruction.to_lowercase(), input.to_lowercase());
        if self.not_text(&instruction) || self.not_text_in_input && self.not_text(&input) {
            return Some("not-text");
        }
        let either = |what: &str| instruction.contains(what) || input.contains(what);
        if self.placeholder && (either("noinput") || input.contains("no input")) {
            return Some("placeholder");
        }
        let labelled = either("instruction:") || either("input:") || input.contains("output:");
        if self.label && labelled {
            return Some("label");
        }
        if self.link && (either("http:") || either("https:")) {
            return Some("link");
        }
        None
    }

    fn not_text(&self, text: &str) -> bool {
        let holds = |words: &[&str]| words.iter().any(|word| contains_word(text, word));
        self.not_text && (holds(&NOT_TEXT) || self.not_text_more && holds(&NOT_TEXT_MORE))
    }
}

/// Says whether a word stands in a text by itself.
fn contains_word(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(inside) && !text[at + word.len()..].starts_with(inside)
    })
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Text, testing};

    use super::*;

    fn check(config: &str, prompt: &str, expected: Option<&str>) {
        let plugin: InstructionRules = testing::plugin(config).unwrap();
        let record = testing::record("p-1", prompt);
        let verdict = testing::filter(&plugin, &record, testing::no_model).unwrap();
        let expected = expected.map_or(Verdict::Keep, |reason| Verdict::Drop(reason.into()));
        assert_eq!(verdict, expected, "{config}: {prompt:?}");
    }

    #[test]
    fn instructions_have_4_to_150_words() {
        check("{}", "Why is it?", Some("too-short"));
        check("{}", "Why is it so?", None);
        check("{}", "Why so?\n\nThe input has many more words.", Some("too-short"));
        check("{}", &"word ".repeat(150), None);
        check("{}", &"word ".repeat(151), Some("too-long"));
        check(r#"{"min_words": 0, "max_words": 2}"#, "", None);
    }

    #[test]
    fn what_text_cannot_give_is_told_by_whole_words() {
        check("{}", "Describe the Image in detail.", Some("not-text"));
        check("{}", "Imagine a day by the sea.", None);
        check("{}", "Tell me how to go to Rome.", Some("not-text"));
        check("{}", "How do cargo tours work?", None);
        check("{}", "Explain the plot: who did it?", Some("not-text"));
        check("{}", "Explain the word plot_size to me.", None);
        check("{}", "Which drawing is the oldest?", None);
        check(r#"{"not_text": false}"#, "Describe the image in detail.", None);
    }

    #[test]
    fn alpaca_looks_at_more_words_and_at_the_input() {
        check("{}", "Write about music for children.", Some("not-text"));
        check(r#"{"not_text_more": false}"#, "Write about music for children.", None);
        check("{}", "Shorten the text in half.\n\nThe map was old.", Some("not-text"));
        let in_input = r#"{"not_text_in_input": false}"#;
        check(in_input, "Shorten the text in half.\n\nThe map was old.", None);
    }

    #[test]
    fn an_instruction_begins_with_a_letter_or_a_digit() {
        check("{}", "- Why is it so?", Some("opening"));
        check("{}", "\"To be\": who said it?", Some("opening"));
        check("{}", "¿Por qué es así, amigo?", Some("opening"));
        check(r#"{"ascii": false}"#, "¿Por qué es así, amigo?", None);
        check(r#"{"punctuation": false}"#, "- Why is it so?", None);
        check("{}", "3 reasons to get up early?", None);
    }

    #[test]
    fn programs_are_self_instructs_rule_alone() {
        let prompt = "Write a program that counts sheep.";
        check("{}", prompt, None);
        check(r#"{"program": true}"#, prompt, Some("program"));
    }

    #[test]
    fn marks_of_the_list_and_links_are_seen() {
        check("{}", "Sum up this long text.\n\n<NoInput>", Some("placeholder"));
        check("{}", "Sum up this text: <noinput>", Some("placeholder"));
        check("{}", "Sum up this long text.\n\nNo input is needed.", Some("placeholder"));
        check("{}", "Say why no input is needed.", None);
        check(r#"{"placeholder": false}"#, "Sum up this long text.\n\n<noinput>", None);
        check("{}", "Sum up this text. Input: a", Some("label"));
        check("{}", "Sum up this text: 7. Instruction: b", Some("label"));
        check("{}", "Sum up this long text.\n\nOutput: a", Some("label"));
        check("{}", "What is the output: a or b?", None);
        check(r#"{"label": false}"#, "Sum up this text. Input: a", None);
        check("{}", "Sum up the page https://example.org/a", Some("link"));
        check("{}", "Sum up the whole page.\n\nHTTP://example.org", Some("link"));
        check(r#"{"link": false}"#, "Sum up the page https://example.org/a", None);
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let plugin: InstructionRules = testing::plugin("{}").unwrap();
        for mut record in testing::awkward() {
            testing::filter(&plugin, &record, testing::no_model).unwrap();
            record.prompt.text = Text::Chat(vec![]);
            let verdict = testing::filter(&plugin, &record, testing::no_model);
            assert_eq!(verdict, Ok(Verdict::Drop("too-short".into())));
        }
    }

    #[test]
    fn wrong_bounds_are_refused() {
        let failed = testing::plugin::<InstructionRules>(r#"{"min_words": 151}"#).err();
        let expected = "`min_words` is 151, over `max_words`, which is 150";
        assert_eq!(failed, Some(Error::Config(expected.into())));
    }
}
