//! Tidies what was written under good and under bad principles, and drops what teaches nothing: equal
//! answers, and answers that let on how they were made.
//!
//! This is the clean-up of self-steering optimisation's first version
//! (<https://arxiv.org/abs/2410.17131>), which serves contrastive methods alike. The completions are
//! those of the first good, bad and plain variant; the plain one may be absent. In this order:
//!
//! - `labels`: a label such as `Accurate and logical response:` in front of an answer is taken off.
//! - `period`: an answer that ends in a lower-case letter gets a period.
//! - `identical`: good and bad answer differ from each other and from the plain one.
//! - `leaks`, `leak_run`: neither good nor bad answer mentions the guidelines, uses the adjectives as
//!   labels, or repeats the guidelines' words.
//! - `min_characters`, `max_length_ratio`: bounds on length.
//!
//! The first three are the authors' code; the others answer what was seen of small models.

mod leak;

use aligner_sdk::{
    Ask, Completion, Context, Error, Filter, Finish, Plugin, Record, Revision, Variant,
    VariantRole, Verdict, export_filter,
};
use serde::Deserialize;

/// What stands under `config` of the filter.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Takes labels off. An answer of which nothing is left is dropped, reason `empty`.
    labels: bool,
    /// Which answers get a period.
    period: Period,
    /// Reason `identical`. Spaces around an answer make no difference.
    identical: bool,
    /// Drops answers with one of the `phrases` or with `adjectives` as labels, unless the prompt has
    /// them too. Reason `leak`.
    leaks: bool,
    /// Drops answers with this many words of the guidelines in a row; 0 is off. Reason `leak`.
    leak_run: usize,
    /// Fewest characters of each answer. Reason `too-short`.
    min_characters: usize,
    /// How many times as many characters the longer of good and bad answer may have, 1 or more;
    /// absent: any number. Reason `length-ratio`.
    max_length_ratio: Option<f64>,
    /// What answers are called in labels, in lower case. "good" and "bad" are always among them.
    adjectives: Vec<String>,
    /// What an answer does not mention, in lower case.
    phrases: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            labels: true,
            period: Period::All,
            identical: true,
            leaks: true,
            leak_run: 8,
            min_characters: 0,
            max_length_ratio: None,
            adjectives: ADJECTIVES.map(String::from).into(),
            phrases: PHRASES.map(String::from).into(),
        }
    }
}

/// Those of the plugins `sso` and `contrast`.
const ADJECTIVES: [&str; 21] = [
    "accurate",
    "clumsy",
    "complete",
    "comprehensive",
    "concise",
    "dull",
    "elegant",
    "engaging",
    "harmful",
    "harmless",
    "helpful",
    "illogical",
    "inaccurate",
    "incomplete",
    "informative",
    "logical",
    "safe",
    "unhelpful",
    "uninformative",
    "unsafe",
    "verbose",
];

/// What gives guidelines away.
const PHRASES: [&str; 17] = [
    "these guidelines",
    "this guideline",
    "the guidelines",
    "the guideline",
    "my guidelines",
    "good guideline",
    "bad guideline",
    "given guidelines",
    "provided guidelines",
    "specified guidelines",
    "guidelines above",
    "this instruction",
    "these instructions",
    "my instructions",
    "i was instructed",
    "system message",
    "system prompt",
];

/// Which answers get a period.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Period {
    /// All that end in a lower-case letter, as in the authors' code.
    All,
    /// Of these, only such as the model ended itself. One that ran out of tokens stays cut off.
    Whole,
    /// None.
    Off,
}

/// The plugin.
pub struct ContrastCleanup {
    config: Config,
}

