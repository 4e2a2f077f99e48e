//! A worker that is killed at a write, or whose disk is full, ends when it is started again with the same
//! bytes as one that was not.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use super::{pairs, rows_of, shards_set, staged};
use crate::runs::Place;
use crate::runs::kill::step;

/// Returns a result with all that belongs to it.
fn files(place: &Place, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix(out) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            files.insert(rest.to_owned(), bytes);
        }
    }
    files
}

/// Disturbs a stage over `in.jsonl` at every so many points, twice each, and starts it again. Returns at how
/// many points.
fn check(place: &Place, stage: &[&str], fault: &str, every: u64) -> u64 {
    let set = shards_set();
    let args = |out: &str| -> Vec<String> {
        let fixed = ["--plugins", &set, "--in", "in.jsonl", "--out", out, "--device", "cpu"];
        ["stage"].iter().chain(stage).chain(&fixed).map(|it| (*it).to_owned()).collect()
    };
    let run = |out: &str, number: Option<u64>| {
        let args = args(out);
        let mut command = place.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(number) = number {
            command.env("ALIGNER_FAULT", format!("{fault}:{number}"));
        }
        command.output().unwrap()
    };
    assert!(run("whole", None).status.success());
    let whole = files(place, "whole");
    let (mut number, mut points) = (1, 0);
    loop {
        let out = format!("{fault}-{number}-");
        let output = run(&out, Some(number));
        if output.status.success() {
            assert_eq!(files(place, &out), whole);
            return points;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match fault {
            "kill" => assert_eq!(output.status.signal(), Some(9), "{said}"),
            _ => {
                assert_eq!(output.status.code(), Some(5), "{said}");
                let hint = "hint: make room; then the same command goes on";
                assert!(said.contains(hint), "{said}");
            }
        }
        points += 1;
        // A second time soon after, in the middle of going on.
        run(&out, Some(5));
        let last = run(&out, None);
        assert!(last.status.success(), "{number}: {}", String::from_utf8_lossy(&last.stderr));
        let found = files(place, &out);
        assert_eq!(found.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{number}");
        for (name, bytes) in &whole {
            assert!(found[name] == *bytes, "{name} differs after {fault} at {number}");
        }
        number += every;
    }
}

#[test]
fn a_killed_worker_that_asks_ends_with_the_same_bytes() {
    let place = Place::new();
    let filtered =
        staged(&place, &["filter", "--after", "generate"], &shards_set(), &[pairs(12).concat()]);
    std::fs::write(place.path("in.jsonl"), filtered).unwrap();
    let points = check(&place, &["judge"], "kill", step(5));
    assert!(points > 5, "{points}");
    let points = check(&place, &["judge"], "full", step(11));
    assert!(points > 2, "{points}");
}

#[test]
fn a_worker_that_is_killed_between_chunks_ends_with_the_same_bytes() {
    let place = Place::new();
    // More than one chunk.
    std::fs::write(place.path("in.jsonl"), pairs(9000).concat()).unwrap();
    let points = check(&place, &["filter", "--after", "generate"], "kill", step(3));
    assert!(points > 4, "{points}");
    check(&place, &["filter", "--after", "generate"], "full", step(5));
}

#[test]
fn answers_of_a_killed_worker_are_not_asked_for_again() {
    let place = Place::new();
    let rows = rows_of(&pairs(12).concat());
    std::fs::write(place.path("in.jsonl"), rows.concat()).unwrap();
    let set = shards_set();
    let args = ["stage", "judge", "--plugins", &set, "--in", "in.jsonl", "--out", "out.jsonl"];
    let args = [&args[..], &["--device", "cpu"]].concat();
    let ledger = place.path("out.jsonl.work/rounds/01/judge.partial.jsonl");
    let mut before = Vec::new();
    for number in [20, 30] {
        let killed = place.command(&args).env("ALIGNER_FAULT", format!("kill:{number}")).status();
        assert_eq!(killed.unwrap().signal(), Some(9), "{number}");
        let now = std::fs::read(&ledger).unwrap();
        let whole = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        assert!(now.len() > before.len() && now.starts_with(&before[..whole]), "{number}");
        before = now;
    }
    // Each answer stands there once.
    let keys: Vec<&[u8]> =
        before.split(|&byte| byte == b'\n').filter(|it| !it.is_empty()).collect();
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert!(keys.len() > 3 && distinct.len() == keys.len(), "{}", keys.len());
    place.aligner(&args).expect(0);
    // A worker that is started once more finds it done, whatever the other processes do.
    let files_before = files(&place, "out.jsonl");
    place.aligner(&args).expect(0).says(&["`out.jsonl` is finished; nothing to do"]);
    assert_eq!(files(&place, "out.jsonl"), files_before);
}
