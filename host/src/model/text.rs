//! Models as far as text is concerned: prompts and examples become tokens.
//!
//! Every text is tokenised once, here, and the mask that says which tokens train is made in the
//! same place. Three rules hold for all of it:
//!
//! - An example begins with exactly the tokens of its prompt at generation. The completion is
//!   tokenised by itself, after them, because that is how a model writes: it cannot go back and
//!   merge its first letter with the last one of the prompt.
//! - What people, plugins and models wrote is plain text. A marker of the chat template in it
//!   (`<|im_end|>`) does not end a turn; it is tokenised letter by letter.
//! - Texts without such markers get the tokens that Hugging Face's tokenizer gives them.

use std::path::PathBuf;

use super::error::ModelError;
use super::spec::Spec;
use super::template::Template;
use super::tokenizer::Tokenizer;
use crate::record::{Finish, Message, Speaker, Text};

/// A model without its weights.
pub struct Model {
    /// What the user called it.
    pub name: String,
    /// SHA-256 over weights, configuration, tokenizer and template, in hexadecimal.
    pub digest: String,
    /// Its shape.
    pub spec: Spec,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; a model without one reads raw text only.
    pub template: Option<Template>,
    /// The folder or file it was read from.
    pub path: PathBuf,
    /// The token that ends the assistant's turn.
    end_of_turn: Option<u32>,
}

/// Tokens to train on or to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// As long as `tokens`; true where the token belongs to the completion.
    pub trained: Vec<bool>,
}

impl Model {
    /// Puts a model together, checks that its tokenizer fits, and finds out which token ends the
    /// assistant's turn.
    pub(super) fn new(
        name: &str,
        digest: String,
        spec: Spec,
        tokenizer: Tokenizer,
        template: Option<Template>,
        path: PathBuf,
    ) -> Result<Model, ModelError> {
        let mut model = Model {
            name: name.to_owned(),
            digest,
            spec,
            tokenizer,
            template,
            path,
            end_of_turn: None,
        };
        model.end_of_turn = match &model.template {
            Some(template) => end_of_turn(template, &model.tokenizer).or(model.tokenizer.eos()),
            None => model.tokenizer.eos(),
        };
        if let Some(id) = model.end_of_turn {
            model.tokenizer.add_stop(id);
        }
        model.tokenizer.check_fits(model.spec.vocab)?;
        Ok(model)
    }

