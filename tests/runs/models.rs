//! Models and adapters that cannot be used: each is refused in one sentence that names file, tensor or
//! field, and what was expected. And a GGUF file that another writer made, which can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{Place, tests};

/// Tensors by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn change_tensors(file: &Path, change: &dyn Fn(&mut Tensors)) {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let own = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Tensors =
        tensors.iter().map(|(name, view)| (name.to_owned(), own(view))).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}

pub fn change_json(file: &Path, change: &dyn Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

/// Copies the tiny model.
pub fn copy(place: &Place, name: &str) -> PathBuf {
    let folder = place.path(name);
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(tests().join("fixtures/tiny-llama")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    folder
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn a_prompt_that_the_template_refuses_is_named_before_anything_is_written() {
    let place = Place::new();
    let folder = copy(&place, "strict");
    change_json(&folder.join("tokenizer_config.json"), &|config| {
        let template = config["chat_template"].as_str().unwrap();
        let strict =
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}";
        config["chat_template"] = json!(format!("{strict}{template}"));
    });
    let system = r#"[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi."}]"#;
    let rows =
        format!("{{\"id\":\"a\",\"prompt\":\"Hi.\"}}\n{{\"id\":\"b\",\"messages\":{system}}}\n");
    std::fs::write(place.path("prompts.jsonl"), rows).unwrap();
    let model = folder.display().to_string();
    let said = place.tiny("run", &["--model", &model, "--prompts", "prompts.jsonl"]).expect(4);
    said.says(&["error: record `b`: ", "no system"]);
    assert!(!place.path("run").exists());
}

#[test]
fn models_that_cannot_be_used_are_named() {
    let place = Place::new();
    let check = |folder: &Path, parts: &[&str]| {
        let model = format!("./{}", folder.file_name().unwrap().display());
        let chat = ["model", "chat", "--model", &model, "--prompt", "x", "--max-new-tokens", "1"];
        place.aligner(&chat).expect(4).says(parts);
        // A run says the same.
        let model = folder.display().to_string();
        place.tiny(&format!("{model}-run"), &["--model", &model]).expect(4).says(&parts[1..]);
    };
    let weights = |name: &str, change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let folder = copy(&place, name);
        change_tensors(&folder.join("model.safetensors"), change);
        check(&folder, &[&[&*format!("error: `./{name}/model.safetensors`")], parts].concat());
    };
    weights("missing", &|t| drop(t.remove(UP)), &["has no tensor", UP, "[64, 32]"]);
    weights(
        "extra",
        &|t| {
            let bias = (Dtype::F32, vec![32], vec![0; 128]);
            t.insert("model.layers.0.self_attn.q_proj.bias".into(), bias);
        },
        &["holds a tensor `model.layers.0.self_attn.q_proj.bias` [32]", "does not have"],
    );
    weights(
        "shape",
        &|t| t.get_mut(UP).unwrap().1.reverse(),
        &[UP, "with shape [32, 64], and the configuration asks for [64, 32]"],
    );
    weights(
        "type",
        &|t| {
            let (dtype, _, bytes) = t.get_mut(UP).unwrap();
            *dtype = Dtype::I8;
            bytes.truncate(64 * 32);
        },
        &[UP, "as I8, expected F32, F16 or BF16"],
    );
    weights(
        "nan",
        &|t| {
            let (_, _, bytes) = t.get_mut("model.norm.weight").unwrap();
            bytes[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        &["tensor `model.norm.weight` holds NaN at position 3; a weight must be finite"],
    );

    weights(
        "head",
        &|t| {
            let head = (Dtype::F32, vec![400, 32], vec![0; 4 * 400 * 32]);
            t.insert("lm_head.weight".into(), head);
        },
        &[
            "holds a `lm_head.weight` that is not `model.embed_tokens.weight`",
            "tie_word_embeddings",
        ],
    );

    let fields = |name: &str, change: &dyn Fn(&mut Value), parts: &[&str]| {
        let folder = copy(&place, name);
        change_json(&folder.join("config.json"), change);
        check(&folder, &[&[&*format!("error: `./{name}/config.json` asks for")], parts].concat());
    };
    fields(
        "architecture",
        &|c| c["architectures"] = json!(["GemmaForCausalLM"]),
        &["the architecture `GemmaForCausalLM`, which is not supported", "`LlamaForCausalLM`"],
    );
    fields(
        "quantised",
        &|c| c["quantization_config"] = json!({"quant_method": "gptq", "bits": 4}),
        &["`quantization_config`, which is not supported", "unquantised safetensors"],
    );
    fields(
        "rope",
        &|c| c["rope_parameters"]["rope_type"] = json!("yarn"),
        &["the rope scaling `yarn`, which is not supported", "`linear` and `llama3`"],
    );

    fields(
        "nested",
        &|c| c["rope_parameters"] = json!({"full_attention": {"rope_theta": 1e6}}),
        &["rotary embeddings of their own for `full_attention`, which is not supported"],
    );

    // A vocabulary that is larger than the embedding.
    let folder = copy(&place, "vocabulary");
    change_json(&folder.join("config.json"), &|c| c["vocab_size"] = json!(390));
    change_tensors(&folder.join("model.safetensors"), &|t| {
        let (_, shape, bytes) = t.get_mut("model.embed_tokens.weight").unwrap();
        shape[0] = 390;
        bytes.truncate(390 * 32 * 4);
    });
    check(
        &folder,
        &[
            "error: the tokenizer in `./vocabulary/tokenizer.json` does not fit the model",
            "with id 399, and the embedding has 390 rows",
        ],
    );
}

/// Returns the bytes of a GGUF file of one matrix in a type of this number.
fn gguf(kind: u32) -> Vec<u8> {
    let name = b"blk.0.ffn_up.weight";
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    // One tensor and no setting.
    file.extend([1u64, 0, name.len() as u64].map(u64::to_le_bytes).concat());
    file.extend(name);
    file.extend(2u32.to_le_bytes());
    file.extend([256u64, 64].map(u64::to_le_bytes).concat());
    file.extend(kind.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len() + 256 * 64 * 4, 0);
    file
}

#[test]
fn a_gguf_file_in_another_type_is_named_with_those_that_are_read() {
    let place = Place::new();
    let chat = ["model", "chat", "--model", "./m.gguf", "--prompt", "x"];
    for (kind, name) in [(20, "IQ4_NL"), (39, "MXFP4"), (77, "the unknown GGML type 77")] {
        std::fs::write(place.path("m.gguf"), gguf(kind)).unwrap();
        let says = [
            format!("m.gguf` holds `blk.0.ffn_up.weight` in {name}, which is not supported"),
            "expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, ".to_owned(),
        ];
        let says = says.each_ref().map(String::as_str);
        place.aligner(&chat).expect(4).says(&says);
        let model = place.path("m.gguf").display().to_string();
        place.tiny("run", &["--model", &model]).expect(4).says(&says);
    }
    // One that is read is found to lack the rest of a model.
    std::fs::write(place.path("m.gguf"), gguf(12)).unwrap();
    place.aligner(&chat).expect(4).says(&["m.gguf` has no `general.architecture`"]);
}

#[test]
fn an_adapter_of_another_model_is_named() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let adapter = place.path("run/final/adapter");
    change_json(&adapter.join("adapter_config.json"), &|config| {
        config["base_model_name_or_path"] = json!("somebody/larger");
    });
    change_tensors(&adapter.join("adapter_model.safetensors"), &|tensors| {
        for (_, shape, bytes) in tensors.values_mut() {
            // As wide again: every matrix of another model.
            *shape.last_mut().unwrap() *= 2;
            bytes.extend(bytes.clone());
        }
    });
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let says = [
        "lora_A.weight` of `run/final/adapter/adapter_model.safetensors` has shape [2, 64], the model \
         and rank need [2, 32]",
        "hint: the adapter names `somebody/larger` as its base",
    ];
    let fixed = ["--model", &model, "--adapter", "run/final/adapter"];
    let of = |verb: &[&str]| place.aligner(&[verb, &fixed].concat()).expect(4).says(&says);
    of(&["model", "chat", "--prompt", "x"]);
    of(&["model", "merge", "--out", "merged"]);
    assert!(!place.path("merged").exists());
}

#[test]
fn an_adapter_where_a_model_belongs_is_called_one() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let folder = place.path("run/final/adapter");
    let called = |shown: &str, said: super::Said| {
        said.expect(4).says(&[
            &format!("error: `{shown}` is a PEFT adapter, and no model\n"),
            &format!("hint: `aligner model merge --adapter {shown} --out DIR` makes a model of it and its base, `"),
            &format!("with `--adapter {shown}`"),
        ]);
    };
    let shown = folder.canonicalize().unwrap().display().to_string();
    called(&shown, place.tiny("again", &["--model", &shown]));
    called(&shown, place.tiny("again", &["--set", &format!("models.policy={shown}")]));
    let short = "run/final/adapter";
    called(short, place.aligner(&["model", "chat", "--model", short, "--prompt", "x"]));
    assert!(!place.path("again").exists());
    // What the hint says can be done.
    place.aligner(&["model", "merge", "--adapter", short, "--out", "merged"]).expect(0);
    place.tiny("again", &["--model", "merged", "--rounds", "1"]).expect(0);
}

#[test]
fn a_gguf_file_with_a_sentencepiece_tokenizer_is_scored() {
    let place = Place::new();
    let bytes = std::fs::read(tests().join("fixtures/sentencepiece.json")).unwrap();
    let expected = &serde_json::from_slice::<Value>(&bytes).unwrap()["row"];
    let row = json!({
        "id": expected["id"], "prompt": expected["prompt"], "completion": expected["completion"],
    });
    std::fs::write(place.path("rows.jsonl"), format!("{row}\n")).unwrap();
    let model = tests().join("fixtures/sentencepiece.gguf").display().to_string();
    let arguments =
        ["model", "score", "--model", &model, "--data", "rows.jsonl", "--per-token", "--device"];
    let said = place.aligner(&[&arguments[..], &["cpu"]].concat()).expect(0);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    for key in ["id", "token_ids", "first_scored"] {
        assert_eq!(found[key], expected[key]);
    }
    let list = |value: &Value| -> Vec<f64> {
        serde_json::from_value(value["token_logprobs"].clone()).unwrap()
    };
    let (found, expected) = (list(&found), list(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}
