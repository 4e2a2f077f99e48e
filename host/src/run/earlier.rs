//! An earlier run: another one takes over what it has done, or does it again and compares.
//!
//! A stage's key stands for everything that its result depends on, so what is finished under the same key
//! is the same, whichever run it was done in. The same holds for completions and answers under theirs: they
//! are taken over even where the stage around them is another.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use serde::de::DeserializeOwned;

use super::directory::{Directory, DirectoryError, read_ledger};
use super::journal::{self, Entry};
use super::seed;
use crate::record::{Answer, Completion};
use crate::report;
use crate::round::budget::SERVER;
use crate::round::rows::{Asked, Generated};
use crate::round::stage::{Place, RECORDED, folder, label};

/// What is done with the stages of the earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Those with the same key are taken over; the others are done.
    TakeOver,
    /// Those with the same key are taken over, and the first other one ends the run
    /// ([`DirectoryError::ToDo`]): to see how far the earlier run reaches.
    Look,
    /// They are done again and have to come out the same ([`DirectoryError::Differs`]).
    Verify {
        /// So many completions and answers, drawn at random, are made again, and with them all that costs
        /// little; what is trained, measured or referred to is taken over. Everything is done again where
        /// there is no number.
        sample: Option<usize>,
    },
}

/// What became of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the earlier run's.
    Taken,
    /// It was done; where it was to come out the same it has.
    Done,
}

/// A stage that the earlier run finished.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Digest of everything the result depends on.
    pub key: String,
    /// Each file that the stage wrote, with its SHA-256.
    pub files: BTreeMap<String, String>,
    /// What was counted.
    pub counts: BTreeMap<String, u64>,
}

/// An earlier run, of which nothing is changed.
#[derive(Debug)]
pub struct Earlier {
    path: PathBuf,
    usage: Use,
    entries: Vec<Entry>,
    stages: HashMap<(u32, String), Finished>,
    completions: HashMap<String, Completion>,
    answers: HashMap<String, Answer>,
    /// How many completions and answers are to be made again.
    drawn: usize,
    fates: Mutex<Vec<(u32, String, Fate)>>,
}

/// Stages that take long and are not made of completions and answers: they are taken over where a sample
/// is verified.
fn is_heavy(stage: &str) -> bool {
    matches!(stage, "train" | "reference" | "extrapolate") || stage.starts_with("measure-")
}

impl Earlier {
    /// Reads what an earlier run has done. `seed` draws the sample that is verified.
    ///
    /// Fails where there is no run, or a damaged one.
    pub fn open(path: &Path, usage: Use, seed: u64) -> Result<Earlier, DirectoryError> {
        let entries = journal::read(path)?;
        let mut stages = HashMap::new();
        for entry in &entries {
            let (round, files) = match entry {
                Entry::Finished { round, files, .. } => (Some(*round), files),
                Entry::Done { files, .. } => (None, files),
                Entry::Started { .. } | Entry::Removed { .. } => continue,
            };
            if let Some(name) = files.keys().find(|name| !may_write(round, name)) {
                return Err(DirectoryError::Damaged {
                    path: path.join(journal::FILE),
                    detail: format!("`{}` is no file of a run", name.escape_default()),
                });
            }
            let Entry::Finished { round, stage, key, files, counts } = entry else { continue };
            let done = Finished { key: key.clone(), files: files.clone(), counts: counts.clone() };
            stages.insert((*round, stage.clone()), done);
        }
        let mut earlier = Earlier {
            path: path.to_owned(),
            usage,
            entries,
            stages,
            completions: HashMap::new(),
            answers: HashMap::new(),
            drawn: 0,
            fates: Mutex::default(),
        };
        match usage {
            Use::Verify { sample: None } => {
                earlier.read_known()?;
                earlier.forget(usize::MAX, seed);
            }
            Use::Verify { sample: Some(count) } => {
                earlier.read_known()?;
                earlier.forget(count, seed);
            }
            Use::TakeOver | Use::Look => earlier.read_known()?,
        }
        Ok(earlier)
    }

    /// Reads the completions and answers of finished stages.
    fn read_known(&mut self) -> Result<(), DirectoryError> {
        for ((round, stage), done) in &self.stages {
            let folder = folder(*round);
            if stage == "generate" {
                let rows: Vec<Generated> = self.rows(done, &format!("{folder}/{stage}.jsonl"))?;
                for row in rows {
                    let made = row.variants.into_iter().filter_map(|variant| variant.completion);
                    self.completions.extend(row.keys.into_iter().zip(made));
                }
            }
            let asks: Vec<Asked> = self.rows(done, &format!("{folder}/{stage}-asks.jsonl"))?;
            let known = asks.into_iter().filter(|row| !row.key.is_empty());
            self.answers.extend(known.map(|row| (row.key, row.answer)));
        }
        Ok(())
    }

