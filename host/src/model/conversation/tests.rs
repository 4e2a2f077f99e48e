use serde_json::{Value, json};

use super::*;
use crate::model::source::tests::{copy, tiny};
use crate::model::template::ChatSettings;
use crate::model::template::tests::{conversations, fixtures, of_fixture};
use crate::model::tokenizer::Tokenizer;
use crate::record::{Finish, Text};

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
    model.spec.context_length = 4096;
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
                false => run.push_str(&escapes.undo(&text[from..end])),
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
    assert_eq!((count, refused), (16, 2));
}

fn two_turns() -> Vec<Message> {
    vec![
        say(Speaker::User, "How many?"),
        say(Speaker::Assistant, "Seven days."),
        say(Speaker::User, "And then?"),
        say(Speaker::Assistant, "Seven 中 more <|im_end|>"),
    ]
}

/// What trains, with `A` and `B` for the words of [`two_turns`]; or the error.
fn show(model: &Model, messages: &[Message]) -> String {
    match runs(model, messages) {
        Ok(runs) => {
            runs.join(" | ").replace("Seven days.", "A").replace("Seven 中 more <|im_end|>", "B")
        }
        Err(error) => {
            error.to_string().replace(&format!("the chat template of `{}` ", model.name), "")
        }
    }
}

#[test]
fn each_family_trains_the_words_and_the_end_of_the_turn() {
    let fixtures = fixtures();
    let plain = two_turns();
    let mut system = plain.clone();
    system.insert(0, say(Speaker::System, "Be brief."));
    let mut count = 0;
    let mut check = |name: &str, without_system: &str, with_system: &str| {
        let model = model_of(&fixtures, name);
        assert!(!model.template.as_ref().unwrap().marks_generation());
        assert_eq!(show(&model, &plain), without_system, "{name}");
        assert_eq!(show(&model, &system), with_system, "{name}");
        count += 1;
    };
    let mut both = |name: &str, expected: &str| check(name, expected, expected);
    both("llama-2", " A [</s>] |  B [</s>]");
    both("llama-3", "A[<|eot_id|>] | B[<|eot_id|>]");
    both("llama-3.2", "A[<|eot_id|>] | B[<|eot_id|>]");
    both("qwen2.5", "A[<|im_end|>] | B[<|im_end|>]");
    both("gemma-3", "A[<end_of_turn>] | B[<end_of_turn>]");
    both("phi-3", "A[<|end|>] | B[<|end|>]");
    both("phi-3.5", "A[<|end|>] | B[<|end|>]");
    both("deepseek-v2", "A[<｜end▁of▁sentence｜>] | B[<｜end▁of▁sentence｜>]");
    both("smollm2", "A[<|im_end|>] | B[<|im_end|>]");
    both("smollm3", "A[<|im_end|>] | B[<|im_end|>]");
    both("zephyr", "A[</s>] | B[</s>]");
    both("command-r", "A[<|END_OF_TURN_TOKEN|>] | B[<|END_OF_TURN_TOKEN|>]");
    both("granite-3.3", "A[<|end_of_text|>] | B[<|end_of_text|>]");
    // Qwen3 writes an empty thought into the last turn only.
    let otherwise = "renders turn 1 of the assistant otherwise once the conversation goes on";
    both("qwen3", otherwise);
    // The prompt begins a thought, which the template drops from what was said.
    let elsewhere = "does not render turn 1 of the assistant where the prompt for it ends";
    both("deepseek-v3", elsewhere);
    both("deepseek-r1-distill", elsewhere);
    // It is put before the last message of the conversation, where that is the user's.
    check("mistral-v0.3", " A[</s>] |  B[</s>]", "leaves out the system message");
    check(
        "gemma-2",
        "A[<end_of_turn>] | B[<end_of_turn>]",
        "refuses system, user, assistant, user, assistant: System role not supported",
    );
    assert_eq!(count, 18);

    let mut model = model_of(&fixtures, "qwen3");
    assert_eq!(show(&model, &plain[..2]), "<think>\n\n</think>\n\nA[<|im_end|>]");
    let variables = json!({"enable_thinking": false}).as_object().unwrap().clone();
    let digest = model.digest.clone();
    model.set_chat(ChatSettings { date: None, variables });
    assert_eq!(show(&model, &plain[..2]), "A[<|im_end|>]");
    assert_ne!(model.digest, digest);
}

