//! The environment of a cargo that is run by a build script.

use std::path::PathBuf;
use std::process::Command;

/// Removes what the outer cargo, clippy or the user's shell set for another build than ours.
pub(crate) fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(name);
        }
    }
}

/// Says whether a variable belongs to another build. Where cargo finds its registry and how it
/// reaches the network stays.
fn is_foreign(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const FOREIGN: [&str; 9] = [
        "CARGO",
        "CLIPPY_",
        "DEP_",
        "MAKEFLAGS",
        "MFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "__CARGO",
    ];
    const SET_FOR_BUILD_SCRIPTS: [&str; 7] =
        ["DEBUG", "HOST", "NUM_JOBS", "OPT_LEVEL", "OUT_DIR", "PROFILE", "TARGET"];
    !KEPT.iter().any(|kept| name.starts_with(kept))
        && (FOREIGN.iter().any(|foreign| name.starts_with(foreign))
            || SET_FOR_BUILD_SCRIPTS.contains(&name))
}

/// Returns where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, foreign: bool) {
        assert_eq!(is_foreign(name), foreign, "{name}");
    }

    #[test]
    fn the_outer_build_leaves_no_trace() {
        for name in [
            "CARGO",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_FEATURE_CUDA",
            "CARGO_MAKEFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
            "CLIPPY_ARGS",
            "DEP_Z_INCLUDE",
            "HOST",
            "MAKEFLAGS",
            "OPT_LEVEL",
            "OUT_DIR",
            "PROFILE",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
            "TARGET",
        ] {
            check(name, true);
        }
    }

    #[test]
    fn what_finds_the_toolchain_and_the_registry_stays() {
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MINE_INDEX",
            "CARGO_REGISTRY_DEFAULT",
            "HOME",
            "HTTPS_PROXY",
            "PATH",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "TARGETS",
            "USER",
        ] {
            check(name, false);
        }
    }
}
