//! Records of every shape that a round gives to plugins.

use crate::digest::sha256;
use crate::record::{
    Completion, Exemplar, Finish, Measurement, Message, Pair, Prompt, Record, Repro, Reward,
    Speaker, Text, Variant, VariantRole,
};
use crate::round::{Need, Number, What, variant_of};

use super::texts::EXCHANGES;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A prompt alone, as filters over prompts and principles see it.
    Prompt,
    /// The same, after a conversation.
    History,
    /// The same, as raw text.
    Raw,
    /// The same, with exemplars drawn for it.
    Equipped,
    /// One variant, `plain`.
    Plain,
    /// One variant, `few-shot`, of raw text with exemplars in it.
    FewShot,
    /// Three variants: `plain`, `good` and `bad`.
    Contrast,
    /// As `plain`, with rewards from a judge.
    Judged,
    /// As contrast, after the pair stage, with rewards and a difficulty.
    Paired,
    /// Two variants that have not been completed.
    Open,
}

impl Shape {
    /// What filters, judges and difficulty scorers may be given.
    pub const OF_RECORDS: [Shape; 7] = [
        Shape::Prompt,
        Shape::Plain,
        Shape::FewShot,
        Shape::Contrast,
        Shape::Judged,
        Shape::Paired,
        Shape::Open,
    ];
    /// What principles are given.
    pub const OF_PROMPTS: [Shape; 4] = [Shape::Prompt, Shape::Equipped, Shape::History, Shape::Raw];

    /// Returns what it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Prompt => "prompt alone",
            Shape::History => "conversation",
            Shape::Raw => "raw prompt",
            Shape::Equipped => "prompt with exemplars",
            Shape::Plain => "plain",
            Shape::FewShot => "few-shot",
            Shape::Contrast => "plain, good and bad",
            Shape::Judged => "plain with rewards",
            Shape::Paired => "pair with rewards",
            Shape::Open => "not completed",
        }
    }
}

/// Makes records for a plugin: with its exemplars, where it has any, and with what it needs measured.
#[derive(Clone, Debug, Default)]
pub struct Maker {
    /// Those of equipped and few-shot records.
    pub exemplars: Vec<Exemplar>,
    /// What records carry as measured.
    pub needs: Vec<Need>,
}

impl Maker {
    /// Returns `count` ordinary records.
    pub fn ordinary(&self, shape: Shape, count: usize) -> Vec<Record> {
        let one = |index: usize| {
            let exchange = &EXCHANGES[index % EXCHANGES.len()];
            let id = format!("{}-{index}", shape.as_str().replace([' ', ','], "-"));
            self.record(shape, id, exchange.prompt, exchange.better, exchange.worse)
        };
        (0..count).map(one).collect()
    }

    /// Returns a record with these texts: `first` in every variant but `bad`, which has `second`; beside these
    /// two `plain` has a few words in front of `first`.
    pub fn record(
        &self,
        shape: Shape,
        id: String,
        prompt: &str,
        first: &str,
        second: &str,
    ) -> Record {
        let text = match shape {
            Shape::Raw => Text::Raw(prompt.to_owned()),
            Shape::History => Text::Chat(vec![
                message(Speaker::System, "You are terse."),
                message(Speaker::User, "Are you there?"),
                message(Speaker::Assistant, "Yes."),
                message(Speaker::User, prompt),
            ]),
            _ => Text::user(prompt),
        };
        let tags = vec!["domain:everyday".to_owned(), "round:1".to_owned()];
        let mut record = Record::new(Prompt { id, text, tags });
        let plain = || variant("plain", VariantRole::Plain, Text::user(prompt), first);
        match shape {
            Shape::Prompt | Shape::History | Shape::Raw => {}
            Shape::Equipped => record.exemplars = self.exemplars.clone(),
            Shape::Plain => record.variants = vec![plain()],
            Shape::FewShot => {
                record.exemplars = self.exemplars.clone();
                let texts: Vec<&str> = self.exemplars.iter().map(|it| it.text.as_str()).collect();
                let raw = format!("{}\n\nUser: {prompt}\n\nAssistant:", texts.join("\n\n"));
                record.variants =
                    vec![variant("few-shot", VariantRole::Good, Text::Raw(raw), first)];
            }
            Shape::Contrast | Shape::Paired | Shape::Open => {
                let under = |system: &str| {
                    Text::Chat(vec![
                        message(Speaker::System, system),
                        message(Speaker::User, prompt),
                    ])
                };
                let good = under("Answer helpfully and truthfully.");
                let bad = under("Answer carelessly and evasively.");
                // Of the three no two say the same.
                let other = format!("In short: {first}");
                record.variants = vec![
                    variant("plain", VariantRole::Plain, Text::user(prompt), &other),
                    variant("good", VariantRole::Good, good, first),
                    variant("bad", VariantRole::Bad, bad, second),
                ];
            }
            Shape::Judged => {
                record.variants = vec![plain()];
                record.rewards =
                    vec![reward("plain", "quality", 7.5), reward("plain", "following", 8.0)];
            }
        }
        match shape {
            Shape::Paired => {
                record.pair = Some(Pair { chosen: "good".into(), rejected: "bad".into() });
                record.difficulty = Some(12.5);
                record.rewards = vec![
                    reward("good", "quality", 7.5),
                    reward("bad", "quality", 2.0),
                    reward("good", "following", 8.0),
                    reward("bad", "following", 3.0),
                ];
            }
            Shape::Open => {
                record.variants.iter_mut().for_each(|variant| variant.completion = None);
            }
            _ => {}
        }
        self.measure(&mut record);
        record
    }

