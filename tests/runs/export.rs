//! What leaves aligner for other tools: the adapter of a run, and a model with it merged in.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{Place, tests};

fn base() -> String {
    tests().join("fixtures/tiny-llama").display().to_string()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs the tiny set once and returns the place with `run/final/adapter` in it.
fn trained(more: &[&str]) -> Place {
    let place = Place::new();
    place.tiny("run", &[&["--rounds", "1"], more].concat()).expect(0);
    place
}

fn merge(out: &str) -> Vec<String> {
    let base = base();
    ["model", "merge", "--model", &base, "--adapter", "run/final/adapter", "--out", out]
        .map(str::to_owned)
        .to_vec()
}

/// Gives a tensor of this name and shape another shape, or leaves it out.
type Reshape<'a> = &'a dyn Fn(&str, Vec<usize>) -> Option<Vec<usize>>;

/// The rules of vLLM's `PEFTHelper` and of its reading of tensors, and of llama.cpp's
/// `convert_lora_to_gguf.py`: what each asks of the two files, written down as checks.
#[test]
fn the_adapter_of_a_run_is_one_that_vllm_and_llama_cpp_read() {
    let place = trained(&[]);
    let folder = place.path("run/final/adapter");
    let config = read_json(&folder.join("adapter_config.json"));
    // vLLM: three fields are required, two must be off; the scale follows from three.
    let r = config["r"].as_u64().unwrap();
    assert!(r <= 16, "vLLM's server takes ranks up to 16 without an option");
    assert!(config["lora_alpha"].is_u64(), "declared as an integer: {config}");
    let targets: Vec<&str> =
        config["target_modules"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (key, expected) in [
        ("bias", json!("none")),
        ("modules_to_save", json!(null)),
        ("use_dora", json!(false)),
        ("use_rslora", json!(false)),
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("layers_to_transform", json!(null)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
    // llama.cpp: the base is looked for under this name.
    assert!(config["base_model_name_or_path"].is_string());
    assert!(config.as_object().unwrap().contains_key("revision"));

    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut modules = std::collections::BTreeMap::<String, Vec<(char, Vec<usize>)>>::new();
    for (name, view) in file.iter() {
        let path = name.strip_prefix("base_model.model.").unwrap();
        let (module, side) = match path.strip_suffix(".lora_A.weight") {
            Some(module) => (module, 'A'),
            None => (path.strip_suffix(".lora_B.weight").unwrap(), 'B'),
        };
        // Both tools look at the last part; embeddings and heads are refused by one of them.
        let last = module.rsplit('.').next().unwrap();
        assert!(targets.contains(&last), "{name}");
        assert!(!name.contains("embed_tokens") && !name.contains("lm_head"), "{name}");
        modules.entry(module.to_owned()).or_default().push((side, view.shape().to_vec()));
    }
    assert_eq!(modules.len(), 14);
    for (module, mut sides) in modules {
        sides.sort();
        let [('A', a), ('B', b)] = &sides[..] else { panic!("{module} {sides:?}") };
        assert_eq!((a[0], b[1]), (r as usize, r as usize), "{module}");
    }

    // Trainers take the folder by itself.
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert!(read_json(&folder.join(name)).is_object(), "{name}");
    }
    let template = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
    assert!(template.contains("<|im_start|>"), "{template}");
}

#[test]
fn a_run_with_patterns_is_trained_resumed_and_merged() {
    let place = trained(&[
        "--set",
        "train.lora.target_modules='.*\\.(self_attn\\.[qv]|mlp\\.down)_proj'",
        "--set",
        "train.lora.rank_pattern={ 'layers.0.*' = 1, down_proj = 3 }",
        "--set",
        "train.lora.alpha_pattern={ q_proj = 5 }",
        "--set",
        "train.lora.use_rslora=true",
    ]);
    let config = read_json(&place.path("run/final/adapter/adapter_config.json"));
    assert_eq!(config["rank_pattern"], json!({ "layers.0.*": 1, "down_proj": 3 }));
    assert_eq!(config["alpha_pattern"], json!({ "q_proj": 5 }));
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 6, "{config}");
    let arguments = merge("merged");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = place.aligner(&arguments).expect(0);
    assert!(said.stdout.contains("the adapter moves a logit by up to"), "{}", said.stdout);

    let refused = place.tiny("other", &["--set", "train.lora.rank_pattern={ 'layers.7.*' = 1 }"]);
    refused.expect(2).says(&["`rank_pattern` `layers.7.*` matches no target module of the model"]);
}

#[test]
fn a_merged_folder_answers_as_the_model_with_its_adapter() {
    let place = trained(&[]);
    for dtype in ["f32", "bf16", "f16"] {
        let out = format!("merged-{dtype}");
        let mut arguments = merge(&out);
        arguments.extend(["--dtype", dtype, "--max-shard-size", "50KB"].map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = place.aligner(&arguments).expect(0);
        assert!(said.stdout.contains(&format!("aligner model chat --model ./{out}")), "{said:?}");
        let card = std::fs::read_to_string(place.path(&out).join("README.md")).unwrap();
        assert!(card.contains("library_name: transformers") && card.contains("moves a logit"));
    }
    let row = r#"{"prompt": "The sea is", "completion": " wide and deep."}"#;
    std::fs::write(place.path("rows.jsonl"), format!("{row}\n")).unwrap();
    let score = |more: &[&str]| -> f64 {
        let arguments = [&["model", "score", "--data", "rows.jsonl"], more].concat();
        let said = place.aligner(&arguments).expect(0);
        serde_json::from_str::<Value>(said.stdout.trim()).unwrap()["logprob"].as_f64().unwrap()
    };
    let base = score(&["--model", &base()]);
    // Without `--model`, an adapter within a run directory stands on the run's model.
    let beside = score(&["--adapter", "run/final/adapter"]);
    assert!((base - beside).abs() > 0.03, "{base} {beside}");
    for (dtype, tolerance) in [("f32", 1e-4), ("f16", 2e-2), ("bf16", 2e-1)] {
        let merged = score(&["--model", &format!("./merged-{dtype}")]);
        assert!((merged - beside).abs() < tolerance, "{dtype} {merged} {beside}");
    }
}

/// A merged weight may be too large for the type that is written, or for every type there is.
#[test]
fn an_adapter_that_overflows_is_named_with_a_way_out_that_is_one() {
    let place = trained(&[]);
    let weights = place.path("run/final/adapter/adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let filled = |value: f32| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            let len = view.shape().iter().product();
            (name, view.shape().to_vec(), value.to_le_bytes().repeat(len))
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors.iter().map(|(name, shape, data)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        std::fs::write(&weights, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let merge = |dtype: &str| {
        let mut arguments = merge("merged");
        arguments.extend(["--no-check", "--dtype", dtype].map(str::to_owned));
        let said = place.aligner(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let said = said.expect(4);
        assert!(!place.path("merged").exists() && !place.path("merged.tmp").exists());
        said
    };
    filled(1e30);
    for dtype in ["f32", "bf16", "f16"] {
        let said = merge(dtype).says(&[
            "the numbers of the adapter `run/final/adapter` are too large: with it `model.layers.0.",
            ".weight` would hold inf at position 0, and a weight must be finite",
        ]);
        assert!(!said.stderr.contains("hint"), "no type holds them: {}", said.stderr);
    }
    filled(1e3);
    merge("f16").says(&["more than float16 can hold", "hint: write the model as bf16 or f32"]);
}

#[test]
fn what_is_there_is_not_written_over() {
    let place = trained(&[]);
    let run = |out: &str| {
        let arguments = merge(out);
        place.aligner(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/thesis.txt"), "years of work").unwrap();
    run("mine").expect(4).says(&["mine` is there already, and is not written over"]);
    run("rows/../mine").expect(4);
    assert_eq!(std::fs::read_dir(place.path("mine")).unwrap().count(), 1);
    // The place for the work in progress may be somebody's too.
    std::fs::rename(place.path("mine"), place.path("merged.tmp")).unwrap();
    run("merged").expect(4).says(&["merged.tmp` is there already"]);
    assert!(place.path("merged.tmp/thesis.txt").exists());
    std::fs::create_dir(place.path("empty")).unwrap();
    run("empty/").expect(0);
    run("empty").expect(4);
    run("deep/er/still").expect(0);
}

#[test]
fn a_kill_or_a_full_disk_leaves_no_half_folder() {
    let place = trained(&[]);
    let arguments = merge("merged");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let limited = |bytes: u64| {
        let mut command = place.command(&arguments);
        // SAFETY: only calls that may stand between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
                Ok(())
            })
        };
        command.output().unwrap()
    };
    for bytes in [0, 10, 5_000, 100_000] {
        let output = limited(bytes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("error: cannot write `"), "{said}");
        assert!(!place.path("merged").exists() && !place.path("merged.tmp").exists());
    }
    // Killed a little later each time, until it is in the middle.
    let half = (1..400).any(|step| {
        let mut process = place.command(&arguments).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(300 * step));
        process.kill().unwrap();
        process.wait().unwrap();
        let half = place.path("merged.tmp").exists();
        assert!(half || !place.path("merged").exists(), "it was never in the middle");
        half
    });
    assert!(half && !place.path("merged").exists());
    // The next one removes what the killed one left.
    place.aligner(&arguments).expect(0);
    assert!(place.path("merged/model.safetensors").exists() && !place.path("merged.tmp").exists());
}

#[test]
fn an_adapter_that_has_left_its_run_is_opened_with_its_base() {
    let place = trained(&[]);
    std::fs::rename(place.path("run/final/adapter"), place.path("moved")).unwrap();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    std::fs::write(place.path("rows.jsonl"), "{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    let score = |more: &[&str]| {
        let fixed = ["model", "score", "--adapter", "moved", "--data", "rows.jsonl"];
        place.aligner(&[&fixed, more].concat())
    };
    let own = score(&[]).expect(0);
    assert!(!own.stderr.contains("note:"), "{}", own.stderr);
    // Of another name and the same shape, it is said so.
    let config = place.path("moved/adapter_config.json");
    let mut named = read_json(&config);
    named["base_model_name_or_path"] = json!("somebody/else");
    std::fs::write(&config, named.to_string()).unwrap();
    let other = score(&["--model", &base()]).expect(0);
    assert_eq!(other.stdout, own.stdout);
    other.says(&["names `somebody/else` as its base, and goes beside"]);
}

#[test]
fn an_adapter_for_another_model_or_of_another_kind_is_named() {
    let place = trained(&[]);
    let arguments = merge("merged");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let config = place.path("run/final/adapter/adapter_config.json");
    let whole = std::fs::read_to_string(&config).unwrap();
    let with = |key: &str, value: Value, expected: &str| {
        let mut changed: Value = serde_json::from_str(&whole).unwrap();
        changed[key] = value;
        std::fs::write(&config, changed.to_string()).unwrap();
        place.aligner(&arguments).expect(4).says(&["adapter_config.json`", expected]);
    };
    with("modules_to_save", json!(["lm_head"]), "`modules_to_save` is [\"lm_head\"]");
    with("use_dora", json!(true), "`use_dora` is true, which cannot be used; expected none");
    with("bias", json!("lora_only"), "`bias` is \"lora_only\"");
    with("from_the_future", json!({ "a": 1 }), "`from_the_future` is {\"a\":1}");
    with("target_modules", json!(["q_proj", "lm_head"]), "`target_modules` holds \"lm_head\"");
    with("target_modules", json!(".*"), "matches `lm_head`, which cannot have a pair");
    std::fs::write(&config, &whole).unwrap();

    // As if it had been trained on a model of another shape.
    let weights = place.path("run/final/adapter/adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of_shape = |change: Reshape<'_>, expected: &str| {
        let tensors = file.iter().filter_map(|(name, view)| {
            let shape = change(name, view.shape().to_vec())?;
            let len = shape.iter().product::<usize>() * 4;
            let data: Vec<u8> = view.data().iter().copied().cycle().take(len).collect();
            Some((name.to_owned(), shape, data))
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors.iter().map(|(name, shape, data)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        std::fs::write(&weights, safetensors::serialize(views, None).unwrap()).unwrap();
        place.aligner(&arguments).expect(4).says(&["adapter_model.safetensors`", expected]);
    };
    of_shape(
        &|name, shape| (!name.contains("layers.1.")).then_some(shape),
        "layers.1.self_attn.q_proj.lora_A.weight` of ",
    );
    of_shape(
        &|name, shape| Some(if name.ends_with("A.weight") { vec![shape[0], 48] } else { shape }),
        "has shape [2, 48], the model and rank need [2, 32]",
    );
    of_shape(
        &|_, shape| Some(shape.into_iter().map(|n| if n == 2 { 3 } else { n }).collect()),
        "has shape [3, 32], the model and rank need [2, 32]",
    );
    assert!(!place.path("merged").exists() && !place.path("merged.tmp").exists());

    place
        .aligner(&["model", "merge", "--adapter", "nowhere", "--out", "merged"])
        .expect(4)
        .says(&["adapter folder `nowhere` is not there"]);
    place
        .aligner(&["model", "merge", "--adapter", "run", "--out", "merged"])
        .expect(4)
        .says(&["`run` is no PEFT adapter folder", "run/final/adapter"]);
}
