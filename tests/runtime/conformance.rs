//! The suite of `aligner plugin test`: the shipped plugins pass it, and guests with the mistakes that authors
//! make fail in the very lines that are about them.

use aligner::conformance::{Report, Tested, Verdict, test};
use aligner::plugin::{Limits, Source};

use super::{RUNTIME, guests};

fn report(source: &Source, config: &str) -> Report {
    let loaded = RUNTIME.open(source, &Limits::default()).expect("the component loads");
    test(&Tested { loaded: &loaded, config, data: &[], hear: &|| {} })
}

/// Returns the checks that failed, each with its interface where it has one.
fn failing(report: &Report) -> Vec<String> {
    let name = |line: &aligner::conformance::Line| match line.interface {
        Some(interface) => format!("{interface}: {}", line.check),
        None => line.check.clone(),
    };
    report.of(Verdict::Fail).map(name).collect()
}

#[test]
fn shipped_plugins_pass() {
    let config = |name: &str| match name {
        "threshold" => r#"{"rewards":{"quality":5}}"#,
        _ => "{}",
    };
    let mut tried = 0;
    for (name, bytes) in aligner_embed::COMPONENTS {
        let report = report(&Source::embedded(format!("builtin:{name}"), bytes), config(name));
        assert!(failing(&report).is_empty(), "{name}\n{report}");
        assert!(report.lines.len() > 12, "{name}\n{report}");
        tried += 1;
    }
    assert_eq!(tried, 21);
}

fn check(mode: &str, expected: &[&str], words: &str) {
    let source = Source::bytes("unfit.wasm", guests::component("unfit"));
    let config = if mode.is_empty() { "{}".to_owned() } else { super::mode(mode) };
    let report = report(&source, &config);
    assert_eq!(failing(&report), expected, "mode `{mode}`\n{report}");
    assert!(report.to_string().contains(words), "no {words:?} in\n{report}");
}

#[test]
fn a_guest_without_mistakes_passes() {
    check("", &[], "same one by one: 84 items");
}

#[test]
fn what_depends_on_the_batch_is_found() {
    let all = [
        "filter: same one by one",
        "filter: same in two halves",
        "filter: same in reverse order",
        "filter: same beside other neighbours",
    ];
    check("counts", &all, "in one batch:  Drop(\"short\")");
    // In one call of the same order every answer goes to the same wrong record.
    let reordered = [
        "filter: same one by one",
        "filter: same in two halves",
        "filter: same beside other neighbours",
    ];
    check("reorders", &reordered, "it says something else of");
    check(
        "few",
        &["filter: lengths", "filter: limits in a full batch"],
        "returned 1 verdicts for 2 records",
    );
    check("first", &["filter: empty batch"], "panicked: unfit/src/lib.rs:");
}

#[test]
fn what_stumbles_over_texts_is_found() {
    check("panics", &["filter: awkward completions"], "it fails on 1 of 29: `empty`");
    check(
        "loops",
        &["filter: awkward completions", "filter: limits with a large record"],
        "used up its budget of 2G fuel",
    );
    check(
        "complains",
        &["filter: awkward completions"],
        "record `empty, completion, plain` says nothing",
    );
    // A record that lacks what is needed is refused, and that is no mistake.
    check("picky", &[], "it does not work on 12 of 12");
}

#[test]
fn what_cannot_take_its_answers_is_found() {
    let of = |shape: &str| format!("filter: records ({shape})");
    let shapes = [
        "prompt alone",
        "plain",
        "few-shot",
        "plain, good and bad",
        "plain with rewards",
        "pair with rewards",
        "not completed",
    ];
    let mut expected: Vec<String> = shapes.into_iter().map(of).collect();
    expected.push("filter: records".into());
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check("asks", &expected, "still asks after 64 rounds of answers");
    check(
        "reads",
        &["filter: empty answers", "filter: no answers"],
        "asks: `critic` (generate 84); up to 1 request a record",
    );
}

#[test]
fn a_careless_configuration_is_found() {
    check("careless", &["refuses an unknown key"], "a mistake in a plugin set would go unnoticed");
}

#[test]
fn the_suite_outlives_hostile_guests() {
    for mode in ["panic", "utf8", "too-many", "many", "log-flood", "ask-nothing"] {
        let report = report(&guests::hostile(), &super::mode(mode));
        assert!(!failing(&report).is_empty(), "{mode}\n{report}");
        assert!(!report.to_string().contains('\x1b'), "{mode}\n{report}");
    }
    super::check_sound();
}
