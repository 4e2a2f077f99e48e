//! The tutorials in `docs/plugins/`, carried out as they stand there, and the templates in Rust that
//! `aligner plugin new` makes. Offline, with the tiny model in the place of the default one.
//!
//! Pages in Python and JavaScript install their compilers; `tests/sdk/run` has them carried out, by
//! `ALIGNER_TUTORIALS="python js"`. `ALIGNER_TUTORIALS_MODEL=default` leaves the default model in its place.

mod page;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs};

use page::{Step, What, printed, steps};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A folder to type commands in, the same in each run of the tests, so that cargo finds its work done. There
/// is one at a time: to cargo the SDKs of all plugins are the same crate, which it replaces as it goes from
/// one plugin to the next, also under the hands of another one's tests.
struct Desk {
    name: String,
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// What is in front on the path as `aligner`: the program, which keeps what cargo builds in one folder
/// for all plugins, and runs the tiny model in the place of the default one.
const ALIGNER: &str = r#"#!/bin/sh
case "$*" in
    *--plugins*) exec "$ALIGNER_PROGRAM" "$@" $ALIGNER_MODEL ;;
    *"plugin new"*rust*)
        "$ALIGNER_PROGRAM" "$@" || exit
        for name; do :; done
        ln -s "$ALIGNER_CARGO" "$name/target" ;;
    *) exec "$ALIGNER_PROGRAM" "$@" ;;
esac
"#;

impl Desk {
    fn new(name: &str) -> Desk {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tutorials").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::create_dir_all(folder.join("here")).unwrap();
        fs::create_dir_all(cargo_folder()).unwrap();
        let aligner = folder.join("bin/aligner");
        fs::write(&aligner, ALIGNER).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&aligner, fs::Permissions::from_mode(0o755)).unwrap();
        }
        tiny_model(&folder.join("tiny"));
        Desk { name: name.into(), folder, _alone: alone }
    }

    /// Types commands in a folder. Returns whether all went well, what they printed, and the folder that
    /// they end in.
    fn type_in(&self, folder: &Path, commands: &str, offline: bool) -> (bool, String, PathBuf) {
        let end = self.folder.join("end");
        let mut shell = Command::new("sh");
        let script = format!("exec 2>&1\n{commands}\npwd > '{}'\n", end.display());
        shell.args(["-e", "-c", &script]).current_dir(folder);
        // What the cargo of these tests was told is not meant for an author's.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let foreign = (text.starts_with("CARGO_") && text != "CARGO_HOME")
                || text.starts_with("RUSTC")
                || text.ends_with("RUSTFLAGS");
            if foreign {
                shell.env_remove(&name);
            }
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.folder.join("bin")].into_iter().chain(env::split_paths(&path));
        shell
            .env("PATH", env::join_paths(path).unwrap())
            .env("ALIGNER_PROGRAM", env!("CARGO_BIN_EXE_aligner"))
            .env("ALIGNER_CARGO", cargo_folder())
            .env("ALIGNER_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
            .env("NO_COLOR", "1")
            .env("CARGO_TERM_COLOR", "never");
        if offline {
            shell.env("CARGO_NET_OFFLINE", "true");
        }
        if default_model() {
            shell.env("ALIGNER_MODEL", "").env_remove("ALIGNER_CACHE");
        } else {
            shell.env("ALIGNER_MODEL", format!("--model {}", self.folder.join("tiny").display()));
        }
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let well = output.status.success();
        let end = well.then(|| PathBuf::from(fs::read_to_string(end).unwrap().trim()));
        (well, said, end.unwrap_or(folder.into()))
    }

    /// Carries out a page. Returns how many commands were typed, files written and outputs compared.
    fn carry_out(&self, steps: Vec<Step>, offline: bool) -> [usize; 3] {
        let mut folder = self.folder.join("here");
        let mut said = String::new();
        let mut done = [0; 3];
        let mut steps = steps.into_iter().peekable();
        while let Some(Step { line, what }) = steps.next() {
            let place = format!("docs/plugins/{}.md:{line}", self.name);
            match what {
                What::Type(commands) => {
                    done[0] += 1;
                    let well;
                    (well, said, folder) = self.type_in(&folder, &commands, offline);
                    let error = steps.peek().is_some_and(|next| match &next.what {
                        What::Expect { text, .. } => text.starts_with("error: "),
                        _ => false,
                    });
                    assert_eq!(well, !error, "{place}: {commands}\n{said}");
                }
                What::Write { path, text } => {
                    done[1] += 1;
                    fs::write(folder.join(path), text).expect(&place);
                }
                What::Append { path, text } => {
                    done[1] += 1;
                    let path = folder.join(path);
                    let before = fs::read_to_string(&path).expect(&place);
                    fs::write(path, before + &text).expect(&place);
                }
                What::Expect { of_the_default_model: true, .. } if !default_model() => {}
                What::Expect { text, .. } => {
                    done[2] += 1;
                    assert!(printed(&said, &text), "{place}: expected\n{text}\nin\n{said}");
                }
            }
        }
        done
    }
}

