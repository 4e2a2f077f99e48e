//! Reads a plugin file without running any of it: what it is, what it wants, what it offers.

use std::collections::BTreeSet;
use std::fmt;

use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use super::error::LoadFault;
use crate::shown::one_line;

/// The contract that this program has, without the patch number: `0.1.z` only adds (`wit/README.md`).
pub const CONTRACT: &str = "0.1";

/// The same with it: the version of the package in `wit/`.
pub const RELEASE: &str = "0.1.1";

/// The largest plugin file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// The largest function body that is compiled, in bytes. Compile time grows faster than a body's
/// size: 1 MB takes 17 s. The largest body seen in a real plugin, CPython's, has 427 kB.
pub const MAX_FUNCTION_BYTES: usize = 512 << 10;

const PACKAGE: &str = "aligner:plugin/";

/// What a plugin is for; each has its section in a plugin set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `[principle]`
    Principle,
    /// `[sampler]`
    Sampler,
    /// `[[filter]]`
    Filter,
    /// `[judge]`
    Judge,
    /// `[difficulty]`
    Difficulty,
}

impl Kind {
    /// Returns the word for it: `principle`, `sampler`, `filter`, `judge` or `difficulty`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Principle => "principle",
            Kind::Sampler => "sampler",
            Kind::Filter => "filter",
            Kind::Judge => "judge",
            Kind::Difficulty => "difficulty",
        }
    }

    /// Returns its section in a plugin set, for example `[[filter]]`.
    pub fn section(self) -> &'static str {
        match self {
            Kind::Principle => "[principle]",
            Kind::Sampler => "[sampler]",
            Kind::Filter => "[[filter]]",
            Kind::Judge => "[judge]",
            Kind::Difficulty => "[difficulty]",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An interface of the contract that a component can export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interface {
    /// `principle`
    Principle,
    /// `sampler`
    Sampler,
    /// `prompt-writer`, beside `sampler`
    PromptWriter,
    /// `filter`, one record at a time
    Filter,
    /// `set-filter`, over the whole stage
    SetFilter,
    /// `judge`
    Judge,
    /// `difficulty`
    Difficulty,
}

impl Interface {
    /// All of them.
    pub const ALL: [Interface; 7] = [
        Interface::Principle,
        Interface::Sampler,
        Interface::PromptWriter,
        Interface::Filter,
        Interface::SetFilter,
        Interface::Judge,
        Interface::Difficulty,
    ];

    /// Returns its name in WIT, for example `set-filter`.
    pub fn as_str(self) -> &'static str {
        match self {
            Interface::Principle => "principle",
            Interface::Sampler => "sampler",
            Interface::PromptWriter => "prompt-writer",
            Interface::Filter => "filter",
            Interface::SetFilter => "set-filter",
            Interface::Judge => "judge",
            Interface::Difficulty => "difficulty",
        }
    }

    /// Returns the kind of plugin that a component with this interface is.
    pub fn kind(self) -> Kind {
        match self {
            Interface::Principle => Kind::Principle,
            Interface::Sampler | Interface::PromptWriter => Kind::Sampler,
            Interface::Filter | Interface::SetFilter => Kind::Filter,
            Interface::Judge => Kind::Judge,
            Interface::Difficulty => Kind::Difficulty,
        }
    }

    /// Returns the interface of that name.
    pub fn from_name(name: &str) -> Option<Interface> {
        Interface::ALL.into_iter().find(|interface| interface.as_str() == name)
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A component, ready to compile.
    Component,
    /// A core module with the contract in a custom section, to be encoded as a component.
    Core,
}

/// Checks size, validity and the size of function bodies, and for a core module what it imports.
pub(super) fn check_file(bytes: &[u8]) -> Result<Form, LoadFault> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(LoadFault::TooLarge { bytes: bytes.len() });
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadFault::NotWasm);
    }
    let malformed = |error: wasmparser::BinaryReaderError| LoadFault::Malformed(error.to_string());
    let mut form = None;
    let mut has_contract = false;
    // Walks into nested modules too. Sizes first: they are read without looking at the bodies.
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                form.get_or_insert(match encoding {
                    Encoding::Component => Form::Component,
                    Encoding::Module => Form::Core,
                });
            }
            Payload::CodeSectionEntry(body) => {
                let bytes =
                    usize::try_from(body.range().end - body.range().start).unwrap_or(usize::MAX);
                if bytes > MAX_FUNCTION_BYTES {
                    return Err(LoadFault::FunctionTooLarge { bytes });
                }
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                has_contract = true;
            }
            Payload::ImportSection(imports) if form == Some(Form::Core) => {
                for import in imports.into_imports() {
                    check_import_name(import.map_err(malformed)?.module)?;
                }
            }
            _ => {}
        }
    }
    let form = form.ok_or(LoadFault::NotWasm)?;
    if form == Form::Core && !has_contract {
        return Err(LoadFault::NoContract);
    }
    Validator::new_with_features(features()).validate_all(bytes).map_err(malformed)?;
    Ok(form)
}

