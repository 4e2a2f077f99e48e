//! How a stage is done once: its key, its files, its lines in the journal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::budget::Budgets;
use crate::memory;
use crate::plugin_set::PluginSet;
use crate::record::{Answer, Completion};
use crate::run::directory::{Directory, DirectoryError, Ledger};
use crate::run::earlier::Earlier;
use crate::run::journal::{self, Journal};

/// Where in the run a stage stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// 0 for the pool.
    pub round: u32,
    /// For example `generate`; names the stage's file.
    pub stage: &'a str,
}

impl<'a> Place<'a> {
    /// Returns the folder of the round: `pool`, or `rounds/01` and so on.
    pub fn folder(&self) -> String {
        folder(self.round)
    }

    /// Returns the file that the stage writes.
    pub fn file(&self) -> String {
        format!("{}/{}.jsonl", self.folder(), self.stage)
    }

    /// Returns the file in which the stage collects results while it works.
    pub fn ledger(&self) -> String {
        format!("{}/{}.partial.jsonl", self.folder(), self.stage)
    }

    /// Returns it as the plugin runtime takes it; `position` tells the plugins of a chain apart.
    pub fn of_plugin(&self, set: &PluginSet, position: usize) -> crate::plugin::Place<'a> {
        crate::plugin::Place {
            run_seed: set.run.seed,
            round: self.seed_round(),
            rounds: set.run.rounds,
            stage: self.stage,
            position: position as u32,
        }
    }

    /// Returns the round that seeds are drawn for. The pool is prepared as round 1 would be, so that
    /// round 1 finds its completions done.
    pub fn seed_round(&self) -> u32 {
        self.round.max(1)
    }
}

/// Returns the folder of a round: `pool` for 0, or `rounds/01` and so on.
pub fn folder(round: u32) -> String {
    if round == 0 { "pool".into() } else { format!("rounds/{round:02}") }
}

/// Returns what people call a stage: `pool: generate` or `round 2: generate`.
pub fn label(place: Place<'_>) -> String {
    match place.round {
        0 => format!("pool: {}", place.stage),
        round => format!("round {round}: {}", place.stage),
    }
}

/// What a stage made.
#[derive(Debug)]
pub struct Made<T> {
    /// One row for each line of the stage's file.
    pub rows: Vec<T>,
    /// Counts for the journal, such as `kept` or `tokens`.
    pub counts: BTreeMap<String, u64>,
    /// Further files that the stage has written, with their SHA-256.
    pub files: BTreeMap<String, String>,
}

impl<T> Made<T> {
    /// Returns rows alone.
    pub fn rows(rows: Vec<T>) -> Made<T> {
        Made { rows, counts: BTreeMap::new(), files: BTreeMap::new() }
    }

    /// Adds a count.
    pub fn count(mut self, name: &str, value: u64) -> Made<T> {
        self.counts.insert(name.into(), value);
        self
    }
}

/// What a stage gives to the next: its rows, and the digest that stands for them in keys.
#[derive(Clone, Debug)]
pub struct Output<T> {
    /// One row for each line of the stage's file.
    pub rows: Vec<T>,
    /// Digest of the stage's key: equal where everything that the rows depend on is equal.
    pub digest: String,
    /// Every file that the stage wrote, with its SHA-256.
    pub files: BTreeMap<String, String>,
}

/// A line of `timings.jsonl`: all that may differ between two equal runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timing {
    /// 0 for the pool.
    pub round: u32,
    /// The stage.
    pub stage: String,
    /// Wall time of the work done by this process.
    pub seconds: f64,
    /// Largest resident memory of the process so far, in bytes.
    pub peak_memory_bytes: u64,
}

/// What is counted of completions and answers that servers gave: they are recorded, and not made again.
pub const RECORDED: &str = "recorded";

/// The file of all timings.
pub const TIMINGS: &str = "timings.jsonl";

/// The run directory with its journal: where stages are noted.
pub struct Notebook {
    /// The run directory.
    pub directory: Directory,
    /// Its journal.
    pub journal: Journal,
    /// What every key depends on: format, engine, models, prompts, seed, rounds.
    pub base: Value,
    /// Completions that finished stages have made, by key.
    pub completions: HashMap<String, Completion>,
    /// What plugins have used in the whole run.
    pub budgets: Budgets,
    earlier: Option<Arc<Earlier>>,
    timings: Ledger,
}

impl Notebook {
    /// Opens the journal and timings of a run directory; `earlier` is a run that has done some of the work.
    pub fn open(
        directory: Directory,
        base: Value,
        earlier: Option<Arc<Earlier>>,
    ) -> Result<Notebook, DirectoryError> {
        let journal = Journal::open(&directory)?;
        let (_, timings) = directory.ledger::<Value>(TIMINGS)?;
        Ok(Notebook {
            directory,
            journal,
            base,
            completions: HashMap::new(),
            budgets: Budgets::default(),
            earlier,
            timings,
        })
    }

    /// Returns whether the work of an earlier run is done again, to see whether it comes out the same.
    pub fn verifies(&self) -> bool {
        self.earlier.as_ref().is_some_and(|earlier| earlier.verifies())
    }

