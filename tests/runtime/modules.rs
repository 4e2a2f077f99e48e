//! Guests written in WebAssembly text: what no compiler makes of Rust.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

use super::table::{self, Case};

/// The contract.
static CONTRACT: LazyLock<(Resolve, PackageId)> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_dir(&folder).expect("the contract is there");
    (resolve, package)
});

/// Puts the contract into a core module.
fn with_contract(text: &str, world: &str) -> Vec<u8> {
    let (resolve, package) = &*CONTRACT;
    let world = resolve.select_world(&[*package], Some(world)).expect("the world is there");
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8)
        .expect("the contract fits into the module");
    module
}

/// A filter that keeps everything, in parts that can be replaced.
pub struct Module {
    /// What else there is: memories, tables, functions, the start.
    pub more: &'static str,
    pub memory: &'static str,
    /// `(param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)`
    pub realloc: &'static str,
    pub describe: &'static str,
    pub configure: &'static str,
    /// `(param $round i32) (param $rounds i32) (param $batch i32) (param $count i32) (result i32)`
    pub filter: &'static str,
}

/// Behaves.
pub const MODULE: Module = Module {
    more: "",
    memory: r#"(memory (export "memory") 3)"#,
    realloc: "
        (local $at i32)
        (local.set $at
            (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
        (global.set $free (i32.add (local.get $at) (local.get $size)))
        (local.get $at)",
    describe: "(i32.const 1024)",
    configure: "(i32.const 2048)",
    filter: "
        (local $at i32) (local $i i32)
        (local.set $at
            (call $realloc (i32.const 0) (i32.const 0) (i32.const 4)
                (i32.mul (local.get $count) (i32.const 16))))
        (block $done
            (loop $next
                (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
                (i32.store8
                    (i32.add (local.get $at) (i32.mul (local.get $i) (i32.const 16)))
                    (i32.const 1))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next)))
        (call $list (local.get $at) (local.get $count))",
};

impl Module {
    /// Returns the core module, with the contract in it.
    ///
    /// Its description is the record at 1024, its texts lie at 1088, the result of `configure` at 2048,
    /// and what `$list` makes at 3072. `$free` is where what the host copies in begins.
    pub fn bytes(&self) -> Vec<u8> {
        let Module { more, memory, realloc, describe, configure, filter } = self;
        let text = format!(
            r#"(module
                (import "aligner:plugin/log@0.1.1" "write" (func $log (param i32 i32 i32)))
                {memory}
                (global $free (mut i32) (i32.const 4096))
                (data (i32.const 1024)
                    "\40\04\00\00\04\00\00\00"
                    "\44\04\00\00\05\00\00\00"
                    "\40\04\00\00\04\00\00\00"
                    "\40\04\00\00\00\00\00\00"
                    "\40\04\00\00\00\00\00\00")
                (data (i32.const 1088) "text0.1.0")
                {more}
                (func $list (param $at i32) (param $count i32) (result i32)
                    (i32.store8 (i32.const 3072) (i32.const 0))
                    (i32.store (i32.const 3076) (local.get $at))
                    (i32.store (i32.const 3080) (local.get $count))
                    (i32.const 3072))
                (func $realloc (export "cabi_realloc")
                    (param $old i32) (param $was i32) (param $align i32) (param $size i32)
                    (result i32)
                    {realloc})
                (func (export "aligner:plugin/meta@0.1.1#describe") (result i32)
                    {describe})
                (func (export "aligner:plugin/meta@0.1.1#configure")
                    (param $text i32) (param $length i32) (result i32)
                    {configure})
                (func (export "aligner:plugin/filter@0.1.1#filter")
                    (param $round i32) (param $rounds i32) (param $batch i32) (param $count i32)
                    (result i32)
                    {filter}))"#
        );
        with_contract(&text, "filter-plugin")
    }
}

fn module(name: &str, module: Module) -> Case {
    Case::new(name, module.bytes()).limits(|limits| limits.fuel = 50_000_000)
}

/// A filter with other statements in its only function.
fn filter(name: &str, filter: &'static str) -> Case {
    module(name, Module { filter, ..MODULE })
}

/// Guests that use up what they have, before they are called with anything.
fn exhausting() -> Vec<Case> {
    let more = |name: &str, more| module(name, Module { more, ..MODULE });
    let memory = |name: &str, memory| module(name, Module { memory, ..MODULE });
    vec![
        more("start-loop", "(func $start (loop $again (br $again))) (start $start)"),
        more("start-recursion", "(func $start (call $start)) (start $start)"),
        module("describe-loop", Module { describe: "(loop $again (br $again)) unreachable", ..MODULE }),
        module("realloc-loop", Module { realloc: "(loop $again (br $again)) unreachable", ..MODULE }),
        memory("memory-declared", r#"(memory (export "memory") 1025)"#),
        memory("memory-of-four-gibibytes", r#"(memory (export "memory") 65536)"#),
        memory(
            "memories",
            r#"(memory (export "memory") 3) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
               (memory 1) (memory 1) (memory 1)"#,
        ),
        more("table-declared", "(table 200001 funcref)"),
        more("table-of-everything", "(table 4000001 funcref)")
            .limits(|limits| limits.table_elements = usize::MAX),
        more(
            "table-grow",
            "(table $t 1 funcref)
             (func $start
                (loop $again
                    (drop (table.grow $t (ref.null func) (i32.const 1000)))
                    (br $again)))
             (start $start)",
        ),
        more("tables", "(table 1 funcref) (table 1 funcref) (table 1 funcref)")
            .limits(|limits| limits.tables = 2),
        // Fuel counts one for an instruction that works for milliseconds.
        filter(
            "fill-against-the-clock",
            "(drop (memory.grow (i32.const 900)))
             (loop $again
                (memory.fill (i32.const 65536) (i32.const 7) (i32.const 58000000))
                (br $again))
             unreachable",
        )
        .limits(|limits| {
            limits.fuel = u64::MAX >> 1;
            limits.deadline = Duration::from_millis(100);
        }),
        filter(
            "log-flood-of-empty-lines",
            "(loop $again
                (call $log (i32.const 0) (i32.const 0) (i32.const 0))
                (br $again))
             unreachable",
        ),
        // Ten million replies, each with a pointer to one and the same word.
        filter(
            "ten-million-items",
            "(drop (memory.grow (i32.const 2600))) (call $list (i32.const 131072) (i32.const 10000000))",
        )
        .limits(|limits| limits.memory_bytes = 256 << 20),
        filter(
            "four-billion-items",
            "(call $list (i32.const 131072) (i32.const -1))",
        ),
    ]
}

/// Guests that trap.
fn trapping() -> Vec<Case> {
    vec![
        module("start-trap", Module { more: "(func $start unreachable) (start $start)", ..MODULE }),
        module("describe-trap", Module { describe: "unreachable", ..MODULE }),
        module("configure-trap", Module { configure: "unreachable", ..MODULE }),
        filter("division-by-zero", "(i32.div_u (local.get $count) (i32.const 0))"),
        filter("conversion-of-nan", "(i32.trunc_f64_u (f64.const nan))"),
        module(
            "call-of-nothing",
            Module {
                more: "(type $f (func)) (table 1 funcref)",
                filter: "(call_indirect (type $f) (i32.const 0)) (i32.const 0)",
                ..MODULE
            },
        ),
        module(
            "call-beyond-the-table",
            Module {
                more: "(type $f (func)) (table 1 funcref)",
                filter: "(call_indirect (type $f) (i32.const 9)) (i32.const 0)",
                ..MODULE
            },
        ),
        module(
            "call-of-another-type",
            Module {
                more: "(type $f (func)) (table 1 funcref) (elem (i32.const 0) $list)",
                filter: "(call_indirect (type $f) (i32.const 0)) (i32.const 0)",
                ..MODULE
            },
        ),
        module(
            "trap-afterwards",
            Module {
                more: r#"(func (export "cabi_post_aligner:plugin/filter@0.1.1#filter") (param i32)
                            unreachable)"#,
                ..MODULE
            },
        ),
        module(
            "loop-afterwards",
            Module {
                more: r#"(func (export "cabi_post_aligner:plugin/filter@0.1.1#filter") (param i32)
                            (loop $again (br $again)))"#,
                ..MODULE
            },
        ),
    ]
}

