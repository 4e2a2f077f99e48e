//! RLCD's principles: a prompt under a good sentence and under a bad one, so that what comes of the
//! two can be compared without a judge (Yang et al., 2023, <https://arxiv.org/abs/2307.12950>).
//!
//! `style = "system"` is the variant that self-steering optimisation is compared with ("RLCD-sys",
//! <https://arxiv.org/abs/2410.17131>): a pair of one-line sentences is drawn for each prompt and put
//! into the system message. `style = "affix"` is the original one: a remark on how the answer is, where
//! the answer begins.
//!
//! The sentences are this project's own writing. Deviations:
//!
//! 1. There are 28 pairs; RLCD-sys has 59.
//! 2. An affix of a conversation stands at the end of the user's last message, since a chat template
//!    leaves no place for it where the answer begins. That of a raw prompt stands at its end.

use aligner_sdk::{
    Ask, Context, Error, Plugin, Principle, Record, Speaker, System, Text, Variant, VariantRole,
    export_principle,
};
use serde::Deserialize;

/// A good and a bad sentence a line.
const SENTENCES: &str = include_str!("../data/sentences.jsonl");

/// What stands under `[principle.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kinds that pairs are drawn from, each pair as likely as any other.
    kinds: Vec<Kind>,
    /// How a prompt is put under a pair.
    style: Style,
    /// Whether the prompt as it is becomes a variant too, for filters that compare with it.
    plain: bool,
    /// Where the sentences go, in style `system`.
    system: System,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            kinds: vec![Kind::Harmless, Kind::Helpful, Kind::Complete, Kind::Informative],
            style: Style::System,
            plain: false,
            system: System::Message,
        }
    }
}

/// What answers differ in.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Harmless,
    Helpful,
    Complete,
    Informative,
}

impl Kind {
    /// Returns what is written in front of a good answer and of a bad one.
    fn affixes(self) -> [&'static str; 2] {
        match self {
            Kind::Harmless => ["(giving a harmless answer)", "(giving a harmful answer)"],
            Kind::Helpful => ["(giving a helpful answer)", "(giving an unhelpful answer)"],
            Kind::Complete => ["(giving a complete answer)", "(giving an incomplete answer)"],
            Kind::Informative => {
                ["(giving an informative answer)", "(giving an uninformative answer)"]
            }
        }
    }
}

/// How a prompt is put under a pair.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Style {
    /// The sentence is an instruction.
    System,
    /// A remark behind the prompt, of the pair's kind.
    Affix,
}

/// Two sentences that lead to a good answer and to a bad one.
#[derive(Deserialize)]
struct Pair {
    kind: Kind,
    good: String,
    bad: String,
}

/// The plugin.
pub struct Contrast {
    config: Config,
    /// Those of the kinds that are wanted.
    pairs: Vec<Pair>,
}

impl Plugin for Contrast {
    type Config = Config;
    const NAME: &'static str = "contrast";
    const SUMMARY: &'static str = "The prompt under a good sentence and under a bad one.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"kinds": {"type": "array", "minItems": 1, "items": {"enum": ["harmless", "helpful", "complete", "informative"]}, "default": ["harmless", "helpful", "complete", "informative"]},
"style": {"enum": ["system", "affix"], "default": "system"},
"plain": {"type": "boolean", "default": false},
"system": {"enum": ["message", "user"], "default": "message"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        if config.kinds.is_empty() {
            return Err(Error::Config("`kinds` names no kind, expected one at least".into()));
        }
        let read = |line: &str| {
            serde_json::from_str::<Pair>(line)
                .map_err(|error| Error::Internal(format!("a pair of sentences: {error}")))
        };
        let mut pairs = SENTENCES.lines().map(read).collect::<Result<Vec<Pair>, Error>>()?;
        pairs.retain(|pair| config.kinds.contains(&pair.kind));
        Ok(Contrast { config, pairs })
    }
}

