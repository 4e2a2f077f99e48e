//! The tokenizer that a GGUF file carries.
//!
//! Two kinds are read: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`). What a file leaves
//! unsaid about them is written down in their modules, and what is not known is an error, as a
//! tokenizer that is nearly right makes every number wrong without a word.

mod byte_level;
mod sentencepiece;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::header::Header;
use crate::model::error::ModelError;
use crate::model::tokenizer::{Special, Tokenizer};

/// Builds the tokenizer of a GGUF file.
pub fn tokenizer(path: &Path, header: &Header) -> Result<Tokenizer, ModelError> {
    let (inner, special) = parts(header).map_err(|what| ModelError::tokenizer(path, what))?;
    Tokenizer::new(inner, special, path)
}

/// A tokenizer without its added tokens, and what its kind says where the file says nothing.
struct Bare {
    inner: tokenizers::Tokenizer,
    add_bos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
}

fn parts(header: &Header) -> Result<(tokenizers::Tokenizer, Special), String> {
    let build = match header.text("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level::build,
        Some("llama") => sentencepiece::build,
        Some(other) => {
            return Err(format!(
                "is of the kind `{other}`, and only byte-level BPE (`gpt2`) and SentencePiece BPE \
                 (`llama`) are read from GGUF files; use the model's folder in Hugging Face layout"
            ));
        }
        None => return Err("is missing: the file has no `tokenizer.ggml.model`".to_owned()),
    };
    let tokens = Tokens::read(header)?;
    let mut bare = build(header, &tokens)?;
    let added = |kinds: &[i64], special: bool| -> Vec<AddedToken> {
        let ours = tokens.texts.iter().zip(tokens.kinds);
        ours.filter(|(text, kind)| kinds.contains(kind) && !text.is_empty())
            .map(|(text, _)| AddedToken::from(text.clone(), special).normalized(false))
            .collect()
    };
    let fail = |error: tokenizers::Error| error.to_string();
    bare.inner.add_special_tokens(added(&[UNKNOWN, CONTROL], true)).map_err(fail)?;
    bare.inner.add_tokens(added(&[ADDED], false)).map_err(fail)?;

    let mut special = Special {
        add_bos: Some(header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bare.add_bos)),
        ..Special::default()
    };
    for (name, key, usual) in [
        ("bos_token", "tokenizer.ggml.bos_token_id", bare.bos),
        ("eos_token", "tokenizer.ggml.eos_token_id", bare.eos),
        ("unk_token", "tokenizer.ggml.unknown_token_id", bare.unknown),
        ("pad_token", "tokenizer.ggml.padding_token_id", None),
    ] {
        let Some(id) = header.token(key)?.or(usual) else { continue };
        special.named.push((name.to_owned(), tokens.get(key, id)?.to_owned()));
        if name == "eos_token" {
            special.stops.insert(id);
        }
    }
    for key in ["eot_token_id", "eom_token_id"] {
        special.stops.extend(header.token(&format!("tokenizer.ggml.{key}"))?);
    }
    Ok((bare.inner, special))
}

// The types of tokens in `tokenizer.ggml.token_type`; 6 is a byte.
const PLAIN: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
/// One that a user added: found whole in every text.
const ADDED: i64 = 4;
const UNUSED: i64 = 5;

/// The tokens of a file, in the order of their ids.
struct Tokens<'a> {
    texts: &'a [String],
    /// As long as `texts`, or empty.
    kinds: &'a [i64],
}

impl<'a> Tokens<'a> {
    fn read(header: &'a Header) -> Result<Tokens<'a>, String> {
        let texts = header.texts("tokenizer.ggml.tokens")?;
        if texts.is_empty() {
            return Err("has no tokens".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = texts.iter().find(|text| !seen.insert(*text)) {
            return Err(format!("has the token `{twice}` twice"));
        }
        let kinds = header.integers("tokenizer.ggml.token_type")?;
        if !kinds.is_empty() && kinds.len() != texts.len() {
            return Err(format!("has {} tokens and {} token types", texts.len(), kinds.len()));
        }
        Ok(Tokens { texts, kinds })
    }

    fn vocab(&self) -> Vocab {
        self.texts.iter().enumerate().map(|(id, text)| (text.clone(), id as u32)).collect()
    }

    /// The text of the token to which the setting `key` gives a role.
    fn get(&self, key: &str, id: u32) -> Result<&str, String> {
        match self.texts.get(id as usize) {
            Some(text) => Ok(text),
            None => Err(format!("has `{key}` = {id}, and {} tokens", self.texts.len())),
        }
    }
}

/// The merges that a file lists, the first to be made first.
fn listed_merges(header: &Header) -> Result<Vec<(String, String)>, String> {
    let merges = header.texts("tokenizer.ggml.merges")?.iter();
    merges
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(format!("has a merge `{merge}`, expected two parts")),
        })
        .collect()
}
