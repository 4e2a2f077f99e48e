//! Where a shard's result is made: a folder beside it, which is gone once the result is whole. Whoever is
//! killed goes on from there.
//!
//! Rows are appended chunk by chunk, and a line of `chunks.jsonl` says after each how much of them is good.
//! Answers of the chunk at hand stand in a ledger, as in a run. At the end the files get their names: the
//! rows, what was asked, and last the summary, which says that the result is finished.

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    digest::sha256_of,
    plugin::Spent,
    run::{
        directory::{Directory, DirectoryError, Ledger},
        journal,
    },
};

/// The version of rows and summary.
const FORMAT: u64 = 1;

const BEGUN: &str = "work.json";
const ROWS: &str = "rows";
const ASKS: &str = "asks";
const CHUNKS: &str = "chunks.jsonl";
const DONE: &str = "done.json";

/// What a shard's work is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    format: u64,
    /// Digest of `depends`.
    pub key: String,
    /// All that the result depends on but the engine.
    pub depends: BTreeMap<String, Value>,
    /// Device, number type and kernels where a model is asked: what else decides the last bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

impl Begun {
    /// Returns the work that depends on these.
    pub fn new(depends: BTreeMap<String, Value>, engine: Option<String>) -> Begun {
        let key = journal::key(&serde_json::json!([FORMAT, depends]));
        Begun { format: FORMAT, key, depends, engine }
    }

    /// Returns the names of what differs in another work, as a person reads them.
    fn differences(&self, other: &Begun) -> String {
        let names = self.depends.keys().chain(other.depends.keys());
        let differs = |name: &&String| self.depends.get(*name) != other.depends.get(*name);
        let mut names: Vec<&str> = names.filter(differs).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return "the format of its rows".to_owned();
        }
        names.join(", ").replace('_', " ")
    }
}

/// What was done up to the end of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Rows that were read.
    pub rows: u64,
    /// Those of them that stand in the result and are not dropped.
    pub kept: u64,
    /// Those that an earlier stage had dropped.
    pub dropped_before: u64,
    /// Those that the stage dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What else was counted, such as `revised` or `tie`.
    pub counts: BTreeMap<String, u64>,
    /// What plugins have used, by their place in the plugin set.
    pub spent: BTreeMap<String, Spent>,
    /// Lines of the result.
    pub lines: u64,
    /// Bytes of the result.
    pub bytes: u64,
    /// Requests to models.
    pub asks: u64,
    /// Bytes of what is told of them.
    pub asks_bytes: u64,
}

/// The summary beside a result: `OUT.done.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The version of the program; not part of what the result depends on.
    pub aligner: String,
    /// What was to be done.
    #[serde(flatten)]
    pub work: Begun,
    /// SHA-256 of the result.
    pub sha256: String,
    /// SHA-256 of what is told of requests, where there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks_sha256: Option<String>,
    /// What was done.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What stands at the place of a result.
pub enum Opened {
    /// The result of the same work.
    Finished(Box<Done>),
    /// There is something to do.
    Open(Box<Work>),
}

/// A result that is being made.
pub struct Work {
    pub directory: Directory,
    begun: Begun,
    out: PathBuf,
    rows: Ledger,
    asks: Ledger,
    chunks: Ledger,
    /// Up to the last chunk that is whole.
    pub totals: Totals,
}

