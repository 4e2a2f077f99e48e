//! Whole plugin sets: the golden folders of `tests/plugin_sets`, and what random damage does.
//!
//! A folder holds `set.toml`, perhaps `arguments.txt` with one `--set` a line, and what comes of it:
//! `error.txt` or `set.json`. `BLESS=1` writes these anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Embedded, Override, PluginSet, PluginSetError, load, parse};
use crate::run::seed;

const EMBEDDED: Embedded<'_> = Embedded {
    plugin_sets: &[("soft", ""), ("soft-plus", "")],
    plugins: &["exemplars", "length", "perplexity", "self-align", "self-align-format"],
    data: &["prompts-240", "trusted-40"],
};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plugin_sets")
}

fn read(folder: &Path) -> Result<PluginSet, PluginSetError> {
    let arguments = fs::read_to_string(folder.join("arguments.txt")).unwrap_or_default();
    let overrides: Vec<Override> =
        arguments.lines().map(Override::parse).collect::<Result<_, _>>()?;
    load(&folder.join("set.toml"), &overrides, &EMBEDDED).map(|loaded| loaded.set)
}

fn shown(error: &PluginSetError, folder: &Path) -> String {
    let hint = error.hint().map_or(String::new(), |hint| format!("\nhint: {hint}\n"));
    let text = format!("error: {error}\n{hint}");
    text.replace(&folder.display().to_string(), "FOLDER").replace("FOLDER/", "")
}

#[test]
fn golden_folders() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut folders: Vec<PathBuf> = fs::read_dir(cases())
        .expect("the cases are there")
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let (mut accepted, mut refused, mut wrong) = (0, 0, Vec::new());
    for folder in &folders {
        let (file, other, found) = match read(folder) {
            Ok(set) => {
                accepted += 1;
                let json = serde_json::to_string_pretty(&set).unwrap() + "\n";
                // What plugins must be is no part of `run.json`, which says what they were.
                let mut unpinned = set;
                unpinned.plugins_mut().into_iter().for_each(|plugin| plugin.pin = None);
                assert_eq!(serde_json::from_str::<PluginSet>(&json).unwrap(), unpinned);
                ("set.json", "error.txt", json)
            }
            Err(error) => {
                refused += 1;
                ("error.txt", "set.json", shown(&error, folder))
            }
        };
        if bless {
            fs::write(folder.join(file), &found).unwrap();
            let _ = fs::remove_file(folder.join(other));
        } else {
            let expected = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if expected != found {
                wrong.push(format!(
                    "{}\n--- expected\n{expected}\n--- found\n{found}",
                    folder.display()
                ));
            }
        }
        assert!(!found.contains(env!("CARGO_MANIFEST_DIR")), "{found}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((accepted, refused), (36, 242));
}

#[test]
fn a_misspelt_name_lists_the_embedded_sets() {
    let check = |name: &str, expected: &str, hint: Option<&str>| {
        let error = load(Path::new(name), &[], &EMBEDDED).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.hint().as_deref(), hint);
    };
    check(
        "sofd-plus.toml",
        "no plugin set `sofd-plus.toml`: neither a file nor the name of an embedded one",
        Some("did you mean `soft-plus`?"),
    );
    check(
        "elsewhere/mine.toml",
        "no plugin set `elsewhere/mine.toml`: neither a file nor the name of an embedded one",
        Some("embedded are `soft`, `soft-plus`"),
    );
    check("/", "plugin set `/` is a folder", Some("name the TOML file in it"));
}

#[test]
fn a_path_is_looked_for_before_the_embedded_set() {
    let full = fs::read_to_string(cases().join("accepted-full/set.toml")).unwrap();
    let sets = [("soft", full.as_str())];
    let embedded = Embedded { plugin_sets: &sets, ..EMBEDDED };
    for name in ["soft", "soft.toml", "builtin:soft"] {
        let loaded = load(Path::new(name), &[], &embedded).unwrap();
        assert_eq!(loaded.name, "builtin:soft");
        assert_eq!(loaded.set.run.rounds, 3);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("soft.toml");
    fs::write(&path, full.replace("rounds = 3", "rounds = 5")).unwrap();
    let loaded = load(&path, &[], &embedded).unwrap();
    assert_eq!(loaded.name, path.display().to_string());
    assert_eq!(loaded.set.run.rounds, 5);
}

#[test]
fn a_plugin_set_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.toml");
    std::fs::write(&path, "# long\n".repeat(40_000)).unwrap();
    let error = load(&path, &[], &Embedded::default()).unwrap_err();
    assert!(error.to_string().ends_with("long.toml` has more than 256 KiB"), "{error}");
    let error = load(Path::new("/dev/zero"), &[], &Embedded::default()).unwrap_err();
    assert!(error.to_string().ends_with("has more than 256 KiB"), "{error}");
}

