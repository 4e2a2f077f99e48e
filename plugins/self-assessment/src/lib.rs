//! I-SHEEP's judge: a model scores an answer, 1 to 10, for its quality and for how well it follows
//! the instruction, in two questions apart (Liang et al., 2024, <https://arxiv.org/abs/2408.08072>).
//!
//! The rewards have the names `quality` and `following`; put `threshold` after the judge. The
//! questions are this project's own writing, in the published form `<score>||<explanation>`.
//!
//! Which model scores is a setting: the paper's text says the current one, its program asks the
//! initial one. An answer whose score cannot be read is `unparsable` as a whole, whatever the other
//! score was.

mod prompts;
mod score;

use aligner_sdk::{
    Ask, Context, Decoding, Error, GenerateRequest, Judge, Opinion, Plugin, Record, RenderAs,
    Reward, export_judge,
};
use serde::Deserialize;

use crate::prompts::{Criterion, Standard};

/// What stands under `[judge.config]`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfAssessment {
    /// The model that scores: `initial`, `policy`, `previous` or a name from `[models]`.
    model: String,
    /// What is scored. Each is a question of its own.
    criteria: Vec<Criterion>,
    /// How the scale is described.
    prompt: Standard,
    /// How the question is put to the model.
    render_as: RenderAs,
    /// As published; 0 gives the same score each time.
    temperature: f64,
    /// As published.
    top_p: f64,
    /// Enough for the score; the words of why that follow it are not read.
    max_new_tokens: u32,
    /// Another number gives other scores, at a temperature over 0.
    seed: u64,
}

impl Default for SelfAssessment {
    fn default() -> Self {
        SelfAssessment {
            model: "initial".into(),
            criteria: vec![Criterion::Quality, Criterion::Following],
            prompt: Standard::Combined,
            render_as: RenderAs::Raw,
            temperature: 1.0,
            top_p: 0.95,
            max_new_tokens: 16,
            seed: 0,
        }
    }
}

impl Plugin for SelfAssessment {
    type Config = SelfAssessment;
    const NAME: &'static str = "self-assessment";
    const SUMMARY: &'static str =
        "Asks a model to score each answer for its quality and for following the instruction.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "initial"},
"criteria": {"type": "array", "items": {"enum": ["quality", "following"]}, "minItems": 1, "uniqueItems": true, "default": ["quality", "following"]},
"prompt": {"enum": ["combined", "simple", "icl"], "default": "combined"},
"render_as": {"enum": ["raw", "chat"], "default": "raw"},
"temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0},
"top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.95},
"max_new_tokens": {"type": "integer", "minimum": 1, "default": 16},
"seed": {"type": "integer", "minimum": 0, "default": 0}}}"#;

    fn new(config: SelfAssessment) -> Result<Self, Error> {
        let mut criteria = config.criteria.clone();
        criteria.sort();
        criteria.dedup();
        if criteria.is_empty() || criteria.len() < config.criteria.len() {
            return Err(Error::Config(
                "`criteria` must hold `quality`, `following` or both, none twice".into(),
            ));
        }
        Ok(config)
    }
}

impl Judge for SelfAssessment {
    /// Judges every completion of a record.
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        let task = record.prompt.text.instruction_and_input();
        let mut scored = Vec::new();
        let mut requests = Vec::new();
        for (variant, completion) in record.completions() {
            for &criterion in &self.criteria {
                let question = criterion.question(self.prompt, task, &completion.text);
                requests.push(self.request(question).into());
                scored.push((&variant.name, criterion));
            }
        }
        if scored.is_empty() {
            return Err(Error::Input("it has no completion to score".into()));
        }
        let mut rewards = Vec::new();
        for ((variant, criterion), answer) in scored.into_iter().zip(ask.all(requests)?) {
            let value = match answer.completion() {
                Ok(completion) => score::score(&completion.text)
                    .ok_or_else(|| format!("{}: {}", criterion.name(), shown(&completion.text))),
                Err(Error::Unanswered(why)) => {
                    Err(format!("{}: {}", criterion.name(), shown(&why)))
                }
                Err(error) => return Err(error),
            };
            match value {
                Ok(value) => rewards.push(Reward {
                    variant: variant.clone(),
                    name: criterion.name().into(),
                    value,
                }),
                Err(text) => return Ok(Opinion::Unparsable(text)),
            }
        }
        Ok(Opinion::Rewards(rewards))
    }
}

export_judge!(SelfAssessment);

impl SelfAssessment {
    fn request(&self, question: String) -> GenerateRequest {
        let prompt = self.render_as.put(question);
        let decoding = Decoding {
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            top_k: Some(0),
            repetition_penalty: Some(1.0),
            max_new_tokens: Some(self.max_new_tokens),
            // Nothing of `[generate]` counts here: a score may stand behind blank lines.
            stop: Some(Vec::new()),
        };
        GenerateRequest { decoding, seed: self.seed, ..GenerateRequest::of(&self.model, prompt) }
    }
}

