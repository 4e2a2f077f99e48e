use serde_json::{Value, json};

use super::*;
use crate::model::source::tests::{copy, tiny};
use crate::model::template::ChatSettings;
use crate::model::template::tests::{conversations, fixtures, of_fixture};
use crate::model::tokenizer::Tokenizer;

fn say(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.to_owned() }
}

/// Returns the tiny model with a template of the fixtures, and with a tokenizer that knows the
/// special tokens of all of them, in the order of `make_templates.py`.
fn model_of(fixtures: &Value, name: &str) -> Model {
    let all = fixtures["templates"].as_array().unwrap();
    let fixture = all.iter().find(|fixture| fixture["name"] == name).unwrap();
    let folder = copy(|file, value| match file {
        "tokenizer.json" => {
            let tokens = value["added_tokens"].as_array_mut().unwrap();
            for (at, text) in fixtures["special"].as_array().unwrap().iter().enumerate() {
                tokens.push(json!({
                    "id": 400 + at, "content": text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true,
                }));
            }
        }
        "tokenizer_config.json" => {
            for role in ["bos_token", "eos_token"] {
                value[role] = fixture[role].clone();
            }
        }
        "generation_config.json" | "config.json" => value["eos_token_id"] = Value::Null,
        _ => {}
    });
    let mut model = tiny();
    model.name = name.to_owned();
    model.tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    model.template = Some(of_fixture(fixture));
    let date = fixtures["date"].as_str().unwrap().parse().ok();
    model.set_chat(ChatSettings { date, ..ChatSettings::default() });
    model
}

/// Returns the texts that train, one for each run of tokens, and the text of the whole.
fn runs(model: &Model, messages: &[Message]) -> Result<Vec<String>, ModelError> {
    let example = model.encode_conversation(messages)?;
    let (escaped, escapes) = model.escape(messages);
    let text = model.template.as_ref().unwrap().render(&escaped, false).unwrap();
    let ends = model.tokenizer.encode_with_ends(&text, &escapes).unwrap();
    assert_eq!(ends.last().map(|&(_, end)| end), Some(text.len()));
    let (mut runs, mut from, mut before) = (Vec::<String>::new(), 0, false);
    for (&(id, end), &trained) in ends.iter().zip(&example.trained) {
        if trained && !before {
            runs.push(String::new());
        }
        if let Some(run) = runs.last_mut().filter(|_| trained) {
            match model.tokenizer.is_special(id) {
                true => run.push_str(&format!("[{}]", &text[from..end])),
                false => run.push_str(&text[from..end]),
            }
        }
        (from, before) = (end.max(from), trained);
    }
    Ok(runs)
}

#[test]
fn masks_are_those_of_hugging_face() {
    let fixtures = fixtures();
    let conversations = conversations(&fixtures);
    let (mut count, mut refused) = (0, 0);
    for fixture in fixtures["templates"].as_array().unwrap() {
        let Some(masks) = fixture["masks"].as_array() else { continue };
        let name = fixture["name"].as_str().unwrap();
        let model = model_of(&fixtures, name);
        assert!(model.template.as_ref().unwrap().marks_generation());
        for (messages, mask) in conversations.iter().zip(masks) {
            if messages.last().unwrap().speaker != Speaker::Assistant {
                continue;
            }
            if mask.is_null() {
                assert!(model.encode_conversation(messages).is_err(), "{name}: {messages:?}");
                refused += 1;
                continue;
            }
            let expected: (usize, Vec<(usize, usize)>) =
                serde_json::from_value(mask.clone()).unwrap();
            let example = model.encode_conversation(messages).unwrap();
            let trained: Vec<bool> = (0..expected.0)
                .map(|at| expected.1.iter().any(|&(from, to)| (from..to).contains(&at)))
                .collect();
            assert_eq!(example.trained, trained, "{name}: {messages:?}");
            count += 1;
        }
    }
    assert_eq!((count, refused), (0, 0));
}

fn two_turns() -> Vec<Message> {
    vec![
        say(Speaker::User, "How many?"),
        say(Speaker::Assistant, "Seven days."),
        say(Speaker::User, "And then?"),
        say(Speaker::Assistant, "Seven 中 more <|im_end|>"),
    ]
}

/// What trains of two turns, without a system message and with one.
#[test]
fn each_family_trains_the_words_and_the_end_of_the_turn() {
    let fixtures = fixtures();
    let check = |name: &str, expected: &str| {
        let model = model_of(&fixtures, name);
        let plain = two_turns();
        let mut system = plain.clone();
        system.insert(0, say(Speaker::System, "Be brief."));
        let show = |messages: &[Message]| match runs(&model, messages) {
            Ok(runs) => runs.join(" | "),
            Err(error) => error.to_string(),
        };
        let (found, with) = (show(&plain), show(&system));
        let found = if found == with { found } else { format!("{found} // {with}") };
        assert_eq!(
            found.replace("Seven days.", "A").replace("Seven 中 more <|im_end|>", "B"),
            expected,
            "{name}"
        );
    };
    check("llama-2", "");
}
