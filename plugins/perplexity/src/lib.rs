//! SOFT+'s difficulty: how surprised the initial model is, as a perplexity.
//!
//! Of what the perplexity is taken could not be read in the paper (Wang et al., 2024,
//! <https://arxiv.org/abs/2402.07610>): it is a setting. Token by token, a perplexity is
//! `exp(-logprob / tokens)`, 1 for certainty and higher for harder prompts.

use aligner_sdk::{
    Ask, Completion, Context, Difficulty, Error, Plugin, Record, Score, ScoreRequest, Text,
    export_difficulty,
};
use serde::Deserialize;

/// What stands under `[difficulty.config]`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Perplexity {
    /// Of which text the perplexity is taken.
    of: Of,
    /// For `of = "answer"`: under which prompt.
    under: Under,
    /// For `of = "answer"`: the variant whose completion is the answer.
    variant: String,
    /// The model that scores: `initial`, `policy`, `previous` or a name from `[models]`.
    model: String,
}

impl Default for Perplexity {
    fn default() -> Self {
        Perplexity {
            of: Of::Answer,
            under: Under::Plain,
            variant: "few-shot".into(),
            model: "initial".into(),
        }
    }
}

/// Of which text the perplexity is taken.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Of {
    /// The model's own answer: how sure it is of what it says.
    Answer,
    /// The prompt's own words, after `User:` as raw text: how unusual the question is.
    Prompt,
}

/// Under which prompt an answer is scored.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Under {
    /// The plain prompt, without principles and in-context examples, as training sees it.
    Plain,
    /// The prompt under which it was drawn. The answer's logprob is known from there, so no model
    /// is asked; it is that of the completion as drawn, thoughts included, whatever a filter has
    /// cut off since.
    FewShot,
}

impl Plugin for Perplexity {
    type Config = Perplexity;
    const NAME: &'static str = "perplexity";
    const SUMMARY: &'static str = "Perplexity of the model's own answer, or of the prompt.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"of": {"enum": ["answer", "prompt"], "default": "answer"},
"under": {"enum": ["plain", "few-shot"], "default": "plain"},
"variant": {"type": "string", "default": "few-shot"},
"model": {"type": "string", "default": "initial"}}}"#;

    fn new(config: Perplexity) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Difficulty for Perplexity {
    /// An empty answer has no tokens under the plain prompt. Its difficulty is then that of ending
    /// at once under the prompt it was drawn from: finite, and harder the rarer it is.
    fn score(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<f64, Error> {
        let score = match self.of {
            Of::Prompt => {
                let words = format!(" {}", record.prompt.text.gist().trim());
                ask.score(ScoreRequest::of(&self.model, Text::Raw("User:".into()), words))?
            }
            Of::Answer => {
                let answer = self.answer(record)?;
                match self.under == Under::FewShot || answer.text.trim().is_empty() {
                    true => Score { logprob: answer.logprob, tokens: answer.tokens },
                    false => {
                        let prompt = record.prompt.text.clone();
                        ask.score(ScoreRequest::of(&self.model, prompt, answer.text.trim()))?
                    }
                }
            }
        };
        // A model that is certain that a text cannot be there gives a perplexity beyond all bounds.
        Ok(score.perplexity().min(f64::MAX))
    }
}

export_difficulty!(Perplexity);

impl Perplexity {
    fn answer<'a>(&self, record: &'a Record) -> Result<&'a Completion, Error> {
        let variant = record.variant(&self.variant).ok_or_else(|| {
            Error::Input(format!(
                "no variant `{}`; the record has: {}",
                self.variant,
                record.variants.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ")
            ))
        })?;
        variant.completion.as_ref().ok_or_else(|| {
            Error::Input(format!("variant `{}` has not been completed", self.variant))
        })
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Answer, Request, testing};

    use super::*;

    fn plugin(config: &str) -> Perplexity {
        testing::plugin(config).unwrap()
    }

    /// Answers as a model that gives each byte half a nat.
    fn half_a_nat(request: &Request) -> Answer {
        match request {
            Request::Score(request) => {
                let tokens = request.completion.len() as u32;
                Answer::Score(Score { logprob: -0.5 * f64::from(tokens), tokens })
            }
            other => panic!("asked for something else: {other:?}"),
        }
    }

    #[test]
    fn the_perplexity_is_that_of_the_mean_logprob() {
        let record = testing::answered("p-1", "Why?", "Because.");
        let four = |request: &Request| {
            let Request::Score(request) = request else { panic!("asked to generate") };
            assert_eq!(
                (request.model.as_str(), request.completion.as_str()),
                ("initial", "Because.")
            );
            assert_eq!(request.prompt, Text::user("Why?"));
            Answer::Score(Score { logprob: -4.0, tokens: 4 })
        };
        let score = testing::score(&plugin("{}"), &record, four).unwrap();
        assert!((score - std::f64::consts::E).abs() < 1e-12, "{score}");
    }

    #[test]
    fn the_prompts_own_words_can_be_scored() {
        let record = testing::record("p-1", " Why? ");
        let check = |request: &Request| {
            let expected = ScoreRequest::of("judge", Text::Raw("User:".into()), " Why?");
            assert_eq!(request, &expected.into());
            half_a_nat(request)
        };
        let score =
            testing::score(&plugin(r#"{"of": "prompt", "model": "judge"}"#), &record, check);
        assert!((score.unwrap() - 0.5f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn the_few_shot_perplexity_asks_nobody() {
        let record = testing::answered("p-1", "Why?", "Because.");
        let plugin = plugin(r#"{"under": "few-shot"}"#);
        let score = testing::score(&plugin, &record, testing::no_model).unwrap();
        assert!((score - 0.5f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn scores_are_finite_and_at_least_one() {
        for of in ["answer", "prompt"] {
            let plugin = plugin(&format!(r#"{{"of": "{of}"}}"#));
            for record in testing::awkward() {
                match testing::score(&plugin, &record, half_a_nat) {
                    Ok(score) => assert!(score.is_finite() && score >= 1.0, "{}", record.prompt.id),
                    Err(Error::Input(_)) if of == "answer" && record.completions().count() == 0 => {
                    }
                    Err(error) => panic!("{}: {error}", record.prompt.id),
                }
            }
        }
        let hopeless = |_: &Request| Answer::Score(Score { logprob: -1e300, tokens: 1 });
        let record = testing::answered("p-1", "Why?", "Because.");
        assert_eq!(testing::score(&plugin("{}"), &record, hopeless), Ok(f64::MAX));
    }

    #[test]
    fn a_missing_answer_is_named() {
        let check = |record: Record, config: &str, expected: &str| {
            let failed = testing::score(&plugin(config), &record, testing::no_model);
            assert_eq!(failed, Err(Error::Input(expected.into())));
        };
        let mut open = testing::answered("p-1", "Why?", "Because.");
        open.variants[0].completion = None;
        check(open, "{}", "variant `few-shot` has not been completed");
        check(
            testing::answered("p-1", "Why?", "Because."),
            r#"{"variant": "good"}"#,
            "no variant `good`; the record has: few-shot",
        );
    }
}
