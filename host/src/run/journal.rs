//! The journal: what has been done, in order, in lines that are never changed.
//!
//! A stage writes a `started` line, its files, then a `finished` line that names them with their
//! digests. The key of a stage is a digest of everything its result depends on, so a finished line
//! with the same key is as good as the work itself. Nothing that may differ between two equal runs
//! stands in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::directory::{Directory, DirectoryError, Ledger};
use crate::digest::sha256;

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
    /// The run has come to its end.
    Done {
        /// Why: `rounds` or `early-stop`.
        reason: String,
        /// The round whose result is in `final/`.
        best_round: u32,
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

    /// Returns all lines.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns how the run ended, if it has: the reason and the best round.
    pub fn done(&self) -> Option<(&str, u32)> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Done { reason, best_round } => Some((reason.as_str(), *best_round)),
            _ => None,
        })
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
            if directory.digest(file)? != *digest {
                return Err(
                    directory.damaged(file, "its contents differ from the journal's digest")
                );
            }
        }
        Ok(Some(files))
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

    /// Notes that the run is done.
    pub fn end(&mut self, reason: &str, best_round: u32) -> Result<(), DirectoryError> {
        self.append(Entry::Done { reason: reason.into(), best_round })
    }

    fn append(&mut self, entry: Entry) -> Result<(), DirectoryError> {
        self.ledger.append(&entry)?;
        self.entries.push(entry);
        Ok(())
    }
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
        assert_eq!(Journal::open(&directory).unwrap().entries().len(), 1);
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
