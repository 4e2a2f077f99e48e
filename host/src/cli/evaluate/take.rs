//! The way of the rows: read in chunks ahead of the plugins, and forgotten after them.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;

use super::batch::{Batch, Needs};
use super::contestant::{Contestant, Group, PLACE};
use super::oracle::{Answers, Oracle};
use crate::{
    cli::{CliError, cancel, exit},
    data::{Columns, DataError, LabelledFile, LabelledRows},
    evaluate::{
        compare::{self, Paired},
        summary::Evaluation,
    },
    plugin::{Plugin, Sitting, Spent},
    progress::Progress,
    round::Need,
    shown::printable,
};

/// Rows of a chunk.
const ROWS: usize = 4096;
/// Rows of a chunk where a model is asked: what it answers is kept that long.
const ROWS_ASKED: usize = 64;

/// Labelled rows, of which the first chunk is read already: it says what they are.
pub struct Source {
    path: PathBuf,
    columns: Columns,
    limit: Option<u64>,
    file: LabelledFile,
    first: Option<LabelledRows>,
    rows: usize,
    /// Rows that were read.
    read: u64,
}

impl Source {
    /// Opens a file and reads its first chunk.
    pub fn open(
        path: &Path,
        columns: Columns,
        limit: Option<u64>,
        asks: bool,
    ) -> Result<Source, CliError> {
        let rows = if asks { ROWS_ASKED } else { ROWS };
        let mut file = LabelledFile::open(path, columns.clone())?;
        let most = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let first = file.chunk(rows.min(most))?;
        if first.is_none() {
            let message = format!("no pair of `{}` has a better completion", path.display());
            return Err(CliError::new(exit::MODEL_OR_DATA, message));
        }
        Ok(Source { path: path.to_owned(), columns, limit, file, first, rows, read: 0 })
    }

    /// Opens the same rows again.
    fn again(&self) -> Result<Source, CliError> {
        let asks = self.rows == ROWS_ASKED;
        Source::open(&self.path, self.columns.clone(), self.limit, asks)
    }

    /// Returns whether the rows are pairs; asked before they are taken.
    pub fn is_pairs(&self) -> bool {
        matches!(self.first, Some(LabelledRows::Pairs(_)))
    }

    /// Returns how much there is to do, and in what unit: rows where the user says how many, else what the
    /// file takes on the disk.
    fn total(&self) -> (u64, &'static str) {
        let bytes = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        match self.limit {
            Some(limit) => (limit, "rows"),
            None => (bytes >> 10, "KiB"),
        }
    }

    /// Returns the next chunk, with how much of the total is done at its end.
    fn next(&mut self) -> Result<Option<(LabelledRows, u64)>, DataError> {
        let left = self.limit.unwrap_or(u64::MAX) - self.read;
        let rows = match self.first.take() {
            Some(first) => Some(first),
            None if left == 0 => None,
            None => self.file.chunk(self.rows.min(usize::try_from(left).unwrap_or(usize::MAX)))?,
        };
        let Some(rows) = rows else { return Ok(None) };
        self.read += match &rows {
            LabelledRows::Completions(rows) => rows.len() as u64,
            LabelledRows::Pairs(rows) => rows.len() as u64,
        };
        let done = if self.limit.is_some() { self.read } else { self.file.bytes_read() >> 10 };
        Ok(Some((rows, done)))
    }
}

/// Shows every row to every plugin.
pub fn take(
    source: &mut Source,
    contestants: &mut Vec<Contestant>,
    oracle: Option<Oracle>,
    progress: &Progress,
) -> Result<Evaluation, CliError> {
    let mut answers = Answers::new(oracle);
    let mut found = Evaluation {
        aligner: env!("CARGO_PKG_VERSION").to_owned(),
        data: printable(&source.path.display().to_string()),
        pairs: source.is_pairs(),
        rows: 0,
        undecided: 0,
        good: 0,
        bad: 0,
        model: None,
        plugins: Vec::new(),
        comparisons: Vec::new(),
    };
    let set_filters: Vec<Option<Plugin>> = contestants.iter().map(Contestant::set_filter).collect();
    let mut spent: Vec<Spent> = contestants.iter().map(|_| Spent::default()).collect();
    let mut sittings = sit(contestants, &set_filters, &mut spent);
    if sittings.iter().any(Option::is_some) {
        observe(source, contestants, &mut sittings, &mut answers, progress)?;
    }

    let mut duels = Duels::new(contestants);
    let mut is_first = true;
    let needs = needs_of(contestants.iter());
    found.undecided = batches(source, needs, ("evaluate", progress), &mut |mut batch| {
        measure(&mut batch, contestants.iter(), &mut answers)?;
        let both = contestants.iter_mut().zip(&mut sittings);
        let right: Vec<Option<Vec<bool>>> =
            both.map(|(one, sitting)| one.take(&batch, sitting.as_mut(), &mut answers)).collect();
        duels.note(&right);
        if is_first {
            contestants.iter_mut().for_each(|one| one.check(&batch, &mut answers));
            is_first = false;
        }
        answers.forget();
        found.rows += batch.rows as u64;
        found.good += batch.good as u64;
        found.bad += batch.bad as u64;
        // To forget hundreds of thousands of texts takes a while, which the next batch need not wait for.
        rayon::spawn(move || drop(batch));
        Ok(())
    })?;
    drop(sittings);
    contestants.iter_mut().zip(spent).for_each(|(one, spent)| one.note_spent(spent));
    found.comparisons = duels.finish(contestants);
    found.plugins = contestants.drain(..).map(Contestant::finish).collect();
    Ok(found)
}

