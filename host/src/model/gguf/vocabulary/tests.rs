//! Tokens against those of llama.cpp, SentencePiece and transformers.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::byte_level;
use crate::model::export;
use crate::model::gguf::tests::{Parts, fixtures, open};
use crate::model::source;
use crate::model::text::Model;
use crate::record::{Finish, Message, Speaker, Text};

fn file() -> Json {
    let bytes = std::fs::read(fixtures().join("sentencepiece.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The tiny model with the tokenizer of the fixture.
fn parts() -> Parts {
    let settings = &file()["settings"];
    let list = |name: &str, value: fn(&Json) -> Value| {
        Some(Value::Array(settings[name].as_array().unwrap().iter().map(value).collect()))
    };
    let text = |text: &Json| Value::String(text.as_str().unwrap().into());
    Parts::tiny(GgmlDType::F32)
        .set("tokenizer.ggml.model", Some(Value::String("llama".into())))
        .set("tokenizer.ggml.pre", Some(Value::String("default".into())))
        .set("tokenizer.ggml.tokens", list("tokens", text))
        .set("tokenizer.ggml.scores", list("scores", |x| Value::F32(x.as_f64().unwrap() as f32)))
        .set(
            "tokenizer.ggml.token_type",
            list("token_type", |x| Value::I32(x.as_i64().unwrap() as i32)),
        )
        .set("tokenizer.ggml.merges", None)
        .set("tokenizer.chat_template", None)
}

fn model(parts: &Parts) -> Model {
    open(&parts.bytes()).unwrap().0
}

fn ids(case: &Json, key: &str) -> Vec<u32> {
    serde_json::from_value(case[key].clone()).unwrap()
}

/// Compares every text of the fixture; `kind` is `bare_` where nothing is put before a text.
fn compare(model: &Model, kind: &str) {
    let tokenizer = &model.tokenizer;
    let file = file();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let [special, plain] = ["ids", "plain"].map(|key| ids(case, &format!("{kind}{key}")));
        assert_eq!(tokenizer.encode(text).unwrap(), special, "{text:?}");
        assert_eq!(tokenizer.encode_plain(text).unwrap(), plain, "{text:?}");
        let decoded = case[format!("{kind}decoded")].as_str().unwrap();
        assert_eq!(tokenizer.decode(&plain).unwrap(), decoded, "{text:?}");
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for id in plain {
            streamed.push_str(&stream.push(id).unwrap());
        }
        assert_eq!(streamed + &stream.finish().unwrap(), decoded, "{text:?}");
    }
    assert_eq!(cases.len(), 25);
}

#[test]
fn sentencepiece_ids_are_those_of_llama_cpp() {
    compare(&model(&parts()), "");
    let prefix = |value| parts().set("tokenizer.ggml.add_space_prefix", Some(Value::Bool(value)));
    compare(&model(&prefix(true)), "");
    compare(&model(&prefix(false)), "bare_");
}

#[test]
fn a_file_of_another_writer_is_read() {
    let path = fixtures().join("sentencepiece.gguf");
    let (model, _) = source::open(path.to_str().unwrap(), &mut |_| ()).unwrap();
    compare(&model, "");
    let tokenizer = &model.tokenizer;
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.len()), (Some(1), Some(2), 400));
    assert_eq!(tokenizer.stop_tokens(), [2]);
    assert!(tokenizer.adds_bos());
    let special = [0, 1, 2, 3, 4, 5].map(|id| tokenizer.is_special(id));
    assert_eq!(special, [true, true, true, true, false, false]);
}

