//! The contract keeps what `wit/README.md` promises: what was released is there still, and components of
//! older and of later releases of it run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aligner::plugin::{
    Answerer, Ask, Grant, Kind, Limits, NoAnswers, Outcome, PluginError, Setup, Source,
};
use aligner::record::{Answer, Finish, Repro, Request, Revision, Score, Verdict};
use wit_component::{OutputToString, WitPrinter};
use wit_parser::Resolve;

use super::{PLACE, RUNTIME, check_error, check_sound, guests, records};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns every interface of a folder of WIT, without its documentation.
fn interfaces(folder: &Path) -> BTreeMap<String, String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder).expect("the contract can be read");
    let mut texts = BTreeMap::new();
    for (name, &interface) in &resolve.packages[package].interfaces {
        let mut printer = WitPrinter::new(OutputToString::default());
        printer.emit_docs(false);
        printer.print_interface(&resolve, interface).expect("the interface can be printed");
        texts.insert(name.clone(), String::from(printer.output));
    }
    texts
}

/// Returns what of the first contract is missing in the second, or is another there.
fn broken(released: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let same = |(name, text): &(&String, &String)| now.get(*name) == Some(*text);
    released.iter().filter(|entry| !same(entry)).map(|(name, _)| name.clone()).collect()
}

#[test]
fn every_release_of_the_contract_is_in_the_present_one() {
    let now = interfaces(&root().join("wit"));
    let releases = root().join("tests/fixtures/contract");
    let mut count = 0;
    for release in std::fs::read_dir(releases).unwrap() {
        let released = interfaces(&release.unwrap().path());
        assert!(released.len() >= 10, "{released:?}");
        assert_eq!(broken(&released, &now), Vec::<String>::new());
        count += 1;
    }
    assert_eq!(count, 1);
}

#[test]
fn a_change_of_what_was_released_is_found() {
    let now = interfaces(&root().join("wit"));
    let check = |change: &dyn Fn(&mut BTreeMap<String, String>), expected: &[&str]| {
        let mut changed = now.clone();
        change(&mut changed);
        assert_eq!(broken(&now, &changed), expected);
    };
    check(&|_| (), &[]);
    check(&|it| drop(it.insert("later".into(), "later: func();".into())), &[]);
    check(&|it| drop(it.remove("judge")), &["judge"]);
    // The case that looks as if it did no harm.
    let grown = |it: &mut BTreeMap<String, String>| {
        let types = it.get_mut("types").unwrap();
        let found =
            types.replace("reward(reward-request),", "reward(reward-request),\n    more(string),");
        assert_ne!(*types, found);
        *types = found;
    };
    check(&grown, &["types"]);
}

/// Answers scores and rewards with fixed numbers.
struct Fixed;

impl Answerer for Fixed {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        let answer = |ask: &Ask<'_>| match ask.request {
            Request::Score { .. } => Answer::Score(Score {
                logprob: -1.5,
                tokens: 3,
                entropy: None,
                repro: Repro::Exact,
            }),
            Request::Reward { .. } => Answer::Reward { value: 0.25, tokens: 3 },
            Request::Generate { .. } => Answer::Unanswered("not here".into()),
        };
        Ok(asks.iter().map(answer).collect())
    }
}

#[test]
fn a_plugin_built_for_an_older_release_runs() {
    let bytes = guests::component("older");
    let count =
        |version: &str| bytes.windows(version.len()).filter(|it| *it == version.as_bytes()).count();
    assert!(count("aligner:plugin/filter@0.1.0") > 0 && count("@0.1.1") == 0);

    let grant = Grant::new(["policy".to_owned()], 1000, 8);
    let setup = Setup { grant: Some(grant), ..Setup::new(Kind::Filter) };
    let filter = RUNTIME.load(&Source::bytes("older.wasm", bytes), setup).unwrap();
    let stage = filter.filter(&PLACE, &records(["p-1", "p-2"]), &mut Fixed).unwrap();
    let revised = Outcome::Done(Verdict::Revise(vec![Revision {
        variant: "a".into(),
        text: "-1.5 of 3 tokens, 0.25".into(),
        finish: Finish::Stop,
    }]));
    assert_eq!(stage.outcomes, [revised.clone(), revised]);
    check_sound();
}

/// Returns the guest `newer` as it would be if release `version` had its interface.
fn newer(version: &str) -> Vec<u8> {
    let bytes = guests::replaced(guests::component("newer"), "aligner:pluton/", "aligner:plugin/");
    guests::replaced(bytes, "@0.1.1", version)
}

#[test]
fn a_plugin_built_for_a_newer_release_runs_where_it_uses_what_is_there() {
    let source = Source::bytes("newer.wasm", newer("@0.1.9"));
    assert_eq!(RUNTIME.open(&source, &Limits::default()).unwrap().needs(), ["entropy(plain)"]);
    let plugin = RUNTIME.load(&source, Setup::new(Kind::Difficulty)).unwrap();
    let stage = plugin.score(&PLACE, &records(["p-1", "p-17"]), &mut NoAnswers).unwrap();
    assert_eq!(stage.outcomes, [Outcome::Done(3.0), Outcome::Done(4.0)]);
    check_sound();
}

#[test]
fn a_plugin_that_needs_a_newer_contract_is_told_which() {
    let check = |bytes: Vec<u8>, expected: &[&str]| {
        let error = RUNTIME
            .load(&Source::bytes("newer.wasm", bytes), Setup::new(Kind::Difficulty))
            .expect_err("the plugin is refused");
        assert!(matches!(error, PluginError::Load { .. }), "{error:?}");
        check_error(&error, expected);
        check_sound();
    };
    // Its only kind is one that came later.
    let only = guests::replaced(newer("@0.1.9"), "plugin/difficulty@", "plugin/difficolty@");
    check(
        only,
        &[
            "exports `difficolty` of contract 0.1.9, which this aligner, with 0.1.1, does not have",
            "hint: take an aligner with contract 0.1.9 or later, or build the plugin for 0.1.1",
        ],
    );
    check(newer("@0.2.0"), &["is built for contract 0.2, this aligner has 0.1", "hint: "]);
}