/// Checks what a component imports and exports, and returns the plugin interfaces it has.
pub(super) fn check_component(bytes: &[u8]) -> Result<BTreeSet<Interface>, LoadFault> {
    let malformed = |error: wasmparser::BinaryReaderError| LoadFault::Malformed(error.to_string());
    let types = Validator::new_with_features(features()).validate_all(bytes).map_err(malformed)?;
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            // The end of the outermost component comes at depth 0.
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }

    // The version first: a plugin for another contract may import what this one has not.
    for name in imports.iter().chain(&exports) {
        check_version(name)?;
    }
    for name in &imports {
        check_import_name(name)?;
        let types_only = match types.component_item_for_import(name).map(|item| item.ty) {
            Some(ComponentEntityType::Instance(instance)) => types[instance]
                .exports
                .values()
                .all(|item| matches!(item.ty, ComponentEntityType::Type { .. })),
            _ => false,
        };
        if !types_only && interface_name(name) != Some("log") {
            return Err(refused_import(name));
        }
    }
    let names: BTreeSet<&str> = exports.iter().filter_map(|name| interface_name(name)).collect();
    let interfaces: BTreeSet<Interface> =
        names.iter().filter_map(|name| Interface::from_name(name)).collect();
    if interfaces.is_empty() {
        let unknown = |name: &&String| is_newer(name) && interface_name(name) != Some("meta");
        return Err(match exports.iter().find(unknown) {
            Some(name) => newer(name, "exports"),
            None => LoadFault::NoKind,
        });
    }
    if !names.contains("meta") {
        return Err(LoadFault::NoMeta);
    }
    if interfaces.contains(&Interface::PromptWriter) && !interfaces.contains(&Interface::Sampler) {
        return Err(LoadFault::LoneWriter);
    }
    Ok(interfaces)
}

/// Returns the names of what a component or a core module imports, sorted.
pub(super) fn imports(bytes: &[u8]) -> Vec<String> {
    let mut names = BTreeSet::new();
    let (mut depth, mut is_core) = (0_usize, None);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::Version { encoding, .. }) => {
                is_core.get_or_insert(encoding == Encoding::Module);
            }
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentImportSection(section)) if depth == 0 => {
                names.extend(section.into_iter().flatten().map(|it| it.name.name.to_owned()));
            }
            Ok(Payload::ImportSection(section)) if is_core == Some(true) => {
                names.extend(section.into_imports().flatten().map(|it| it.module.to_owned()));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    names.into_iter().collect()
}

/// Returns the release of the contract that a plugin was built for: what its export `meta` says.
pub(super) fn contract(bytes: &[u8]) -> Option<String> {
    // The same name stands in components and in core modules, in sections of different kinds.
    let name = b"aligner:plugin/meta@";
    let start = bytes.windows(name.len()).position(|window| window == name)? + name.len();
    let is_version = |byte: &&u8| byte.is_ascii_alphanumeric() || b".-+".contains(byte);
    let version: Vec<u8> = bytes[start..].iter().take_while(is_version).take(40).copied().collect();
    String::from_utf8(version).ok().filter(|version| !version.is_empty())
}

