//! `aligner verify` finds what a run did not make, and `aligner ablate` what another plugin would have done.

use std::path::Path;

use super::{Place, lines};

fn alter(path: &Path, from: &str, to: &str) -> Vec<u8> {
    let whole = std::fs::read(path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    assert!(text.contains(from), "{} has no {from}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    whole
}

#[test]
fn a_run_can_be_verified_whole_and_by_samples() {
    let contrast = super::preference::contrast();
    let compared = ["--set", contrast.as_str()];
    for (set, more) in [("tiny", &[][..]), ("tiny-dpo", &compared)] {
        let place = Place::new();
        place.set(set, "run", more).expect(0);
        let files = place.files("run");
        let all = place.aligner(&["verify", "run", "--all"]).expect(0);
        assert!(all.stdout.contains("every byte is the same"), "{}", all.stdout);
        assert!(all.stdout.contains("  same            round 2: train"), "{}", all.stdout);
        assert!(!all.stdout.contains("not done again"), "{}", all.stdout);
        let sample = place.aligner(&["verify", "run", "--sample", "5"]).expect(0);
        assert!(
            sample.stdout.contains("5 completions and answers made again"),
            "{}",
            sample.stdout
        );
        assert!(sample.stdout.contains("not done again  round 1: train"), "{}", sample.stdout);
        assert_eq!(place.files("run"), files, "it is only read");
    }
}

#[test]
fn what_was_altered_is_named_with_its_record() {
    let place = Place::new();
    place.tiny("run", &[]).expect(0);
    let files = place.files("run");
    let row = &lines(&files, "rounds/01/generate.jsonl")[2];
    let id = row["id"].as_str().unwrap().to_owned();
    let text = row["variants"][0]["completion"]["text"].as_str().unwrap();
    let file = place.path("run/rounds/01/generate.jsonl");
    // Each is found, whatever is drawn.
    let line = format!("(line 3, record `{id}`)");
    let encoded = serde_json::to_string(text).unwrap();
    let whole = alter(&file, &encoded, "\"put in afterwards\"");
    for how in [&["--all"][..], &["--sample", "0"]] {
        place
            .aligner(&[&["verify", "run"], how].concat())
            .expect(5)
            .says(&["generate.jsonl` was altered after the run wrote it", &line]);
    }
    // Who alters the journal too is found when the record is made again.
    let digest = |bytes: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let altered = std::fs::read(&file).unwrap();
    let journal = place.path("run/journal.jsonl");
    let honest = alter(&journal, &digest(&whole), &digest(&altered));
    let said = place.aligner(&["verify", "run", "--all"]).expect(5);
    said.says(&["round 1: generate comes out otherwise", &line]);
    std::fs::write(&file, whole).unwrap();
    std::fs::write(&journal, honest).unwrap();

    let weights = place.path("run/rounds/02/adapter/adapter_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    place.aligner(&["verify", "run"]).expect(5).says(&["adapter_model.safetensors", "is damaged"]);
    std::fs::write(&weights, whole).unwrap();

    let result = place.path("run/final/adapter/adapter_config.json");
    let whole = alter(&result, "\"r\"", "\"R\"");
    place
        .aligner(&["verify", "run"])
        .expect(5)
        .says(&["adapter_config.json` is not what the run made"]);
    std::fs::write(&result, whole).unwrap();
    // What was put there besides, and what the journal says of the end.
    let besides = place.path("run/final/adapter/besides.safetensors");
    std::fs::write(&besides, b"x").unwrap();
    place.aligner(&["verify", "run"]).expect(5).says(&["is nothing that the run made"]);
    std::fs::remove_file(&besides).unwrap();
    let report = alter(&place.path("run/report.json"), "\"kept\": 4", "\"kept\": 5");
    let digest = digest(&report);
    let ended = format!(",\"files\":{{\"report.json\":\"{digest}\"}}");
    let journal_before = alter(&journal, &ended, "");
    place.aligner(&["verify", "run"]).expect(5).says(&["report.json` is not what the run made"]);
    std::fs::write(place.path("run/report.json"), report).unwrap();
    std::fs::write(&journal, journal_before).unwrap();
    let honest = alter(&journal, "\"tokens\":", "\"tokens\":9");
    place.aligner(&["verify", "run"]).expect(5).says(&["counts otherwise than the journal says"]);
    std::fs::write(&journal, honest).unwrap();
    place.aligner(&["verify", "run"]).expect(0);
}

#[test]
fn a_run_that_ended_with_nothing_is_verified_too() {
    let place = Place::new();
    // Every row is too long to train on.
    place.tiny("run", &["--set", "train.max_length=2"]).expect(6);
    let said = place.aligner(&["verify", "run"]).expect(0);
    assert!(said.stdout.contains("every byte of these is the same"), "{}", said.stdout);
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let place = Place::new();
    place.tiny("run", &[]).expect(0);
    place.aligner(&["verify", "nowhere"]).expect(5).says(&["`nowhere` is no run directory"]);
    let journal = place.path("run/journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let without_end = text.lines().filter(|line| !line.contains("\"done\"")).collect::<Vec<_>>();
    std::fs::write(&journal, without_end.join("\n") + "\n").unwrap();
    place.aligner(&["verify", "run"]).expect(5).says(&["`run` is not finished", "aligner resume"]);
}

#[test]
fn another_plugin_in_a_place_shows_what_it_changes() {
    let place = Place::new();
    place.tiny("run", &[]).expect(0);
    let files = place.files("run");
    let config = "filter-1={\"min_characters\": 20}";
    let said = place.aligner(&["ablate", "run", "--config", config, "--out", "other"]).expect(0);
    for part in [
        "other against run",
        "round 2: filter-generate: otherwise for 2 of 4 records",
        "kept → dropped: too-short",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {}", said.stdout);
    }
    said.says(&["taken over from `run`"]);
    assert_eq!(place.files("run"), files, "the run is as it was");
    // The same as a run of its own, but for the command that stands in manifest, card and page.
    place.tiny("alone", &["--set", "filter.0.config.min_characters=20"]).expect(0);
    let (other, alone) = (place.files("other"), place.files("alone"));
    let typed = ["run.json", "final/adapter/README.md", "report.html"];
    for (name, bytes) in alone.iter().filter(|(name, _)| !typed.contains(&name.as_str())) {
        assert!(other[name] == *bytes, "{name} differs");
    }

    // A second call only compares.
    let again = place.aligner(&["ablate", "run", "--config", config, "--out", "other", "--json"]);
    let again = again.expect(0);
    let document: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    let stages: Vec<&str> = document["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["stage"].as_str())
        .collect();
    assert_eq!(stages[..2], ["filter-generate", "train"], "{stages:?}");
    assert!(!again.stderr.contains("taken over"), "{}", again.stderr);

    // One that keeps nothing ends there, and says so.
    let none = ["ablate", "run", "--config", "filter-1={\"min_characters\": 99999}"];
    let said = place.aligner(&none).expect(0);
    let told = "the second run ended there: round 1 kept none of its 4 records: too-short 4";
    assert!(said.stdout.contains(told), "{}", said.stdout);

    let without = place.aligner(&["ablate", "run", "--without", "filter-1"]).expect(0);
    assert!(without.stdout.contains(" against run\n"), "{}", without.stdout);
    let swapped = ["ablate", "run", "--swap", "filter=builtin:format", "--config", "filter={}"];
    place.aligner(&swapped[..2]).expect(2).says(&["with this, the run would be `run` itself"]);
}

#[test]
fn what_cannot_be_swapped_is_refused() {
    let place = Place::new();
    place.tiny("run", &[]).expect(0);
    let refused = |more: &[&str], code, parts: &[&str]| {
        place.aligner(&[&["ablate", "run"], more].concat()).expect(code).says(parts);
    };
    refused(
        &["--swap", "judge=builtin:pairwise"],
        2,
        &["the plugin set has no `judge`", "filter-1"],
    );
    refused(&["--swap", "filter-2=builtin:length"], 2, &["the plugin set has no `filter-2`"]);
    refused(&["--swap", "filter-1"], 2, &["PLACE=…"]);
    refused(&["--swap", "filter-1=builtin:perplexity"], 2, &["is a difficulty"]);
    refused(&["--config", "filter-1=3"], 2, &["is no JSON object"]);
    refused(&["--config", "filter-1={"], 2, &["has no JSON"]);
    refused(&["--without", "difficulty"], 2, &["would leave a hole in the method"]);
    refused(&["--config", "filter-1={}", "--out", "run"], 2, &["both name `run`"]);
}
