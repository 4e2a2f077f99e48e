//! Builds every plugin in the folder beside this one, and lists what there is to embed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

/// Folders of `plugins/` that are no plugins.
const OTHERS: [&str; 3] = ["build", "embed", "sdk"];

fn main() -> Result<()> {
    // Read as it runs: a compiled build script may outlive the folder that it was compiled in.
    let here = env::var_os("CARGO_MANIFEST_DIR").context("cargo sets `CARGO_MANIFEST_DIR`")?;
    let root = Path::new(&here).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets `OUT_DIR`")?);
    let plugins = plugins(&root.join("plugins"))?;
    let names: Vec<&str> = plugins.iter().map(String::as_str).collect();
    let workspace = root.join("plugins");

    watch(&workspace.join("Cargo.toml"));
    watch(&workspace.join("Cargo.lock"));
    watch(&root.join("wit"));
    for folder in names.iter().map(|name| workspace.join(name)).chain([root.join("sdk")]) {
        ["Cargo.toml", "src", "data"].iter().for_each(|part| watch(&folder.join(part)));
    }

    let mut lists = String::new();
    let mut list = |name: &str, items: &[(String, String)], of: &str| {
        let entry = |(name, path): &(String, String)| format!("    ({name:?}, {of}({path:?})),\n");
        let kind = if of == "include_bytes!" { "&[u8]" } else { "&str" };
        let entries: String = items.iter().map(entry).collect();
        writeln!(lists, "const {name}_LIST: &[(&str, {kind})] = &[\n{entries}];")
    };

    let mut components = Vec::new();
    for built in aligner_plugin_build::build(&workspace, &target_folder(&out), &names)? {
        let path = out.join(format!("{}.wasm", built.package));
        fs::write(&path, &built.component)?;
        components.push((built.package, text(&path)?));
    }
    list("COMPONENT", &components, "include_bytes!")?;
    list("PLUGIN_SET", &files(&root.join("examples"), "toml")?, "include_str!")?;
    list("DATA", &files(&root.join("examples/data"), "jsonl")?, "include_str!")?;
    list("AUTHORS", &for_authors(&root)?, "include_str!")?;
    fs::write(out.join("lists.rs"), lists)?;
    Ok(())
}

/// Returns the names of the plugins, sorted.
fn plugins(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.join("Cargo.toml").is_file() && !OTHERS.contains(&name) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the files with an extension, as names without it and whole paths, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<(String, String)>> {
    watch(folder);
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == extension) {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            files.push((name.to_owned(), text(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// What `aligner plugin new` lays down: SDKs, templates and the contract.
const FOR_AUTHORS: [&str; 6] =
    ["sdk/Cargo.toml", "sdk/src", "sdk/python/aligner_sdk", "sdk/js", "sdk/templates", "wit"];

/// Returns the files that authors get, by their paths from the root with `/` in them, sorted.
fn for_authors(root: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut todo: Vec<String> = FOR_AUTHORS.map(String::from).into();
    while let Some(name) = todo.pop() {
        let path = root.join(&name);
        watch(&path);
        if path.is_file() {
            files.push((name, text(&path)?));
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("cannot list `{name}`"))? {
            let entry = entry?.file_name();
            let entry = entry.to_str().with_context(|| format!("`{name}` has no plain names"))?;
            // What running the tests leaves behind.
            if !["__pycache__", "node_modules", "test", ".mypy_cache", "target"].contains(&entry) {
                todo.push(format!("{name}/{entry}"));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns a folder for the nested cargo: one of its own inside the outer one's, so that it waits
/// for no lock, and that all builds share.
fn target_folder(out: &Path) -> PathBuf {
    let outer = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    outer.unwrap_or(out).join("wasm")
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
