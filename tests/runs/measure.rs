//! Runs whose plugins need measurements: the guest compares what it gets with what the model says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kill::{check_set, step};
use super::{Place, lines};
use crate::runtime::guests;

/// Tokens of the tiny model.
const VOCABULARY: f64 = 400.0;

/// Filters over completions, the first of which revises them, and one over pairs: each drops what does
/// not agree.
fn arguments() -> Vec<String> {
    let contrast = guests::path("contrast").display().to_string();
    let gauge = guests::path("gauge").display().to_string();
    let filter = |after: &str, config: &str| {
        format!(
            "{{ after = '{after}', plugin = '{gauge}', config = {{ {config} }}, \
             ask = {{ models = ['policy'] }} }}"
        )
    };
    let filters = [filter("generate", "revise = true"), filter("generate", ""), filter("pair", "")];
    let set = |text: String| ["--set".to_owned(), text];
    [
        set(format!("principle.plugin='{contrast}'")),
        set(format!("filter=[{}]", filters.join(", "))),
        set("measure.clusters=3".to_owned()),
    ]
    .concat()
}

fn measurements(row: &Value) -> BTreeMap<String, f64> {
    let measurements = row["measurements"].as_array().unwrap().iter();
    let one = |it: &Value| (it["name"].as_str().unwrap().to_owned(), it["value"].as_f64().unwrap());
    measurements.map(one).collect()
}

#[test]
fn what_is_measured_is_what_the_model_says() {
    let place = Place::new();
    let arguments = arguments();
    let more: Vec<&str> = arguments.iter().map(String::as_str).collect();
    place.set("tiny-dpo", "run", &more).expect(0);
    let files = place.files("run");
    for round in 1..=2 {
        let of = |stage: &str| lines(&files, &format!("rounds/{round:02}/{stage}.jsonl"));
        assert!(of("filter-pair").iter().all(|row| row["verdict"] == "keep"));
        let asked = of("filter-generate-asks");
        let measured = of("measure-generate");
        assert_eq!((measured.len(), asked.len()), (8, 2 * 2 * 8));
        let mut clusters = Vec::new();
        for row in &measured {
            let found = measurements(row);
            assert_eq!(found.len(), 5, "{row}");
            // The first filter is asked before it revises.
            let mean = |index: usize| {
                let mut asked = asked.iter().filter(|ask| ask["record"] == row["id"]);
                let ask = asked.find(|ask| ask["index"] == json!(index)).unwrap();
                let score = &ask["answer"]["score"];
                score["logprob"].as_f64().unwrap() / score["tokens"].as_f64().unwrap()
            };
            let same = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
            assert!(same(found["perplexity(plain)"], (-mean(0)).exp()), "{row}");
            assert!(same(found["alogp(good | plain)"], mean(1)), "{row}");
            let initial = found["alogp(plain | plain; initial)"];
            assert_eq!(same(initial, mean(0)), round == 1, "round {round}: {row}");
            let asked = asked.iter().find(|ask| ask["record"] == row["id"]).unwrap();
            let entropy = found["entropy(plain)"];
            assert_eq!(asked["answer"]["score"]["entropy"], json!(entropy), "{row}");
            // Weights drawn at random are unsure of everything, but not more than of all tokens alike.
            assert!(entropy > 1.0 && entropy < VOCABULARY.ln(), "{row}");
            clusters.push(found["cluster(plain)"]);
        }
        clusters.sort_by(f64::total_cmp);
        clusters.dedup();
        assert_eq!(clusters, [0.0, 1.0, 2.0]);
        // What is revised is measured anew, for the filter behind it and where it is needed next.
        for row in of("measure-pair") {
            let before = measured.iter().find(|before| before["id"] == row["id"]).unwrap();
            let [before, after] = [before, &row].map(measurements);
            assert_eq!(after.len(), 5);
            assert_ne!(before["perplexity(plain)"], after["perplexity(plain)"]);
            assert_eq!(before["alogp(good | plain)"], after["alogp(good | plain)"]);
        }
    }
    let life = place.aligner(&["show", "run", "p-3", "--round", "1"]).expect(0).stdout;
    assert!(life.contains("  measure-generate: perplexity(plain) "), "{life}");
}

