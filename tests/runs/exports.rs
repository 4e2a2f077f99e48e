//! What a run leaves for other tools, and what it says while it works. Other tools read it in `make ecosystem`.

use serde_json::Value;

use super::{Place, lines};

#[test]
fn a_run_leaves_curves_a_trainers_state_and_its_data() {
    let place = Place::new();
    place.tiny("run", &["--seed", "3"]).expect(0);
    let files = place.files("run");
    let curves = &files["tensorboard/events.out.tfevents.aligner"];
    let named = |name: &str| curves.windows(name.len()).any(|part| part == name.as_bytes());
    for tag in
        ["brain.Event:2", "train/loss", "train/learning_rate", "eval/perplexity", "round/kept"]
    {
        assert!(named(tag), "no {tag}");
    }

    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    let best = report["best_round"].as_u64().unwrap();
    let state: Value = serde_json::from_slice(&files["final/adapter/trainer_state.json"]).unwrap();
    let steps = lines(&files, &format!("rounds/{best:02}/metrics.jsonl"));
    assert_eq!(state["global_step"], steps.len());
    assert_eq!(state["log_history"][0]["loss"], steps[0]["loss"]);

    // The tiny set goes on from round to round.
    let rows = lines(&files, "final/data/train.jsonl");
    let trained: Vec<Value> = (1..=best)
        .flat_map(|round| lines(&files, &format!("rounds/{round:02}/train.jsonl")))
        .filter(|row| row.get("dropped").is_none())
        .collect();
    assert!(!rows.is_empty());
    assert_eq!(rows.len(), trained.len());
    for (row, trained) in rows.iter().zip(&trained) {
        for column in ["record_id", "round", "prompt", "completion", "finish"] {
            assert_eq!(row[column], trained[column]);
        }
    }
    let parquet = &files["final/data/train.parquet"];
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    // What round 1 took over from the pool has cost nothing again.
    let generated: u64 = ["pool", "rounds/02"]
        .iter()
        .flat_map(|folder| lines(&files, &format!("{folder}/generate.jsonl")))
        .map(|row| row["variants"][0]["completion"]["tokens"].as_u64().unwrap())
        .sum();
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    let card = text("final/data/README.md");
    for part in ["license: unknown", "path: train.parquet", "tokens generated", "## Plugins"] {
        assert!(card.contains(part), "no {part:?} in:\n{card}");
    }
    let cost = format!("| tokens generated | {generated} |");
    let card = text("final/adapter/README.md");
    for part in ["- seed: 3", "sets/tiny.toml --seed 3\n", "fuel of plugins", &cost] {
        assert!(card.contains(part), "no {part:?} in:\n{card}");
    }
    assert!(!card.contains("--out"), "{card}");
}

#[test]
fn progress_is_json_or_nothing_and_the_log_is_kept() {
    let place = Place::new();
    let said = place.tiny("run", &["--progress", "json"]).expect(0);
    let events: Vec<Value> =
        said.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |event: &str| -> Vec<&Value> { events.iter().filter(|it| it["event"] == event).collect() };
    assert!(of("note")[0]["text"].as_str().unwrap().starts_with("method"), "{:?}", of("note"));
    let (begun, ended) = (of("stage"), of("done"));
    assert!(begun.len() > 4);
    assert_eq!(begun.len(), ended.len());
    let generated = ended.iter().find(|it| it["stage"] == "round 2: generate").unwrap();
    assert!(generated["tokens"].as_u64().unwrap() > 0, "{generated}");
    assert!(generated["memory_bytes"].as_u64().unwrap() > 1 << 20, "{generated}");

    let log = std::fs::read_to_string(place.path("run/log.txt")).unwrap();
    assert!(log.contains("round 2: generate: "), "{log}");
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains('Z')), "{log}");

    let quiet = place.tiny("quiet", &["-q"]).expect(0);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout.replace("quiet/", "run/"), said.stdout);
    let again = place.tiny("quiet", &["--quiet"]).expect(0);
    assert_eq!((again.stderr.as_str(), again.stdout), ("", quiet.stdout));
}

#[test]
fn a_log_that_cannot_be_written_stops_no_run() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    std::fs::remove_file(place.path("run/log.txt")).unwrap();
    std::fs::create_dir(place.path("run/log.txt")).unwrap();
    std::fs::remove_file(place.path("run/report.json")).unwrap();
    let journal = std::fs::read_to_string(place.path("run/journal.jsonl")).unwrap();
    let unfinished: Vec<&str> = journal.lines().filter(|line| !line.contains("\"done\"")).collect();
    std::fs::write(place.path("run/journal.jsonl"), unfinished.join("\n") + "\n").unwrap();
    let said = place.aligner(&["resume", "run"]).expect(0);
    said.says(&["the run goes on without a log", "log.txt"]);
}

#[test]
fn a_dry_run_shows_prompts_and_which_tokens_train() {
    let place = Place::new();
    let said = place.tiny("run", &["--dry-run"]).expect(0);
    let prompts = said.stdout.lines().filter(|line| line.starts_with("prompt ")).count();
    assert_eq!(prompts, 3, "{}", said.stdout);
    for part in ["read under variant", "trained on, with a sentence in the place", "of them train)"]
    {
        assert!(said.stdout.contains(part), "no {part:?} in:\n{}", said.stdout);
    }
    assert!(said.stdout.lines().any(|line| line.starts_with("  | ") && line.contains("][")));
    assert!(!said.stdout.contains('\u{1b}'), "no colours where stdout is no terminal");
    assert!(!place.path("run").exists());
}

#[test]
fn the_doctor_says_what_works_and_what_does_not() {
    let place = Place::new();
    let checks = [
        "cpu",
        "cores",
        "memory",
        "disk",
        "cache",
        "cuda",
        "wasm",
        "gradient",
        "determinism",
        "product",
        "decode",
    ];
    let said = place.aligner(&["doctor", "-q"]).expect(0);
    assert_eq!(said.stderr, "");
    let found: Vec<&str> = said
        .stdout
        .lines()
        .filter(|line| !line.trim_start().starts_with("hint: "))
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(found, checks, "{}", said.stdout);
    assert!(said.stdout.contains("backward pass and differences agree"), "{}", said.stdout);

    // A folder that cannot be made, for root too.
    std::fs::write(place.path("file"), "").unwrap();
    let mut command = place.command(&["doctor", "--json"]);
    command.env("ALIGNER_CACHE", place.path("file/cache"));
    let said = super::Said::of(command.output().unwrap()).expect(1);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json["failed"], 1, "{json}");
    let cache =
        json["checks"].as_array().unwrap().iter().find(|it| it["check"] == "cache").unwrap();
    assert_eq!(cache["status"], "failed");
    assert!(cache["hint"].as_str().unwrap().contains("ALIGNER_CACHE"), "{cache}");
    assert!(said.stderr.contains("1 check failed"), "{}", said.stderr);
}
