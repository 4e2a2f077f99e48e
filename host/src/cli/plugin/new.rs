//! `aligner plugin new`: a folder with a plugin in it. Everything in it comes out of this binary: the
//! author's files are a template with its names replaced, and the SDK and the contract lie beside them.

use std::{fs, io, path::Path};

use super::{Language, NewArgs};
use crate::{
    cli::{CliError, exit, output},
    plugin::Interface,
};

/// Makes the folder: whole, or not at all.
pub fn main(args: &NewArgs) -> Result<(), CliError> {
    let NewArgs { kind, language, name } = args;
    check_name(name, *language)?;
    let folder = Path::new(name);
    if folder.exists() {
        return Err(CliError::usage(format!("`{name}` is there already"))
            .hint("give another name, or remove it"));
    }
    make(folder, &files(kind.interface(), *language, name)).map_err(|error| {
        CliError::new(exit::PLUGIN, format!("cannot make the folder `{name}`: {error}"))
    })?;
    let test = match language {
        Language::Rust => "cargo test",
        Language::Python => "python3 -m unittest",
        Language::Js => "node --test",
    };
    output::print(&format!("made {name}/\n\n    cd {name}\n    {test}\n    aligner plugin build\n"))
}

/// Names of Rust that a crate cannot have, or with which its tests do not build: keywords, crates that come with
/// the compiler, and what a plugin's crate depends on.
const TAKEN_IN_RUST: &str = "abstract aligner-sdk alloc as async await become box break const continue core crate \
    do dyn else enum extern false final fn for gen if impl in let loop macro match mod move mut override priv \
    proc-macro pub ref return self serde static std struct super test trait true try type typeof unsafe unsized \
    use virtual where while yield";

/// The host takes no other name, and the languages make one of their own of it.
fn check_name(name: &str, language: Language) -> Result<(), CliError> {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if language == Language::Rust && TAKEN_IN_RUST.split_whitespace().any(|taken| taken == name) {
        return Err(CliError::usage(format!("`{name}` is no name for a plugin in Rust")).hint(
            format!("the name has a meaning there already; take another, such as `my-{name}`"),
        ));
    }
    if !begins || name.len() > 64 || !name.split('-').all(word) {
        return Err(CliError::usage(format!("`{name}` is no name for a plugin"))
            .hint("lower-case words joined by hyphens, such as `min-words`"));
    }
    Ok(())
}

/// Returns the files of a plugin: path within its folder, and text.
fn files(kind: Interface, language: Language, name: &str) -> Vec<(String, String)> {
    let (template, sdk) = match language {
        Language::Rust => (
            "sdk/templates/rust/",
            [("sdk/src/", "aligner-sdk/src/"), ("sdk/Cargo.toml", "aligner-sdk/Cargo.toml")]
                .as_slice(),
        ),
        Language::Python => ("sdk/templates/python/", [("sdk/python/", "")].as_slice()),
        Language::Js => ("sdk/templates/js/", [("sdk/js/", "aligner-sdk/")].as_slice()),
    };
    let path = |path: &str| -> Option<(String, bool)> {
        if let Some(rest) = path.strip_prefix(template) {
            // Beside the folders of the kinds lies what all kinds have.
            let own = rest.strip_prefix(kind.as_str()).and_then(|rest| rest.strip_prefix('/'));
            let of_another =
                Interface::ALL.iter().any(|it| rest.starts_with(&format!("{}/", it.as_str())));
            return own.or((!of_another).then_some(rest)).map(|rest| (rest.into(), true));
        }
        if path.starts_with("wit/") {
            return path.ends_with(".wit").then(|| (path.into(), false));
        }
        let moved = sdk.iter().find_map(|(from, to)| Some((path.strip_prefix(from)?, to)));
        moved.map(|(rest, to)| (format!("{to}{rest}"), false))
    };
    aligner_embed::FOR_AUTHORS
        .iter()
        .filter_map(|(from, text)| {
            let (path, own) = path(from)?;
            Some((path, if own { filled(text, kind, name) } else { (*text).to_owned() }))
        })
        .collect()
}

