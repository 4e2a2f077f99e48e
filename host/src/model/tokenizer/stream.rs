//! Text out of tokens, as they come.

use super::Tokenizer;
use crate::model::error::ModelError;

/// Text that arrives token by token.
///
/// A token may hold a part of a character; [`TextStream::push`] keeps it back until the rest is
/// there, so that what it returns is always whole.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// From here on ids are decoded together.
    start: usize,
    /// How many ids have been told.
    told: usize,
}

impl TextStream<'_> {
    pub(super) fn new(tokenizer: &Tokenizer) -> TextStream<'_> {
        TextStream { tokenizer, ids: Vec::new(), start: 0, told: 0 }
    }

    /// Takes a token; returns the text that became whole with it, which may be empty.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let (told, all) = self.texts()?;
        if all.ends_with('\u{FFFD}') || all.len() <= told.len() {
            return Ok(String::new());
        }
        let new = self.rest(&told, &all)?;
        self.start = self.told;
        self.told = self.ids.len();
        Ok(new)
    }

    /// Returns what was kept back; a part of a character becomes U+FFFD.
    pub fn finish(self) -> Result<String, ModelError> {
        let (told, all) = self.texts()?;
        self.rest(&told, &all)
    }

    /// The text of the ids kept back. Byte tokens that are no text take those before them along
    /// where they are decoded together, so that what was told is no longer there.
    fn rest(&self, told: &str, all: &str) -> Result<String, ModelError> {
        match all.strip_prefix(told) {
            Some(rest) => Ok(rest.to_owned()),
            None => self.tokenizer.decode(&self.ids[self.told..]),
        }
    }

    /// The text told already of the last ids, and with those kept back.
    fn texts(&self) -> Result<(String, String), ModelError> {
        let told = self.tokenizer.decode(&self.ids[self.start..self.told])?;
        Ok((told, self.tokenizer.decode(&self.ids[self.start..])?))
    }
}
