//! Runs that train on preferences: from the variants of a guest to the policy.

use serde_json::{Value, json};

use super::full::FULL;
use super::kill::{check_set, step};
use super::{Place, Said, lines};
use crate::runtime::guests;

/// What gives the set its principle plugin.
pub fn contrast() -> String {
    format!("principle.plugin='{}'", guests::path("contrast").display())
}

fn run(place: &Place, run: &str, more: &[&str]) -> Said {
    let contrast = contrast();
    place.set("tiny-dpo", run, &[&["--set", &contrast], more].concat())
}

#[test]
fn good_completions_are_chosen_over_bad_ones() {
    let place = Place::new();
    let said = run(&place, "run", &[]).expect(0);
    let files = place.files("run");
    assert!(said.stdout.contains("accuracy") && said.stdout.contains("margin"), "{}", said.stdout);
    for round in ["rounds/01", "rounds/02"] {
        let of = |stage: &str| lines(&files, &format!("{round}/{stage}.jsonl"));
        let (generated, paired, trained) = (of("generate"), of("pair"), of("train"));
        assert_eq!((generated.len(), paired.len()), (8, 8));
        for row in &trained {
            let id = &row["record_id"];
            let record = generated.iter().find(|record| record["id"] == *id).unwrap();
            let pair = paired.iter().find(|pair| pair["id"] == *id).unwrap();
            assert_eq!(pair["pair"]["chosen"], "good");
            assert_eq!(pair["pair"]["rejected"], "bad");
            for (column, variant) in [("chosen", 1), ("rejected", 2)] {
                let written = &record["variants"][variant]["completion"];
                let learnt = &row[column][0];
                assert_eq!(learnt["role"], "assistant");
                assert_eq!(learnt["content"], written["text"]);
                assert_eq!(row[format!("{column}_finish")], written["finish"]);
            }
            // Without principles.
            assert_eq!(row["prompt"], record["variants"][0]["prompt"]["chat"]);
            assert!(row.get("steered").is_none() && row.get("completion").is_none());
        }
        let logprobs = of("reference");
        let learnt = trained.iter().filter(|row| row.get("dropped").is_none());
        let ids: Vec<&Value> = learnt.map(|row| &row["record_id"]).collect();
        assert_eq!(logprobs.iter().map(|row| &row["id"]).collect::<Vec<_>>(), ids);
        assert!(logprobs.iter().all(|row| row["logprobs"].as_array().unwrap().len() == 2));
        let steps = of("metrics");
        assert_eq!(steps.len(), ids.len().div_ceil(3));
        // The policy begins as its reference.
        let first = &steps[0];
        assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-5, "{first}");
        assert!(first["rewards/margins"].as_f64().unwrap().abs() < 1e-4, "{first}");
        for name in ["rewards/chosen", "rewards/rejected", "rewards/accuracies"] {
            assert!(first[name].is_f64(), "{name} in {first}");
        }
        for name in ["logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"] {
            assert!(first[name].is_f64(), "{name} in {first}");
        }
    }
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    assert!(report["rounds"][1]["training"]["rewards/margins"].is_f64(), "{report}");
    let card = String::from_utf8(files["final/adapter/README.md"].clone()).unwrap();
    assert!(card.contains("contrast"), "{card}");
    let shown = place.aligner(&["show", "run", "p-1"]).expect(0);
    assert!(shown.stdout.contains("good over bad"), "{}", shown.stdout);
}

/// What the reference is decides its logprobs; in round 1 both are the initial model.
#[test]
fn the_reference_is_the_initial_model_or_the_one_before() {
    for method in [&[][..], &FULL] {
        let place = Place::new();
        let rows = |name: &str, reference: &str| {
            let reference = format!("train.reference='{reference}'");
            let fixed = ["--set", "generate.model='initial'", "--set", &reference];
            run(&place, name, &[&fixed, method].concat()).expect(0);
            let files = place.files(name);
            ["rounds/01", "rounds/02"]
                .map(|round| files[&format!("{round}/reference.jsonl")].clone())
        };
        let (initial, previous) = (rows("initial", "initial"), rows("previous", "previous"));
        assert!(initial[0] == previous[0]);
        // The same rows again: the completions are the initial model's in other draws.
        assert!(initial[1] != previous[1]);
    }
}