fn default_model() -> bool {
    env::var("ALIGNER_TUTORIALS_MODEL").is_ok_and(|model| model == "default")
}

/// What cargo builds for plugins, kept from one run of the tests to the next.
fn cargo_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("tutorials/cargo")
}

/// The tiny model of the tests, which reads prompts as long as the default model does.
fn tiny_model(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for entry in fs::read_dir(root().join("tests/fixtures/tiny-llama")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut read: serde_json::Value = serde_json::from_str(&text).unwrap();
    read["max_position_embeddings"] = 8192.into();
    fs::write(config, read.to_string()).unwrap();
}

fn read(name: &str) -> Vec<Step> {
    let path = root().join(format!("docs/plugins/{name}.md"));
    steps(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[track_caller]
fn check(name: &str, expected: [usize; 3]) {
    let done = Desk::new(name).carry_out(read(name), true);
    // With the default model, more outputs may be compared.
    assert_eq!(done[..2], expected[..2], "commands, files of {name}.md");
    assert!(done[2] >= expected[2], "outputs of {name}.md: {}", done[2]);
}

#[test]
fn the_page_on_filters() {
    check("filter", [8, 3, 3]);
}

#[test]
fn the_page_on_judges() {
    check("judge", [4, 2, 1]);
}

#[test]
fn the_page_on_principles() {
    check("principle", [4, 2, 1]);
}

#[test]
fn the_page_on_difficulty() {
    check("difficulty", [3, 2, 0]);
}

#[test]
fn the_page_on_samplers() {
    check("sampler", [5, 3, 0]);
}

/// The other pages install compilers from the network, so each is carried out where it is asked for.
#[test]
fn the_pages_on_other_languages() {
    let asked = env::var("ALIGNER_TUTORIALS").unwrap_or_default();
    for name in ["python", "js"] {
        let steps = read(name);
        let files = steps.iter().filter(|it| matches!(it.what, What::Write { .. })).count();
        assert_eq!((steps.len(), files), (7, 1), "steps and files of {name}.md");
        if asked.split_whitespace().any(|it| it == name) {
            let done = Desk::new(name).carry_out(steps, false);
            println!("{name}.md: {} commands, {} files, {} outputs", done[0], done[1], done[2]);
        } else {
            println!("{name}.md: only read; ALIGNER_TUTORIALS={name} carries it out");
        }
    }
}

/// The kinds that there are templates of.
const KINDS: [&str; 7] =
    ["filter", "set-filter", "judge", "principle", "difficulty", "sampler", "prompt-writer"];

#[test]
fn the_templates_in_rust_test_and_build() {
    let desk = Desk::new("templates");
    for kind in KINDS {
        let here = desk.folder.join("here");
        let commands = format!(
            "aligner plugin new --kind {kind} --lang rust my-{kind}\ncd my-{kind}\n\
             cargo test --quiet\naligner plugin build\n"
        );
        let (well, said, folder) = desk.type_in(&here, &commands, true);
        assert!(well, "{kind}: {said}");
        let exports = match kind {
            "prompt-writer" => "sampler, prompt-writer",
            kind => kind,
        };
        for expected in [
            "test result: ok. 3 passed; …",
            &format!("exports      {exports}"),
            "imports      nothing but `log` and types",
        ] {
            assert!(printed(&said, expected), "{kind}: no {expected:?} in\n{said}");
        }
        assert!(folder.join(format!("my-{kind}.wasm")).is_file());
    }
}

/// Their components are built by `tests/sdk/run`; what needs no network is tested where the language is there.
#[test]
fn the_templates_in_other_languages_test() {
    let desk = Desk::new("other-templates");
    let here = desk.folder.join("here");
    let old_node = "process.exit(+process.versions.node.split('.')[0] < 20 ? 1 : 0)";
    for (language, there, test, passed) in [
        (
            "python",
            "python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'".to_owned(),
            "python3 -m unittest",
            "Ran 3 tests in …",
        ),
        ("js", format!("node -e \"{old_node}\""), "node --test --test-reporter=tap", "# pass 3"),
    ] {
        if !desk.type_in(&here, &there, true).0 {
            println!("{language}: not there, or too old; its templates are not tested");
            continue;
        }
        for kind in KINDS {
            let name = format!("{language}-{kind}");
            let commands = format!(
                "aligner plugin new --kind {kind} --lang {language} {name}\ncd {name}\n{test}\n"
            );
            let (well, said, _) = desk.type_in(&here, &commands, true);
            assert!(well && printed(&said, passed), "{name}: {said}");
        }
    }
}
