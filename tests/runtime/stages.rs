//! What a guest that behaves gives for each function of the contract.

use aligner::plugin::{
    Candidate, Equipment, Interface, Kind, NoAnswers, Outcome, Place, PluginError,
};
use aligner::record::{Decoding, Finish, Opinion, Prompt, Revision, Reward, Text, Verdict};

use super::{PLACE, check_error, check_sound, hostile, records};

fn done<T: std::fmt::Debug>(outcomes: Vec<Outcome<T>>) -> Vec<T> {
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Done(value) => value,
            Outcome::Failed(text) => panic!("{text}"),
        })
        .collect()
}

#[test]
fn filters() {
    check_sound();
    let plugin = hostile(Kind::Filter, "revise", |_| {});
    let stage = plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap();
    let revision = Revision { variant: "a".into(), text: "new text".into(), finish: Finish::Stop };
    assert_eq!(done(stage.outcomes), [Verdict::Revise(vec![revision])]);
    let none = plugin.filter(&PLACE, &[], &mut NoAnswers).unwrap();
    assert!(none.outcomes.is_empty());
}

#[test]
fn every_batch_has_a_fresh_instance() {
    let plugin = hostile(Kind::Filter, "context", |_| {});
    let ids: Vec<_> = (0..300).map(|i| format!("p-{i}")).collect();
    let stage = plugin.filter(&PLACE, &records(&ids), &mut NoAnswers).unwrap();
    let reasons = done(stage.outcomes);
    assert_eq!(reasons[0], Verdict::Drop("2 of 3, call 1, 256".into()));
    assert_eq!(reasons[299], Verdict::Drop("2 of 3, call 1, 44".into()));
    assert_eq!((stage.spent.instances, stage.spent.calls), (2, 4));
}

#[test]
fn seeds_come_from_the_place() {
    let plugin = hostile(Kind::Filter, "seed", |_| {});
    let seeds = |place: &Place| {
        done(plugin.filter(place, &records(["p-1", "p-2"]), &mut NoAnswers).unwrap().outcomes)
    };
    let first = seeds(&PLACE);
    assert_ne!(first[0], first[1]);
    assert_eq!(first, seeds(&PLACE));
    assert_ne!(first, seeds(&Place { run_seed: 18, ..PLACE }));
    assert_ne!(first, seeds(&Place { round: 1, ..PLACE }));
}

#[test]
fn set_filters_see_everything_before_they_decide() {
    let ids: Vec<_> = (0..600).rev().map(|i| format!("p-{i:03}")).collect();
    let plugin = hostile(Kind::Filter, "", |_| {});
    let stage = plugin.filter_set(&PLACE, &[], &records(&ids)).unwrap();
    let verdicts = done(stage.outcomes);
    assert_eq!(verdicts[599], Verdict::Keep);
    assert!(verdicts[..599].iter().all(|v| *v == Verdict::Drop("one of 600".into())));
    // One instance: configure, three batches observed, three decided.
    assert_eq!((stage.spent.instances, stage.spent.calls), (1, 7));
    assert!(plugin.filter_set(&PLACE, &[], &[]).unwrap().outcomes.is_empty());
    // What stands is seen first and not judged; the first of all ids stands.
    let standing: Vec<_> = (0..300).map(|i| format!("a-{i:03}")).collect();
    let stage = plugin.filter_set(&PLACE, &records(&standing), &records(&ids)).unwrap();
    assert!(done(stage.outcomes) == vec![Verdict::Drop("one of 900".into()); 600]);
    // Configure; two and three batches observed; three decided.
    assert_eq!((stage.spent.instances, stage.spent.calls), (1, 9));
    assert!(plugin.filter_set(&PLACE, &records(&standing), &[]).unwrap().outcomes.is_empty());
}

#[test]
fn judges() {
    let check = |mode: &str, expected: Opinion| {
        let plugin = hostile(Kind::Judge, mode, |_| {});
        let stage = plugin.judge(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap();
        assert_eq!(done(stage.outcomes), [expected]);
    };
    let reward = Reward { variant: "a".into(), name: "q".into(), value: 1.5 };
    check("", Opinion::Rewards(vec![reward]));
    check("tie", Opinion::Tie);
    check("unparsable", Opinion::Unparsable("maybe".into()));
}

#[test]
fn difficulties() {
    let plugin = hostile(Kind::Difficulty, "", |_| {});
    let stage = plugin.score(&PLACE, &records(["p-1", "p-100"]), &mut NoAnswers).unwrap();
    assert_eq!(done(stage.outcomes), [3.0, 5.0]);
}

#[test]
fn principles() {
    let plugin = hostile(Kind::Principle, "", |_| {});
    let catalogue = plugin.catalogue().unwrap();
    let ids: Vec<_> = catalogue.iter().map(|exemplar| exemplar.id.as_str()).collect();
    assert_eq!(ids, ["e1", "e2", "e3"]);
    let stage = plugin.render(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap();
    let variants = done(stage.outcomes).remove(0);
    assert_eq!(variants.len(), 2);
    assert_eq!((variants[1].name.as_str(), &variants[1].prompt), ("b", &Text::user("what is it?")));
    assert!(variants.iter().all(|variant| variant.completion.is_none()));
}

#[test]
fn samplers() {
    let pool: Vec<_> = ["p-1", "p-2", "p-3"]
        .map(|id| Candidate { id: id.into(), tags: vec![], difficulty: Some(1.0), selected: 0 })
        .into();
    let select = |mode: &str| hostile(Kind::Sampler, mode, |_| {}).select(&PLACE, &pool);
    assert_eq!(select("").unwrap().0, [2, 1, 0]);

    let catalogue = hostile(Kind::Principle, "", |_| {}).catalogue().unwrap();
    let prompts: Vec<_> = ["p-1", "poison"]
        .map(|id| Prompt { id: id.into(), text: Text::user("q"), tags: vec![] })
        .into();
    let equip =
        |mode: &str| hostile(Kind::Sampler, mode, |_| {}).equip(&PLACE, &prompts, &catalogue);
    let expected = Equipment {
        exemplars: vec![2, 1],
        decoding: Decoding { temperature: Some(0.5), ..Decoding::default() },
    };
    assert_eq!(done(equip("").unwrap().outcomes), [expected.clone(), expected]);
    check_error(&equip("poison-slot").unwrap_err(), &["panicked: ", "bad slot"]);
    check_sound();
}

#[test]
fn a_plugin_is_used_only_as_what_it_is() {
    let judge = super::RUNTIME
        .load(
            &aligner::plugin::Source::file(&super::guests::path("judge")).unwrap(),
            aligner::plugin::Setup::new(Kind::Judge),
        )
        .unwrap();
    assert!(judge.has(Interface::Judge) && !judge.has(Interface::Filter));
    let error = judge.filter(&PLACE, &records(["p-1"]), &mut NoAnswers).unwrap_err();
    assert!(matches!(error, PluginError::Host(_)), "{error:?}");
}
