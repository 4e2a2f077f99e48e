//! Asks a model for a grade of each completion, from 1 to 10: one named reward for each.
//!
//! With `read = "logprob"` no grade is written: the reward is the mean of all ten, weighted by how likely
//! the model is to write each. So it tells apart what would get the same grade, and can always be read.

use aligner_sdk::{
    Answer, Ask, Completion, Context, Decoding, Error, GenerateRequest, Judge, Opinion, Plugin,
    Record, RenderAs, Request, Reward, ScoreRequest, Text, Variant, export_judge,
};
use serde::Deserialize;

/// What stands under `[judge.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The variants whose completions are graded, by name; empty: all that are completed.
    variants: Vec<String>,
    /// The model that grades: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// The name of the reward.
    reward: String,
    /// What a grade is for, as a sentence or two.
    rubric: String,
    /// How a grade is read.
    read: Read,
    /// How the question is put.
    render_as: RenderAs,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            variants: Vec::new(),
            model: "policy".into(),
            reward: "quality".into(),
            rubric:
                "A good answer does what the message asks for, is correct, says what matters and \
                     no more, and harms nobody."
                    .into(),
            read: Read::Logprob,
            render_as: RenderAs::Chat,
        }
    }
}

/// How a grade is read.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Read {
    /// As the mean over the ten grades. Ten requests for each completion.
    Logprob,
    /// From what the model writes, without chance.
    Answer,
}

/// The highest grade; the lowest is 1.
const HIGHEST: usize = 10;

/// How many completions a record may have: it makes 256 requests at most.
const MOST: usize = 256 / HIGHEST;
/// Bytes that the requests of one record have at most, about: what a call may give back is 16 MiB.
const MOST_BYTES: usize = 8 << 20;

/// The plugin.
pub struct Grade {
    config: Config,
}

impl Plugin for Grade {
    type Config = Config;
    const NAME: &'static str = "grade";
    const SUMMARY: &'static str = "Asks a model for a grade of each completion, from 1 to 10.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"variants": {"type": "array", "items": {"type": "string"}, "default": []},
"model": {"type": "string", "default": "policy"},
"reward": {"type": "string", "default": "quality"},
"rubric": {"type": "string"},
"read": {"enum": ["logprob", "answer"], "default": "logprob"},
"render_as": {"enum": ["chat", "raw"], "default": "chat"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        let mut names = config.variants.clone();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Config(format!("`variants` names `{}` twice", pair[0]))),
            None => Ok(Grade { config }),
        }
    }
}

impl Judge for Grade {
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        let graded = self.graded(record)?;
        let message = record.prompt.text.transcript();
        let texts = graded.iter().map(|(_, answer)| message.len() + answer.text.len());
        if HIGHEST * texts.sum::<usize>() > MOST_BYTES {
            return Ok(Opinion::Unparsable("the answers are too long to be graded".into()));
        }
        let questions = graded.iter().map(|(_, answer)| self.question(&message, &answer.text));
        let answers = ask.all(questions.flat_map(|question| self.requests(question)))?;

        let each = answers.len() / graded.len();
        let mut rewards = Vec::new();
        for ((variant, _), answers) in graded.iter().zip(answers.chunks(each)) {
            match grade(answers) {
                Ok(value) => rewards.push(Reward {
                    variant: variant.name.clone(),
                    name: self.config.reward.clone(),
                    value,
                }),
                Err(why) => return Ok(Opinion::Unparsable(format!("`{}`: {why}", variant.name))),
            }
        }
        Ok(Opinion::Rewards(rewards))
    }
}

export_judge!(Grade);

impl Grade {
    /// Returns what is graded: at least one completion.
    fn graded<'a>(&self, record: &'a Record) -> Result<Vec<(&'a Variant, &'a Completion)>, Error> {
        let names = &self.config.variants;
        let graded: Vec<_> = match names.is_empty() {
            true => record.completions().collect(),
            false => {
                let named = |name: &String| {
                    let found = record.completions().find(|(variant, _)| variant.name == *name);
                    found.ok_or_else(|| Error::Input(format!("no completed variant `{name}`")))
                };
                names.iter().map(named).collect::<Result<_, Error>>()?
            }
        };
        match graded.len() {
            0 => Err(Error::Input("no variant has been completed".into())),
            1..=MOST => Ok(graded),
            count => Err(Error::Input(format!(
                "{count} completions to grade, {MOST} at most; `variants` names those that count"
            ))),
        }
    }

    /// Asks for a grade.
    fn question(&self, message: &str, answer: &str) -> Text {
        let text = format!(
            "Grade the answer to a message with a number from 1, useless, to {HIGHEST}, perfect. {}\n\n\
             [Message]\n{}\n\n[Answer]\n{}\n\n[End]\n\nReply with the number and nothing else.",
            self.config.rubric.trim(),
            message.trim(),
            answer.trim(),
        );
        match self.config.render_as {
            RenderAs::Chat => Text::user(text),
            RenderAs::Raw => Text::Raw(format!("{text}\n\nGrade:")),
        }
    }

    /// Returns what is asked for one grade.
    fn requests(&self, question: Text) -> Vec<Request> {
        let Config { model, read, render_as, .. } = &self.config;
        match read {
            Read::Answer => {
                let decoding = Decoding { max_new_tokens: Some(16), ..Decoding::greedy() };
                vec![GenerateRequest { decoding, ..GenerateRequest::of(model, question) }.into()]
            }
            Read::Logprob => {
                let grades = 1..=HIGHEST;
                let grade = |grade| match render_as {
                    RenderAs::Chat => format!("{grade}"),
                    // The end of the line tells 1 from the beginning of 10; in a conversation the
                    // end of the turn does.
                    RenderAs::Raw => format!(" {grade}\n"),
                };
                grades
                    .map(|it| ScoreRequest::of(model, question.clone(), grade(it)).into())
                    .collect()
            }
        }
    }
}