    /// Returns the completion with a key, where an earlier run has made it.
    pub fn known_completion(&self, key: &str) -> Option<&Completion> {
        self.earlier.as_ref()?.completion(key)
    }

    /// Returns the answers of models that an earlier run has, by key.
    pub fn known_answers(&self) -> HashMap<String, Answer> {
        let answers = self.earlier.iter().flat_map(|earlier| earlier.answers());
        answers.map(|(key, answer)| (key.clone(), answer.clone())).collect()
    }

    /// Does a stage, or reads what it made before.
    ///
    /// `depends` holds everything that the rows depend on besides the run's base; its digest is the
    /// stage's key. `work` may collect in `place.ledger()`, which is removed when the stage is done.
    pub fn stage<T, E>(
        &mut self,
        place: Place<'_>,
        depends: Value,
        work: impl FnOnce(&mut Notebook) -> Result<Made<T>, E>,
    ) -> Result<Output<T>, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<DirectoryError>,
    {
        self.stage_by(false, place, depends, work)
    }

    /// Does a stage like [`stage`](Notebook::stage); where it is `recorded`, what others make of the same is
    /// not the same to the bit, and whoever verifies the run takes it over.
    pub fn stage_by<T, E>(
        &mut self,
        recorded: bool,
        place: Place<'_>,
        depends: Value,
        work: impl FnOnce(&mut Notebook) -> Result<Made<T>, E>,
    ) -> Result<Output<T>, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<DirectoryError>,
    {
        let Place { round, stage } = place;
        let key = journal::key(&json!([&self.base, round, stage, depends]));
        let file = place.file();
        if let Some(files) = self.journal.finished(&self.directory, round, stage, &key)? {
            let files = files.clone();
            self.directory.remove(&place.ledger())?;
            return Ok(Output { rows: self.directory.read_lines(&file)?, digest: key, files });
        }
        let begun = Instant::now();
        // Before the first file, whoever makes it: a folder that the journal does not know is damage.
        self.journal.start(round, stage, &key)?;
        if let Some(earlier) = self.earlier.clone()
            && let Some(done) = earlier.take_over(place, &key, recorded, &self.directory)?
        {
            let rows = self.directory.read_lines(&file)?;
            self.budgets.add(&done.counts);
            self.close(place, &key, (done.files.clone(), done.counts.clone()), begun)?;
            return Ok(Output { rows, digest: key, files: done.files.clone() });
        }
        self.budgets.begin();
        let mut made = work(self)?;
        made.counts.extend(self.budgets.end());
        memory::give_back();
        let digest = self.directory.write_lines(&file, &made.rows)?;
        let mut files = made.files;
        files.insert(file, digest);
        if let Some(earlier) = &self.earlier {
            earlier.check(place, &self.directory, &files, &made.counts)?;
        }
        self.close(place, &key, (files.clone(), made.counts), begun)?;
        Ok(Output { rows: made.rows, digest: key, files })
    }

    /// Notes that a stage is done, with the files that it wrote and what was counted.
    fn close(
        &mut self,
        place: Place<'_>,
        key: &str,
        (files, counts): (BTreeMap<String, String>, BTreeMap<String, u64>),
        begun: Instant,
    ) -> Result<(), DirectoryError> {
        let Place { round, stage } = place;
        self.journal.finish(round, stage, key, files, counts)?;
        self.directory.remove(&place.ledger())?;
        self.timings.append(&Timing {
            round,
            stage: stage.into(),
            seconds: begun.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
        })
    }
}

/// Returns the largest resident memory of this process so far, in bytes.
pub fn peak_memory_bytes() -> u64 {
    // SAFETY: the struct is plain numbers, and `getrusage` fills it or leaves the zeros.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // Kilobytes on Linux.
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_done_once_and_its_ledger_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut times = 0;
        for _ in 0..2 {
            let directory = Directory::open(folder.path()).unwrap();
            let mut notebook = Notebook::open(directory, json!({"seed": 1}), None).unwrap();
            let place = Place { round: 1, stage: "sample" };
            let output = notebook
                .stage(place, json!("inputs"), |notebook| {
                    times += 1;
                    let (_, mut ledger) = notebook.directory.ledger::<u32>(&place.ledger())?;
                    ledger.append(&1)?;
                    Ok::<_, DirectoryError>(Made::rows(vec![1u32, 2]).count("kept", 2))
                })
                .unwrap();
            assert_eq!(output.rows, [1, 2]);
            assert!(!notebook.directory.has(&place.ledger()));
        }
        assert_eq!(times, 1);
    }

    #[test]
    fn a_failed_stage_leaves_its_ledger_for_the_next_try() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let mut notebook = Notebook::open(directory, json!(null), None).unwrap();
        let place = Place { round: 2, stage: "generate" };
        let failed = notebook.stage(place, json!(1), |notebook| {
            let (_, mut ledger) = notebook.directory.ledger::<u32>(&place.ledger())?;
            ledger.append(&7)?;
            Err::<Made<u32>, _>(notebook.directory.damaged("x", "on purpose"))
        });
        assert!(failed.is_err());
        let (rows, _) = notebook.directory.ledger::<u32>(&place.ledger()).unwrap();
        assert_eq!(rows, [7]);
    }
}
