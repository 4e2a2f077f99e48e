//! Rounds that leave their policy under a name, and those that generate with it.

use serde_json::Value;

use super::full::FULL;
use super::kill::{check_set, step};
use super::lines;
use super::preference::contrast;
use super::{Place, Said, tests};

fn run(place: &Place, run: &str, more: &[&str]) -> Said {
    let contrast = contrast();
    place.set("tiny-sso-v2", run, &[&["--set", &contrast], more].concat())
}

#[test]
fn the_policy_learns_from_what_a_saved_generator_writes() {
    let place = Place::new();
    run(&place, "run", &[]).expect(0);
    let files = place.files("run");
    // Until it is trained itself, the policy that enters round 2 is the generator.
    let with = |model: &str| {
        let model = format!("rounds.1.generate.model='{model}'");
        run(&place, &model, &["--set", &model]).expect(0);
        place.files(&model)
    };
    let (policy, initial) = (with("policy"), with("initial"));
    let generated = "rounds/02/generate.jsonl";
    assert!(files[generated] == policy[generated] && files[generated] != initial[generated]);
    assert_eq!(lines(&files, generated).len(), 8);

    // Round 2 begins at the initial model, which is its reference too.
    let first = &lines(&files, "rounds/02/metrics.jsonl")[0];
    assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-5, "{first}");
    let previous = ["--set", "rounds.1.train.start='previous'"];
    run(&place, "previous", &previous).expect(0);
    let first = &lines(&place.files("previous"), "rounds/02/metrics.jsonl")[0];
    assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() > 1e-4, "{first}");

    // The generator is a tool, and never the result.
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    assert_eq!(report["best_round"], 2);
    let weights = "adapter/adapter_model.safetensors";
    assert!(files[&format!("final/{weights}")] == files[&format!("rounds/02/{weights}")]);
}

#[test]
fn a_saved_policy_is_not_the_one_of_the_round_before() {
    let place = Place::new();
    let set = std::fs::read_to_string(tests().join("sets/tiny-sso-v2.toml")).unwrap();
    let set = set.replace("\"tiny-p", &format!("\"{}/sets/tiny-p", tests().display()));
    let set = set.replace("\"tiny-h", &format!("\"{}/sets/tiny-h", tests().display()));
    let set = set.replace("../fixtures", &tests().join("fixtures").display().to_string());
    let third =
        "\n[[rounds]]\ngenerate = { model = \"generator\" }\ntrain = { objective = \"dpo\" }\n";
    std::fs::write(place.path("three.toml"), set + third).unwrap();
    let contrast = contrast();
    for method in [&[][..], &FULL] {
        let generated = |model: &str| {
            let name = format!("{model}-{}", method.len());
            let model = format!("rounds.2.generate.model='{model}'");
            let fixed =
                ["--plugins", "three.toml", "--out", &name, "--set", &contrast, "--set", &model];
            let keep = ["--set", "run.keep='last'"];
            place.aligner(&[&fixed[..], &keep, method].concat()).expect(0);
            place.files(&name)["rounds/03/generate.jsonl"].clone()
        };
        let [generator, policy, initial] = ["generator", "policy", "initial"].map(generated);
        assert!(generator != policy && generator != initial && policy != initial);
    }
    // What is saved stays, whatever else is removed.
    let there = |round: u32| place.path(&format!("generator-4/rounds/{round:02}/model")).is_dir();
    assert!(there(1) && there(3));
}

#[test]
fn a_plugin_cannot_ask_what_is_not_saved_yet() {
    let place = Place::new();
    let rounds = "\n[[rounds]]\nsave_as = \"one\"\n[[rounds]]\n";
    place.write_set("asks.toml", rounds);
    let asks = |scope: &str, out: &str| {
        let scope = format!("difficulty.scope='{scope}'");
        let fixed = ["--plugins", "asks.toml", "--out", out, "--set", &scope];
        let asks =
            ["--set", "difficulty.ask.models=['one']", "--set", "difficulty.config.model='one'"];
        place.aligner(&[&fixed[..], &asks].concat())
    };
    for (scope, place) in [("pool", "pool: difficulty"), ("round", "round 1: difficulty")] {
        let said = format!("a plugin asks `one` in {place} about `");
        asks(scope, scope).expect(2).says(&[&said, "round 1 saves it once it is done", "hint: "]);
    }
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let contrast = contrast();
    let stages = check_set("tiny-sso-v2", &["--set", &contrast], "kill", step(9));
    assert!(stages.contains("generate") && stages.contains("train"), "{stages:?}");
    let full = [&["--set", contrast.as_str()][..], &FULL, &["--set", "run.keep='last'"]].concat();
    check_set("tiny-sso-v2", &full, "kill", step(23));
}