impl Plugin for ContrastCleanup {
    type Config = Config;
    const NAME: &'static str = "contrast-cleanup";
    const SUMMARY: &'static str = "Tidies answers under good and bad principles; drops equal ones and those that give them away.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"labels": {"type": "boolean", "default": true},
"period": {"enum": ["all", "whole", "off"], "default": "all"},
"identical": {"type": "boolean", "default": true},
"leaks": {"type": "boolean", "default": true},
"leak_run": {"type": "integer", "minimum": 0, "default": 8},
"min_characters": {"type": "integer", "minimum": 0, "default": 0},
"max_length_ratio": {"type": "number", "minimum": 1},
"adjectives": {"type": "array", "items": {"type": "string"}},
"phrases": {"type": "array", "items": {"type": "string", "minLength": 1}}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        if let Some(ratio) = config.max_length_ratio
            && ratio < 1.0
        {
            return Err(Error::Config(format!(
                "`max_length_ratio` is {ratio}, expected 1 or more"
            )));
        }
        for (key, words) in [("adjectives", &config.adjectives), ("phrases", &config.phrases)] {
            let wrong = |word: &&String| word.trim().is_empty() || word.to_lowercase() != **word;
            if let Some(word) = words.iter().find(wrong) {
                return Err(Error::Config(format!(
                    "`{key}` has `{word}`, expected words in lower case"
                )));
            }
        }
        Ok(ContrastCleanup { config })
    }
}

/// An answer while it is worked on.
struct Answer<'a> {
    variant: &'a Variant,
    completion: &'a Completion,
    text: String,
}

impl Filter for ContrastCleanup {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let steered = |role, name| {
            answer(record, role).ok_or_else(|| {
                Error::Input(format!("no completed variant of role `{name}` to compare"))
            })
        };
        let mut answers =
            vec![steered(VariantRole::Good, "good")?, steered(VariantRole::Bad, "bad")?];
        answers.extend(answer(record, VariantRole::Plain));
        for answer in &mut answers {
            self.tidy(answer);
        }
        if let Err(reason) = self.check(record, &answers) {
            return Ok(Verdict::Drop(reason.into()));
        }
        let changed = answers.into_iter().filter(|it| it.text != it.completion.text);
        let revision = |it: Answer<'_>| Revision {
            variant: it.variant.name.clone(),
            text: it.text,
            finish: it.completion.finish,
        };
        let revisions: Vec<_> = changed.map(revision).collect();
        Ok(if revisions.is_empty() { Verdict::Keep } else { Verdict::Revise(revisions) })
    }
}

export_filter!(ContrastCleanup);

/// Returns the first answer of a role.
fn answer(record: &Record, role: VariantRole) -> Option<Answer<'_>> {
    let (variant, completion) = record.completions().find(|(variant, _)| variant.role == role)?;
    Some(Answer { variant, completion, text: completion.text.clone() })
}

impl ContrastCleanup {
    /// Takes labels off and adds a period.
    fn tidy(&self, answer: &mut Answer<'_>) {
        if self.config.labels {
            let mut text = answer.text.as_str();
            while let Some(rest) = leak::behind_label(text, &self.config.adjectives) {
                text = rest;
            }
            answer.text = text.to_owned();
        }
        let wanted = match self.config.period {
            Period::All => true,
            Period::Whole => answer.completion.finish == Finish::Stop,
            Period::Off => false,
        };
        if wanted && answer.text.trim_end().ends_with(char::is_lowercase) {
            answer.text.truncate(answer.text.trim_end().len());
            answer.text.push('.');
        }
    }

