//! From a file to a plugin.

use std::path::Path;

use aligner::plugin::compile::{CompileCommand, CompileLimits, Compiler};
use aligner::plugin::{Cache, Kind, Limits, NoAnswers, Runtime, Settings, Setup, Source};

use super::{PLACE, RUNTIME, check_error, check_sound, guests, records};

pub fn runtime(compiler: Compiler, cache: Cache) -> Runtime {
    Runtime::new(Settings { compiler, cache }).expect("the runtime starts")
}

/// A compiler that always fails: what needs one does not get through.
pub fn no_compiler() -> Compiler {
    Compiler::Child(CompileCommand {
        program: "/bin/false".into(),
        args: vec![],
        limits: CompileLimits::default(),
    })
}

#[test]
fn core_modules_are_encoded_on_load() {
    let source = Source::file(&guests::path("judge")).unwrap();
    let loaded = RUNTIME.open(&source, &Limits::default()).unwrap();
    assert_eq!((loaded.name(), loaded.version()), ("length-judge", "1.2.3"));
    assert_eq!(loaded.summary(), "Rewards length.");
    assert_eq!(loaded.needs(), ["perplexity(a)"]);
    assert_eq!(loaded.kinds().into_iter().collect::<Vec<_>>(), [Kind::Judge]);
    assert_eq!(loaded.digest(), source.digest());
    assert_eq!(loaded.digest().len(), 64);
    let judge = loaded.configure(Setup::new(Kind::Judge)).unwrap();
    assert_eq!(judge.identity().to_string(), "judge `length-judge` 1.2.3");
    assert_eq!(judge.judge(&PLACE, &records(["p"]), &mut NoAnswers).unwrap().outcomes.len(), 1);
}

#[test]
fn a_compiler_that_dies_is_a_plain_error() {
    let check = |script: &str, expected: &str| {
        let command = CompileCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            limits: CompileLimits::default(),
        };
        let runtime = runtime(Compiler::Child(command), Cache::Off);
        let error = runtime.load(&guests::hostile(), Setup::new(Kind::Filter)).unwrap_err();
        check_error(&error, &["plugin `hostile.wasm` could not be compiled: ", expected]);
    };
    check("kill -SEGV $$", "signal 11");
    check("exit 101", "the compiler panicked");
    check("true", "could not be compiled");
    check("echo not machine code", "could not be compiled");
    check_sound();
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let check = |path: &Path, expected: &str| {
        let error = Source::file(path).unwrap_err();
        check_error(&error, &[&path.display().to_string(), "cannot be read: ", expected]);
    };
    check(Path::new("/nonexistent/x.wasm"), "No such file");
    check(Path::new("/"), "not a file");
    check(Path::new("/dev/zero"), "not a file");
}

#[test]
fn embedded_plugins_need_no_child() {
    let runtime = runtime(no_compiler(), Cache::Off);
    let bytes: &'static [u8] = Box::leak(guests::component("judge").into_boxed_slice());
    let source = Source::embedded("builtin:judge", bytes);
    let plugin = runtime.load(&source, Setup::new(Kind::Judge)).unwrap();
    assert_eq!(plugin.source(), "builtin:judge");
}
