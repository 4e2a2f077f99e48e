//! Whether what a plugin gave back keeps the contract, beyond what its types say.
//!
//! Each function returns the end of a sentence that the plugin begins, such as "gave variant `a`
//! twice".

use std::collections::HashSet;

use super::bindings::aligner::plugin::types as wit;
use super::bindings::exports::aligner::plugin::meta;
use crate::record::{
    Decoding, Exemplar, Message, Opinion, Prompt, Record, Request, Speaker, Text, Verdict,
};
use crate::shown::one_line;

/// The longest drop reason, name or id, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// The longest single text, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// The most stop strings of one decoding.
const MAX_STOPS: usize = 16;

type Check = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Quotes a plugin's word for a message.
fn quoted(word: &str) -> String {
    format!("`{}`", one_line(word, 60))
}

/// A short word on one line: a name, an id, a reason.
fn name(what: &str, name: &str) -> Check {
    ensure!(!name.trim().is_empty(), "gave an empty {what}");
    ensure!(
        name.len() <= MAX_NAME_BYTES,
        "gave a {what} of {} bytes, {}; it has {MAX_NAME_BYTES} at most",
        name.len(),
        quoted(name)
    );
    ensure!(
        !name.chars().any(char::is_control),
        "gave a {what} with a line break or another control character in it, {}",
        quoted(name)
    );
    Ok(())
}

fn length(what: &str, text: &str) -> Check {
    ensure!(
        text.len() <= MAX_TEXT_BYTES,
        "gave {what} of {} bytes; one text has {MAX_TEXT_BYTES} at most",
        text.len()
    );
    Ok(())
}

fn number(what: &str, value: f64) -> Check {
    ensure!(value.is_finite(), "gave {what} as {value}; it must be finite");
    Ok(())
}

/// Checks what a plugin says of itself. The messages are fragments of their own.
pub(super) fn description(description: &meta::Description) -> Check {
    let meta::Description { name, version, summary, config_schema, needs } = description;
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let words = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    ensure!(
        name.len() <= 64 && name.split('-').next().is_some_and(word) && name.split('-').all(words),
        "the name {} is not lower-case words joined by hyphens, 64 bytes at most",
        quoted(name)
    );
    ensure!(is_version(version), "the version {} is not a semantic version", quoted(version));
    ensure!(
        summary.len() <= 500 && !summary.chars().any(char::is_control),
        "the summary is not one line of 500 bytes at most"
    );
    ensure!(
        config_schema.is_empty()
            || config_schema.len() <= MAX_TEXT_BYTES
                && serde_json::from_str::<serde_json::Map<_, _>>(config_schema).is_ok(),
        "the configuration schema is not a JSON object"
    );
    ensure!(needs.len() <= 64, "it needs {} measurements; 64 at most", needs.len());
    for need in needs {
        self::name("measurement name", need)?;
    }
    Ok(())
}

