//! The journal: what has been done, in order, in lines that are never changed.
//!
//! A stage writes a `started` line, its files, then a `finished` line that names them with their
//! digests. The key of a stage is a digest of everything its result depends on, so a finished line
//! with the same key is as good as the work itself. Nothing that may differ between two equal runs
//! stands in it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{self, Directory, DirectoryError, Ledger};
use crate::digest::sha256;
use crate::round::stage::folder;

/// The journal's file in the run directory.
pub const FILE: &str = "journal.jsonl";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Entry {
    /// A stage has begun.
    Started {
        /// 0 for the pool.
        round: u32,
        /// For example `generate`.
        stage: String,
        /// Digest of everything the result depends on.
        key: String,
    },
    /// A stage is done and its files are in place.
    Finished {
        /// 0 for the pool.
        round: u32,
        /// For example `generate`.
        stage: String,
        /// Digest of everything the result depends on.
        key: String,
        /// Each file that the stage wrote, with its SHA-256.
        files: BTreeMap<String, String>,
        /// What was counted: records, tokens, fuel.
        counts: BTreeMap<String, u64>,
    },
    /// A folder of the run is removed, or about to be: nothing that is still to be done needs it.
    Removed {
        /// For example `rounds/01/model`.
        folder: String,
    },
    /// The run has come to its end.
    Done {
        /// Why: `rounds`, `early-stop`, `alarm` or `nothing-kept`.
        reason: String,
        /// The round whose result is in `final/`; 0 where there is none.
        best_round: u32,
        /// The report, with its SHA-256.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        files: BTreeMap<String, String>,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    entries: Vec<Entry>,
    ledger: Ledger,
}

impl Journal {
    /// Opens the journal of a run directory, empty or as a killed process left it.
    pub fn open(directory: &Directory) -> Result<Journal, DirectoryError> {
        let (entries, ledger) = directory.ledger(FILE)?;
        Ok(Journal { entries, ledger })
    }

    /// Returns the files of a stage that is finished under `key`, after checking them against their
    /// digests; none where it is not finished.
    ///
    /// Fails where the stage is finished under another key (something it depends on has changed
    /// since), or where a file is gone or altered.
    pub fn finished(
        &self,
        directory: &Directory,
        round: u32,
        stage: &str,
        key: &str,
    ) -> Result<Option<&BTreeMap<String, String>>, DirectoryError> {
        let found = self.entries.iter().find_map(|entry| match entry {
            Entry::Finished { round: r, stage: s, key, files, .. } if *r == round && s == stage => {
                Some((key, files))
            }
            _ => None,
        });
        let Some((found_key, files)) = found else { return Ok(None) };
        if found_key != key {
            let what = format!(
                "stage {stage} of round {round} was done under other conditions \
                 (key {}, now {})",
                &found_key[..12.min(found_key.len())],
                &key[..12.min(key.len())]
            );
            return Err(DirectoryError::Changed { what });
        }
        for (file, digest) in files {
            if !is_removed(&self.entries, file) {
                directory::check_file(directory.path(), file, digest)?;
            }
        }
        Ok(Some(files))
    }

    /// Returns whether a stage is done, under whatever key.
    pub fn has_finished(&self, round: u32, stage: &str) -> bool {
        self.entries.iter().any(|entry| {
            matches!(entry, Entry::Finished { round: r, stage: s, .. } if *r == round && s == stage)
        })
    }

    /// Notes that a stage begins. A resumed stage has its line already.
    pub fn start(&mut self, round: u32, stage: &str, key: &str) -> Result<(), DirectoryError> {
        let entry = Entry::Started { round, stage: stage.into(), key: key.into() };
        if self.entries.last() == Some(&entry) {
            return Ok(());
        }
        self.append(entry)
    }

    /// Notes that a stage is done.
    pub fn finish(
        &mut self,
        round: u32,
        stage: &str,
        key: &str,
        files: BTreeMap<String, String>,
        counts: BTreeMap<String, u64>,
    ) -> Result<(), DirectoryError> {
        let entry = Entry::Finished { round, stage: stage.into(), key: key.into(), files, counts };
        self.append(entry)
    }

    /// Returns what was counted in each finished stage.
    pub fn counts(&self) -> impl Iterator<Item = &BTreeMap<String, u64>> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Finished { counts, .. } => Some(counts),
            _ => None,
        })
    }

    /// Returns whether a folder, or the one that a file is in, was removed.
    pub fn removed(&self, name: &str) -> bool {
        is_removed(&self.entries, name)
    }

    /// Removes a folder that the directory's [`write_folder`](Directory::write_folder) wrote; a resumed run
    /// has the line already, and perhaps a part of the folder.
    pub fn remove(&mut self, directory: &Directory, folder: &str) -> Result<(), DirectoryError> {
        if !self.removed(folder) {
            self.append(Entry::Removed { folder: folder.to_owned() })?;
        }
        directory.remove_folder(folder)
    }

    /// Notes that the run is done.
    pub fn end(
        &mut self,
        reason: &str,
        best_round: u32,
        files: BTreeMap<String, String>,
    ) -> Result<(), DirectoryError> {
        self.append(Entry::Done { reason: reason.into(), best_round, files })
    }

    fn append(&mut self, entry: Entry) -> Result<(), DirectoryError> {
        self.ledger.append(&entry)?;
        self.entries.push(entry);
        Ok(())
    }
}

