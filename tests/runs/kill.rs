//! A run that is killed at a write, or whose disk is full, ends after `resume` with the same bytes
//! as one that was not.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use super::full::FULL;
use super::{Place, arguments};

/// The stages in which a run must have been killed at least once.
const STAGES: [&str; 7] =
    ["sample", "render", "generate", "difficulty", "filter-generate", "train", "evaluate"];

/// Returns the stage that was under way when a run stopped.
pub fn under_way(place: &Place, run: &str) -> Option<String> {
    let journal = std::fs::read_to_string(place.path(run).join("journal.jsonl")).ok()?;
    let last: serde_json::Value =
        journal.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back()?;
    (last["event"] == "started").then(|| last["stage"].as_str().unwrap_or_default().to_owned())
}

/// Runs with a fault at point `number`; returns whether it came to its end undisturbed.
fn disturbed(
    place: &Place,
    (set, run): (&str, &str),
    more: &[&str],
    fault: &str,
    number: u64,
) -> bool {
    let arguments = arguments(set, run, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = place
        .command(&arguments)
        .env("ALIGNER_FAULT", format!("{fault}:{number}"))
        .output()
        .unwrap();
    match fault {
        "kill" => output.status.signal() == Some(9),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                return false;
            }
            assert_eq!(output.status.code(), Some(5), "{said}");
            assert!(said.contains("hint: make room"), "{said}");
            true
        }
    }
}

/// Disturbs runs of the tiny set with further arguments, at every so many points.
fn check(more: &[&str], fault: &str, step: u64) -> BTreeSet<String> {
    check_set("tiny", more, fault, step)
}

/// Disturbs runs of a plugin set with further arguments, at every so many points. Returns the stages in
/// which that happened.
pub fn check_set(set: &str, more: &[&str], fault: &str, step: u64) -> BTreeSet<String> {
    let place = Place::new();
    place.set(set, "whole", more).expect(0);
    let whole = place.files("whole");
    let mut stages = BTreeSet::new();
    let mut number = 1;
    let mut points = 0;
    loop {
        let run = format!("{fault}-{number}");
        if !disturbed(&place, (set, &run), more, fault, number) {
            break;
        }
        stages.extend(under_way(&place, &run));
        points += 1;
        if place.path(&run).join("run.json").exists() {
            place.aligner(&["resume", &run]).expect(0);
        } else {
            place.set(set, &run, &[more, &["--resume"]].concat()).expect(0);
        }
        let files = place.files(&run);
        assert_eq!(files.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{run}");
        for (name, bytes) in &whole {
            assert!(files[name] == *bytes, "{name} of {run} differs");
        }
        std::fs::remove_dir_all(place.path(&run)).unwrap();
        number += step;
    }
    assert!(points > 10, "only {points} points of {fault}");
    println!("{fault}: {points} points, every {step}th, in stages {stages:?}");
    stages
}

/// How far apart the tested points lie; `make soak` tests every one.
pub fn step(usual: u64) -> u64 {
    if std::env::var_os("ALIGNER_SOAK").is_some() { 1 } else { usual }
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let stages = check(&[], "kill", step(7));
    for stage in STAGES {
        assert!(stages.contains(stage), "never killed in {stage}: {stages:?}");
    }
}

#[test]
fn a_full_disk_stops_a_run_and_loses_nothing() {
    check(&[], "full", step(17));
}

#[test]
fn a_killed_training_of_every_weight_ends_with_the_same_bytes() {
    // More than one checkpoint a round, so that one takes the place of another.
    let more = [&FULL[..], &["--rounds", "1", "--set", "train.num_train_epochs=2"]].concat();
    let stages = check(&more, "kill", step(5));
    assert!(stages.contains("train"), "{stages:?}");
    check(&more, "full", step(13));
    let keep = [&FULL[..], &["--rounds", "3", "--set", "run.keep=last"]].concat();
    check(&keep, "kill", step(23));
}
