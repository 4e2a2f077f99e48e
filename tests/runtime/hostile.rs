//! Every way in which a guest can break a call, and the sentence that the user gets.

use std::time::Duration;

use aligner::plugin::{Kind, NoAnswers, OnError, PluginError, Setup};

use super::{PLACE, check_error, check_sound, hostile, records};

/// Runs a filter that misbehaves over three records.
fn check_with(mode: &str, change: impl FnOnce(&mut Setup), expected: &[&str]) {
    let plugin = hostile(Kind::Filter, mode, change);
    let error = plugin
        .filter(&PLACE, &records(["p-1", "p-2", "p-3"]), &mut NoAnswers)
        .expect_err(&format!("mode {mode} is refused"));
    assert!(matches!(error, PluginError::Call(_)), "{error:?}");
    check_error(&error, &["filter `hostile` 0.2.0 ", "\n  in round 2, stage filter, record"]);
    check_error(&error, expected);
    check_sound();
}

fn check(mode: &str, expected: &[&str]) {
    check_with(mode, |_| {}, expected);
}

const ALL: &str = "records `p-1` to `p-3` (3 of them)";

#[test]
fn endless_loops_use_up_their_fuel() {
    let expected = ["used up its budget of 20M fuel", ALL, "hint: ", "fuel = \"80M\""];
    check_with("loop", |setup| setup.limits.fuel = 20_000_000, &expected);
}

#[test]
fn the_clock_is_the_last_resort_and_always_stops() {
    let impatient = |setup: &mut Setup| {
        setup.limits.fuel = u64::MAX >> 1;
        setup.limits.deadline = Duration::from_millis(100);
        setup.on_error = OnError::Drop;
    };
    check_with("loop", impatient, &["did not come back within 0.1 s", ALL]);
}

#[test]
fn memory_is_limited() {
    let expected = ["wanted more than its 64 MiB of memory", ALL, "memory = \"128MiB\""];
    check("memory", &expected);
    check("grow", &expected);
    let small = |setup: &mut Setup| setup.limits.memory_bytes = 4 << 20;
    check_with("memory", small, &["wanted more than its 4 MiB of memory"]);
    // Whatever the plugin set says, no more than this.
    let greedy = |setup: &mut Setup| {
        setup.limits.memory_bytes = usize::MAX;
        setup.limits.fuel = 100_000_000_000;
    };
    check_with("grow", greedy, &["wanted more than its 256 MiB of memory", "no plugin gets more"]);
}

#[test]
fn recursion_ends() {
    check("recurse", &["ran out of stack", ALL]);
    check("recurse-arrays", &["filter `hostile` 0.2.0 ", ALL]);
}

#[test]
fn crashes_carry_their_text() {
    check("panic", &["panicked: hostile/src/lib.rs:", "the record has no soul", ALL, "hint: "]);
    check("unreachable", &["crashed: ", "`unreachable`"]);
    check("out-of-bounds", &["crashed: ", "out of bounds"]);
}

#[test]
fn lists_have_the_length_of_the_batch() {
    check("too-few", &["returned 2 verdicts for 3 records", ALL, "hint: there must be one"]);
    check("too-many", &["returned 4 verdicts for 3 records"]);
}

#[test]
fn what_is_copied_is_limited() {
    check("aliases", &["gave back more than 16 MiB in one call", ALL]);
    check("many", &["gave back more than 16 MiB in one call"]);
    check("log-gigabyte", &["gave back more than 16 MiB in one call"]);
    let narrow = |setup: &mut Setup| setup.limits.copied_bytes = 1 << 20;
    check_with("aliases", narrow, &["gave back more than 1 MiB in one call"]);
}

#[test]
fn texts_are_utf_8() {
    check("utf8", &["gave back a text that is not UTF-8", ALL]);
}

#[test]
fn the_log_is_limited() {
    check("log-flood", &["wrote more than 65536 bytes to the log in one call", ALL]);
    // What would clear the terminal or forge a line is made harmless, and is no error.
    let plugin = hostile(Kind::Filter, "log-escape", |_| {});
    plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap();
}

#[test]
fn verdicts_keep_the_contract() {
    let first = "record `p-1`";
    check("long-reason", &["gave a drop reason of 201 bytes", first]);
    check("two-lines", &["gave a drop reason with a line break", first]);
    check("unknown-variant", &["names variant `nobody`; the record has `a`, `b`", first]);
    check("empty-revision", &["revises variant `a` to an empty text", first]);
}

#[test]
fn errors_of_plugins_reach_the_user_in_one_line() {
    check("error-config", &["refuses its configuration: key `mode` is not to my taste"]);
    check("error-input", &["cannot work on its input: record has no variants"]);
    check("error-internal", &["reports a fault of its own: lost my way [31m"]);
}

#[test]
fn other_kinds_are_checked_too() {
    let records = records(["p-1", "p-2"]);
    let check = |kind: Kind, mode: &str, expected: &[&str]| {
        let plugin = hostile(kind, mode, |_| {});
        let error = match kind {
            Kind::Difficulty => plugin.score(&PLACE, &records, &mut NoAnswers).map(|_| ()),
            Kind::Judge => plugin.judge(&PLACE, &records, &mut NoAnswers).map(|_| ()),
            Kind::Principle => plugin.render(&PLACE, &records, &mut NoAnswers).map(|_| ()),
            Kind::Filter => plugin.filter_set(&PLACE, &[], &records).map(|_| ()),
            Kind::Sampler => unreachable!("its calls are not over records"),
        };
        let error = error.expect_err(&format!("{kind} {mode} is refused"));
        check_error(&error, &[&format!("{kind} `hostile` 0.2.0 "), "in round 2"]);
        check_error(&error, expected);
        check_sound();
    };
    check(Kind::Difficulty, "nan", &["gave a difficulty as NaN", "record `p-1`"]);
    check(Kind::Judge, "nan", &["gave reward `q` as NaN", "record `p-1`"]);
    check(Kind::Judge, "unknown-variant", &["names variant `nobody`"]);
    check(Kind::Judge, "no-rewards", &["gave an empty list of rewards"]);
    check(Kind::Judge, "itself", &["prefers variant `a` to itself"]);
    check(Kind::Principle, "none", &["gave no variant"]);
    check(Kind::Principle, "twice", &["gave variant `a` twice"]);
    check(Kind::Principle, "completed", &["gave variant `a` a completion"]);
    check(Kind::Filter, "too-few", &["returned 1 verdicts for 2 records"]);
    check(Kind::Filter, "decide-panic", &["panicked: ", "cannot decide"]);
    check(Kind::Filter, "unknown-variant", &["names variant `nobody`", "record `p-2`"]);
    check(Kind::Filter, "loop", &["used up its budget of 2G fuel"]);
}
