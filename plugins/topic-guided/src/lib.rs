//! Topic-guided red-teaming self-instruct, Dromedary's second source of prompts: questions of types
//! that a model cannot answer from what it has read, or answers wrongly (Sun et al., 2023,
//! <https://arxiv.org/abs/2305.03047>).
//!
//! Each slot draws `targets` types, lets the model think of topics for each, takes one new topic of
//! each type, and lets the model write a question for each type and topic. Prompts are tagged
//! `topic-guided`, `round:N`, `type:…` and `topic:…`; by these tags later slots know which topics
//! there are.
//!
//! The 20 types and the examples are this project's own writing. Deviations from the published
//! program:
//!
//! 1. There, all topics are collected over nine epochs first, and each type is cut to the number of
//!    topics of the smallest. Here a slot draws each type equally often, which balances them too.
//! 2. There, the last line is always dropped. Here it counts where the model or a stop string ended
//!    it: without the stop string it would have been followed by another.
//! 3. There, ending is forbidden while topics are listed.
//! 4. `targets = 1` asks for one question at a time, which a small model can do: on 2026-11-26
//!    SmolLM2-135M-Instruct (raw text, transformers, one seed) gave topics for 31 of 32 types and a
//!    question for each of 8, but with `targets = 5` only the first of the five, in 6 slots of 6.

mod questions;
mod topics;

use std::collections::BTreeMap;

use aligner_sdk::{
    Answer, Ask, Candidate, Card, Context, Decoding, Equipment, Error, Finish, GenerateRequest,
    Plugin, Prompt, PromptWriter, RenderAs, Sampler, Slot, Text, export_prompt_writer, log,
};
use serde::Deserialize;

/// One type of question a line, with an example.
const TYPES: &str = include_str!("../data/types.jsonl");

/// From how many topics of a type on a random part of them is shown.
const MANY_TOPICS: usize = 10;

/// A type of question, a topic, and a question of that type about that topic.
#[derive(Deserialize)]
struct Triple {
    #[serde(rename = "type")]
    kind: String,
    topic: String,
    question: String,
}

/// What stands under `[sampler.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model that writes: `policy`, `initial`, `previous` or a name from `[models]`.
    model: String,
    /// How a request is put to the model.
    render_as: RenderAs,
    /// How many topics are asked for at once.
    topics: usize,
    /// How many example questions are shown.
    examples: usize,
    /// How many questions are asked for at once, each of another type.
    targets: usize,
    /// How to decode.
    temperature: f64,
    /// How to decode topics.
    topics_top_p: f64,
    /// How to decode questions.
    questions_top_p: f64,
    /// How many tokens topics may take.
    topics_max_new_tokens: u32,
    /// How many tokens questions may take, all together.
    questions_max_new_tokens: u32,
    /// How many in-context examples a prompt gets for being answered: the first of the principle
    /// plugin's catalogue.
    exemplars: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model: "policy".into(),
            render_as: RenderAs::Raw,
            topics: 10,
            examples: 5,
            targets: 5,
            temperature: 1.0,
            topics_top_p: 0.98,
            questions_top_p: 0.95,
            topics_max_new_tokens: 128,
            questions_max_new_tokens: 384,
            exemplars: 5,
        }
    }
}

/// The plugin.
pub struct TopicGuided {
    config: Config,
    types: Vec<Triple>,
}

impl Plugin for TopicGuided {
    type Config = Config;
    const NAME: &'static str = "topic-guided";
    const SUMMARY: &'static str =
        "Lets the model write questions of twenty hard types about topics it thinks of.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"model": {"type": "string", "default": "policy"},
"render_as": {"enum": ["raw", "chat"], "default": "raw"},
"topics": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
"examples": {"type": "integer", "minimum": 1, "maximum": 20, "default": 5},
"targets": {"type": "integer", "minimum": 1, "maximum": 20, "default": 5},
"temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0},
"topics_top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.98},
"questions_top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.95},
"topics_max_new_tokens": {"type": "integer", "minimum": 1, "default": 128},
"questions_max_new_tokens": {"type": "integer", "minimum": 1, "default": 384},
"exemplars": {"type": "integer", "minimum": 0, "default": 5}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        let triple = |line| {
            serde_json::from_str(line)
                .map_err(|error| Error::Internal(format!("types.jsonl: {error}")))
        };
        let types = TYPES.lines().map(triple).collect::<Result<Vec<Triple>, _>>()?;
        for (key, value, most) in [
            ("topics", config.topics, 100),
            ("examples", config.examples, types.len()),
            ("targets", config.targets, types.len()),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::Config(format!("`{key}` is {value}, expected 1 to {most}")));
            }
        }
        Ok(TopicGuided { config, types })
    }
}

impl Sampler for TopicGuided {
    /// Selects what was written in this round.
    fn select(&self, context: &Context, pool: &[Candidate], _: u64) -> Result<Vec<String>, Error> {
        let tag = round_tag(context);
        let of_this_round = pool.iter().filter(|candidate| candidate.tags.contains(&tag));
        Ok(of_this_round.map(|candidate| candidate.id.clone()).collect())
    }

    fn equip(&self, _: &Context, _: &Slot, catalogue: &[Card]) -> Result<Equipment, Error> {
        let exemplars = catalogue.get(..self.config.exemplars).ok_or_else(|| {
            Error::Config(format!(
                "`exemplars` is {}, but the principle plugin has {}",
                self.config.exemplars,
                catalogue.len()
            ))
        })?;
        let exemplars = exemplars.iter().map(|card| card.id.clone()).collect();
        Ok(Equipment { exemplars, decoding: Decoding::default() })
    }
}

