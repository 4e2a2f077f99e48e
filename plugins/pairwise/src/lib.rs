//! Asks a model which of two answers is better, each pair in both orders, since models prefer a place.
//!
//! A judge that chooses the same answer in both orders prefers it; one that chooses the same place has
//! no preference, which is a tie. The choice is the letter that the model writes, or the likelier of the
//! two letters. Where a letter cannot be read, or the two answers do not fit into the model's context,
//! the record counts as unparsable.
//!
//! With `rewards` each answer gets a number instead: the share of its comparisons that it wins, each
//! order for itself. So more than two variants can be compared, each with each. A model that always
//! chooses the same place, as small ones do, leaves nothing but ties; with `rewards` and
//! `read = "logprob"` it still tells by how much more it likes an answer in the same place.
//!
//! `read = "message"` is for such models. No letter is asked for: the better answer is the one from which
//! the message that it answers is the easier to guess. README.md says what that is worth.

mod letter;

use aligner_sdk::{
    Answer, Ask, Completion, Context, Decoding, Error, GenerateRequest, Judge, Opinion, Pair,
    Plugin, Record, RenderAs, Request, Reward, Score, ScoreRequest, Text, Variant, VariantRole,
    export_judge,
};
use serde::Deserialize;

use crate::letter::{Side, letter};

/// What stands under `[judge.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whose completions are compared: names of variants, or roles, which stand for the first
    /// completed variant of that role. Two of them; with `rewards`, 2 to 8.
    between: Vec<String>,
    /// The model that judges: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// What makes an answer better, as a sentence or two.
    rubric: String,
    /// How the choice is read.
    read: Read,
    /// How the question is put.
    render_as: RenderAs,
    /// Whether each variant gets a reward instead of a preference between two.
    rewards: bool,
    /// The name of that reward.
    reward: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            between: ["good", "bad"].map(String::from).into(),
            model: "policy".into(),
            rubric:
                "The better answer does what the message asks for, is correct, says what matters \
                     and no more, and harms nobody. Its length and its place are no merits."
                    .into(),
            read: Read::Answer,
            render_as: RenderAs::Chat,
            rewards: false,
            reward: "wins".into(),
        }
    }
}

/// How the choice is read.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Read {
    /// From what the model writes, without chance.
    Answer,
    /// From the logprobs of the two letters. Always readable; with `rewards`, a letter's probability
    /// counts as that part of a win.
    Logprob,
    /// From the logprob of the message after each answer, one request for each. It tells which answer
    /// keeps to the message, not which is right; `rubric` plays no part.
    Message,
}

/// The plugin.
pub struct Pairwise {
    config: Config,
}

impl Plugin for Pairwise {
    type Config = Config;
    const NAME: &'static str = "pairwise";
    const SUMMARY: &'static str = "Asks a model which of two answers is better, in both orders.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"between": {"type": "array", "minItems": 2, "maxItems": 8, "items": {"type": "string"}, "default": ["good", "bad"]},
"model": {"type": "string", "default": "policy"},
"rubric": {"type": "string"},
"read": {"enum": ["answer", "logprob", "message"], "default": "answer"},
"render_as": {"enum": ["chat", "raw"], "default": "chat"},
"rewards": {"type": "boolean", "default": false},
"reward": {"type": "string", "default": "wins"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        let most = if config.rewards { 8 } else { 2 };
        let count = config.between.len();
        if !(2..=most).contains(&count) {
            return Err(Error::Config(format!(
                "`between` has {count} entries, expected {}",
                if config.rewards { "2 to 8" } else { "2; with `rewards = true`, 2 to 8" }
            )));
        }
        Ok(Pairwise { config })
    }
}

