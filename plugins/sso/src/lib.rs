//! Self-steering optimisation's principles: each prompt is put as it is, under good guidelines and
//! under bad ones (<https://arxiv.org/abs/2410.17131>).
//!
//! The paper's two versions are modes. The first takes `features` of a good answer from a fixed
//! list, as the model says which of them matter; in the second a model writes `guidelines` for each
//! query. All texts are this project's own writing. The guidelines go into the system message; a
//! prompt's own system message stays in front of them, and a conversation keeps all its turns, of
//! which the last is answered under the guidelines. Raw text and models without system messages need
//! `system = "user"`.
//!
//! Deviations from the authors' code:
//!
//! 1. `fixed` is a mode of its own: features drawn by chance, for models too small to choose.
//! 2. Where a prompt does not fit into the model's context with the question around it, features are
//!    drawn by chance, and guidelines are the fixed pair.
//! 3. A good guideline that repeats the bad one counts as none.

mod features;
mod written;

use aligner_sdk::{
    Ask, Context, Decoding, Error, GenerateRequest, Plugin, Principle, Record, RenderAs, System,
    Text, Variant, VariantRole, export_principle,
};
use serde::Deserialize;

use crate::features::{CHOICE, Feature};

/// What stands under `[principle.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the guidelines come from.
    mode: Mode,
    /// How many of the seven features a prompt gets, 1 to 7. The authors' code: 2.
    features: usize,
    /// How likely an eighth, concision, is appended, in [0, 1]. A brake on length. The authors'
    /// code: 0.2.
    concision: f64,
    /// Whether a model rewrites the features' texts for each query, in modes `fixed` and
    /// `features`. What it writes is asked for as JSON; where that cannot be read, the fixed texts
    /// stay.
    generated: bool,
    /// The model that chooses features and writes guidelines: `policy`, `initial`, `previous` or a
    /// name from `[models]`.
    model: String,
    /// The most tokens of a text that a model writes, 1 or more; absent: as in `[generate]`. What is
    /// cut off loses its last sentence, where there is another.
    max_new_tokens: Option<u32>,
    /// How guidelines are asked for in mode `guidelines`.
    render_as: RenderAs,
    /// Where the guidelines go.
    system: System,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::Features,
            features: 2,
            concision: 0.2,
            generated: false,
            model: "policy".into(),
            max_new_tokens: None,
            render_as: RenderAs::Chat,
            system: System::Message,
        }
    }
}

/// Where the guidelines come from.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Features drawn by chance. Asks nothing, unless they are `generated`.
    Fixed,
    /// The paper's first version: the model names the features that matter.
    Features,
    /// The paper's second version: a model writes them.
    Guidelines,
}

/// Who writes guidelines, and how long they become.
pub(crate) struct Writer<'a> {
    model: &'a str,
    max_new_tokens: Option<u32>,
}

impl Writer<'_> {
    /// Asks for a text.
    fn request(&self, prompt: Text, stop: Option<&str>) -> GenerateRequest {
        let decoding = Decoding {
            max_new_tokens: self.max_new_tokens,
            stop: stop.map(|stop| vec![stop.into()]),
            ..Decoding::default()
        };
        GenerateRequest { decoding, ..GenerateRequest::of(self.model, prompt) }
    }
}

/// What is said to the model.
pub(crate) struct Guidelines {
    good: String,
    bad: String,
}

/// The plugin.
pub struct Sso {
    config: Config,
    features: Vec<Feature>,
}

impl Plugin for Sso {
    type Config = Config;
    const NAME: &'static str = "sso";
    const SUMMARY: &'static str = "The prompt as it is, under good guidelines and under bad ones, fixed or written by a model.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"mode": {"enum": ["fixed", "features", "guidelines"], "default": "features"},
"features": {"type": "integer", "minimum": 1, "maximum": 7, "default": 2},
"concision": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.2},
"generated": {"type": "boolean", "default": false},
"model": {"type": "string", "default": "policy"},
"max_new_tokens": {"type": "integer", "minimum": 1},
"render_as": {"enum": ["chat", "raw"], "default": "chat"},
"system": {"enum": ["message", "user"], "default": "message"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        let Config { mode, features, concision, generated, .. } = config;
        if !(1..=CHOICE).contains(&features) {
            return Err(Error::Config(format!("`features` is {features}, expected 1 to {CHOICE}")));
        }
        if !(0.0..=1.0).contains(&concision) {
            return Err(Error::Config(format!("`concision` is {concision}, expected 0 to 1")));
        }
        if config.max_new_tokens == Some(0) {
            return Err(Error::Config("`max_new_tokens` is 0, expected 1 or more".into()));
        }
        if generated && mode == Mode::Guidelines {
            return Err(Error::Config(
                "`generated` is for the modes `fixed` and `features`; the guidelines of mode \
                 `guidelines` are always written by a model"
                    .into(),
            ));
        }
        Ok(Sso { config, features: features::features()? })
    }
}

