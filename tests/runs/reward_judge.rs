//! What a reward model is for once it is there: rewards of rows, accuracy on pairs, and judging.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::preference::contrast;
use super::reward::{config, given, pairs};
use super::{Place, Said, lines, tests};

/// Makes a reward model that tells its pairs apart, and returns its adapter folder.
fn reward_model(place: &Place) -> String {
    given(place, "made", &["--set", "train.num_train_epochs=10"]).expect(0);
    place.path("made/final/adapter").display().to_string()
}

/// A run whose pairs the reward model decides.
fn judged(place: &Place, run: &str, adapter: &str, more: &[&str]) -> Said {
    let contrast = contrast();
    let named = format!("models.rm='{adapter}'");
    let judge = [
        "judge.plugin='builtin:reward-model'",
        "judge.config={model='rm'}",
        "judge.ask={models=['rm']}",
    ];
    let sets = [contrast.as_str(), &named].into_iter().chain(judge);
    let sets: Vec<&str> = sets.flat_map(|set| ["--set", set]).collect();
    place.set("tiny-dpo", run, &[&sets[..], more].concat())
}

#[test]
fn rows_get_rewards_and_pairs_an_accuracy() {
    let place = Place::new();
    let adapter = reward_model(&place);
    let pairs = pairs(&place);
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let with = ["--model", &model, "--adapter", &adapter, "--device", "cpu"];

    // Of both completions of each pair.
    let text = std::fs::read_to_string(&pairs).unwrap();
    let given: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = given.iter().flat_map(|row| {
        ["chosen", "rejected"].map(|column| {
            let id = format!("{}-{column}", row["id"].as_str().unwrap());
            format!("{}\n", json!({"id": id, "prompt": row["prompt"], "completion": row[column]}))
        })
    });
    std::fs::write(place.path("rows.jsonl"), rows.collect::<String>()).unwrap();
    let rewards = |more: &[&str]| {
        let score = ["model", "score", "--data", "rows.jsonl"];
        let said = place.aligner(&[&score[..], &with, more].concat()).expect(0);
        let rows = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        let of =
            |row: Value| (row["id"].as_str().unwrap().to_owned(), row["reward"].as_f64().unwrap());
        rows.map(of).collect::<BTreeMap<String, f64>>()
    };
    let rewarded = rewards(&[]);
    assert_eq!(rewarded.len(), 12);
    let margin = |row: &Value| {
        let of = |column| rewarded[&format!("{}-{column}", row["id"].as_str().unwrap())];
        of("chosen") - of("rejected")
    };
    assert!(given.iter().all(|row| margin(row) > 0.0), "{rewarded:?}");

    // The measure says the same.
    let suite = |text: &str| std::fs::write(place.path("suite.toml"), text).unwrap();
    suite("[[measure]]\nkind = 'preferences'\ndata = 'pairs.jsonl'\n");
    let eval = ["model", "eval", "--suite", "suite.toml", "--json", "eval.json"];
    let said = place.aligner(&[&eval[..], &with].concat()).expect(0);
    for part in ["accuracy", "prefers-longer"] {
        assert!(said.stdout.contains(part), "no {part:?} in:\n{}", said.stdout);
    }
    let figures = config(&std::fs::read(place.path("eval.json")).unwrap());
    let figures = &figures["measures"][0]["figures"];
    assert_eq!((&figures[0]["name"], &figures[0]["value"]), (&json!("accuracy"), &json!(1.0)));
    let mean = given.iter().map(margin).sum::<f64>() / given.len() as f64;
    assert!((figures[1]["value"].as_f64().unwrap() - mean).abs() < 1e-9, "{figures}");
    // Without the adapter logprobs decide, and a random model knows nothing.
    place.aligner(&[&eval[..], &with[..2]].concat()).expect(0);
    let figures = config(&std::fs::read(place.path("eval.json")).unwrap());
    assert_ne!(figures["measures"][0]["figures"][1]["value"].as_f64(), Some(mean));

    suite(
        "[[measure]]\nkind = 'preferences'\ndata = 'pairs.jsonl'\n\
         [[measure]]\nkind = 'generation'\ndata = 'rows.jsonl'\n",
    );
    let said = place.aligner(&[&eval[..], &with].concat()).expect(2);
    said.says(&["is a reward model", "measure `generation`", "hint: "]);
}

#[test]
fn a_reward_model_decides_which_completion_is_chosen() {
    let place = Place::new();
    let adapter = reward_model(&place);
    judged(&place, "run", &adapter, &[]).expect(0);
    let files = place.files("run");
    for round in ["rounds/01", "rounds/02"] {
        let of = |stage: &str| lines(&files, &format!("{round}/{stage}.jsonl"));
        let (asked, opinions, paired) = (of("judge-asks"), of("judge"), of("pair"));
        // Three completions of each of eight prompts, all under the prompt as it is.
        assert_eq!((asked.len(), opinions.len(), paired.len()), (24, 8, 8));
        for row in &asked {
            assert_eq!(row["request"]["reward"]["model"], "rm");
            assert!(row["answer"]["reward"]["tokens"].as_u64() > Some(0), "{row}");
            assert_eq!(row["request"]["reward"]["prompt"]["chat"].as_array().unwrap().len(), 1);
        }
        for row in paired.iter().filter(|row| row["pair"].is_object()) {
            let opinion = opinions.iter().find(|opinion| opinion["id"] == row["id"]).unwrap();
            let of = |name: &Value| {
                let rewards = opinion["opinion"]["rewards"].as_array().unwrap();
                let found = rewards.iter().find(|reward| reward["variant"] == *name).unwrap();
                found["value"].as_f64().unwrap()
            };
            assert!(of(&row["pair"]["chosen"]) > of(&row["pair"]["rejected"]), "{opinion} {row}");
        }
        assert!(paired.iter().any(|row| row["pair"].is_object()));
    }
    // What the run is of is written down: another reward model is another run.
    let manifest = config(&files["run.json"]);
    assert_eq!(manifest["models"]["rm"]["name"], json!(adapter));
    let weights = place.path("made/final/adapter/adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    judged(&place, "run", &adapter, &["--resume"])
        .expect(5)
        .says(&["holds another run", "model `rm`"]);
}

#[test]
fn a_model_is_asked_for_what_it_does_alone() {
    let place = Place::new();
    let adapter = reward_model(&place);
    // A policy gives no rewards.
    let said = judged(
        &place,
        "policy",
        &adapter,
        &["--set", "judge.config={model='policy'}", "--set", "judge.ask={models=['policy']}"],
    );
    said.expect(2).says(&["asks `policy`", "for a reward, and it is no reward model", "hint: "]);
    // A reward model writes nothing, for a plugin or for the round.
    let said = judged(
        &place,
        "writer",
        &adapter,
        &["--set", "judge.plugin='builtin:grade'", "--set", "judge.config={model='rm'}"],
    );
    said.expect(2).says(&["asks `rm`", "and it is a reward model", "hint: "]);
    let said = judged(&place, "generates", &adapter, &["--set", "generate.model='rm'"]);
    said.expect(2).says(&["`model` of `[generate]` is `rm`, a reward model", "hint: "]);
    assert!(!place.path("generates").exists());
    // A folder that is no adapter of this model is named.
    let elsewhere = place.path("nowhere").display().to_string();
    judged(&place, "nowhere", &elsewhere, &[]).expect(4).says(&["nowhere"]);
}