/// Reads the lines of a run's journal and touches nothing; none where there is no journal.
///
/// Fails where it is damaged: also where it says nothing of a round that is there, since it has its first
/// line before a round has its first file.
pub fn read(run: &Path) -> Result<Vec<Entry>, DirectoryError> {
    let entries: Vec<Entry> = directory::read_ledger(&run.join(FILE))?;
    let says = |number: u32| {
        entries.iter().any(|entry| match entry {
            Entry::Started { round, .. } | Entry::Finished { round, .. } => *round == number,
            Entry::Removed { .. } | Entry::Done { .. } => false,
        })
    };
    let there = |&number: &u32| number == 0 || run.join(folder(number)).is_dir();
    let unknown = (0..).take_while(there).find(|&n| run.join(folder(n)).is_dir() && !says(n));
    match unknown {
        Some(round) => {
            let detail = format!("it says nothing of `{}`, which is there", folder(round));
            Err(DirectoryError::Damaged { path: run.join(FILE), detail })
        }
        None => Ok(entries),
    }
}

/// Returns whether a folder, or the one that a file is in, was removed.
pub(super) fn is_removed(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| match entry {
        Entry::Removed { folder } => name
            .strip_prefix(folder.as_str())
            .is_some_and(|rest| matches!(rest.get(..1), None | Some("/"))),
        _ => false,
    })
}

/// Returns whether the run has come to its end.
pub fn has_ended(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry, Entry::Done { .. }))
}

/// Fails where a file that these lines name is gone or altered. Weights, which can take a while to read,
/// need only be there; whoever loads them checks them.
pub fn check_files(run: &Path, entries: &[Entry]) -> Result<(), DirectoryError> {
    let files = entries.iter().filter_map(|entry| match entry {
        Entry::Finished { files, .. } | Entry::Done { files, .. } => Some(files),
        Entry::Started { .. } | Entry::Removed { .. } => None,
    });
    for (file, digest) in files.flatten().filter(|(file, _)| !is_removed(entries, file)) {
        match file.ends_with(".safetensors") && run.join(file).exists() {
            true => {}
            false => directory::check_file(run, file, digest)?,
        }
    }
    Ok(())
}

