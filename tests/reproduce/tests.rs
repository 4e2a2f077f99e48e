//! Means, verdicts, results that are no longer a row's, and what the page says.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::reproduce::experiment::{Experiments, Side, With};
use crate::reproduce::outcome::{FILE, Outcome, Spent, of_measures, of_run};
use crate::reproduce::page::Finished;
use crate::reproduce::verdict::{Mean, Verdict, compare};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reproduce"))
}

#[test]
fn means_have_a_spread_from_two_seeds_on() {
    assert_eq!(Mean::of(&[]), None);
    assert_eq!(Mean::of(&[3.0]), Some(Mean { value: 3.0, spread: None, seeds: 1 }));
    let three = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(three, Mean { value: 2.0, spread: Some(1.0), seeds: 3 });
    assert_eq!(
        (three.shown(2), Mean::of(&[0.25]).unwrap().shown(1)),
        ("2.00 ± 1.00".into(), "0.2".into())
    );
}

#[test]
fn directions_are_the_papers_or_not() {
    let check = |pairs: &[(f64, f64)], is, expected| {
        assert_eq!(compare(pairs, is, 0.1).verdict, expected, "{pairs:?} {is:?}");
    };
    check(&[], Side::Lower, Verdict::Unfinished);
    check(&[(15.0, 16.0)], Side::Lower, Verdict::Agrees);
    check(&[(15.0, 16.0)], Side::Higher, Verdict::Disagrees);
    check(&[(16.05, 16.0)], Side::Higher, Verdict::TooSmall);
    check(&[(15.95, 16.0)], Side::Higher, Verdict::TooSmall);
    // Each seed by itself: rows that go up and down together differ by what they differ in each.
    check(&[(15.0, 16.0), (25.0, 26.1), (5.0, 5.9)], Side::Lower, Verdict::Agrees);
    check(&[(15.0, 16.0), (25.0, 26.1), (5.0, 5.9)], Side::Higher, Verdict::Disagrees);
    // A mean of -1 with a standard deviation of 1 needs seven seeds: 2.447 / sqrt(7) is under 1.
    check(&[(0.0, 0.0), (0.0, 1.0), (0.0, 2.0)], Side::Lower, Verdict::Noise);
    let seven: Vec<(f64, f64)> = (0..7).map(|i| (0.0, 1.0 + f64::from(i % 3 - 1))).collect();
    check(&seven, Side::Lower, Verdict::Agrees);
    let difference = compare(&[(15.0, 16.0), (16.0, 18.0)], Side::Lower, 0.1).difference.unwrap();
    assert_eq!((difference.value, difference.seeds), (-1.5, 2));
}

const EXPERIMENTS: &str = r#"
model = "tiny"
dtype = "f32"
suite = "suite.toml"
seed = 17
set = { "data.limit" = 4 }
[[figure]]
name = "perplexity"
measure = "trusted"
figure = "perplexity"
says = "lower is better"
tells = 0.1
digits = 1
[[question]]
name = "soft"
title = "Rounds"
paper = "https://example.org"
text = "Four prompts."
plugin_set = "soft.toml"
[[question.row]]
name = "one"
title = "one round"
set = { "run.rounds" = 1, "train.data" = "all" }
[[question.row]]
name = "two"
title = "two rounds"
set = { "run.rounds" = 2 }
[[question.row]]
name = "far"
title = "further"
extrapolate = { of = "two", alpha = 0.5 }
[[question.claim]]
says = "two are better"
figure = "perplexity"
rows = ["two"]
is = "lower"
than = "one"
[[question.claim]]
says = "going on is better"
figure = "perplexity"
rows = ["two", "far"]
is = "lower"
than = "one"
"#;

fn outcome(perplexity: f64) -> Outcome {
    Outcome {
        definition: json!({ "seed": 17 }),
        spent: Spent { rounds: 2, prompts: 4, kept: 3, updates: 1 },
        stopped: None,
        adapter: None,
        figures: BTreeMap::from([("trusted/perplexity".into(), perplexity)]),
        engine: "cpu f32".into(),
        seconds: 90.0,
        cpu_seconds: 30.0,
    }
}

