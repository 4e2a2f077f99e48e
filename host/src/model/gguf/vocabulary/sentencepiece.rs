//! SentencePiece BPE, as of Llama 2, TinyLlama and Mistral.
//!
//! A file gives tokens with scores, and merges follow from them: whatever two tokens make a third
//! may be merged, and of two merges that with the better score is made first. Some files list the
//! merges besides. Bytes stand for letters that are not in the vocabulary.
//!
//! Spaces are those of the `tokenizer.json` of these models (`legacy=True` in transformers), of
//! llama.cpp, and of SentencePiece: one more is put before every piece of text, the first and those
//! after special tokens, also where it begins with a space already. `legacy=False` puts one before
//! the first piece only, and none before a space; a GGUF file does not say so of its model.
//!
//! One thing differs: no merge makes a control token. llama.cpp and transformers make `</s>` of
//! `</` and `s>` where both are tokens, so that a text could end a turn; SentencePiece does not.

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::{Bare, PLAIN, Tokens, UNUSED, listed_merges};
use crate::model::gguf::header::Header;

/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// The longest token that may be merged, in bytes; SentencePiece itself stops at 16 letters.
const LONGEST: usize = 256;

pub(super) fn build(header: &Header, tokens: &Tokens) -> Result<Bare, String> {
    if tokens.kinds.is_empty() {
        return Err(
            "is missing its token types: the file has no `tokenizer.ggml.token_type`".into()
        );
    }
    // Where a file names no such tokens, llama.cpp takes these.
    let (bos, eos, unknown) = (Some(1), Some(2), 0);
    let key = "tokenizer.ggml.unknown_token_id";
    let unknown = header.token(key)?.unwrap_or(unknown);
    let mut merges = listed_merges(header)?;
    if merges.is_empty() {
        merges = merges_by_score(header, tokens)?;
    }
    let plain = plain(tokens);
    merges.retain(|(left, right)| plain.contains_key(format!("{left}{right}").as_str()));
    let model = BPE::builder()
        .vocab_and_merges(tokens.vocab(), merges)
        .unk_token(tokens.get(key, unknown)?.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|error| format!("cannot be built: {error}"))?;

    let prefix = header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|error| error.to_string());
    let mut inner = tokenizers::Tokenizer::new(model);
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(" ", SPACE)?.into()];
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_normalizer(Some(Sequence::new(normalizers))).map_err(|error| error.to_string())?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(Bare { inner, add_bos: true, bos, eos, unknown: Some(unknown) })
}

/// Ids of the tokens that plain text may become by merging.
fn plain<'a>(tokens: &Tokens<'a>) -> HashMap<&'a str, usize> {
    let texts = tokens.texts.iter().zip(tokens.kinds).enumerate();
    texts
        .filter(|(_, (_, kind))| [PLAIN, UNUSED].contains(kind))
        .map(|(id, (text, _))| (text.as_str(), id))
        .collect()
}

/// The merges that follow from scores: the best first, and among equals that of the smallest ids,
/// as in the `tokenizer.json` of these models.
fn merges_by_score(header: &Header, tokens: &Tokens) -> Result<Vec<(String, String)>, String> {
    let scores = header.numbers("tokenizer.ggml.scores")?;
    if scores.len() != tokens.texts.len() {
        return Err(format!("has {} tokens and {} scores", tokens.texts.len(), scores.len()));
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err("has a score that is not a number".to_owned());
    }
    let plain = plain(tokens);
    let mut merges = Vec::new();
    for (&text, &id) in &plain {
        if text.len() > LONGEST {
            let length = text.len();
            return Err(format!("has a token of {length} bytes, expected at most {LONGEST}"));
        }
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (plain.get(&text[..at]), plain.get(&text[at..])) {
                merges.push((id, left, right));
            }
        }
    }
    merges.sort_unstable_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.cmp(b)));
    let text = |id: usize| tokens.texts[id].clone();
    Ok(merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect())
}