impl Judge for Pairwise {
    fn judge(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Opinion, Error> {
        let compared = self.compared(record)?;
        // Every ordered pair: what is shown first is answer A.
        let places = || (0..compared.len()).flat_map(|a| (0..compared.len()).map(move |b| (a, b)));
        let orders: Vec<(usize, usize)> = places().filter(|(a, b)| a != b).collect();
        let message = record.prompt.text.transcript();
        let shares = match self.config.read {
            Read::Message => self.guesses(message.trim(), &compared, &orders, ask)?,
            Read::Answer | Read::Logprob => self.choices(&message, &compared, &orders, ask)?,
        };
        Ok(match shares {
            Err(why) => Opinion::Unparsable(why),
            Ok(shares) if self.config.rewards => self.rewards(&compared, &orders, &shares),
            Ok(shares) => preference(&compared, &shares),
        })
    }
}

export_judge!(Pairwise);

impl Pairwise {
    /// Returns what is compared, all of it completed.
    fn compared<'a>(&self, record: &'a Record) -> Result<Vec<Completed<'a>>, Error> {
        let mut compared: Vec<Completed<'_>> = Vec::new();
        for name in &self.config.between {
            let found = completed(record, name).ok_or_else(|| {
                let there: Vec<&str> =
                    record.completions().map(|(variant, _)| variant.name.as_str()).collect();
                Error::Input(format!(
                    "no completed variant named `{name}` or of that role; there are: {}",
                    there.join(", ")
                ))
            })?;
            if compared.iter().any(|(variant, _)| variant.name == found.0.name) {
                return Err(Error::Input(format!(
                    "`between` names variant `{}` twice, by name or role",
                    found.0.name
                )));
            }
            compared.push(found);
        }
        Ok(compared)
    }

    /// Has the model choose in each order. Returns how much of a win each is for what is shown first.
    fn choices(
        &self,
        message: &str,
        compared: &[Completed<'_>],
        orders: &[(usize, usize)],
        ask: &mut Ask,
    ) -> Result<Shares, Error> {
        let questions = orders
            .iter()
            .map(|&(a, b)| self.question(message, &compared[a].1.text, &compared[b].1.text));
        let answers = ask.all(questions.flat_map(|question| self.requests(question)))?;
        let each = answers.len() / orders.len();
        Ok(answers.chunks(each).map(Self::share).collect())
    }

    /// Has the model guess the message from each answer. Returns the same as `choices`.
    fn guesses(
        &self,
        message: &str,
        compared: &[Completed<'_>],
        orders: &[(usize, usize)],
        ask: &mut Ask,
    ) -> Result<Shares, Error> {
        let Config { model, render_as, .. } = &self.config;
        let request = |(_, answer): &Completed<'_>| {
            let answer = answer.text.trim();
            let prompt = match render_as {
                RenderAs::Chat => Text::user(format!(
                    "An assistant answered a message. Write the message that it answered, and nothing \
                     else.\n\n[Answer]\n{answer}"
                )),
                RenderAs::Raw => {
                    Text::Raw(format!("[Answer]\n{answer}\n\n[The message that it answers]\n"))
                }
            };
            ScoreRequest::of(model, prompt, message).into()
        };
        let answers = ask.all(compared.iter().map(request))?;
        let shares =
            orders.iter().map(|&(a, b)| Self::share(&[answers[a].clone(), answers[b].clone()]));
        Ok(shares.collect())
    }

    /// Asks for a comparison.
    fn question(&self, message: &str, a: &str, b: &str) -> Text {
        let Config { rubric, render_as, .. } = &self.config;
        let text = format!(
            "Two assistants answered the same message. Decide which answer is better. {}\n\n\
             [Message]\n{}\n\n[Answer A]\n{}\n\n[Answer B]\n{}\n\n[End]\n\n\
             Which answer is better? Reply with one letter, A or B, and nothing else.",
            rubric.trim(),
            message.trim(),
            a.trim(),
            b.trim(),
        );
        match render_as {
            RenderAs::Chat => Text::user(text),
            RenderAs::Raw => Text::Raw(format!("{text}\n\nThe better answer is answer")),
        }
    }

    /// Returns what is asked for one comparison by letters.
    fn requests(&self, question: Text) -> Vec<Request> {
        let Config { model, read, render_as, .. } = &self.config;
        if *read == Read::Answer {
            let decoding = Decoding { max_new_tokens: Some(16), ..Decoding::greedy() };
            return vec![
                GenerateRequest { decoding, ..GenerateRequest::of(model, question) }.into(),
            ];
        }
        let letters = match render_as {
            RenderAs::Chat => ["A", "B"],
            RenderAs::Raw => [" A", " B"],
        };
        letters.map(|it| ScoreRequest::of(model, question.clone(), it).into()).into()
    }

    /// Reads the answers of one comparison: how much of a win it is for the answer shown first, in
    /// [0, 1].
    fn share(answers: &[Answer]) -> Result<f64, String> {
        match answers {
            [Answer::Completion(answer)] => match letter(&answer.text) {
                Some(Side::A) => Ok(1.0),
                Some(Side::B) => Ok(0.0),
                None => Err(format!("neither A nor B: {}", answer.text)),
            },
            [Answer::Score(Score { logprob: a, .. }), Answer::Score(Score { logprob: b, .. })] => {
                Ok(1.0 / (1.0 + (b - a).exp()))
            }
            [Answer::Unanswered(why), ..] | [_, Answer::Unanswered(why)] => {
                Err(format!("the model gave no answer: {why}"))
            }
            _ => Err("the model gave another answer than was asked for".into()),
        }
    }

    /// Returns the share of its comparisons that each variant won.
    fn rewards(
        &self,
        compared: &[Completed<'_>],
        orders: &[(usize, usize)],
        shares: &[f64],
    ) -> Opinion {
        let mut wins = vec![0.0; compared.len()];
        for (&(a, b), share) in orders.iter().zip(shares) {
            wins[a] += share;
            wins[b] += 1.0 - share;
        }
        let comparisons = 2 * (compared.len() - 1);
        let given = compared.iter().zip(wins).map(|((variant, _), wins)| Reward {
            variant: variant.name.clone(),
            name: self.config.reward.clone(),
            value: wins / comparisons as f64,
        });
        Opinion::Rewards(given.collect())
    }
}

/// How much of a win each comparison is for what is shown first, in [0, 1]; or why it cannot be read.
type Shares = Result<Vec<f64>, String>;

/// A variant with its completion.
type Completed<'a> = (&'a Variant, &'a Completion);

/// Returns which of two is better in both orders. The shares are those of what is shown first: of the
/// first variant, and then of the second.
fn preference(compared: &[Completed<'_>], shares: &[f64]) -> Opinion {
    let name = |i: usize| compared[i].0.name.clone();
    match shares {
        [first, second] if *first > 0.5 && *second < 0.5 => {
            Opinion::Preference(Pair { chosen: name(0), rejected: name(1) })
        }
        [first, second] if *first < 0.5 && *second > 0.5 => {
            Opinion::Preference(Pair { chosen: name(1), rejected: name(0) })
        }
        _ => Opinion::Tie,
    }
}

/// Returns the variant of a name, or the first completed one of a role.
fn completed<'a>(record: &'a Record, name: &str) -> Option<Completed<'a>> {
    let role = match name {
        "plain" => Some(VariantRole::Plain),
        "good" => Some(VariantRole::Good),
        "bad" => Some(VariantRole::Bad),
        _ => None,
    };
    let named = record.completions().find(|(variant, _)| variant.name == name);
    named.or_else(|| record.completions().find(|(variant, _)| Some(variant.role) == role))
}

#[cfg(test)]
mod tests;
