//! SELF-ALIGN's post-processing: checks that a completion keeps the internal-thoughts format, takes
//! the answer out of it, and drops answers that leak the prompt or repeat themselves (Sun et al.,
//! 2023, <https://arxiv.org/abs/2305.03047>).
//!
//! The rules run in this order, and each has a switch; the defaults are the paper's code, as far as
//! it has the rule:
//!
//! - a. `opening`: the completion begins with the sentence that opens all internal thoughts. The
//!   prompt stops before it, so a model that ignores the format is caught here.
//! - b. `marker`: the answer is what follows the first `Assistant:` on a line of its own.
//! - d. A next turn ends the answer; it is whole then, as it is when the model ended by itself.
//! - c. `loops`: a clause that repeats an earlier one ends the answer; it is not whole then.
//! - d. `cut_off`: an answer that is not whole loses its last word (or sentence), and training adds
//!   no end-of-turn token to it. What is shorter than `min_characters` is dropped.
//! - e. `echo`: the answer does not contain the question.
//! - f. `format_leaks`, `leak_words`, `leak_run`: it contains neither the format's own phrases nor
//!   the words of the in-context examples.
//! - g. `refusals`, `min_distinct_words`, `min_distinct_trigrams`: it does not begin by being
//!   sorry, and does not repeat itself.
//!
//! Deviations from the paper's code:
//!
//! 1. The next turn is looked for before repetitions are: its markers repeat in every turn.
//! 2. `min_characters` holds for answers that were cut off, too.
//! 3. Leakage words are computed from the examples drawn for the prompt; a fixed list would fit a
//!    fixed set of examples only.
//! 4. The assistant has no name of its own, so nothing is renamed.

mod leak;
mod text;

use aligner_sdk::{
    Ask, Context, Error, Filter, Finish, Plugin, Record, Revision, Verdict, export_filter,
};
use serde::Deserialize;

/// What stands under `config` of the filter.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The variant whose completion is worked on.
    variant: String,
    /// How the principle plugin writes its examples.
    format: Format,
    /// Rule a. Reason `no-opening`.
    opening: bool,
    /// Rule b. Reason `no-answer`. Otherwise a completion without the marker is all answer.
    marker: bool,
    /// Rule c.
    loops: bool,
    /// Rule c: only clauses of this many words count.
    loop_words: usize,
    /// Rule d: what an answer loses that is not whole.
    cut_off: CutOff,
    /// Rule d. Reason `too-short`. The paper asks for 160 with its end marker of 11 characters.
    min_characters: usize,
    /// Fewest words, between spaces. Reason `too-short`.
    min_words: usize,
    /// Rule e, for questions of more than 16 characters. Reason `echo`.
    echo: bool,
    /// Rule f. Reason `format-leak`.
    format_leaks: bool,
    /// Rule f: drops an answer with this many different rare words of one example; 0 is off. Reason
    /// `exemplar-leak`.
    leak_words: usize,
    /// Rule f: drops an answer with this many words in a row from an example; 0 is off. Reason
    /// `exemplar-leak`.
    leak_run: usize,
    /// Rule g: drops answers that begin with "I'm sorry" or "I am sorry". Reason
    /// `refusal-opening`.
    refusals: bool,
    /// Smallest share of different words among all words; 0 is off. Reason `repetition`.
    min_distinct_words: f64,
    /// Smallest share of different runs of three words; 0 is off. Reason `repetition`.
    min_distinct_trigrams: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            variant: "few-shot".into(),
            format: Format::InternalThoughts,
            opening: true,
            marker: true,
            loops: true,
            loop_words: 1,
            cut_off: CutOff::Word,
            min_characters: 149,
            min_words: 0,
            echo: true,
            format_leaks: true,
            leak_words: 3,
            leak_run: 6,
            refusals: true,
            min_distinct_words: 0.0,
            min_distinct_trigrams: 0.0,
        }
    }
}

/// The formats of the `self-align` plugin.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    /// The paper's.
    InternalThoughts,
    /// The shorter one.
    Brief,
}

impl Format {
    /// Returns the sentence that opens all thoughts.
    fn opening(self) -> &'static str {
        match self {
            Format::InternalThoughts => "I am a helpful, honest and harmless assistant.",
            Format::Brief => "I am a helpful assistant.",
        }
    }

    /// Returns the marker before the thoughts. The prompt ends with it, unless it is rendered as a
    /// conversation: then the completion begins with it.
    fn thoughts(self) -> &'static str {
        match self {
            Format::InternalThoughts => "Assistant (internal thoughts):",
            Format::Brief => "Internal thoughts:",
        }
    }
}