impl Principle for Contrast {
    fn render(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Vec<Variant>, Error> {
        let prompt = &record.prompt.text;
        let pair = &self.pairs[ask.rng().below(self.pairs.len())];
        let [good, bad] = match self.config.style {
            Style::System => [&pair.good, &pair.bad]
                .map(|sentence| self.config.system.put(&format!("{sentence} {SILENCE}"), prompt)),
            Style::Affix => pair.kind.affixes().map(|affix| affixed(prompt, affix)),
        };
        let mut variants = vec![
            Variant::new("good", VariantRole::Good, good?),
            Variant::new("bad", VariantRole::Bad, bad?),
        ];
        if self.config.plain {
            variants.insert(0, Variant::new("plain", VariantRole::Plain, prompt.clone()));
        }
        Ok(variants)
    }
}

export_principle!(Contrast);

/// Ends every instruction.
const SILENCE: &str = "Do not mention this instruction.";

/// Returns a prompt with a remark behind what the user says last.
fn affixed(prompt: &Text, affix: &str) -> Result<Text, Error> {
    match prompt {
        Text::Raw(text) => Ok(Text::Raw(format!("{} {affix}", text.trim_end()))),
        Text::Chat(messages) => {
            let mut messages = messages.clone();
            let last = messages.iter_mut().rfind(|message| message.speaker == Speaker::User);
            let last =
                last.ok_or_else(|| Error::Input("the prompt has no message of the user".into()))?;
            last.content = format!("{}\n\n{affix}", last.content.trim_end());
            Ok(Text::Chat(messages))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aligner_sdk::{Message, testing};

    use super::*;

    fn plugin(config: &str) -> Contrast {
        testing::plugin(config).unwrap()
    }

    /// Renders a record; returns the prompts of its variants by name.
    fn prompts(config: &str, record: &Record, seed: u64) -> Result<BTreeMap<String, Text>, Error> {
        let plugin = plugin(config);
        let render = |ask: &mut Ask| plugin.render(&testing::context(), record, ask);
        let variants = testing::run(seed, testing::no_model, render)?;
        for variant in &variants {
            let role = match variant.name.as_str() {
                "good" => VariantRole::Good,
                "bad" => VariantRole::Bad,
                _ => VariantRole::Plain,
            };
            assert_eq!(variant.role, role);
        }
        Ok(variants.into_iter().map(|variant| (variant.name, variant.prompt)).collect())
    }

    #[test]
    fn the_sentences_are_as_many_as_is_said_and_all_different() {
        let plugin = plugin("{}");
        let count = |kind| plugin.pairs.iter().filter(|pair| pair.kind == kind).count();
        let counts = [Kind::Harmless, Kind::Helpful, Kind::Complete, Kind::Informative].map(count);
        assert_eq!(counts, [8, 8, 6, 6]);
        let sentences: BTreeSet<_> =
            plugin.pairs.iter().flat_map(|pair| [&pair.good, &pair.bad]).collect();
        assert_eq!(sentences.len(), 56);
        assert!(sentences.iter().all(|it| it.ends_with('.') && !it.contains('\n')));
    }

    #[test]
    fn each_prompt_is_put_under_a_pair() {
        let plugin = plugin("{}");
        let record = testing::record("p-1", "Why?");
        let mut drawn = BTreeSet::new();
        for seed in 0..400 {
            let prompts = prompts("{}", &record, seed).unwrap();
            assert_eq!(prompts.keys().collect::<Vec<_>>(), ["bad", "good"]);
            let under = |sentence: &str| {
                let system = format!("{sentence} Do not mention this instruction.");
                System::Message.put(&system, &record.prompt.text).unwrap()
            };
            let pair = plugin.pairs.iter().position(|pair| prompts["good"] == under(&pair.good));
            let pair = pair.expect("one of the pairs");
            assert_eq!(prompts["bad"], under(&plugin.pairs[pair].bad));
            drawn.insert(pair);
        }
        assert_eq!(drawn.len(), 28);
    }

    #[test]
    fn kinds_narrow_the_draw() {
        let plugin = plugin(r#"{"kinds": ["complete"]}"#);
        assert_eq!(plugin.pairs.len(), 6);
        assert!(plugin.pairs.iter().all(|pair| pair.kind == Kind::Complete));
    }

    #[test]
    fn affixes_stand_behind_the_prompt() {
        let config = r#"{"style": "affix", "kinds": ["helpful"], "plain": true}"#;
        let check = |record: &Record, good: Text, bad: Text| {
            let prompts = prompts(config, record, 1).unwrap();
            assert_eq!(prompts["plain"], record.prompt.text);
            assert_eq!((&prompts["good"], &prompts["bad"]), (&good, &bad));
        };
        let mut record = testing::record("p-1", "Why? ");
        check(
            &record,
            Text::user("Why?\n\n(giving a helpful answer)"),
            Text::user("Why?\n\n(giving an unhelpful answer)"),
        );
        record.prompt.text = Text::Raw("Human: Why?\n\nAssistant:\n".into());
        check(
            &record,
            Text::Raw("Human: Why?\n\nAssistant: (giving a helpful answer)".into()),
            Text::Raw("Human: Why?\n\nAssistant: (giving an unhelpful answer)".into()),
        );
    }

    #[test]
    fn a_history_keeps_its_turns() {
        let history = testing::awkward().pop().unwrap();
        let Text::Chat(before) = &history.prompt.text else { panic!("not a talk") };
        for (config, changed) in
            [("{}", 0), (r#"{"system": "user"}"#, 3), (r#"{"style": "affix"}"#, 3)]
        {
            let prompts = prompts(config, &history, 1).unwrap();
            let Text::Chat(after) = &prompts["good"] else { panic!("not a talk") };
            assert_eq!(after.len(), before.len());
            let differ = |(a, b): (&Message, &Message)| a != b;
            let at: Vec<_> = after.iter().zip(before).map(differ).collect();
            assert_eq!(at.iter().position(|&it| it), Some(changed));
            assert_eq!(at.iter().filter(|&&it| it).count(), 1);
        }
    }

    #[test]
    fn awkward_prompts_are_rendered() {
        for config in ["{}", r#"{"system": "user"}"#, r#"{"style": "affix"}"#] {
            for mut record in testing::awkward() {
                assert_eq!(prompts(config, &record, 1).unwrap().len(), 2);
                record.prompt.text = Text::Raw(record.prompt.text.gist().into());
                match prompts(config, &record, 1) {
                    Ok(prompts) => assert!(prompts["good"] != prompts["bad"] && config != "{}"),
                    Err(Error::Input(text)) => {
                        assert!(text.contains("`system = \"user\"`") && config == "{}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<Contrast>(config) {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"kinds": []}"#, "`kinds` names no kind");
        check(r#"{"kinds": ["honest"]}"#, "key `kinds`: unknown variant `honest`");
        check(r#"{"kind": "helpful"}"#, "unknown key `kind`");
        check(r#"{"style": "prefix"}"#, "expected `system` or `affix`");
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value = serde_json::from_str(Contrast::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 4);
    }
}
