//! What a stage refuses, and with which words.

use std::process::Command;

use super::{cut, pairs, parsed, shards_set};
use crate::runs::{Place, Said, tests};

fn filter(place: &Place, more: &[&str]) -> Said {
    let set = tests().join("sets/tiny.toml").display().to_string();
    place.aligner(&[&["stage", "filter", "--plugins", &set], more].concat())
}

const FILES: [&str; 4] = ["--in", "in.jsonl", "--out", "out.jsonl"];

#[test]
fn rows_that_cannot_be_taken_are_named_with_file_and_line() {
    let place = Place::new();
    let good = r#"{"id": "a", "prompt": "Why?", "completion": "So."}"#;
    let check = |second: &[u8], parts: &[&str]| {
        let bytes = [good.as_bytes(), b"\n", second].concat();
        std::fs::write(place.path("in.jsonl"), bytes).unwrap();
        filter(&place, &FILES).expect(4).says(parts);
        assert!(!place.path("out.jsonl").exists(), "{parts:?}");
        // What is put right is begun anew: nothing of the other rows is left.
        std::fs::remove_dir_all(place.path("out.jsonl.work")).unwrap();
    };
    let at = "\n  --> in.jsonl:2";
    check(
        br#"{"prompt": "Why?", "completion": "So."}"#,
        &[
            "the row has no `id`",
            at,
            "hint: give every row an `id` of its own before the data is cut",
        ],
    );
    check(br#"{"id": null, "prompt": "Why?", "completion": "So."}"#, &["the row has no `id`", at]);
    check(
        br#"{"id": "a", "prompt": "How?", "completion": "So."}"#,
        &["id `a` stands in line 1 already", at, "hint: an id stands for one row of all the data"],
    );
    check(b"{\"id\": \"b\", \"prompt\": \"Wh", &["the line is not JSON", at]);
    check(b"Why?", &["the line is not JSON", at]);
    check(b"[1]", &["the line is not a JSON object", at]);
    check(b"{\"id\": \"b\", \"prompt\": \"\xff\"}", &["the line is not UTF-8", at]);
    check(br#"{"id": "b", "text": "Why?"}"#, &["the row has no prompt", at]);
    check(br#"{"id": {}, "prompt": "Why?", "completion": ""}"#, &["`id` must be", at]);
    check(br#"{"id": "b", "prompt": "Why?", "chosen": "So."}"#, &["without the other", at]);
    check(
        br#"{"id": "b", "prompt": {"id": "c", "text": {"raw": "Q"}}}"#,
        &["`id` is another one than that of the prompt, `c`", at],
    );
    check(
        br#"{"prompt": {"id": "c", "text": {"raw": "Q"}}, "dropped": true}"#,
        &["`dropped` is not as `aligner stage` writes it", at],
    );
}

#[test]
fn a_shard_without_a_row_has_a_result_without_one() {
    let place = Place::new();
    for empty in ["", "\n\n"] {
        std::fs::write(place.path("in.jsonl"), empty).unwrap();
        let said = filter(&place, &[&FILES[..], &["--fresh"]].concat()).expect(0);
        let said = said.says(&["`in.jsonl` holds no row"]);
        assert_eq!(std::fs::read(place.path("out.jsonl")).unwrap(), b"");
        assert!(said.stdout.contains("written to out.jsonl"), "{}", said.stdout);
    }
    // Many shards of few rows.
    assert!(cut(&pairs(3), 64).iter().any(String::is_empty));
}

#[test]
fn files_that_cannot_be_those_of_a_shard_are_refused() {
    let place = Place::new();
    std::fs::write(place.path("in.jsonl"), pairs(3).concat()).unwrap();
    let check = |input: &str, out: &str, code: i32, parts: &[&str]| {
        filter(&place, &["--in", input, "--out", out]).expect(code).says(parts);
    };
    check("in.jsonl", "in.jsonl", 2, &["would replace `in.jsonl`, which is read"]);
    check("in.jsonl", "./x/../in.jsonl", 2, &["cannot be written"]);
    check("in.jsonl", "gone/out.jsonl", 2, &["`gone` is no folder"]);
    check("in.jsonl", ".", 2, &["is a folder"]);
    check("in.jsonl", "/dev/null", 2, &["`--out /dev/null` is no file"]);
    check("in.jsonl", "out.jsonl.gz", 2, &["would hold plain lines", "hint: leave `.gz` off"]);
    check("gone.jsonl", "out.jsonl", 4, &["cannot read data file `gone.jsonl`"]);
    check(".", "out.jsonl", 4, &["`.`"]);
    check("-", "out.jsonl", 4, &["`-`"]);
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    check("pipe", "out.jsonl", 4, &["`--in pipe` is no file", "hint: write the rows to a file"]);

    // A result of something else, or of nobody, stays.
    std::fs::write(place.path("out.jsonl"), "years of work").unwrap();
    check("in.jsonl", "out.jsonl", 5, &["out.jsonl` is there", "or throw it away with `--fresh`"]);
    filter(&place, &[&FILES[..], &["--fresh"]].concat()).expect(0);
    filter(&place, &FILES).expect(0).says(&["is finished; nothing to do"]);
    filter(&place, &[&FILES[..], &["--seed", "9"]].concat())
        .expect(5)
        .says(&["is the result of other work: it differs in seed"]);
    filter(&place, &[&FILES[..], &["--set", "filter.0.config.min_characters=3"]].concat())
        .expect(5)
        .says(&["differs in plugins"]);
    std::fs::write(place.path("in.jsonl"), pairs(4).concat()).unwrap();
    filter(&place, &FILES).expect(5).says(&["differs in input"]);
    let rows = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert_eq!(parsed(&rows).len(), 3);
}

#[test]
fn plugin_sets_that_have_no_such_stage_are_refused() {
    let place = Place::new();
    std::fs::write(place.path("in.jsonl"), pairs(3).concat()).unwrap();
    let shards = shards_set();
    let check = |args: &[&str], code: i32, parts: &[&str]| {
        place.aligner(&[&["stage"], args, &FILES[..]].concat()).expect(code).says(parts);
        assert!(!place.path("out.jsonl.work").exists(), "{args:?}");
    };
    check(
        &["filter", "--plugins", &shards],
        2,
        &[
            "has filters at several places",
            "hint: `--after` says which: `sample`, `generate`, `judge`, `pair`",
        ],
    );
    place.write_set("mine.toml", "");
    let mine = ["--plugins", "mine.toml"];
    let of = |stage: &'static str, more: &[&'static str]| [&[stage], &mine[..], more].concat();
    check(
        &of("filter", &["--after", "pair"]),
        2,
        &["has no filter after `pair`", "after `generate`"],
    );
    check(&of("judge", &[]), 2, &["`mine.toml` has no judge"]);
    check(&of("score", &["--round", "9"]), 2, &["`--round 9` is over", "2 rounds"]);
    check(&of("filter", &["--adapter", "x"]), 2, &["an adapter is named", "no plugin"]);
    check(&of("score", &["--adapter", "gone"]), 4, &["gone"]);
    check(&["score", "--plugins", "gone.toml"], 2, &["gone.toml"]);
    check(&of("filter", &["--set", "filter.0.plugin=gone.wasm"]), 2, &["gone.wasm"]);
    check(&of("score", &["--model", "gone"]), 4, &["gone"]);
    let reward = tests().join("sets/tiny-reward.toml").display().to_string();
    check(&["judge", "--plugins", &reward], 2, &["round 1 of", "goes without the judge"]);
    check(
        &["judge", "--plugins", &reward, "--round", "3"],
        2,
        &["a plugin asks `taste`, which round 2 of a run saves"],
    );
    // Filters ask nobody, so they need no model.
    let args = of("filter", &["--model", "gone"]);
    place.aligner(&[&["stage"], &args[..], &FILES[..]].concat()).expect(0);
}
