//! `aligner plugin run`: a plugin by itself over the records of a file, one line of JSON for each.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{AfterArg, RunArgs, data, kind};
use crate::{
    cli::{
        CliError, cancel,
        evaluate::oracle::{Answers, NAMES, Oracle, grant},
        exit, host,
        place::{self, Unfinished, cannot_write},
    },
    data::{DataError, RecordFile, RecordRow, RowProblem},
    plugin::{
        Candidate, Interface, Kind, Limits, Loaded, OnError, Outcome, Place, Plugin, PluginError,
        Setup, Stage,
    },
    record::{Exemplar, Record},
    round::filter_stage,
};

/// Records of a chunk.
const RECORDS: usize = 4096;
/// Records of a chunk where a model is asked: what it answers is kept that long.
const RECORDS_ASKED: usize = 64;

/// Where lines go.
struct Lines {
    writer: Sink,
    /// The file that they become.
    path: Option<PathBuf>,
    records: u64,
    failed: u64,
    first_failure: Option<String>,
}

/// What lines are written to.
enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<Unfinished>),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::Stdout(writer) => writer,
            Sink::File(writer) => writer,
        }
    }
}

/// Why lines end before the file does.
enum Ended {
    /// Nobody reads them any more.
    Unread,
    Failed(CliError),
}

impl From<CliError> for Ended {
    fn from(error: CliError) -> Ended {
        Ended::Failed(error)
    }
}

impl From<DataError> for Ended {
    fn from(error: DataError) -> Ended {
        Ended::Failed(error.into())
    }
}

/// Runs the plugin. It fails at the end where it failed on records, which have a line too.
pub fn main(args: &RunArgs) -> Result<(), CliError> {
    if let Some(out) = &args.out {
        place::check("--out", out, &[&args.data, Path::new(&args.file)])?;
    }
    let progress = args.shown.open();
    let source = super::named(&args.file, &progress)?;
    let runtime = host::runtime()?;
    let loaded = runtime.open(&source, &Limits::default())?;
    let kind = kind(&loaded, args.kind)?;
    let plugin = configure(args, &loaded, kind)?;
    let catalogue = match &args.principle {
        Some(name) => {
            let principle = runtime.open(&super::named(name, &progress)?, &Limits::default())?;
            principle.configure(Setup::new(Kind::Principle))?.catalogue()?
        }
        None => Vec::new(),
    };
    let mut file = RecordFile::open(&args.data, data::upto(args.after))?;
    cancel::listen()?;
    let oracle = match args.asked.is_named() {
        true => Some(Oracle::load(&args.asked, &progress)?),
        false => None,
    };
    let mut answers = Answers::new(oracle);
    let mut lines = Lines::open(args.out.as_deref())?;
    let bar = progress.stage("run", data::kib(&args.data), "KiB");
    let place = Place {
        run_seed: args.seed,
        round: 1,
        rounds: 1,
        stage: stage(kind, args.after),
        position: 0,
    };
    let work = Work { plugin: &plugin, place, catalogue: &catalogue };
    let ended = match kind {
        Kind::Sampler => work.sampler(&mut file, &mut lines),
        Kind::Filter if plugin.has(Interface::SetFilter) => work.set(&mut file, &mut lines),
        _ => work.each(&mut file, &mut lines, &mut answers, &mut bar.follow()),
    };
    bar.finish();
    match ended {
        Ok(()) => lines.finish(),
        Err(Ended::Unread) => Ok(()),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// Makes the plugin ready: it may ask where there is a model.
fn configure(args: &RunArgs, loaded: &Loaded, kind: Kind) -> Result<Plugin, CliError> {
    let grant = args.asked.is_named().then(|| grant(None));
    let config = args.config.clone().unwrap_or_else(|| "{}".into());
    let setup = Setup { config, grant, on_error: OnError::Drop, ..Setup::new(kind) };
    Ok(loaded.configure(setup)?)
}

/// The stage of a run that the plugin stands in: seeds are drawn from it.
fn stage(kind: Kind, after: Option<AfterArg>) -> &'static str {
    match kind {
        Kind::Principle => "render",
        Kind::Sampler => "sample",
        Kind::Filter => filter_stage(after.unwrap_or(AfterArg::Generate).after()),
        Kind::Judge => "judge",
        Kind::Difficulty => "difficulty",
    }
}

struct Work<'a> {
    plugin: &'a Plugin,
    place: Place<'a>,
    catalogue: &'a [Exemplar],
}

