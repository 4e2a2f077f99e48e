//! Runs on a server in the place of the embedded engine.

mod away;
mod fake;
mod kept;
mod many;
mod quick;
mod trained;
mod wrong;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::runs::{Place, Said, lines, tests};
use fake::{Fake, Kind};

/// Draws nothing by chance: what a server with other draws says is the same then.
const GREEDY: &str = "generate.temperature=0";

fn tiny_arguments(out: &str, more: &[&str]) -> Vec<String> {
    crate::runs::tiny(out, more)
}

impl Place {
    /// Runs the tiny set on a server, with further arguments.
    fn served(&self, fake: &Fake, out: &str, more: &[&str]) -> Said {
        let url = fake.url();
        let fixed = ["--server", &url, "--set", GREEDY];
        self.tiny(out, &[&fixed, more].concat())
    }
}

/// Makes `base`, which has all of a model but its weights.
fn without_weights(place: &Place) -> PathBuf {
    let base = place.path("base");
    std::fs::create_dir(&base).unwrap();
    for entry in std::fs::read_dir(tests().join("fixtures/tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(&path, base.join(path.file_name().unwrap())).unwrap();
        }
    }
    base
}

/// Returns every completion of a run, by file and record.
fn completions(files: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for name in files.keys().filter(|name| name.ends_with("/generate.jsonl")) {
        for row in lines(files, name) {
            for variant in row["variants"].as_array().unwrap() {
                found.push((format!("{name} {}", row["id"]), variant["completion"].clone()));
            }
        }
    }
    found
}

/// Returns what a journal counts under a name, in all.
fn counted(files: &BTreeMap<String, Vec<u8>>, name: &str) -> u64 {
    let counts = lines(files, "journal.jsonl").into_iter();
    counts.filter_map(|row| row["counts"][name].as_u64()).sum()
}

