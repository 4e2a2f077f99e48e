//! Rows of collections of human judgements, as their authors publish them. They are told by their
//! columns.

use serde_json::{Map, Value};

use super::super::{RowProblem, filled_text, text};
use crate::record::{Message, Speaker, Text};

/// A row of a known collection.
pub struct Known {
    /// What is asked.
    pub prompt: Text,
    /// Absent where people do not say that one is better.
    pub chosen_and_rejected: Option<(String, String)>,
}

/// Reads a row where it is one of LLMBar (Zeng et al. 2024), PandaLM (Wang et al. 2024) or HH-RLHF (Bai
/// et al. 2022). Those of RewardBench have `prompt`, `chosen`, `rejected` and `subset`, in its second
/// version lists of `chosen` and `rejected`, and need nothing of their own.
pub fn read(row: &Map<String, Value>) -> Result<Option<Known>, RowProblem> {
    let has = |names: &[&str]| names.iter().all(|name| row.contains_key(*name));
    if has(&["input", "output_1", "output_2", "label"]) {
        return llmbar(row).map(Some);
    }
    if has(&["instruction", "response1", "response2", "annotator1"]) {
        return pandalm(row).map(Some);
    }
    match (row.get("prompt"), row.get("chosen"), row.get("rejected")) {
        (None, Some(Value::String(chosen)), Some(Value::String(rejected))) => {
            dialogues(chosen, rejected).map(Some)
        }
        _ => Ok(None),
    }
}

/// `label` is 1 or 2: the better output.
fn llmbar(row: &Map<String, Value>) -> Result<Known, RowProblem> {
    let prompt = Text::user(filled_text(&row["input"], "input")?);
    let [one, two] = ["output_1", "output_2"].map(|name| text(&row[name], name, "a text"));
    let label = row["label"].as_u64();
    chosen(prompt, one?, two?, label, "label")
}

/// `annotator1` and so on are 1 or 2, the better response, or 0 for neither; most of them decide.
fn pandalm(row: &Map<String, Value>) -> Result<Known, RowProblem> {
    // Either may be empty; a row in which both are asks nothing.
    let parts = ["instruction", "input"]
        .map(|name| row.get(name).and_then(Value::as_str).unwrap_or_default().trim());
    let asked: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if asked.is_empty() {
        return Ok(Known { prompt: Text::Chat(Vec::new()), chosen_and_rejected: None });
    }
    let prompt = Text::user(asked.join("\n"));
    // Some answers of one word are no text in the published file.
    let [one, two] = ["response1", "response2"].map(|name| match &row[name] {
        Value::Bool(word) => Ok(word.to_string()),
        value => text(value, name, "a text").map(str::to_owned),
    });
    let mut votes = [0_u32; 3];
    for place in 1..=9 {
        let name = format!("annotator{place}");
        let Some(vote) = row.get(&name) else { break };
        match vote.as_u64() {
            Some(vote @ 0..=2) => votes[vote as usize] += 1,
            _ => return Err(super::wrong_type(&name, "0, 1 or 2")),
        }
    }
    let all: u32 = votes.iter().sum();
    let most = (1..=2_u64).find(|&vote| 2 * votes[vote as usize] > all);
    chosen(prompt, &one?, &two?, Some(most.unwrap_or(0)), "annotator1")
}

fn chosen(
    prompt: Text,
    one: &str,
    two: &str,
    better: Option<u64>,
    column: &str,
) -> Result<Known, RowProblem> {
    let chosen_and_rejected = match better {
        Some(0) => None,
        Some(1) => Some((one.to_owned(), two.to_owned())),
        Some(2) => Some((two.to_owned(), one.to_owned())),
        _ => return Err(super::wrong_type(column, "0, 1 or 2")),
    };
    Ok(Known { prompt, chosen_and_rejected })
}

/// Two dialogues that begin alike; turns begin with `Human:` and `Assistant:` after a blank line.
fn dialogues(chosen: &str, rejected: &str) -> Result<Known, RowProblem> {
    let ((before, chosen), (same, rejected)) = (last_answer(chosen)?, last_answer(rejected)?);
    // What parts before the last answer is no pair of answers to one prompt, and in some rows the
    // assistant speaks twice.
    let asked = before.last().map(|message| message.speaker) == Some(Speaker::User);
    let is_pair = asked && before == same && chosen != rejected;
    let chosen_and_rejected = is_pair.then_some((chosen, rejected));
    Ok(Known { prompt: Text::Chat(before), chosen_and_rejected })
}

/// Splits a dialogue before its last answer.
fn last_answer(dialogue: &str) -> Result<(Vec<Message>, String), RowProblem> {
    const MARKS: [(&str, Speaker); 2] =
        [("\n\nHuman:", Speaker::User), ("\n\nAssistant:", Speaker::Assistant)];
    let mut messages: Vec<Message> = Vec::new();
    let next = |text: &str| {
        let places = MARKS.iter().filter_map(|(mark, speaker)| {
            text.find(mark).map(|place| (place, mark.len(), *speaker))
        });
        places.min_by_key(|(place, ..)| *place)
    };
    let mut rest = dialogue;
    while let Some((place, length, speaker)) = next(rest) {
        if let Some(message) = messages.last_mut() {
            message.content = rest[..place].trim().to_owned();
        }
        messages.push(Message { speaker, content: String::new() });
        rest = &rest[place + length..];
    }
    match messages.pop() {
        Some(Message { speaker: Speaker::Assistant, .. }) => Ok((messages, rest.trim().to_owned())),
        _ => Err(RowProblem::NoPrompt),
    }
}