/// Returns the key of a stage: a digest over a JSON value that holds everything it depends on.
pub fn key(parts: &serde_json::Value) -> String {
    sha256(&serde_json::to_vec(parts).expect("a JSON value serialises"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        (folder, directory)
    }

    fn finish(directory: &Directory) -> Journal {
        let mut journal = Journal::open(directory).unwrap();
        journal.start(1, "sample", "k1").unwrap();
        let digest = directory.write("rounds/01/sample.jsonl", b"{}\n").unwrap();
        let files = BTreeMap::from([("rounds/01/sample.jsonl".to_owned(), digest)]);
        journal.finish(1, "sample", "k1", files, BTreeMap::new()).unwrap();
        journal
    }

    #[test]
    fn a_resumed_stage_is_started_once() {
        let (_folder, directory) = open();
        for _ in 0..3 {
            Journal::open(&directory).unwrap().start(1, "sample", "k").unwrap();
        }
        assert_eq!(read(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn it_is_read_without_being_touched() {
        let (_folder, directory) = open();
        assert_eq!(read(directory.path()).unwrap(), []);
        assert!(!directory.has(FILE));
        let mut journal = finish(&directory);
        assert!(!has_ended(&read(directory.path()).unwrap()));
        journal.end("rounds", 1, BTreeMap::new()).unwrap();
        let entries = read(directory.path()).unwrap();
        assert_eq!(entries, journal.entries);
        assert!(has_ended(&entries));
        // A line that a killed process left half-written does not count, and stays.
        let mut torn = directory.read(FILE).unwrap();
        torn.pop();
        directory.write(FILE, &torn).unwrap();
        assert!(!has_ended(&read(directory.path()).unwrap()));
        assert_eq!(directory.read(FILE).unwrap(), torn);
    }

    #[test]
    fn a_round_that_it_does_not_know_is_damage() {
        let (_folder, directory) = open();
        drop(finish(&directory));
        let whole = directory.read(FILE).unwrap();
        let check = |kept: &[u8], expected: &str| {
            directory.write(FILE, kept).unwrap();
            let error = read(directory.path()).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        };
        check(b"", "journal.jsonl` is damaged: it says nothing of `rounds/01`, which is there");
        check(&whole[..20], "it says nothing of `rounds/01`, which is there");
        directory.write("pool/sample.jsonl", b"").unwrap();
        check(&whole, "it says nothing of `pool`, which is there");
    }

    #[test]
    fn files_are_checked_against_what_it_says() {
        let (_folder, directory) = open();
        let mut journal = finish(&directory);
        let weights = ("rounds/01/adapter/a.safetensors".to_owned(), "0".to_owned());
        directory.write(&weights.0, b"large").unwrap();
        let report = ("report.json".to_owned(), directory.write("report.json", b"1").unwrap());
        journal.end("rounds", 1, [weights.clone(), report].into()).unwrap();
        let check = || check_files(directory.path(), &read(directory.path()).unwrap());
        check().unwrap();
        for (file, whole) in [
            ("report.json", &b"1"[..]),
            ("rounds/01/sample.jsonl", b"{}\n"),
            (&weights.0, b"large"),
        ] {
            directory.remove(file).unwrap();
            let error = check().unwrap_err().to_string();
            assert!(error.ends_with(&format!("{file}` is damaged: it is gone")), "{error}");
            if file != weights.0 {
                directory.write(file, b"2").unwrap();
                let error = check().unwrap_err().to_string();
                assert!(error.ends_with("differ from the journal's digest"), "{error}");
            }
            directory.write(file, whole).unwrap();
        }
        check().unwrap();
    }

    #[test]
    fn a_finished_stage_is_known_again() {
        let (_folder, directory) = open();
        drop(finish(&directory));
        let journal = Journal::open(&directory).unwrap();
        let found = journal.finished(&directory, 1, "sample", "k1").unwrap();
        assert_eq!(found, Some(&directory.digests("rounds/01").unwrap()));
        assert!(journal.finished(&directory, 2, "sample", "k1").unwrap().is_none());
        assert!(journal.finished(&directory, 1, "generate", "k1").unwrap().is_none());
    }

    #[test]
    fn what_was_removed_is_not_missed() {
        let (_folder, directory) = open();
        let name = "rounds/01/model/model.safetensors".to_owned();
        let other = "rounds/01/model.jsonl".to_owned();
        let files =
            [&name, &other].map(|name| (name.clone(), directory.write(name, b"x").unwrap()));
        let mut journal = Journal::open(&directory).unwrap();
        journal.finish(1, "train", "k", files.into(), BTreeMap::new()).unwrap();
        for _ in 0..2 {
            journal.remove(&directory, "rounds/01/model").unwrap();
            journal = Journal::open(&directory).unwrap();
            assert_eq!(journal.entries.len(), 2);
            assert!(!directory.has("rounds/01/model") && journal.removed(&name));
            assert!(journal.finished(&directory, 1, "train", "k").unwrap().is_some());
            check_files(directory.path(), &journal.entries).unwrap();
        }
        directory.remove(&other).unwrap();
        assert!(journal.finished(&directory, 1, "train", "k").is_err());
        assert!(check_files(directory.path(), &journal.entries).is_err());
    }

    #[test]
    fn another_key_or_an_altered_file_is_refused() {
        let (_folder, directory) = open();
        let journal = finish(&directory);
        let error = journal.finished(&directory, 1, "sample", "k2").unwrap_err();
        assert!(matches!(error, DirectoryError::Changed { .. }), "{error}");
        directory.write("rounds/01/sample.jsonl", b"{ }\n").unwrap();
        let error = journal.finished(&directory, 1, "sample", "k1").unwrap_err();
        assert!(matches!(error, DirectoryError::Damaged { .. }), "{error}");
        directory.remove("rounds/01/sample.jsonl").unwrap();
        assert!(journal.finished(&directory, 1, "sample", "k1").is_err());
    }
}
