//! Preference pairs that are given, in TRL's columns.

use serde_json::{Map, Value};

use super::{
    DataError, RowProblem, filled_text, id, messages, present, rows, tags, text, wrong_type,
};
use crate::{
    plugin_set::Source,
    record::{Message, Prompt, Speaker, Text},
};

/// A prompt with two completions of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GivenPair {
    /// What is asked; its id is unique in the file.
    pub prompt: Prompt,
    /// The better completion; not empty.
    pub chosen: String,
    /// The worse one; not empty.
    pub rejected: String,
    /// What an objective asks for besides that tells completions apart by role.
    pub steered: Option<GivenSteered>,
}

/// Principles under which the completions were written, and one without.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GivenSteered {
    /// The completion of the prompt as it is; not empty.
    pub raw: String,
    /// System message with good principles.
    pub p_system: String,
    /// System message with bad ones.
    pub n_system: String,
}

/// Reads pairs: `prompt`, `chosen` and `rejected`, all as raw text or all as messages; or `chosen` and
/// `rejected` as conversations that begin alike, each of which the assistant ends with one message.
///
/// `raw`, `p_system` and `n_system` (AutoAlign's names) may stand beside messages, all three of them. A
/// row has an `id` and `tags` as prompts have. The same prompt may stand in several rows.
pub fn read_pairs<'a>(
    source: &Source,
    builtin: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Vec<GivenPair>, DataError> {
    let mut ids = std::collections::HashMap::new();
    let mut pairs = Vec::new();
    rows(source, builtin, |line, row| {
        let id = id(row, line)?;
        if let Some(first) = ids.insert(id.clone(), line) {
            return Err(RowProblem::DuplicateId { id, first });
        }
        let (text, chosen, rejected) = sequences(row)?;
        let steered = steered(row, &text)?;
        let prompt = Prompt { id, text, tags: tags(row)? };
        pairs.push(GivenPair { prompt, chosen, rejected, steered });
        Ok(())
    })?;
    Ok(pairs)
}

/// Returns prompt, chosen and rejected completion.
fn sequences(row: &Map<String, Value>) -> Result<(Text, String, String), RowProblem> {
    let is_pair = present(row, "chosen") || present(row, "rejected");
    if !is_pair && present(row, "completion") && present(row, "label") {
        return Err(RowProblem::Unpaired);
    }
    let [chosen, rejected] =
        ["chosen", "rejected"].map(|key| row.get(key).ok_or(RowProblem::Missing(key)));
    let (chosen, rejected) = (chosen?, rejected?);
    let prompt = row.get("prompt").filter(|_| present(row, "prompt"));
    match (prompt, chosen, rejected) {
        (Some(Value::Array(prompt)), chosen, rejected) => {
            let prompt = messages(prompt, "prompt")?;
            let last = prompt.last().map_or(Speaker::System, |message| message.speaker);
            if last != Speaker::User {
                return Err(RowProblem::LastNotUser(last));
            }
            let (chosen, rejected) = (answer(chosen, "chosen")?, answer(rejected, "rejected")?);
            Ok((Text::Chat(prompt), chosen, rejected))
        }
        (Some(prompt), chosen, rejected) => {
            text(prompt, "prompt", "a text or a list of messages")?;
            let prompt = filled_text(prompt, "prompt")?;
            let raw = |value, column| filled_text(value, column).map(str::to_owned);
            let (chosen, rejected) = (raw(chosen, "chosen")?, raw(rejected, "rejected")?);
            Ok((Text::Raw(prompt.to_owned()), chosen, rejected))
        }
        (None, Value::Array(chosen), Value::Array(rejected)) => {
            let (chosen, rejected) = (messages(chosen, "chosen")?, messages(rejected, "rejected")?);
            let (prompt, chosen) = super::split_answer(chosen)?;
            let (same, rejected) = super::split_answer(rejected)?;
            if prompt != same {
                return Err(RowProblem::Apart);
            }
            Ok((prompt, chosen, rejected))
        }
        (None, ..) => Err(RowProblem::NoPrompt),
    }
}

/// Returns the words of a completion after messages: a text, or one message of the assistant.
fn answer(value: &Value, column: &'static str) -> Result<String, RowProblem> {
    match value {
        Value::Array(items) => match &messages(items, column)?[..] {
            [Message { speaker: Speaker::Assistant, content }] => Ok(content.clone()),
            _ => Err(wrong_type(column, "one message of the assistant")),
        },
        value => filled_text(value, column).map(str::to_owned),
    }
}

