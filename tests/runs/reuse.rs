//! `--reuse`: a run takes over what another has done, and ends with the bytes that it would have alone.

use std::collections::BTreeSet;

use super::Place;

/// Returns the stages of a run that were done in less than no time: those that were taken over are copied,
/// and say nothing of progress.
fn generated(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.contains(": generate: ")).collect()
}

#[test]
fn a_run_takes_over_all_that_stands_on_the_same() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    let first = place.files("first");
    let again = place.tiny("again", &["--reuse", "first"]).expect(0);
    assert_eq!(place.files("again"), first);
    assert!(generated(&again.stderr).is_empty(), "{}", again.stderr);
    let stages = String::from_utf8(first["journal.jsonl"].clone()).unwrap();
    let stages = stages.lines().filter(|line| line.contains("\"finished\"")).count();
    again.says(&[&format!("{stages} of {stages} stages taken over from `first`")]);
    assert_eq!(place.files("first"), first, "the earlier run is as it was");
}

#[test]
fn a_run_with_a_change_ends_as_it_would_alone() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    // What is changed, and whether round 1 has completions to make.
    let changes: [(&[&str], bool); 5] = [
        (&["--set", "filter.0.config.min_characters=8"], false),
        (&["--set", "train.learning_rate=1e-3"], false),
        (&["--set", "difficulty.order=hard-to-easy"], false),
        (&["--set", "evaluate.measures=[\"length\"]"], false),
        (&["--set", "generate.temperature=0.5"], true),
    ];
    for (number, (change, generates)) in changes.into_iter().enumerate() {
        let (alone, with) = (format!("alone-{number}"), format!("with-{number}"));
        place.tiny(&alone, change).expect(0);
        let said = place.tiny(&with, &[change, &["--reuse", "first"]].concat()).expect(0);
        let (alone, with) = (place.files(&alone), place.files(&with));
        assert_eq!(alone.keys().collect::<Vec<_>>(), with.keys().collect::<Vec<_>>(), "{change:?}");
        for (name, bytes) in &alone {
            assert!(with[name] == *bytes, "{name} differs with {change:?}");
        }
        let early: BTreeSet<&str> = generated(&said.stderr)
            .into_iter()
            .filter_map(|line| line.split(':').next())
            .filter(|place| *place != "round 2")
            .collect();
        assert_eq!(!early.is_empty(), generates, "{change:?}: {}", said.stderr);
    }
}

#[test]
fn what_was_altered_is_done_again() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    let first = place.files("first");
    let file = place.path("first/rounds/01/generate.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"text\":\"", "\"text\":\"x", 1)).unwrap();
    std::fs::remove_file(place.path("first/rounds/01/train.jsonl")).unwrap();
    let said = place.tiny("again", &["--reuse", "first"]).expect(0);
    assert_eq!(place.files("again"), first);
    said.says(&[
        "generate.jsonl` is not what its run wrote; round 1: generate is done again",
        "train.jsonl` is not what its run wrote; round 1: train is done again",
    ]);
}

#[test]
fn an_unfinished_run_gives_what_it_has() {
    let place = Place::new();
    place.tiny("whole", &[]).expect(0);
    let arguments = super::tiny("killed", &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    place.command(&arguments).env("ALIGNER_FAULT", "kill:120").output().unwrap();
    assert!(!place.path("killed/final").exists());
    place.tiny("again", &["--reuse", "killed"]).expect(0).says(&["taken over from `killed`"]);
    assert_eq!(place.files("again"), place.files("whole"));
}

#[test]
fn a_run_that_is_killed_while_it_takes_over_goes_on_without() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    let first = place.files("first");
    let mut killed = 0;
    for point in (1..200).step_by(super::kill::step(13) as usize) {
        let arguments = super::tiny("again", &["--reuse", "first"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let fault = format!("kill:{point}");
        let output = place.command(&arguments).env("ALIGNER_FAULT", fault).output().unwrap();
        if output.status.success() {
            break;
        }
        killed += 1;
        match place.path("again/run.json").exists() {
            true => place.aligner(&["resume", "again"]).expect(0),
            false => place.tiny("again", &["--resume", "--reuse", "first"]).expect(0),
        };
        assert_eq!(place.files("again"), first, "killed at {point}");
        std::fs::remove_dir_all(place.path("again")).unwrap();
    }
    assert!(killed > 5, "{killed}");
}

#[test]
fn what_cannot_be_taken_over_is_said_before_anything_is_written() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    let refused = |more: &[&str], code, parts: &[&str]| {
        place.tiny("new", more).expect(code).says(parts);
        assert!(!place.path("new").exists(), "{more:?}");
    };
    refused(&["--reuse", "nowhere"], 5, &["`nowhere` is no run directory"]);
    refused(
        &["--reuse", "first", "--seed", "4"],
        5,
        &["nothing of `first` can be taken over: every stage stands on `run.seed`, which differ"],
    );
    place
        .tiny("first", &["--reuse", "first", "--fresh"])
        .expect(2)
        .says(&["`--reuse` and `--out` both name `first`"]);
    assert!(place.path("first/final").exists());
    // A pipe in the place of a file is waited for by nobody.
    let asks = place.path("first/pool/evaluate-asks.jsonl");
    std::fs::remove_file(&asks).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&asks).status().unwrap().success());
    let again = place.tiny("piped", &["--reuse", "first"]).expect(0);
    again.says(&["evaluate-asks.jsonl` is not what its run wrote"]);
    // A journal of a stranger that names files outside.
    let journal = place.path("first/journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    for outside in ["../run.json", "/etc/hostname", "", "journal.jsonl", "pool/../run.json"] {
        let altered = text.replacen("pool/sample.jsonl", outside, 1);
        std::fs::write(&journal, altered).unwrap();
        refused(&["--reuse", "first"], 5, &["is damaged", "is no file of a run"]);
    }
}

#[test]
fn a_dry_run_says_what_would_be_taken_over() {
    let place = Place::new();
    place.tiny("first", &[]).expect(0);
    let change = ["--set", "filter.0.config.min_characters=8", "--reuse", "first", "--dry-run"];
    let said = place.tiny("new", &change).expect(0);
    for part in [
        "from first",
        "  taken over  pool: generate",
        "  taken over  round 1: generate",
        "  done        round 1: filter-generate, and what follows from it",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {}", said.stdout);
    }
    assert!(!place.path("new").exists());
    let said = place.tiny("new", &["--reuse", "first", "--dry-run"]).expect(0);
    assert!(said.stdout.contains("nothing is left to do"), "{}", said.stdout);
}
