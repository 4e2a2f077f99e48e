//! `aligner evaluate` on small files: filters, judges, plugins that fail, and what is refused.

use serde_json::{Value, json};

use super::{Place, Said, tests};
use crate::runtime::guests;

/// Long completions are bad here, but for one of each.
fn completions() -> String {
    let row = |index: usize| {
        let (good, words) = match index {
            0 => (false, 2),
            1 => (true, 9),
            index => (index % 2 == 0, if index % 2 == 0 { 2 } else { 9 }),
        };
        let source = if index < 10 { "a" } else { "b" };
        json!({"prompt": "Why?", "completion": "so ".repeat(words), "label": good, "source": source})
    };
    (0..40).map(|index| format!("{}\n", row(index))).collect()
}

/// The chosen completion is longer in two of three.
fn pairs() -> String {
    let row = |index: usize| {
        let (long, short) = ("because it is so", "no");
        let (chosen, rejected) =
            if index.is_multiple_of(3) { (short, long) } else { (long, short) };
        json!({"prompt": format!("Why {index}?"), "chosen": chosen, "rejected": rejected})
    };
    (0..6).map(|index| format!("{}\n", row(index))).collect()
}

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("rows.jsonl"), completions()).unwrap();
    std::fs::write(place.path("pairs.jsonl"), pairs()).unwrap();
    place
}

fn evaluate(place: &Place, more: &[&str]) -> Said {
    place.aligner(&[&["evaluate"], more].concat())
}

fn json_of(place: &Place) -> Value {
    serde_json::from_slice(&std::fs::read(place.path("out.json")).unwrap()).unwrap()
}

#[track_caller]
fn figure(plugin: &Value, name: &str, expected: f64) {
    let figures = plugin["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name).unwrap();
    let value = found["value"].as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9, "{name}: {value}, expected {expected}");
}

