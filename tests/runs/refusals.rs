//! What a run directory refuses, and with which words.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{Place, tests};

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
fn a_named_pipe_is_refused_and_one_of_a_shell_is_read() {
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    place.write_set("mine.toml", "");
    for data in ["prompts", "held_out"] {
        let given = format!("data.{data}={}", pipe.display());
        let run = ["--plugins", "mine.toml", "--out", "run", "--set", &given];
        place.aligner(&run).expect(4).says(&["is a named pipe", "write the rows to a file"]);
    }
    place
        .aligner(&["evaluate", "builtin:length", "--data", "pipe"])
        .expect(4)
        .says(&["is a named pipe"]);

    // What else a user names, and what comes with it, waits for nobody either.
    place.aligner(&["--plugins", "pipe"]).expect(2).says(&["it is a named pipe"]);
    std::fs::create_dir(place.path("model")).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        for entry in std::fs::read_dir(tests().join("fixtures/tiny-llama")).unwrap() {
            let entry = entry.unwrap().path();
            let copy = place.path("model").join(entry.file_name().unwrap());
            let _ = std::fs::remove_file(&copy);
            std::fs::copy(&entry, copy).unwrap();
        }
        let pipe = place.path("model").join(file);
        std::fs::remove_file(&pipe).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let model = format!("models.policy={}", place.path("model").display());
        let run = ["--plugins", "mine.toml", "--out", "run", "--set", &model];
        place.aligner(&run).expect(4).says(&[file, "it is a pipe or a device"]);
    }

    let run = ["--plugins", "mine.toml", "--out", "run", "--set", "data.prompts=/dev/stdin"];
    let mut child = place
        .command(&[&run[..], &["--rounds", "1"]].concat())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = std::fs::read(tests().join("sets/tiny-prompts.jsonl")).unwrap();
    child.stdin.take().unwrap().write_all(&rows).unwrap();
    assert!(child.wait().unwrap().success());
    let journal = place.path("run/journal.jsonl");
    let whole = std::fs::read_to_string(&journal).unwrap();
    let cut = whole.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&journal, &whole[..cut]).unwrap();
    let again = place.command(&["resume", "run"]).stdin(Stdio::null()).output().unwrap();
    super::Said::of(again).expect(4).says(&["can be read once: write the rows to a file"]);
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
    let measure = ["--set", "measure.clusters=4", "--fresh"];
    place.tiny("run", &[&["--rounds", "1", "--seed", "4"], &measure[..]].concat()).expect(0);
    assert_ne!(place.files("run")["run.json"], before["run.json"]);
    // A section that only the old run has is a difference, too.
    place
        .tiny("run", &["--rounds", "1", "--seed", "4"])
        .expect(5)
        .says(&["settings of `[measure]`"]);
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
fn damage_in_a_finished_run_is_seen_by_its_report() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    place.tiny("other", &["--rounds", "1"]).expect(0);
    place.aligner(&["report", "run", "other"]).expect(0);
    for name in ["rounds/01/generate.jsonl", "rounds/01/adapter/adapter_config.json", "report.json"]
    {
        let file = place.path("run").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        let damaged = |what: &str| {
            let said = place.aligner(&["report", "run", "other"]).expect(5);
            let said = said.says(&[&format!("error: `run/{name}` is damaged: {what}")]);
            assert!(said.stdout.contains("other: tiny on"), "{}", said.stdout);
        };
        std::fs::write(&file, text.replacen(": ", " : ", 1).replacen("\":", "\" :", 1)).unwrap();
        damaged("its contents differ from the journal's digest");
        std::fs::remove_file(&file).unwrap();
        if name != "report.json" {
            damaged("it is gone");
        }
        std::fs::write(&file, text).unwrap();
    }
    std::fs::remove_file(place.path("run/rounds/01/adapter/adapter_model.safetensors")).unwrap();
    place.aligner(&["report", "run"]).expect(5).says(&["adapter_model.safetensors", "it is gone"]);
}

#[test]
fn a_journal_that_was_emptied_does_not_begin_the_run_over() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let finished = place.files("run");
    let journal = place.path("run/journal.jsonl");
    for kept in [&b""[..], &finished["journal.jsonl"][..30]] {
        std::fs::write(&journal, kept).unwrap();
        let before = place.files("run");
        let resumed = place.aligner(&["resume", "run"]);
        let again = place.tiny("run", &["--rounds", "1"]);
        let asked = place.tiny("run", &["--rounds", "1", "--resume"]);
        let report = place.aligner(&["report", "run"]);
        for said in [resumed, again, asked, report] {
            said.expect(5).says(&[
                "`run/journal.jsonl` is damaged: it says nothing of `pool`, which is there",
                "hint: restore the file, or begin again: `aligner --plugins SET --out DIR --fresh`",
            ]);
        }
        assert_eq!(place.files("run"), before);
    }
    std::fs::remove_file(&journal).unwrap();
    place.aligner(&["resume", "run"]).expect(5).says(&["run/journal.jsonl"]);
    std::fs::write(&journal, &finished["journal.jsonl"]).unwrap();
    place.aligner(&["resume", "run"]).expect(0);
    assert_eq!(place.files("run"), finished);
}

