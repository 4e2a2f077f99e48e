//! The way of the rows: read in chunks ahead of the plugins, and forgotten after them.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;

use super::batch::{Batch, Needs};
use super::contestant::{Contestant, Group};
use super::oracle::{Answers, Oracle};
use super::plugins::Wanted;
use crate::{
    cli::{CliError, cancel, exit},
    data::{Columns, DataError, LabelledFile, LabelledRows},
    evaluate::{
        compare::{self, Paired},
        summary::Evaluation,
    },
    progress::Progress,
};

/// Rows of a chunk.
const ROWS: usize = 4096;
/// Rows of a chunk where a model is asked: what it answers is kept that long.
const ROWS_ASKED: usize = 64;

/// Labelled rows, of which the first chunk is read already: it says what they are.
pub struct Source {
    file: LabelledFile,
    first: Option<LabelledRows>,
    pairs: bool,
    rows: usize,
    left: u64,
    name: String,
    kib: u64,
}

impl Source {
    /// Opens a file and reads its first chunk.
    pub fn open(
        path: &Path,
        columns: Columns,
        limit: Option<u64>,
        wanted: &[Wanted],
    ) -> Result<Source, CliError> {
        let mut file = LabelledFile::open(path, columns)?;
        let asks = wanted.iter().any(|wanted| wanted.ask);
        let rows = if asks { ROWS_ASKED } else { ROWS };
        let left = limit.unwrap_or(u64::MAX);
        let first = file.chunk(rows.min(usize::try_from(left).unwrap_or(usize::MAX)))?;
        let Some(first) = first else {
            let message = format!("no pair of `{}` has a better completion", path.display());
            return Err(CliError::new(exit::MODEL_OR_DATA, message));
        };
        let pairs = matches!(first, LabelledRows::Pairs(_));
        // What gzip unpacks to is not known before the end.
        let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let kib = if is_gzip || limit.is_some() { 0 } else { bytes >> 10 };
        let name = path.display().to_string();
        Ok(Source { file, first: Some(first), pairs, rows, left, name, kib })
    }

    /// Returns whether the rows are pairs.
    pub fn is_pairs(&self) -> bool {
        self.pairs
    }

    /// Returns the next chunk, with how far in the file it ends.
    fn next(&mut self) -> Result<Option<(LabelledRows, u64)>, DataError> {
        let rows = match self.first.take() {
            Some(first) => Some(first),
            None if self.left == 0 => None,
            None => {
                let most = self.rows.min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.file.chunk(most)?
            }
        };
        let Some(rows) = rows else { return Ok(None) };
        self.left = self.left.saturating_sub(count(&rows));
        Ok(Some((rows, self.file.bytes_read() >> 10)))
    }
}

fn count(rows: &LabelledRows) -> u64 {
    match rows {
        LabelledRows::Completions(rows) => rows.len() as u64,
        LabelledRows::Pairs(rows) => rows.len() as u64,
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
    let needs = contestants.iter().map(Contestant::needs).fold(Needs::default(), |a, b| Needs {
        singles: a.singles || b.singles,
        doubles: a.doubles || b.doubles,
    });
    let mut found = Evaluation {
        aligner: env!("CARGO_PKG_VERSION").to_owned(),
        data: source.name.clone(),
        pairs: source.pairs,
        rows: 0,
        undecided: 0,
        good: 0,
        bad: 0,
        model: None,
        plugins: Vec::new(),
        comparisons: Vec::new(),
    };
    let mut duels = Duels::new(contestants);
    let bar = progress.stage("evaluate", source.kib, "KiB");
    let mut heard = bar.follow();
    std::thread::scope(|scope| {
        let (send, chunks) = sync_channel(1);
        let reader = scope.spawn(move || {
            loop {
                match source.next()? {
                    Some((rows, kib)) => {
                        // A batch that nobody takes: the command was stopped.
                        if send.send((Batch::new(rows, needs), kib)).is_err() {
                            return Ok(source.file.undecided());
                        }
                    }
                    None => return Ok::<u64, DataError>(source.file.undecided()),
                }
            }
        });
        let mut is_first = true;
        for (batch, kib) in chunks.iter() {
            let right: Vec<Option<Vec<bool>>> =
                contestants.iter_mut().map(|one| one.take(&batch, &mut answers)).collect();
            duels.note(&right);
            if is_first {
                contestants.iter_mut().for_each(|one| one.check(&batch, &mut answers));
                is_first = false;
            }
            answers.forget();
            found.rows += batch.rows as u64;
            found.good += batch.good as u64;
            found.bad += (if found.pairs { batch.good } else { batch.rows - batch.good }) as u64;
            heard(kib);
            if cancel::flag().load(Ordering::Relaxed) {
                return Err(CliError::new(exit::INTERRUPTED, "interrupted"));
            }
        }
        match reader.join() {
            Ok(read) => found.undecided = read?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(())
    })?;
    drop(heard);
    bar.finish();
    found.comparisons = duels.finish(contestants);
    found.plugins = contestants.drain(..).map(Contestant::finish).collect();
    Ok(found)
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