/// What an answer loses that is not whole.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CutOff {
    /// The last word, which may be half of one.
    Word,
    /// What follows the last sentence, where `min_characters` remain; otherwise the last word.
    Sentence,
    /// Everything: the record is dropped. Reason `cut-off`.
    Drop,
}

/// The plugin.
pub struct SelfAlignFormat {
    config: Config,
    /// What no answer contains, in lower case.
    phrases: Vec<String>,
}

impl Plugin for SelfAlignFormat {
    type Config = Config;
    const NAME: &'static str = "self-align-format";
    const SUMMARY: &'static str =
        "Takes the answer out of the internal-thoughts format; drops leaks and repetitions.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"variant": {"type": "string", "default": "few-shot"},
"format": {"enum": ["internal-thoughts", "brief"], "default": "internal-thoughts"},
"opening": {"type": "boolean", "default": true},
"marker": {"type": "boolean", "default": true},
"loops": {"type": "boolean", "default": true},
"loop_words": {"type": "integer", "minimum": 1, "default": 1},
"cut_off": {"enum": ["word", "sentence", "drop"], "default": "word"},
"min_characters": {"type": "integer", "minimum": 0, "default": 149},
"min_words": {"type": "integer", "minimum": 0, "default": 0},
"echo": {"type": "boolean", "default": true},
"format_leaks": {"type": "boolean", "default": true},
"leak_words": {"type": "integer", "minimum": 0, "default": 3},
"leak_run": {"type": "integer", "minimum": 0, "default": 6},
"refusals": {"type": "boolean", "default": true},
"min_distinct_words": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
"min_distinct_trigrams": {"type": "number", "minimum": 0, "maximum": 1, "default": 0}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        for (key, share) in [
            ("min_distinct_words", config.min_distinct_words),
            ("min_distinct_trigrams", config.min_distinct_trigrams),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::Config(format!("`{key}` is {share}, expected 0 to 1")));
            }
        }
        let thoughts = config.format.thoughts().trim_end_matches(':').to_lowercase();
        let opening = config.format.opening().trim_end_matches('.').to_lowercase();
        let phrases = PHRASES.map(String::from);
        let phrases = phrases.into_iter().chain([thoughts, opening]).collect();
        Ok(SelfAlignFormat { config, phrases })
    }
}

impl Filter for SelfAlignFormat {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let name = &self.config.variant;
        let variant = record.variant(name).ok_or_else(|| {
            let names: Vec<&str> = record.variants.iter().map(|it| it.name.as_str()).collect();
            let names = names.join(", ");
            Error::Input(format!("no variant `{name}`; the record has: {names}"))
        })?;
        let completion = variant
            .completion
            .as_ref()
            .ok_or_else(|| Error::Input(format!("variant `{name}` has not been completed")))?;
        Ok(match self.answer(record, &completion.text, completion.finish) {
            Ok((text, finish)) if text == completion.text && finish == completion.finish => {
                Verdict::Keep
            }
            Ok((text, finish)) => {
                Verdict::Revise(vec![Revision { variant: name.clone(), text, finish }])
            }
            Err(reason) => Verdict::Drop(reason.into()),
        })
    }
}

export_filter!(SelfAlignFormat);