impl Work {
    /// Begins a work, or goes on with it; `fresh` throws away what stands there. `note` hears what a user
    /// should know.
    pub fn open(
        out: &Path,
        begun: Begun,
        fresh: bool,
        note: &mut dyn FnMut(&str),
    ) -> Result<Opened, DirectoryError> {
        // Behind a link it is the file that the link leads to.
        let out = out.canonicalize().unwrap_or_else(|_| out.to_owned());
        let folder = beside(&out, "work");
        check_folder(&folder)?;
        // Without either, all that was done has its name, and a kill left the folder.
        let is_begun = folder.join(ROWS).exists() || folder.join(DONE).exists();
        if !fresh
            && !is_begun
            && let Some(done) = finished(&out, &begun)?
        {
            if folder.exists() {
                Directory::open(&folder)?.discard()?;
            }
            return Ok(Opened::Finished(Box::new(done)));
        }
        let directory = Directory::open(&folder)?;
        let known = match directory.has(BEGUN) {
            true if is_begun && !fresh => Some(directory.read_json::<Begun>(BEGUN)?),
            _ => None,
        };
        match &known {
            Some(known) if known.key != begun.key && has_done(&directory)? => {
                let what =
                    format!("holds unfinished work that differs in {}", begun.differences(known));
                return Err(occupied(&folder, &what));
            }
            Some(known) if known.key != begun.key => {}
            Some(known) if known.engine != begun.engine => {
                let engine = |it: &Begun| it.engine.clone().unwrap_or_default();
                note(&format!(
                    "what was begun on `{}` is begun anew on `{}`, whose last bits are others",
                    engine(known),
                    engine(&begun)
                ));
            }
            Some(_) => return Work::go_on(directory, begun, out),
            None => {}
        }
        for name in [BEGUN, CHUNKS, ROWS, ASKS, DONE, "rounds", "pool"] {
            directory.remove(name)?;
        }
        if fresh {
            for path in [beside(&out, "done.json"), beside(&out, "asks"), out.clone()] {
                match std::fs::remove_file(&path) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(DirectoryError::Io { action: "remove", path, source });
                    }
                    _ => {}
                }
            }
        }
        directory.write_json(BEGUN, &begun)?;
        Work::go_on(directory, begun, out)
    }

    fn go_on(directory: Directory, begun: Begun, out: PathBuf) -> Result<Opened, DirectoryError> {
        if directory.has(DONE) {
            let done: Done = directory.read_json(DONE)?;
            publish(directory, &out, &done)?;
            return Ok(Opened::Finished(Box::new(done)));
        }
        let (chunks, ledger) = directory.ledger::<Totals>(CHUNKS)?;
        let totals = chunks.into_iter().next_back().unwrap_or_default();
        let rows = directory.lines_up_to(ROWS, totals.bytes)?;
        let asks = directory.lines_up_to(ASKS, totals.asks_bytes)?;
        Ok(Opened::Open(Box::new(Work {
            directory,
            begun,
            out,
            rows,
            asks,
            chunks: ledger,
            totals,
        })))
    }

    /// Adds a chunk: its lines, those of what was asked for it, and what is done with it.
    pub fn add(&mut self, lines: &[u8], asks: &[u8], totals: Totals) -> Result<(), DirectoryError> {
        self.rows.append_lines(lines)?;
        if !asks.is_empty() {
            self.asks.append_lines(asks)?;
        }
        let (bytes, asked) = (lines.len() as u64, asks.len() as u64);
        let totals = Totals {
            bytes: self.totals.bytes + bytes,
            asks_bytes: self.totals.asks_bytes + asked,
            ..totals
        };
        self.chunks.append(&totals)?;
        self.totals = totals;
        Ok(())
    }

    /// Gives the result its name.
    pub fn finish(self) -> Result<Done, DirectoryError> {
        let Work { directory, begun, out, totals, .. } = self;
        let sha256 = directory.digest(ROWS)?;
        let asks_sha256 = (totals.asks > 0).then(|| directory.digest(ASKS)).transpose()?;
        let aligner = env!("CARGO_PKG_VERSION").to_owned();
        let done = Done { aligner, work: begun, sha256, asks_sha256, totals };
        directory.write_json(DONE, &done)?;
        publish(directory, &out, &done)?;
        Ok(done)
    }
}

/// Gives the files of a finished work their names, the summary last. What a killed process has done of it
/// is done.
fn publish(directory: Directory, out: &Path, done: &Done) -> Result<(), DirectoryError> {
    if done.asks_sha256.is_some() {
        directory.hand_over(ASKS, &beside(out, "asks"))?;
    }
    directory.hand_over(ROWS, out)?;
    directory.hand_over(DONE, &beside(out, "done.json"))?;
    directory.discard()
}

/// Returns the finished result of the same work, where that stands there; fails where something else does.
fn finished(out: &Path, begun: &Begun) -> Result<Option<Done>, DirectoryError> {
    let summary = beside(out, "done.json");
    let done = match std::fs::read(&summary) {
        Ok(bytes) => serde_json::from_slice::<Done>(&bytes).ok(),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(DirectoryError::Io { action: "read", path: summary, source }),
    };
    let digest = match File::open(out).and_then(sha256_of) {
        Ok(digest) => digest,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DirectoryError::Io { action: "read", path: out.to_owned(), source });
        }
    };
    match done {
        None => Err(occupied(out, "is there, and no summary beside it says what it is")),
        Some(done) if done.work.key != begun.key => {
            let what = format!(
                "is the result of other work: it differs in {}",
                begun.differences(&done.work)
            );
            Err(occupied(out, &what))
        }
        Some(done) if done.sha256 != digest => {
            Err(occupied(out, "was altered after it was finished"))
        }
        Some(done) => Ok(Some(done)),
    }
}

/// Returns whether something is there that took work: rows, or answers. A first try with a wrong setting leaves
/// neither.
fn has_done(directory: &Directory) -> Result<bool, DirectoryError> {
    let (chunks, _) = directory.ledger::<Totals>(CHUNKS)?;
    let answers = directory.join("rounds").read_dir().into_iter().flatten().flatten();
    let answers = answers.flat_map(|round| round.path().read_dir().into_iter().flatten().flatten());
    let mut answers = answers.filter_map(|file| file.metadata().ok());
    Ok(!chunks.is_empty() || answers.any(|file| file.len() > 0))
}

/// Fails where a folder is there that is none of ours.
fn check_folder(folder: &Path) -> Result<(), DirectoryError> {
    let Ok(entries) = folder.read_dir() else {
        return match folder.exists() {
            true => Err(foreign(folder)),
            false => Ok(()),
        };
    };
    let mut names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let is_ours = |name: std::ffi::OsString| {
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".tmp").unwrap_or(&name);
        [".lock", BEGUN, ROWS, ASKS, CHUNKS, DONE, "rounds"].contains(&name)
    };
    match names.all(is_ours) {
        true => Ok(()),
        false => Err(foreign(folder)),
    }
}