/// Begins the stages of filters over all rows.
fn sit<'a>(
    contestants: &mut [Contestant],
    plugins: &'a [Option<Plugin>],
    spent: &'a mut [Spent],
) -> Vec<Option<Sitting<'a>>> {
    let begin = |((one, plugin), spent): ((&mut Contestant, &'a Option<Plugin>), &'a mut Spent)| {
        match plugin.as_ref()?.sit(PLACE, spent) {
            Ok(sitting) => Some(sitting),
            Err(error) => {
                one.fail(error.to_string());
                None
            }
        }
    };
    contestants.iter_mut().zip(plugins).zip(spent).map(begin).collect()
}

/// Shows every row to the filters over all rows, before they decide on the first.
fn observe(
    source: &Source,
    contestants: &mut [Contestant],
    sittings: &mut [Option<Sitting<'_>>],
    answers: &mut Answers,
    progress: &Progress,
) -> Result<(), CliError> {
    if !source.path.is_file() {
        for (one, sitting) in contestants.iter_mut().zip(sittings) {
            if sitting.is_some() {
                one.fail("it sees all rows twice, and they are not in a file".to_owned());
            }
        }
        return Ok(());
    }
    let needs = Needs { singles: true, doubles: false };
    batches(&mut source.again()?, needs, ("observe", progress), &mut |mut batch| {
        let them = || contestants.iter().zip(&*sittings).filter(|(_, sitting)| sitting.is_some());
        measure(&mut batch, them().map(|(one, _)| one), answers)?;
        for (one, sitting) in contestants.iter_mut().zip(&mut *sittings) {
            if let Some(sitting) = sitting {
                one.observe(&batch, sitting);
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn needs_of<'a>(contestants: impl Iterator<Item = &'a Contestant>) -> Needs {
    contestants.map(Contestant::needs).fold(Needs::default(), |a, b| Needs {
        singles: a.singles || b.singles,
        doubles: a.doubles || b.doubles,
    })
}

/// Measures what plugins need of a batch.
fn measure<'a>(
    batch: &mut Batch,
    contestants: impl Iterator<Item = &'a Contestant>,
    answers: &mut Answers,
) -> Result<(), CliError> {
    for one in contestants.filter(|one| !one.measured().is_empty()) {
        let needs: &[Need] = one.measured();
        let records = match one.needs().doubles {
            true => vec![&mut batch.fronts, &mut batch.backs],
            false => vec![&mut batch.records],
        };
        for records in records {
            answers.measure(needs, records)?;
        }
        stop_if_cancelled()?;
    }
    Ok(())
}

fn stop_if_cancelled() -> Result<(), CliError> {
    match cancel::flag().load(Ordering::Relaxed) {
        true => Err(CliError::new(exit::INTERRUPTED, "interrupted")),
        false => Ok(()),
    }
}

/// Does something with every batch of rows, the next one being read meanwhile. Returns how many pairs were
/// left out because neither completion is better.
fn batches(
    source: &mut Source,
    needs: Needs,
    (name, progress): (&str, &Progress),
    each: &mut dyn FnMut(Batch) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let (total, unit) = source.total();
    let bar = progress.stage(name, total, unit);
    let mut heard = bar.follow();
    let undecided = std::thread::scope(|scope| {
        let (send, chunks) = sync_channel(1);
        let reader = scope.spawn(move || {
            while let Some((rows, done)) = source.next()? {
                // A batch that nobody takes: the command was stopped.
                if send.send((Batch::new(rows, needs), done)).is_err() {
                    break;
                }
            }
            Ok::<u64, DataError>(source.file.undecided())
        });
        for (batch, done) in chunks {
            each(batch)?;
            heard(done);
            stop_if_cancelled()?;
        }
        match reader.join() {
            Ok(undecided) => Ok(undecided?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    drop(heard);
    bar.finish();
    undecided
}

/// Every two plugins that are about the same, and on which rows they differ.
struct Duels(Vec<(usize, usize, Paired)>);

impl Duels {
    fn new(contestants: &[Contestant]) -> Duels {
        let groups: Vec<Option<Group>> = contestants.iter().map(Contestant::group).collect();
        let mut duels = Vec::new();
        for first in 0..groups.len() {
            for second in first + 1..groups.len() {
                if groups[first].is_some() && groups[first] == groups[second] {
                    duels.push((first, second, Paired::default()));
                }
            }
        }
        Duels(duels)
    }

    fn note(&mut self, right: &[Option<Vec<bool>>]) {
        for (first, second, paired) in &mut self.0 {
            if let (Some(first), Some(second)) = (&right[*first], &right[*second]) {
                first.iter().zip(second).for_each(|(&first, &second)| paired.note(first, second));
            }
        }
    }

    fn finish(self, contestants: &[Contestant]) -> Vec<compare::Comparison> {
        let name = |place: usize| contestants[place].name();
        let one = |(first, second, paired): (usize, usize, Paired)| {
            paired.compare(name(first), name(second))
        };
        let mut comparisons: Vec<_> = self.0.into_iter().filter_map(one).collect();
        compare::correct(&mut comparisons);
        comparisons
    }
}
