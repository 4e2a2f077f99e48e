//! From a file to a plugin: what is refused before anything runs, and what the cache does.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aligner::plugin::compile::{CompileCommand, Compiler};
use aligner::plugin::{
    Cache, Kind, Limits, NoAnswers, OnError, PluginError, Runtime, Settings, Setup, Source,
};

use super::{PLACE, RUNTIME, check_error, check_sound, compiler, guests, mode, records};

fn runtime(compiler: Compiler, cache: Cache) -> Runtime {
    Runtime::new(Settings { compiler, cache }).expect("the runtime starts")
}

fn check_bytes(bytes: Vec<u8>, expected: &[&str]) {
    let error = RUNTIME
        .load(&Source::bytes("bad.wasm", bytes), Setup::new(Kind::Filter))
        .expect_err("the file is refused");
    assert!(matches!(error, PluginError::Load { .. }), "{error:?}");
    check_error(&error, &["plugin `bad.wasm` "]);
    check_error(&error, expected);
    check_sound();
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text is valid")
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
fn the_wrong_kind_is_told_where_it_belongs() {
    let source = Source::file(&guests::path("judge")).unwrap();
    let error = RUNTIME.load(&source, Setup::new(Kind::Filter)).unwrap_err();
    check_error(
        &error,
        &[
            "judge.wasm` is a judge, and [[filter]] wants a filter",
            "hint: it belongs under `[judge]`",
        ],
    );
}

#[test]
fn files_that_are_no_plugins_are_refused() {
    check_bytes(Vec::new(), &["is not WebAssembly"]);
    check_bytes(
        b"#!/bin/sh\nrm -rf /\n".to_vec(),
        &["is not WebAssembly", "hint: a plugin is a crate built with"],
    );
    check_bytes(vec![0; (64 << 20) + 1], &["has 67108865 bytes; at most 67108864 are read"]);
    let component = guests::component("judge");
    for length in [8, 20, 100, component.len() / 2, component.len() - 1] {
        check_bytes(component[..length].to_vec(), &["bad.wasm` "]);
    }
    check_bytes(guests::core("judge")[..5000].to_vec(), &["is damaged"]);
    check_bytes(wat("(module)"), &["is a core module without the plugin contract"]);
}

#[test]
fn imports_and_versions_are_checked_before_anything_runs() {
    check_bytes(
        wat(r#"(component (import "wasi:cli/environment@0.2.6" (instance)))"#),
        &["imports `wasi:cli/environment@0.2.6`", "hint: build for `wasm32-unknown-unknown`"],
    );
    check_bytes(
        wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#),
        &["imports `wasi_snapshot_preview1`"],
    );
    check_bytes(
        guests::replaced(guests::component("judge"), "@0.1.1", "@0.2.0"),
        &["is built for contract 0.2, this aligner has 0.1", "hint: "],
    );
    // Under the right name, but not the right functions.
    check_bytes(
        wat(r#"(component (instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))
                 (export "aligner:plugin/filter@0.1.0" (instance $i)))"#),
        &["does not keep to contract 0.1: ", "`describe`"],
    );
    check_bytes(
        guests::replaced(guests::component("judge"), "configure", "konfigure"),
        &["does not keep to contract 0.1"],
    );
}

#[test]
fn compile_bombs_are_refused() {
    let body = "i32.const 1 drop ".repeat(200_000);
    check_bytes(
        wat(&format!("(component (core module (func {body})))")),
        &["has a function body of"],
    );
}

#[test]
fn hostile_contract_sections_end_in_the_child() {
    // A core module whose contract is garbage: whatever the encoder does with it, the host goes on.
    for garbage in [&b""[..], b"\0asm\x0d\0\x01\0", &[0xff; 5000], &[0x01; 100_000]] {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        let name = b"component-type:x";
        let length = 1 + name.len() + garbage.len();
        module.push(0);
        let mut rest = length;
        while rest >= 0x80 {
            module.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        module.push(rest as u8);
        module.push(name.len() as u8);
        module.extend(name);
        module.extend(garbage);
        check_bytes(module, &["bad.wasm` "]);
    }
}

#[test]
fn a_compiler_that_dies_is_a_plain_error() {
    let check = |script: &str, expected: &str| {
        let command =
            CompileCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
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
fn configurations_are_tried_at_load() {
    let setup = |config: &str| Setup { config: config.into(), ..Setup::new(Kind::Filter) };
    let error = RUNTIME.load(&guests::hostile(), setup(r#"{"mood":"x"}"#)).unwrap_err();
    check_error(
        &error,
        &[
            "plugin `hostile.wasm` (filter `hostile` 0.2.0) refuses its configuration: unknown key `mood`",
        ],
    );
    let slow = Setup {
        limits: Limits { fuel: 5_000_000, ..Limits::default() },
        on_error: OnError::Drop,
        ..setup(&mode("configure-loop"))
    };
    let error = RUNTIME.load(&guests::hostile(), slow).unwrap_err();
    check_error(&error, &["failed at its configuration: it used up its budget of 5M fuel"]);
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

/// Entries of a cache folder, without its key.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .map(|files| files.map(|file| file.unwrap().path()).collect())
        .unwrap_or_default();
    entries.retain(|path: &PathBuf| path.extension().is_some_and(|end| end == "bin"));
    entries
}

#[test]
fn the_cache_spares_the_compiler_and_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("plugins");
    let use_it = |compiler: Compiler| {
        let runtime = runtime(compiler, Cache::Folder(cache.clone()));
        let plugin = runtime.load(&guests::hostile(), Setup::new(Kind::Filter))?;
        plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers)
    };
    let broken = || Compiler::Child(CompileCommand { program: "/bin/false".into(), args: vec![] });
    assert!(use_it(broken()).is_err());
    use_it(compiler()).unwrap();
    let [entry] = &entries(&cache)[..] else { panic!("one entry is expected") };
    // From here on no compiler is needed.
    use_it(broken()).unwrap();

    let whole = std::fs::read(entry).unwrap();
    for at in [0, 20, 45, whole.len() / 2, whole.len() - 1] {
        let mut poisoned = whole.clone();
        poisoned[at] ^= 0x40;
        std::fs::write(entry, &poisoned).unwrap();
        assert!(use_it(broken()).is_err(), "byte {at} was changed");
        assert!(!entry.exists());
        use_it(compiler()).unwrap();
        assert_eq!(std::fs::read(entry).unwrap().len(), whole.len());
    }
    std::fs::write(entry, &whole[..whole.len() / 2]).unwrap();
    use_it(compiler()).unwrap();
    use_it(broken()).unwrap();

    // Open to the group: the program goes on without it.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o775)).unwrap();
    assert!(use_it(broken()).is_err());
    use_it(compiler()).unwrap();
}

#[test]
fn a_cache_that_cannot_be_made_is_done_without() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = runtime(compiler(), Cache::Folder(file.path().join("plugins")));
    runtime.load(&guests::hostile(), Setup::new(Kind::Filter)).unwrap();
}

#[test]
fn embedded_plugins_need_no_child() {
    let broken = CompileCommand { program: "/bin/false".into(), args: vec![] };
    let runtime = runtime(Compiler::Child(broken), Cache::Off);
    let bytes: &'static [u8] = Box::leak(guests::component("judge").into_boxed_slice());
    let source = Source::embedded("builtin:judge", bytes);
    let plugin = runtime.load(&source, Setup::new(Kind::Judge)).unwrap();
    assert_eq!(plugin.source(), "builtin:judge");
}
