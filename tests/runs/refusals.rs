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
