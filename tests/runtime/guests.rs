//! Builds the guests once, with the toolchain of the tests, offline.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use aligner::plugin::Source;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests")
}

/// A cache of this process's own: it is made again for every run of the tests.
pub fn cache() -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        // What an earlier process left; a static is not dropped.
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        folder
    });
    FOLDER.join("plugins")
}

/// Compiles all guests and returns the folder they are in: core modules, as the linker leaves them.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = workspace().join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--offline", "--locked", "--quiet"])
        .args(["--target", "wasm32-unknown-unknown", "--manifest-path"])
        .arg(workspace().join("Cargo.toml"))
        // A folder of its own: the cargo that runs the tests holds the lock of the other.
        .arg("--target-dir")
        .arg(&target);
    // What is set for the host's build (flags, wrappers, profiles) is not meant for the guests.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let meant_for_host = (name_text.starts_with("CARGO_") && name_text != "CARGO_HOME")
            || name_text.starts_with("RUSTC")
            || name_text.ends_with("RUSTFLAGS");
        if meant_for_host {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the guests do not compile:\n{errors}");
    target.join("wasm32-unknown-unknown/release")
});

/// Returns the path of a guest's core module.
pub fn path(name: &str) -> PathBuf {
    BUILT.join(format!("{name}.wasm"))
}

/// Returns a guest's core module.
pub fn core(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("the guest was built")
}

/// Returns a guest as a component.
pub fn component(name: &str) -> Vec<u8> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&core(name))
        .and_then(|encoder| encoder.encode())
        .expect("the guest has the contract in it")
}

/// Replaces a text by one of the same length, everywhere.
pub fn replaced(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<_> = bytes
        .windows(from.len())
        .enumerate()
        .filter_map(|(at, window)| (window == from.as_bytes()).then_some(at))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// Returns the guest that breaks the contract on request, as a component.
pub fn hostile() -> Source {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| component("hostile"));
    Source::bytes("hostile.wasm", BYTES.clone())
}