#[test]
fn judges_and_scorers_of_the_pool_and_of_a_round_have_measurements_too() {
    let place = Place::new();
    let [contrast, gauge] =
        ["contrast", "gauge"].map(|name| guests::path(name).display().to_string());
    let plugins = [
        format!("principle={{ plugin = '{contrast}' }}"),
        format!("judge.plugin='{gauge}'"),
        format!("difficulty.plugin='{gauge}'"),
    ];
    let mut more = vec!["--rounds", "1"];
    more.extend(plugins.iter().flat_map(|plugin| ["--set", plugin]));
    place.tiny("pool", &more).expect(0);
    more.extend(["--set", "difficulty.scope='round'"]);
    place.tiny("round", &more).expect(0);
    let by_id = |files: &BTreeMap<String, Vec<u8>>, name: &str, value: &dyn Fn(&Value) -> f64| {
        let rows = lines(files, name).into_iter();
        rows.map(|row| (row["id"].to_string(), value(&row))).collect::<BTreeMap<_, _>>()
    };
    let measured = |row: &Value| measurements(row)["perplexity(plain)"];
    let difficulty = |row: &Value| row["difficulty"].as_f64().unwrap();
    let reward = |row: &Value| row["opinion"]["rewards"][0]["value"].as_f64().unwrap();

    let files = place.files("pool");
    let of_pool = by_id(&files, "pool/measure-difficulty.jsonl", &measured);
    assert_eq!(of_pool.len(), 8);
    assert_eq!(of_pool, by_id(&files, "pool/difficulty.jsonl", &difficulty));
    assert!(!files.contains_key("rounds/01/measure-difficulty.jsonl"), "{:?}", files.keys());
    // Round 1 finds the completions of the pool.
    let judged = by_id(&files, "rounds/01/measure-judge.jsonl", &measured);
    assert!(judged.len() > 4 && judged.iter().all(|(id, value)| of_pool[id] == *value));
    assert_eq!(judged, by_id(&files, "rounds/01/judge.jsonl", &reward));

    let files = place.files("round");
    let of_round = by_id(&files, "rounds/01/measure-difficulty.jsonl", &measured);
    assert_eq!(of_round, by_id(&files, "rounds/01/difficulty.jsonl", &difficulty));
    assert_eq!(of_round, by_id(&files, "rounds/01/judge.jsonl", &reward));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = Place::new();
    let gauge = guests::path("gauge");
    let early = format!("filter=[{{ after = 'sample', plugin = '{}' }}]", gauge.display());
    place.tiny("run", &["--set", &early]).expect(2).says(&[
        "filter `gauge` 0.1.0 needs `perplexity(plain)`, and is called before there are completions",
    ]);
    // The same component, but for one byte of a name.
    let (good, bad) = (b"perplexity(nobody)", b"perplexity[nobody)");
    let mut bytes = std::fs::read(gauge).unwrap();
    let at = bytes.windows(good.len()).position(|window| window == good).unwrap();
    bytes[at..at + bad.len()].copy_from_slice(bad);
    std::fs::write(place.path("odd.wasm"), bytes).unwrap();
    place
        .tiny("run", &["--set", "filter=[{ after = 'generate', plugin = 'odd.wasm' }]"])
        .expect(2)
        .says(&[
            "needs `perplexity[nobody)`, which is no measurement",
            "`alogp(COMPLETION | PROMPT)`",
        ]);
    assert!(!place.path("run").exists());
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let arguments = arguments();
    let more: Vec<&str> = arguments.iter().map(String::as_str).chain(["--rounds", "1"]).collect();
    let stages = check_set("tiny-dpo", &more, "kill", step(31));
    for stage in ["measure-generate", "filter-generate"] {
        assert!(stages.contains(stage), "never killed in {stage}: {stages:?}");
    }
}