#[test]
fn every_objective_trains_a_round() {
    let place = Place::new();
    let objectives = [
        ("dpo", 2),
        ("ipo", 2),
        ("hinge", 2),
        ("kto", 2),
        ("sso", 6),
        ("sso-generator", 4),
        ("simpo", 0),
        ("orpo", 0),
    ];
    for (objective, sequences) in objectives {
        let chosen = format!("train.objective='{objective}'");
        run(&place, objective, &["--rounds", "1", "--set", &chosen]).expect(0);
        let files = place.files(objective);
        let rows = lines(&files, "rounds/01/train.jsonl");
        let steered = rows.iter().filter(|row| row.get("steered").is_some()).count();
        assert_eq!(steered, if objective.starts_with("sso") { rows.len() } else { 0 });
        let items = match objective {
            "kto" => 2 * rows.len(),
            _ => rows.len(),
        };
        match sequences {
            0 => assert!(!files.contains_key("rounds/01/reference.jsonl")),
            _ => {
                let referred = lines(&files, "rounds/01/reference.jsonl");
                assert_eq!(referred.len(), items);
                let count = |row: &Value| row["logprobs"].as_array().unwrap().len();
                assert!(referred.iter().all(|row| count(row) == sequences), "{objective}");
            }
        }
        let steps = lines(&files, "rounds/01/metrics.jsonl");
        assert_eq!(steps.len(), items.div_ceil(3));
        assert_eq!(steps[0].get("kl").is_some(), objective == "kto", "{}", steps[0]);
    }
    // The renderings are those that the completions came from.
    let files = place.files("sso");
    let generated = lines(&files, "rounds/01/generate.jsonl");
    for row in lines(&files, "rounds/01/train.jsonl") {
        let record = generated.iter().find(|record| record["id"] == row["record_id"]).unwrap();
        let variant = |i: usize| &record["variants"][i];
        assert_eq!(row["steered"]["good_prompt"], variant(1)["prompt"]["chat"]);
        assert_eq!(row["steered"]["bad_prompt"], variant(2)["prompt"]["chat"]);
        assert_eq!(row["steered"]["plain"][0]["content"], variant(0)["completion"]["text"]);
    }
}

#[test]
fn pairs_that_say_nothing_are_dropped_and_named() {
    let place = Place::new();
    run(&place, "run", &["--rounds", "1", "--set", "filter.0.config.min_characters=9999"])
        .expect(6)
        .says(&["round 1 kept none of its 8 records", "too-short"]);
    let dropped = place.aligner(&["show", "run", "--dropped"]).expect(0);
    assert!(dropped.stdout.contains("too-short"), "{}", dropped.stdout);
    let set = ["--set", "train.max_length=4"];
    run(&place, "long", &[&["--rounds", "1"], &set[..]].concat())
        .expect(6)
        .says(&["round 1 kept none of its", "too-long"]);
}

#[test]
fn a_judge_s_rewards_make_pairs() {
    let place = Place::new();
    let judge = format!("judge.plugin='{}'", guests::path("contrast").display());
    let named = ["--set", "pair.reward='length'"];
    for (name, more) in [("sum", &[][..]), ("named", &named)] {
        run(&place, name, &[&["--rounds", "1", "--set", &judge], more].concat()).expect(0);
        let files = place.files(name);
        let generated = lines(&files, "rounds/01/generate.jsonl");
        let mut made = 0;
        for row in lines(&files, "rounds/01/pair.jsonl") {
            let record = generated.iter().find(|record| record["id"] == row["id"]).unwrap();
            let variants = record["variants"].as_array().unwrap();
            let length = |variant: &Value| {
                let text = variant["completion"]["text"].as_str().unwrap();
                text.len()
            };
            let lengths = || variants.iter().map(length);
            let (longest, shortest) = (lengths().max().unwrap(), lengths().min().unwrap());
            if longest == shortest {
                assert_eq!(row["dropped"], "tie");
                continue;
            }
            let named = |name: &Value| variants.iter().find(|v| v["name"] == *name).unwrap();
            assert_eq!(length(named(&row["pair"]["chosen"])), longest);
            assert_eq!(length(named(&row["pair"]["rejected"])), shortest);
            made += 1;
        }
        assert!(made > 2, "{made}");
    }
    let other = ["--rounds", "1", "--set", &judge, "--set", "pair.reward='wit'"];
    run(&place, "other", &other)
        .expect(2)
        .says(&["`reward` of `[pair]` is `wit`", "the judge gives are `length`"]);
    // As a filter behind the judge, found before anything is written.
    let filter =
        "filter=[{ after = 'judge', plugin = 'builtin:threshold', config.rewards.wit = 3 }]";
    run(&place, "other", &["--rounds", "1", "--set", &judge, "--set", filter])
        .expect(2)
        .says(&["it has no reward `wit`; it has: length", "hint: this was tried on made-up"]);
    assert!(!place.path("other").exists());
    let filter = filter.replace("wit", "length");
    run(&place, "other", &["--rounds", "1", "--set", &judge, "--set", &filter]).expect(0);
}

