//! Rounds that make a reward model: from pairs to an adapter with a head, and what may be done with it.

use serde_json::{Value, json};

use super::kill::{check_set, step};
use super::preference::contrast;
use super::{Place, Said, lines, tests};

/// Pairs that any reward model can tell apart: what is good says so.
pub fn pairs(place: &Place) -> String {
    let row = |i: u32| {
        let (chosen, rejected) = (format!("Yes, {i} is good"), format!("No, {i} is bad"));
        json!({
            "id": format!("q-{i}"),
            "prompt": [{ "role": "user", "content": format!("What of {i}?") }],
            "chosen": chosen,
            "rejected": rejected,
        })
    };
    let text: String = (0..6).map(|i| format!("{}\n", row(i))).collect();
    let path = place.path("pairs.jsonl");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const REWARD: [&str; 4] = ["--rounds", "1", "--set", "train.objective='reward'"];

pub fn given(place: &Place, run: &str, more: &[&str]) -> Said {
    let pairs = pairs(place);
    place.set("tiny-dpo", run, &[&REWARD[..], &["--from-data", &pairs], more].concat())
}

pub fn config(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_reward_model_learns_to_tell_pairs_apart() {
    let place = Place::new();
    given(&place, "run", &["--set", "train.num_train_epochs=10"]).expect(0);
    let files = place.files("run");
    let steps = lines(&files, "rounds/01/metrics.jsonl");
    let last = &steps[steps.len() - 1];
    assert_eq!((steps.len(), &last["rewards/accuracies"]), (20, &json!(1.0)), "{last}");
    assert!(last["rewards/margins"].as_f64().unwrap() > 1.0, "{last}");
    assert!(last.get("logps/chosen").is_none() && last["num_tokens"].as_u64() > Some(0), "{last}");
    // It is held to nothing, and is no policy to measure.
    for stage in ["reference", "evaluate"] {
        assert!(!files.contains_key(&format!("rounds/01/{stage}.jsonl")), "{:?}", files.keys());
    }
    assert!(files.contains_key("pool/evaluate.jsonl"));
    assert_eq!(config(&files["report.json"])["best_round"], 1);
    let adapter = config(&files["final/adapter/adapter_config.json"]);
    assert_eq!(
        (&adapter["task_type"], &adapter["modules_to_save"]),
        (&json!("SEQ_CLS"), &json!(["score"]))
    );
    let card = String::from_utf8(files["final/adapter/README.md"].clone()).unwrap();
    for part in ["pipeline_tag: text-classification", "A reward model", "num_labels=1"] {
        assert!(card.contains(part), "no {part:?} in {card}");
    }

    // It writes nothing, and is no part of a model that does.
    let adapter = "run/final/adapter";
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let with = ["--model", &model, "--adapter", adapter];
    let chat = [&["model", "chat", "--prompt", "x"], &with[..]].concat();
    place.aligner(&chat).expect(4).says(&[
        "is a reward model: it gives rewards, and writes nothing",
        "hint: `aligner model score`",
    ]);
    let merge = [&["model", "merge", "--out", "merged"], &with[..]].concat();
    place.aligner(&merge).expect(4).says(&["is a reward model", "hint: "]);
    assert!(!place.path("merged").exists());
    let aligned = format!("models.aligned='{}'", place.path(adapter).display());
    let alpha = ["--rounds", "1", "--set", &aligned, "--set", "extrapolate.alpha=0.5"];
    place.tiny("aligned", &alpha).says(&["is a reward model, and no policy"]);
}

#[test]
fn rounds_after_a_reward_model_go_on_from_the_policy_before_it() {
    let place = Place::new();
    let set = std::fs::read_to_string(tests().join("sets/tiny-dpo.toml")).unwrap();
    let set = set.replace("\"tiny-p", &format!("\"{}/sets/tiny-p", tests().display()));
    let set = set.replace("\"tiny-h", &format!("\"{}/sets/tiny-h", tests().display()));
    let set = set.replace("../fixtures", &tests().join("fixtures").display().to_string());
    let set = set.replace("rounds = 2\n", "");
    let write = |name: &str, second: &str| {
        let round = "\n[[rounds]]\n";
        std::fs::write(place.path(name), [&set, round, round, second, round].concat()).unwrap();
    };
    write("three.toml", "train = { objective = \"reward\" }\nsave_as = \"judge\"\n");
    let contrast = contrast();
    let plugins = |set: &'static str, out: &'static str| {
        ["--plugins", set, "--out", out, "--set", &contrast].map(str::to_owned)
    };
    let run = |set, out| {
        let arguments = plugins(set, out);
        place.aligner(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run("three.toml", "three").expect(0);
    let files = place.files("three");
    let head = |round: &str| {
        config(&files[&format!("{round}/adapter/adapter_config.json")])["task_type"] == "SEQ_CLS"
    };
    assert_eq!(
        ["rounds/01", "rounds/02", "rounds/03", "final"].map(head),
        [false, true, false, false]
    );
    assert!(!files.contains_key("rounds/02/evaluate.jsonl"));
    assert!(files.contains_key("rounds/03/evaluate.jsonl"));
    // Its reference is the policy before it, and it begins there.
    let first = &lines(&files, "rounds/03/metrics.jsonl")[0];
    assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-5, "{first}");

    write("lost.toml", "train = { objective = \"reward\" }\n");
    run("lost.toml", "lost").expect(2).says(&["round 2 makes a reward model, and round 3 needs"]);
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let place = Place::new();
    let pairs = pairs(&place);
    let more = [&REWARD[..], &["--from-data", &pairs]].concat();
    let stages = check_set("tiny-dpo", &more, "kill", step(3));
    assert!(stages.contains("train"), "{stages:?}");
}
