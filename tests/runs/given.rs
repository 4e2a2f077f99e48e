//! Learning from pairs that are given (`--from-data`) with the plugin sets that ship: what is learnt,
//! under each objective and in each round.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Place;
use super::methods::{ANY_FORM, Files, ids, of, run};

/// Writes so many pairs as messages, with principles where they are `steered`, and returns the file.
pub fn pairs(place: &Place, count: usize, steered: bool) -> String {
    let numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let rows = numbers[..count].iter().enumerate().map(|(i, number)| {
        let mut row = json!({
            "id": format!("q-{i}"),
            "prompt": [{ "role": "user", "content": format!("What comes after {i}?") }],
            "chosen": format!("After {i} comes the number {number}."),
            "rejected": format!("Nobody knows, {number} or none."),
        });
        if steered {
            row["raw"] = json!(format!("It may well be {number}, I think."));
            row["p_system"] = json!("Be right, and say so.");
            row["n_system"] = json!("Be wrong, and say little.");
        }
        format!("{row}\n")
    });
    let path = place.path(if steered { "steered.jsonl" } else { "pairs.jsonl" });
    std::fs::write(&path, rows.collect::<String>()).unwrap();
    path.display().to_string()
}

fn given(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that what a round learns is what was given, and returns the ids.
fn check_learnt(files: &Files, round: u32, given: &[Value], steered: bool) -> BTreeSet<String> {
    for stage in ["render", "generate"] {
        assert!(!files.contains_key(&format!("rounds/0{round}/{stage}.jsonl")), "{stage}");
    }
    let trained = of(files, round, "train");
    assert!(!trained.is_empty());
    for row in &trained {
        let pair = given.iter().find(|pair| pair["id"] == row["record_id"]).unwrap();
        assert_eq!(row["prompt"], pair["prompt"]);
        for column in ["chosen", "rejected"] {
            assert_eq!(row[column], json!([{ "role": "assistant", "content": pair[column] }]));
        }
        assert_eq!(row["steered"].is_object(), steered, "{row}");
        if steered {
            for (name, column) in [("good_prompt", "p_system"), ("bad_prompt", "n_system")] {
                let system = json!({ "role": "system", "content": pair[column] });
                assert_eq!(row["steered"][name], json!([system, pair["prompt"][0]]));
            }
            assert_eq!(row["steered"]["plain"][0]["content"], pair["raw"]);
        }
    }
    ids(&trained, "record_id")
}

#[test]
fn every_objective_learns_the_pairs_that_are_given() {
    let place = Place::new();
    let (bare, steered) = (pairs(&place, 4, false), pairs(&place, 4, true));
    // Sequences of an item of which the reference says something.
    for (objective, sequences) in [
        ("dpo", Some(2)),
        ("ipo", Some(2)),
        ("hinge", Some(2)),
        ("kto", Some(2)),
        ("simpo", None),
        ("orpo", None),
        ("sso", Some(6)),
        ("sso-generator", Some(4)),
    ] {
        let by_role = objective.starts_with("sso");
        let chosen = format!("train.objective='{objective}'");
        for (name, pairs) in [("bare", &bare), ("steered", &steered)] {
            let out = format!("{objective}-{name}");
            let said = run(&place, "rlcd", &out, &["--from-data", pairs, "--set", &chosen]);
            if by_role && name == "bare" {
                let said = said.expect(2);
                said.says(&[&format!("objective `{objective}`"), "`p_system`"]);
                assert!(!place.path(&out).exists());
                continue;
            }
            said.expect(0);
            let files = place.files(&out);
            let learnt = check_learnt(&files, 1, &given(pairs), by_role);
            assert_eq!(learnt.len(), 4);
            match sequences {
                None => assert!(!files.contains_key("rounds/01/reference.jsonl")),
                Some(sequences) => {
                    let rows = of(&files, 1, "reference");
                    assert_eq!(rows.len(), if objective == "kto" { 8 } else { 4 });
                    let count = |row: &Value| row["logprobs"].as_array().unwrap().len();
                    assert!(rows.iter().all(|row| count(row) == sequences), "{objective}");
                }
            }
            let steps = of(&files, 1, "metrics");
            assert_eq!(steps.len(), 1, "all pairs in one step, once");
            assert!(steps[0]["grad_norm"].as_f64().unwrap() > 0.0, "{}", steps[0]);
        }
    }
}

#[test]
fn every_set_that_compares_learns_each_pair_once() {
    let place = Place::new();
    let steered = pairs(&place, 6, true);
    for (method, rounds) in [("rlcd", 1), ("sso", 3), ("sso-v2", 2), ("expo", 1)] {
        run(&place, method, method, &["--from-data", &steered]).expect(0);
        let files = place.files(method);
        let mut learnt = BTreeSet::new();
        for round in 1..=rounds {
            // In its second round, SSO's second version learns plain pairs.
            let by_role = method == "sso" || (method == "sso-v2" && round == 1);
            let of_round = check_learnt(&files, round, &given(&steered), by_role);
            assert!(of_round.iter().all(|id| learnt.insert(id.clone())), "{method} {of_round:?}");
        }
        assert_eq!(learnt.len(), 6, "{method}");
        assert_eq!(files.contains_key("rounds/01/extrapolate.jsonl"), method == "expo");
        assert!(!files.keys().any(|name| name.ends_with("render-asks.jsonl")), "{method}");
    }
}

#[test]
fn pairs_of_raw_text_need_no_place_for_principles() {
    let place = Place::new();
    let rows = "{\"prompt\":\"After one comes\",\"chosen\":\" the number two, of course.\",\"rejected\":\" nobody, or so they say.\"}\n";
    std::fs::write(place.path("raw.jsonl"), rows).unwrap();
    run(&place, "rlcd", "run", &["--from-data", "raw.jsonl"]).expect(0);
    let trained = of(&place.files("run"), 1, "train");
    assert_eq!(trained[0]["prompt"], "After one comes");
    assert_eq!(trained[0]["chosen"], " the number two, of course.");
}

#[test]
fn plugins_that_look_for_another_variant_are_named_before_anything_is_written() {
    let place = Place::new();
    let bare = pairs(&place, 4, false);
    let says =
        ["no variant `few-shot`; the record has: chosen, rejected", "hint: ", "`chosen` (good)"];
    let refused = |method: &str, more: &[&str], plugin: &str| {
        let said = run(&place, method, "run", &[&["--from-data", &bare], more].concat()).expect(2);
        said.says(&says).says(&[plugin]);
        assert!(!place.path("run").exists());
    };
    refused("soft", &[], "filter `self-align-format`");
    refused("dromedary", &[], "filter `self-align-format`");
    refused("soft-plus", &["--set", "filter=[]"], "difficulty `perplexity`");
    // Told which, they work on it.
    let chosen = ANY_FORM.replace("format = ", "variant = 'chosen', format = ");
    let easy = ["--set", "difficulty.config.variant='chosen'", "--rounds", "1"];
    let more = ["--from-data", &bare, "--set", &chosen];
    run(&place, "soft-plus", "told", &[&more[..], &easy].concat()).expect(0);
    let trained = of(&place.files("told"), 1, "train");
    assert!(trained.iter().all(|row| row["difficulty"].is_f64()), "{trained:?}");
    assert!(!trained.is_empty());
    for row in &trained {
        let pair = given(&bare).into_iter().find(|pair| pair["id"] == row["record_id"]).unwrap();
        assert_eq!(row["completion"][0]["content"], pair["chosen"]);
    }
}
