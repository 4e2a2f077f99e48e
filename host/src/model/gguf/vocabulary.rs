//! The tokenizer and the chat template that a GGUF file carries.
//!
//! A GGUF file gives vocabulary and merges, and of the rest only a name: `tokenizer.ggml.pre`. What
//! it stands for is written down here. An unknown name is an error, as a tokenizer that is nearly
//! right makes every number wrong without a word.

use std::collections::BTreeSet;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::header::Header;
use crate::model::error::ModelError;
use crate::model::tokenizer::{Special, Tokenizer};

/// How Llama 3 cuts text before merging.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 cuts text before merging: as Llama 3, with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Builds the tokenizer of a GGUF file.
pub fn tokenizer(path: &Path, header: &Header) -> Result<Tokenizer, ModelError> {
    let (inner, special) = parts(header).map_err(|what| ModelError::tokenizer(path, what))?;
    Tokenizer::new(inner, special, path)
}

fn parts(header: &Header) -> Result<(tokenizers::Tokenizer, Special), String> {
    match header.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => {
            return Err(format!(
                "is of the kind `{other}`, and only byte-level BPE (`gpt2`) is read from GGUF \
                 files; use the model's folder in Hugging Face layout"
            ));
        }
        None => return Err("is missing: the file has no `tokenizer.ggml.model`".to_owned()),
    }
    let recipe = recipe(header.text("tokenizer.ggml.pre")?)?;
    let tokens = header.texts("tokenizer.ggml.tokens")?;
    let vocab: Vocab =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    if tokens.is_empty() {
        return Err("has no tokens".to_owned());
    }
    if vocab.len() != tokens.len() {
        let mut seen = BTreeSet::new();
        let twice = tokens.iter().find(|token| !seen.insert(*token)).cloned().unwrap_or_default();
        return Err(format!("has the token `{twice}` twice"));
    }
    let merges = header
        .texts("tokenizer.ggml.merges")?
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(format!("has a merge `{merge}`, expected two parts")),
        })
        .collect::<Result<Vec<_>, String>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(recipe.ignore_merges)
        .build()
        .map_err(|error| format!("cannot be built: {error}"))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(recipe.cut));
    if recipe.normalize {
        inner
            .with_normalizer(Some(tokenizers::normalizers::NFC))
            .map_err(|error| error.to_string())?;
    }
    inner.with_decoder(Some(ByteLevel::default()));

    let kinds = header.integers("tokenizer.ggml.token_type")?;
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(format!("has {} tokens and {} token types", tokens.len(), kinds.len()));
    }
    let added = |kind: i64, special: bool| -> Vec<AddedToken> {
        let ours = tokens.iter().zip(kinds).filter(|(text, k)| **k == kind && !text.is_empty());
        ours.map(|(text, _)| AddedToken::from(text.clone(), special).normalized(false)).collect()
    };
    // 3 is a control token, 4 one that a user added.
    inner.add_special_tokens(added(3, true)).map_err(|error| error.to_string())?;
    inner.add_tokens(added(4, false)).map_err(|error| error.to_string())?;

    let mut special = Special {
        add_bos: Some(header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(recipe.add_bos)),
        ..Special::default()
    };
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        let Some(id) = header.token(key)? else { continue };
        match tokens.get(id as usize) {
            Some(text) => special.named.push((name.to_owned(), text.clone())),
            None => return Err(format!("has `{key}` = {id}, and {} tokens", tokens.len())),
        }
    }
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        special.stops.extend(header.token(&format!("tokenizer.ggml.{key}"))?);
    }
    Ok((inner, special))
}

/// What a name in `tokenizer.ggml.pre` stands for.
struct Recipe {
    cut: PreTokenizerWrapper,
    /// Unicode normalisation, form C.
    normalize: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    add_bos: bool,
}

fn recipe(name: Option<&str>) -> Result<Recipe, String> {
    let bytes = |regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    let pattern = |pattern: &str| -> Result<PreTokenizerWrapper, String> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| error.to_string())?;
        Ok(Sequence::new(vec![split.into(), bytes(false)]).into())
    };
    let plain = |cut| Recipe { cut, normalize: false, ignore_merges: false, add_bos: false };
    match name {
        Some("gpt-2") => Ok(plain(bytes(true))),
        Some("smollm") => {
            Ok(plain(Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into()))
        }
        Some("llama-bpe" | "llama3" | "llama-v3") => {
            Ok(Recipe { ignore_merges: true, add_bos: true, ..plain(pattern(LLAMA3)?) })
        }
        Some("qwen2") => Ok(Recipe { normalize: true, ..plain(pattern(QWEN2)?) }),
        other => Err(format!(
            "cuts text in a way that is not known: `tokenizer.ggml.pre` is {}, expected `smollm`, \
             `llama-bpe`, `qwen2` or `gpt-2`; use the model's folder in Hugging Face layout",
            other.map_or("absent".to_owned(), |name| format!("`{name}`"))
        )),
    }
}
