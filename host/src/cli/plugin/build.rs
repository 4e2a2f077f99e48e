//! `aligner plugin build`: a component of what lies in a folder. The compilers are other programs, each
//! of one version; what is missing is named with the command that installs it.

mod seeds;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{BuildArgs, CheckArgs, Language};
use crate::cli::{CliError, ProgressArgs, exit, output};

/// What the components of Python plugins are made with.
const COMPONENTIZE_PY: &str = "0.25.1";
/// What the components of JavaScript plugins are made with: the QuickJS backend of jco 1.35.0, by itself.
const COMPONENTIZE_QJS: &str = "0.4.5";

/// Builds the plugin, puts the component in its place, and says what it is as `plugin check` does.
pub fn main(args: &BuildArgs) -> Result<(), CliError> {
    let plugin = Plugin::read(&args.folder)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => args.folder.join(format!("{}.wasm", plugin.name)),
    };
    // Nobody finds half a component, nor one that a run would refuse.
    let unfinished = out.with_extension("wasm.unfinished");
    let built = plugin.build(&unfinished).and_then(|()| {
        let file = unfinished.display().to_string();
        super::check(&CheckArgs { file, config: None, json: false, shown: ProgressArgs::default() })
    });
    let placed = built.and_then(|()| {
        fs::rename(&unfinished, &out)
            .map_err(|error| failed(format!("cannot write `{}`: {error}", out.display())))
    });
    if placed.is_err() {
        // What made the build fail is what the user must hear of.
        let _ = fs::remove_file(&unfinished);
    }
    placed?;
    output::print(&format!("built     {}\n", out.display()))
}

/// A plugin in source.
struct Plugin {
    folder: PathBuf,
    language: Language,
    name: String,
    /// Names of interfaces, such as `set-filter`. Rust plugins carry them in the code.
    kinds: Vec<String>,
}

impl Plugin {
    /// Reads the manifest of whichever language it is.
    fn read(folder: &Path) -> Result<Plugin, CliError> {
        let manifests = [
            ("Cargo.toml", Language::Rust),
            ("pyproject.toml", Language::Python),
            ("package.json", Language::Js),
        ];
        let found = manifests.into_iter().find(|(file, _)| folder.join(file).is_file());
        let (file, language) = found.ok_or_else(|| {
            CliError::usage(format!("there is no plugin in `{}`", folder.display())).hint(
                "a plugin has a `Cargo.toml`, a `pyproject.toml` or a `package.json`; `aligner plugin \
                 new` makes one",
            )
        })?;
        let path = folder.join(file);
        let text = fs::read_to_string(&path)
            .map_err(|error| failed(format!("cannot read `{}`: {error}", path.display())))?;
        let (name, kinds) = manifest(language, &text)
            .map_err(|what| CliError::usage(format!("{what}\n  in {}", path.display())))?;
        let folder = folder
            .canonicalize()
            .map_err(|error| failed(format!("cannot open `{}`: {error}", folder.display())))?;
        Ok(Plugin { folder, language, name, kinds })
    }

    fn build(&self, out: &Path) -> Result<(), CliError> {
        let out = std::path::absolute(out)
            .map_err(|error| failed(format!("cannot write `{}`: {error}", out.display())))?;
        match self.language {
            Language::Rust => self.build_rust(&out),
            Language::Python => {
                let tool = self.tool(
                    "componentize-py",
                    &[".venv/bin"],
                    &format!(
                        "python3 -m venv .venv && .venv/bin/pip install componentize-py=={COMPONENTIZE_PY}"
                    ),
                )?;
                self.check_componentize_py(&tool)?;
                let mut command = Command::new(tool);
                command.args(["--quiet", "-d", "wit"]);
                for kind in &self.kinds {
                    command.args(["-w", &format!("{kind}-plugin")]);
                }
                command.args(["componentize", "--stub-wasi", "-p", ".", "-o"]);
                command.arg(out).arg("aligner_sdk.component");
                self.run(command)
            }
            Language::Js => {
                let [kind] = self.kinds.as_slice() else {
                    return Err(CliError::usage(
                        "a plugin in JavaScript is of one kind; `aligner.kinds` in `package.json` has \
                         several",
                    ));
                };
                let install = format!(
                    "npm install --save-dev --save-exact componentize-qjs@{COMPONENTIZE_QJS}"
                );
                let tool = self.tool("componentize-qjs", &["node_modules/.bin"], &install)?;
                self.check_componentize_qjs(&install)?;
                let mut command = Command::new(tool);
                command.args(["--wit", "wit", "--js", "aligner-sdk/component.js"]);
                command.args(["--module-root", ".", "--world", &format!("{kind}-plugin")]);
                command.args(["--stub-wasi", "--sync", "--output"]).arg(&out).stdout(Stdio::null());
                self.run(command)?;
                let failed = |what: String| {
                    failed(format!("what `componentize-qjs` made is not as expected: {what}"))
                        .hint(install.clone())
                };
                let component = fs::read(&out).map_err(|error| failed(error.to_string()))?;
                let component = seeds::whole(&component).map_err(failed)?;
                fs::write(&out, component).map_err(|error| failed(error.to_string()))
            }
        }
    }

    fn build_rust(&self, out: &Path) -> Result<(), CliError> {
        let target = self.folder.join("target");
        let built = aligner_plugin_build::build(&self.folder, &target, &[&self.name])
            .map_err(|error| failed(format!("{error:#}")))?;
        let component = built.into_iter().next().map(|built| built.component).unwrap_or_default();
        fs::write(out, component)
            .map_err(|error| failed(format!("cannot write `{}`: {error}", out.display())))
    }