/// Returns the grade that the answers to one question give.
fn grade(answers: &[Answer]) -> Result<f64, String> {
    if let Some(why) = answers.iter().find_map(|answer| match answer {
        Answer::Unanswered(why) => Some(why),
        _ => None,
    }) {
        return Err(format!("the model gave no answer: {why}"));
    }
    let logprob = |answer: &Answer| match answer {
        Answer::Score(score) => Some(score.logprob),
        _ => None,
    };
    match answers {
        [Answer::Completion(answer)] => {
            written(&answer.text).ok_or_else(|| format!("no grade: {}", answer.text))
        }
        answers => match answers.iter().map(logprob).collect::<Option<Vec<_>>>() {
            Some(logprobs) => Ok(expected(&logprobs)),
            None => Err("the model gave another answer than was asked for".into()),
        },
    }
}

/// Returns the mean of the grades 1, 2, … under the distribution that their logprobs give. In nats;
/// what is left over for other words does not count.
fn expected(logprobs: &[f64]) -> f64 {
    let highest = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = || logprobs.iter().map(|logprob| (logprob - highest).exp());
    let sum: f64 = weights().zip(1..).map(|(weight, grade)| weight * f64::from(grade)).sum();
    sum / weights().sum::<f64>()
}

/// Reads the first number of a text, if it is a grade: `8`, `8.5`, `8/10`, `Grade: 8 out of 10`.
fn written(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_digit())?;
    let (before, number) = text.split_at(at);
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let grade: f64 = number[..end].trim_end_matches('.').parse().ok()?;
    let negative = before.ends_with(['-', '−']) && !before.ends_with("--");
    (!negative && (1.0..=HIGHEST as f64).contains(&grade)).then_some(grade)
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Score, VariantRole, testing};

    use super::*;

    fn plugin(config: &str) -> Grade {
        testing::plugin(config).unwrap()
    }

    fn record() -> Record {
        testing::answered("p-1", "How many days has a week?", "Seven.")
    }

    fn reward(variant: &str, name: &str, value: f64) -> Reward {
        Reward { variant: variant.into(), name: name.into(), value }
    }

    /// Answers as a model that writes grade `at` and no other, but for a factor of e a grade.
    fn around(at: i32) -> impl FnMut(&Request) -> Answer {
        move |request| {
            let Request::Score(request) = request else { panic!("asked to write") };
            let grade: i32 = request.completion.trim().parse().unwrap();
            Answer::Score(Score { logprob: -f64::from((grade - at).abs()), tokens: 1 })
        }
    }

    #[test]
    fn the_mean_is_weighted_by_probability() {
        let check = |logprobs: &[f64], mean: f64| {
            let found = expected(logprobs);
            assert!((found - mean).abs() < 1e-12, "{logprobs:?}: {found}");
        };
        check(&[-3.0; 10], 5.5);
        check(&[0.0, -1e300, -1e300], 1.0);
        check(&[-1e300, -1e300], 1.5);
        // Weights 1, 2 and 1; then the same at a tenth.
        check(&[0.0, 2f64.ln(), 0.0], 2.0);
        check(&[0.1f64.ln(), 0.2f64.ln(), 0.1f64.ln()], 2.0);
        // (1 + 2·3) / 4
        check(&[0.0, 3f64.ln()], 7.0 / 4.0);
    }

    #[test]
    fn each_completion_gets_a_reward() {
        let mut record = record();
        record.variants.push(testing::variant("bad", VariantRole::Bad, "Why?", "Six."));
        record.variants.push(Variant::new("open", VariantRole::Plain, Text::user("Why?")));
        let mut asked = 0;
        let answer = |request: &Request| {
            asked += 1;
            let Request::Score(score) = request else { panic!("asked to write") };
            assert_eq!(score.model, "judge");
            let seven = score.prompt.gist().contains("[Answer]\nSeven.\n");
            around(if seven { 9 } else { 2 })(request)
        };
        let config = r#"{"model": "judge", "reward": "truth"}"#;
        let opinion = testing::judge(&plugin(config), &record, answer).unwrap();
        let Opinion::Rewards(rewards) = opinion else { panic!("{opinion:?}") };
        let named: Vec<_> =
            rewards.iter().map(|it| (it.variant.as_str(), it.name.as_str())).collect();
        assert_eq!(named, [("few-shot", "truth"), ("bad", "truth")]);
        assert!(rewards[0].value > 8.0 && rewards[1].value < 3.0, "{rewards:?}");
        assert_eq!(asked, 20);
    }

    #[test]
    fn named_variants_alone_are_graded() {
        let mut record = record();
        record.variants.push(testing::variant("bad", VariantRole::Bad, "Why?", "Six."));
        let config = r#"{"variants": ["bad"], "read": "answer"}"#;
        let eight = |_: &Request| Answer::Completion(testing::completion(" 8/10"));
        let opinion = testing::judge(&plugin(config), &record, eight);
        assert_eq!(opinion, Ok(Opinion::Rewards(vec![reward("bad", "quality", 8.0)])));
    }

    #[test]
    fn the_question_holds_message_rubric_and_answer() {
        let config = r#"{"rubric": "It is short. ", "render_as": "raw"}"#;
        let mut completions = Vec::new();
        let answer = |request: &Request| {
            let Request::Score(score) = request else { panic!("asked to write") };
            let text = "Grade the answer to a message with a number from 1, useless, to 10, perfect. It is \
                        short.\n\n[Message]\nHow many days has a week?\n\n[Answer]\nSeven.\n\n[End]\n\n\
                        Reply with the number and nothing else.\n\nGrade:";
            assert_eq!(score.prompt, Text::Raw(text.into()));
            completions.push(score.completion.clone());
            Answer::Score(Score { logprob: -1.0, tokens: 1 })
        };
        testing::judge(&plugin(config), &record(), answer).unwrap();
        assert_eq!(completions.len(), 10);
        assert_eq!((completions[0].as_str(), completions[9].as_str()), (" 1\n", " 10\n"));
    }

    #[test]
    fn written_grades_are_read_with_tolerance() {
        let check =
            |text: &str, expected: Option<f64>| assert_eq!(written(text), expected, "{text}");
        check("8", Some(8.0));
        check(" 10.\n", Some(10.0));
        check("8.5", Some(8.5));
        check("8/10", Some(8.0));
        check("**Grade:** 7 out of 10", Some(7.0));
        check("I'd say 1, since", Some(1.0));
        check("0", None);
        check("11", None);
        check("100", None);
        check("-5", None);
        check("1.2.3", None);
        check("ten", None);
        check("", None);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let check = |config: &str, answer: Answer, expected: &str| {
            let opinion = testing::judge(&plugin(config), &record(), |_| answer.clone());
            assert_eq!(opinion, Ok(Opinion::Unparsable(expected.into())));
        };
        let vague = Answer::Completion(testing::completion("Fine."));
        check(r#"{"read": "answer"}"#, vague, "`few-shot`: no grade: Fine.");
        let long = Answer::Unanswered("too long".into());
        check("{}", long, "`few-shot`: the model gave no answer: too long");
    }

    #[test]
    fn what_is_too_long_for_one_call_is_not_asked_about() {
        let long = testing::answered("p-1", "Why?", &"so ".repeat(300_000));
        let opinion = testing::judge(&plugin("{}"), &long, testing::no_model);
        assert!(matches!(opinion, Ok(Opinion::Unparsable(why)) if why.contains("too long")));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let check = |config: &str, record: Record, expected: &str| {
            let failed = testing::judge(&plugin(config), &record, testing::no_model);
            assert!(
                matches!(&failed, Err(Error::Input(text)) if text.contains(expected)),
                "{failed:?}"
            );
        };
        check("{}", testing::record("p-1", "Why?"), "no variant has been completed");
        check(r#"{"variants": ["good"]}"#, record(), "no completed variant `good`");
        let mut many = record();
        for i in 0..25 {
            many.variants.push(testing::variant(
                &format!("v-{i}"),
                VariantRole::Good,
                "",
                "Seven.",
            ));
        }
        check("{}", many, "26 completions to grade, 25 at most");
    }

    #[test]
    fn awkward_records_get_an_opinion() {
        let mut answers = testing::awkward_texts().into_iter().cycle();
        for record in testing::awkward() {
            let answer =
                |_: &Request| Answer::Completion(testing::completion(&answers.next().unwrap()));
            let opinion = testing::judge(&plugin(r#"{"read": "answer"}"#), &record, answer);
            let graded = testing::judge(&plugin("{}"), &record, around(3));
            if record.completions().count() == 0 {
                assert!(matches!((opinion, graded), (Err(Error::Input(_)), Err(Error::Input(_)))));
                continue;
            }
            assert!(matches!(opinion, Ok(Opinion::Unparsable(_) | Opinion::Rewards(_))));
            let Ok(Opinion::Rewards(rewards)) = graded else { panic!("{}", record.prompt.id) };
            assert!((1.0..=10.0).contains(&rewards[0].value));
        }
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<Grade>(config) {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"variants": ["a", "b", "a"]}"#, "`variants` names `a` twice");
        check(r#"{"read": "mean"}"#, "expected `logprob` or `answer`");
        check(r#"{"criterion": ""}"#, "unknown key `criterion`");
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value = serde_json::from_str(Grade::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 6);
    }
}