#[test]
fn a_run_on_a_server_comes_to_what_the_embedded_engine_comes_to() {
    let (place, fake) = (Place::new(), Fake::start(Kind::Vllm));
    let said = place.served(&fake, "served", &[]).expect(0);
    assert!(
        said.stderr.contains(&format!("server   {} answers for `policy`", fake.url())),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("raw texts 0.0000 nats a token"), "{}", said.stderr);
    place.tiny("here", &["--set", GREEDY]).expect(0);
    let (served, here) = (place.files("served"), place.files("here"));

    // The same texts and logprobs, which are recorded here, and without entropies.
    let (ours, theirs) = (completions(&here), completions(&served));
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(ours.len(), 16);
    for ((at, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        for field in ["text", "tokens", "finish"] {
            assert_eq!(ours[field], theirs[field], "{at}");
        }
        let logprob = |completion: &Value| completion["logprob"].as_f64().unwrap();
        assert!((logprob(ours) - logprob(theirs)).abs() < 1e-4, "{at}");
        assert_eq!(
            (theirs["repro"].as_str(), &theirs["entropy"]),
            (Some("recorded"), &Value::Null)
        );
        assert!(ours["repro"].is_null() && ours["entropy"].is_f64(), "{at}");
    }
    assert_eq!(
        served["final/adapter/adapter_model.safetensors"],
        here["final/adapter/adapter_model.safetensors"]
    );
    // What was read and written there stands in the journal; so does how much is recorded.
    assert!(counted(&served, "server.policy.tokens") > 1000);
    assert!(counted(&served, "recorded") >= theirs.len() as u64);
    assert_eq!(counted(&here, "server.policy.tokens") + counted(&here, "recorded"), 0);

    // Each round's adapter under a name of its own, and dropped in the end.
    let loaded = fake.bodies("/v1/load_lora_adapter");
    let names: Vec<&str> = loaded.iter().map(|body| body["lora_name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_ne!(names[0], names[1]);
    let asked = fake.bodies("/v1/completions");
    for name in names {
        assert!(asked.iter().any(|body| body["model"] == name), "{name} was never asked");
    }
    assert_eq!(fake.adapters(), Vec::<String>::new());
    assert!(!place.path("served/exchange").exists());

    // Token ids go there, and every field that decides what is drawn.
    for body in &asked {
        assert!(body["prompt"].is_array(), "{body}");
        for field in [
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "seed",
            "stop",
            "max_tokens",
            "presence_penalty",
            "frequency_penalty",
        ] {
            assert!(!body[field].is_null(), "no {field} in {body}");
        }
    }
    let servers = std::fs::read_to_string(place.path("served/servers.jsonl")).unwrap();
    let server: Value = serde_json::from_str(servers.trim_end()).unwrap();
    assert_eq!((server["dialect"].as_str(), server["prompts"].as_u64()), (Some("vLLM"), Some(32)));
}

#[test]
fn a_server_that_takes_text_alone_gets_text_that_reads_as_the_same_tokens() {
    let (place, fake) = (Place::new(), Fake::start(Kind::LlamaCppPython));
    let embedded = ["--set", "models.policy.embedded=[\"adapters\"]"];
    place.served(&fake, "served", &embedded).expect(0);
    place.tiny("here", &["--set", GREEDY]).expect(0);
    let (served, here) = (place.files("served"), place.files("here"));
    let texts = |files| -> Vec<_> {
        completions(files).into_iter().map(|(at, it)| (at, it["text"].clone())).collect()
    };
    assert_eq!(texts(&served), texts(&here));
    assert!(fake.bodies("/v1/completions").iter().all(|body| body["prompt"].is_string()));
    assert_eq!(fake.bodies("/v1/load_lora_adapter"), Vec::<Value>::new());
    // What the policy with an adapter says comes from the embedded engine, and can be made again.
    let of_round = |round: &str| {
        let found = completions(&served).into_iter();
        let mut found = found.filter(|(at, _)| at.starts_with(round));
        found.all(|(_, completion)| completion["repro"] == "recorded")
    };
    assert!(of_round("rounds/01") && !of_round("rounds/02"));
}

#[test]
fn a_named_model_can_be_a_servers() {
    let (place, fake) = (Place::new(), Fake::start(Kind::Vllm));
    let base = tests().join("fixtures/tiny-llama");
    let named = format!(
        "models.other={{ server = \"{}/v1/\", base = \"{}\" }}",
        fake.url(),
        base.display()
    );
    place
        .tiny("run", &["--set", &named, "--set", "generate.model=other", "--set", GREEDY])
        .expect(0);
    let files = place.files("run");
    assert!(completions(&files).iter().all(|(_, it)| it["repro"] == "recorded"));
    assert!(counted(&files, "server.other.tokens") > 1000);
    // What is measured of the policy is the embedded engine's, and no adapter goes there.
    assert_eq!(fake.bodies("/v1/load_lora_adapter"), Vec::<Value>::new());
}

#[test]
fn a_dry_run_asks_no_server_and_a_bad_address_is_named() {
    let (place, fake) = (Place::new(), Fake::start(Kind::Vllm));
    let said = place.served(&fake, "run", &["--dry-run"]).expect(0);
    assert!(said.stdout.contains(&format!("server   {} answers for `policy`", fake.url())));
    assert_eq!(fake.server.asked(), Vec::<String>::new());
    place
        .tiny("run", &["--server", "127.0.0.1:8000"])
        .expect(2)
        .says(&["`server` in `policy` of `[models]` is no address"]);
    let full = ["--set", "train.method=full"];
    place.served(&fake, "run", &full).expect(2).says(&[
        "every weight is trained, and the policy is on a server",
        "expected `method = \"lora\"`: a server loads adapters",
    ]);
    let entropy = ["--set", "evaluate.measures=[\"entropy\"]"];
    place.served(&fake, "run", &entropy).expect(2).says(&["`entropy` is measured"]);
    assert!(!place.path("run").exists());
}