fn foreign(path: &Path) -> DirectoryError {
    DirectoryError::Occupied {
        path: path.to_owned(),
        what: "is in the place where the work would be done, and is not aligner's".to_owned(),
        hint: "name another `--out`; nothing was written".to_owned(),
    }
}

fn occupied(path: &Path, what: &str) -> DirectoryError {
    DirectoryError::Occupied {
        path: path.to_owned(),
        what: what.to_owned(),
        hint: "name another `--out`, or throw it away with `--fresh`".to_owned(),
    }
}

/// Returns the path of what belongs to a result.
fn beside(out: &Path, what: &str) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".");
    path.push(what);
    path.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn begun(input: &str) -> Begun {
        Begun::new(BTreeMap::from([("input".to_owned(), json!(input))]), None)
    }

    fn open(out: &Path, input: &str, fresh: bool) -> Result<Opened, String> {
        Work::open(out, begun(input), fresh, &mut |_| {}).map_err(|error| error.to_string())
    }

    fn work(opened: Result<Opened, String>) -> Box<Work> {
        match opened {
            Ok(Opened::Open(work)) => work,
            Ok(Opened::Finished(_)) => panic!("it is finished"),
            Err(error) => panic!("{error}"),
        }
    }

    fn totals(rows: u64) -> Totals {
        Totals { rows, lines: rows, ..Totals::default() }
    }

    #[test]
    fn what_is_half_written_is_cut_off_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let mut begun = work(open(&out, "a", false));
        begun.add(b"one\n", b"", totals(1)).unwrap();
        begun.rows.append_lines(b"two\nth").unwrap();
        drop(begun);
        let mut again = work(open(&out, "a", false));
        assert_eq!((again.totals.rows, again.totals.bytes), (1, 4));
        again.add(b"two\n", b"asked\n", Totals { asks: 1, ..totals(2) }).unwrap();
        let done = again.finish().unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"one\ntwo\n");
        assert_eq!(fs::read(beside(&out, "asks")).unwrap(), b"asked\n");
        assert_eq!((done.totals.bytes, done.totals.asks_bytes), (8, 6));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(matches!(open(&out, "a", false), Ok(Opened::Finished(found)) if *found == done));
    }

    #[test]
    fn what_stands_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let refused = |input: &str, part: &str| {
            let error = open(&out, input, false).err().expect("it is refused");
            assert!(error.contains(part), "{error}\n  lacks\n{part}");
        };
        fs::write(&out, "years of work").unwrap();
        refused("a", "no summary beside it says what it is");
        assert!(!beside(&out, "work").exists(), "nothing was written");
        let mut anew = work(open(&out, "a", true));
        assert!(!out.exists());
        anew.add(b"one\n", b"", totals(1)).unwrap();
        drop(anew);
        refused("b", "unfinished work that differs in input");
        work(open(&out, "a", false)).finish().unwrap();
        drop(work(open(&folder.path().join("tried.jsonl"), "a", false)));
        work(open(&folder.path().join("tried.jsonl"), "b", false));
        refused("b", "other work: it differs in input");
        fs::write(&out, "one \n").unwrap();
        refused("a", "was altered");
        fs::remove_file(&out).unwrap();
        work(open(&out, "b", false)).finish().unwrap();

        let other = folder.path().join("other.jsonl");
        fs::create_dir(beside(&other, "work")).unwrap();
        fs::write(beside(&other, "work").join("thesis.txt"), "x").unwrap();
        let error = open(&other, "a", true).err().expect("it is refused");
        assert!(error.contains("is not aligner's"), "{error}");
    }

    #[test]
    fn a_kill_between_two_names_is_made_good() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.jsonl");
        let mut begun = work(open(&out, "a", false));
        begun.add(b"one\n", b"asked\n", Totals { asks: 1, ..totals(1) }).unwrap();
        let Work { directory, begun, totals, .. } = *begun;
        let sha256 = directory.digest(ROWS).unwrap();
        let asks_sha256 = Some(directory.digest(ASKS).unwrap());
        let done = Done { aligner: "0".into(), work: begun, sha256, asks_sha256, totals };
        directory.write_json(DONE, &done).unwrap();
        directory.hand_over(ASKS, &beside(&out, "asks")).unwrap();
        directory.hand_over(ROWS, &out).unwrap();
        drop(directory);
        let is_made_good = || {
            let found = open(&out, "a", false);
            assert!(matches!(found, Ok(Opened::Finished(found)) if *found == done));
            assert!(!beside(&out, "work").exists());
            assert_eq!(fs::read(&out).unwrap(), b"one\n");
        };
        is_made_good();
        // Killed while the folder was removed.
        for left in [&[BEGUN, CHUNKS][..], &[CHUNKS], &[]] {
            fs::create_dir(beside(&out, "work")).unwrap();
            for name in left {
                fs::write(beside(&out, "work").join(name), "{}").unwrap();
            }
            is_made_good();
        }
    }
}