#[test]
fn one_filter_under_two_configurations() {
    let place = place();
    let said = evaluate(
        &place,
        &[
            "short=builtin:length",
            "any=builtin:length",
            "--config",
            r#"short={"max_words": 5}"#,
            "--data",
            "rows.jsonl",
            "--json",
            "out.json",
            "--report",
            "out.html",
        ],
    )
    .expect(0);
    for part in
        ["40 completions, 20 good and 20 bad", "precision", "too-long", "McNemar", "source a"]
    {
        assert!(said.stdout.contains(part), "{}", said.stdout);
    }
    let found = json_of(&place);
    let [short, any] = [0, 1].map(|place| &found["plugins"][place]);
    // 19 of 20 bad ones are long, and one good one.
    figure(short, "precision", 0.95);
    figure(short, "recall", 0.95);
    figure(short, "kappa", 0.9);
    figure(short, "dropped", 0.5);
    figure(any, "accuracy", 0.5);
    figure(any, "dropped", 0.0);
    assert_eq!(short["reasons"][0]["reason"], "too-long");
    assert_eq!((&short["reasons"][0]["n"], &short["reasons"][0]["good"]), (&json!(20), &json!(1)));
    assert_eq!(
        short["determinism"],
        json!({"records": 40, "repeated": 0, "reversed": 0, "alone": 0})
    );
    assert_eq!(short["probes"]["very long"], "dropped: too-long");
    assert_eq!(short["probes"]["empty"], "kept");
    assert_eq!(short["cost"]["records"], 40);
    assert!(short["cost"]["fuel"].as_u64().unwrap() > 0);
    assert!(short["cost"]["memory_bytes"].as_u64().unwrap() >= 65536);
    let duel = &found["comparisons"][0];
    assert_eq!((&duel["first_only"], &duel["second_only"]), (&json!(19), &json!(1)));
    let page = std::fs::read_to_string(place.path("out.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("too-long"));
}

#[test]
fn a_file_names_plugins_and_columns_have_other_names() {
    let place = place();
    let plugins = r#"
        [[plugin]]
        name = "short"
        source = "builtin:length"
        config = { max_words = 5 }
    "#;
    std::fs::write(place.path("eval.toml"), plugins).unwrap();
    let rows = "{\"ask\": \"p\", \"text\": \"a b c d e f\", \"stars\": 1}\n\
                {\"ask\": \"p\", \"text\": \"a\", \"stars\": 5}\n";
    std::fs::write(place.path("stars.jsonl"), rows).unwrap();
    let mut arguments = vec!["--plugins", "eval.toml", "--data", "stars.jsonl", "--threshold", "3"];
    for column in ["prompt=ask", "completion=text", "score=stars"] {
        arguments.extend(["--column", column]);
    }
    arguments.extend(["--json", "out.json"]);
    evaluate(&place, &arguments).expect(0);
    figure(&json_of(&place)["plugins"][0], "accuracy", 1.0);
}

#[test]
fn a_plugin_that_fails_is_shown_and_the_others_go_on() {
    let place = place();
    let hostile = guests::path("hostile").display().to_string();
    let needs = guests::path("judge").display().to_string();
    let [panics, ties] = ["panics", "ties"].map(|name| format!("{name}={hostile}"));
    let said = evaluate(
        &place,
        &[
            "gone.wasm",
            &panics,
            &ties,
            &needs,
            "builtin:length",
            "--config",
            r#"panics={"mode": "panic"}"#,
            "--config",
            r#"ties={"mode": "tie"}"#,
            "--data",
            "pairs.jsonl",
            "--json",
            "out.json",
        ],
    )
    .expect(3)
    .says(&["3 of 5 plugins failed", "`gone`: ", "gone.wasm"]);
    assert!(said.stdout.contains("it failed on every record of a batch"), "{}", said.stdout);
    assert!(
        said.stdout.contains("needs the measurement `perplexity(a)`, and no variant is called `a`"),
        "{}",
        said.stdout
    );
    let found = json_of(&place);
    figure(&found["plugins"][1], "failed", 1.0);
    figure(&found["plugins"][1], "accuracy", 0.0);
    // What fails is compared as failing: it is right about nothing.
    let duels = found["comparisons"].as_array().unwrap();
    assert_eq!((duels.len(), &duels[0]["n"], &duels[0]["first_only"]), (1, &json!(6), &json!(0)));
    figure(&found["plugins"][2], "tie", 1.0);
    figure(&found["plugins"][2], "accuracy", 0.5);
    // A filter sees both completions of each pair, and this one keeps all.
    figure(&found["plugins"][4], "accuracy", 0.5);
    assert_eq!(found["plugins"][4]["cost"]["records"], 12);
}

#[test]
fn judges_ask_the_model_in_both_orders() {
    let place = place();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let arguments = |more: &[&'static str]| -> Vec<String> {
        let fixed = [
            "which=builtin:pairwise",
            "grade=builtin:grade",
            "--config",
            r#"which={"read": "logprob", "rewards": true}"#,
            "--data",
            "pairs.jsonl",
            "--json",
            "out.json",
            "--ask",
            "which",
        ];
        fixed.iter().chain(more).map(|text| (*text).to_owned()).collect()
    };
    let run = |more: &[&'static str]| {
        let mut all = arguments(more);
        all.extend(["--model".into(), model.clone(), "--device".into(), "cpu".into()]);
        evaluate(&place, &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&["--ask", "grade"]).expect(0);
    let found = json_of(&place);
    let which = &found["plugins"][0];
    assert_eq!(which["cost"]["records"], 12);
    // Two letters for two orders, for each of two calls of six pairs; both calls ask the same.
    assert_eq!(which["cost"]["requests"], 48);
    assert!(which["cost"]["tokens"].as_u64().unwrap() > 0);
    assert_eq!(which["determinism"]["repeated"], 0);
    // It asks in both orders itself, so the place of an answer does not matter.
    figure(which, "by-place", 0.0);
    figure(which, "labelled-longer", 2.0 / 3.0);
    assert_eq!(found["comparisons"].as_array().unwrap().len(), 1);

    // What is not granted is not asked, and the other goes on.
    run(&[]).expect(3).says(&["`grade`", "`--ask grade` lets it ask"]);
    assert!(json_of(&place)["plugins"][0]["figures"].as_array().unwrap().len() > 5);

    // Each completion by itself gives a judge no place to prefer.
    run(&["--ask", "grade", "--each", "grade"]).expect(0);
    let grade = &json_of(&place)["plugins"][1];
    let figures = grade["figures"].as_array().unwrap();
    let ordered = figures.iter().find(|figure| figure["name"] == "prefers-first").unwrap();
    assert_eq!(ordered["n"], 0);
}

#[test]
fn filters_over_all_rows_see_all_of_them_first() {
    let place = place();
    // The same question 5000 times, which is more than a chunk, and one of its own in each: of like ones the
    // first stays.
    let row = |index: usize| {
        let prompt = match index {
            17 => "How high is the moon".to_owned(),
            4500 => "What do bees eat".to_owned(),
            _ => "Name three red fruits please".to_owned(),
        };
        json!({"prompt": prompt, "completion": "x", "label": matches!(index, 0 | 17 | 4500)})
    };
    let rows: String = (0..5000).map(|index| format!("{}\n", row(index))).collect();
    std::fs::write(place.path("like.jsonl"), rows).unwrap();
    let arguments =
        ["builtin:rouge-l", "builtin:length", "--data", "like.jsonl", "--json", "out.json"];
    evaluate(&place, &arguments).expect(0);
    let found = json_of(&place);
    let rouge = &found["plugins"][0];
    figure(rouge, "accuracy", 1.0);
    figure(rouge, "recall", 1.0);
    assert_eq!(rouge["cost"]["records"], 5000);
    assert!(rouge["cost"]["fuel"].as_u64().unwrap() > 0);
    assert_eq!(
        rouge["determinism"],
        json!({"records": 128, "repeated": 0, "reversed": null, "alone": null})
    );
    assert_eq!(rouge["probes"]["empty"], "kept");
    assert_eq!(found["comparisons"][0]["first_only"], 4997);
}

#[test]
fn what_plugins_need_is_measured_by_the_model() {
    let place = place();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let gauge = guests::path("gauge").display().to_string();
    let measured = ["--model", &model, "--device", "cpu"];
    let arguments = [&gauge, "--each", "gauge", "--data", "pairs.jsonl", "--json", "out.json"];
    evaluate(&place, &arguments).expect(3).says(&["`perplexity(plain)`", "hint: `--model` names"]);

    evaluate(&place, &[&arguments[..], &measured[..]].concat()).expect(0);
    // Its reward is the perplexity: higher where the model is more surprised.
    let scored: String = pairs()
        .lines()
        .flat_map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            ["chosen", "rejected"].map(|name| {
                format!("{}\n", json!({"prompt": row["prompt"], "completion": row[name]}))
            })
        })
        .collect();
    std::fs::write(place.path("score.jsonl"), scored).unwrap();
    let said = place
        .aligner(&[&["model", "score", "--data", "score.jsonl"][..], &measured[..]].concat())
        .expect(0);
    let mean = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["logprob"].as_f64().unwrap() / row["tokens"].as_f64().unwrap()
    };
    let means: Vec<f64> = said.stdout.lines().map(mean).collect();
    assert_eq!(means.len(), 12);
    let right = means.chunks(2).filter(|pair| pair[0] < pair[1]).count();
    let found = json_of(&place);
    figure(&found["plugins"][0], "accuracy", right as f64 / 6.0);
    figure(&found["plugins"][0], "failed", 0.0);
    let plain = found["plugins"][0]["probes"]["plain answer"].as_str().unwrap();
    assert!(plain.starts_with("reward "), "{plain}");
}