impl PromptWriter for TopicGuided {
    fn write(
        &self,
        context: &Context,
        pool: &[Prompt],
        index: u32,
        ask: &mut Ask,
    ) -> Result<Vec<Prompt>, Error> {
        let mut rng = ask.rng();
        let kinds: Vec<&Triple> = rng
            .choose(self.config.targets, self.types.len())
            .into_iter()
            .map(|i| &self.types[i])
            .collect();
        let known = known_topics(pool);
        let known: Vec<Vec<&str>> = kinds.iter().map(|it| it.topics(&known)).collect();

        let mut requests = Vec::new();
        for (kind, known) in kinds.iter().zip(&known) {
            let shown = match known.len() {
                n if n < MANY_TOPICS => vec![known[0]],
                n => rng.choose(5, n).into_iter().map(|i| known[i]).collect(),
            };
            let text = topics::prompt(&kind.kind, &shown, self.config.topics);
            requests.push(self.topics_request(text).into());
        }
        let mut wanted: Vec<(&str, String)> = Vec::new();
        for ((kind, known), answer) in kinds.iter().zip(&known).zip(ask.all(requests)?) {
            let Some((text, cut_off)) = written(answer, index)? else { continue };
            let mut found = topics::read(&text, cut_off);
            found.retain(|topic| !known.iter().any(|it| topics::same(it, topic)));
            if !found.is_empty() {
                wanted.push((&kind.kind, found.swap_remove(rng.below(found.len()))));
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<(&str, &str)> =
            wanted.iter().map(|(kind, topic)| (*kind, topic.as_str())).collect();

        let examples: Vec<&Triple> = rng
            .choose(self.config.examples, self.types.len())
            .into_iter()
            .map(|i| &self.types[i])
            .collect();
        let first = examples.len() + 1;
        let text = questions::prompt(&examples, &wanted);
        let request = self.questions_request(text, first, wanted.len());
        let answer = ask.all([request.into()])?.into_iter().next();
        let Some((text, cut_off)) = answer.map_or(Ok(None), |it| written(it, index))? else {
            return Ok(Vec::new());
        };
        let questions = questions::read(&text, first, &wanted, cut_off);
        let prompt = |(&(kind, topic), question): (&(&str, &str), Option<String>)| {
            let tags = vec![
                "topic-guided".into(),
                round_tag(context),
                format!("{TYPE}{kind}"),
                format!("{TOPIC}{topic}"),
            ];
            Some(Prompt { id: String::new(), text: Text::user(question?), tags })
        };
        Ok(wanted.iter().zip(questions).filter_map(prompt).collect())
    }
}

export_prompt_writer!(TopicGuided);

/// Begins the tag of a question's type.
const TYPE: &str = "type:";
/// Begins the tag of a question's topic.
const TOPIC: &str = "topic:";

fn round_tag(context: &Context) -> String {
    format!("round:{}", context.round)
}

/// Returns the topics of the prompts in the pool, by type, in their order.
fn known_topics(pool: &[Prompt]) -> BTreeMap<&str, Vec<&str>> {
    let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for prompt in pool {
        let tagged = |start| prompt.tags.iter().find_map(move |tag| tag.strip_prefix(start));
        if let (Some(kind), Some(topic)) = (tagged(TYPE), tagged(TOPIC)) {
            known.entry(kind).or_default().push(topic);
        }
    }
    known
}

impl Triple {
    /// Returns the topics of this type: the example's, then those known.
    fn topics<'a>(&'a self, known: &BTreeMap<&'a str, Vec<&'a str>>) -> Vec<&'a str> {
        let known = known.get(self.kind.as_str()).into_iter().flatten().copied();
        std::iter::once(self.topic.as_str()).chain(known).collect()
    }
}

impl TopicGuided {
    fn topics_request(&self, text: String) -> GenerateRequest {
        let Config { topics_top_p, topics_max_new_tokens, .. } = self.config;
        self.request(text, topics_top_p, topics_max_new_tokens, vec!["\n\n".into()])
    }

    /// Stops after the last of the lines wanted, whose numbers begin at `first`.
    fn questions_request(&self, text: String, first: usize, wanted: usize) -> GenerateRequest {
        let Config { questions_top_p, questions_max_new_tokens, .. } = self.config;
        let stop = match wanted {
            1 => vec!["\n".into()],
            _ => vec![format!("\n{}.", first + wanted), "\n\n".into()],
        };
        self.request(text, questions_top_p, questions_max_new_tokens, stop)
    }

    fn request(
        &self,
        text: String,
        top_p: f64,
        max_new_tokens: u32,
        stop: Vec<String>,
    ) -> GenerateRequest {
        let prompt = self.config.render_as.put(text);
        let decoding = Decoding {
            temperature: Some(self.config.temperature),
            top_p: Some(top_p),
            max_new_tokens: Some(max_new_tokens),
            stop: Some(stop),
            ..Decoding::default()
        };
        GenerateRequest { decoding, ..GenerateRequest::of(&self.config.model, prompt) }
    }
}

/// Returns what a model wrote, and whether it was cut off; nothing where it could not write.
fn written(answer: Answer, index: u32) -> Result<Option<(String, bool)>, Error> {
    match answer.completion() {
        Ok(completion) => Ok(Some((completion.text, completion.finish == Finish::Length))),
        Err(Error::Unanswered(why)) => {
            log::warn(&format!("slot {index} wrote less: {why}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