    /// Reads the rows of a file of a stage that is as the journal says; none of another.
    fn rows<T: DeserializeOwned>(
        &self,
        done: &Finished,
        file: &str,
    ) -> Result<Vec<T>, DirectoryError> {
        match done.files.get(file) {
            Some(digest) if super::directory::check_file(&self.path, file, digest).is_ok() => {
                read_ledger(&self.path.join(file))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Forgets so many completions and answers, so that they are made again. Those of servers are recorded, and
    /// not made again.
    fn forget(&mut self, count: usize, seed: u64) {
        let completions = self.completions.iter().filter(|(_, it)| it.repro.is_exact());
        let answers = self.answers.iter().filter(|(_, it)| it.is_exact());
        let mut keys: Vec<&String> =
            completions.map(|(key, _)| key).chain(answers.map(|(key, _)| key)).collect();
        keys.sort();
        keys.dedup();
        seed::shuffle(seed, &mut keys);
        let drawn: HashSet<String> = keys.into_iter().take(count).cloned().collect();
        self.completions.retain(|key, _| !drawn.contains(key));
        self.answers.retain(|key, _| !drawn.contains(key));
        self.drawn = drawn.len();
    }

    /// Returns where the earlier run is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether its work is done again and compared.
    pub fn verifies(&self) -> bool {
        matches!(self.usage, Use::Verify { .. })
    }

    /// Returns how many completions and answers were drawn to be made again.
    pub fn drawn(&self) -> usize {
        self.drawn
    }

    /// Returns the completion with a key, where the earlier run made it.
    pub fn completion(&self, key: &str) -> Option<&Completion> {
        self.completions.get(key)
    }

    /// Returns the answers of models that the earlier run has, by key.
    pub fn answers(&self) -> impl Iterator<Item = (&String, &Answer)> {
        self.answers.iter()
    }

    /// Returns what became of each stage, in order.
    pub fn fates(&self) -> Vec<(u32, String, Fate)> {
        self.fates.lock().expect("nobody panics with it").clone()
    }

    /// Takes a stage over into a run: its files are copied. Returns nothing where the earlier run has it not
    /// under this key, or no longer as it was; then it is to be done. One that is `recorded` comes out
    /// otherwise each time, so it is taken over where the rest is done again too.
    ///
    /// Fails where it is not to be done.
    pub fn take_over(
        &self,
        place: Place<'_>,
        key: &str,
        recorded: bool,
        directory: &Directory,
    ) -> Result<Option<&Finished>, DirectoryError> {
        let found = self.stages.get(&(place.round, place.stage.to_owned()));
        let same = found.filter(|done| done.key == key);
        match self.usage {
            Use::Verify { sample } => {
                self.check_key(place, key, found)?;
                // Scores of a server that stand in no file of answers.
                let answered = found.is_some_and(|done| done.counts.contains_key(RECORDED));
                let recorded = recorded || (answered && is_heavy(place.stage));
                if !recorded && (sample.is_none() || !is_heavy(place.stage)) {
                    return Ok(None);
                }
            }
            Use::Look if same.is_none() => return Err(DirectoryError::ToDo { what: label(place) }),
            Use::TakeOver | Use::Look => {}
        }
        let Some(done) = same else { return Ok(None) };
        // What was removed since has to be made again.
        if done.files.keys().any(|file| journal::is_removed(&self.entries, file)) {
            return match self.usage {
                Use::Look => Err(DirectoryError::ToDo { what: label(place) }),
                Use::TakeOver | Use::Verify { .. } => Ok(None),
            };
        }
        for (file, digest) in &done.files {
            if directory.take(&self.path, file, digest)? {
                continue;
            }
            match self.usage {
                Use::TakeOver => {
                    tracing::warn!(
                        "`{}` is not what its run wrote; {} is done again",
                        self.path.join(file).display(),
                        label(place)
                    );
                    return Ok(None);
                }
                Use::Look => return Err(DirectoryError::ToDo { what: label(place) }),
                Use::Verify { .. } => {
                    super::directory::check_file(&self.path, file, digest)?;
                    let what = format!("`{}` changes", self.path.join(file).display());
                    return Err(DirectoryError::Differs { what });
                }
            }
        }
        self.note(place, Fate::Taken);
        Ok(Some(done))
    }

    /// Fails where a stage that was done again is not what it was: its inputs, or a file of it.
    pub fn check(
        &self,
        place: Place<'_>,
        directory: &Directory,
        files: &BTreeMap<String, String>,
        counts: &BTreeMap<String, u64>,
    ) -> Result<(), DirectoryError> {
        self.note(place, Fate::Done);
        if !matches!(self.usage, Use::Verify { .. }) {
            return Ok(());
        }
        let Some(done) = self.stages.get(&(place.round, place.stage.to_owned())) else {
            return Ok(());
        };
        let names: HashSet<&String> = files.keys().chain(done.files.keys()).collect();
        let mut names: Vec<&String> = names.into_iter().collect();
        names.sort();
        // Rows first: they say which record it is.
        names.sort_by_key(|name| !name.ends_with(".jsonl"));
        for name in names {
            let (ours, theirs) = (files.get(name), done.files.get(name));
            let at = self.path.join(name);
            let which = || first_difference(&directory.join(name), &at);
            let shown = at.display();
            let what = match (ours == theirs, theirs) {
                (true, _) if journal::is_removed(&self.entries, name) => continue,
                (true, Some(digest)) => {
                    match super::directory::check_file(&self.path, name, digest) {
                        Ok(()) => continue,
                        Err(_) if !at.exists() => format!("`{shown}` is gone"),
                        Err(_) => {
                            format!("`{shown}` was altered after the run wrote it{}", which())
                        }
                    }
                }
                _ => format!("{} comes out otherwise: `{shown}`{}", label(place), which()),
            };
            return Err(DirectoryError::Differs { what });
        }
        let ours = |counts: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            let ours = counts.iter().filter(|(name, _)| !name.starts_with(SERVER));
            ours.map(|(name, count)| (name.clone(), *count)).collect()
        };
        if ours(counts) != ours(&done.counts) {
            let what = format!("{} counts otherwise than the journal says", label(place));
            return Err(DirectoryError::Differs { what });
        }
        Ok(())
    }

    /// Fails where the journal has a stage that the run, done again, does not come to.
    pub fn check_all(&self) -> Result<(), DirectoryError> {
        let fates = self.fates();
        let came =
            |round: u32, stage: &str| fates.iter().any(|(r, s, _)| *r == round && s == stage);
        let mut missed: Vec<_> =
            self.stages.keys().filter(|(round, stage)| !came(*round, stage)).collect();
        missed.sort();
        match missed.first() {
            None => Ok(()),
            Some((round, stage)) => {
                let place = Place { round: *round, stage };
                let what =
                    format!("the run does not come to {}, which its journal has", label(place));
                Err(DirectoryError::Differs { what })
            }
        }
    }

    /// Fails where a stage that is verified stands on something else than it did.
    fn check_key(
        &self,
        place: Place<'_>,
        key: &str,
        found: Option<&Finished>,
    ) -> Result<(), DirectoryError> {
        let what = match found {
            Some(done) if done.key == key => return Ok(()),
            Some(_) => {
                format!("{} was done under other conditions than it would be now", label(place))
            }
            // A stage in which nothing was left to train on, or training diverged, is begun and not finished: so the run
            // ended.
            None if self.entries.iter().any(|entry| {
                matches!(entry, Entry::Started { round, stage, key: begun }
                    if *round == place.round && stage == place.stage && begun == key)
            }) =>
            {
                return Ok(());
            }
            None => format!("the journal says nothing of {}", label(place)),
        };
        Err(DirectoryError::Differs { what })
    }

    fn note(&self, place: Place<'_>, fate: Fate) {
        let row = (place.round, place.stage.to_owned(), fate);
        self.fates.lock().expect("nobody panics with it").push(row);
    }
}

/// Returns whether a stage of a round, or the end of a run (no round), may have written a file of this name:
/// the journal may be a stranger's.
fn may_write(round: Option<u32>, name: &str) -> bool {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    match round {
        Some(round) => inside && name.starts_with(&format!("{}/", folder(round))),
        None => name == report::FILE,
    }
}

/// Says which line is the first that differs between two files of rows, and of which record it is.
fn first_difference(ours: &Path, theirs: &Path) -> String {
    let (Ok(ours), Ok(theirs)) = (std::fs::read(ours), std::fs::read(theirs)) else {
        return String::new();
    };
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (ours, theirs) = (lines(&ours), lines(&theirs));
    let longest = ours.len().max(theirs.len());
    let Some(at) = (0..longest).find(|&at| ours.get(at) != theirs.get(at)) else {
        return String::new();
    };
    let id = |line: &Vec<u8>| -> Option<String> {
        let row: serde_json::Value = serde_json::from_slice(line).ok()?;
        let id = ["id", "record", "record_id", "measure"].iter().find_map(|key| row[key].as_str());
        let step = || row["step"].as_u64().map(|step| format!("step {step}"));
        id.map(|id| format!("record `{}`", id.escape_default())).or_else(step)
    };
    let known = ours.get(at).and_then(id).or_else(|| theirs.get(at).and_then(id));
    let which = known.map_or(String::new(), |known| format!(", {known}"));
    format!(" (line {}{which})", at + 1)
}