impl Work<'_> {
    /// Calls a plugin that looks at each record by itself, chunk after chunk.
    fn each(
        &self,
        file: &mut RecordFile,
        lines: &mut Lines,
        answers: &mut Answers,
        heard: &mut dyn FnMut(u64),
    ) -> Result<(), Ended> {
        let Work { plugin, place, .. } = self;
        let most = if plugin.setup().grant.is_some() { RECORDS_ASKED } else { RECORDS };
        loop {
            let rows = file.chunk(most)?;
            if rows.is_empty() {
                return Ok(());
            }
            let records: Vec<Record> = rows.iter().map(|row| row.record.clone()).collect();
            let fault = |error| explain(error, &rows, file.name(), plugin);
            match plugin.identity().kind {
                Kind::Judge => {
                    let stage = plugin.judge(place, &records, answers).map_err(fault)?;
                    lines.stage(file.name(), &rows, "opinion", stage)?;
                }
                Kind::Difficulty => {
                    let stage = plugin.score(place, &records, answers).map_err(fault)?;
                    lines.stage(file.name(), &rows, "difficulty", stage)?;
                }
                Kind::Principle => {
                    let stage = plugin.render(place, &records, answers).map_err(fault)?;
                    lines.stage(file.name(), &rows, "variants", stage)?;
                }
                _ => {
                    let stage = plugin.filter(place, &records, answers).map_err(fault)?;
                    lines.stage(file.name(), &rows, "verdict", stage)?;
                }
            }
            answers.forget();
            heard(file.bytes_read() >> 10);
            if cancel::flag().load(Ordering::Relaxed) {
                return Err(CliError::new(exit::INTERRUPTED, "interrupted").into());
            }
        }
    }

    /// Calls a filter over the whole stage: every record is in memory until it has decided.
    fn set(&self, file: &mut RecordFile, lines: &mut Lines) -> Result<(), Ended> {
        let rows = everything(file)?;
        let records: Vec<Record> = rows.iter().map(|row| row.record.clone()).collect();
        let stage = self.plugin.filter_set(&self.place, &[], &records);
        let stage = stage.map_err(|error| explain(error, &rows, file.name(), self.plugin))?;
        lines.stage(file.name(), &rows, "verdict", stage)
    }

    /// Lets a sampler select from the prompts, and equip those that it selects.
    fn sampler(&self, file: &mut RecordFile, lines: &mut Lines) -> Result<(), Ended> {
        let Work { plugin, place, catalogue } = self;
        let rows = everything(file)?;
        let fault = |error| explain(error, &rows, file.name(), plugin);
        let pool: Vec<Candidate> = rows.iter().map(|row| candidate(&row.record)).collect();
        let (selected, _) = plugin.select(place, &pool).map_err(fault)?;
        let prompts: Vec<_> = selected.iter().map(|&at| rows[at].record.prompt.clone()).collect();
        let equipped = plugin.equip(place, &prompts, catalogue).map_err(fault)?;
        let mut found: Vec<Map<String, Value>> = rows
            .iter()
            .map(|row| {
                Map::from_iter([
                    ("id".to_owned(), json!(row.record.id())),
                    ("selected".to_owned(), Value::Null),
                ])
            })
            .collect();
        for (number, (at, outcome)) in selected.iter().zip(equipped.outcomes).enumerate() {
            let line = &mut found[*at];
            line.insert("selected".into(), json!(number + 1));
            match outcome {
                Outcome::Done(equipment) => {
                    let ids: Vec<&str> =
                        equipment.exemplars.iter().map(|&it| catalogue[it].id.as_str()).collect();
                    line.insert("exemplars".into(), json!(ids));
                    line.insert("decoding".into(), json!(equipment.decoding));
                }
                Outcome::Failed(why) => {
                    lines.note_failure(file.name(), &rows[*at], &why);
                    line.insert("failed".into(), json!(why));
                }
            }
        }
        for line in found {
            lines.line(&Value::Object(line))?;
        }
        Ok(())
    }
}

fn candidate(record: &Record) -> Candidate {
    Candidate {
        id: record.id().to_owned(),
        tags: record.prompt.tags.clone(),
        difficulty: record.difficulty,
        selected: 0,
    }
}

