//! SELF-ALIGN's prompt: principles, in-context examples with internal thoughts, then the question
//! (Sun et al., 2023, <https://arxiv.org/abs/2305.03047>).
//!
//! The principles and the 48 examples are this project's own writing. Deviations from the paper:
//!
//! 1. The examples are drawn for each prompt by the sampler (SOFT), not five fixed ones.
//! 2. An example ends with the answer; there is no turn of praise after it.
//! 3. `format = "brief"` is a shorter rendering for models too small to hold the paper's.

mod format;

use aligner_sdk::{
    Ask, Context, Error, Exemplar, Message, Plugin, Principle, Record, Speaker, Text, Variant,
    VariantRole, export_principle,
};
use serde::Deserialize;

use crate::format::Format;

/// One principle a line: its name, a colon, the rule.
const PRINCIPLES: &str = include_str!("../data/principles.txt");

/// One in-context example a line.
const EXEMPLARS: &str = include_str!("../data/exemplars.jsonl");

/// What stands under `[principle.config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of the 16 principles are shown, from the first. 0 leaves them out.
    rules: usize,
    /// How an example is written.
    format: Format,
    /// How the whole is put to the model. Whichever it is, it is the same in every round:
    /// otherwise a change of format would look like a collapse of the model.
    render_as: RenderAs,
}

impl Default for Config {
    fn default() -> Self {
        Config { rules: 16, format: Format::InternalThoughts, render_as: RenderAs::Raw }
    }
}

/// How the few-shot prompt is put to the model.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RenderAs {
    /// As raw text that ends where the internal thoughts begin, for base models and tuned ones
    /// alike. The completion runs on into a next turn, so `[generate] stop` ends it.
    Raw,
    /// The same text as one message of the user.
    UserTurn,
    /// As a conversation: the principles are the system message, each example is a turn of the
    /// user and one of the assistant. The completion begins with the marker of the thoughts.
    Turns,
}

/// The plugin.
pub struct SelfAlign {
    config: Config,
    /// The text that all prompts begin with.
    header: String,
}

impl Plugin for SelfAlign {
    type Config = Config;
    const NAME: &'static str = "self-align";
    const SUMMARY: &'static str =
        "Sixteen principles and in-context examples in the internal-thoughts format.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"rules": {"type": "integer", "minimum": 0, "maximum": 16, "default": 16},
"format": {"enum": ["internal-thoughts", "brief"], "default": "internal-thoughts"},
"render_as": {"enum": ["raw", "user-turn", "turns"], "default": "raw"}}}"#;

    fn new(config: Config) -> Result<Self, Error> {
        let available = PRINCIPLES.lines().count();
        if config.rules > available {
            return Err(Error::Config(format!("`rules` is {}, at most {available}", config.rules)));
        }
        let header = header(&config);
        Ok(SelfAlign { config, header })
    }
}

impl Principle for SelfAlign {
    fn catalogue(&self) -> Result<Vec<Exemplar>, Error> {
        format::exemplars(EXEMPLARS, self.config.format)
    }

    /// Renders one variant, `few-shot`. A conversation is rendered with all its turns, so that the
    /// last message of the user can be understood; a raw prompt stands as the user's message.
    fn render(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Vec<Variant>, Error> {
        let prompt = match self.config.render_as {
            RenderAs::Raw => Text::Raw(self.transcript(record)),
            RenderAs::UserTurn => Text::user(self.transcript(record)),
            RenderAs::Turns => Text::Chat(self.turns(record)?),
        };
        Ok(vec![Variant::new("few-shot", VariantRole::Good, prompt)])
    }
}

export_principle!(SelfAlign);

impl SelfAlign {
    /// Writes everything as one text that ends with the marker of the thoughts.
    ///
    /// Each part begins with the blank line before it: the common header then ends at a token
    /// boundary, and its keys and values can be shared.
    fn transcript(&self, record: &Record) -> String {
        let mut text = self.header.clone();
        for exemplar in &record.exemplars {
            text.push_str("\n\n");
            text.push_str(&exemplar.text);
        }
        for (speaker, content) in messages(&record.prompt.text) {
            let name = match speaker {
                Speaker::System => "System",
                Speaker::User => "User",
                Speaker::Assistant => "Assistant",
            };
            text.push_str(&format!("\n\n{name}: {}", content.trim()));
        }
        text.push_str("\n\n");
        text.push_str(self.config.format.thoughts());
        text
    }