/// What the validator lets pass; the engine has the last word.
fn features() -> WasmFeatures {
    WasmFeatures::default()
        - WasmFeatures::MEMORY64
        - WasmFeatures::THREADS
        - WasmFeatures::TAIL_CALL
        - WasmFeatures::RELAXED_SIMD
}

/// Splits `aligner:plugin/filter@0.1.0` into `filter` and `0.1.0`.
fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn interface_name(name: &str) -> Option<&str> {
    split(name).map(|(interface, _)| interface)
}

fn check_version(name: &str) -> Result<(), LoadFault> {
    let Some((_, version)) = split(name) else { return Ok(()) };
    let same = version
        .strip_prefix(CONTRACT)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()));
    if same {
        return Ok(());
    }
    // `0.2.0` is contract 0.2; what is not a plain version is shown as it stands.
    let theirs = match version.split('.').collect::<Vec<_>>()[..] {
        [major, minor, _] => format!("{major}.{minor}"),
        _ => version.to_owned(),
    };
    Err(LoadFault::OtherContract { theirs: one_line(&theirs, 40) })
}

fn check_import_name(name: &str) -> Result<(), LoadFault> {
    check_version(name)?;
    if name.starts_with(PACKAGE) {
        return Ok(());
    }
    Err(refused_import(name))
}

fn refused_import(name: &str) -> LoadFault {
    match is_newer(name) {
        true => newer(name, "imports"),
        false => LoadFault::ForeignImport { name: one_line(name, 200) },
    }
}

/// Returns whether an interface of ours has a later patch number than this program's contract.
fn is_newer(name: &str) -> bool {
    let patch = |version: &str| version.rsplit('.').next().and_then(|patch| patch.parse().ok());
    let ours: Option<u64> = patch(RELEASE);
    split(name).is_some_and(|(_, version)| patch(version) > ours)
}