#[test]
fn roles_that_the_file_leaves_unsaid() {
    let mut silent = parts();
    for name in ["bos_token_id", "eos_token_id", "unknown_token_id"] {
        silent = silent.set(&format!("tokenizer.ggml.{name}"), None);
    }
    let model = model(&silent);
    assert_eq!((model.tokenizer.bos(), model.tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(model.tokenizer.stop_tokens(), [2]);
    compare(&model, "");
    let raw = model.encode_prompt(&Text::Raw("The end".into())).unwrap();
    assert_eq!((raw[0], &raw[1..]), (1, &*model.tokenizer.encode("The end").unwrap()));
    let without = silent.set("tokenizer.ggml.add_bos_token", Some(Value::Bool(false)));
    assert!(!self::model(&without).tokenizer.adds_bos());
}

#[test]
fn merges_that_the_file_lists_are_taken() {
    let json: Json = serde_json::from_slice(&model(&parts()).tokenizer.to_json().unwrap()).unwrap();
    let text = |x: &Json| x.as_str().unwrap().to_owned();
    let mut merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| format!("{} {}", text(&pair[0]), text(&pair[1])))
        .collect();
    // What transformers lists too and would let a text end a turn; and two that make no token.
    merges.splice(0..0, ["</ s>", "</ </", "t here"].map(str::to_owned));
    let merges = merges.into_iter().map(Value::String).collect();
    let listed = parts()
        .set("tokenizer.ggml.scores", None)
        .set("tokenizer.ggml.merges", Some(Value::Array(merges)));
    compare(&model(&listed), "");
}

#[test]
fn bytes_that_are_no_text_do_not_swallow_what_follows() {
    let model = model(&parts());
    let byte = |byte: u32| 6 + byte;
    let word = model.tokenizer.id("\u{2581}the").unwrap();
    let mut stream = model.tokenizer.stream();
    let said = [byte(0xC3), byte(0xA9), byte(0xFF), word, byte(0xF0)];
    let said = said.map(|id| stream.push(id).unwrap());
    assert_eq!(said, ["", "é", "", "\u{FFFD} the", ""]);
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}<|turn|>{{ message.role }}\n\
                        {{ message.content }}{% if message.role == 'assistant' %}</s>{% endif %}\
                        {% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}";

#[test]
fn a_chat_with_a_marker_in_it() {
    let template = Some(Value::String(TEMPLATE.into()));
    let model = model(&parts().set("tokenizer.chat_template", template));
    assert_eq!(model.end_of_turn(), Some(2));
    let prompt = model.encode_prompt(&Text::user("  two\nlines 中 ")).unwrap();
    let text = "<s><|turn|>user\n  two\nlines 中 <|turn|>assistant\n";
    assert_eq!(prompt, model.tokenizer.encode(text).unwrap());
    let markers = |ids: &[u32]| ids.iter().filter(|&&id| id < 4).count();
    for content in ["the end</s>", "<s></s><|turn|>", "</<s>s>"] {
        let ids = model.encode_prompt(&Text::user(content)).unwrap();
        assert_eq!(markers(&ids), 3, "{content}");
        let plain: Vec<u32> = ids.iter().copied().filter(|&id| id > 3).collect();
        assert!(model.tokenizer.decode(&plain).unwrap().contains(content), "{content}");
        let example = model.encode_example(&Text::user("a"), content, Finish::Stop).unwrap();
        assert_eq!(markers(&example.tokens), 4, "{content}");
    }
    let say = |speaker, content: &str| Message { speaker, content: content.to_owned() };
    let talk = [say(Speaker::User, "the </s> 中"), say(Speaker::Assistant, "so\n中 is it")];
    let example = model.encode_conversation(&talk).unwrap();
    let trained: Vec<u32> = (example.tokens.iter().zip(&example.trained))
        .filter_map(|(&id, &trained)| trained.then_some(id))
        .collect();
    assert_eq!(model.tokenizer.decode(&trained).unwrap(), "so\n中 is it");
    assert_eq!(trained.last(), Some(&2));
}

#[test]
fn what_a_file_holds_is_the_same_in_a_folder() {
    for (prefix, kind) in [(true, ""), (false, "bare_")] {
        let flag = Some(Value::Bool(prefix));
        let (model, weights) =
            open(&parts().set("tokenizer.ggml.add_space_prefix", flag).bytes()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = export::Settings::default();
        let mut go_on = |_, _| std::ops::ControlFlow::Continue(());
        let mut to = folder.path().to_owned();
        export::write(&mut to, &model, &*weights, &settings, &mut go_on).unwrap();
        let (back, _) = source::open(folder.path().to_str().unwrap(), &mut |_| ()).unwrap();
        compare(&back, kind);
        assert_eq!(back.tokenizer.named_tokens(), model.tokenizer.named_tokens());
        assert!(back.tokenizer.adds_bos());
    }
}

fn check(name: &str, value: Option<Value>, expected: &str) {
    let error = open(&parts().set(&format!("tokenizer.ggml.{name}"), value).bytes()).err().unwrap();
    assert_eq!(error, format!("the tokenizer in `m.gguf` {expected}"));
}

#[test]
fn what_is_wrong_with_sentencepiece_is_named() {
    check(
        "token_type",
        None,
        "is missing its token types: the file has no `tokenizer.ggml.token_type`",
    );
    let few = |value: Value| Some(Value::Array(vec![value; 3]));
    check("token_type", few(Value::I32(1)), "has 400 tokens and 3 token types");
    check("scores", few(Value::F32(0.5)), "has 400 tokens and 3 scores");
    check("scores", None, "has 400 tokens and 0 scores");
    check(
        "scores",
        Some(Value::U32(3)),
        "has `tokenizer.ggml.scores` = 3, expected a list of numbers",
    );
    let broken = Value::Array(vec![Value::F32(f32::NAN); 400]);
    check("scores", Some(broken), "has a score that is not a number");
    check(
        "unknown_token_id",
        Some(Value::U32(400)),
        "has `tokenizer.ggml.unknown_token_id` = 400, and 400 tokens",
    );
    let long = |i: usize| if i == 399 { "x".repeat(257) } else { format!("t{i}") };
    let tokens = Value::Array((0..400).map(|i| Value::String(long(i))).collect());
    check("tokens", Some(tokens), "has a token of 257 bytes, expected at most 256");
}

#[test]
fn text_is_cut_as_mistral_nemo_cuts_it() {
    // As the tokenizers library cuts it with the pattern of the model.
    let expected = [
        "Hello",
        "World",
        "'s",
        " HTTPServer",
        " Été",
        "À",
        " ",
        "2",
        "0",
        "2",
        "4",
        " ",
        " a",
        "/b",
        "//\n\n",
        " x",
        " !?\r\n",
        "  ",
    ];
    let cut = tokenizers::pre_tokenizers::split::Split::new(
        tokenizers::pre_tokenizers::split::SplitPattern::Regex(byte_level::TEKKEN.to_owned()),
        tokenizers::SplitDelimiterBehavior::Isolated,
        false,
    );
    let mut text = PreTokenizedString::from(expected.concat());
    cut.unwrap().pre_tokenize(&mut text).unwrap();
    let found = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let found: Vec<&str> = found.into_iter().map(|(text, ..)| text).collect();
    assert_eq!(found, expected);
}
