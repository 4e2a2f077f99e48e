//! Tokenizers: text to token ids and back, with special tokens kept apart from plain text.

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString};

use super::error::ModelError;
use crate::model::guard::guarded;
pub use stream::TextStream;

/// A tokenizer, with what the model's files say about its special tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same with special tokens read as plain text; made when first needed, as it is as large.
    plain: OnceLock<tokenizers::Tokenizer>,
    path: PathBuf,
    special: BTreeMap<String, u32>,
    bos: Option<u32>,
    add_bos: bool,
    stops: BTreeSet<u32>,
    /// Names and texts as chat templates use them.
    named: Vec<(String, String)>,
    largest: u32,
}

/// What a model's files say beside the tokenizer itself.
#[derive(Default)]
pub(super) struct Special {
    /// Texts by name, such as `bos_token`.
    pub named: Vec<(String, String)>,
    /// Ids that end a completion.
    pub stops: BTreeSet<u32>,
    /// Whether raw text begins with the begin-of-text token; absent where the tokenizer itself
    /// knows.
    pub add_bos: Option<bool>,
}

impl Tokenizer {
    /// Reads the tokenizer of a folder in Hugging Face layout: `tokenizer.json`, and what stands
    /// beside it in `tokenizer_config.json`, `generation_config.json` and `config.json`.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, ModelError> {
        let path = folder.join("tokenizer.json");
        let bytes = match crate::file::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ModelError::malformed(
                    folder,
                    "has no `tokenizer.json`; save the tokenizer with a current transformers to \
                     get one",
                ));
            }
            Err(error) => return Err(ModelError::read(&path, error)),
        };
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|error| ModelError::malformed(&path, format!("cannot be read: {error}")))?;

        let settings = optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let older = optional_json(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
        let mut special =
            Special { add_bos: settings["add_bos_token"].as_bool(), ..Special::default() };
        for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            let text = [&settings[name], &older[name]]
                .into_iter()
                .find_map(|value| value.as_str().or_else(|| value["content"].as_str()));
            special.named.extend(text.map(|text| (name.to_owned(), text.to_owned())));
        }
        for file in ["generation_config.json", "config.json"] {
            let file = folder.join(file);
            let Some(config) = optional_json(&file)? else { continue };
            let ids = match &config["eos_token_id"] {
                Value::Array(ids) => ids.as_slice(),
                Value::Null => &[],
                id => std::slice::from_ref(id),
            };
            for id in ids {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                    ModelError::malformed(&file, format!("has {id} as an `eos_token_id`"))
                })?;
                special.stops.insert(id);
            }
        }
        Tokenizer::new(inner, special, &path)
    }

    /// Puts a tokenizer together; `path` is where it comes from, for errors.
    pub(super) fn new(
        inner: tokenizers::Tokenizer,
        special: Special,
        path: &Path,
    ) -> Result<Tokenizer, ModelError> {
        let made = guarded(|| Ok(Tokenizer::build(inner, special, path)));
        made.map_err(|error| ModelError::tokenizer(path, format!("cannot be used: {error}")))?
    }

    fn build(
        mut inner: tokenizers::Tokenizer,
        special: Special,
        path: &Path,
    ) -> Result<Tokenizer, ModelError> {
        // A file may carry the settings of the run that saved it, and truncation would cut
        // prompts without a word.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| ModelError::tokenizer(path, format!("cannot be used: {error}")))?;
        let mut stops = special.stops;
        let mut bos = None;
        for (name, text) in &special.named {
            // As in Hugging Face, a token with a role is special, whatever the file says.
            let known = inner.token_to_id(text);
            if matches!(name.as_str(), "bos_token" | "eos_token") {
                let Some(id) = known else {
                    return Err(ModelError::tokenizer(
                        path,
                        format!("has no token `{text}`, the model's `{name}`"),
                    ));
                };
                inner
                    .add_special_tokens([AddedToken::from(text.clone(), true)])
                    .map_err(|error| ModelError::tokenizer(path, error.to_string()))?;
                if name == "bos_token" {
                    bos = Some(id);
                } else {
                    stops.insert(id);
                }
            }
        }
        let added = inner.get_added_tokens_decoder();
        let special_texts = added
            .iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(&id, token)| (token.content.clone(), id))
            .collect();
        let Some(largest) = inner.get_vocab(true).into_values().max() else {
            return Err(ModelError::tokenizer(path, "has no tokens"));
        };
        let mut tokenizer = Tokenizer {
            inner,
            plain: OnceLock::new(),
            path: path.to_owned(),
            special: special_texts,
            bos,
            add_bos: false,
            stops,
            named: special.named,
            largest,
        };
        tokenizer.add_bos = bos.is_some()
            && match special.add_bos {
                Some(add) => add,
                None => tokenizer.run(&tokenizer.inner, "a", true)?.first().copied() == bos,
            };
        Ok(tokenizer)
    }

    /// Checks that every token has a row in an embedding of `rows` rows.
    pub fn check_fits(&self, rows: usize) -> Result<(), ModelError> {
        let beyond = |id: &&u32| **id as usize >= rows;
        if let Some(id) = Some(&self.largest).filter(beyond) {
            return Err(ModelError::tokenizer(
                &self.path,
                format!(
                    "does not fit the model: it has a token `{}` with id {id}, and the embedding \
                     has {rows} rows",
                    self.token(*id).unwrap_or_default()
                ),
            ));
        }
        match self.stops.iter().find(beyond) {
            None => Ok(()),
            Some(id) => Err(ModelError::tokenizer(
                &self.path,
                format!(
                    "does not fit the model: completions end with token {id}, and the embedding \
                     has {rows} rows"
                ),
            )),
        }
    }

    /// Returns the ids of a text in which special tokens are recognised, as in the text of a
    /// rendered chat template. Adds no token of its own.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.run(&self.inner, text, false)
    }

    /// Returns the ids of a text whose special tokens are plain text: what a person or a model
    /// wrote cannot end a turn or begin one. Adds no token of its own.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        // Without a special token in it, both ways are the same.
        if !self.special.keys().any(|special| text.contains(special.as_str())) {
            return self.encode(text);
        }
        self.run(self.plain(), text, false)
    }

    /// Returns the ids of a rendered chat in which special tokens are recognised, except those
    /// whose first letter was replaced by `escapes` (see [`Tokenizer::escape`]): those become
    /// plain text, tokenised together with the plain text around them.
    pub(super) fn encode_escaped(
        &self,
        text: &str,
        escapes: &Escapes,
    ) -> Result<Vec<u32>, ModelError> {
        if escapes.is_empty() {
            return self.encode(text);
        }
        let pieces = self.pieces(text)?;
        let mut ids = Vec::new();
        for (_, (from, to), tokens) in
            pieces.get_splits(OffsetReferential::Original, OffsetType::Byte)
        {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => {
                    ids.extend(self.run(self.plain(), &escapes.undo(&text[from..to]), false)?)
                }
            }
        }
        Ok(ids)
    }

    /// Returns the ids of a rendered chat as [`Tokenizer::encode_escaped`] does, each with the byte
    /// of `text` that it ends before. A character that takes several tokens ends with each of
    /// them.
    pub(super) fn encode_with_ends(
        &self,
        text: &str,
        escapes: &Escapes,
    ) -> Result<Vec<(u32, usize)>, ModelError> {
        let (inner, mut ids) = (&self.inner, Vec::new());
        if escapes.is_empty() {
            self.push_with_ends(inner, text, &mut ids, |end| end)?;
            return Ok(ids);
        }
        let pieces = self.pieces(text)?;
        for (_, (from, to), tokens) in
            pieces.get_splits(OffsetReferential::Original, OffsetType::Byte)
        {
            if let Some(tokens) = tokens {
                ids.extend(tokens.iter().map(|token| (token.id, to)));
                continue;
            }
            // A stand-in is longer than what it stands for, so the bytes are counted anew.
            let (piece, undone) = (&text[from..to], escapes.undo(&text[from..to]));
            let ends = |text: &str| -> Vec<usize> {
                text.char_indices().map(|(at, letter)| at + letter.len_utf8()).collect()
            };
            let (old, new) = (ends(piece), ends(&undone));
            let back = |end| match end {
                0 => from,
                end => from + old[new.partition_point(|&other| other < end).min(old.len() - 1)],
            };
            self.push_with_ends(self.plain(), &undone, &mut ids, back)?;
        }
        Ok(ids)
    }

    /// Cuts a text at its special tokens.
    fn pieces(&self, text: &str) -> Result<PreTokenizedString, ModelError> {
        let (added, normalizer) = (self.inner.get_added_vocabulary(), self.inner.get_normalizer());
        guarded(|| Ok(added.extract_and_normalize(normalizer, text)))
            .map_err(|error| self.unread(&error))
    }

    fn push_with_ends(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
        ids: &mut Vec<(u32, usize)>,
        place: impl Fn(usize) -> usize,
    ) -> Result<(), ModelError> {
        let encoding = guarded(|| tokenizer.encode(text, false));
        let encoding = encoding.map_err(|error| self.unread(&error))?;
        let ends = encoding.get_offsets().iter().map(|&(_, end)| place(end));
        ids.extend(encoding.get_ids().iter().copied().zip(ends));
        Ok(())
    }

    /// Finds letters that can stand in for the first letters of special tokens where these occur
    /// in `texts`; empty where none does.
    pub(super) fn escape(&self, texts: &[&str]) -> Escapes {
        let mut firsts = BTreeSet::new();
        for special in self.special.keys() {
            if texts.iter().any(|text| text.contains(special.as_str())) {
                firsts.extend(special.chars().next());
            }
        }
        // Letters of the private use area that nobody uses here.
        let mut free = ('\u{E000}'..='\u{F8FF}')
            .chain('\u{F0000}'..='\u{FFFFD}')
            .filter(|letter| !texts.iter().any(|text| text.contains(*letter)));
        Escapes {
            pairs: firsts.into_iter().filter_map(|first| Some((first, free.next()?))).collect(),
            special: self.special.keys().cloned().collect(),
        }
    }

    /// Returns the text of ids; special tokens are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        guarded(|| self.inner.decode(ids, true))
            .map_err(|error| ModelError::tokenizer(&self.path, format!("cannot decode: {error}")))
    }

    /// Returns the text that reads as these ids where special tokens in it are recognised and the begin-of-text
    /// token comes by itself, as in a server that takes no ids; none where there is no such text.
    pub fn text_of(&self, ids: &[u32]) -> Result<Option<String>, ModelError> {
        let bos = self.bos().filter(|_| self.adds_bos());
        let ids = match (ids, bos) {
            ([first, rest @ ..], Some(bos)) if *first == bos => rest,
            (ids, _) => ids,
        };
        let text = guarded(|| self.inner.decode(ids, false)).map_err(|error| {
            ModelError::tokenizer(&self.path, format!("cannot decode: {error}"))
        })?;
        Ok((self.encode(&text)? == ids).then_some(text))
    }

    /// Begins to decode a text token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// Returns the id that ends the turn in `text`, a rendered chat cut off just after the words
    /// of the assistant: the special token that comes next.
    pub(super) fn leading_special(&self, text: &str) -> Option<u32> {
        let text = text.trim_start();
        self.special
            .iter()
            .filter(|(special, _)| text.starts_with(special.as_str()))
            .max_by_key(|(special, _)| special.len())
            .map(|(_, &id)| id)
    }

    /// Makes one more token end a completion.
    pub(super) fn add_stop(&mut self, id: u32) {
        self.stops.insert(id);
    }

    /// Returns the tokens that end a completion, in ascending order.
    pub fn stop_tokens(&self) -> Vec<u32> {
        self.stops.iter().copied().collect()
    }

    /// Returns the begin-of-text token, where there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns whether raw text begins with the begin-of-text token.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Returns the end-of-text token, where there is one.
    pub fn eos(&self) -> Option<u32> {
        let text = self.named.iter().find(|(name, _)| name == "eos_token").map(|(_, text)| text)?;
        self.inner.token_to_id(text)
    }

    /// Returns names and texts of special tokens as chat templates use them.
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// Returns whether an id belongs to a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.values().any(|&special| special == id)
    }

    /// Returns a token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns one more than the largest id.
    #[expect(clippy::len_without_is_empty, reason = "a tokenizer is never empty")]
    pub fn len(&self) -> usize {
        self.largest as usize + 1
    }

    /// Returns the tokenizer as a `tokenizer.json`, which gives the same ids in Hugging Face's
    /// libraries; where raw text begins with the begin-of-text token, so does theirs.
    pub fn to_json(&self) -> Result<Vec<u8>, ModelError> {
        let fail = |message: String| {
            ModelError::tokenizer(&self.path, format!("cannot be written: {message}"))
        };
        let mut whole = self.inner.clone();
        let bos = self.bos.and_then(|id| Some((self.token(id)?, id))).filter(|_| self.add_bos);
        if let Some((text, id)) = bos
            && whole.get_post_processor().is_none()
        {
            let template = TemplateProcessing::builder()
                .try_single(vec![text.clone(), "$A".to_owned()])
                .map_err(fail)?
                .special_tokens(vec![(text, id)])
                .build()
                .map_err(|error| fail(error.to_string()))?;
            whole.with_post_processor(Some(template));
        }
        let mut json = whole.to_string(true).map_err(|error| fail(error.to_string()))?;
        json.push('\n');
        Ok(json.into_bytes())
    }

    fn plain(&self) -> &tokenizers::Tokenizer {
        self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        })
    }

    fn run(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let encoding = guarded(|| tokenizer.encode_fast(text, add_special_tokens));
        let encoding = encoding.map_err(|error| self.unread(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn unread(&self, error: &str) -> ModelError {
        ModelError::tokenizer(&self.path, format!("cannot read a text: {error}"))
    }
}

/// Stand-ins for the first letters of special tokens that occur in plain text.
pub(super) struct Escapes {
    /// The letter, and what stands for it.
    pairs: Vec<(char, char)>,
    special: Vec<String>,
}

impl Escapes {
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Replaces the first letter of every special token in the text.
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for special in &self.special {
            let mut letters = special.chars();
            let Some(first) = letters.next() else { continue };
            if let Some((_, stand_in)) = self.pairs.iter().find(|(letter, _)| *letter == first) {
                // Tokens may overlap (`<<|x|>`); what one replacement leaves the next one finds.
                text = text.replace(special.as_str(), &format!("{stand_in}{}", letters.as_str()));
            }
        }
        text
    }

    /// Puts back what [`Escapes::apply`] replaced.
    pub fn undo(&self, text: &str) -> String {
        self.pairs.iter().fold(text.to_owned(), |text, (letter, stand_in)| {
            text.replace(*stand_in, letter.encode_utf8(&mut [0; 4]))
        })
    }
}

/// Reads a JSON file that need not be there.
pub(super) fn optional_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let bytes = match crate::file::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelError::read(path, error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ModelError::malformed(path, format!("is not JSON: {error}")))
}

#[cfg(test)]
mod tests;