#[test]
fn rows_of_several_completions_are_right_as_a_whole() {
    let place = place();
    let row = |index: usize| {
        json!({"prompt": "Why?", "chosen": ["because it is so"], "subset": if index < 2 { "a" } else { "b" },
            "rejected": ["no", "not at all", if index == 0 { "no" } else { "because it has to be so" }]})
    };
    let rows: String = (0..4).map(|index| format!("{}\n", row(index))).collect();
    std::fs::write(place.path("best.jsonl"), rows).unwrap();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let arguments = [
        "builtin:grade",
        "--ask",
        "grade",
        "--each",
        "grade",
        "--model",
        &model,
        "--device",
        "cpu",
        "--data",
        "best.jsonl",
        "--json",
        "out.json",
    ];
    let said = evaluate(&place, &arguments).expect(0);
    assert!(said.stdout.contains("4 rows with 4 chosen and 12 rejected"), "{}", said.stdout);
    let found = json_of(&place);
    let grade = &found["plugins"][0];
    assert_eq!(grade["cost"]["records"], 16);
    let figures = grade["figures"].as_array().unwrap();
    let n = |name: &str| figures.iter().find(|it| it["name"] == name).unwrap()["n"].clone();
    assert_eq!((n("accuracy"), n("whole-row")), (json!(12), json!(4)));
    assert!(said.stdout.contains("subset a"), "{}", said.stdout);
}