/// Reads all records. They are told apart by their ids, so none stands there twice.
fn everything(file: &mut RecordFile) -> Result<Vec<RecordRow>, CliError> {
    let (mut all, mut ids) = (Vec::new(), HashMap::new());
    loop {
        let rows = file.chunk(RECORDS)?;
        if rows.is_empty() {
            return Ok(all);
        }
        for row in rows {
            let id = row.record.id().to_owned();
            if let Some(first) = ids.insert(id.clone(), row.line) {
                let (name, line) = (file.name().to_owned(), row.line);
                let problem = RowProblem::DuplicateId { id, first };
                return Err(DataError::Row { name, line, problem }.into());
            }
            all.push(row);
        }
    }
}

/// Adds the line of the record at fault, and the way out that there is here.
fn explain(error: PluginError, rows: &[RecordRow], file: &str, plugin: &Plugin) -> CliError {
    let at_fault = match &error {
        PluginError::Call(call) => call.records.first().cloned(),
        _ => None,
    };
    let line = at_fault.and_then(|id| Some(rows.iter().find(|row| row.record.id() == id)?.line));
    let ungranted = error.ungranted().is_some();
    let mut told = CliError::from(error);
    if let Some(line) = line {
        told.message = format!("{}\n  --> {file}:{line}", told.message);
    }
    if !ungranted {
        return told;
    }
    match plugin.setup().grant {
        None => told.hint("it asks a model: `--model MODEL` says which"),
        Some(_) => {
            let names = NAMES.map(|name| format!("`{name}`")).join(", ");
            told.hint(format!("the model is called {names} here; `--config` says which it asks"))
        }
    }
}

impl Lines {
    fn open(out: Option<&Path>) -> Result<Lines, CliError> {
        let writer = match out {
            None => Sink::Stdout(BufWriter::new(io::stdout())),
            Some(path) => {
                let file = Unfinished::open(path).map_err(|error| cannot_write(path, &error))?;
                Sink::File(BufWriter::new(file))
            }
        };
        let path = out.map(Path::to_owned);
        Ok(Lines { writer, path, records: 0, failed: 0, first_failure: None })
    }

    /// Writes a line for each record of a stage.
    fn stage<T: Serialize>(
        &mut self,
        file: &str,
        rows: &[RecordRow],
        name: &str,
        stage: Stage<T>,
    ) -> Result<(), Ended> {
        for (row, outcome) in rows.iter().zip(stage.outcomes) {
            let mut line = Map::from_iter([("id".to_owned(), json!(row.record.id()))]);
            match outcome {
                Outcome::Done(value) => {
                    line.insert(name.to_owned(), json!(value));
                }
                Outcome::Failed(why) => {
                    self.note_failure(file, row, &why);
                    line.insert("failed".into(), json!(why));
                }
            }
            self.line(&Value::Object(line))?;
        }
        Ok(())
    }

    fn note_failure(&mut self, file: &str, row: &RecordRow, why: &str) {
        self.failed += 1;
        let told = || format!("record `{}`: it {why}\n  --> {file}:{}", row.record.id(), row.line);
        self.first_failure.get_or_insert_with(told);
    }

    fn line(&mut self, line: &Value) -> Result<(), Ended> {
        self.records += 1;
        match writeln!(self.writer.writer(), "{line}") {
            Ok(()) => Ok(()),
            Err(error) => Err(self.ended(&error)),
        }
    }

    /// A reader that has gone away, as in `| head`, is none of our business.
    fn ended(&self, error: &io::Error) -> Ended {
        match &self.path {
            None if error.kind() == io::ErrorKind::BrokenPipe => Ended::Unread,
            None => Ended::Failed(CliError::new(
                exit::INTERNAL,
                format!("cannot write to stdout: {error}"),
            )),
            Some(path) => Ended::Failed(cannot_write(path, error)),
        }
    }

    /// Puts the file into its place; fails where the plugin failed on records.
    fn finish(mut self) -> Result<(), CliError> {
        match self.writer.writer().flush() {
            Ok(()) => {}
            Err(error) => match self.ended(&error) {
                Ended::Unread => return Ok(()),
                Ended::Failed(error) => return Err(error),
            },
        }
        if let (Sink::File(writer), Some(path)) = (self.writer, &self.path) {
            let cannot = |error: io::Error| cannot_write(path, &error);
            let file = writer.into_inner().map_err(|error| cannot(error.into_error()))?;
            file.finish().map_err(cannot)?;
        }
        match self.first_failure {
            None => Ok(()),
            Some(first) => {
                let (failed, all) = (self.failed, self.records);
                let message = format!("the plugin failed on {failed} of {all} records\n  {first}");
                Err(CliError::new(exit::PLUGIN, message))
            }
        }
    }
}