/// Returns the beginning of a text on one line.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(LONGEST) {
        words.truncate(end);
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, Text, VariantRole, testing};

    use super::*;

    fn plugin(config: &str) -> SelfAssessment {
        testing::plugin(config).unwrap()
    }

    fn request(request: &Request) -> &GenerateRequest {
        match request {
            Request::Generate(request) => request,
            other => panic!("asked for something else: {other:?}"),
        }
    }

    fn question(request: &Request) -> &str {
        self::request(request).prompt.gist()
    }

    /// Scores quality with one text and following with another.
    fn judged(config: &str, record: &Record, quality: &str, following: &str) -> Opinion {
        let model = |request: &Request| {
            let text = match question(request).contains("quality of the response") {
                true => quality,
                false => following,
            };
            Answer::Completion(testing::completion(text))
        };
        testing::judge(&plugin(config), record, model).unwrap()
    }

    fn reward(variant: &str, name: &str, value: f64) -> Reward {
        Reward { variant: variant.into(), name: name.into(), value }
    }

    #[test]
    fn both_criteria_are_asked_apart_and_at_once() {
        let record = testing::answered("p-1", "Why?", "Because.");
        let opinion = judged("{}", &record, "9||good", " 3||off");
        let expected =
            vec![reward("few-shot", "quality", 9.0), reward("few-shot", "following", 3.0)];
        assert_eq!(opinion, Opinion::Rewards(expected));
        let only = judged(r#"{"criteria": ["following"]}"#, &record, "", "10");
        assert_eq!(only, Opinion::Rewards(vec![reward("few-shot", "following", 10.0)]));
    }

    #[test]
    fn every_completion_is_judged() {
        let mut record = testing::answered("p-1", "Why?", "Because.");
        record.variants.push(testing::variant("bad", VariantRole::Bad, "Why?", "No."));
        let Opinion::Rewards(rewards) = judged("{}", &record, "9", "3") else { panic!() };
        assert_eq!(rewards.len(), 4);
        assert_eq!(rewards[3], reward("bad", "following", 3.0));
    }

    #[test]
    fn a_score_that_cannot_be_read_is_shown() {
        let record = testing::answered("p-1", "Why?", "Because.");
        let opinion = judged("{}", &record, "9||good", "It is\n\ngood.");
        assert_eq!(opinion, Opinion::Unparsable("following: It is good.".into()));
        let long = judged("{}", &record, &"né ".repeat(90), "9");
        let Opinion::Unparsable(text) = long else { panic!("{long:?}") };
        assert_eq!(text.chars().count(), "quality: ".len() + 81);
        let deaf = |_: &Request| Answer::Unanswered("the prompt is too long".into());
        let opinion = testing::judge(&plugin("{}"), &record, deaf).unwrap();
        assert_eq!(opinion, Opinion::Unparsable("quality: the prompt is too long".into()));
    }

    #[test]
    fn the_question_shows_the_item_and_ends_where_the_score_begins() {
        let record = testing::answered("p-1", "Sum up.\n\nOne. Two.", " Numbers.\n");
        for standard in ["combined", "simple", "icl"] {
            for render_as in ["raw", "chat"] {
                let config = format!(r#"{{"prompt": "{standard}", "render_as": "{render_as}"}}"#);
                let model = |request: &Request| {
                    let text = question(request);
                    assert!(text.contains("<score>||<explanation>"), "{text}");
                    let end = "\n\nInstruction: Sum up. One. Two.\nResponse: Numbers.\nAs a \
                               strict examiner, your score is:";
                    assert!(text.ends_with(end), "{text}");
                    let shown = text.matches("your score is:").count();
                    assert_eq!(shown, if standard == "icl" { 4 } else { 1 });
                    let raw = matches!(self::request(request).prompt, Text::Raw(_));
                    assert_eq!(raw, render_as == "raw");
                    Answer::Completion(testing::completion("9||good"))
                };
                testing::judge(&plugin(&config), &record, model).unwrap();
            }
        }
    }

    #[test]
    fn scored_examples_have_scores_that_can_be_read() {
        for criterion in [Criterion::Quality, Criterion::Following] {
            let text = criterion.question(Standard::Icl, ("", ""), "");
            let scores: Vec<_> =
                text.split("your score is: ").skip(1).filter_map(score::score).collect();
            assert_eq!(scores, [6.0, 1.0, 10.0]);
        }
    }

    #[test]
    fn settings_reach_the_model() {
        let record = testing::answered("p-1", "Why?", "Because.");
        let config = r#"{"model": "policy", "temperature": 0, "seed": 3, "max_new_tokens": 5}"#;
        let model = |request: &Request| {
            let request = self::request(request);
            assert_eq!((request.model.as_str(), request.seed), ("policy", 3));
            assert_eq!(request.decoding.temperature, Some(0.0));
            assert_eq!(request.decoding.max_new_tokens, Some(5));
            Answer::Completion(testing::completion("9||good"))
        };
        testing::judge(&plugin(config), &record, model).unwrap();
    }

    #[test]
    fn awkward_records_get_an_opinion_or_name_what_is_missing() {
        for record in testing::awkward() {
            let words = |_: &Request| Answer::Completion(testing::completion("7||fine"));
            let opinion = testing::judge(&plugin(r#"{"prompt": "icl"}"#), &record, words);
            match record.completions().count() {
                0 => assert!(matches!(opinion, Err(Error::Input(_)))),
                _ => assert!(matches!(opinion, Ok(Opinion::Rewards(_)))),
            }
        }
    }

    #[test]
    fn wrong_criteria_are_refused() {
        for criteria in ["[]", r#"["quality", "quality"]"#, r#"["truth"]"#] {
            let failed =
                testing::plugin::<SelfAssessment>(&format!(r#"{{"criteria": {criteria}}}"#)).err();
            assert!(matches!(failed, Some(Error::Config(text)) if text.contains("criteria")));
        }
    }
}