#[test]
fn a_run_is_not_resumed_on_what_has_changed() {
    let place = Place::new();
    place.write_set("set.toml", "");
    let prompts = std::fs::read_to_string(tests().join("sets/tiny-prompts.jsonl")).unwrap();
    std::fs::write(place.path("p.jsonl"), &prompts).unwrap();
    let run = ["--plugins", "set.toml", "--prompts", "p.jsonl", "--out", "run", "--rounds", "1"];
    let killed = place.command(&run).env("ALIGNER_FAULT", "kill:20").output().unwrap();
    assert!(!killed.status.success());
    std::fs::write(place.path("p.jsonl"), prompts.replace("fruit", "tree")).unwrap();
    let before = place.files("run");
    let changed =
        format!("`{}`", place.folder.path().canonicalize().unwrap().join("p.jsonl").display());
    let said = place.aligner(&["resume", "run"]).expect(5).says(&[
        &format!("error: `run` cannot go on: since it began this has changed: prompts {changed}\n"),
        "hint: put it back as it was; `aligner --plugins SET --out DIR` begins another run",
    ]);
    // It has no such flags itself.
    assert!(!said.stderr.contains("with `--"), "{}", said.stderr);
    assert_eq!(place.files("run"), before);
    std::fs::write(place.path("p.jsonl"), prompts).unwrap();
    place.aligner(&["resume", "run"]).expect(0);
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
        2,
        &[
            "`max_new_tokens` of `[generate]` is 100000, and the context of ",
            " is 512 tokens",
            "hint",
        ],
    );
    check(
        &["--set", "generate.max_new_tokens=511"],
        6,
        &["context  leaves out 8 of 8 prompts: ", "pool could be used: too-long 8", "show fewer"],
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
    // In no build and on no machine.
    check(&["--device", "cuda:1000"], 2, &["device `cuda:1000` is not available", "--device cpu"]);
}

#[test]
fn a_run_that_kept_nothing_has_ended_and_says_what_can_be_done() {
    let place = Place::new();
    let strict = ["--set", "filter.0.config.min_characters=9999"];
    let says = [
        "error: round 1 kept none of its 4 records: too-short 4",
        "`aligner show run --dropped` lists what was dropped",
        "begin a new run",
        "`--out`",
        "`--fresh`",
    ];
    place.tiny("run", &strict).expect(6).says(&says);
    let files = place.files("run");
    for again in [place.tiny("run", &strict), place.aligner(&["resume", "run"])] {
        let again = again.expect(6).says(&says);
        assert!(!again.stderr.contains("resume"), "it would end the same way: {}", again.stderr);
    }
    let report = place.aligner(&["report", "run"]).expect(0).says(&says[1..]);
    assert!(report.stdout.contains("ended without a record to train on\n"), "{}", report.stdout);
    assert!(report.stdout.contains(says[0].strip_prefix("error: ").unwrap()), "{}", report.stdout);
    assert!(!report.stderr.contains("resume"), "{}", report.stderr);
    place.aligner(&["show", "run", "--dropped"]).expect(0);
    assert_eq!(place.files("run"), files);
    place.tiny("run", &["--fresh"]).expect(0);
}

#[test]
fn what_rounds_before_one_that_kept_nothing_made_is_the_result() {
    let place = Place::new();
    let rounds = "\n[[rounds]]\n[[rounds]]\ngenerate = { max_new_tokens = 1 }\n";
    place.write_set("set.toml", rounds);
    let run =
        ["--plugins", "set.toml", "--out", "run", "--set", "filter.0.config.min_characters=12"];
    let first = place.aligner(&run).expect(6).says(&["error: round 2 kept none of its 4 records"]);
    assert!(first.stdout.contains("\nadapter of round 1: run/final/adapter\n"), "{}", first.stdout);
    let files = place.files("run");
    assert!(files.contains_key("final/adapter/adapter_model.safetensors"));
    // Killed before the journal's last line, it ends again with the same bytes.
    let journal = String::from_utf8(files["journal.jsonl"].clone()).unwrap();
    let cut = journal.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(place.path("run/journal.jsonl"), &journal[..cut]).unwrap();
    place.aligner(&["resume", "run"]).expect(6);
    assert_eq!(place.files("run"), files);
}

#[test]
fn a_result_that_is_gone_is_put_back() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let before = place.files("run");
    for gone in ["run/final", "run/final/data", "run/final/adapter"] {
        std::fs::remove_dir_all(place.path(gone)).unwrap();
        place.tiny("run", &["--rounds", "1"]).expect(0);
        assert_eq!(place.files("run"), before, "without {gone}");
    }
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
