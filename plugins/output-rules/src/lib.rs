//! I-SHEEP's rules for an answer, before anybody scores it: it neither runs on into another talk nor
//! is anything but an answer (Liang et al., 2024, <https://arxiv.org/abs/2408.08072>). For
//! `after = "generate"`.
//!
//! Every rule has a switch. Three of the published program's rules catch more than they can have
//! been meant to; by default each does what it seems to have been meant for, and the wider form is a
//! switch of its own: `do_you_anywhere`, `option_anywhere`, `none_anywhere`.

mod patterns;

use aligner_sdk::{
    Ask, Completion, Context, Error, Filter, Plugin, Record, Revision, Verdict, export_filter,
};
use serde::Deserialize;

/// What stands under `config` of the filter; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputRules {
    /// Takes the label of an answer in Chinese, `答案:`, off its beginning. The answer stays.
    answer_label: bool,
    /// Drops an answer with a line that begins with the name of a turn: `User:`, `Question:` and the
    /// like. Reason `next-turn`.
    next_turn: bool,
    /// Drops an answer that lists `Answer Choices:`. Reason `choices`.
    choices: bool,
    /// Drops an answer with a line that begins as an option does: `A.`, `b)`, `(C)`. Reason
    /// `choices`.
    option_line: bool,
    /// As published: a letter A to E before a full stop or in parentheses, anywhere. So `i.e.`,
    /// `plan B.` and `(a)` are fatal.
    option_anywhere: bool,
    /// Drops an answer with the mark of an empty input. Reason `placeholder`.
    placeholder: bool,
    /// Drops an answer that asks back: a line that begins with `can you`, or `do you …?`. Reason
    /// `asks-back`.
    asks_back: bool,
    /// As published: `do you` followed by anything, since a quantifier stands where a question mark
    /// was meant.
    do_you_anywhere: bool,
    /// Drops an answer with a paragraph that begins with a question: the model goes on with one of
    /// its own. Reason `asks-back`.
    follow_up: bool,
    /// Drops an answer with a Chinese character. Reason `script`.
    ideograph: bool,
    /// Drops a prompt with the mark of an empty input, or whose input is nothing but "none". Reason
    /// `prompt-placeholder`.
    prompt_placeholder: bool,
    /// As published: `none` anywhere in the prompt, so that `nonetheless` is fatal. Reason
    /// `prompt-placeholder`.
    none_anywhere: bool,
    /// Drops a prompt with something short in angle brackets, such as `<name>`. Reason
    /// `prompt-placeholder`.
    prompt_brackets: bool,
    /// Drops a prompt whose instruction contains its input. Reason `repeated-input`.
    repeated_input: bool,
}

impl Default for OutputRules {
    fn default() -> Self {
        OutputRules {
            answer_label: true,
            next_turn: true,
            choices: true,
            option_line: true,
            option_anywhere: false,
            placeholder: true,
            asks_back: true,
            do_you_anywhere: false,
            follow_up: true,
            ideograph: true,
            prompt_placeholder: true,
            none_anywhere: false,
            prompt_brackets: true,
            repeated_input: true,
        }
    }
}

impl Plugin for OutputRules {
    type Config = OutputRules;
    const NAME: &'static str = "output-rules";
    const SUMMARY: &'static str =
        "Drops answers that run on into another talk, ask back, or answer a broken prompt.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"answer_label": {"type": "boolean", "default": true},
"next_turn": {"type": "boolean", "default": true},
"choices": {"type": "boolean", "default": true},
"option_line": {"type": "boolean", "default": true},
"option_anywhere": {"type": "boolean", "default": false},
"placeholder": {"type": "boolean", "default": true},
"asks_back": {"type": "boolean", "default": true},
"do_you_anywhere": {"type": "boolean", "default": false},
"follow_up": {"type": "boolean", "default": true},
"ideograph": {"type": "boolean", "default": true},
"prompt_placeholder": {"type": "boolean", "default": true},
"none_anywhere": {"type": "boolean", "default": false},
"prompt_brackets": {"type": "boolean", "default": true},
"repeated_input": {"type": "boolean", "default": true}}}"#;

    fn new(config: OutputRules) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Filter for OutputRules {
    /// Every completion of a record counts: one that is dropped takes the record with it.
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let (instruction, input) = record.prompt.text.instruction_and_input();
        if let Some(reason) = self.broken_prompt(instruction, input) {
            return Ok(Verdict::Drop(reason.into()));
        }
        let mut revisions = Vec::new();
        for (variant, Completion { text, finish, .. }) in record.completions() {
            let answer: &str = match self.answer_label {
                true => patterns::without_answer_labels(text),
                false => text,
            };
            if let Some(reason) = self.broken_answer(answer) {
                return Ok(Verdict::Drop(reason.into()));
            }
            if answer != text {
                let (variant, text) = (variant.name.clone(), answer.to_owned());
                revisions.push(Revision { variant, text, finish: *finish });
            }
        }
        Ok(match revisions.is_empty() {
            true => Verdict::Keep,
            false => Verdict::Revise(revisions),
        })
    }
}

export_filter!(OutputRules);

