//! `on_error = "drop"`: the records at fault are found, and only they are dropped.

use aligner::plugin::{Kind, NoAnswers, OnError, Outcome, Setup, Stage};
use aligner::record::Verdict;

use super::{PLACE, check_error, check_sound, hostile, records};

/// 300 records, which is more than a batch, with poison in four places.
fn ids() -> Vec<String> {
    let poison = [0, 17, 255, 256];
    (0..300)
        .map(|i| if poison.contains(&i) { format!("poison-{i}") } else { format!("p-{i}") })
        .collect()
}

fn drops(setup: &mut Setup) {
    setup.on_error = OnError::Drop;
}

fn check<T: PartialEq + std::fmt::Debug>(
    stage: Stage<T>,
    sound: impl Fn(&str) -> T,
    expected: &str,
) {
    let ids = ids();
    assert_eq!(stage.outcomes.len(), ids.len());
    for (id, outcome) in ids.iter().zip(stage.outcomes) {
        match outcome {
            Outcome::Done(value) => assert_eq!(value, sound(id), "{id}"),
            Outcome::Failed(text) => {
                assert!(id.contains("poison"), "{id} failed: {text}");
                assert!(text.contains(expected), "{text}\n  lacks\n{expected}");
            }
        }
    }
    check_sound();
}

#[test]
fn filters_lose_only_what_they_fail_on() {
    let check_with = |mode: &str, fuel: u64, expected: &str| {
        let plugin = hostile(Kind::Filter, mode, |setup| {
            drops(setup);
            setup.limits.fuel = fuel;
        });
        let stage = plugin.filter(&PLACE, &records(ids()), &mut NoAnswers).unwrap();
        let failed = stage.outcomes.iter().filter(|o| matches!(o, Outcome::Failed(_))).count();
        assert_eq!(failed, 4, "mode {mode}");
        check(stage, |_| Verdict::Keep, expected);
    };
    let check = |mode, expected| check_with(mode, 20_000_000, expected);
    check("panic-on", "panicked: hostile/src/lib.rs:");
    check("unreachable-on", "crashed: ");
    check("loop-on", "used up its budget of 20M fuel");
    check("utf8-on", "not UTF-8");
    check_with("memory-on", 2_000_000_000, "wanted more than its 64 MiB");
    check("unknown-variant-on", "names variant `nobody`");
    check("two-lines-on", "a line break");
}

#[test]
fn other_kinds_lose_only_what_they_fail_on() {
    let records = records(ids());
    let plugin = hostile(Kind::Difficulty, "nan-on", drops);
    let stage = plugin.score(&PLACE, &records, &mut NoAnswers).unwrap();
    check(stage, |id| id.len() as f64, "as NaN");

    // The set filter's verdicts count those that were seen: the failed ones are not among them.
    let plugin = hostile(Kind::Filter, "panic-on", drops);
    let stage = plugin.filter_set(&PLACE, &[], &records).unwrap();
    assert_eq!(stage.outcomes.iter().filter(|o| matches!(o, Outcome::Failed(_))).count(), 4);
    let sound = |id: &str| match id {
        "p-1" => Verdict::Keep,
        _ => Verdict::Drop("one of 296".into()),
    };
    check(stage, sound, "panicked: ");
    // What stands is left out where the filter fails on it, and no verdict goes astray.
    let judged = super::records(["q-1", "q-2"]);
    let stage = plugin.filter_set(&PLACE, &records, &judged).unwrap();
    let verdict = Outcome::Done(Verdict::Drop("one of 298".into()));
    assert_eq!(stage.outcomes, [verdict.clone(), verdict]);
}

#[test]
fn what_fails_for_every_record_fails_for_each() {
    let plugin = hostile(Kind::Filter, "panic", drops);
    let stage = plugin.filter(&PLACE, &records(["p-1", "p-2", "p-3"]), &mut NoAnswers).unwrap();
    assert!(stage.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(_))));
}

#[test]
fn a_broken_set_filter_stops_rather_than_dropping_everything() {
    let plugin = hostile(Kind::Filter, "decide-panic", drops);
    let error = plugin.filter_set(&PLACE, &[], &records(ids())).expect_err("it never decides");
    check_error(&error, &["panicked: ", "cannot decide", "stage filter"]);
}

#[test]
fn results_do_not_depend_on_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let plugin = hostile(Kind::Filter, "panic-on", drops);
        pool.install(|| plugin.filter(&PLACE, &records(ids()), &mut NoAnswers).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(4));
    assert_eq!(one, run(1));
    assert!(one.spent.fuel > 0 && one.spent.instances > 2 && one.spent.calls > one.spent.instances);
}
