//! Whole runs of the real binary on a tiny random model: killed, resumed, refused, reported.

mod budgets;
mod contradictions;
mod cut;
mod eval;
mod evaluate;
mod export;
mod exports;
mod extrapolate;
mod extrapolated;
mod full;
mod given;
mod kill;
mod kill_methods;
mod measure;
mod memory;
mod methods;
mod models;
mod packed;
mod page;
mod preference;
mod ranks;
mod refusals;
mod reuse;
mod reward;
mod reward_judge;
mod saved;
mod stage;
mod trainer;
mod verbs;
mod verify;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The folder of this repository's tests.
pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").canonicalize().unwrap()
}

/// A folder for one test, with what its runs leave.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the command `aligner` with arguments, in this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aligner"));
        // Compiled plugins are shared by all tests; everything else is the test's own.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("ALIGNER_CACHE", cache)
            .env_remove("ALIGNER_FAULT")
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1");
        command
    }

    /// Runs `aligner` and returns what it said.
    pub fn aligner(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Runs the tiny plugin set into a folder, with further arguments.
    pub fn tiny(&self, out: &str, more: &[&str]) -> Said {
        self.set("tiny", out, more)
    }

    /// Runs a plugin set of the tests into a folder, with further arguments.
    pub fn set(&self, set: &str, out: &str, more: &[&str]) -> Said {
        let arguments = arguments(set, out, more);
        self.aligner(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Writes the tiny plugin set with further lines as `name`, so that it can be run from here.
    pub fn write_set(&self, name: &str, more: &str) {
        let set = std::fs::read_to_string(tests().join("sets/tiny.toml")).unwrap();
        let set = set.replace("\"tiny-", &format!("\"{}/sets/tiny-", tests().display()));
        let set = set.replace("../fixtures", &tests().join("fixtures").display().to_string());
        std::fs::write(self.path(name), set + more).unwrap();
    }

    /// Returns every file of a run but those that may differ between equal runs.
    pub fn files(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.path(run), &self.path(run), &mut files);
        files.remove("timings.jsonl");
        files.remove("log.txt");
        files.remove(".lock");
        if let Some(page) = files.get_mut("report.html") {
            *page = without_times(std::str::from_utf8(page).unwrap()).into_bytes();
        }
        files
    }
}

/// Returns the page of a run without its block of times.
pub fn without_times(page: &str) -> String {
    let (before, rest) = page.split_once("<section id=\"times\">").expect("a block of times");
    let (_, after) = rest.split_once("</section>").expect("the block ends");
    format!("{before}{after}")
}

/// Returns the arguments for a run of the tiny plugin set.
pub fn tiny(out: &str, more: &[&str]) -> Vec<String> {
    arguments("tiny", out, more)
}

/// Returns the arguments for a run of a plugin set of the tests.
pub fn arguments(set: &str, out: &str, more: &[&str]) -> Vec<String> {
    let set = tests().join(format!("sets/{set}.toml")).display().to_string();
    let fixed = ["--plugins", &set, "--out", out];
    fixed.iter().chain(more).map(|text| (*text).to_owned()).collect()
}

/// Returns the rows of one file of a run.
pub fn lines(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Vec<serde_json::Value> {
    let file = files.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", files.keys()));
    let text = std::str::from_utf8(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Absent where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails the test unless the command ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Said {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless stderr has all of `parts`, and no trace of a panic.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Said {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

#[test]
fn a_run_ends_with_an_adapter_and_a_second_call_finds_it_done() {
    let place = Place::new();
    let first = place.tiny("run", &[]).expect(0);
    let files = place.files("run");
    for file in [
        "run.json",
        "journal.jsonl",
        "report.json",
        "report.html",
        "pool/sample.jsonl",
        "pool/generate.jsonl",
        "pool/difficulty.jsonl",
        "pool/evaluate.jsonl",
        "rounds/01/sample.jsonl",
        "rounds/01/generate.jsonl",
        "rounds/01/filter-generate.jsonl",
        "rounds/01/train.jsonl",
        "rounds/01/metrics.jsonl",
        "rounds/02/evaluate.jsonl",
        "rounds/02/adapter/adapter_model.safetensors",
        "final/adapter/adapter_config.json",
        "final/adapter/README.md",
    ] {
        assert!(files.contains_key(file), "no {file} in {:?}", files.keys());
    }
    assert!(!files.keys().any(|name| name.contains("partial") || name.ends_with(".tmp")));
    let second = place.tiny("run", &[]).expect(0);
    assert!(second.stdout.contains("round"), "{}", second.stdout);
    assert_eq!(place.files("run"), files, "a second call changes nothing");
    assert!(first.stdout.contains("final/adapter"), "{}", first.stdout);
    let report = place.aligner(&["report", "run"]).expect(0);
    assert!(report.stdout.contains("kept"), "{}", report.stdout);
}

#[test]
fn round_1_reuses_the_completions_of_the_pool() {
    let place = Place::new();
    place.tiny("run", &["--rounds", "1"]).expect(0);
    let files = place.files("run");
    let journal = String::from_utf8(files["journal.jsonl"].clone()).unwrap();
    let line = journal
        .lines()
        .find(|line| {
            line.contains("finished")
                && line.contains("\"generate\"")
                && line.contains("\"round\":1")
        })
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line["counts"]["reused"].as_u64().unwrap() > 0, "{line}");
    let rows = |name: &str| String::from_utf8(files[name].clone()).unwrap().lines().count() as u64;
    assert_eq!(line["counts"]["reused"], rows("rounds/01/generate.jsonl"));
}

#[test]
fn threads_and_batch_size_change_nothing() {
    let place = Place::new();
    place.tiny("one", &["--set", "generate.batch=1"]).expect(0);
    let arguments = tiny("many", &["--set", "generate.batch=7"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = place.command(&arguments).env("RAYON_NUM_THREADS", "1").output().unwrap();
    Said::of(output).expect(0);
    let (mut one, mut many) = (place.files("one"), place.files("many"));
    // The setting itself stands in the manifest and in the page, and the command in the card.
    for files in [&mut one, &mut many] {
        files.remove("run.json");
        for name in ["final/adapter/README.md", "report.html"] {
            let file = files.get_mut(name).unwrap();
            let text = String::from_utf8(file.clone()).unwrap();
            let text = text.replace("generate.batch=7", "generate.batch=1");
            *file = text.replace("\nbatch = 7\n", "\nbatch = 1\n").into_bytes();
        }
    }
    assert_eq!(one.keys().collect::<Vec<_>>(), many.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(many[name] == *bytes, "{name} differs");
    }
}