    /// Gives a record numbers that could have been measured of it.
    pub fn measure(&self, record: &mut Record) {
        for need in &self.needs {
            let has = |name: &str| {
                variant_of(record, name).is_some_and(|variant| variant.completion.is_some())
            };
            let share = number_of(&[record.id(), &need.name]);
            let value = match &need.what {
                What::Scored { completion, prompt, number, .. }
                    if has(completion) && variant_of(record, prompt).is_some() =>
                {
                    let mean = -0.3 - 3.0 * share;
                    match number {
                        Number::Logprob => mean,
                        Number::Perplexity => (-mean).exp(),
                        Number::Entropy => -mean,
                    }
                }
                What::Cluster { completion } if has(completion) => (share * 5.0).floor(),
                _ => continue,
            };
            if !need.is_met(record) {
                record.measurements.push(Measurement { name: need.name.clone(), value });
            }
        }
    }
}

/// Returns exemplars that no principle plugin has published.
pub fn exemplars(count: usize) -> Vec<Exemplar> {
    let one = |index: usize| {
        let exchange = &EXCHANGES[index % EXCHANGES.len()];
        Exemplar {
            id: format!("exemplar-{index}"),
            tags: vec![format!("principle:{}", ["ethical", "helpful", "honest"][index % 3])],
            text: format!("User: {}\n\nAssistant: {}", exchange.prompt, exchange.better),
        }
    };
    (0..count).map(one).collect()
}

/// Returns a number from 0 to 1 that depends on nothing but these words.
pub fn number_of(words: &[&str]) -> f64 {
    let digest = sha256(words.join("\n").as_bytes());
    let digits = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
    f64::from(digits) / f64::from(u32::MAX)
}

fn message(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.to_owned() }
}

fn reward(variant: &str, name: &str, value: f64) -> Reward {
    Reward { variant: variant.to_owned(), name: name.to_owned(), value }
}

fn variant(name: &str, role: VariantRole, prompt: Text, text: &str) -> Variant {
    let tokens = u32::try_from(text.len() / 4 + 1).unwrap_or(u32::MAX);
    let completion = Completion {
        text: text.to_owned(),
        tokens,
        logprob: -0.5 * f64::from(tokens),
        entropy: Some(0.5),
        finish: Finish::Stop,
        repro: Repro::Exact,
    };
    Variant { name: name.to_owned(), role, prompt, completion: Some(completion) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_carry_what_their_names_say() {
        let needs: Vec<Need> = ["alogp(good | plain)", "perplexity(plain)", "cluster(plain)"]
            .map(|name| Need::parse(name).unwrap())
            .into();
        let maker = Maker { exemplars: exemplars(2), needs };
        let check = |shape: Shape, variants: &[&str], measured: usize| {
            let record = &maker.ordinary(shape, 1)[0];
            let names: Vec<&str> = record.variants.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(names, variants, "{shape:?}");
            assert_eq!(record.measurements.len(), measured, "{shape:?}");
            assert!(record.measurements.iter().all(|it| it.value.is_finite()));
        };
        check(Shape::Prompt, &[], 0);
        check(Shape::Plain, &["plain"], 2);
        check(Shape::FewShot, &["few-shot"], 0);
        check(Shape::Contrast, &["plain", "good", "bad"], 3);
        check(Shape::Paired, &["plain", "good", "bad"], 3);
        check(Shape::Open, &["plain", "good", "bad"], 0);
        assert_eq!(maker.ordinary(Shape::Equipped, 1)[0].exemplars.len(), 2);
        assert_eq!(maker.ordinary(Shape::Judged, 13)[12].rewards.len(), 2);
    }
}