#[test]
fn answers_have_a_budget() {
    let place = place();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let arguments = [
        "builtin:pairwise",
        "--ask",
        "pairwise",
        "--model",
        &model,
        "--device",
        "cpu",
        "--data",
        "pairs.jsonl",
        "--ask-tokens",
        "20",
    ];
    let said = evaluate(&place, &arguments).expect(3).says(&["20", "--ask-tokens"]);
    assert!(said.stdout.contains("failed"), "{}", said.stdout);
}

#[test]
fn scores_of_the_file_are_compared_with_what_is_kept() {
    let place = place();
    let row = |index: usize| {
        let words = if index < 10 { 9 } else { 2 };
        json!({"prompt": "Why?", "completion": "so ".repeat(words), "score": index})
    };
    let rows: String = (0..20).map(|index| format!("{}\n", row(index))).collect();
    std::fs::write(place.path("scored.jsonl"), rows).unwrap();
    let config = r#"length={"max_words": 5}"#;
    let arguments = [
        "builtin:length",
        "--config",
        config,
        "--data",
        "scored.jsonl",
        "--threshold",
        "15",
        "--json",
        "out.json",
    ];
    evaluate(&place, &arguments).expect(0);
    figure(&json_of(&place)["plugins"][0], "kept-above", 1.0);
    figure(&json_of(&place)["plugins"][0], "precision", 1.0);
}

#[test]
fn rewards_of_labelled_completions_make_a_curve() {
    let place = place();
    let model = tests().join("fixtures/tiny-llama").display().to_string();
    let arguments = [
        "builtin:grade",
        "--ask",
        "grade",
        "--model",
        &model,
        "--device",
        "cpu",
        "--data",
        "rows.jsonl",
        "--limit",
        "8",
        "--json",
        "out.json",
        "--report",
        "out.html",
    ];
    evaluate(&place, &arguments).expect(0);
    let found = json_of(&place);
    assert_eq!(found["rows"], 8);
    let auc = found["plugins"][0]["curve"]["roc_auc"]["value"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&auc));
    let slice = &found["plugins"][0]["slices"][0];
    assert_eq!(
        (&slice["figures"][0]["name"], &slice["value"]),
        (&json!("roc-auc"), &json!("Latin"))
    );
    assert!(std::fs::read_to_string(place.path("out.html")).unwrap().contains("ROC"));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let place = place();
    std::fs::write(place.path("bad.jsonl"), completions() + "{\"prompt\": 3}\n").unwrap();
    std::fs::write(place.path("bad.toml"), "[[plugin]]\nsuorce = \"x\"\n").unwrap();
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        evaluate(&place, arguments).expect(code).says(parts);
    };
    let length = "builtin:length";
    check(&["--data", "rows.jsonl"], 2, &["no plugin is named"]);
    check(&[length, length, "--data", "rows.jsonl"], 2, &["two plugins are called `length`"]);
    check(&[length, "--data", "nowhere.jsonl"], 4, &["cannot read data file `nowhere.jsonl`"]);
    check(&[length, "--data", "bad.jsonl"], 4, &["the row has no `label`", "bad.jsonl:41"]);
    check(&[length, "--data", "rows.jsonl", "--ask", "length"], 2, &["none is named", "--model"]);
    check(&[length, "--data", "rows.jsonl", "--model", "m"], 2, &["no plugin may ask it or needs"]);
    check(&[length, "--data", "rows.jsonl", "--ask", "x"], 2, &["`--ask` names `x`"]);
    check(
        &[length, "--data", "rows.jsonl", "--config", "length=3"],
        2,
        &["expected a JSON object"],
    );
    check(&[length, "--data", "rows.jsonl", "--column", "a=b"], 2, &["expected ROLE=NAME"]);
    check(&[length, "--data", "rows.jsonl", "--json", "no/o"], 2, &["`no` is no folder"]);
    check(&["--plugins", "bad.toml", "--data", "rows.jsonl"], 2, &["suorce", "[[plugin]]"]);
}
