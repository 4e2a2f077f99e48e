//! Files that are no plugins, and that are refused before anything of them runs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use aligner::plugin::compile::{ARGUMENT, CompileCommand, CompileLimits, Compiler};
use aligner::plugin::{Cache, Kind, PluginError, Setup, Source};

use super::loading::runtime;
use super::modules::{MODULE, Module};
use super::parts;
use super::table::{self, Case};
use super::{RUNTIME, check_error, check_sound, guests};

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text is valid")
}

/// A core module whose contract is garbage.
fn garbage(garbage: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let mut section = vec![b"component-type:x".len() as u8];
    section.extend(b"component-type:x");
    section.extend(garbage);
    parts::section(&mut module, 0, &section);
    module
}

/// Components within each other.
fn nested(depth: usize) -> Vec<u8> {
    let head = || b"\0asm\x0d\0\x01\0".to_vec();
    (0..depth).fold(head(), |inner, _| {
        let mut outer = head();
        parts::section(&mut outer, 4, &inner);
        outer
    })
}

/// A component in text, around what is given.
fn component(text: &str) -> Vec<u8> {
    wat(&format!("(component {text})"))
}

/// Files that hold no component of ours.
fn broken() -> Vec<Case> {
    let judge = guests::component("judge");
    let half = judge.len() / 2;
    let mut flipped = judge.clone();
    flipped[4] ^= 0x40;
    vec![
        Case::new("file-empty", Vec::new()),
        Case::new("file-of-a-shell", b"#!/bin/sh\nrm -rf /\n".to_vec()),
        Case::new("file-of-65-mebibytes", vec![0; (64 << 20) + 1]),
        Case::new("file-in-text", b"(component)".to_vec()),
        Case::new("truncated-at-8", judge[..8].to_vec()),
        Case::new("truncated-in-half", judge[..half].to_vec()),
        Case::new("truncated-by-1", judge[..judge.len() - 1].to_vec()),
        Case::new("truncated-core-module", guests::core("judge")[..5000].to_vec()),
        Case::new("flipped-bit", flipped),
        Case::new("module-without-contract", wat("(module)")),
        Case::new("contract-empty", garbage(b"")),
        Case::new("contract-of-ones", garbage(&[0xff; 5000])),
        Case::new("contract-of-zeros", garbage(&[0; 100_000])),
        Case::new(
            "function-of-600-kb",
            component(&format!("(core module (func {}))", "i32.const 1 drop ".repeat(200_000))),
        ),
        Case::new("nesting", nested(1500)),
        // Found by fuzzing: what the validator quotes is the plugin's own words.
        Case::new(
            "damaged-with-escapes",
            component(r#"(instance $i) (alias export $i "\1b[31mred" (func))"#),
        ),
        Case::new("memory-of-64-bits", component("(core module (memory i64 1))")),
        Case::new("memory-shared", component("(core module (memory 1 2 shared))")),
        Case::new("tail-call", component("(core module (func $f (return_call $f)))")),
        Case::new(
            "relaxed-simd",
            component(
                "(core module (func (param v128 v128) (result v128)
                    (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
            ),
        ),
    ]
}

/// Components for another host than this.
fn foreign() -> Vec<Case> {
    let judge = || guests::component("judge");
    vec![
        Case::new(
            "import-of-wasi",
            component(r#"(import "wasi:cli/environment@0.2.6" (instance))"#),
        ),
        Case::new(
            "import-of-wasi-clocks",
            component(
                r#"(import "wasi:clocks/monotonic-clock@0.2.6"
                    (instance (export "now" (func (result u64)))))"#,
            ),
        ),
        Case::new(
            "import-of-wasi-random",
            component(
                r#"(import "wasi:random/random@0.2.6"
                    (instance (export "get-random-u64" (func (result u64)))))"#,
            ),
        ),
        Case::new(
            "import-of-wasi-sockets",
            component(r#"(import "wasi:sockets/tcp@0.2.6" (instance))"#),
        ),
        Case::new(
            "import-of-old-wasi",
            wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#),
        ),
        Case::new("import-of-a-strangers", component(r#"(import "evil:net/socket" (instance))"#)),
        Case::new("import-of-env", wat(r#"(module (import "env" "now" (func)))"#)),
        Case::new("import-of-a-function", component(r#"(import "now" (func (result u64)))"#)),
        Case::new(
            "import-of-more-than-types",
            component(
                r#"(import "aligner:plugin/types@0.1.0"
                    (instance (export "now" (func (result u64)))))"#,
            ),
        ),
        Case::new("contract-0.2", guests::replaced(judge(), "@0.1.1", "@0.2.0")),
        Case::new("contract-1.0", guests::replaced(judge(), "@0.1.1", "@1.0.0")),
        Case::new(
            "kind-none",
            component(r#"(instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))"#),
        ),
        Case::new(
            "meta-none",
            component(r#"(instance $i) (export "aligner:plugin/filter@0.1.0" (instance $i))"#),
        ),
        Case::new(
            "writer-alone",
            component(
                r#"(instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))
                   (export "aligner:plugin/prompt-writer@0.1.0" (instance $i))"#,
            ),
        ),
        // Under the right name, but not the right functions.
        Case::new(
            "shape-of-nothing",
            component(
                r#"(instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))
                   (export "aligner:plugin/filter@0.1.0" (instance $i))"#,
            ),
        ),
        Case::new(
            "shape-misspelt",
            guests::replaced(guests::component("judge"), "configure", "konfigure"),
        ),
        Case::new(
            "shape-of-log",
            component(
                r#"(import "aligner:plugin/log@0.1.0" (instance (export "write" (func (result u64)))))
                   (instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))
                   (export "aligner:plugin/filter@0.1.0" (instance $i))"#,
            ),
        ),
        Case::new("kind-wrong", judge()),
    ]
}

/// Components that are made of too much.
fn crowded() -> Vec<Case> {
    let hostile = || guests::component("hostile");
    vec![
        Case::new("instances", parts::with_instances(hostile(), 100)),
        Case::new("instances-of-everything", parts::with_instances(hostile(), 600))
            .limits(|limits| limits.instances = usize::MAX),
        Case::new("handles", parts::with_handles(hostile())),
    ]
}

pub fn cases() -> Vec<Case> {
    [broken(), foreign(), crowded()].into_iter().flatten().collect()
}

#[test]
fn files_that_are_no_plugins() {
    table::check(broken());
}

#[test]
fn components_for_another_host() {
    table::check(foreign());
}

#[test]
fn components_of_too_many_parts() {
    table::check(crowded());
}

#[test]
fn a_later_patch_of_the_contract_is_let_in() {
    let later = guests::replaced(guests::component("judge"), "@0.1.1", "@0.1.9");
    RUNTIME.load(&Source::bytes("later.wasm", later), Setup::new(Kind::Judge)).unwrap();
}

/// Whatever a flipped bit makes of a component, it is a plugin or an error, and the host goes on.
#[test]
fn flipped_bits() {
    let whole = guests::component("judge");
    let (mut loaded, mut refused) = (0, 0);
    for step in 0..60 {
        let mut bytes = whole.clone();
        let at = step * whole.len() / 60;
        bytes[at] ^= 1 << (step % 8);
        match RUNTIME.load(&Source::bytes("flipped.wasm", bytes), Setup::new(Kind::Judge)) {
            Ok(_) => loaded += 1,
            Err(PluginError::Load { .. }) => refused += 1,
            Err(error) => panic!("byte {at}: {error:?}"),
        }
        check_sound();
    }
    assert!(refused > 10, "{refused} refused, {loaded} loaded");
}

/// Compiling is an attack too: 170 kB of small loops, for which the compiler needs many seconds.
fn bomb() -> Source {
    let step = |i: usize| {
        let local = 1 + i % 50;
        format!(
            "loop local.get {local} i32.const 1 i32.add local.set {local} local.get 0 br_if 0 end "
        )
    };
    let steps: String = (0..12_000).map(step).collect();
    let function = format!("(func (param i32) (local {}) {steps})", "i32 ".repeat(50));
    let more: &'static str = Box::leak(function.into_boxed_str());
    Source::bytes("bomb.wasm", Module { more, ..MODULE }.bytes())
}

fn check_bomb(source: &Source, limits: CompileLimits, expected: &str) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_aligner"));
    let command = CompileCommand { program, args: vec![ARGUMENT.into()], limits };
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("plugins");
    let runtime = runtime(Compiler::Child(command), Cache::Folder(folder.clone()));
    let error = runtime.load(source, Setup::new(Kind::Filter)).expect_err("it is refused");
    let text = error.to_string();
    let what = text.split_once(".wasm` could not be compiled: ").map(|(_, what)| what);
    assert_eq!(what, Some(expected), "{text}");
    // Nothing of it is kept but the key.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    check_sound();
}

#[test]
fn compile_bombs_end_in_the_child() {
    let limits = CompileLimits::default();
    let bomb = bomb();
    let check = |limits, expected| check_bomb(&bomb, limits, expected);
    check(CompileLimits { cpu_seconds: 1, ..limits }, "it took over 1 s of processor time");
    check(CompileLimits { wall_seconds: 0.3, ..limits }, "it took over 0.3 s");
    check(
        CompileLimits { memory_bytes: 256 << 20, ..limits },
        "it took more than 256 MiB of memory",
    );
    check_bomb(
        &guests::hostile(),
        CompileLimits { output_bytes: 4096, ..limits },
        "its machine code has more than 4096 bytes",
    );
}

#[test]
fn a_wrong_kind_is_told_where_it_belongs() {
    let error = RUNTIME
        .load(&Source::file(&guests::path("judge")).unwrap(), Setup::new(Kind::Filter))
        .unwrap_err();
    check_error(&error, &["is a judge, and [[filter]] wants a filter", "under `[judge]`"]);
}
