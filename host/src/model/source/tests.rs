//! Folders whole and broken.

use std::fs;

use ::safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::*;
use crate::model::layout;

fn tiny_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama")
}

/// Opens the tiny model.
pub(in crate::model) fn tiny() -> Model {
    open(tiny_folder().to_str().unwrap(), &mut |_| ()).unwrap().0
}

/// Returns the tiny tokenizer, in a form that begins raw text with the begin-of-text token.
pub(in crate::model) fn tiny_with_bos() -> Tokenizer {
    let folder = copy(|name, value| {
        if name == "tokenizer_config.json" {
            value["add_bos_token"] = json!(true);
        }
    });
    Tokenizer::from_folder(folder.path()).unwrap()
}

/// Copies the tiny model, with its JSON files changed.
pub(in crate::model) fn copy(change: impl Fn(&str, &mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(tiny_folder()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let target = folder.path().join(&name);
        if name.ends_with(".json") {
            let mut value = optional_json(&entry.path()).unwrap().unwrap();
            change(&name, &mut value);
            fs::write(target, value.to_string()).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    folder
}

fn open_error(folder: &Path) -> String {
    let shown = folder.display().to_string();
    match open(&shown, &mut |_| ()) {
        Ok(_) => "opens".to_owned(),
        Err(error) => error.to_string().replace(&shown, "m"),
    }
}

fn check(change: impl Fn(&Path), expected: &str) {
    let folder = copy(|_, _| ());
    change(folder.path());
    assert_eq!(open_error(folder.path()), expected);
}

#[test]
fn a_folder_opens_whole() {
    let (model, checkpoint) =
        open(tiny_folder().to_str().unwrap(), &mut |_| panic!("nothing is fetched")).unwrap();
    assert_eq!(model.spec, *checkpoint.spec());
    assert_eq!((model.spec.vocab, model.spec.layers), (400, 2));
    for (name, shape) in layout::tensors(&model.spec) {
        let data = checkpoint.tensor(&name, &shape).unwrap();
        assert_eq!(data.len(), shape.iter().product::<usize>());
    }
    assert_eq!(model.digest.len(), 64);
    assert_eq!(model.digest, tiny().digest);
    let error = checkpoint.tensor("model.norm.weight", &[33]).unwrap_err().message;
    assert!(error.ends_with("with shape [32], and the model needs [33]"), "{error}");
    let error = checkpoint.tensor("model.nothing", &[1]).unwrap_err().message;
    assert!(error.ends_with("has no tensor `model.nothing` [1]"), "{error}");
}

#[test]
fn every_file_counts_in_the_digest() {
    let base = tiny().digest;
    let digest = |folder: &tempfile::TempDir| {
        open(folder.path().to_str().unwrap(), &mut |_| ()).unwrap().0.digest
    };
    // JSON rewritten without its line breaks is another file.
    let copy = |file: &'static str| {
        copy(move |name, value| {
            if name == file {
                value["changed"] = json!(1);
            }
        })
    };
    let digests: Vec<String> =
        ["config.json", "tokenizer_config.json", "generation_config.json", "none"]
            .iter()
            .map(|file| digest(&copy(file)))
            .chain([base])
            .collect();
    let different: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(different.len(), digests.len());
}

#[test]
fn broken_folders() {
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    check(
        remove("config.json"),
        "`m` has no `config.json`, so it is not a model in Hugging Face layout",
    );
    check(
        remove("tokenizer.json"),
        "`m` has no `tokenizer.json`; save the tokenizer with a current transformers to get one",
    );
    check(remove("model.safetensors"), "`m` has no `model.safetensors`");
    check(
        |folder| {
            let weights = folder.join("model.safetensors");
            fs::rename(weights, folder.join("pytorch_model.bin")).unwrap();
        },
        "`m` holds pickled weights only, which can run code when they are read; convert them \
         to safetensors",
    );
    check(
        |folder| fs::write(folder.join("config.json"), "{").unwrap(),
        "`m/config.json` is not JSON: EOF while parsing an object at line 1 column 1",
    );
    check(
        |folder| fs::write(folder.join("chat_template.jinja"), "{{ (").unwrap(),
        "the chat template of `m` cannot be read: syntax error: unexpected end of input, \
         expected expression (in chat template:1)",
    );
    for (field, expected) in [
        (
            "vocab_size",
            "`m/model.safetensors` holds `model.embed_tokens.weight` with shape [400, 32], \
             and the configuration asks for [398, 32]",
        ),
        (
            "num_hidden_layers",
            "`m/model.safetensors` holds 20 tensors, too few for the 398 blocks of the \
             configuration",
        ),
    ] {
        let folder = copy(|file, value| {
            if file == "config.json" {
                value[field] = json!(398);
            }
        });
        assert_eq!(open_error(folder.path()), expected);
    }
}

#[test]
fn broken_safetensors() {
    let rewrite = |change: fn(Vec<u8>) -> Vec<u8>| {
        move |folder: &Path| {
            let path = folder.join("model.safetensors");
            fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
        }
    };
    let starts = |change: fn(Vec<u8>) -> Vec<u8>| {
        let folder = copy(|_, _| ());
        rewrite(change)(folder.path());
        let error = open_error(folder.path());
        assert!(error.starts_with("`m/model.safetensors` is truncated"), "{error}");
    };
    starts(|file| file[..file.len() - 1].to_vec());
    starts(|file| file[..1000].to_vec());
    starts(|_| vec![0; 4]);
    starts(|mut file| {
        file.push(0);
        file
    });
    // A header that promises more than any machine has.
    starts(|mut file| {
        file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        file
    });
    check(
        rewrite(|_| Vec::new()),
        "`m/model.safetensors` is truncated or not a safetensors file: header too small",
    );
}

/// Writes tensors of every type that is read, in two files with an index.
#[test]
fn shards_and_types() {
    let folder = copy(|_, _| ());
    let (model, checkpoint) = open(tiny_folder().to_str().unwrap(), &mut |_| ()).unwrap();
    type Entry = (String, Dtype, Vec<usize>, Vec<u8>);
    let mut shards: [Vec<Entry>; 2] = Default::default();
    let mut map = serde_json::Map::new();
    for (at, (name, shape)) in layout::tensors(&model.spec).into_iter().enumerate() {
        let data = checkpoint.tensor(&name, &shape).unwrap();
        let (dtype, bytes) = match at % 3 {
            0 => (Dtype::F32, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
            1 => (
                Dtype::F16,
                data.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            ),
            _ => (
                Dtype::BF16,
                data.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            ),
        };
        map.insert(name.clone(), json!(format!("part-{}.safetensors", at % 2)));
        shards[at % 2].push((name, dtype, shape, bytes));
    }
    let write = |map: &serde_json::Map<String, Value>| {
        for (index, shard) in shards.iter().enumerate() {
            let views: Vec<_> = shard
                .iter()
                .map(|(name, dtype, shape, bytes)| {
                    (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
                })
                .collect();
            let path = folder.path().join(format!("part-{index}.safetensors"));
            ::safetensors::serialize_to_file(views, None, &path).unwrap();
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    };
    write(&map);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (_, sharded) = open(folder.path().to_str().unwrap(), &mut |_| ()).unwrap();
    for (at, (name, shape)) in layout::tensors(&model.spec).into_iter().enumerate() {
        let [expected, found] = [&checkpoint, &sharded].map(|c| c.tensor(&name, &shape).unwrap());
        let bound = [0.0, 1e-3, 1e-2][at % 3];
        for (a, b) in expected.iter().zip(&found) {
            assert!((a - b).abs() <= bound * a.abs().max(1.0), "{name}");
        }
    }
    fs::remove_file(folder.path().join("part-1.safetensors")).unwrap();
    assert!(
        open_error(folder.path()).starts_with("`m/part-1.safetensors` cannot be read: No such")
    );
    map.insert("model.norm.weight".into(), json!("../elsewhere.safetensors"));
    write(&map);
    assert_eq!(
        open_error(folder.path()),
        "`m/model.safetensors.index.json` puts `model.norm.weight` into \
         \"../elsewhere.safetensors\", expected a file name"
    );
}

#[test]
fn a_number_that_is_not_finite_is_found() {
    let folder = copy(|_, _| ());
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let (model, checkpoint) = open(folder.path().to_str().unwrap(), &mut |_| ()).unwrap();
    let errors: Vec<String> = layout::tensors(&model.spec)
        .iter()
        .filter_map(|(name, shape)| checkpoint.tensor(name, shape).err())
        .map(|error| error.message)
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("holds NaN at position"), "{}", errors[0]);
}

#[test]
fn names_that_are_nothing() {
    let message = |name: &str| {
        let error = open(name, &mut |_| ()).err().unwrap();
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    assert_eq!(
        message("smollm2-135m-instuct"),
        "there is no model `smollm2-135m-instuct`; did you mean `smollm2-135m-instruct`?"
    );
    assert_eq!(
        message("/nowhere/at/all"),
        "there is no model `/nowhere/at/all`; name a folder in Hugging Face layout, a GGUF \
         file, `hf:owner/name`, or `smollm2-135m-instruct`"
    );
    assert_eq!(
        message("hf:owner"),
        "there is no model `hf:owner`; write `hf:owner/name` or `hf:owner/name@revision`"
    );
    for name in ["hf:../..", "hf:a/b/c", "hf:a/..", "hf:a/b@../c", "hf:a/b@", "hf:"] {
        assert!(message(name).contains("write `hf:owner/name`"), "{name}");
    }
    let weights = tiny_folder().join("model.safetensors");
    assert!(message(weights.to_str().unwrap()).ends_with("name the folder that holds all of them"));
}

#[test]
fn templates_in_either_place() {
    let named = copy(|name, value| {
        if name == "tokenizer_config.json" {
            value["chat_template"] = json!([
                {"name": "tool_use", "template": "no"},
                {"name": "default", "template": "{{ messages[0].content }}!"},
            ]);
        }
    });
    assert_eq!(folder_template(named.path()).unwrap().unwrap(), "{{ messages[0].content }}!");
    fs::write(named.path().join("chat_template.jinja"), "own file").unwrap();
    assert_eq!(folder_template(named.path()).unwrap().unwrap(), "own file");
    let none = copy(|name, value| {
        if name == "tokenizer_config.json" {
            value["chat_template"] = Value::Null;
        }
    });
    assert_eq!(folder_template(none.path()).unwrap(), None);
}