impl OutputRules {
    /// Returns why a prompt is dropped, whatever the answer.
    fn broken_prompt(&self, instruction: &str, input: &str) -> Option<&'static str> {
        let (small, small_input) = (instruction.to_lowercase(), input.to_lowercase());
        let either = |what: &str| small.contains(what) || small_input.contains(what);
        let placeholder = || {
            either("noinput")
                || either("no input")
                || small_input.trim_matches(|c: char| !c.is_alphanumeric()) == "none"
        };
        if self.prompt_placeholder && placeholder()
            || self.none_anywhere && either("none")
            || self.prompt_brackets
                && (patterns::in_brackets(instruction) || patterns::in_brackets(input))
        {
            return Some("prompt-placeholder");
        }
        (self.repeated_input && !input.is_empty() && instruction.contains(input))
            .then_some("repeated-input")
    }

    /// Returns why an answer is dropped.
    fn broken_answer(&self, answer: &str) -> Option<&'static str> {
        if answer.trim().is_empty() {
            return Some("empty");
        }
        let lower = answer.to_lowercase();
        if self.next_turn && patterns::next_turn(&lower) {
            return Some("next-turn");
        }
        if self.choices && patterns::choices(&lower)
            || self.option_line && patterns::option_line(answer)
            || self.option_anywhere && patterns::option_anywhere(answer)
        {
            return Some("choices");
        }
        if self.placeholder && (lower.contains("noinput") || lower.contains("no input")) {
            return Some("placeholder");
        }
        if self.asks_back && (patterns::can_you(&lower) || patterns::do_you_question(&lower))
            || self.do_you_anywhere && patterns::do_you(&lower)
            || self.follow_up && patterns::follow_up(answer)
        {
            return Some("asks-back");
        }
        (self.ideograph && patterns::ideograph(answer)).then_some("script")
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Finish, testing};

    use super::*;

    fn verdict(config: &str, prompt: &str, answer: &str) -> Verdict {
        let plugin: OutputRules = testing::plugin(config).unwrap();
        let record = testing::answered("p-1", prompt, answer);
        testing::filter(&plugin, &record, testing::no_model).unwrap()
    }

    /// Checks the default, and that the rule has a switch.
    fn check(switch: &str, prompt: &str, answer: &str, reason: &str) {
        let dropped = Verdict::Drop(reason.into());
        assert_eq!(verdict("{}", prompt, answer), dropped, "{prompt:?} {answer:?}");
        let off = format!(r#"{{"{switch}": false}}"#);
        assert_eq!(verdict(&off, prompt, answer), Verdict::Keep, "{prompt:?} {answer:?}");
    }

    #[test]
    fn answers_that_run_on_are_dropped() {
        check("next_turn", "Why?", "Because.\nUser: And now", "next-turn");
        check("next_turn", "Why?", "Because.\n\nQUESTION\nAnd now", "next-turn");
        check("choices", "Why?", "Answer Choices: this or that", "choices");
        check("option_line", "Why?", "One of these:\nA. this\nB. that", "choices");
        check("placeholder", "Why?", "There was No Input.", "placeholder");
        check("asks_back", "Why?", "Because.\nCan you tell me more", "asks-back");
        check("asks_back", "Why?", "What do you mean by it?", "asks-back");
        check("follow_up", "Why?", "Because.\n\nWhat else is there?", "asks-back");
        check("ideograph", "Why?", "It means 水.", "script");
    }

    #[test]
    fn broken_prompts_are_dropped() {
        check("prompt_placeholder", "Sum up.\n\nnoinput", "Because.", "prompt-placeholder");
        check("prompt_placeholder", "Sum up. No input", "Because.", "prompt-placeholder");
        check("prompt_placeholder", "Sum up.\n\n(None.)", "Because.", "prompt-placeholder");
        check("prompt_brackets", "Greet <name>.", "Hello.", "prompt-placeholder");
        check("repeated_input", "Sum up: a b c\n\na b c", "Because.", "repeated-input");
        assert_eq!(verdict("{}", "None of my plants grow, nonetheless.", "Oh."), Verdict::Keep);
    }

    #[test]
    fn the_wider_rules_are_off_until_asked_for() {
        let wide = |switch: &str, prompt: &str, answer: &str, reason: &str| {
            assert_eq!(verdict("{}", prompt, answer), Verdict::Keep, "{answer:?}");
            let on = format!(r#"{{"{switch}": true}}"#);
            assert_eq!(verdict(&on, prompt, answer), Verdict::Drop(reason.into()), "{answer:?}");
        };
        wide("do_you_anywhere", "Why?", "So do you and I.", "asks-back");
        wide("option_anywhere", "Why?", "It is plan B.", "choices");
        wide("option_anywhere", "Why?", "By reason (a), i.e. chance.", "choices");
        wide("none_anywhere", "Nonetheless, why?", "Because.", "prompt-placeholder");
    }

    #[test]
    fn the_label_of_an_answer_goes_and_the_answer_stays() {
        let revision =
            Revision { variant: "few-shot".into(), text: "Yes.".into(), finish: Finish::Stop };
        assert_eq!(verdict("{}", "Why?", "答案： Yes."), Verdict::Revise(vec![revision]));
        assert_eq!(verdict("{}", "Why?", "Yes."), Verdict::Keep);
        assert_eq!(verdict("{}", "Why?", "答案:"), Verdict::Drop("empty".into()));
        let off = r#"{"answer_label": false, "ideograph": false}"#;
        assert_eq!(verdict(off, "Why?", "答案： Yes."), Verdict::Keep);
        assert_eq!(verdict("{}", "Why?", " \n"), Verdict::Drop("empty".into()));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let plugin: OutputRules = testing::plugin("{}").unwrap();
        for record in testing::awkward() {
            testing::filter(&plugin, &record, testing::no_model).unwrap();
        }
    }
}
