//! What a plugin has for the whole run, and what it cannot take with it from one call to the next.

use aligner::plugin::{Kind, NoAnswers, OnError, Outcome, Place, Setup, Spent};
use aligner::record::Verdict;

use super::asking::{self, Model};
use super::{PLACE, check_error, check_sound, hostile, records};

#[test]
fn fuel_of_the_run_is_counted_over_stages() {
    let setup = |setup: &mut Setup| setup.limits.run.fuel = Some(2_000_000);
    let plugin = hostile(Kind::Filter, "", setup);
    let records = records(["p-1", "p-2"]);
    let mut stages = 0;
    let error = loop {
        let before = plugin.used().fuel;
        match plugin.filter(&PLACE, &records, &mut NoAnswers) {
            Ok(stage) => assert_eq!(plugin.used().fuel, before + stage.spent.fuel),
            Err(error) => break error,
        }
        stages += 1;
        assert!(stages < 10_000, "it never ends");
    };
    assert!(stages > 1, "{stages}");
    assert!(plugin.used().fuel <= 2_000_000);
    check_error(
        &error,
        &[
            "used up its budget of 2M fuel for the whole run\n  in round 2, stage filter",
            "hint: if the work is right, give it more: `limits = { run_fuel = \"8M\" }`",
        ],
    );

    // As a run that is resumed does: the same stages are done, and the same one is not.
    let resumed = hostile(Kind::Filter, "", setup);
    resumed.set_used(plugin.used());
    let again = resumed.filter(&PLACE, &records, &mut NoAnswers).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    check_sound();
}

#[test]
fn requests_and_tokens_of_the_run_are_counted_over_stages() {
    let check = |change: fn(&mut aligner::plugin::Grant), before: Spent, expected: &[&str]| {
        let plugin = hostile(Kind::Filter, "ask", |setup| {
            asking::grant(setup);
            change(setup.grant.as_mut().unwrap());
            setup.on_error = OnError::Drop;
        });
        plugin.set_used(before);
        let result = plugin.filter(&PLACE, &records(["p-1"]), &mut Model::default());
        match expected {
            [] => {
                assert_eq!(result.unwrap().spent.requests, 2);
                assert_eq!(plugin.used().requests, before.requests + 2);
                assert_eq!(plugin.used().tokens, before.tokens + 10);
            }
            expected => check_error(&result.unwrap_err(), expected),
        }
    };
    let used = Spent { requests: 5, tokens: 90, ..Spent::default() };
    check(|grant| grant.run_requests = Some(7), used, &[]);
    check(
        |grant| grant.run_requests = Some(6),
        used,
        &["makes 1 requests, and has 0 left of its 6 for the whole run", "`run_requests`"],
    );
    check(|grant| grant.run_tokens = Some(100), used, &[]);
    check(
        |grant| grant.run_tokens = Some(97),
        used,
        &["asks for up to 8 tokens, and has 7 left of its 97 for the whole run", "`run_tokens`"],
    );
    check(|grant| grant.requests = 2, used, &[]);
    check(
        |grant| grant.requests = 1,
        used,
        &["makes 1 requests, and has 0 left of its 1 for the stage", "raise `requests`"],
    );
    // What a record has is the record's fault, and can be dropped.
    let plugin = hostile(Kind::Filter, "ask", |setup| {
        asking::grant(setup);
        setup.grant.as_mut().unwrap().record_requests = 1;
        setup.on_error = OnError::Drop;
    });
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut Model::default()).unwrap();
    let text = "makes 1 requests, and has 0 left of its 1 for one record".to_owned();
    assert_eq!(stage.outcomes, [Outcome::Failed(text)]);
}

/// A guest that counts its calls in a global finds the count at its beginning in each batch, each
/// stage and each plugin that is loaded from it.
#[test]
fn nothing_is_kept_between_calls() {
    let said = |place: &Place, plugin: &aligner::plugin::Plugin, count: usize| {
        let ids: Vec<_> = (0..count).map(|i| format!("p-{i}")).collect();
        plugin.filter(place, &records(&ids), &mut NoAnswers).unwrap().outcomes
    };
    let first = hostile(Kind::Filter, "context", |_| {});
    for plugin in [&first, &first, &hostile(Kind::Filter, "context", |_| {})] {
        let outcomes = said(&PLACE, plugin, 600);
        let expected =
            |batch: usize| Outcome::Done(Verdict::Drop(format!("2 of 3, call 1, {batch}")));
        assert!(outcomes[..512].iter().all(|outcome| *outcome == expected(256)));
        assert!(outcomes[512..].iter().all(|outcome| *outcome == expected(88)));
    }
    // A set-filter keeps what it saw within a stage, and nothing of it for the next one.
    let set = hostile(Kind::Filter, "", |_| {});
    for _ in 0..2 {
        let stage = set.filter_set(&PLACE, &[], &records(["p-1", "p-2"])).unwrap();
        assert_eq!(stage.outcomes[1], Outcome::Done(Verdict::Drop("one of 2".into())));
    }
}

/// What the host cannot see in one call: verdicts that depend on the batch, or come in another order.
/// Calling with the same records in other batches shows both, and is what `aligner plugin test` and
/// `aligner evaluate` do.
#[test]
fn other_batches_tell_what_one_call_does_not() {
    let differing = |how: &str| {
        let plugin = hostile(Kind::Filter, how, |_| {});
        let records = records(["p-1", "drop-2", "p-3", "p-4"]);
        let together = plugin.filter(&PLACE, &records, &mut NoAnswers).unwrap().outcomes;
        let alone = |record: &aligner::record::Record| {
            plugin.filter(&PLACE, std::slice::from_ref(record), &mut NoAnswers).unwrap().outcomes
        };
        let alone: Vec<_> = records.iter().flat_map(alone).collect();
        together.iter().zip(&alone).filter(|(a, b)| a != b).count()
    };
    assert_eq!(differing(""), 0);
    assert_eq!(differing("reversed"), 2);
    assert_eq!(differing("context"), 4);
    check_sound();
}