/// Guests that point to where nothing is, or to what nothing means.
fn pointing() -> Vec<Case> {
    let realloc = |name: &str, realloc| module(name, Module { realloc, ..MODULE });
    let describe =
        |name: &str, more| module(name, Module { more, describe: "(i32.const 2560)", ..MODULE });
    vec![
        realloc("realloc-out-of-bounds", "(i32.const -16)"),
        realloc("realloc-misaligned", "(i32.const 4097)"),
        realloc(
            "realloc-logs",
            "(call $log (i32.const 1) (i32.const 1088) (i32.const 4)) (i32.const 4096)",
        ),
        filter("result-misaligned", "(i32.const 3073)"),
        filter("result-out-of-bounds", "(i32.const -4)"),
        filter("result-neither", "(i32.store8 (i32.const 3072) (i32.const 7)) (i32.const 3072)"),
        filter("list-misaligned", "(call $list (i32.const 131073) (local.get $count))"),
        filter("list-out-of-bounds", "(call $list (i32.const 196600) (local.get $count))"),
        filter(
            "reply-neither",
            "(i32.store8 (i32.const 131072) (i32.const 9))
             (call $list (i32.const 131072) (local.get $count))",
        ),
        filter(
            "text-out-of-bounds",
            "(i32.store8 (i32.const 131072) (i32.const 1))
             (i32.store8 (i32.const 131076) (i32.const 1))
             (i32.store (i32.const 131080) (i32.const 1088))
             (i32.store (i32.const 131084) (i32.const -1))
             (call $list (i32.const 131072) (local.get $count))",
        ),
        filter(
            "log-out-of-bounds",
            "(call $log (i32.const 1) (i32.const 1088) (i32.const 1000000)) unreachable",
        ),
        filter(
            "log-level-9",
            "(call $log (i32.const 9) (i32.const 1088) (i32.const 4)) unreachable",
        ),
        module(
            "log-not-utf8",
            Module {
                more: r#"(data (i32.const 2560) "\ff\fe")"#,
                filter: "(call $log (i32.const 1) (i32.const 2560) (i32.const 2)) unreachable",
                ..MODULE
            },
        ),
        describe(
            "name-not-utf8",
            r#"(data (i32.const 2560) "\00\0b\00\00\02\00\00\00" "\44\04\00\00\05\00\00\00"
                "\40\04\00\00\04\00\00\00" "\40\04\00\00\00\00\00\00" "\40\04\00\00\00\00\00\00")
               (data (i32.const 2816) "\ff\fe")"#,
        ),
        describe(
            "name-with-escapes",
            r#"(data (i32.const 2560) "\00\0b\00\00\08\00\00\00" "\44\04\00\00\05\00\00\00"
                "\40\04\00\00\04\00\00\00" "\40\04\00\00\00\00\00\00" "\40\04\00\00\00\00\00\00")
               (data (i32.const 2816) "\1b[31mred")"#,
        ),
        describe(
            "version-text",
            r#"(data (i32.const 2560) "\40\04\00\00\04\00\00\00" "\40\04\00\00\04\00\00\00"
                "\40\04\00\00\04\00\00\00" "\40\04\00\00\00\00\00\00" "\40\04\00\00\00\00\00\00")"#,
        ),
        describe(
            "schema-no-object",
            r#"(data (i32.const 2560) "\40\04\00\00\04\00\00\00" "\44\04\00\00\05\00\00\00"
                "\40\04\00\00\04\00\00\00" "\40\04\00\00\04\00\00\00" "\40\04\00\00\00\00\00\00")"#,
        ),
        describe(
            "needs-ten-thousand",
            r#"(data (i32.const 2560) "\40\04\00\00\04\00\00\00" "\44\04\00\00\05\00\00\00"
                "\40\04\00\00\04\00\00\00" "\40\04\00\00\00\00\00\00" "\00\10\00\00\10\27\00\00")"#,
        ),
    ]
}

pub fn cases() -> Vec<Case> {
    [exhausting(), trapping(), pointing()].into_iter().flatten().collect()
}

#[test]
fn guests_that_use_up_what_they_have() {
    table::check(exhausting());
}

#[test]
fn guests_that_trap() {
    table::check(trapping());
}

#[test]
fn guests_that_point_nowhere() {
    table::check(pointing());
}

#[test]
fn the_guest_in_text_behaves_where_nothing_is_replaced() {
    use aligner::plugin::{Kind, NoAnswers, Outcome, Setup, Source};
    use aligner::record::Verdict;

    let source = Source::bytes("text.wasm", MODULE.bytes());
    let plugin = super::RUNTIME.load(&source, Setup::new(Kind::Filter)).unwrap();
    assert_eq!((plugin.name(), plugin.version()), ("text", "0.1.0"));
    let records = super::records((0..600).map(|i| format!("p-{i}")));
    let stage = plugin.filter(&super::PLACE, &records, &mut NoAnswers).unwrap();
    assert_eq!(stage.outcomes, vec![Outcome::Done(Verdict::Keep); 600]);
}