/// `1.2.3`, with `-pre` and `+build` after it.
fn is_version(version: &str) -> bool {
    let (rest, build) = version.split_once('+').map_or((version, None), |(a, b)| (a, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let numbers: Vec<_> = core.split('.').collect();
    let tail = |part: &str| {
        part.split('.').all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    version.len() <= 64
        && numbers.len() == 3
        && numbers.iter().all(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u64>().is_ok())
        && pre.is_none_or(tail)
        && build.is_none_or(tail)
}

/// A prompt that a model can be given.
fn prompt_text(text: &Text) -> Check {
    match text {
        Text::Raw(raw) => {
            ensure!(!raw.is_empty(), "gave an empty prompt");
            length("a prompt", raw)
        }
        Text::Chat(messages) => {
            let Some(Message { speaker, .. }) = messages.last() else {
                return Err("gave a prompt without messages".into());
            };
            ensure!(
                *speaker == Speaker::User,
                "gave a prompt whose last message is the {}'s; it must be the user's",
                speaker.as_str()
            );
            messages.iter().try_for_each(|message| length("a message", &message.content))
        }
    }
}

/// The settings of `decoding` are in their ranges.
pub(super) fn decoding(decoding: &Decoding) -> Check {
    if let Some(value) = decoding.temperature {
        ensure!((0.0..=10.0).contains(&value), "set temperature to {value}; it is in 0..=10");
    }
    if let Some(value) = decoding.top_p {
        ensure!(value > 0.0 && value <= 1.0, "set top-p to {value}; it is over 0 and at most 1");
    }
    if let Some(value) = decoding.repetition_penalty {
        ensure!(
            value > 0.0 && value <= 10.0,
            "set repetition-penalty to {value}; it is over 0 and at most 10"
        );
    }
    ensure!(
        decoding.max_new_tokens != Some(0),
        "set max-new-tokens to 0; at least one token is drawn"
    );
    if let Some(stops) = &decoding.stop {
        ensure!(stops.len() <= MAX_STOPS, "set {} stop strings; {MAX_STOPS} at most", stops.len());
        ensure!(!stops.iter().any(String::is_empty), "set an empty stop string");
        ensure!(
            stops.iter().all(|stop| stop.len() <= MAX_NAME_BYTES),
            "set a stop string of over {MAX_NAME_BYTES} bytes"
        );
    }
    Ok(())
}

/// A request that can be carried out, if a model is there for it.
pub(super) fn request(request: &Request) -> Check {
    name("model name", request.model())?;
    match request {
        Request::Generate { prompt, decoding, .. } => {
            prompt_text(prompt)?;
            self::decoding(decoding)
        }
        Request::Score { prompt, completion, .. } => judged("score", prompt, completion),
        Request::Reward { prompt, completion, .. } => judged("reward", prompt, completion),
    }
}

/// A completion that is there already, after its prompt.
fn judged(what: &str, prompt: &Text, completion: &str) -> Check {
    // An empty raw prompt is fine here: the completion is then read by itself.
    if !matches!(prompt, Text::Raw(raw) if raw.is_empty()) {
        prompt_text(prompt)?;
    }
    ensure!(
        !completion.is_empty() || matches!(prompt, Text::Chat(_)),
        "asks for the {what} of an empty completion"
    );
    length("a completion", completion)
}

/// The variants of a record, as the principle plugin renders them.
pub(super) fn variants(variants: &[wit::VariantResult]) -> Check {
    ensure!(!variants.is_empty(), "gave no variant");
    let mut names = HashSet::new();
    for variant in variants {
        name("variant name", &variant.name)?;
        ensure!(names.insert(&variant.name), "gave variant {} twice", quoted(&variant.name));
        ensure!(
            variant.completion.is_none(),
            "gave variant {} a completion; completions are the model's",
            quoted(&variant.name)
        );
        prompt_text(&super::convert::text_back(variant.prompt.clone()))?;
    }
    Ok(())
}

/// The catalogue of exemplars.
pub(super) fn catalogue(exemplars: &[Exemplar]) -> Check {
    let mut ids = HashSet::new();
    for exemplar in exemplars {
        name("exemplar id", &exemplar.id)?;
        ensure!(ids.insert(&exemplar.id), "gave exemplar {} twice", quoted(&exemplar.id));
        ensure!(!exemplar.text.is_empty(), "gave exemplar {} no text", quoted(&exemplar.id));
        length("an exemplar", &exemplar.text)?;
        tags(&exemplar.tags)?;
    }
    Ok(())
}

fn tags(tags: &[String]) -> Check {
    ensure!(tags.len() <= 64, "gave {} tags to one thing; 64 at most", tags.len());
    tags.iter().try_for_each(|tag| name("tag", tag))
}

/// New prompts from the model. Their ids are the host's to give.
pub(super) fn prompts(prompts: &[Prompt]) -> Check {
    prompts.iter().try_for_each(|prompt| {
        prompt_text(&prompt.text)?;
        ensure!(!prompt.text.gist().trim().is_empty(), "gave a prompt that asks nothing");
        tags(&prompt.tags)
    })
}

/// The variant is there and has a completion.
fn completed(record: &Record, name: &str) -> Check {
    match record.variants.iter().find(|variant| variant.name == name) {
        None => {
            let there: Vec<_> =
                record.variants.iter().map(|variant| quoted(&variant.name)).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            Err(format!("names variant {}; the record has {there}", quoted(name)))
        }
        Some(variant) if variant.completion.is_none() => {
            Err(format!("names variant {}, which has no completion", quoted(name)))
        }
        Some(_) => Ok(()),
    }
}

/// A verdict on `record`.
pub(super) fn verdict(verdict: &Verdict, record: &Record) -> Check {
    match verdict {
        Verdict::Keep => Ok(()),
        Verdict::Drop(reason) => name("drop reason", reason),
        Verdict::Revise(revisions) => {
            ensure!(!revisions.is_empty(), "revises nothing; `keep` says so");
            let mut names = HashSet::new();
            for revision in revisions {
                completed(record, &revision.variant)?;
                ensure!(
                    names.insert(&revision.variant),
                    "revises variant {} twice",
                    quoted(&revision.variant)
                );
                ensure!(
                    !revision.text.trim().is_empty(),
                    "revises variant {} to an empty text",
                    quoted(&revision.variant)
                );
                length("a revision", &revision.text)?;
            }
            Ok(())
        }
    }
}

/// A judge's opinion on `record`.
pub(super) fn opinion(opinion: &Opinion, record: &Record) -> Check {
    match opinion {
        Opinion::Rewards(rewards) => {
            ensure!(!rewards.is_empty(), "gave an empty list of rewards");
            let mut names = HashSet::new();
            for reward in rewards {
                completed(record, &reward.variant)?;
                name("reward name", &reward.name)?;
                ensure!(
                    names.insert((&reward.variant, &reward.name)),
                    "gave reward {} of variant {} twice",
                    quoted(&reward.name),
                    quoted(&reward.variant)
                );
                number(&format!("reward {}", quoted(&reward.name)), reward.value)?;
            }
            Ok(())
        }
        Opinion::Preference(pair) => {
            completed(record, &pair.chosen)?;
            completed(record, &pair.rejected)?;
            ensure!(
                pair.chosen != pair.rejected,
                "prefers variant {} to itself",
                quoted(&pair.chosen)
            );
            Ok(())
        }
        Opinion::Tie => Ok(()),
        Opinion::Unparsable(text) => length("an unparsable text", text),
    }
}

/// A difficulty.
pub(super) fn difficulty(value: f64) -> Check {
    number("a difficulty", value)
}

/// Finds each of `ids` among `known`, each at most once; returns their positions.
pub(super) fn positions<'a>(
    what: &str,
    ids: &[String],
    known: impl Iterator<Item = &'a str>,
) -> Result<Vec<usize>, String> {
    let known: std::collections::HashMap<&str, usize> =
        known.enumerate().map(|(position, id)| (id, position)).collect();
    let mut taken = HashSet::new();
    ids.iter()
        .map(|id| {
            let position = *known
                .get(id.as_str())
                .ok_or_else(|| format!("chose {what} {}, which is not there", quoted(id)))?;
            ensure!(taken.insert(position), "chose {what} {} twice", quoted(id));
            Ok(position)
        })
        .collect()
}

#[cfg(test)]
mod tests;
