//! Byte-level BPE, as of GPT-2, Llama 3, Qwen and Mistral Nemo.
//!
//! A file gives vocabulary and merges, and of the rest only a name: `tokenizer.ggml.pre`. What it
//! stands for is written down here, with the patterns of the models' own `tokenizer.json`.
//! `default` is not among them: llama.cpp cuts such text in a way of its own and warns of it, and
//! transformers in another.

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Bare, Tokens, listed_merges};
use crate::model::gguf::header::Header;

/// How Llama 3 cuts text before merging.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 cuts text before merging: as Llama 3, with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Mistral Nemo cuts text before merging: also before a capital after small letters.
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn build(header: &Header, tokens: &Tokens) -> Result<Bare, String> {
    let recipe = recipe(header.text("tokenizer.ggml.pre")?)?;
    let model = BPE::builder()
        .vocab_and_merges(tokens.vocab(), listed_merges(header)?)
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
    Ok(Bare { inner, add_bos: recipe.add_bos, bos: None, eos: None, unknown: None })
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
        Some("tekken") => {
            Ok(Recipe { ignore_merges: true, add_bos: true, ..plain(pattern(TEKKEN)?) })
        }
        Some("qwen2") => Ok(Recipe { normalize: true, ..plain(pattern(QWEN2)?) }),
        other => Err(format!(
            "cuts text in a way that is not known: `tokenizer.ggml.pre` is {}, expected `smollm`, \
             `llama-bpe`, `llama3`, `llama-v3`, `qwen2`, `tekken` or `gpt-2`; use the model's \
             folder in Hugging Face layout",
            other.map_or("absent".to_owned(), |name| format!("`{name}`"))
        )),
    }
}