    /// Finds a program in folders of the plugin or on the path.
    fn tool(&self, name: &str, folders: &[&str], install: &str) -> Result<PathBuf, CliError> {
        let own = folders.iter().map(|folder| self.folder.join(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = own.chain(std::env::split_paths(&path)).map(|folder| folder.join(name));
        places.find(|program| program.is_file()).ok_or_else(|| {
            failed(format!("`{name}` is not installed, which makes components of such plugins"))
                .hint(install)
        })
    }

    fn check_componentize_py(&self, tool: &Path) -> Result<(), CliError> {
        let said = Command::new(tool).arg("--version").output();
        let said =
            said.map_err(|error| failed(format!("cannot run `{}`: {error}", tool.display())))?;
        let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let version = said.rsplit(' ').next().unwrap_or_default();
        same_version(
            "componentize-py",
            version,
            COMPONENTIZE_PY,
            &format!("pip install componentize-py=={COMPONENTIZE_PY}"),
        )
    }

    /// The program does not tell its version; where it lies in the plugin's folder, its package does.
    fn check_componentize_qjs(&self, install: &str) -> Result<(), CliError> {
        let package = self.folder.join("node_modules/componentize-qjs/package.json");
        let Ok(text) = fs::read_to_string(package) else { return Ok(()) };
        let package: Value = serde_json::from_str(&text).unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        same_version("componentize-qjs", version, COMPONENTIZE_QJS, install)
    }

    fn run(&self, mut command: Command) -> Result<(), CliError> {
        let program = command.get_program().to_string_lossy().into_owned();
        // An author's mistake is told by the compiler's words; where in it they were said is none of theirs.
        command.current_dir(&self.folder).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        let status = command.status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(failed(format!("plugin `{}` could not be built; see above", self.name))),
            Err(error) => Err(failed(format!("cannot run `{program}`: {error}"))),
        }
    }
}

/// Reads name and kinds. The message says which key is missing or wrong.
fn manifest(language: Language, text: &str) -> Result<(String, Vec<String>), String> {
    let read: Value = match language {
        Language::Js => serde_json::from_str(text).map_err(|error| error.to_string())?,
        _ => toml::from_str(text).map_err(|error| error.to_string())?,
    };
    let (name, kinds, key) = match language {
        Language::Rust => (&read["package"]["name"], None, "package.name"),
        Language::Python => {
            (&read["project"]["name"], Some(&read["tool"]["aligner"]["kinds"]), "project.name")
        }
        Language::Js => (&read["name"], Some(&read["aligner"]["kinds"]), "name"),
    };
    let name = name.as_str().filter(|name| !name.is_empty() && !name.contains(['/', '\\']));
    let name = name.ok_or(format!("`{key}` is missing"))?;
    let Some(kinds) = kinds else { return Ok((name.into(), Vec::new())) };
    let key = if language == Language::Js { "aligner.kinds" } else { "tool.aligner.kinds" };
    let known = crate::plugin::Interface::ALL.map(|interface| interface.as_str());
    let named = || known.map(|kind| format!("`{kind}`")).join(", ");
    let list: Vec<String> = serde_json::from_value(kinds.clone()).unwrap_or_default();
    if list.is_empty() {
        return Err(format!("`{key}` must list what the plugin is: {}", named()));
    }
    match list.iter().find(|kind| !known.contains(&kind.as_str())) {
        Some(unknown) => Err(format!("`{key}` has `{unknown}`; there are {}", named())),
        None => Ok((name.into(), list)),
    }
}

/// A component made by another version may import what a run refuses.
fn same_version(tool: &str, found: &str, wanted: &str, install: &str) -> Result<(), CliError> {
    if found == wanted {
        return Ok(());
    }
    Err(failed(format!("`{tool}` is {found}, but plugins are built with {wanted}")).hint(install))
}

fn failed(message: String) -> CliError {
    CliError::new(exit::PLUGIN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_say_name_and_kinds() {
        let check = |language, text: &str, name: &str, kinds: &[&str]| {
            let (found, list) = manifest(language, text).unwrap();
            assert_eq!(
                (found.as_str(), list),
                (name, kinds.iter().map(ToString::to_string).collect())
            );
        };
        check(Language::Rust, "[package]\nname = \"a\"", "a", &[]);
        check(
            Language::Python,
            "[project]\nname = \"a\"\n[tool.aligner]\nkinds = [\"filter\", \"difficulty\"]",
            "a",
            &["filter", "difficulty"],
        );
        check(
            Language::Js,
            r#"{"name": "a", "aligner": {"kinds": ["set-filter"]}}"#,
            "a",
            &["set-filter"],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |language, text: &str, expected: &str| {
            let message = manifest(language, text).unwrap_err();
            assert!(message.contains(expected), "{message}\n  lacks\n{expected}");
        };
        check(Language::Rust, "", "`package.name` is missing");
        check(Language::Python, "[project]\nname = \"a\"", "`tool.aligner.kinds` must list");
        check(Language::Js, r#"{"name": "a/b"}"#, "`name` is missing");
        check(
            Language::Js,
            r#"{"name": "a", "aligner": {"kinds": ["x"]}}"#,
            "has `x`; there are `principle`",
        );
        check(Language::Js, "{", "EOF");
    }

    #[test]
    fn a_folder_without_a_plugin_and_another_version_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Plugin::read(folder.path()).err().unwrap();
        assert!(error.to_string().contains("there is no plugin in"), "{error}");
        let error = same_version("componentize-py", "0.1.0", COMPONENTIZE_PY, "pip").unwrap_err();
        assert!(error.to_string().contains("`componentize-py` is 0.1.0"), "{error}");
    }
}