#[test]
fn a_result_is_of_its_definition_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let read = |definition| Outcome::read(folder.path(), &definition);
    assert_eq!(read(json!({ "seed": 17 })), None);
    outcome(16.0).write(folder.path()).unwrap();
    assert_eq!(read(json!({ "seed": 17 })), Some(outcome(16.0)));
    assert_eq!(read(json!({ "seed": 18 })), None);
    let path = folder.path().join(FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(read(json!({ "seed": 17 })), None);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_definition_has_all_that_a_row_follows_from() {
    let file = Experiments::parse(EXPERIMENTS).unwrap();
    let with = With {
        aligner: "aligner 1".into(),
        suite: "a".into(),
        plugin_sets: BTreeMap::from([("soft.toml".into(), "b".into())]),
    };
    let defined = |file: &Experiments, row: &str, seed, with: &With| {
        let question = &file.questions[0];
        file.definition(question, question.row(row).unwrap(), seed, with)
    };
    let one = defined(&file, "one", 17, &with);
    assert_eq!(
        one["trained"]["set"],
        json!({ "data.limit": 4, "run.dtype": "f32", "run.rounds": 1, "train.data": "all" })
    );
    assert_eq!(one, defined(&file, "one", 17, &with));
    let keys = file.keys(&file.questions[0], &file.questions[0].rows[0]);
    let arguments: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        arguments,
        ["data.limit=4", "run.dtype=\"f32\"", "run.rounds=1", "train.data=\"all\""]
    );

    // What changes a row changes what goes on from it.
    for row in ["one", "far"] {
        let before = defined(&file, row, 17, &with);
        let mut changed = file.clone();
        changed.set.insert("data.limit".into(), 5.into());
        let set = With { plugin_sets: BTreeMap::new(), ..with.clone() };
        let suite = With { suite: "c".into(), ..with.clone() };
        let aligner = With { aligner: "aligner 2".into(), ..with.clone() };
        let of = [&set, &suite, &aligner].map(|with| defined(&file, row, 17, with));
        for after in of
            .into_iter()
            .chain([defined(&changed, row, 17, &with), defined(&file, row, 18, &with)])
        {
            assert_ne!(before, after, "{row}");
        }
        // Another suite measures again and trains nothing.
        let [row, as_before] = [&with, &suite].map(|with| {
            let question = &file.questions[0];
            file.training(question, question.row(row).unwrap(), 17, with)
        });
        assert_eq!(row, as_before);
    }
}