impl SelfAlignFormat {
    /// Takes the answer out of a completion, or returns why it is dropped.
    fn answer(
        &self,
        record: &Record,
        completion: &str,
        finish: Finish,
    ) -> Result<(String, Finish), &'static str> {
        let answer = self.behind_the_thoughts(completion)?;
        let (answer, finish) = self.whole(answer, finish)?;
        if answer.is_empty() {
            return Err("empty");
        }
        let words = answer.split_whitespace().count();
        if answer.chars().count() < self.config.min_characters || words < self.config.min_words {
            return Err("too-short");
        }
        self.check_leaks(record, answer)?;
        self.check_repetition(answer)?;
        Ok((answer.into(), finish))
    }

    /// Rules a and b.
    fn behind_the_thoughts<'a>(&self, completion: &'a str) -> Result<&'a str, &'static str> {
        let format = self.config.format;
        let text = completion.trim_start();
        let thoughts = text.strip_prefix(format.thoughts()).unwrap_or(text).trim_start();
        if self.config.opening && !thoughts.starts_with(format.opening()) {
            return Err("no-opening");
        }
        match thoughts.split_once(ANSWER) {
            Some((_, answer)) => Ok(answer),
            None if self.config.marker => Err("no-answer"),
            None => Ok(thoughts),
        }
    }

    /// Rules d and c: where the answer ends, and whether it is whole there.
    fn whole<'a>(
        &self,
        answer: &'a str,
        finish: Finish,
    ) -> Result<(&'a str, Finish), &'static str> {
        let next_turn = [USER, ANSWER, self.config.format.thoughts()];
        let (mut answer, ended) = match text::before_next_turn(answer, &next_turn) {
            Some(before) => (before.trim(), true),
            None => (answer.trim(), finish == Finish::Stop),
        };
        let mut whole = ended;
        if self.config.loops
            && let Some(before) = text::before_loop(answer, self.config.loop_words)
        {
            answer = before.trim_end();
            whole = false;
        }
        if whole {
            return Ok((answer, Finish::Stop));
        }
        let answer = match self.config.cut_off {
            CutOff::Drop => return Err("cut-off"),
            CutOff::Word => text::without_last_word(answer),
            CutOff::Sentence => text::sentences(answer)
                .filter(|sentences| sentences.chars().count() >= self.config.min_characters.max(1))
                .unwrap_or_else(|| text::without_last_word(answer)),
        };
        Ok((answer, Finish::Length))
    }

    /// Rules e and f.
    fn check_leaks(&self, record: &Record, answer: &str) -> Result<(), &'static str> {
        let lower = answer.to_lowercase();
        let question = record.prompt.text.gist().trim().to_lowercase();
        if self.config.echo && question.chars().count() > 16 && lower.contains(&question) {
            return Err("echo");
        }
        if self.config.format_leaks
            && (self.phrases.iter().any(|phrase| lower.contains(phrase.as_str()))
                || text::cites_a_rule(&lower))
        {
            return Err("format-leak");
        }
        let said = leak::Said::new(&lower);
        let asked = leak::Said::new(&question);
        let leaks = |exemplar: &aligner_sdk::Exemplar| {
            let shown = leak::shown(&exemplar.text, self.config.format.thoughts(), ANSWER);
            let shown: Vec<_> = shown.iter().map(|text| leak::Said::new(text)).collect();
            said.repeats_words(&shown, &asked, self.config.leak_words)
                || said.repeats_a_run(&shown, self.config.leak_run)
        };
        match record.exemplars.iter().any(leaks) {
            true => Err("exemplar-leak"),
            false => Ok(()),
        }
    }

    /// Rule g.
    fn check_repetition(&self, answer: &str) -> Result<(), &'static str> {
        let start: String = answer.chars().take(10).collect();
        let start = start.to_lowercase().replace('’', "'");
        if self.config.refusals
            && (start.starts_with("i'm sorry") || start.starts_with("i am sorry"))
        {
            return Err("refusal-opening");
        }
        let words = text::words(answer);
        let (of_words, of_trigrams) = (text::distinct(&words, 1), text::distinct(&words, 3));
        if of_words < self.config.min_distinct_words
            || of_trigrams < self.config.min_distinct_trigrams
        {
            return Err("repetition");
        }
        Ok(())
    }
}

/// The marker of the answer; it stands on a line of its own.
const ANSWER: &str = "\n\nAssistant:";

/// What belongs to the format and not into an answer, in lower case.
const PHRASES: [&str; 6] = [
    "user:",
    "assistant:",
    "i should follow",
    "now i answer the user",
    "the user asks",
    "the user wants",
];

/// The marker of the user's turn.
const USER: &str = "\n\nUser:";

#[cfg(test)]
mod tests {
    use aligner_sdk::{Principle, testing};
    use self_align::SelfAlign;

    use super::*;