fn newer(name: &str, does: &'static str) -> LoadFault {
    let (interface, version) = split(name).unwrap_or((name, ""));
    LoadFault::NewerContract {
        does,
        interface: one_line(interface, 100),
        theirs: one_line(version, 40),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wat(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("the test's own text is valid")
    }

    fn check_component_text(text: &str, expected: &str) {
        let bytes = wat(text);
        let result = check_file(&bytes).and_then(|_| check_component(&bytes));
        let message = result.expect_err("the component is refused").to_string();
        assert!(message.contains(expected), "{message}\n  lacks\n{expected}");
    }

    #[test]
    fn imports_besides_ours_are_refused() {
        check_component_text(
            r#"(component (import "wasi:io/poll@0.2.6" (instance)))"#,
            "imports `wasi:io/poll@0.2.6`",
        );
        check_component_text(
            r#"(component (import "aligner:plugin/model@0.1.0" (instance (export "ask" (func)))))"#,
            "imports `aligner:plugin/model@0.1.0`",
        );
        check_component_text(r#"(component (import "run" (func)))"#, "imports `run`");
        check_component_text(
            r#"(component (import "aligner:plugin/types@0.1.0" (func)))"#,
            "imports `aligner:plugin/types@0.1.0`",
        );
    }

    #[test]
    fn an_import_of_types_only_is_let_in() {
        check_component_text(
            r#"(component (import "aligner:plugin/verdicts@0.1.3" (instance (type $t u32) (export "t" (type (eq $t)))))
                 (import "aligner:plugin/log@0.1.0" (instance (export "write" (func)))))"#,
            "exports none of",
        );
        let bytes = wat(r#"(component (import "aligner:plugin/types@0.1.3" (instance))
                 (component (import "wasi:io/poll@0.2.6" (instance))))"#);
        assert_eq!(imports(&bytes), ["aligner:plugin/types@0.1.3"]);
        assert_eq!((contract(&bytes), imports(b"no file").len()), (None, 0));
    }

    #[test]
    fn another_contract_is_named() {
        let check = |version: &str, expected: &str| {
            let text = format!(
                r#"(component (import "aligner:plugin/types@{version}" (instance))
                     (import "wasi:io/poll@0.2.6" (instance)))"#
            );
            check_component_text(&text, expected);
        };
        check("0.2.0", "built for contract 0.2, this aligner has 0.1");
        check("1.1.0", "built for contract 1.1,");
        check("0.10.0", "built for contract 0.10,");
        check("0.1.0-rc.1", "built for contract 0.1.0-rc.1,");
        check("0.1.7", "imports `wasi:io/poll@0.2.6`");
    }

    #[test]
    fn what_a_later_patch_added_is_named_as_such() {
        check_component_text(
            r#"(component (import "aligner:plugin/verdicts@0.1.9" (instance (export "f" (func)))))"#,
            "imports `verdicts` of contract 0.1.9, which this aligner, with 0.1.1, does not have",
        );
        check_component_text(
            r#"(component (instance $i) (export "aligner:plugin/meta@0.1.9" (instance $i))
                 (export "aligner:plugin/rewriter@0.1.9" (instance $i)))"#,
            "exports `rewriter` of contract 0.1.9",
        );
        // At our own version it is no interface of the contract at all.
        check_component_text(
            r#"(component (import "aligner:plugin/model@0.1.1" (instance (export "f" (func)))))"#,
            "imports `aligner:plugin/model@0.1.1`",
        );
    }

    #[test]
    fn the_release_is_that_of_the_contract_in_wit() {
        let package = format!("package aligner:plugin@{RELEASE};");
        assert!(include_str!("../../../wit/types.wit").contains(&package));
        assert!(RELEASE.starts_with(&format!("{CONTRACT}.")));
    }

    #[test]
    fn exports_make_the_kind() {
        check_component_text(
            r#"(component (instance $i) (export "aligner:plugin/filter@0.1.0" (instance $i)))"#,
            "does not export `meta`",
        );
        check_component_text(
            r#"(component (instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i)))"#,
            "exports none of",
        );
        check_component_text(
            r#"(component (instance $i) (export "aligner:plugin/meta@0.1.0" (instance $i))
                 (export "aligner:plugin/prompt-writer@0.1.0" (instance $i)))"#,
            "exports `prompt-writer` without `sampler`",
        );
        // What a nested component exports is not the plugin's.
        let bytes = wat(r#"(component
                 (component $c (instance $i) (export "aligner:plugin/judge@0.1.0" (instance $i)))
                 (instance $i)
                 (export "aligner:plugin/meta@0.1.0" (instance $i))
                 (export "aligner:plugin/set-filter@0.1.2" (instance $i))
                 (export "aligner:plugin/later@0.1.2" (instance $i)))"#);
        assert_eq!(check_component(&bytes).unwrap(), BTreeSet::from([Interface::SetFilter]));
        assert_eq!(contract(&bytes).as_deref(), Some("0.1.0"));
    }

    #[test]
    fn what_is_no_plugin_file_is_refused() {
        let check = |bytes: &[u8], expected: &str| {
            let message = check_file(bytes).expect_err("the file is refused").to_string();
            assert!(message.contains(expected), "{message}\n  lacks\n{expected}");
        };
        check(b"", "is not WebAssembly");
        check(b"\0as", "is not WebAssembly");
        check(b"(component)", "is not WebAssembly");
        check(b"\0asm\x0d\0\x01\0\x07\xff", "is damaged");
        let component = wat(r#"(component (core module (func nop)))"#);
        check(&component[..component.len() - 3], "is damaged");
        check(&wat("(module)"), "without the plugin contract");
        check(&wat(r#"(module (import "env" "now" (func)))"#), "imports `env`");
        check(&wat("(module (func (result i32) nop))"), "without the plugin contract");
        let body = "i32.const 1 drop ".repeat(200_000);
        check(&wat(&format!("(component (core module (func {body})))")), "function body");
    }
}
