//! Runs whose prompts the policy writes itself: which prompts come of which slot, what the filters over
//! prompts see of the pool, and where too few are found.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::kill::{check_set, step};
use super::{Place, Said, lines};
use crate::runtime::guests;

/// What makes the guest sampler and filter of the set.
fn writer() -> [String; 2] {
    let path = guests::path("writer").display().to_string();
    [format!("sampler.plugin='{path}'"), format!("filter.0.plugin='{path}'")]
}

fn run(place: &Place, run: &str, more: &[&str]) -> Said {
    let [sampler, filter] = writer();
    place.set("tiny-write", run, &[&["--set", &sampler, "--set", &filter], more].concat())
}

fn words(text: &Value) -> &str {
    text["chat"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

#[test]
fn written_prompts_join_the_pool_and_are_worked_on() {
    let place = Place::new();
    let said = run(&place, "run", &[]).expect(0);
    let files = place.files("run");
    // The seeds, of which the last is shown to the model, and what has come after them.
    let (mut pool, mut last) = (8, "Why do we sleep?".to_owned());
    for round in 1..=2 {
        let of = |stage: &str| lines(&files, &format!("rounds/{round:02}/{stage}.jsonl"));
        let (written, asked) = (of("write"), of("write-asks"));
        // Four slots, as so many prompts are hoped for of each, then four more as each gave one.
        assert_eq!((written.len(), asked.len()), (16, 8));
        let mut accepted = Vec::new();
        let mut known = BTreeSet::new();
        for (number, row) in written.iter().enumerate() {
            let slot = number / 2;
            assert_eq!(row["id"], format!("w{round:02}-{:04}", number + 1));
            assert_eq!(
                (&row["slot"], &row["tags"]),
                (&json!(slot), &json!([format!("round:{round}")]))
            );
            if number % 2 == 1 {
                assert_eq!(
                    (words(&row["prompt"]), &row["dropped"]),
                    ("Name a fruit.", &json!("seen"))
                );
                continue;
            }
            let ask = &asked[slot];
            assert_eq!(
                (&ask["record"], &ask["index"]),
                (&json!(format!("slot-{slot}")), &json!(0))
            );
            let answer = ask["answer"]["completion"]["text"].as_str().unwrap();
            assert_eq!(words(&row["prompt"]), format!("{round}.{slot} {answer}"));
            known.insert(answer.to_owned());
            let (pool, last) = if slot < 4 {
                (pool, last.clone())
            } else {
                (pool + 4, words(&written[6]["prompt"]).to_owned())
            };
            let question = words(&ask["request"]["generate"]["prompt"]);
            assert_eq!(question, format!("{pool} so far. Write another one: {last}"));
            match accepted.len() {
                6 => assert_eq!(row["dropped"], "surplus"),
                _ => {
                    assert!(row.get("dropped").is_none(), "{row}");
                    accepted.push(row.clone());
                }
            }
        }
        assert!(known.len() > 4, "slots draw by themselves: {known:?}");
        (pool, last) = (pool + 6, words(&accepted[5]["prompt"]).to_owned());

        let verdicts = of("filter-sample");
        assert_eq!(verdicts.len(), 16);
        for (verdict, row) in verdicts.iter().zip(&written) {
            assert_eq!((&verdict["id"], &verdict["plugin"]), (&row["id"], &json!("writer")));
            assert_eq!(verdict["version"], "0.3.1");
            let dropped = row["dropped"] == "seen";
            let said = if dropped { json!({"drop": "seen"}) } else { json!("keep") };
            assert_eq!(verdict["verdict"], said);
        }
        let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(&of("sample")), ids(&accepted));
        let generated = of("generate");
        assert_eq!(ids(&generated), ids(&accepted));
        for (record, row) in generated.iter().zip(&accepted) {
            assert_eq!(record["variants"][0]["prompt"], row["prompt"]);
        }
        assert_eq!(of("train").len(), 6);
    }

    assert!(said.stdout.contains("written"), "{}", said.stdout);
    assert!(said.stdout.contains("dropped in round 2: seen 8, surplus 2"), "{}", said.stdout);
    assert!(said.stderr.contains("8 prompts, 6 written in each round"), "{}", said.stderr);
    let shown =
        |arguments: &[&str]| place.aligner(&[&["show", "run"], arguments].concat()).expect(0);
    let dropped = shown(&["--dropped", "--round", "1"]).stdout;
    for part in ["seen (writer 0.3.1): 8", "surplus (aligner): 2\n         w01-0013 w01-0015"] {
        assert!(dropped.contains(part), "{dropped}");
    }
    let life = shown(&["w01-0003"]).stdout;
    for part in
        ["write       slot 1:", "filter-sample writer 0.3.1: keep", "write asked", "8 so far"]
    {
        assert!(life.contains(part), "{life}");
    }
    let list = shown(&["--round", "2"]).stdout;
    assert!(list.contains("w02-0001     trained") && list.contains("dropped: surplus"), "{list}");
}

#[test]
fn a_round_goes_on_with_fewer_and_ends_the_run_with_none() {
    let place = Place::new();
    let fewer = ["--rounds", "1", "--set", "sampler.write.slots=3"];
    run(&place, "fewer", &fewer)
        .expect(0)
        .says(&["round 1 goes on with 3 written prompts, of 6 that", "3 slots are used up"]);
    assert_eq!(lines(&place.files("fewer"), "rounds/01/train.jsonl").len(), 3);

    let copies = ["--set", "sampler.config={ copies = true }"];
    run(&place, "none", &copies).expect(6).says(&["round 1 kept none of its 20 records: seen 20"]);
    let files = place.files("none");
    assert!(files.contains_key("rounds/01/write.jsonl"), "{:?}", files.keys());
    assert!(!files.contains_key("rounds/01/sample.jsonl"), "{:?}", files.keys());
    // It has ended, and a second call says the same.
    run(&place, "none", &copies).expect(6);
    assert_eq!(place.files("none"), files);
    let nothing = ["--set", "sampler.config={ nothing = true }"];
    run(&place, "nothing", &nothing).expect(6).says(&["round 1 had no prompt to work on"]);
}

#[test]
fn a_set_and_its_sampler_agree_on_writing() {
    let place = Place::new();
    let [sampler, filter] = writer();
    place.tiny("run", &["--set", &sampler]).expect(2).says(&[
        "sampler `writer` 0.3.1 writes prompts",
        "`write = { prompts = 64, slots = 200 }`",
    ]);
    place
        .set("tiny-write", "run", &["--set", &filter])
        .expect(2)
        .says(&["`[sampler]` has `write`, and sampler `exemplars`", "writes no prompts"]);
    std::fs::write(place.path("p.jsonl"), "{\"id\": \"w01-0002\", \"prompt\": \"x\"}\n").unwrap();
    run(&place, "run", &["--prompts", "p.jsonl"])
        .expect(2)
        .says(&["prompt `w01-0002` of the pool has an id as written prompts get them"]);
    assert!(!place.path("run").exists());
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let [sampler, filter] = writer();
    let stages = check_set("tiny-write", &["--set", &sampler, "--set", &filter], "kill", step(5));
    for stage in ["write", "sample", "train"] {
        assert!(stages.contains(stage), "never killed in {stage}: {stages:?}");
    }
}
