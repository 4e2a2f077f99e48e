//! The plugin runtime against guests that behave, and guests that do not.

mod asking;
mod budgets;
mod calls;
mod conformance;
mod contract;
mod failing;
mod files;
pub mod guests;
mod loading;
mod modules;
mod parts;
mod poisoned;
mod stages;
mod table;

use std::path::PathBuf;
use std::sync::LazyLock;

use aligner::plugin::compile::{ARGUMENT, CompileCommand, CompileLimits, Compiler};
use aligner::plugin::{Cache, Kind, NoAnswers, Outcome, Place, Plugin, Runtime, Settings, Setup};
use aligner::record::{
    Completion, Finish, Prompt, Record, Repro, Text, Variant, VariantRole, Verdict,
};

/// The place of every call here.
const PLACE: Place<'static> =
    Place { run_seed: 17, round: 2, rounds: 3, stage: "filter", position: 0 };

/// The compiler that users have: the program itself, in a child process.
pub fn compiler() -> Compiler {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_aligner"));
    let limits = CompileLimits::default();
    Compiler::Child(CompileCommand { program, args: vec![ARGUMENT.into()], limits })
}

/// One runtime for all tests of this process: what a guest does must not harm the others.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Runtime::new(Settings { compiler: compiler(), cache: Cache::Folder(guests::cache()) })
        .expect("the runtime starts")
});

/// Returns a configuration for the hostile guest.
fn mode(mode: &str) -> String {
    format!(r#"{{"mode":"{mode}"}}"#)
}

/// Loads the hostile guest as a plugin of that kind.
fn hostile(kind: Kind, how: &str, change: impl FnOnce(&mut Setup)) -> Plugin {
    let mut setup = Setup { config: mode(how), ..Setup::new(kind) };
    change(&mut setup);
    RUNTIME.load(&guests::hostile(), setup).expect("the guest loads")
}

/// Returns records with these ids and two completed variants, `a` and `b`.
fn records<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Vec<Record> {
    let variant = |name: &str| Variant {
        name: name.into(),
        role: VariantRole::Good,
        prompt: Text::user("what is it?"),
        completion: Some(Completion {
            text: format!("it is {name}"),
            tokens: 3,
            logprob: -1.5,
            entropy: Some(0.5),
            finish: Finish::Stop,
            repro: Repro::Exact,
        }),
    };
    let record = |id: S| {
        let text = Text::user("what is it?");
        let mut record = Record::new(Prompt { id: id.as_ref().into(), text, tags: vec![] });
        record.variants = vec![variant("a"), variant("b")];
        record
    };
    ids.into_iter().map(record).collect()
}

/// Checks that the process still runs a normal call as it should.
fn check_sound() {
    let plugin = hostile(Kind::Filter, "", |_| {});
    let stage = plugin.filter(&PLACE, &records(["p-1", "drop-2", "p-3"]), &mut NoAnswers).unwrap();
    let keep = || Outcome::Done(Verdict::Keep);
    assert_eq!(stage.outcomes, [keep(), Outcome::Done(Verdict::Drop("short".into())), keep()]);
}

/// Checks that an error says all of this.
fn check_error(error: &impl std::fmt::Display, expected: &[&str]) {
    let message = error.to_string();
    for part in expected {
        assert!(message.contains(part), "{message}\n  lacks\n{part}");
    }
    assert!(!message.contains('\x1b'), "{message:?} holds an escape sequence");
}