    const BRIEF: &str = r#"{"format": "brief", "min_characters": 20, "loop_words": 3,
        "cut_off": "sentence", "min_distinct_words": 0.5, "min_distinct_trigrams": 0.85}"#;

    const THOUGHTS: &str = " I am a helpful assistant. I follow 3 (helpful), 5 (reasoning).";

    fn judge(config: &str, record: &Record) -> Verdict {
        let plugin: SelfAlignFormat = testing::plugin(config).unwrap();
        testing::filter(&plugin, record, testing::no_model).unwrap()
    }

    fn answered(completion: &str, finish: Finish) -> Record {
        let mut record = testing::answered("p-1", "Why is the sky blue by day?", completion);
        let completion = record.variants[0].completion.as_mut().unwrap();
        completion.finish = finish;
        record
    }

    /// Checks what becomes of an answer behind proper thoughts.
    fn check(answer: &str, finish: Finish, expected: Result<(&str, Finish), &str>) {
        let completion = format!("{THOUGHTS}\n\nAssistant: {answer}");
        check_completion(BRIEF, &answered(&completion, finish), expected);
    }

    fn check_completion(config: &str, record: &Record, expected: Result<(&str, Finish), &str>) {
        let expected = match expected {
            Ok((text, finish)) => {
                let (variant, text) = ("few-shot".into(), text.into());
                Verdict::Revise(vec![Revision { variant, text, finish }])
            }
            Err(reason) => Verdict::Drop(reason.into()),
        };
        assert_eq!(judge(config, record), expected, "{record:?}");
    }

    use Finish::{Length, Stop};

    #[test]
    fn the_answer_is_taken_out_of_the_format() {
        let blue = "Air scatters blue light the most.";
        check(blue, Stop, Ok((blue, Stop)));
        check(&format!("\n  {blue} \n"), Stop, Ok((blue, Stop)));
        check(&format!("{blue}\n\nUser: And why"), Length, Ok((blue, Stop)));
        check(&format!("{blue}\n\nInternal thoughts: I am"), Length, Ok((blue, Stop)));
        check(&format!("{blue}\n\nAssistant: More."), Stop, Ok((blue, Stop)));
    }

    #[test]
    fn the_format_must_be_kept() {
        let check = |completion: &str, expected| {
            check_completion(BRIEF, &answered(completion, Stop), expected);
        };
        let blue = "Air scatters blue light the most.";
        check(blue, Err("no-opening"));
        check("", Err("no-opening"));
        check(THOUGHTS, Err("no-answer"));
        check(&format!("{THOUGHTS} Assistant: {blue}"), Err("no-answer"));
        check(&format!("{THOUGHTS}\n\nAssistant: "), Err("empty"));
        // Rendered as a conversation, the completion begins with the marker of the thoughts.
        let whole = format!("Internal thoughts:{THOUGHTS}\n\nAssistant: {blue}");
        check(&whole, Ok((blue, Stop)));
    }

    #[test]
    fn an_answer_that_ran_out_of_tokens_is_not_whole() {
        let blue = "Air scatters blue light the most.";
        check(&format!("{blue} So the sk"), Length, Ok((blue, Length)));
        check(
            "Air scatters blue light the mo",
            Length,
            Ok(("Air scatters blue light the", Length)),
        );
        check("Air scatters bl", Length, Err("too-short"));
        check("Airscattersbluelightthemost", Length, Err("empty"));
        let completion = format!("{THOUGHTS}\n\nAssistant: {blue} So the sk");
        let check = |cut_off: &str, expected| {
            let config = BRIEF.replace("sentence", cut_off);
            check_completion(&config, &answered(&completion, Length), expected);
        };
        check("word", Ok(("Air scatters blue light the most. So the", Length)));
        check("drop", Err("cut-off"));
    }

    #[test]
    fn a_loop_ends_the_answer_and_leaves_it_open() {
        check(
            "Air scatters blue light. It is blue light. It is blue light. It is",
            Length,
            Ok(("Air scatters blue light. It is blue light.", Length)),
        );
        let yes = "Yes, yes, yes, ok.";
        let check = |config: &str, expected| {
            let completion = format!("{THOUGHTS}\n\nAssistant: {yes}");
            check_completion(config, &answered(&completion, Stop), expected);
        };
        check(r#"{"format": "brief", "min_characters": 0}"#, Ok(("Yes,", Length)));
        check(r#"{"format": "brief", "min_characters": 0, "loops": false}"#, Ok((yes, Stop)));
    }

    #[test]
    fn leaks_of_prompt_and_format_are_dropped() {
        check("Why is the sky blue by day? It is air.", Stop, Err("echo"));
        check("It is as if the user asks for the sky.", Stop, Err("format-leak"));
        check("You should follow the leaflet.", Stop, Ok(("You should follow the leaflet.", Stop)));
        check("As a rule, I am a helpful assistant at all times.", Stop, Err("format-leak"));
        check("This is covered by 2 (informative), I think.", Stop, Err("format-leak"));
    }

    #[test]
    fn leaks_of_drawn_examples_are_dropped() {
        let principle: SelfAlign = testing::plugin(r#"{"format": "brief"}"#).unwrap();
        let catalogue = principle.catalogue().unwrap();
        let check = |drawn: &[usize], answer: &str, expected| {
            let mut record = answered(&format!("{THOUGHTS}\n\nAssistant: {answer}"), Stop);
            record.exemplars = drawn.iter().map(|&i| catalogue[i].clone()).collect();
            check_completion(BRIEF, &record, expected);
        };
        let stolen = "Yeast feeds on the sugars in flour and gives off carbon dioxide.";
        check(&[3, 4], stolen, Err("exemplar-leak"));
        check(&[3, 5], stolen, Ok((stolen, Stop)));
        check(&[], stolen, Ok((stolen, Stop)));
    }

    #[test]
    fn refusals_and_repetitions_are_dropped() {
        check("I'm sorry, but I cannot tell you that.", Stop, Err("refusal-opening"));
        check("I’m sorry, but I cannot tell you that.", Stop, Err("refusal-opening"));
        check("I AM SORRY, but I cannot tell you that.", Stop, Err("refusal-opening"));
        check("blue and blue and blue and blue and blue", Stop, Err("repetition"));
    }

    /// Every example, put as its own prompt's completion, gives back its answer: the two plugins
    /// agree on both formats.
    #[test]
    fn the_shipped_examples_keep_the_format() {
        for format in ["internal-thoughts", "brief"] {
            let config = format!(r#"{{"format": "{format}"}}"#);
            let principle: SelfAlign = testing::plugin(&config).unwrap();
            let catalogue = principle.catalogue().unwrap();
            for (i, exemplar) in catalogue.iter().enumerate() {
                let other = catalogue[(i + 7) % catalogue.len()].clone();
                let mut record = testing::record("p-1", "Tell me.");
                record.exemplars = vec![other];
                record.variants = testing::render(&principle, &record, testing::no_model).unwrap();
                let aligner_sdk::Text::Raw(prompt) = &record.variants[0].prompt else {
                    panic!("not raw");
                };
                let marker = prompt.rsplit_once("\n\n").unwrap().1;
                let (_, completion) = exemplar.text.split_once(marker).unwrap();
                let (_, answer) = completion.split_once("\n\nAssistant: ").unwrap();
                record.variants[0].completion = Some(testing::completion(completion));
                let config = format!(
                    r#"{{"format": "{format}", "min_characters": 20, "loop_words": 3, "refusals": false}}"#
                );
                check_completion(&config, &record, Ok((answer, Stop)));
            }
            assert_eq!(catalogue.len(), 48);
        }
    }

    #[test]
    fn awkward_records_get_a_verdict_in_time() {
        let plain =
            r#"{"opening": false, "marker": false, "min_characters": 0, "format": "brief"}"#;
        for config in ["{}", BRIEF, plain] {
            let plugin: SelfAlignFormat = testing::plugin(config).unwrap();
            for mut record in testing::awkward() {
                let texts = testing::awkward_texts();
                record.exemplars = texts.iter().map(|it| testing::exemplar("ex", it)).collect();
                match testing::filter(&plugin, &record, testing::no_model) {
                    Ok(Verdict::Revise(revisions)) => {
                        assert!(revisions.iter().all(|revision| !revision.text.trim().is_empty()));
                    }
                    Ok(_) => {}
                    Err(Error::Input(text)) => assert!(
                        text.contains("no variant `few-shot`")
                            || text.contains("not been completed")
                    ),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn an_untouched_plain_answer_is_kept() {
        let config = r#"{"opening": false, "marker": false, "min_characters": 0}"#;
        assert_eq!(judge(config, &answered("Air scatters blue light.", Stop)), Verdict::Keep);
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<SelfAlignFormat>(config)
        {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"min_distinct_words": 1.5}"#, "`min_distinct_words` is 1.5, expected 0 to 1");
        check(r#"{"leak_words": -1}"#, "key `leak_words`");
        check(r#"{"formt": "brief"}"#, "unknown key `formt`");
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value =
            serde_json::from_str(SelfAlignFormat::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 16);
    }
}
