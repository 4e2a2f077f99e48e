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

fn three(place: &Place, run: &str, more: &[&str]) -> Said {
    let contrast = contrast();
    place.set("tiny-reward", run, &[&["--set", &contrast], more].concat())
}

#[test]
fn rounds_after_a_reward_model_go_on_from_the_policy_before_it_and_ask_it() {
    let place = Place::new();
    three(&place, "three", &[]).expect(0);
    let files = place.files("three");
    let head = |round: &str| {
        config(&files[&format!("{round}/adapter/adapter_config.json")])["task_type"] == "SEQ_CLS"
    };
    let all = ["rounds/01", "rounds/02", "rounds/03", "final"];
    assert_eq!(all.map(head), [false, true, false, false]);
    let has = |stage: &str| {
        ["01", "02", "03"].map(|round| files.contains_key(&format!("rounds/{round}/{stage}.jsonl")))
    };
    assert_eq!(has("evaluate"), [true, false, true]);
    assert_eq!(has("judge"), [false, false, true]);
    for row in lines(&files, "rounds/01/pair.jsonl") {
        assert_eq!(row["pair"]["chosen"], "good", "no judge, so by role: {row}");
    }
    // The third round is judged by what the second saved.
    let opinions = lines(&files, "rounds/03/judge.jsonl");
    for row in lines(&files, "rounds/03/pair.jsonl").iter().filter(|row| row["pair"].is_object()) {
        let opinion = opinions.iter().find(|opinion| opinion["id"] == row["id"]).unwrap();
        let of = |name: &Value| {
            let rewards = opinion["opinion"]["rewards"].as_array().unwrap();
            rewards.iter().find(|it| it["variant"] == *name).unwrap()["value"].as_f64().unwrap()
        };
        assert!(of(&row["pair"]["chosen"]) > of(&row["pair"]["rejected"]), "{opinion} {row}");
    }
    // Its policy is its reference, and writes as the one that round 1 trained: one that was hardly
    // trained there writes otherwise.
    let first = &lines(&files, "rounds/03/metrics.jsonl")[0];
    assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-5, "{first}");
    three(&place, "idle", &["--set", "rounds.0.train={learning_rate=1e-9}"]).expect(0);
    let idle = place.files("idle");
    let written = |files: &super::methods::Files| files["rounds/03/generate.jsonl"].clone();
    assert!(written(&files) != written(&idle));
    assert!(files["rounds/01/generate.jsonl"] == idle["rounds/01/generate.jsonl"]);
}

#[test]
fn what_rounds_make_of_a_reward_model_is_refused_or_kept_as_it_should() {
    let place = Place::new();
    let lost = three(&place, "lost", &["--set", "rounds.1.save_as='other'"]).expect(2);
    lost.says(&["no model is called `taste`"]);
    let early = three(&place, "early", &["--set", "rounds.0.judge=true"]).expect(2);
    early.says(&["the judge of round 1 asks `taste`", "round 2 saves", "`judge = false`"]);
    let contrast = contrast();
    let none = ["--set", &contrast, "--set", "rounds=[{judge=false}]"];
    place.set("tiny-dpo", "none", &none).expect(2).says(&["no `[judge]`"]);

    // Nothing is kept after the tool is made: the result is the policy of round 1.
    let strict = "filter=[{after='judge',plugin='builtin:length',config={min_characters=100}}]";
    three(&place, "strict", &["--set", strict]).expect(6);
    let files = place.files("strict");
    assert_eq!(config(&files["report.json"])["best_round"], 1);
    assert!(
        files["final/adapter/adapter_config.json"]
            == files["rounds/01/adapter/adapter_config.json"]
    );

    // Whole models that are still needed stay.
    let full = [
        "--set",
        "train.method='full'",
        "--set",
        "train.learning_rate=1e-4",
        "--set",
        "rounds.1.train={objective='reward',method='lora',start='initial',lora={r=2,alpha=2}}",
        "--set",
        "run.keep='last'",
    ];
    three(&place, "full", &full).expect(0);
    assert!(place.files("full").contains_key("final/model/config.json"));
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let place = Place::new();
    let pairs = pairs(&place);
    let more = [&REWARD[..], &["--from-data", &pairs]].concat();
    let stages = check_set("tiny-dpo", &more, "kill", step(3));
    assert!(stages.contains("train"), "{stages:?}");
    let contrast = contrast();
    let stages = check_set("tiny-reward", &["--set", &contrast], "kill", step(11));
    assert!(stages.contains("judge"), "{stages:?}");
}