    /// Returns the token that ends the assistant's turn: the one that the chat template puts after
    /// its words, or else the end-of-text token.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn
    }

    /// Returns the tokens of a prompt, ready for the first token of the completion.
    ///
    /// Raw text begins with the begin-of-text token where the model has one; a chat is rendered up
    /// to where the assistant begins. Fails where the prompt leaves no room for a completion, is
    /// empty, or cannot be rendered.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>, ModelError> {
        let tokens = self.prompt_tokens(prompt)?;
        let limit = self.spec.context_length - 1;
        if tokens.len() > limit {
            return Err(self.too_long("the prompt", tokens.len(), limit));
        }
        Ok(tokens)
    }

    /// Returns a prompt with a completion, as it is trained on and scored.
    ///
    /// After a chat, a completion that is whole ([`Finish::Stop`]) is followed by the end-of-turn
    /// token, which is trained like the rest; after raw text nothing is added. Fails where nothing
    /// is left to train on, and where the example is longer than the model's context.
    pub fn encode_example(
        &self,
        prompt: &Text,
        completion: &str,
        finish: Finish,
    ) -> Result<Example, ModelError> {
        let mut tokens = self.prompt_tokens(prompt)?;
        let prompt_length = tokens.len();
        tokens.extend(self.tokenizer.encode_plain(completion)?);
        if let (Text::Chat(_), Finish::Stop) = (prompt, finish) {
            tokens.push(self.end_of_turn.ok_or_else(|| ModelError::Template {
                model: self.name.clone(),
                message: "does not say which token ends a turn".to_owned(),
                hint: "name an `eos_token` in its `tokenizer_config.json`".to_owned(),
            })?);
        }
        if tokens.len() == prompt_length {
            return Err(ModelError::NothingToTrain);
        }
        let limit = self.spec.context_length;
        if tokens.len() > limit {
            return Err(self.too_long("the example", tokens.len(), limit));
        }
        let trained = (0..tokens.len()).map(|position| position >= prompt_length).collect();
        Ok(Example { tokens, trained })
    }

    /// Returns a conversation that ends with the assistant, whose last words and end-of-turn token
    /// are trained on or scored.
    pub fn encode_conversation(&self, messages: &[Message]) -> Result<Example, ModelError> {
        match messages.split_last() {
            Some((last, before)) if last.speaker == Speaker::Assistant => {
                self.encode_example(&Text::Chat(before.to_vec()), &last.content, Finish::Stop)
            }
            _ => Err(ModelError::Conversation(
                "the conversation does not end with a message of the assistant",
            )),
        }
    }

    fn prompt_tokens(&self, prompt: &Text) -> Result<Vec<u32>, ModelError> {
        let tokens = match prompt {
            Text::Raw(text) => {
                let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
                let mut tokens = Vec::from_iter(bos);
                tokens.extend(self.tokenizer.encode_plain(text)?);
                tokens
            }
            Text::Chat(messages) => self.chat_tokens(messages)?,
        };
        if tokens.is_empty() {
            return Err(ModelError::Conversation("the prompt is empty"));
        }
        match (&tokens[..], self.tokenizer.bos()) {
            ([first, second, ..], Some(bos)) if *first == bos && *second == bos => {
                let token = self.tokenizer.token(bos).unwrap_or_default();
                Err(ModelError::DoubleBos { model: self.name.clone(), token })
            }
            _ => Ok(tokens),
        }
    }

    fn chat_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        match messages.last().map(|message| message.speaker) {
            None => return Err(ModelError::Conversation("the conversation is empty")),
            Some(Speaker::Assistant) => {
                return Err(ModelError::Conversation(
                    "the prompt ends with a message of the assistant, who is to speak next",
                ));
            }
            Some(Speaker::User | Speaker::System) => {}
        }
        let template = self.template.as_ref().ok_or_else(|| ModelError::Template {
            model: self.name.clone(),
            message: "is absent, so it reads raw text only".to_owned(),
            hint: "use raw prompts, or put a `chat_template.jinja` beside the model".to_owned(),
        })?;
        let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        let escapes = self.tokenizer.escape(&contents);
        if escapes.is_empty() {
            return self.tokenizer.encode(&template.render(messages, true)?);
        }
        let escaped: Vec<Message> = messages
            .iter()
            .map(|m| Message { speaker: m.speaker, content: escapes.apply(&m.content) })
            .collect();
        self.tokenizer.encode_escaped(&template.render(&escaped, true)?, &escapes)
    }

    fn too_long(&self, what: &'static str, tokens: usize, limit: usize) -> ModelError {
        ModelError::TooLong { what, model: self.name.clone(), tokens, limit }
    }
}

/// Asks the template which special token follows the words of the assistant.
fn end_of_turn(template: &Template, tokenizer: &Tokenizer) -> Option<u32> {
    const WORDS: &str = "fifty-three words";
    let say = |speaker, content: &str| Message { speaker, content: content.to_owned() };
    let messages = [say(Speaker::User, "How many?"), say(Speaker::Assistant, WORDS)];
    let text = template.render(&messages, false).ok()?;
    let (_, after) = text.rsplit_once(WORDS)?;
    tokenizer.leading_special(after)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::source;

    #[test]
    fn opens_the_tiny_model() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
        let (model, checkpoint) = source::open(folder.to_str().unwrap(), &mut |_| ()).unwrap();
        assert_eq!(model.spec, *checkpoint.spec());
        assert_eq!(model.tokenizer.stop_tokens(), [2]);
        assert_eq!(model.end_of_turn(), Some(2));
        let ids = model.encode_prompt(&Text::user("What is it?")).unwrap();
        println!("{ids:?}");
        let w = checkpoint.tensor("model.norm.weight", &[32]).unwrap();
        assert_eq!(w.len(), 32);
    }
}