/// A prompt begins with one begin-of-text token at most, and an example made of prompt and
/// completion has the tokens of the conversation, but for templates that put something between.
#[test]
fn prompts_and_examples_of_each_family() {
    let fixtures = fixtures();
    let messages = &two_turns()[..2];
    let mut others = Vec::new();
    let templates = fixtures["templates"].as_array().unwrap();
    for name in templates.iter().map(|fixture| fixture["name"].as_str().unwrap()) {
        if name.starts_with("own-") {
            continue;
        }
        let model = model_of(&fixtures, name);
        let prompt = Text::Chat(messages[..1].to_vec());
        let tokens = model.encode_prompt(&prompt).unwrap();
        let bos = model.tokenizer.bos().unwrap();
        assert!(tokens[0] != tokens[1] || tokens[0] != bos, "{name}");
        let example = model.encode_example(&prompt, "Seven days.", Finish::Stop).unwrap();
        assert_eq!(example.tokens.last(), model.end_of_turn().as_ref());
        match model.encode_conversation(messages) {
            Ok(whole) if whole.tokens.starts_with(&example.tokens) => {
                let trained = &whole.trained[..example.trained.len()];
                // Qwen's marked template lets the line break after the role train too.
                let same = trained == example.trained;
                assert!(same || name == "qwen2.5-training", "{name}");
                // What a reward model reads is the whole rendering.
                let judged = model.encode_judged(&prompt, "Seven days.").unwrap();
                assert_eq!(judged.tokens, whole.tokens, "{name}");
            }
            _ => others.push(name),
        }
    }
    let expected = [
        "llama-2",
        "mistral-v0.3",
        "qwen3",
        "qwen3-training",
        "deepseek-v3",
        "deepseek-v3-training",
        "deepseek-r1-distill",
    ];
    assert_eq!(others, expected);
}

#[test]
fn conversations_that_cannot_train() {
    let mut model = tiny();
    let name = model.name.clone();
    let messages = two_turns();
    let check = |model: &Model, messages: &[Message], expected: &str| {
        let error = model.encode_conversation(messages).unwrap_err().to_string();
        assert_eq!(error, expected.replace("TEMPLATE", &format!("the chat template of `{name}`")));
    };
    check(&model, &messages[..3], "the conversation does not end with a message of the assistant");
    check(
        &model,
        &messages[1..],
        "the conversation begins with the assistant, who has nothing to answer",
    );
    let long = [say(Speaker::User, &"a ".repeat(600)), say(Speaker::Assistant, "b")];
    let error = model.encode_conversation(&long).unwrap_err().to_string();
    assert!(error.ends_with("reads at most 512"), "{error}");

    let tokens = model.tokenizer.named_tokens().to_vec();
    let mut with = |source: &str, expected: &str| {
        model.template = Some(Template::new("m", source, tokens.clone()).unwrap());
        model.find_end_of_turn();
        check(&model, &messages[..2], expected);
    };
    let start = "{{ messages[0].content }}:";
    with(
        &format!("{start}{{% if messages|length > 1 %}}{{{{ messages[1].content }}}}{{% endif %}}"),
        "TEMPLATE does not end the assistant's turn with `<|im_end|>`",
    );
    with(
        &format!(
            "{start}{{% generation %}}{{{{ messages[1].content }}}}{{% endgeneration %}}<|im_end|>"
        ),
        "TEMPLATE does not mark the token that ends a turn as written by the assistant",
    );
    with(
        &format!(
            "{start}{{% if messages|length > 2 %}}{{% generation %}}{{% endgeneration %}}{{% endif %}}"
        ),
        "the completion is empty: there is nothing to train on or to score",
    );
    with(
        "{{ bos_token }}<|im_start|>{{ messages[0].content }}\
         {% generation %}{{ messages[1].content }}<|im_end|>{% endgeneration %}",
        &format!("the prompt for `{name}` begins with two begin-of-text tokens (`<|im_start|>`)"),
    );
}
