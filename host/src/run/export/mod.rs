//! What a run leaves for other tools: curves for TensorBoard after each round, and at the end the
//! trainer's state as transformers writes it, and the data in TRL's columns.
//!
//! All of it is told again from the files of the run, so it is the same however often a run was stopped,
//! and holds no time of day.

mod cost;
mod data;
mod data_card;
mod parquet;
mod tensorboard;
mod trainer_state;

pub use cost::Cost;

use super::Prepared;
use super::directory::{Directory, DirectoryError};
use super::journal;
use crate::plugin_set::{Start, TrainData};
use crate::report::Report;
use crate::round::RunError;
use crate::round::rows::{Step, Trained};
use crate::round::stage::folder;

/// The folder with the curves.
pub const TENSORBOARD: &str = "tensorboard";
/// The folder with the data that the result was trained on.
pub const DATA: &str = "final/data";

/// Writes what there is to see after a round.
pub fn after_round(directory: &Directory, report: &Report) -> Result<(), DirectoryError> {
    let mut rounds = Vec::with_capacity(report.rounds.len());
    for round in &report.rounds {
        rounds.push((round, steps(directory, round.round)?));
    }
    let file = tensorboard::file(&report.before, &rounds);
    directory.write(&format!("{TENSORBOARD}/{}", tensorboard::NAME), &file).map(|_| ())
}

/// Writes the state of the trainer beside the result in `folder`, where the best round trained one.
pub fn trainer_state(
    prepared: &Prepared,
    directory: &Directory,
    report: &Report,
    result: &str,
) -> Result<(), DirectoryError> {
    let Some(settings) = prepared.set.train(report.best_round) else { return Ok(()) };
    let steps = steps(directory, report.best_round)?;
    let round = report.rounds.iter().find(|round| round.round == report.best_round);
    let held_out = round.map_or(&[][..], |round| &round.held_out);
    let state = trainer_state::of(settings, &steps, held_out);
    directory.write_json(&format!("{result}/{}", trainer_state::FILE), &state).map(|_| ())
}

/// Writes what the result was trained on, with a card, unless it is there. A run that has trained nothing
/// has none.
pub fn data(prepared: &Prepared, directory: &Directory, report: &Report) -> Result<(), RunError> {
    let card = format!("{DATA}/README.md");
    if directory.has(&card) {
        return Ok(());
    }
    let rounds = lineage(prepared, report.best_round);
    let rows = lessons(directory, &rounds)?;
    let tables = data::tables(&rows);
    for table in &tables {
        directory.write(&format!("{DATA}/{}.jsonl", table.name), &table.jsonl())?;
        let parquet = parquet::file(table)
            .map_err(|error| directory.damaged(&format!("{DATA}/{}.parquet", table.name), error))?;
        directory.write(&format!("{DATA}/{}.parquet", table.name), &parquet)?;
    }
    if !tables.is_empty() {
        let cost = Cost::of(directory, &journal::read(directory.path())?)?;
        let text = data_card::card(prepared, report, &rounds, &tables, &cost);
        directory.write(&card, text.as_bytes())?;
    }
    Ok(())
}

/// Returns the updates of a round; none where it did not train.
fn steps(directory: &Directory, round: u32) -> Result<Vec<Step>, DirectoryError> {
    let file = format!("{}/metrics.jsonl", folder(round));
    if directory.has(&file) { directory.read_lines(&file) } else { Ok(Vec::new()) }
}

/// Returns the rounds whose training made the result of `round`, in order: those before it count as far as
/// each went on from the one before.
fn lineage(prepared: &Prepared, round: u32) -> Vec<u32> {
    let set = &prepared.set;
    let makes_policy = |&round: &u32| set.train(round).is_some_and(|it| !it.makes_reward_model());
    let mut rounds = Vec::new();
    let mut next = set.train(round).map(|_| round);
    while let Some(round) = next {
        rounds.push(round);
        let start = set.train(round).map(|train| train.start);
        next = match start {
            Some(Start::Previous) => (1..round).rfind(makes_policy),
            _ => None,
        };
    }
    rounds.reverse();
    rounds
}

/// Returns what these rounds were trained on, each row once, in the order of the rounds.
fn lessons(directory: &Directory, rounds: &[u32]) -> Result<Vec<Trained>, DirectoryError> {
    let mut lessons: Vec<Trained> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for &round in rounds {
        let rows: Vec<Trained> = directory.read_lines(&format!("{}/train.jsonl", folder(round)))?;
        // Under `data = "all"` a round's file holds those of the rounds before, too.
        let rows = rows.into_iter().filter(|row| row.dropped.is_none());
        lessons.extend(rows.filter(|row| seen.insert((row.round, row.record_id.clone()))));
    }
    Ok(lessons)
}

/// Says in words which rounds' data the result was trained on.
fn seen(prepared: &Prepared, rounds: &[u32]) -> String {
    let last = rounds.last().copied().unwrap_or(0);
    let all = prepared.set.train(last).is_some_and(|train| train.data == TrainData::All);
    let rounds = if all { (1..=last).collect() } else { rounds.to_vec() };
    let names: Vec<String> = rounds.iter().map(u32::to_string).collect();
    match names.as_slice() {
        [] => "no round".to_owned(),
        [only] => format!("round {only}"),
        [first @ .., last] => format!("rounds {} and {last}", first.join(", ")),
    }
}
