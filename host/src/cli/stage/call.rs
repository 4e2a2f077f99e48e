//! The plugins of a stage, called with some rows of it.

use std::collections::HashMap;

use super::rows::{Dropped, Row, Said};
use super::task::{Stage, Task};
use super::work::Totals;
use crate::{
    plugin::PLUGIN_ERROR,
    plugin_set::After,
    record::{Opinion, Record, Verdict},
    round::{Measurer, RunError, UNPARSABLE, pair_of, rows::Filtered, stage::Place},
};

/// Says of whom a word is: the stage and its plugin.
struct Who<'a> {
    task: &'a Task,
    plugin: &'a str,
    version: &'a str,
}

impl Who<'_> {
    fn says(&self) -> Said {
        Said {
            stage: self.task.stage.name().to_owned(),
            round: self.task.round,
            plugin: self.plugin.to_owned(),
            version: self.version.to_owned(),
            verdict: None,
            opinion: None,
            difficulty: None,
        }
    }

    fn drops(&self, row: &mut Row, reason: &str, totals: &mut Totals) {
        *totals.dropped.entry(reason.to_owned()).or_default() += 1;
        row.dropped = Some(Dropped {
            stage: self.task.stage.name().to_owned(),
            plugin: self.plugin.to_owned(),
            version: self.version.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// Calls the plugins with the rows that are not dropped, and notes what they say.
pub fn call(
    task: &Task,
    rows: &mut [Row],
    asker: &mut dyn Measurer,
    totals: &mut Totals,
) -> Result<(), RunError> {
    if task.stage == Stage::Filter(After::Pair) {
        pair(task, rows, totals);
    }
    let mut live: Vec<&mut Row> = rows.iter_mut().filter(|row| row.dropped.is_none()).collect();
    if live.is_empty() {
        return Ok(());
    }
    let mut records: Vec<Record> = match task.stage {
        // What stands there already is no business of filters over prompts.
        Stage::Filter(After::Sample) => {
            live.iter().map(|row| Record::new(row.record.prompt.clone())).collect()
        }
        _ => live.iter_mut().map(|row| take(&mut row.record)).collect(),
    };
    if task.stage == Stage::Judge {
        // A judge sees what a round gives it, not what another judge has said.
        records.iter_mut().for_each(|record| (record.rewards, record.pair) = (Vec::new(), None));
    }
    let measured = Place { round: task.round, stage: task.stage.measured_in() };
    asker.meet(measured, &task.needs(), &mut records)?;
    match task.stage {
        Stage::Filter(after) => {
            let before = records.clone();
            let sifted = task.assessors().sift(after, &[], records, asker)?;
            note_verdicts(task, &mut live, sifted.rows, totals);
            if after != After::Sample {
                put_back(&mut live, before, sifted.kept);
            }
        }
        Stage::Judge => judge(task, live, records, asker, totals)?,
        Stage::Score => score(task, live, records, asker, totals)?,
    }
    Ok(())
}

/// Takes a record out of a row, and leaves its prompt.
fn take(record: &mut Record) -> Record {
    let left = Record::new(record.prompt.clone());
    std::mem::replace(record, left)
}

/// Gives rows their records: as the filters have left them, or as they were where one of them dropped it.
fn put_back(live: &mut [&mut Row], before: Vec<Record>, kept: Vec<Record>) {
    let mut kept = kept.into_iter().peekable();
    for (row, before) in live.iter_mut().zip(before) {
        row.record = match kept.next_if(|record| record.id() == before.id()) {
            Some(record) => record,
            None => before,
        };
    }
}

fn note_verdicts(task: &Task, live: &mut [&mut Row], said: Vec<Filtered>, totals: &mut Totals) {
    let places: HashMap<String, usize> =
        live.iter().enumerate().map(|(at, row)| (row.record.id().to_owned(), at)).collect();
    for Filtered { id, plugin, version, verdict } in said {
        let row = &mut *live[places[&id]];
        let who = Who { task, plugin: &plugin, version: &version };
        match &verdict {
            Verdict::Keep => {}
            Verdict::Drop(reason) => who.drops(row, reason, totals),
            Verdict::Revise(_) => *totals.counts.entry("revised".to_owned()).or_default() += 1,
        }
        row.said.push(Said { verdict: Some(verdict), ..who.says() });
    }
}

/// Compares the completions of records of which that has not been said yet, as the pair stage of a run does.
fn pair(task: &Task, rows: &mut [Row], totals: &mut Totals) {
    for row in rows.iter_mut().filter(|row| row.dropped.is_none() && row.record.pair.is_none()) {
        let judged = row.said.iter().any(|said| said.opinion.is_some());
        let (pairing, by_role) = task.pairing(judged || !row.record.rewards.is_empty());
        match pair_of(&row.record, &pairing, by_role) {
            Ok(pair) => row.record.pair = Some(pair),
            Err(reason) => {
                let (plugin, version) = ("aligner", env!("CARGO_PKG_VERSION"));
                Who { task, plugin, version }.drops(row, reason, totals);
            }
        }
    }
}

fn judge(
    task: &Task,
    live: Vec<&mut Row>,
    records: Vec<Record>,
    asker: &mut dyn Measurer,
    totals: &mut Totals,
) -> Result<(), RunError> {
    let Some(plugin) = &task.plugins.judge else { return Ok(()) };
    let who = Who { task, plugin: plugin.name(), version: plugin.version() };
    let (said, _) = task.assessors().judge(plugin, &records, asker)?;
    for ((row, mut record), said) in live.into_iter().zip(records).zip(said) {
        let mut count = |what: &str| *totals.counts.entry(what.to_owned()).or_default() += 1;
        let dropped = match &said.opinion {
            Some(Opinion::Rewards(rewards)) => {
                count("rewards");
                record.rewards = rewards.clone();
                None
            }
            Some(Opinion::Preference(pair)) => {
                count("preference");
                record.pair = Some(pair.clone());
                None
            }
            Some(Opinion::Tie) => {
                count("tie");
                None
            }
            Some(Opinion::Unparsable(_)) => Some(UNPARSABLE),
            None => Some(PLUGIN_ERROR),
        };
        row.record = record;
        row.said.push(Said { opinion: said.opinion, ..who.says() });
        if let Some(reason) = dropped {
            who.drops(row, reason, totals);
        }
    }
    Ok(())
}

fn score(
    task: &Task,
    live: Vec<&mut Row>,
    records: Vec<Record>,
    asker: &mut dyn Measurer,
    totals: &mut Totals,
) -> Result<(), RunError> {
    let Some(plugin) = &task.plugins.difficulty else { return Ok(()) };
    let who = Who { task, plugin: plugin.name(), version: plugin.version() };
    let (said, _) = task.assessors().score(plugin, &records, asker)?;
    for ((row, record), said) in live.into_iter().zip(records).zip(said) {
        row.record = Record { difficulty: said.difficulty, ..record };
        row.said.push(Said { difficulty: said.difficulty, ..who.says() });
        match said.difficulty {
            Some(_) => *totals.counts.entry("scored".to_owned()).or_default() += 1,
            None => who.drops(row, PLUGIN_ERROR, totals),
        }
    }
    Ok(())
}
