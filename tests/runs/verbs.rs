//! `aligner plugin check`, `test`, `run` and `bench`: one component by itself.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Place, Said};
use crate::runtime::guests;

fn place() -> Place {
    let place = Place::new();
    let rows = [
        json!({"id": "a", "prompt": "Why?", "completion": "Because."}),
        json!({"prompt": "Why?", "completion": "Because it has been so for as long as anybody knows."}),
        json!({"id": "c", "prompt": "Why not?", "completion": ""}),
    ];
    let text: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(place.path("rows.jsonl"), text.concat()).unwrap();
    place
}

fn lines(said: &Said) -> Vec<Value> {
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(place: &Place, more: &[&str]) -> Said {
    place.aligner(&[&["plugin", "run"], more].concat())
}

const SHORT: &str = r#"{"min_words":3,"max_characters":1000000,"max_words":1000000}"#;

#[test]
fn check_says_all_that_is_known_of_a_component() {
    let place = place();
    let said = place.aligner(&["plugin", "check", "builtin:density", "--json"]).expect(0);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(found["interfaces"], json!(["set-filter"]));
    assert_eq!(found["may_ask"], json!(false));
    assert_eq!(found["needs"], json!(["cluster(plain)"]));
    assert!(found["built_for"].as_str().unwrap().starts_with("0.1."), "{found}");
    let imports = found["imports"].as_array().unwrap();
    assert!(!imports.is_empty());
    assert!(
        imports.iter().all(|it| it.as_str().unwrap().starts_with("aligner:plugin/")),
        "{found}"
    );
    assert!(found["compile_milliseconds"].as_f64().unwrap() > 0.0);
    let said = place.aligner(&["plugin", "check", "builtin:grade"]).expect(0);
    assert!(said.stdout.contains("asks         may ask the models"), "{}", said.stdout);
    assert!(said.stdout.contains("\ncompiled in  "), "{}", said.stdout);
}

#[test]
fn test_prints_what_fails_and_ends_with_the_code_of_plugins() {
    let place = place();
    let said =
        place.aligner(&["plugin", "test", "builtin:length", "--data", "rows.jsonl"]).expect(0);
    for part in
        ["\nfilter\n", "records (data): keep 3", "checks passed\n", "note  schema: it has none"]
    {
        assert!(said.stdout.contains(part), "no {part:?} in\n{}", said.stdout);
    }
    assert!(!said.stdout.contains("FAIL"), "{}", said.stdout);

    let guest = guests::path("unfit").display().to_string();
    let arguments = ["plugin", "test", &guest, "--config", r#"{"mode":"panics"}"#];
    let said = place.aligner(&arguments).expect(3);
    assert!(
        said.stdout.contains("  FAIL  awkward completions: it fails on 1 of 29: `empty`"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("filter `unfit` 0.1.0 panicked: "), "{}", said.stdout);
    assert!(
        said.stderr.contains("checks failed; the first: filter, awkward completions"),
        "{}",
        said.stderr
    );
    let said = place.aligner(&[&arguments[..], &["--json"]].concat()).expect(3);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(found["failed"], 1);
    let failed: Vec<&Value> =
        found["checks"].as_array().unwrap().iter().filter(|it| it["verdict"] == "fail").collect();
    assert_eq!((failed[0]["interface"].as_str(), failed.len()), (Some("filter"), 1));

    std::fs::write(place.path("no.wasm"), "(component)").unwrap();
    let said = place.aligner(&["plugin", "test", "no.wasm"]).expect(3);
    assert!(said.stdout.contains("FAIL  describes itself"), "{}", said.stdout);
    place
        .aligner(&["plugin", "test", "builtin:threshold"])
        .expect(3)
        .says(&["the first: takes its configuration"]);
}

#[test]
fn run_gives_a_line_for_each_record_in_order() {
    let place = place();
    let said =
        run(&place, &["builtin:length", "--data", "rows.jsonl", "--config", SHORT]).expect(0);
    let expected = [
        json!({"id": "a", "verdict": {"drop": "too-short"}}),
        json!({"id": "line-2", "verdict": "keep"}),
        json!({"id": "c", "verdict": {"drop": "too-short"}}),
    ];
    assert_eq!(lines(&said), expected);
    run(
        &place,
        &["builtin:length", "--data", "rows.jsonl", "--config", SHORT, "--out", "out.jsonl"],
    )
    .expect(0);
    assert_eq!(std::fs::read_to_string(place.path("out.jsonl")).unwrap(), said.stdout);
    assert!(!place.path("out.jsonl.tmp").exists());

    let mut child = place
        .command(&["plugin", "run", "builtin:length", "--data", "-", "--config", SHORT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = std::fs::read(place.path("rows.jsonl")).unwrap();
    child.stdin.take().unwrap().write_all(&rows).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), said.stdout);
}

#[test]
fn run_works_for_every_kind() {
    let place = place();
    let pair =
        |id: &str| json!({"id": id, "prompt": "Why?", "chosen": "Because.", "rejected": "No."});
    std::fs::write(place.path("pairs.jsonl"), format!("{}\n{}\n", pair("p"), pair("q"))).unwrap();
    let first = |more: &[&str]| lines(&run(&place, more).expect(0)).remove(0);

    let found = lines(&run(&place, &["builtin:rouge-l", "--data", "pairs.jsonl"]).expect(0));
    assert_eq!(found[0]["verdict"], "keep");
    assert!(found[1]["verdict"]["drop"].is_string(), "{found:?}");
    let found = first(&["builtin:contrast", "--data", "rows.jsonl", "--after", "sample"]);
    assert_eq!(found["variants"][0]["name"], "good");
    let sampler =
        ["builtin:exemplars", "--data", "rows.jsonl", "--principle", "builtin:self-align"];
    let found = first(&sampler);
    assert_eq!(found["selected"], 1);
    assert_eq!(found["exemplars"].as_array().unwrap().len(), 2);
    let other = first(&[&sampler[..], &["--seed", "7"]].concat());
    assert_ne!(found["exemplars"], other["exemplars"]);
    // A record of a run carries all that a judge has said.
    let record = json!({
        "prompt": {"id": "r-1", "text": {"raw": "Q:"}},
        "rewards": [{"variant": "plain", "name": "quality", "value": 3.0}],
    });
    std::fs::write(place.path("record.jsonl"), record.to_string()).unwrap();
    let found = first(&[
        "builtin:threshold",
        "--data",
        "record.jsonl",
        "--config",
        r#"{"rewards":{"quality":4}}"#,
    ]);
    assert_eq!(found, json!({"id": "r-1", "verdict": {"drop": "below-threshold"}}));
}

#[test]
fn run_names_what_is_missing_and_where() {
    let place = place();
    run(&place, &["builtin:reward-model", "--data", "rows.jsonl"]).expect(3).says(&[
        "asks the model `reward` without the right to",
        "--> rows.jsonl:1",
        "hint: it asks a model: `--model MODEL` says which",
    ]);
    // A record that the plugin fails on has its line, and the others have theirs.
    let guest = guests::path("unfit").display().to_string();
    let said = run(&place, &[&guest, "--data", "rows.jsonl", "--config", r#"{"mode":"panics"}"#]);
    assert_eq!(said.code, Some(3));
    let found = lines(&said);
    assert_eq!(found[0], json!({"id": "a", "verdict": "keep"}));
    assert!(found[2]["failed"].as_str().unwrap().starts_with("panicked: "), "{found:?}");
    let message = "the plugin failed on 1 of 3 records\n  record `c`: it panicked: ";
    assert!(said.stderr.contains(message), "{}", said.stderr);
    assert!(said.stderr.contains("--> rows.jsonl:3"), "{}", said.stderr);

    std::fs::write(place.path("bad.jsonl"), "{\"prompt\": \"a\"}\n{\"chosen\": \"b\"}\n").unwrap();
    run(&place, &["builtin:length", "--data", "bad.jsonl"])
        .expect(4)
        .says(&["without the other", "--> bad.jsonl:2"]);
    run(&place, &["builtin:length", "--data", "none.jsonl"]).expect(4).says(&["none.jsonl"]);
}

#[test]
fn run_ends_quietly_when_nobody_reads_on() {
    let place = place();
    let row = format!("{}\n", json!({"prompt": "Why?", "completion": "Because."}));
    std::fs::write(place.path("many.jsonl"), row.repeat(30_000)).unwrap();
    let mut child = place
        .command(&["plugin", "run", "builtin:length", "--data", "many.jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!errors.contains("error"), "{errors}");
}

#[test]
fn bench_measures_both_plugins_on_the_same_records() {
    let place = place();
    let said = place
        .aligner(&["plugin", "bench", "builtin:output-rules", "--seconds", "1", "--json"])
        .expect(0);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&found["interface"], &found["items"]), (&json!("filter"), &json!(256)));
    let plugins = found["plugins"].as_array().unwrap();
    assert_eq!(plugins[1]["plugin"], "builtin:length");
    for name in [
        "item_microseconds",
        "megabytes_a_second",
        "fuel_an_item",
        "start_microseconds",
        "load_milliseconds",
    ] {
        assert!(plugins.iter().all(|it| it[name].as_f64().unwrap() > 0.0), "{name}: {found}");
    }
    for plugin in ["builtin:exemplars", "builtin:self-instruct", "builtin:grade", "builtin:density"]
    {
        let said = place.aligner(&["plugin", "bench", plugin, "--seconds", "1"]).expect(0);
        assert!(said.stdout.contains("µs a record"), "{}", said.stdout);
    }
}