/// Puts the plugin's names into a file of a template.
fn filled(text: &str, kind: Interface, name: &str) -> String {
    let settings = match kind {
        Interface::Filter | Interface::SetFilter => "\nafter = \"generate\"",
        Interface::Judge | Interface::Difficulty => "\nask = { models = [\"policy\"] }",
        Interface::PromptWriter => {
            "\nwrite = { prompts = 32, slots = 200 }\nask = { models = [\"policy\"] }"
        }
        Interface::Principle | Interface::Sampler => "",
    };
    text.replace("my-section", &format!("{}{settings}", kind.kind().section()))
        .replace("my-kind", kind.as_str())
        .replace("my-plugin", name)
        .replace("MyPlugin", &type_name(name))
}

/// Returns a name for the plugin's type: `MinWords`, or `LengthPlugin`, since a single word may be a name
/// in the SDK.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    };
    let words: Vec<String> = name.split('-').map(capital).collect();
    match words.as_slice() {
        [word] => format!("{word}Plugin"),
        words => words.concat(),
    }
}

/// Writes files into a folder that is not there yet.
fn make(folder: &Path, files: &[(String, String)]) -> io::Result<()> {
    let unfinished = tempfile::Builder::new().prefix(".aligner-new-").tempdir_in(".")?;
    for (path, text) in files {
        let path = unfinished.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    // The temporary folder is the user's alone; a plugin is for others too.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(unfinished.path(), fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(unfinished.path(), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_joined_by_hyphens() {
        for name in ["length", "min-words", "top-3", "a1-b2"] {
            assert!(check_name(name, Language::Rust).is_ok(), "{name}");
        }
        for name in ["serde", "aligner-sdk", "std", "proc-macro", "fn", "yield"] {
            let error = check_name(name, Language::Rust).unwrap_err();
            assert!(error.hint.is_some_and(|hint| hint.contains(&format!("my-{name}"))));
            assert!(check_name(name, Language::Python).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", "-a", "a-", "a--b", "A", "a_b", "3a", "ä", "../a", &long] {
            assert!(check_name(name, Language::Js).is_err(), "{name}");
        }
    }

    #[test]
    fn types_are_called_after_the_plugin() {
        assert_eq!(type_name("min-words"), "MinWords");
        assert_eq!(type_name("top-3-of-all"), "Top3OfAll");
        assert_eq!(type_name("filter"), "FilterPlugin");
    }

    #[test]
    fn every_kind_in_every_language_has_its_files_and_no_placeholder() {
        let wanted = |language| match language {
            Language::Rust => {
                ["Cargo.toml", "src/lib.rs", "aligner-sdk/Cargo.toml", "aligner-sdk/src/ask.rs"]
            }
            Language::Python => {
                ["pyproject.toml", "plugin.py", "test_plugin.py", "aligner_sdk/component.py"]
            }
            Language::Js => {
                ["package.json", "plugin.js", "plugin.test.js", "aligner-sdk/component.js"]
            }
        };
        let mut tried = 0;
        for language in [Language::Rust, Language::Python, Language::Js] {
            for kind in Interface::ALL {
                let files = files(kind, language, "min-words");
                let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
                for path in
                    wanted(language).into_iter().chain([".gitignore", "README.md", "wit/types.wit"])
                {
                    let found = paths.iter().filter(|it| **it == path).count();
                    assert_eq!(found, 1, "{language:?} {kind:?} {path}: {paths:?}");
                }
                for (path, text) in &files {
                    for word in ["my-plugin", "MyPlugin", "my-kind", "my-section", "my_plugin"] {
                        assert!(!text.contains(word), "{language:?} {kind:?} {path}: {word}");
                    }
                    assert!(!path.contains("templates"), "{path}");
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 21);
    }

    #[test]
    fn a_folder_is_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("min-words");
        let files = [("a/b.txt".to_owned(), "text".to_owned())];
        make(&made, &files).unwrap();
        assert_eq!(fs::read_to_string(made.join("a/b.txt")).unwrap(), "text");
    }
}