#[test]
fn names_that_lead_nowhere_are_refused() {
    let check = |from: &str, to: &str, expected: &str| {
        assert!(EXPERIMENTS.contains(from), "{from}");
        let error = Experiments::parse(&EXPERIMENTS.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("of = \"two\"", "of = \"three\"", "row `far` of `soft` has no row `three` above it");
    check(
        "rows = [\"two\"]",
        "rows = [\"three\"]",
        "`two are better` names `three`, which is no row",
    );
    check("rows = [\"two\"]", "rows = []", "`two are better` names no row");
    check(
        "figure = \"perplexity\"\nrows",
        "figure = \"length\"\nrows",
        "names `length`, no figure",
    );
    check("name = \"far\"", "name = \"one\"", "`soft` has two rows `one`");
    check("alpha = 0.5", "alpa = 0.5", "unknown field `alpa`");
}

#[test]
fn the_page_has_what_is_finished_and_names_the_rest() {
    let file = Experiments::parse(EXPERIMENTS).unwrap();
    let page = |seeds, rows| {
        Finished { experiments: &file, seeds, initial: Some(outcome(17.0)), rows }.page()
    };
    let has = |page: &str, part: &str| {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(page).contains(&words(part)), "{part}\n{page}");
    };

    let nothing =
        Finished { experiments: &file, seeds: 1, initial: None, rows: vec![vec![vec![]; 3]] }
            .page();
    has(&nothing, "Finished: 0 of 4 rows and seeds");
    has(&nothing, "| soft | two are better | not finished | 0 |\n");
    has(&nothing, "- **Not finished**: one round; two rounds; further.\n");
    assert!(
        !nothing.contains("| one round |") && !nothing.contains("initial model |"),
        "{nothing}"
    );

    let stopped = Outcome { stopped: Some("round 2 kept none".into()), ..outcome(15.5) };
    let one = page(1, vec![vec![vec![(17, outcome(16.0))], vec![(17, stopped)], vec![]]]);
    has(&one, "One seed says little");
    has(&one, "Command: `make reproduce`;");
    has(&one, "Finished: 3 of 4 rows and seeds, in 5 min (2 min of processor time)");
    has(&one, "| initial model | – | – | – | – | – | 17.0 |\n");
    has(&one, "| two rounds | 1 | 2 | 4 | 3 | 1 | 15.5 |\n");
    has(
        &one,
        "- two are better: **agrees**. By perplexity, “two rounds” is 0.5 lower than “one round” (one seed).\n",
    );
    has(&one, "- Stopped: two rounds, seed 17: round 2 kept none.\n");
    has(&one, "| soft | two are better | agrees | 1 |\n");
    has(&one, "- going on is better: not finished.\n");
    has(&one, "- **Not finished**: further.\n");
    has(
        &one,
        "Of 2 directions that papers report: agree 1; do not agree 0; too small or too noisy to tell 0; without a trained row 0; not finished 1.",
    );

    // What trained nothing is the initial model, and no row to compare.
    let untrained = Outcome { spent: Spent { kept: 0, ..outcome(15.0).spent }, ..outcome(15.0) };
    let rows = [outcome(16.0), untrained, outcome(15.5)];
    let without = page(1, vec![rows.into_iter().map(|outcome| vec![(17, outcome)]).collect()]);
    has(&without, "- two are better: nothing was trained.\n");
    has(
        &without,
        "By perplexity, “further”, the furthest, is 0.5 lower than “one round” (one seed).",
    );

    let seeds =
        |values: &[f64]| (17..).zip(values.iter().copied().map(outcome)).collect::<Vec<_>>();
    let three = page(
        3,
        vec![vec![seeds(&[16.0, 17.0, 18.0]), seeds(&[17.0, 18.1]), seeds(&[15.0, 16.1, 16.9])]],
    );
    has(&three, "Command: `SEEDS=3 make reproduce`;");
    has(&three, "Seeds: 3 seeds from 17 on.");
    has(&three, "| one round | 3 | 2 | 4 | 3 | 1 | 17.0 ± 1.0 |\n");
    has(
        &three,
        "- two are better: **does not agree**. By perplexity, “two rounds” is 1.1 ± 0.1 higher than “one round” (2 seeds).\n",
    );
    has(
        &three,
        "- going on is better: **agrees**. By perplexity, “further”, the furthest, is 1.0 ± 0.1 lower than “one round” (3 seeds).",
    );
    has(&three, "- **Not finished**: two rounds (1 of 3 seeds).\n");
    for page in [nothing, one, three] {
        let prose = page.lines().filter(|line| !line.starts_with('|'));
        assert!(prose.clone().all(|line| line.chars().count() <= 118), "{page}");
    }
}

#[test]
fn budgets_and_figures_are_read_where_the_program_leaves_them() {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(
        "report.json",
        r#"{"rounds": [{"prompts": 4, "kept": 3}, {"prompts": 5, "kept": 1}],
            "nothing_kept": {"round": 3, "records": 6, "dropped": {}}}"#,
    );
    put("rounds/01/metrics.jsonl", "{}\n{}\n");
    put("rounds/02/metrics.jsonl", "{}\n");
    put("rounds/01/adapter/adapter_config.json", "{}");
    let (spent, stopped, adapter) = of_run(folder.path()).unwrap();
    assert_eq!(spent, Spent { rounds: 2, prompts: 15, kept: 4, updates: 3 });
    assert_eq!(stopped.unwrap(), "round 3 kept none of its 6 records, which ended the run");
    // The second round left none, so the first one's is what the policy is.
    assert_eq!(adapter.unwrap(), folder.path().join("rounds/01/adapter"));
    assert!(of_run(&folder.path().join("rounds")).is_err());

    put(
        "measures.json",
        r#"{"engine": "cpu f32", "measures": [{"name": "trusted", "figures":
            [{"name": "perplexity", "value": 16.5}, {"name": "tokens", "value": null}]}]}"#,
    );
    let (figures, engine) = of_measures(&folder.path().join("measures.json")).unwrap();
    assert_eq!(figures, BTreeMap::from([("trusted/perplexity".into(), 16.5)]));
    assert_eq!(engine, "cpu f32");
}

/// The project's own file, and its suite's data, which no plugin set may have seen.
#[test]
fn the_suite_is_apart_from_what_is_trained_on() {
    let file = Experiments::read(&folder().join("experiments.toml")).unwrap();
    let questions: Vec<&str> =
        file.questions.iter().map(|question| question.name.as_str()).collect();
    assert_eq!(questions, ["soft", "soft-plus", "i-sheep", "sso", "expo"]);
    let prompts = |path: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let rows =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let asked = |row: serde_json::Value| {
            let asked = row["prompt"].as_str().or(row["question"].as_str());
            asked.unwrap().to_lowercase()
        };
        rows.map(asked).collect()
    };
    let mut known = Vec::new();
    for name in ["prompts-240", "trusted-40", "seed-tasks"] {
        known.extend(prompts(&folder().join(format!("../../examples/data/{name}.jsonl"))));
    }
    assert_eq!(known.len(), 340);
    let mut own = Vec::new();
    for (name, rows) in [("trusted", 20), ("instructions", 20), ("questions", 12), ("prompts", 20)]
    {
        let found = prompts(&folder().join(format!("suite/{name}.jsonl")));
        assert_eq!(found.len(), rows, "{name}");
        own.extend(found);
    }
    for prompt in &own {
        assert!(!known.contains(prompt), "{prompt}");
    }
    own.sort();
    own.dedup();
    assert_eq!(own.len(), 72);
}