/// Pairs as text and as messages, some with principles.
fn given(place: &Place, steered: bool) -> String {
    let chat = |role: &str, content: &str| json!([{ "role": role, "content": content }]);
    let mut rows = Vec::new();
    for i in 0..6 {
        let (better, worse) = (format!("It is {i}."), format!("No, {i}{i}{i} it was"));
        let prompt = chat("user", &format!("What is {i}?"));
        rows.push(match (steered, i % 2) {
            (true, _) => json!({
                "id": format!("q-{i}"), "prompt": prompt, "chosen": better, "rejected": worse,
                "raw": "Who knows.", "p_system": "Be good.", "n_system": "Be bad.",
            }),
            (false, 0) => json!({
                "prompt": prompt,
                "chosen": chat("assistant", &better),
                "rejected": chat("assistant", &worse),
            }),
            (false, _) => {
                json!({ "prompt": format!("{i} is "), "chosen": better, "rejected": worse })
            }
        });
    }
    rows.push(json!({ "id": "same", "prompt": "x", "chosen": "y", "rejected": "y" }));
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let path = place.path("pairs.jsonl");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn pairs_from_a_file_are_learnt_from_as_they_stand() {
    let place = Place::new();
    let pairs = given(&place, false);
    for objective in ["dpo", "kto", "orpo"] {
        let chosen = format!("train.objective='{objective}'");
        let more = ["--rounds", "1", "--from-data", &pairs, "--set", &chosen];
        run(&place, objective, &more).expect(0);
    }
    let files = place.files("dpo");
    assert!(!files.contains_key("rounds/01/generate.jsonl"), "{:?}", files.keys());
    let rows = lines(&files, "rounds/01/train.jsonl");
    assert_eq!(rows.len(), 6, "the same completion twice says nothing");
    let row = |id: &str| rows.iter().find(|row| row["record_id"] == id).unwrap();
    assert_eq!(row("line-2")["prompt"], "1 is ");
    assert_eq!(row("line-2")["chosen"], "It is 1.");
    assert_eq!(row("line-1")["rejected"][0]["content"], "No, 000 it was");
    let shown = place.aligner(&["show", "dpo", "same"]).expect(0);
    assert!(shown.stdout.contains("dropped: identical"), "{}", shown.stdout);
    // What the policy finds of them is measured: in round 1 the reference says the same.
    let measured = lines(&files, "rounds/01/given.jsonl");
    for referred in lines(&files, "rounds/01/reference.jsonl") {
        let record = measured.iter().find(|record| record["id"] == referred["id"]).unwrap();
        for (variant, logprob) in [(0, 0), (1, 1)] {
            let completion = &record["variants"][variant]["completion"];
            let [a, b] = [&completion["logprob"], &referred["logprobs"][logprob]]
                .map(|number| number.as_f64().unwrap());
            // After raw text the end is learnt, and not measured: a whole text may go on.
            match record["variants"][variant]["prompt"].get("raw") {
                Some(_) => assert!(b < a, "{record} {referred}"),
                // The passes are not the same, so last bits may differ.
                None => assert!((a - b).abs() < 1e-6 * a.abs(), "{record} {referred}"),
            }
            assert!(completion["tokens"].as_u64().unwrap() > 1);
        }
    }
    // Without a principle plugin, and with the three ways of a prompt.
    let pairs = given(&place, true);
    let sso = ["--rounds", "1", "--from-data", &pairs, "--set", "train.objective='sso'"];
    place.set("tiny-dpo", "sso", &sso).expect(0);
    let files = place.files("sso");
    let rows = lines(&files, "rounds/01/train.jsonl");
    let row = rows.iter().find(|row| row["record_id"] == "q-2").unwrap();
    assert_eq!(row["steered"]["good_prompt"][0]["content"], "Be good.");
    assert_eq!(row["steered"]["bad_prompt"][1]["content"], "What is 2?");
    assert_eq!(row["steered"]["plain"][0]["content"], "Who knows.");
    assert_eq!(
        lines(&files, "rounds/01/reference.jsonl")[0]["logprobs"].as_array().unwrap().len(),
        6
    );

    let bare = given(&place, false);
    let sso = ["--rounds", "1", "--from-data", &bare, "--set", "train.objective='sso'"];
    place.set("tiny-dpo", "bare", &sso).expect(2).says(&["objective `sso`", "`p_system`"]);
    assert!(!place.path("bare").exists());

    std::fs::write(place.path("broken.jsonl"), "{\"prompt\": \"a\", \"chosen\": \"b\"}\n").unwrap();
    run(&place, "broken", &["--from-data", "broken.jsonl"])
        .expect(4)
        .says(&["the row has no `rejected`", "broken.jsonl:1"]);
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let contrast = contrast();
    let more = ["--set", &contrast];
    let stages = check_set("tiny-dpo", &more, "kill", step(5));
    for stage in ["pair", "reference", "train"] {
        assert!(stages.contains(stage), "never killed in {stage}: {stages:?}");
    }
}

#[test]
fn a_killed_training_of_every_weight_ends_with_the_same_bytes() {
    let contrast = contrast();
    let fixed =
        ["--set", &contrast, "--set", "train.objective='kto'", "--set", "train.save_steps=1"];
    let stages = check_set("tiny-dpo", &[&fixed[..], &FULL].concat(), "kill", step(17));
    assert!(stages.contains("train"), "{stages:?}");
}

#[test]
fn a_killed_run_over_given_pairs_ends_with_the_same_bytes() {
    let place = Place::new();
    let pairs = given(&place, false);
    let stages = check_set("tiny-dpo", &["--rounds", "1", "--from-data", &pairs], "kill", step(4));
    assert!(stages.contains("given"), "{stages:?}");
}