#[test]
fn relative_paths_belong_to_the_file_or_to_the_shell() {
    let folder = tempfile::tempdir().unwrap();
    let (sets, shell) = (folder.path().join("sets"), folder.path().join("shell"));
    for folder in [&sets, &shell] {
        fs::create_dir_all(folder.join("model")).unwrap();
        fs::write(folder.join("p.jsonl"), "").unwrap();
    }
    let text = "method = { name = 'm', contract = '0.1' }\nmodels.policy = 'model'\ndata.prompts = 'p.jsonl'";
    let set = |arguments: &[&str]| {
        let overrides: Vec<_> = arguments.iter().map(|a| Override::parse(a).unwrap()).collect();
        parse("x", text, &sets, &shell, &overrides, &EMBEDDED).unwrap()
    };
    let inside = |folder: &Path, name: &str| folder.join(name).display().to_string();
    let set_alone = set(&[]);
    assert_eq!(set_alone.data.prompts.to_string(), inside(&sets, "p.jsonl"));
    assert_eq!(set_alone.models.policy, inside(&sets, "model"));
    let overridden = set(&["data.prompts=p.jsonl", "models.policy=./model"]);
    assert_eq!(overridden.data.prompts.to_string(), inside(&shell, "p.jsonl"));
    assert_eq!(overridden.models.policy, inside(&shell, "./model"));
}

#[test]
fn rounds_have_their_own_settings() {
    let set = read(&cases().join("accepted-full")).unwrap();
    let temperatures: Vec<f64> = (1..=3).map(|round| set.generate(round).temperature).collect();
    assert_eq!(temperatures, [1.0, 0.7, 0.7]);
    assert_eq!(set.generate(1).model, "initial");
    assert_eq!(set.generate(1).max_new_tokens, 128);
    let starts: Vec<_> = (1..=3).map(|round| set.train(round).unwrap().start).collect();
    use super::Start::{Initial, Previous};
    assert_eq!(starts, [Previous, Initial, Previous]);
    assert_eq!(set.plugins().len(), 5);
    let lora = set.train(1).unwrap().lora.as_ref().unwrap();
    assert_eq!(lora.alpha, f64::from(lora.r));
}

#[test]
fn deep_nesting_is_refused() {
    let check = |text: String| {
        let result = parse("f", &text, Path::new("/"), Path::new("/"), &[], &EMBEDDED);
        assert!(result.is_err(), "{}", &text[..40]);
    };
    check(format!("a = {}", "[".repeat(100_000)));
    check(format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)));
    check(format!("a = {}", "{ a = ".repeat(100_000)));
    check(format!("a{} = 1", ".a".repeat(100_000)));
    check(format!("[a{}]", ".a".repeat(100_000)));
    assert!(Override::parse(&format!("a{}=1", ".a".repeat(100_000))).is_err());
    let deep = Override::parse(&format!("run.seed={}", "[".repeat(100_000))).unwrap();
    let least = fs::read_to_string(cases().join("accepted-least/set.toml")).unwrap();
    assert!(parse("f", &least, Path::new("/"), Path::new("/"), &[deep], &EMBEDDED).is_err());
}

/// Damages a good plugin set in thousands of ways; whatever comes of it is an answer, not a panic.
#[test]
fn damage_never_panics() {
    let full = fs::read_to_string(cases().join("accepted-full/set.toml")).unwrap();
    let scraps = [
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\r",
        "\t",
        "#",
        "-",
        "1e999",
        "nan",
        "\u{0}",
        "é",
        "終",
        "\u{1b}",
        "\"\"\"",
        "[[",
        "]]",
        "0x",
        "true",
        "99999999999999999999",
        "\\u",
        "🦀",
    ];
    let mut refused = 0;
    for case in 0..4000u64 {
        let draw =
            |index: u64, below: usize| (seed::bits(case, index) % below.max(1) as u64) as usize;
        let mut chars: Vec<char> = full.chars().collect();
        for change in 0..=draw(0, 4) as u64 {
            let at = draw(10 + 3 * change, chars.len());
            let scrap = scraps[draw(11 + 3 * change, scraps.len())];
            match draw(12 + 3 * change, 4) {
                _ if chars.is_empty() => {}
                0 => drop(chars.remove(at)),
                1 => drop(chars.splice(at..at, scrap.chars())),
                2 => drop(chars.splice(at..(at + 12).min(chars.len()), scrap.chars())),
                _ => chars.truncate(at.max(1)),
            }
        }
        let text: String = chars.into_iter().collect();
        let result = parse("f", &text, Path::new("/"), Path::new("/"), &[], &EMBEDDED);
        if let Err(error) = result {
            refused += 1;
            let shown = shown(&error, Path::new("/x"));
            assert!(!shown.contains('\u{1b}'), "{shown:?}");
        }
    }
    assert!(refused > 2000, "{refused}");
}
