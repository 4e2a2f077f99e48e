//! Tokens against those of Hugging Face, and what surrounds a tokenizer.

use serde_json::json;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn tiny() -> Tokenizer {
    Tokenizer::from_folder(&fixtures().join("tiny-llama")).unwrap()
}

#[test]
fn ids_are_those_of_hugging_face() {
    let file = std::fs::read(fixtures().join("tiny-llama-tokens.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&file).unwrap();
    let tokenizer = tiny();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(json!(tokenizer.encode(text).unwrap()), case["ids"], "{text:?}");
        let plain = tokenizer.encode_plain(text).unwrap();
        assert_eq!(json!(plain), case["plain"], "{text:?}");
        assert_eq!(tokenizer.decode(&plain).unwrap(), text);
    }
    assert_eq!(cases.len(), 14);
}

#[test]
fn roles_of_tokens() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.len(), 400);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.stop_tokens(), [2]);
    assert!(!tokenizer.adds_bos());
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(3));
    assert_eq!(tokenizer.token(2).as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer.id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.encode("<|im_end|>").unwrap(), [2]);
    assert_eq!(tokenizer.decode(&[1, 67, 2]).unwrap(), "a");
}

#[test]
fn text_arrives_whole() {
    let tokenizer = tiny();
    for text in ["naïve 中文 👩‍👩‍👧‍👦 end", "plain words", "é", "\u{FFFD} x"] {
        let mut stream = tokenizer.stream();
        let mut found = String::new();
        for id in tokenizer.encode_plain(text).unwrap() {
            let piece = stream.push(id).unwrap();
            // Only a text that holds U+FFFD itself may show one.
            assert!(text.contains('\u{FFFD}') || !piece.contains('\u{FFFD}'), "{piece:?}");
            found.push_str(&piece);
        }
        found.push_str(&stream.finish().unwrap());
        assert_eq!(found, text);
    }
    let mut stream = tokenizer.stream();
    let half = tokenizer.encode_plain("é").unwrap()[0];
    assert_eq!(stream.push(half).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn escapes_take_every_marker() {
    let tokenizer = tiny();
    for text in [
        "<|im_end|>",
        "<<|im_end|>|im_end|>",
        "<|im_<|im_end|>end|><|im_start|>",
        "\u{E000}<|endoftext|>",
    ] {
        let escapes = tokenizer.escape(&[text]);
        let escaped = escapes.apply(text);
        assert!(!tokenizer.special.keys().any(|special| escaped.contains(special.as_str())));
        assert_eq!(escapes.undo(&escaped), text);
    }
    assert!(tokenizer.escape(&["<|im_end", "nothing"]).is_empty());
}

/// Opens the tiny tokenizer with one of its files changed.
fn open_with(file: &str, change: impl Fn(&mut Value)) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let path = fixtures().join("tiny-llama").join(name);
        let mut value = optional_json(&path).unwrap().unwrap();
        if name == file {
            change(&mut value);
        }
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    let shown = folder.path().display().to_string();
    Tokenizer::from_folder(folder.path()).map_err(|e| e.to_string().replace(&shown, "m"))
}

#[test]
fn settings_beside_the_tokenizer() {
    let settings = "tokenizer_config.json";
    let add = open_with(settings, |s| s["add_bos_token"] = json!(true)).unwrap();
    assert!(add.adds_bos());
    let object = open_with(settings, |s| s["eos_token"] = json!({"content": "<|endoftext|>"}));
    assert_eq!(object.unwrap().stop_tokens(), [0, 2]);
    let list = open_with("generation_config.json", |s| s["eos_token_id"] = json!([0, 5]));
    assert_eq!(list.unwrap().stop_tokens(), [0, 2, 5]);
    // A post-processor that begins with the begin-of-text token says the same.
    let by_itself = open_with("tokenizer.json", |s| {
        s["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {
                "id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        });
    });
    let by_itself = by_itself.unwrap();
    assert!(by_itself.adds_bos());
    assert_eq!(by_itself.encode("a").unwrap(), [67]);
    // Truncation that was saved with the tokenizer does not cut.
    let cut = open_with("tokenizer.json", |s| {
        s["truncation"] = json!({"direction": "Right", "max_length": 2,
                                 "strategy": "LongestFirst", "stride": 0});
    });
    assert_eq!(cut.unwrap().encode("aaaa").unwrap(), [67; 4]);
}

fn check_error(file: &str, change: impl Fn(&mut Value), expected: &str) {
    let error = open_with(file, change).err().unwrap();
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn what_does_not_fit_is_named() {
    check_error(
        "tokenizer_config.json",
        |s| s["eos_token"] = json!("<end>"),
        "the tokenizer in `m/tokenizer.json` has no token `<end>`, the model's `eos_token`",
    );
    check_error(
        "generation_config.json",
        |s| s["eos_token_id"] = json!("two"),
        "`m/generation_config.json` has \"two\" as an `eos_token_id`",
    );
    check_error(
        "tokenizer.json",
        |s| s["model"]["vocab"] = json!(3),
        "`m/tokenizer.json` cannot be read: ",
    );
    let error = |rows| tiny().check_fits(rows).map_err(|e| e.to_string());
    assert!(error(400).is_ok());
    assert!(error(399).unwrap_err().ends_with("with id 399, and the embedding has 399 rows"));
    let far = open_with("generation_config.json", |s| s["eos_token_id"] = json!(400)).unwrap();
    assert!(far.check_fits(400).unwrap_err().to_string().contains("end with token 400"));
}

#[test]
fn a_file_that_makes_no_sense_is_an_error_and_no_panic() {
    let open = |key: &str, value: &Value| open_with("tokenizer.json", |s| s[key] = value.clone());
    let strip = json!({ "type": "Strip", "content": "b", "start": 0, "stop": 100_000 });
    let error = open("decoder", &strip).unwrap().decode(&[68, 68]).unwrap_err().to_string();
    assert!(error.contains("cannot decode: the file makes no sense to its reader"), "{error}");
    // A map of one unit, which points behind itself.
    let map = json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAAD8//8=" });
    let error = match open("normalizer", &map) {
        Ok(tokenizer) => tokenizer.encode("abc").unwrap_err().to_string(),
        Err(error) => error,
    };
    assert!(error.contains("makes no sense to its reader"), "{error}");
}
