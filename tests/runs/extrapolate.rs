//! `aligner model extrapolate`: what it writes, and what it refuses.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;

use super::full::FULL;
use super::{Place, Said, tests};

fn base() -> String {
    tests().join("fixtures/tiny-llama").display().to_string()
}

/// Runs the tiny set once and returns the place with `run/final/adapter`, or `run/final/model`, in it.
fn trained(more: &[&str]) -> Place {
    let place = Place::new();
    place.tiny("run", &[&["--rounds", "1"], more].concat()).expect(0);
    place
}

fn extrapolate(place: &Place, aligned: &str, alpha: &str, out: &str, more: &[&str]) -> Said {
    let fixed = ["model", "extrapolate", "--aligned", aligned, "--alpha", alpha, "--out", out];
    place.aligner(&[&fixed[..], more].concat())
}

/// Every tensor of a file in f32.
fn numbers(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words =
        |data: &[u8]| data.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect();
    file.iter().map(|(name, view)| (name.to_owned(), words(view.data()))).collect()
}

#[test]
fn a_whole_model_is_extrapolated() {
    let place = trained(&FULL);
    let base = base();
    let weights = |name: &str| numbers(&place.path(name).join("model.safetensors"));
    let aligned = weights("run/final/model");
    let initial = ["--initial", &base, "--dtype", "f32"];
    let run = |alpha: &str, out: &str| {
        extrapolate(&place, "run/final/model", alpha, out, &initial).expect(0)
    };
    let said = run("0.3", "out");
    for part in [
        "From initial to aligned a weight moves by up to ",
        "of the initial model's norm\nfloat32 model in out\n",
        "talk to it:   aligner model chat --model ./out\n",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {}", said.stdout);
    }
    for name in ["config.json", "tokenizer.json", "chat_template.jinja", "README.md"] {
        assert!(place.path("out").join(name).exists(), "{name}");
    }
    run("0", "same");
    run("-1", "back");
    assert!(weights("same") == aligned);
    let (initial, beyond) = (weights("back"), weights("out"));
    assert!(initial != aligned);
    // The head is the embedding, and there once.
    assert!(!beyond.contains_key("lm_head.weight"));
    for (name, values) in &beyond {
        let pairs = initial[name].iter().zip(&aligned[name]);
        for ((&from, &to), &value) in pairs.zip(values) {
            let [from, to] = [from, to].map(f64::from);
            assert_eq!(value, (to + 0.3 * (to - from)) as f32, "{name}");
        }
    }
    let chat = ["model", "chat", "--model", "./out", "--max-new-tokens", "2", "--prompt", "Hi"];
    place.aligner(&chat).expect(0);
    let shards = ["--initial", &base, "--dtype", "bf16", "--max-shard-size", "50KB"];
    extrapolate(&place, "run/final/model", "0.3", "shards", &shards).expect(0);
    assert!(place.path("shards/model.safetensors.index.json").exists());
}

#[test]
fn an_adapter_is_scaled_and_does_what_the_whole_model_would() {
    let place = trained(&[]);
    let base = base();
    let weights = |name: &str| numbers(&place.path(name).join("adapter_model.safetensors"));
    let before = weights("run/final/adapter");
    let said = extrapolate(&place, "run/final/adapter", "0.3", "alone", &[]).expect(0);
    assert!(said.stdout.starts_with("adapter in alone\n"), "{}", said.stdout);
    let with = ["--initial", &base];
    let said = extrapolate(&place, "run/final/adapter", "0.3", "known", &with).expect(0);
    assert!(said.stdout.contains("a weight moves by up to"), "{}", said.stdout);
    let after = weights("alone");
    assert!(after == weights("known"));
    for (name, values) in &after {
        let factor = if name.ends_with("lora_B.weight") { 1.3 } else { 1.0 };
        let scaled = before[name].iter().map(|&x| (f64::from(x) * factor) as f32);
        assert!(scaled.eq(values.iter().copied()), "{name}");
    }
    extrapolate(&place, "run/final/adapter", "0", "same", &[]).expect(0);
    for name in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"] {
        let read = |folder: &str| std::fs::read(place.path(folder).join(name)).unwrap();
        assert!(read("same") == read("run/final/adapter"), "{name}");
    }

    // Merged first and extrapolated then, or the other way round.
    let merge = |adapter: &str, out: &str| {
        let arguments = ["model", "merge", "--model", &base, "--adapter", adapter, "--out", out];
        place.aligner(&[&arguments[..], &["--dtype", "f32"]].concat()).expect(0);
    };
    merge("run/final/adapter", "merged");
    merge("alone", "one");
    extrapolate(&place, "./merged", "0.3", "other", &with).expect(0);
    let [one, other] =
        ["one", "other"].map(|name| numbers(&place.path(name).join("model.safetensors")));
    for (name, values) in &one {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(values.iter().zip(&other[name]).all(close), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let place = trained(&[]);
    let base = base();
    let refused = |aligned: &str, more: &[&str], code: i32, parts: &[&str]| {
        extrapolate(&place, aligned, "0.3", "out", more).expect(code).says(parts);
        assert!(!place.path("out").exists() && !place.path("out.tmp").exists());
    };
    refused(
        &base,
        &[],
        2,
        &["`--initial` is missing", "is no adapter folder", "hint: name the model"],
    );
    refused(
        "run/final/adapter",
        &["--dtype", "bf16"],
        2,
        &["`--dtype` is for whole models", "hint: an adapter is written in f32"],
    );
    refused(
        &base,
        &["--initial", "run/final/adapter"],
        2,
        &["`--initial` names `run/final/adapter`, which is an adapter"],
    );
    for alpha in ["inf", "NaN", "much"] {
        extrapolate(&place, "run/final/adapter", alpha, "out", &[])
            .expect(2)
            .says(&["expected a finite number"]);
    }
    // A copy of the model with another vocabulary, of another architecture, with a number that is none.
    let copy = |name: &str, file: &str, change: &dyn Fn(String) -> String| {
        let folder = place.path(name);
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(&base).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let changed = change(text.clone());
        assert!(changed != text);
        std::fs::write(folder.join(file), changed).unwrap();
    };
    let initial = ["--initial", base.as_str()];
    copy("other-token", "tokenizer.json", &|text| {
        let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("!").unwrap();
        vocab.insert("Ω".into(), id);
        tokenizer.to_string()
    });
    refused(
        "./other-token",
        &initial,
        4,
        &["are not two states of one model: token ", "\"!\" in the first and \"Ω\" in the second"],
    );
    copy("other-rope", "config.json", &|text| {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["rope_parameters"]["rope_theta"] = 77.5.into();
        config.to_string()
    });
    refused("./other-rope", &initial, 4, &["rotary frequencies", "77.5 in the second"]);

    copy("no-number", "config.json", &|text| text + "\n");
    let weights = place.path("no-number/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&[0xff; 4]);
    std::fs::write(&weights, bytes).unwrap();
    refused(
        "./no-number",
        &initial,
        4,
        &["no-number/model.safetensors", "a weight must be finite"],
    );
    place.aligner(&["model", "extrapolate", "--help"]).expect(0);
}