    /// Returns why a record is dropped. The first two answers are the good and the bad one.
    fn check(&self, record: &Record, answers: &[Answer<'_>]) -> Result<(), &'static str> {
        let texts: Vec<&str> = answers.iter().map(|answer| answer.text.trim()).collect();
        let (good, bad) = (texts[0], texts[1]);
        if texts.contains(&"") {
            return Err("empty");
        }
        if self.config.identical
            && (good == bad || texts[2..].iter().any(|&it| it == good || it == bad))
        {
            return Err("identical");
        }
        let prompt = record.prompt.text.transcript();
        let leaks = |answer: &Answer<'_>| {
            let Config { leaks, leak_run, adjectives, phrases, .. } = &self.config;
            let completed = &answer.variant.prompt;
            *leaks
                && (leak::mentions(&answer.text, phrases, &prompt)
                    || leak::labels(&answer.text, adjectives, &prompt))
                || leak::repeats(&answer.text, completed, &record.prompt.text, *leak_run)
        };
        if answers[..2].iter().any(leaks) {
            return Err("leak");
        }
        let lengths: Vec<usize> = texts.iter().map(|text| text.chars().count()).collect();
        if lengths.iter().any(|&length| length < self.config.min_characters) {
            return Err("too-short");
        }
        let (short, long) = (lengths[0].min(lengths[1]), lengths[0].max(lengths[1]));
        match self.config.max_length_ratio {
            Some(ratio) if long as f64 > ratio * short as f64 => Err("length-ratio"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{System, Text, testing};

    use super::*;

    const PLAIN: &str = "I cannot say.";

    /// Makes a record of a good, a bad and a plain answer.
    fn record([good, bad, plain]: [&str; 3], finish: Finish) -> Record {
        let mut record = testing::record("p-1", "How many days has a week?");
        let variants = [
            ("plain", VariantRole::Plain, plain),
            ("good", VariantRole::Good, good),
            ("bad", VariantRole::Bad, bad),
        ];
        for (name, role, text) in variants {
            let mut variant = testing::variant(name, role, "", text);
            variant.prompt = match role {
                VariantRole::Plain => record.prompt.text.clone(),
                _ => {
                    let system = "Write an answer that is clear, short and easy to keep in mind.";
                    System::Message.put(system, &record.prompt.text).unwrap()
                }
            };
            variant.completion.as_mut().unwrap().finish = finish;
            record.variants.push(variant);
        }
        record
    }

    /// Checks what becomes of answers: those of the good and the bad variant, or a reason.
    fn check_finished(
        config: &str,
        answers: [&str; 3],
        finish: Finish,
        expected: Result<[&str; 2], &str>,
    ) {
        let plugin: ContrastCleanup = testing::plugin(config).unwrap();
        let verdict =
            testing::filter(&plugin, &record(answers, finish), testing::no_model).unwrap();
        let expected = match expected {
            Err(reason) => Verdict::Drop(reason.into()),
            Ok(texts) => {
                let named = ["good", "bad"].into_iter().zip(texts).zip(answers);
                let changed = named.filter(|((_, text), before)| text != before);
                let revisions = changed.map(|((variant, text), _)| Revision {
                    variant: variant.into(),
                    text: text.into(),
                    finish,
                });
                match revisions.collect::<Vec<_>>() {
                    none if none.is_empty() => Verdict::Keep,
                    some => Verdict::Revise(some),
                }
            }
        };
        assert_eq!(verdict, expected, "{config}: {answers:?}");
    }

    fn check(config: &str, answers: [&str; 2], expected: Result<[&str; 2], &str>) {
        check_finished(config, [answers[0], answers[1], PLAIN], Finish::Stop, expected);
    }

    #[test]
    fn an_open_end_gets_a_period() {
        check("{}", ["Seven days", "Six \n"], Ok(["Seven days.", "Six."]));
        check("{}", ["Seven: 7", "Six!"], Ok(["Seven: 7", "Six!"]));
        check("{}", ["SEVEN", "Sechs groß"], Ok(["SEVEN", "Sechs groß."]));
        check(r#"{"period": "off"}"#, ["Seven days", "Six"], Ok(["Seven days", "Six"]));
        let cut = ["Seven da", "Six", PLAIN];
        check_finished("{}", cut, Finish::Length, Ok(["Seven da.", "Six."]));
        check_finished(r#"{"period": "whole"}"#, cut, Finish::Length, Ok(["Seven da", "Six"]));
        check_finished(r#"{"period": "whole"}"#, cut, Finish::Stop, Ok(["Seven da.", "Six."]));
    }

    #[test]
    fn labels_are_taken_off() {
        check(
            "{}",
            ["Accurate and Logical Response: Seven.", "**Bad answer:** Dull response: Six"],
            Ok(["Seven.", "Six."]),
        );
        check("{}", ["Helpful response:", "Six."], Err("empty"));
        let off = r#"{"labels": false, "leaks": false}"#;
        check(off, ["Good answer: Seven.", "Six."], Ok(["Good answer: Seven.", "Six."]));
        let own = r#"{"adjectives": ["spicy"]}"#;
        check(own, ["Spicy response: Seven.", "Six."], Ok(["Seven.", "Six."]));
    }

    #[test]
    fn equal_answers_are_dropped_after_that() {
        check("{}", ["Helpful response: Seven", "Seven."], Err("identical"));
        check("{}", [PLAIN, "Six."], Err("identical"));
        check("{}", ["Seven.", " I cannot say."], Err("identical"));
        check("{}", ["", "Six."], Err("empty"));
        let off = r#"{"identical": false}"#;
        check(off, ["Seven.", "Seven."], Ok(["Seven.", "Seven."]));

        let mut pair = record(["Seven.", PLAIN, PLAIN], Finish::Stop);
        pair.variants.remove(0);
        let plugin: ContrastCleanup = testing::plugin("{}").unwrap();
        assert_eq!(testing::filter(&plugin, &pair, testing::no_model), Ok(Verdict::Keep));
    }

    #[test]
    fn answers_that_give_the_guidelines_away_are_dropped() {
        check("{}", ["By the guidelines, seven.", "Six."], Err("leak"));
        check("{}", ["Seven.", "Six.\n\nUnhelpful response: five."], Err("leak"));
        let parrot = "I write an answer that is clear, short and easy to keep.";
        check("{}", ["Seven.", parrot], Err("leak"));
        check(r#"{"leak_run": 0}"#, ["Seven.", parrot], Ok(["Seven.", parrot]));
        check(r#"{"phrases": ["seven"]}"#, ["Seven.", "Six."], Err("leak"));
        let innocent = ["Seven. Some general guidelines: rest.", "Six."];
        check("{}", innocent, Ok(innocent));
        let own = ["Seven.", "As my guidelines say, six."];
        check(r#"{"leaks": false}"#, own, Ok(own));
    }

    #[test]
    fn lengths_are_bounded() {
        check(r#"{"min_characters": 5}"#, ["Seven.", "Six."], Err("too-short"));
        check(r#"{"min_characters": 4}"#, ["Seven.", "Six."], Ok(["Seven.", "Six."]));
        check(r#"{"max_length_ratio": 1.5}"#, ["Seven.", "Six."], Ok(["Seven.", "Six."]));
        check(r#"{"max_length_ratio": 1.4}"#, ["Seven.", "Six."], Err("length-ratio"));
        check(r#"{"max_length_ratio": 1.4}"#, ["Six.", "Seven."], Err("length-ratio"));
    }

    #[test]
    fn the_adjectives_are_those_of_the_principles() {
        let adjectives = Config::default().adjectives;
        let mut count = 0;
        for line in include_str!("../../sso/data/features.jsonl").lines() {
            let feature: serde_json::Value = serde_json::from_str(line).unwrap();
            for side in ["good", "bad"] {
                let adjective = feature[side]["adjective"].as_str().unwrap();
                assert!(adjectives.iter().any(|it| it == adjective), "{adjective}");
                count += 1;
            }
        }
        assert_eq!(count, 16);
    }

    #[test]
    fn awkward_records_get_a_verdict_in_time() {
        let plugin: ContrastCleanup =
            testing::plugin(r#"{"max_length_ratio": 3, "min_characters": 1}"#).unwrap();
        for mut record in testing::awkward() {
            let failed = testing::filter(&plugin, &record, testing::no_model);
            assert!(matches!(failed, Err(Error::Input(text)) if text.contains("no completed")));

            let text = record.prompt.text.gist().to_owned();
            let other = format!("{text} 7");
            record.variants = vec![
                testing::variant("good", VariantRole::Good, &text, &text),
                testing::variant("bad", VariantRole::Bad, &other, &other),
            ];
            if let Verdict::Revise(revisions) =
                testing::filter(&plugin, &record, testing::no_model).unwrap()
            {
                assert!(revisions.iter().all(|revision| !revision.text.trim().is_empty()));
            }
        }
    }

    #[test]
    fn a_raw_prompt_that_was_put_under_guidelines_is_known() {
        let mut record = record(["Seven.", "Six of the days in mind.", PLAIN], Finish::Stop);
        record.prompt.text = Text::Raw("Q: days? A:".into());
        record.variants[2].prompt =
            Text::Raw("Name six of the days in mind.\n\nQ: days? A:".into());
        let plugin: ContrastCleanup = testing::plugin(r#"{"leak_run": 6}"#).unwrap();
        let verdict = testing::filter(&plugin, &record, testing::no_model);
        assert_eq!(verdict, Ok(Verdict::Drop("leak".into())));
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<ContrastCleanup>(config)
        {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"max_length_ratio": 0.5}"#, "`max_length_ratio` is 0.5, expected 1 or more");
        check(r#"{"phrases": ["OK"]}"#, "`phrases` has `OK`, expected words in lower case");
        check(r#"{"adjectives": [" "]}"#, "`adjectives` has ` `");
        check(r#"{"leak": false}"#, "unknown key `leak`");
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value =
            serde_json::from_str(ContrastCleanup::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 9);
    }
}
