//! What plugins do with prompts: put them under instructions, and write them down.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{Error, Message, Speaker, Text};

/// Where the instructions go that a prompt is put under: what `system` says in a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// `message`: into the system message, after what the prompt's own one says.
    #[default]
    Message,
    /// `user`: in front of the user's last message, or of the raw text. For models whose chat
    /// template has no place for a system message.
    User,
}

/// How a question is put to a model: what `render_as` says in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RenderAs {
    /// `raw`: as raw text that ends where the model goes on, for base models and for small ones that
    /// answer something else in a conversation.
    Raw,
    /// `chat`: as a message of the user.
    Chat,
}

impl RenderAs {
    /// Returns the question as a model reads it.
    pub fn put(self, question: String) -> Text {
        match self {
            RenderAs::Raw => Text::Raw(question),
            RenderAs::Chat => Text::user(question),
        }
    }
}

impl System {
    /// Returns the prompt under instructions. The rest of a conversation stays as it is.
    ///
    /// Fails with [`Error::Input`] for raw text, which has no system message, where it ought to go
    /// there; and for a conversation in which the user says nothing.
    pub fn put(self, instructions: &str, prompt: &Text) -> Result<Text, Error> {
        let mut messages = match (self, prompt) {
            (System::Message, Text::Raw(_)) => {
                return Err(Error::Input(
                    "the prompt is raw text, which has no system message; `system = \"user\"` puts \
                     the instructions in front of it"
                        .into(),
                ));
            }
            (System::User, Text::Raw(text)) => {
                return Ok(Text::Raw(format!("{instructions}\n\n{text}")));
            }
            (_, Text::Chat(messages)) => messages.clone(),
        };
        match self {
            System::Message => match messages.first_mut() {
                Some(Message { speaker: Speaker::System, content }) => {
                    *content = format!("{}\n\n{instructions}", content.trim()).trim_start().into();
                }
                _ => {
                    let content = instructions.into();
                    messages.insert(0, Message { speaker: Speaker::System, content });
                }
            },
            System::User => {
                let last = messages.iter_mut().rfind(|message| message.speaker == Speaker::User);
                let last = last
                    .ok_or_else(|| Error::Input("the prompt has no message of the user".into()))?;
                last.content = format!("{instructions}\n\n{}", last.content);
            }
        }
        Ok(Text::Chat(messages))
    }
}

impl Text {
    /// Returns the prompt as a person would write it down: raw text and a single message as they
    /// are; of a conversation a paragraph for each message, with who says it in front.
    pub fn transcript(&self) -> Cow<'_, str> {
        let messages = match self {
            Text::Raw(text) => return text.into(),
            Text::Chat(messages) => messages,
        };
        if let [only] = messages.as_slice() {
            return only.content.as_str().into();
        }
        let said = |Message { speaker, content }: &Message| {
            let name = match speaker {
                Speaker::System => "System",
                Speaker::User => "User",
                Speaker::Assistant => "Assistant",
            };
            format!("{name}: {}", content.trim())
        };
        messages.iter().map(said).collect::<Vec<_>>().join("\n\n").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Writes a prompt on one line.
    fn line(text: &Text) -> String {
        match text {
            Text::Raw(text) => format!("raw {text:?}"),
            Text::Chat(messages) => {
                let said = |it: &Message| format!("{:?} {:?}", it.speaker, it.content);
                messages.iter().map(said).collect::<Vec<_>>().join(", ").replace("Speaker::", "")
            }
        }
    }

    fn history() -> Text {
        testing::awkward().pop().unwrap().prompt.text
    }

    #[test]
    fn instructions_join_the_system_message() {
        let check = |prompt: &Text, expected: &str| {
            assert_eq!(line(&System::Message.put("Be good.", prompt).unwrap()), expected);
        };
        check(&Text::user("Why?"), r#"System "Be good.", User "Why?""#);
        check(
            &history(),
            r#"System "You are terse.\n\nBe good.", User "What is the capital of France?", Assistant "Paris.", User "And its population?""#,
        );
        let blank = Message { speaker: Speaker::System, content: " \n".into() };
        check(&Text::Chat(vec![blank]), r#"System "Be good.""#);
        let raw = System::Message.put("Be good.", &Text::Raw("Why?".into()));
        assert!(matches!(raw, Err(Error::Input(text)) if text.contains("`system = \"user\"`")));
    }

    #[test]
    fn instructions_go_in_front_of_what_the_user_says_last() {
        let check = |prompt: &Text, expected: &str| {
            assert_eq!(line(&System::User.put("Be good.", prompt).unwrap()), expected);
        };
        check(&Text::user("Why?"), r#"User "Be good.\n\nWhy?""#);
        check(&Text::Raw("Why?".into()), r#"raw "Be good.\n\nWhy?""#);
        check(
            &history(),
            r#"System "You are terse.", User "What is the capital of France?", Assistant "Paris.", User "Be good.\n\nAnd its population?""#,
        );
        assert!(matches!(System::User.put("", &Text::Chat(vec![])), Err(Error::Input(_))));
    }

    #[test]
    fn a_transcript_names_speakers_where_there_are_several_messages() {
        assert_eq!(Text::user(" Why?").transcript(), " Why?");
        assert_eq!(Text::Raw("Why?".into()).transcript(), "Why?");
        assert_eq!(
            history().transcript(),
            "System: You are terse.\n\nUser: What is the capital of France?\n\nAssistant: Paris.\n\n\
             User: And its population?"
        );
    }
}
