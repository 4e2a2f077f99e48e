//! Compiles plugin crates to WebAssembly and encodes them as components.
//!
//! Used by `aligner-embed` for the plugins that ship with aligner. The same toolchain, lock file
//! and sources give the same bytes in any folder on any machine, because a component's digest
//! stands in the journal of every run.

mod environment;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The only target that adds no WASI import to a plugin.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A plugin, ready to be loaded.
pub struct Built {
    /// The name of its package.
    pub package: String,
    /// The component.
    pub component: Vec<u8>,
}

/// Compiles packages of a cargo workspace and encodes each as a component.
///
/// - `workspace`: the folder of the `Cargo.toml`.
/// - `target`: the target folder, which no other cargo may hold: a build script must not wait for
///   the cargo that runs it.
/// - `packages`: names of packages whose library is a plugin.
///
/// Fails where the toolchain has no `wasm32-unknown-unknown`, where a crate does not compile
/// (cargo's messages go to stderr), or where its library is no plugin.
pub fn build(workspace: &Path, target: &Path, packages: &[&str]) -> Result<Vec<Built>> {
    let workspace = workspace
        .canonicalize()
        .with_context(|| format!("cannot open the folder `{}`", workspace.display()))?;
    let rustflags = rustflags(&workspace, &sysroot(&workspace)?);
    let component = |&package: &&str| {
        let module = compile(&workspace, target, package, &rustflags)?;
        let module = std::fs::read(&module)
            .with_context(|| format!("cannot read `{}`", module.display()))?;
        let component = encode(&module)
            .with_context(|| format!("cannot encode plugin `{package}` as a component"))?;
        Ok(Built { package: package.into(), component })
    };
    packages.iter().map(component).collect()
}

/// Encodes a core module with the interface types that wit-bindgen put into it as a component.
pub fn encode(module: &[u8]) -> Result<Vec<u8>> {
    wit_component::ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// Returns the toolchain's own folder, once it is sure that it can compile for [`TARGET`].
fn sysroot(workspace: &Path) -> Result<PathBuf> {
    let print = |arguments: &[&str]| -> Result<PathBuf> {
        let mut rustc = Command::new("rustc");
        environment::clean(&mut rustc);
        let output = rustc.args(arguments).current_dir(workspace).output();
        let output = output.context("cannot run `rustc`")?;
        if !output.status.success() {
            bail!("`rustc` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let libraries = print(&["--print", "target-libdir", "--target", TARGET])?;
    if !libraries.is_dir() {
        bail!(
            "plugins cannot be compiled: the Rust toolchain has no target `{TARGET}`\n  \
             looked in `{}`\n\nhint: rustup target add {TARGET}",
            libraries.display()
        );
    }
    print(&["--print", "sysroot"])
}

/// Compiles one package and returns where its core module is.
fn compile(
    workspace: &Path,
    target: &Path,
    package: &str,
    rustflags: &OsString,
) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    environment::clean(&mut cargo);
    cargo
        // One crate type: beside an `rlib` there is no link-time optimisation.
        .args(["rustc", "--lib", "--crate-type", "cdylib", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics", "--package", package])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .current_dir(workspace)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run `cargo`")?;
    if !output.status.success() {
        bail!("plugin `{package}` does not compile for {TARGET}");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let module = messages.lines().filter_map(core_module).next_back();
    module.with_context(|| format!("package `{package}` has no library that makes a plugin"))
}

/// Small, and as fast as `opt-level = 3` for what plugins do. Given on the command line, so that
/// an author's manifest needs none of it.
const PROFILE: [&str; 7] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=true",
    "profile.release.debug=false",
    "profile.release.incremental=false",
];

/// Returns the path of the wasm file that one of cargo's messages announces.
fn core_module(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let files = message["filenames"].as_array()?;
    let path =
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm"))?;
    Some(path.into())
}

/// Returns the flags that keep this machine's folders out of the component: panics name the file
/// they come from. Of several prefixes that fit, rustc takes the last.
fn rustflags(workspace: &Path, sysroot: &Path) -> OsString {
    let cargo_home = environment::cargo_home();
    let remapped = [
        (cargo_home.as_deref(), "/cargo"),
        (workspace.parent(), "/source"),
        (Some(workspace), "/source/workspace"),
        (Some(sysroot), "/rust"),
    ];
    let mut flags = OsString::new();
    for (folder, name) in remapped {
        let Some(folder) = folder.filter(|folder| folder.parent().is_some()) else { continue };
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(folder);
        flags.push(format!("={name}"));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wasm_file_is_found_in_cargos_messages() {
        let check = |message: &str, expected: Option<&str>| {
            assert_eq!(core_module(message), expected.map(PathBuf::from), "{message}");
        };
        check(
            r#"{"reason":"compiler-artifact","filenames":["/t/a.d","/t/deps/a.wasm"]}"#,
            Some("/t/deps/a.wasm"),
        );
        check(r#"{"reason":"compiler-artifact","filenames":["/t/liba.rlib"]}"#, None);
        check(r#"{"reason":"build-finished","success":true}"#, None);
        check("not JSON", None);
    }

    #[test]
    fn folders_of_this_machine_are_remapped() {
        let flags = rustflags(Path::new("/home/me/aligner/plugins"), Path::new("/rustup/1.95"));
        let flags = flags.into_string().unwrap();
        let flags: Vec<_> = flags.split('\u{1f}').collect();
        assert!(flags.contains(&"--remap-path-prefix=/home/me/aligner=/source"), "{flags:?}");
        assert!(flags.contains(&"--remap-path-prefix=/rustup/1.95=/rust"), "{flags:?}");
        // The file system's root is no prefix: it would fit everything.
        let flags = rustflags(Path::new("/plugins"), Path::new("/rustup"));
        assert!(!flags.to_str().unwrap().contains("=/=/source"), "{flags:?}");
    }

    #[test]
    fn what_is_no_plugin_is_refused() {
        assert!(encode(b"").is_err());
        assert!(encode(b"\0asm\x0d\0\x01\0").is_err());
    }
}