impl Principle for Sso {
    fn render(&self, _: &Context, record: &Record, ask: &mut Ask) -> Result<Vec<Variant>, Error> {
        let prompt = &record.prompt.text;
        let put = |guidelines: &str| self.config.system.put(guidelines, prompt);
        // A prompt that guidelines cannot be put to fails before anything is asked.
        put("")?;
        let Guidelines { good, bad } = match self.config.mode {
            Mode::Guidelines => {
                let helpful = self.features.iter().find(|feature| feature.name == "Helpfulness");
                let helpful = helpful.ok_or_else(|| Error::Internal("no `Helpfulness`".into()))?;
                let fallback = (helpful.good.text.as_str(), helpful.bad.text.as_str());
                let render_as = self.config.render_as;
                written::write(&self.writer(), render_as, &prompt.transcript(), fallback, ask)?
            }
            Mode::Fixed | Mode::Features => self.of_features(&prompt.transcript(), ask)?,
        };
        Ok(vec![
            Variant::new("plain", VariantRole::Plain, prompt.clone()),
            Variant::new("good", VariantRole::Good, put(&good)?),
            Variant::new("bad", VariantRole::Bad, put(&bad)?),
        ])
    }
}

export_principle!(Sso);

impl Sso {
    /// Returns who writes texts.
    fn writer(&self) -> Writer<'_> {
        Writer { model: &self.config.model, max_new_tokens: self.config.max_new_tokens }
    }

    /// Chooses features for a query, and concision at times.
    fn of_features(&self, query: &str, ask: &mut Ask) -> Result<Guidelines, Error> {
        let Config { mode, features, concision, generated, ref model, .. } = self.config;
        let mut rng = ask.rng();
        let short = rng.uniform() < concision;
        let mut chosen = match mode {
            Mode::Features => {
                features::choose(&self.features, features, model, query, &mut rng, ask)?
            }
            _ => features::draw(Vec::new(), features, &mut rng),
        };
        chosen.extend(short.then_some(CHOICE));
        let sides = |i: usize| (self.features[i].good.clone(), self.features[i].bad.clone());
        let mut chosen: Vec<_> = chosen.into_iter().map(sides).collect();
        if generated {
            features::rewrite(&mut chosen, &self.writer(), query, ask)?;
        }
        Ok(features::guidelines(&chosen))
    }
}