fn steered(row: &Map<String, Value>, prompt: &Text) -> Result<Option<GivenSteered>, RowProblem> {
    const COLUMNS: [&str; 3] = ["raw", "p_system", "n_system"];
    if !COLUMNS.into_iter().any(|key| present(row, key)) {
        return Ok(None);
    }
    let [raw, p_system, n_system] = COLUMNS
        .map(|key| row.get(key).filter(|_| present(row, key)).ok_or(RowProblem::Missing(key)));
    let bare = |message: &Message| message.speaker != Speaker::System;
    if !matches!(prompt, Text::Chat(messages) if messages.iter().all(bare)) {
        let expected =
            "a list of messages, none of them a system message, where `p_system` is given";
        return Err(wrong_type("prompt", expected));
    }
    let system = |value, column| filled_text(value, column).map(str::to_owned);
    Ok(Some(GivenSteered {
        raw: answer(raw?, "raw")?,
        p_system: system(p_system?, "p_system")?,
        n_system: system(n_system?, "n_system")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        std::fs::write(&path, file).unwrap();
        let shown = match read_pairs(&Source::File(path), &|_| None) {
            Err(error) => error.to_string().split("\n  --> ").next().unwrap().to_owned(),
            Ok(pairs) => {
                let one = |pair: &GivenPair| {
                    let prompt = match &pair.prompt.text {
                        Text::Raw(text) => format!("raw {text}"),
                        Text::Chat(messages) => format!("{} messages", messages.len()),
                    };
                    let steered = pair.steered.as_ref().map_or(String::new(), |steered| {
                        format!(" {}/{}/{}", steered.raw, steered.p_system, steered.n_system)
                    });
                    let GivenPair { chosen, rejected, .. } = pair;
                    format!("{} {prompt}: {chosen} over {rejected}{steered}", pair.prompt.id)
                };
                pairs.iter().map(one).collect::<Vec<_>>().join("; ")
            }
        };
        assert_eq!(shown, expected, "{file}");
    }

    #[test]
    fn rows_of_trl_are_read() {
        check(r#"{"prompt":"1+1=","chosen":" 2","rejected":" 3"}"#, "line-1 raw 1+1=:  2 over  3");
        let user = r#"{"role":"user","content":"?"}"#;
        let says = |words: &str| format!(r#"{{"role":"assistant","content":"{words}"}}"#);
        let (y, n) = (says("yes"), says("no"));
        check(
            &format!(r#"{{"id":"a","prompt":[{user}],"chosen":[{y}],"rejected":[{n}]}}"#),
            "a 1 messages: yes over no",
        );
        check(
            &format!(r#"{{"prompt":[{user}],"chosen":"yes","rejected":"no"}}"#),
            "line-1 1 messages: yes over no",
        );
        check(
            &format!(r#"{{"chosen":[{user},{y}],"rejected":[{user},{n}]}}"#),
            "line-1 1 messages: yes over no",
        );
        check(
            &format!(
                r#"{{"prompt":[{user}],"chosen":[{y}],"rejected":[{n}],"raw":"so","p_system":"good","n_system":"bad"}}"#
            ),
            "line-1 1 messages: yes over no so/good/bad",
        );
        check(
            "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n\
             {\"prompt\":\"a\",\"chosen\":\"d\",\"rejected\":\"e\"}",
            "line-1 raw a: b over c; line-2 raw a: d over e",
        );
    }

    #[test]
    fn what_is_no_pair_is_named() {
        check(r#"{"prompt":"a","chosen":"b"}"#, "the row has no `rejected`");
        check(
            r#"{"prompt":"a","completion":"b","label":true}"#,
            "the row has one completion with a `label`, and no pair of them",
        );
        check(r#"{"prompt":"a","completion":"b"}"#, "the row has no `chosen`");
        check(r#"{"chosen":"b","rejected":"c"}"#, "the row has no prompt");
        check(r#"{"prompt":"a","chosen":"","rejected":"c"}"#, "`chosen` is empty");
        check(r#"{"prompt":"","chosen":"b","rejected":"c"}"#, "`prompt` is empty");
        let steered = r#""chosen":"b","rejected":"c","raw":"d","p_system":"e","n_system":"f""#;
        let bare = "`prompt` must be a list of messages, none of them a system message, where \
                    `p_system` is given";
        check(&format!(r#"{{"prompt":"a",{steered}}}"#), bare);
        let led = r#"[{"role":"system","content":"!"},{"role":"user","content":"?"}]"#;
        check(&format!(r#"{{"prompt":{led},{steered}}}"#), bare);
        check(r#"{"prompt":"a","chosen":["b"],"rejected":"c"}"#, "`chosen` must be a text");
        let user = r#"{"role":"user","content":"?"}"#;
        let other = r#"{"role":"user","content":"!"}"#;
        let says = r#"{"role":"assistant","content":"yes"}"#;
        check(
            &format!(r#"{{"chosen":[{user},{says}],"rejected":[{other},{says}]}}"#),
            "`chosen` and `rejected` follow different prompts",
        );
        check(
            &format!(r#"{{"prompt":[{user}],"chosen":[{user}],"rejected":"no"}}"#),
            "`chosen` must be one message of the assistant",
        );
        check(
            &format!(r#"{{"prompt":[{user},{says}],"chosen":"a","rejected":"b"}}"#),
            "the last message is the assistant's, expected the user's",
        );
        check(
            &format!(r#"{{"prompt":[{user}],"chosen":"a","rejected":"b","raw":"c"}}"#),
            "the row has no `p_system`",
        );
        check(
            "{\"id\":1,\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n\
             {\"id\":1,\"prompt\":\"d\",\"chosen\":\"b\",\"rejected\":\"c\"}",
            "id `1` stands in line 1 already",
        );
    }
}
