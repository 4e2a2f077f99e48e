//! The way of a shard's rows: read in chunks, called with, appended to the result, and forgotten.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::atomic::Ordering,
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    call::call,
    models::Wanted,
    rows::Row,
    task::{Stage, Task},
    work::Work,
};
use crate::{
    cli::{CliError, cancel, exit, plugin::data::kib},
    data::{DataError, RecordFile, RecordRow, RowProblem, Upto},
    memory::{Budget, Estimate},
    plugin::{NoAnswers, PluginError},
    plugin_set::After,
    progress::{Progress, Style},
    round::{Asker, Models, Policy, RunError, Workshop, stage::Place},
    run::directory::Directory,
};

/// Rows of a chunk.
const ROWS: usize = 4096;
/// Rows of a chunk where a model is asked: enough to keep it busy, and few enough to hold what it answers.
const ROWS_ASKED: usize = 1024;

/// A shard that is being taken through a stage.
pub struct Shard<'a> {
    task: &'a Task,
    wanted: Option<&'a Wanted>,
    models: OnceCell<(Models, Policy)>,
    progress: &'a Progress,
    /// What a result says of itself in messages.
    input: &'a Path,
    ids: HashMap<[u8; 16], usize>,
}

impl<'a> Shard<'a> {
    /// A shard of which nothing is read yet.
    pub fn new(
        task: &'a Task,
        wanted: Option<&'a Wanted>,
        input: &'a Path,
        progress: &'a Progress,
    ) -> Shard<'a> {
        Shard { task, wanted, models: OnceCell::new(), progress, input, ids: HashMap::new() }
    }

    /// Takes all rows that are not done yet through the stage.
    pub fn take(&mut self, work: &mut Work) -> Result<(), CliError> {
        for called in self.task.called() {
            if let Some(spent) = work.totals.spent.get(&called.place) {
                called.plugin.set_used(*spent);
            }
        }
        let upto = match self.task.stage {
            Stage::Filter(After::Pair) => Upto::Pairs,
            _ => Upto::Completions,
        };
        let mut file = RecordFile::open_shard(self.input, upto)?;
        let bar = self.progress.stage(self.task.stage.name(), kib(self.input), "KiB");
        let mut heard = bar.follow();
        let at_once = self.task.sees_all().is_some();
        let most = if self.wanted.is_some() { ROWS_ASKED } else { ROWS };
        let mut done = work.totals.rows;
        loop {
            let mut rows = self.rows(&mut file, most)?;
            if rows.is_empty() {
                break;
            }
            let mut more = at_once;
            while more {
                let others = self.rows(&mut file, most)?;
                more = !others.is_empty();
                rows.extend(others);
            }
            let skipped = usize::try_from(done).unwrap_or(usize::MAX).min(rows.len());
            rows.drain(..skipped);
            done -= skipped as u64;
            if !rows.is_empty() {
                self.chunk(rows, work)?;
            }
            heard(file.bytes_read() >> 10);
            if cancel::flag().load(Ordering::Relaxed) {
                return Err(interrupted());
            }
        }
        drop(heard);
        bar.finish();
        Ok(())
    }

    /// Reads the next rows. No id stands there twice: draws are keyed by it.
    fn rows(&mut self, file: &mut RecordFile, most: usize) -> Result<Vec<Row>, CliError> {
        let name = file.name().to_owned();
        let wrong = |line, problem| DataError::Row { name: name.clone(), line, problem };
        let rows = file.chunk(most)?;
        // So many bytes of a digest tell all ids apart that there will ever be, and take less room.
        let short = |row: &RecordRow| {
            let digest = Sha256::digest(row.record.id().as_bytes());
            <[u8; 16]>::try_from(&digest[..16]).expect("a digest is longer")
        };
        for row in &rows {
            if let Some(first) = self.ids.insert(short(row), row.line) {
                let id = row.record.id().to_owned();
                let error = wrong(row.line, RowProblem::DuplicateId { id, first });
                return Err(CliError::from(error).hint(
                    "an id stands for one row of all the data: give each row its own before it is cut",
                ));
            }
        }
        let one = |row: RecordRow| {
            let line = row.line;
            Row::of(row).map_err(|problem| wrong(line, problem).into())
        };
        rows.into_iter().map(one).collect()
    }

    /// Takes some rows through the stage and appends them to the result.
    fn chunk(&self, mut rows: Vec<Row>, work: &mut Work) -> Result<(), CliError> {
        let mut totals = work.totals.clone();
        totals.rows += rows.len() as u64;
        totals.dropped_before += rows.iter().filter(|row| row.dropped.is_some()).count() as u64;
        let explain = |rows: &[Row], error| self.explain(rows, error);
        let mut asked = Vec::new();
        match self.wanted.filter(|_| rows.iter().any(|row| row.dropped.is_none())) {
            None => call(self.task, &mut rows, &mut NoAnswers, &mut totals)
                .map_err(|error| explain(&rows, error))?,
            Some(wanted) => {
                let (models, policy) = self.models(wanted, &work.directory)?;
                let task = self.task;
                let place = Place { round: task.round, stage: task.stage.name() };
                with_shop(task, models, |shop| {
                    let known = HashMap::new();
                    let mut asker = Asker::knowing(known, shop, &work.directory, place, policy)?;
                    call(task, &mut rows, &mut asker, &mut totals)?;
                    asked = asker.asked();
                    Ok(())
                })
                .map_err(|error| explain(&rows, error))?;
                // As the rows are, whatever was asked at once.
                let places: HashMap<&str, usize> =
                    rows.iter().enumerate().map(|(at, row)| (row.record.id(), at)).collect();
                asked.sort_by_key(|ask| places[ask.record.as_str()]);
                totals.asks += asked.len() as u64;
            }
        }
        for called in self.task.called() {
            totals.spent.insert(called.place, called.plugin.used());
        }
        totals.kept += rows.iter().filter(|row| row.dropped.is_none()).count() as u64;
        if self.task.kept_only {
            rows.retain(|row| row.dropped.is_none());
        }
        totals.lines += rows.len() as u64;
        let lines = written(&rows, Row::write);
        let asks = written(&asked, |ask, out| {
            serde_json::to_writer(&mut *out, ask).expect("our own types serialise");
            out.push(b'\n');
        });
        work.add(&lines, &asks, totals)?;
        let place = Place { round: self.task.round, stage: self.task.stage.name() };
        work.directory.remove(&place.ledger())?;
        // To forget thousands of texts takes a while, which the next chunk need not wait for.
        rayon::spawn(move || drop(rows));
        Ok(())
    }

    /// Returns the models, loaded when there is the first row to ask about.
    fn models(
        &self,
        wanted: &Wanted,
        directory: &Directory,
    ) -> Result<&(Models, Policy), CliError> {
        if let Some(models) = self.models.get() {
            return Ok(models);
        }
        let loaded = wanted.load(directory, self.progress)?;
        Ok(self.models.get_or_init(|| loaded))
    }

    /// Adds the line of the record at fault.
    fn explain(&self, rows: &[Row], error: RunError) -> CliError {
        let record = match &error {
            RunError::Interrupted { .. } => return interrupted(),
            RunError::Plugin(PluginError::Call(call)) => call.records.first().cloned(),
            RunError::Sequence { id, .. } | RunError::Record { id, .. } => Some(id.clone()),
            _ => None,
        };
        let row = record.and_then(|id| rows.iter().find(|row| row.record.id() == id));
        let is_of_server = matches!(error, RunError::Server { .. });
        let mut told = CliError::from(error);
        // Nothing is resumed here, and no server named.
        if is_of_server && told.hint.as_deref().is_some_and(|hint| hint.contains("aligner resume"))
        {
            told.hint = Some(
                "once it answers, the same command goes on from the last rows that are done; its log may say more".into(),
            );
        }
        if let Some(row) = row {
            told.message = format!("{}\n  --> {}:{}", told.message, self.input.display(), row.line);
        }
        told
    }
}

fn interrupted() -> CliError {
    CliError::new(exit::INTERRUPTED, "interrupted").hint("the same command goes on")
}

/// Serialises in parallel what is written in order.
fn written<T: Sync>(items: &[T], write: impl Fn(&T, &mut Vec<u8>) + Sync) -> Vec<u8> {
    let part = |items: &[T]| {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| write(item, &mut bytes));
        bytes
    };
    items.par_chunks(256).map(part).collect::<Vec<_>>().concat()
}

/// Gives a workshop that has what the stages of opinions need, and nothing of a run.
fn with_shop<T>(
    task: &Task,
    models: &Models,
    work: impl FnOnce(&Workshop<'_>) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let (given, silent) = (BTreeMap::new(), Progress::new(Style::Silent));
    let memory = Budget { estimate: Estimate { stages: Vec::new() }, available: &|| None };
    work(&Workshop {
        set: &task.set,
        plugins: &task.plugins,
        models,
        catalogue: &[],
        given: &given,
        aligned: None,
        held_out: &[],
        held_out_digest: "",
        anchors: &[],
        anchors_digest: "",
        memory: &memory,
        progress: &silent,
        cancel: cancel::flag(),
    })
}