/// Writes what is said to the model: what kind of answer it is to give, under which guidelines.
pub(crate) fn instructions(aim: &str, guidelines: &[&str]) -> String {
    let (these, they) = match guidelines.len() {
        1 => ("this guideline", "it"),
        _ => ("these guidelines", "them"),
    };
    format!(
        "{aim} Follow {these}:\n\n{}\n\nAnswer as if you had always done so: do not mention {these} \
         to the user, and do not hint at {they}.",
        guidelines.join("\n\n")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aligner_sdk::{Answer, Request, Speaker, testing};

    use super::*;

    fn plugin(config: &str) -> Sso {
        testing::plugin(config).unwrap()
    }

    /// Returns the prompts of the variants `plain`, `good` and `bad`.
    fn prompts(
        plugin: &Sso,
        record: &Record,
        seed: u64,
        answer: impl FnMut(&Request) -> Answer,
    ) -> Result<[Text; 3], Error> {
        let render = |ask: &mut Ask| plugin.render(&testing::context(), record, ask);
        let variants: [Variant; 3] = testing::run(seed, answer, render)?.try_into().unwrap();
        let named = variants.each_ref().map(|it| (it.name.as_str(), it.role));
        use VariantRole::{Bad, Good, Plain};
        assert_eq!(named, [("plain", Plain), ("good", Good), ("bad", Bad)]);
        Ok(variants.map(|variant| variant.prompt))
    }

    /// Returns the system messages of the good and the bad variant.
    fn system(prompts: [Text; 3]) -> [String; 2] {
        let [_, good, bad] = prompts;
        [good, bad].map(|prompt| match prompt {
            Text::Chat(messages) if messages[0].speaker == Speaker::System => {
                messages[0].content.clone()
            }
            other => panic!("no system message: {other:?}"),
        })
    }

    fn says(text: &str) -> impl FnMut(&Request) -> Answer {
        move |_| Answer::Completion(testing::completion(text))
    }

    #[test]
    fn the_features_that_the_model_names_steer() {
        let plugin = plugin(r#"{"concision": 0}"#);
        let record = testing::record("p-1", "Why?");
        let asked = |request: &Request| {
            let Request::Generate(request) = request else { panic!("asked for a score") };
            assert_eq!(request.model, "policy");
            let Text::Raw(prompt) = &request.prompt else { panic!("not raw") };
            assert!(prompt.ends_with("Query: Why?\nQualities:"));
            Answer::Completion(testing::completion(" Accuracy, Engagement"))
        };
        for seed in 0..20 {
            let prompts = prompts(&plugin, &record, seed, asked).unwrap();
            assert_eq!(prompts[0], Text::user("Why?"));
            let [good, bad] = system(prompts);
            let [accuracy, engagement] = [&plugin.features[5], &plugin.features[6]];
            for (text, side) in [
                (good, [&accuracy.good, &engagement.good]),
                (bad, [&accuracy.bad, &engagement.bad]),
            ] {
                assert!(
                    side.iter().all(|it| text.contains(&it.adjective) && text.contains(&it.text))
                );
                assert!(text.ends_with(
                    "do not mention these guidelines to the user, and do not hint at them."
                ));
            }
        }
    }

    #[test]
    fn an_answer_that_names_nothing_leaves_it_to_chance() {
        let plugin = plugin(r#"{"features": 1, "concision": 0}"#);
        let record = testing::record("p-1", "Why?");
        let drawn = |answer: fn(&Request) -> Answer| {
            let texts =
                (0..100).map(|seed| system(prompts(&plugin, &record, seed, answer).unwrap()));
            texts.map(|[good, _]| good).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(drawn(|_| Answer::Completion(testing::completion("42"))), 7);
        assert_eq!(drawn(|_| Answer::Unanswered("too long".into())), 7);
    }

    #[test]
    fn fixed_features_ask_nobody_and_are_spread_evenly() {
        let plugin = plugin(r#"{"mode": "fixed"}"#);
        let record = testing::record("p-1", "Why?");
        let mut counts = BTreeMap::new();
        for seed in 0..2000 {
            let [good, bad] = system(prompts(&plugin, &record, seed, testing::no_model).unwrap());
            let mut features = 0;
            for feature in &plugin.features {
                assert_eq!(good.contains(&feature.good.text), bad.contains(&feature.bad.text));
                if good.contains(&feature.good.text) {
                    *counts.entry(feature.name.as_str()).or_insert(0) += 1;
                    features += 1;
                }
            }
            let short = good.contains("and concise.");
            assert_eq!(features, if short { 3 } else { 2 });
        }
        let concision = counts.remove("Concision").unwrap();
        assert!((340..460).contains(&concision), "{concision}");
        assert_eq!(counts.len(), 7);
        assert!(counts.values().all(|count| (510..630).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_draw_depends_on_nothing_but_the_seed() {
        let plugin = plugin(r#"{"mode": "fixed"}"#);
        let draw = |seed: u64| {
            let record = testing::record(&format!("p-{seed}"), "Why?");
            prompts(&plugin, &record, seed % 7, testing::no_model).unwrap()
        };
        assert_eq!(draw(1), draw(8));
        assert!((0..7).any(|seed| draw(seed) != draw(0)));
    }

    #[test]
    fn generated_texts_take_the_place_of_the_fixed_ones() {
        let plugin =
            plugin(r#"{"mode": "fixed", "generated": true, "features": 3, "concision": 1}"#);
        let record = testing::record("p-1", "Why?");
        let mut asked = 0;
        let written = |request: &Request| {
            let Request::Generate(request) = request else { panic!("asked for a score") };
            assert!(request.prompt.gist().ends_with("Query:\n\nWhy?"));
            asked += 1;
            let text = match asked {
                1 => r#"{"good": "Say why.", "bad": "Say how."}"#,
                _ => "I'd rather not.",
            };
            Answer::Completion(testing::completion(text))
        };
        let [good, bad] = system(prompts(&plugin, &record, 1, written).unwrap());
        assert_eq!(asked, 4);
        assert!(good.contains("\n\nSay why.\n\n") && bad.contains("\n\nSay how.\n\n"));
        let kept = plugin.features.iter().filter(|it| good.contains(&it.good.text));
        assert_eq!(kept.count(), 3);
    }

    #[test]
    fn guidelines_are_written_by_the_named_model() {
        let plugin = plugin(r#"{"mode": "guidelines", "model": "writer"}"#);
        let record = testing::record("p-1", "Why?");
        let [good, bad] = system(
            prompts(&plugin, &record, 1, |request| {
                let Request::Generate(request) = request else { panic!("asked for a score") };
                assert_eq!(request.model, "writer");
                let bad = request.prompt.gist().ends_with("### Bad Guideline");
                Answer::Completion(testing::completion(if bad { "Be vague." } else { "Be clear." }))
            })
            .unwrap(),
        );
        let expected = |aim: &str, guideline: &str| {
            format!(
                "{aim} Follow this guideline:\n\n{guideline}\n\nAnswer as if you had always done so: do \
                 not mention this guideline to the user, and do not hint at it."
            )
        };
        assert_eq!(good, expected("Give the user a good answer.", "Be clear."));
        assert_eq!(bad, expected("Give the user a rather bad answer.", "Be vague."));

        let [good, _] = system(prompts(&plugin, &record, 1, says(" ")).unwrap());
        assert!(good.contains(&plugin.features[3].good.text));
    }

    #[test]
    fn a_history_keeps_its_turns_and_its_system_message() {
        let history = testing::awkward().pop().unwrap();
        let as_message = prompts(&plugin(r#"{"mode": "fixed"}"#), &history, 1, testing::no_model);
        let [plain, good, _] = as_message.unwrap();
        assert_eq!(plain, history.prompt.text);
        let (Text::Chat(before), Text::Chat(after)) = (plain, good) else { panic!("not a talk") };
        assert!(after[0].content.starts_with("You are terse.\n\nGive the user an answer that is "));
        assert_eq!(after[1..], before[1..]);

        let as_user = plugin(r#"{"mode": "fixed", "system": "user"}"#);
        let [_, good, _] = prompts(&as_user, &history, 1, testing::no_model).unwrap();
        let Text::Chat(after) = good else { panic!("not a talk") };
        assert_eq!(after[..3], before[..3]);
        assert!(after[3].content.ends_with("hint at them.\n\nAnd its population?"));
    }

    #[test]
    fn raw_text_is_refused_before_anything_is_asked() {
        let mut record = testing::record("p-1", "");
        record.prompt.text = Text::Raw("Once upon a time".into());
        let failed = prompts(&plugin("{}"), &record, 1, testing::no_model);
        assert!(matches!(failed, Err(Error::Input(text)) if text.contains("`system = \"user\"`")));
        let config = r#"{"mode": "fixed", "system": "user"}"#;
        let [_, good, _] = prompts(&plugin(config), &record, 1, testing::no_model).unwrap();
        assert!(matches!(good, Text::Raw(text) if text.ends_with("them.\n\nOnce upon a time")));
    }

    #[test]
    fn awkward_prompts_are_rendered_whatever_the_model_says() {
        let mut answers = testing::awkward_texts().into_iter().cycle();
        for config in [
            "{}",
            r#"{"mode": "fixed", "generated": true, "system": "user"}"#,
            r#"{"mode": "guidelines"}"#,
            r#"{"mode": "guidelines", "render_as": "raw"}"#,
        ] {
            let plugin = plugin(config);
            for record in testing::awkward() {
                let answer =
                    |_: &Request| Answer::Completion(testing::completion(&answers.next().unwrap()));
                let [plain, good, bad] = prompts(&plugin, &record, 1, answer).unwrap();
                assert!(
                    plain == record.prompt.text && good != plain && bad != plain && good != bad
                );
            }
        }
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<Sso>(config) {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"features": 0}"#, "`features` is 0, expected 1 to 7");
        check(r#"{"features": 8}"#, "`features` is 8");
        check(r#"{"concision": 1.5}"#, "`concision` is 1.5, expected 0 to 1");
        check(r#"{"max_new_tokens": 0}"#, "`max_new_tokens` is 0, expected 1 or more");
        check(r#"{"mode": "guidelines", "generated": true}"#, "`generated` is for the modes");
        check(r#"{"mode": "v1"}"#, "key `mode`: unknown variant `v1`");
        check(r#"{"system": "none"}"#, "expected `message` or `user`");
        check(r#"{"feature": 2}"#, "unknown key `feature`");
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value = serde_json::from_str(Sso::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 8);
    }
}
