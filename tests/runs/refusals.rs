//! What a run directory refuses, and with which words.

use super::Place;

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/thesis.txt"), "years of work").unwrap();
    for more in [&[][..], &["--resume"], &["--fresh"]] {
        place
            .tiny("mine", more)
            .expect(5)
            .says(&["`mine` holds files that are not an aligner run"]);
    }
    let entries: Vec<_> = std::fs::read_dir(place.path("mine")).unwrap().collect();
    assert_eq!(entries.len(), 1, "nothing was written: {entries:?}");
}

#[test]
fn another_run_is_not_written_over() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let before = place.files("run");
    place
        .tiny("run", &["--rounds", "1", "--seed", "4"])
        .expect(5)
        .says(&["settings of `[run]`", "--fresh"]);
    assert_eq!(place.files("run"), before);
    place.tiny("run", &["--rounds", "1", "--seed", "4", "--fresh"]).expect(0);
    assert_ne!(place.files("run")["run.json"], before["run.json"]);
}

#[test]
fn a_newer_format_and_a_damaged_file_are_named() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let file = place.path("run/rounds/01/generate.jsonl");
    let journal = place.path("run/journal.jsonl");
    let whole = std::fs::read_to_string(&journal).unwrap();
    // Without its last line the run is unfinished, so its files are looked at.
    let cut = whole.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&journal, &whole[..cut]).unwrap();
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace('e', "a")).unwrap();
    place.aligner(&["resume", "run"]).expect(5).says(&["rounds/01/generate.jsonl", "damaged"]);

    let manifest = place.path("run/run.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"format\": 1", "\"format\": 99", 1)).unwrap();
    place.aligner(&["resume", "run"]).expect(5).says(&["run format 99", "upgrade aligner"]);
    place.aligner(&["report", "run"]).expect(5).says(&["run format 99"]);
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let lock = std::fs::File::open(place.path("run/.lock")).unwrap();
    lock.lock().unwrap();
    place.tiny("run", &["--rounds", "1"]).expect(5).says(&["in use by another aligner process"]);
}

#[test]
fn what_cannot_work_is_said_before_or_at_once() {
    let place = Place::new();
    let check = |more: &[&str], code: i32, parts: &[&str]| {
        place.tiny("run", &[more, &["--fresh"]].concat()).expect(code).says(parts);
    };
    check(&["--rounds", "-1"], 2, &["`rounds` in `[run]`", "--> --rounds -1", "from 1 to 1000"]);
    check(&["--seed", "-1"], 2, &["`seed` in `[run]`", "expected an integer, 0 or more"]);
    check(&["--rounds", "9"], 2, &["would have no prompts: the pool has 8 for 9 rounds"]);
    check(
        &["--set", "generate.max_new_tokens=100000"],
        6,
        &["no prompt of the pool could be used: too-long 8", "generate.max_new_tokens"],
    );
    check(
        &["--set", "filter.0.config.min_characters=9999"],
        6,
        &["round 1 kept none of its 4 records", "too-short 4"],
    );
    check(&["--set", "filter.0.config.min_chars=1"], 2, &["unknown key `min_chars`"]);
    check(&["--set", "train.learning_rate=1e30"], 4, &["not finite"]);
    check(&["--set", "principle.plugin='builtin:nothing'"], 2, &["nothing"]);
    check(&["--set", "principle.plugin='builtin:length'"], 2, &["is a filter"]);
    check(&["--device", "cuda:0"], 2, &["this build runs on the CPU only"]);
}

#[test]
fn a_result_that_is_gone_is_put_back() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let before = place.files("run");
    std::fs::remove_dir_all(place.path("run/final")).unwrap();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    assert_eq!(place.files("run"), before);
}

#[test]
fn a_damaged_run_can_be_thrown_away() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let before = place.files("run");
    std::fs::write(place.path("run/run.json"), "{").unwrap();
    place.aligner(&["resume", "run"]).expect(5).says(&["run.json", "--fresh"]);
    place.tiny("run", &["--rounds", "1", "--fresh"]).expect(0);
    assert_eq!(place.files("run"), before);
    let journal = place.path("run/journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text.replacen("{\"event\"", "{event", 1)).unwrap();
    place.aligner(&["resume", "run"]).expect(5).says(&["journal.jsonl", "line 1"]);
}
