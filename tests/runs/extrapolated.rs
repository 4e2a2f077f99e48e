//! Runs that go beyond what they trained.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::Value;

use super::full::FULL;
use super::kill::{check_set, step};
use super::lines;
use super::{Place, Said, tests};
use crate::runtime::guests;

type Files = BTreeMap<String, Vec<u8>>;

/// The curve's file.
const CURVE: &str = "rounds/01/extrapolate.jsonl";

fn run(place: &Place, out: &str, more: &[&str]) -> Said {
    place.tiny(out, &[&["--rounds", "1"], more].concat())
}

/// What makes a search of the guest that rewards long texts.
fn judged() -> Vec<String> {
    let judge = format!("judge.plugin='{}'", guests::path("contrast").display());
    ["--set", &judge, "--set", "extrapolate.alpha='search'"].map(str::to_owned).to_vec()
}

fn search(place: &Place, out: &str, more: &[&str]) -> Said {
    let judged = judged();
    let judged: Vec<&str> = judged.iter().map(String::as_str).collect();
    run(place, out, &[&judged, more].concat())
}

fn numbers(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let words =
        |data: &[u8]| data.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect();
    file.iter().map(|(name, view)| (name.to_owned(), words(view.data()))).collect()
}

fn chosen(rows: &[Value]) -> &Value {
    let chosen: Vec<&Value> = rows.iter().filter(|row| row["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1, "{rows:?}");
    chosen[0]
}

fn held_out(files: &Files) -> Value {
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    report["rounds"][0]["held_out"].clone()
}

#[test]
fn a_fixed_alpha_is_what_is_measured_what_goes_on_and_what_is_left() {
    let place = Place::new();
    run(&place, "plain", &[]).expect(0);
    let said = run(&place, "beyond", &["--set", "extrapolate.alpha=0.5"]).expect(0);
    let line = "round 1 extrapolated from initial by alpha 0.5\n";
    assert!(said.stdout.contains(line), "{}", said.stdout);
    said.says(&["beyond   round 1 by alpha 0.5\n"]);
    let (plain, files) = (place.files("plain"), place.files("beyond"));
    let trained = "rounds/01/adapter/adapter_model.safetensors";
    assert!(plain[trained] == files[trained]);
    let before = numbers(&files[trained]);
    let weights = "adapter/adapter_model.safetensors";
    let beyond = &files[&format!("rounds/01/extrapolated/{weights}")];
    assert!(*beyond == files[&format!("final/{weights}")]);
    for (name, values) in numbers(beyond) {
        let factor = if name.ends_with("lora_B.weight") { 1.5 } else { 1.0 };
        let scaled = before[&name].iter().map(|&x| (f64::from(x) * factor) as f32);
        assert!(scaled.eq(values), "{name}");
    }
    assert_ne!(held_out(&plain), held_out(&files));
    let card = String::from_utf8(files["final/adapter/README.md"].clone()).unwrap();
    assert!(card.contains(line) && card.contains("was extrapolated by alpha 0.5"), "{card}");
    let report = place.aligner(&["report", "beyond"]).expect(0);
    assert!(report.stdout.contains(line), "{}", report.stdout);

    // The next round begins with it.
    place.write_set(
        "two.toml",
        "\n[extrapolate]\nalpha = 0.5\n[[rounds]]\nextrapolate = true\n[[rounds]]\n",
    );
    place.aligner(&["--plugins", "two.toml", "--out", "two"]).expect(0);
    place.tiny("usual", &[]).expect(0);
    let (two, usual) = (place.files("two"), place.files("usual"));
    assert!(two["rounds/01/train.jsonl"] == usual["rounds/01/train.jsonl"]);
    assert!(two["rounds/02/generate.jsonl"] != usual["rounds/02/generate.jsonl"]);
    for round in ["01", "02"] {
        assert!(two.contains_key(&format!("rounds/{round}/extrapolated/{weights}")), "{round}");
    }
}

#[test]
fn a_whole_model_goes_beyond_what_it_began_with() {
    let place = Place::new();
    let alpha = ["--set", "extrapolate.alpha=0.5", "--set", "extrapolate.from='previous'"];
    place.tiny("run", &[&FULL[..], &alpha].concat()).expect(0);
    let files = place.files("run");
    let of = |name: &str| numbers(&files[&format!("{name}/model.safetensors")]);
    let (from, to) = (of("rounds/01/model"), of("rounds/02/model"));
    let beyond = of("rounds/02/extrapolated/model");
    assert!(!files.keys().any(|name| name.starts_with("rounds/01/extrapolated")));
    for (name, values) in &beyond {
        for ((&from, &to), &value) in from[name].iter().zip(&to[name]).zip(values) {
            let [from, to] = [from, to].map(f64::from);
            assert_eq!(value, (to + 0.5 * (to - from)) as f32, "{name}");
        }
    }
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    assert_eq!(report["rounds"][1]["extrapolated"]["from"], "previous");
    let best = report["best_round"].as_u64().unwrap();
    let result = if best == 2 { beyond } else { from };
    assert!(of("final/model") == result);
}

#[test]
fn the_judge_chooses_among_candidates() {
    let place = Place::new();
    let said = search(&place, "run", &[]).expect(0);
    let files = place.files("run");
    let rows = lines(&files, CURVE);
    let alphas: Vec<f64> = rows.iter().map(|row| row["alpha"].as_f64().unwrap()).collect();
    assert_eq!(alphas.len(), 8, "{alphas:?}");
    assert!(alphas.is_sorted());
    for alpha in [0.0, 0.1, 0.2, 0.3, 0.4, 0.5] {
        assert!(alphas.contains(&alpha), "no {alpha} in {alphas:?}");
    }
    // What the judge is shown are the answers of that alpha: it rewards their length.
    let asked = lines(&files, "rounds/01/extrapolate-asks.jsonl");
    for row in &rows {
        let model = format!("alpha {}", row["alpha"].as_f64().unwrap());
        let own = asked.iter().filter(|ask| ask["request"]["generate"]["model"] == model);
        let lengths: Vec<usize> =
            own.map(|ask| ask["answer"]["completion"]["text"].as_str().unwrap().len()).collect();
        assert_eq!(lengths.len(), 3, "{model}");
        let mean = lengths.iter().sum::<usize>() as f64 / 3.0;
        assert!((row["found"]["objective"].as_f64().unwrap() - mean).abs() < 1e-9, "{row}");
    }
    let value = |row: &Value| row["found"]["objective"].as_f64().unwrap();
    let allowed = || rows.iter().filter(|row| row.get("refused").is_none());
    let best = allowed().map(value).fold(f64::MIN, f64::max);
    let first = allowed().find(|row| value(row) == best).unwrap();
    assert_eq!(first["alpha"], chosen(&rows)["alpha"]);
    let alpha = first["alpha"].as_f64().unwrap();
    let line =
        format!("round 1 extrapolated from initial by alpha {alpha}, the best of 8 by judge:\n");
    assert!(said.stdout.contains(&line), "{}", said.stdout);

    // A reward of another name is none, and neither is a preference.
    search(&place, "other", &["--set", "extrapolate.reward='wit'"])
        .expect(2)
        .says(&["the judge gives no reward `wit` for any answer of the trained policy", "hint: "]);
}

#[test]
fn perplexity_chooses_where_nobody_judges_and_alpha_0_may_win() {
    let place = Place::new();
    let more = ["--set", "extrapolate.alpha='search'", "--set", "extrapolate.grid=[50, 90]"];
    run(&place, "run", &more).expect(0);
    let files = place.files("run");
    let rows = lines(&files, CURVE);
    assert_eq!(rows.len(), 5);
    assert_eq!(chosen(&rows)["alpha"], 0.0, "{rows:?}");
    let trained = "rounds/01/adapter/adapter_model.safetensors";
    assert!(files[trained] == files["rounds/01/extrapolated/adapter/adapter_model.safetensors"]);
    // The perplexity at 0 is that of the trained policy.
    let measured = held_out(&files);
    let found = rows[0]["found"]["objective"].as_f64().unwrap();
    assert!((measured[0]["value"].as_f64().unwrap() - found).abs() < 1e-9, "{measured} {found}");
}

#[test]
fn a_guard_refuses_a_candidate_that_would_be_the_best() {
    let place = Place::new();
    let curve = |out: &str, more: &[&str]| {
        let stop = "extrapolate.decoding={ max_new_tokens = 24, stop = ['a', 'e'] }";
        search(&place, out, &[&["--set", stop], more].concat()).expect(0);
        lines(&place.files(out), CURVE)
    };
    let free = ["--set", "extrapolate.guard={ length = 100, ended = 1, repetition = 1 }"];
    let tight = ["--set", "extrapolate.guard={ length = 1, ended = 1, repetition = 1 }"];
    let wide = ["--set", "extrapolate.grid=[0.5, 1, 2, 4]", "--set", "extrapolate.refine=0"];
    let (free, tight) = (
        curve("free", &[&free[..], &wide].concat()),
        curve("tight", &[&tight[..], &wide].concat()),
    );
    let best = chosen(&free);
    assert!(best["alpha"].as_f64().unwrap() > 0.0, "{free:?}");
    let base = tight[0]["found"]["length"].as_f64().unwrap();
    let same = tight.iter().find(|row| row["alpha"] == best["alpha"]).unwrap();
    assert_eq!(same["refused"], "too-long", "{tight:?}");
    assert_ne!(chosen(&tight)["alpha"], best["alpha"]);
    for row in &tight {
        let longer = row["found"]["length"].as_f64().unwrap() > base;
        assert_eq!(row.get("refused").is_some(), longer, "{row}");
    }
    let report = place.aligner(&["report", "tight"]).expect(0);
    assert!(report.stdout.contains("too-long"), "{}", report.stdout);
}

#[test]
fn an_aligned_model_that_is_given_stands_for_all_rounds() {
    let place = Place::new();
    run(&place, "adapter", &[]).expect(0);
    run(&place, "model", &FULL).expect(0);
    for (made, name) in [("adapter", "adapter"), ("model", "model")] {
        let out = format!("beyond-{made}");
        let aligned = format!("models.aligned='{made}/final/{name}'");
        let more = ["--set", &aligned, "--set", "extrapolate.alpha='search'"];
        let said = run(&place, &out, &more).expect(0);
        assert!(said.stdout.contains(&format!("{out}/final/{name}\n")), "{}", said.stdout);
        let files = place.files(&out);
        for stage in ["sample", "generate", "train"] {
            assert!(!files.keys().any(|file| file.ends_with(&format!("{stage}.jsonl"))), "{stage}");
        }
        let rows = lines(&files, CURVE);
        // What the run that trained it measured.
        let before = held_out(&place.files(made));
        let found = rows[0]["found"]["objective"].as_f64().unwrap();
        assert!((before[0]["value"].as_f64().unwrap() - found).abs() < 1e-9, "{before} {found}");
        let card = String::from_utf8(files[&format!("final/{name}/README.md")].clone()).unwrap();
        assert!(
            card.contains(&format!("{made}/final/{name}` was extrapolated by alpha")),
            "{card}"
        );
        let second = run(&place, &out, &more).expect(0);
        assert!(second.stdout.contains("by perplexity"), "{}", second.stdout);
        assert!(place.files(&out) == files, "a second call changes nothing");
        let said = run(&place, "plan", &[&more[..], &["--dry-run"]].concat()).expect(0);
        assert!(said.stdout.contains("the best of 8 alphas, by perplexity on 3 held-out prompts"));
    }

    // Another template would put prompts in another way.
    std::fs::rename(place.path("model/final/model"), place.path("other")).unwrap();
    let template = std::fs::read_to_string(place.path("other/chat_template.jinja")).unwrap();
    std::fs::write(place.path("other/chat_template.jinja"), template + " ").unwrap();
    let more = ["--set", "models.aligned='./other'", "--set", "extrapolate.alpha=1"];
    run(&place, "x", &more)
        .expect(2)
        .says(&["have different chat templates", "hint: put the same"]);
    let config = std::fs::read_to_string(place.path("other/config.json")).unwrap();
    let config = config.replace("10000.0", "500.0");
    std::fs::write(place.path("other/config.json"), config).unwrap();
    run(&place, "x", &more).expect(2).says(&["`aligned` of `[models]` does not fit", "rotary"]);
    assert!(!place.path("x").exists());
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let judged = judged();
    let judged: Vec<&str> = judged.iter().map(String::as_str).collect();
    let more = [&["--rounds", "1", "--set", "extrapolate.refine=1"][..], &judged].concat();
    let stages = check_set("tiny", &more, "kill", step(7));
    assert!(stages.contains("extrapolate"), "{stages:?}");
    let whole = [&FULL[..], &["--set", "extrapolate.alpha='search'", "--set", "run.keep='last'"]];
    let round = ["--set", "extrapolate.from='previous'"];
    let stages = check_set("tiny", &[&whole.concat()[..], &round].concat(), "kill", step(11));
    assert!(stages.contains("extrapolate"), "{stages:?}");
    let base = tests().join("fixtures/tiny-llama").display().to_string();
    let aligned = format!("models.aligned='{base}'");
    let given = ["--rounds", "1", "--set", "extrapolate.alpha=0.5", "--set", &aligned];
    check_set("tiny", &given, "kill", 1);
}
