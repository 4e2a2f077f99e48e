//! Conversations as training data: which tokens of a whole conversation the assistant wrote.
//!
//! The mask comes from the rendering. A template with `{% generation %}` blocks says itself what
//! the assistant writes; elsewhere a turn begins where the prompt for it ends, and ends with the
//! token that ends a turn. Templates may render a turn otherwise once the conversation goes on
//! (Qwen3 leaves out what was thought, Mistral moves the system message), and to train on that
//! would teach what is never generated; such a turn is an error.

use std::ops::Range;

use super::error::ModelError;
use super::template::Template;
use super::text::{Example, Model};
use crate::record::{Message, Speaker};

impl Model {
    /// Returns a conversation in which every turn of the assistant is trained on or scored, with
    /// the token that ends it.
    ///
    /// The tokens are those that Hugging Face's tokenizer gives the rendered text, and where the
    /// template has `{% generation %}` blocks the mask is that of its
    /// `return_assistant_tokens_mask`. Fails where the conversation does not end with the
    /// assistant, where the template does not say where its turns begin and end, and where the
    /// conversation is longer than the model's context.
    pub fn encode_conversation(&self, messages: &[Message]) -> Result<Example, ModelError> {
        if messages.last().is_none_or(|message| message.speaker != Speaker::Assistant) {
            return Err(ModelError::Conversation(
                "the conversation does not end with a message of the assistant",
            ));
        }
        let template = self.chat_template()?;
        let (escaped, escapes) = self.escape(messages);
        let rendered = template.render_marked(&escaped, false)?;
        let written = match template.marks_generation() {
            true => rendered.generated,
            false => self.turns(template, &escaped, &rendered.text)?,
        };
        let ends = self.tokenizer.encode_with_ends(&rendered.text, &escapes)?;
        let tokens: Vec<u32> = ends.iter().map(|&(id, _)| id).collect();
        self.check_start(&tokens)?;
        let trained = trained(&ends, &written);
        if !trained.contains(&true) {
            return Err(ModelError::NothingToTrain);
        }
        let stops = self.tokenizer.stop_tokens();
        let last = written.last().cloned().unwrap_or_default();
        let ends_turn = ends
            .iter()
            .zip(&trained)
            .any(|((id, end), trained)| *trained && *end > last.start && stops.contains(id));
        if !ends_turn {
            return Err(self.template_error(
                "does not mark the token that ends a turn as written by the assistant",
                "a model trained so would never stop; let `{% generation %}` enclose it",
            ));
        }
        self.check_length(tokens.len())?;
        Ok(Example { tokens, trained })
    }

    /// Returns what the assistant wrote in `whole`, from the prompts for each of its turns.
    fn turns(
        &self,
        template: &Template,
        messages: &[Message],
        whole: &str,
    ) -> Result<Vec<Range<usize>>, ModelError> {
        let end = self.end_of_turn_text()?;
        let mut turns = Vec::new();
        let assistant = |message: &&Message| message.speaker == Speaker::Assistant;
        let count = messages.iter().filter(assistant).count();
        for (at, _) in messages.iter().enumerate().filter(|(_, message)| assistant(message)) {
            if at == 0 {
                return Err(ModelError::Conversation(
                    "the conversation begins with the assistant, who has nothing to answer",
                ));
            }
            let name = match count {
                1 => "the assistant's turn".to_owned(),
                _ => format!("turn {} of the assistant", turns.len() + 1),
            };
            let prompt = template.render(&messages[..at], true)?;
            let turn = |text: &str| -> Result<String, ModelError> {
                let rest = text.strip_prefix(prompt.as_str()).ok_or_else(|| {
                    self.template_error(
                        &format!("does not render {name} where the prompt for it ends"),
                        "train on prompts with completions instead of conversations, or put a \
                         template with `{% generation %}` beside the model as \
                         `chat_template.jinja`",
                    )
                })?;
                let length = rest.find(&end).map(|at| at + end.len()).ok_or_else(|| {
                    self.template_error(
                        &format!("does not end {name} with `{end}`"),
                        "name the token that ends a turn as `eos_token` in \
                         `tokenizer_config.json`",
                    )
                })?;
                Ok(rest[..length].to_owned())
            };
            let there = turn(whole)?;
            if there != turn(&template.render(&messages[..=at], false)?)? {
                return Err(self.template_error(
                    &format!("renders {name} otherwise once the conversation goes on"),
                    "make a conversation of its own of each turn, which ends there",
                ));
            }
            turns.push(prompt.len()..prompt.len() + there.len());
        }
        Ok(turns)
    }
}

/// Returns for each token whether a part of its text lies in one of the ranges.
///
/// Tokens follow one another without gaps: the tokenizer says of some that they do not hold the
/// white space that they do hold.
fn trained(ends: &[(u32, usize)], ranges: &[Range<usize>]) -> Vec<bool> {
    let (mut from, mut before) = (0, 0);
    ends.iter()
        .map(|&(_, end)| {
            if end > before {
                (from, before) = (before, end);
            }
            ranges.iter().any(|range| from < range.end && before > range.start)
        })
        .collect()
}

#[cfg(test)]
mod tests;