    /// Writes everything as a conversation. The prompt's own system message joins the header.
    fn turns(&self, record: &Record) -> Result<Vec<Message>, Error> {
        let mut system = self.header.clone();
        let mut turns = Vec::new();
        for exemplar in &record.exemplars {
            let (question, reply) = self.config.format.split(exemplar).ok_or_else(|| {
                Error::Input(format!("exemplar `{}` is not of this plugin's format", exemplar.id))
            })?;
            turns.push(Message { speaker: Speaker::User, content: question.into() });
            turns.push(Message { speaker: Speaker::Assistant, content: reply.into() });
        }
        for (speaker, content) in messages(&record.prompt.text) {
            match speaker {
                Speaker::System => system.push_str(&format!("\n\n{}", content.trim())),
                speaker => turns.push(Message { speaker, content: content.trim().into() }),
            }
        }
        turns.insert(0, Message { speaker: Speaker::System, content: system });
        Ok(turns)
    }
}

/// Returns who says what in a prompt.
fn messages(text: &Text) -> Vec<(Speaker, &str)> {
    match text {
        Text::Raw(text) => vec![(Speaker::User, text)],
        Text::Chat(messages) => {
            messages.iter().map(|message| (message.speaker, message.content.as_str())).collect()
        }
    }
}

/// Writes the principles and how the talks below are to be read.
fn header(config: &Config) -> String {
    let in_turns = config.render_as == RenderAs::Turns;
    let mut header = String::from(match in_turns {
        true => "You are an assistant",
        false => "# Assistant\n\nThe assistant",
    });
    if config.rules > 0 {
        header.push_str(match in_turns {
            true => " who follows these rules:\n",
            false => " follows these rules:\n",
        });
        for (i, line) in PRINCIPLES.lines().take(config.rules).enumerate() {
            let (name, rule) = line.split_once(": ").unwrap_or((line, ""));
            header.push_str(&format!("\n{} ({name}). {rule}", i + 1));
        }
        header.push_str("\n\n");
    } else {
        header.push_str(match in_turns {
            true => ".\n\n",
            false => " talks with users.\n\n",
        });
    }
    header.push_str(match in_turns {
        true => format::INSTRUCTION,
        false => config.format.announcement(),
    });
    header
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    fn plugin(config: &str) -> SelfAlign {
        testing::plugin(config).unwrap()
    }

    fn prompt(plugin: &SelfAlign, record: &Record) -> Text {
        let variants = testing::render(plugin, record, testing::no_model).unwrap();
        let [variant] = variants.try_into().unwrap();
        assert_eq!((variant.name.as_str(), variant.role), ("few-shot", VariantRole::Good));
        assert_eq!(variant.completion, None);
        variant.prompt
    }

    fn raw(plugin: &SelfAlign, record: &Record) -> String {
        match prompt(plugin, record) {
            Text::Raw(text) => text,
            chat => panic!("{chat:?}"),
        }
    }

    fn equipped(plugin: &SelfAlign, question: &str, drawn: &[usize]) -> Record {
        let catalogue = plugin.catalogue().unwrap();
        let mut record = testing::record("p-1", question);
        record.exemplars = drawn.iter().map(|&i| catalogue[i].clone()).collect();
        record
    }

    #[test]
    fn the_catalogue_spreads_over_principles_and_cases() {
        let catalogue = plugin("{}").catalogue().unwrap();
        assert_eq!(catalogue.len(), 48);
        let ids: std::collections::BTreeSet<_> = catalogue.iter().map(|it| &it.id).collect();
        assert_eq!(ids.len(), 48);
        for line in PRINCIPLES.lines() {
            let tag = format!("principle:{}", line.split_once(": ").unwrap().0);
            let count = catalogue.iter().filter(|it| it.tags.contains(&tag)).count();
            assert!(count >= 3, "{tag}: {count}");
        }
        for case in ["case:positive", "case:negative"] {
            let count = catalogue.iter().filter(|it| it.tags.iter().any(|tag| tag == case)).count();
            assert!(count >= 12, "{case}: {count}");
        }
    }

    #[test]
    fn raw_text_ends_where_the_thoughts_begin() {
        let plugin = plugin(r#"{"rules": 2, "format": "brief"}"#);
        let mut record = testing::record("p-1", " How are you? \n");
        record.exemplars =
            vec![testing::exemplar("a", "User: A?"), testing::exemplar("b", "User: B?")];
        let expected = "# Assistant\n\nThe assistant follows these rules:\n\n\
            1 (ethical). Refuse harmful or illegal requests kindly and offer a safe way forward.\n\
            2 (informative). Give accurate facts that teach the user something useful.\n\n\
            Below are talks between a user and the assistant. The assistant first notes one short \
            thought, then gives its answer.\n\n\
            User: A?\n\nUser: B?\n\nUser: How are you?\n\nInternal thoughts:";
        assert_eq!(raw(&plugin, &record), expected);
    }

    #[test]
    fn all_prompts_share_their_header() {
        for config in [r#"{}"#, r#"{"format": "brief"}"#, r#"{"rules": 0}"#] {
            let plugin = plugin(config);
            let a = raw(&plugin, &equipped(&plugin, "Why?", &[0, 1]));
            let b = raw(&plugin, &equipped(&plugin, "Who?", &[47, 3]));
            let shared = format!("{}\n\nUser: ", plugin.header);
            assert!(a.starts_with(&shared) && b.starts_with(&shared));
            assert!(!plugin.header.ends_with('\n'));
        }
    }

    #[test]
    fn a_user_turn_holds_the_same_text() {
        let as_turn = plugin(r#"{"render_as": "user-turn"}"#);
        let record = equipped(&as_turn, "Why?", &[5]);
        assert_eq!(prompt(&as_turn, &record), Text::user(raw(&plugin("{}"), &record)));
    }

    #[test]
    fn turns_split_each_exemplar() {
        let plugin = plugin(r#"{"render_as": "turns", "format": "brief"}"#);
        let Text::Chat(turns) = prompt(&plugin, &equipped(&plugin, "Why?", &[3, 20])) else {
            panic!("not a conversation");
        };
        let speakers: Vec<_> = turns.iter().map(|turn| turn.speaker).collect();
        use Speaker::{Assistant, System, User};
        assert_eq!(speakers, [System, User, Assistant, User, Assistant, User]);
        assert_eq!(turns[1].content, "Why does the Moon show phases?");
        assert!(
            turns[2].content.starts_with("Internal thoughts: I am a helpful assistant. I follow")
        );
        assert!(turns[2].content.contains("\n\nAssistant: The Moon is always half lit"));
        assert_eq!(turns[5].content, "Why?");

        let mut record = testing::record("p-1", "Why?");
        record.exemplars.push(testing::exemplar("foreign", "no turns here"));
        let failed = testing::render(&plugin, &record, testing::no_model);
        assert!(matches!(failed, Err(Error::Input(text)) if text.contains("`foreign`")));
    }

    #[test]
    fn a_history_is_rendered_with_all_its_turns() {
        let history = testing::awkward().pop().unwrap();
        let text = raw(&plugin("{}"), &history);
        assert!(text.ends_with(
            "\n\nSystem: You are terse.\n\nUser: What is the capital of France?\n\nAssistant: Paris.\
             \n\nUser: And its population?\n\nAssistant (internal thoughts):"
        ));
        let Text::Chat(turns) = prompt(&plugin(r#"{"render_as": "turns"}"#), &history) else {
            panic!("not a conversation");
        };
        assert!(turns[0].content.ends_with("\n\nYou are terse."));
        assert_eq!(turns.len(), 4);
    }

    #[test]
    fn awkward_prompts_are_rendered() {
        for config in ["{}", r#"{"render_as": "turns"}"#, r#"{"render_as": "user-turn"}"#] {
            let plugin = plugin(config);
            for mut record in testing::awkward() {
                prompt(&plugin, &record);
                record.prompt.text = Text::Raw(record.prompt.text.gist().into());
                prompt(&plugin, &record);
            }
        }
    }

    #[test]
    fn wrong_configurations_name_the_key() {
        let check = |config: &str, expected: &str| match testing::plugin::<SelfAlign>(config) {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            _ => panic!("{config} was taken"),
        };
        check(r#"{"rules": 17}"#, "`rules` is 17, at most 16");
        check(r#"{"rule": 3}"#, "unknown key `rule`");
        check(r#"{"format": "long"}"#, "key `format`: unknown variant `long`");
        check(r#"{"render_as": "chat"}"#, "`raw`, `user-turn`, `turns`");
    }

    #[test]
    fn the_schema_is_json() {
        serde_json::from_str::<serde_json::Value>(SelfAlign::CONFIG_SCHEMA).unwrap();
    }
}
