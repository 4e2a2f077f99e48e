//! Filters over the whole stage: one instance sees every record, then judges every record but those
//! that stand already.

use std::ops::Range;

use bumpalo::Bump;

use super::bindings::exports::aligner::plugin::set_filter::GuestIndices;
use super::converse::{self, Blame, Outcome, Place, Spent, Stage, failure, same_length};
use super::error::{Fault, PluginError};
use super::load::Plugin;
use super::session::{Session, reported};
use super::setup::OnError;
use super::{check, convert};
use crate::record::{Record, Verdict};

/// How often a stage begins again to find records at fault, where `on_error = "drop"`. A plugin that
/// fails at every size of batch is broken itself: dropping record after record would hide it.
const MAX_RESTARTS: usize = 64;

/// Runs the stage: `standing` is observed first and not judged. Where a call fails and records may be
/// dropped, the batch is halved and the whole stage begins again in a fresh instance, because what the
/// plugin has observed is lost with its instance; a single record that fails is left out from then on.
pub(super) fn filter(
    plugin: &Plugin,
    guest: &GuestIndices,
    place: &Place,
    standing: &[Record],
    records: &[Record],
) -> Result<Stage<Verdict>, PluginError> {
    let mut spent = Spent::default();
    if records.is_empty() {
        return Ok(Stage { outcomes: Vec::new(), spent });
    }
    let first = standing.len();
    let records: Vec<&Record> = standing.iter().chain(records).collect();
    let mut failed: Vec<Option<String>> = vec![None; records.len()];
    // Positions of the records that take part, and how they are cut: no batch holds both what stands
    // and what is judged.
    let mut taking_part: Vec<usize> = (0..records.len()).collect();
    let sizes: Vec<usize> = records.iter().map(|record| convert::record_bytes(record)).collect();
    let judged = converse::batches(&sizes[first..]).into_iter();
    let mut batches = converse::batches(&sizes[..first]);
    batches.extend(judged.map(|range| first + range.start..first + range.end));
    let mut restarts = 0;
    let verdicts = loop {
        // Whatever attempts cost, the run's budget holds.
        plugin.check_run(&spent).map_err(|fault| failure(plugin, place, fault, Vec::new()))?;
        let (batch, blame) = match attempt(
            plugin,
            guest,
            place,
            (&records, first),
            &taking_part,
            &batches,
            &mut spent,
        ) {
            Ok(verdicts) => break verdicts,
            Err(failed) => failed,
        };
        let range = batches[batch].clone();
        let stop = plugin.setup().on_error == OnError::Stop
            || blame.fault.always_stops()
            || restarts == MAX_RESTARTS;
        if stop {
            let concerned = match blame.record {
                Some(record) => range.start + record..range.start + record + 1,
                None => range,
            };
            let ids = taking_part[concerned].iter().map(|&index| records[index].id()).collect();
            return Err(failure(plugin, place, blame.fault, ids));
        }
        restarts += 1;
        if range.len() == 1 {
            failed[taking_part[range.start]] = Some(blame.fault.to_string());
            taking_part.remove(range.start);
            batches = without(&batches, batch);
        } else {
            let middle = range.start + range.len() / 2;
            batches.splice(batch..=batch, [range.start..middle, middle..range.end]);
        }
    };
    plugin.check_run(&spent).map_err(|fault| failure(plugin, place, fault, Vec::new()))?;
    plugin.note_used(spent);
    let mut verdicts = verdicts.into_iter();
    let outcomes = failed
        .into_iter()
        .skip(first)
        .map(|failed| match failed {
            Some(text) => Outcome::Failed(text),
            None => Outcome::Done(verdicts.next().expect("one verdict for each taking part")),
        })
        .collect();
    Ok(Stage { outcomes, spent })
}

/// Leaves out a batch of one record; those after it move down by one.
fn without(batches: &[Range<usize>], batch: usize) -> Vec<Range<usize>> {
    let before = batches[..batch].iter().cloned();
    let after = batches[batch + 1..].iter().map(|range| range.start - 1..range.end - 1);
    before.chain(after).collect()
}

/// Shows every batch to a fresh instance, then asks it about those from record `first` on. A failure
/// comes with the number of its batch.
pub(super) fn attempt(
    plugin: &Plugin,
    guest: &GuestIndices,
    place: &Place,
    (records, first): (&[&Record], usize),
    taking_part: &[usize],
    batches: &[Range<usize>],
    spent: &mut Spent,
) -> Result<Vec<Verdict>, (usize, Blame)> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let mut session = plugin.session(spent).map_err(|fault| (0, fault.into()))?;
    let batch = |range: &Range<usize>| -> Vec<&Record> {
        taking_part[range.clone()].iter().map(|&index| records[index]).collect()
    };
    for (number, range) in batches.iter().enumerate() {
        observe(&mut session, guest, place, &batch(range))
            .map_err(|fault| (number, fault.into()))?;
    }
    let judged = |range: &Range<usize>| taking_part[range.start] >= first;
    let mut verdicts = Vec::with_capacity(taking_part.len());
    for (number, range) in batches.iter().enumerate().filter(|(_, range)| judged(range)) {
        let decided = decide(&mut session, guest, place, &batch(range));
        verdicts.extend(decided.map_err(|blame| (number, blame))?);
    }
    Ok(verdicts)
}

/// Shows a batch to an instance.
fn observe(
    session: &mut Session,
    guest: &GuestIndices,
    place: &Place,
    records: &[&Record],
) -> Result<(), Fault> {
    let arena = Bump::new();
    let batch = convert::list(&arena, records, |arena, record| convert::record(arena, record));
    session
        .call(|store, instance| {
            let guest = guest.load(&mut *store, instance)?;
            guest.call_observe(store, place.context(), batch)
        })
        .and_then(|result| result.map_err(reported))
}

/// Asks an instance about a batch.
fn decide(
    session: &mut Session,
    guest: &GuestIndices,
    place: &Place,
    records: &[&Record],
) -> Result<Vec<Verdict>, Blame> {
    let arena = Bump::new();
    let batch = convert::list(&arena, records, |arena, record| convert::record(arena, record));
    let returned = session
        .call(|store, instance| {
            let guest = guest.load(&mut *store, instance)?;
            guest.call_decide(store, place.context(), batch)
        })
        .and_then(|result| result.map_err(reported))?;
    same_length(returned.len(), "verdicts", records.len(), "records")?;
    let verdict = |(number, verdict)| {
        let verdict = convert::verdict_back(verdict);
        check::verdict(&verdict, records[number])
            .map_err(|message| Blame::value(number, message))?;
        Ok(verdict)
    };
    returned.into_iter().enumerate().map(verdict).collect()
}

/// A stage of more records than are in memory at once: one instance observes part after part, then decides
/// on the same parts. What it has observed is lost with its instance, so no record at fault is looked for:
/// where a call fails, the stage has.
pub struct Sitting<'a> {
    plugin: &'a Plugin,
    guest: &'a GuestIndices,
    place: Place<'a>,
    session: Session<'a>,
}

impl<'a> Sitting<'a> {
    /// Opens a stage; `spent` is what it takes, once it is over.
    pub(super) fn open(
        plugin: &'a Plugin,
        guest: &'a GuestIndices,
        place: Place<'a>,
        spent: &'a mut Spent,
    ) -> Result<Sitting<'a>, PluginError> {
        let session =
            plugin.session(spent).map_err(|fault| failure(plugin, &place, fault, Vec::new()))?;
        Ok(Sitting { plugin, guest, place, session })
    }

    /// Shows the next records.
    pub fn observe(&mut self, records: &[Record]) -> Result<(), PluginError> {
        let records: Vec<&Record> = records.iter().collect();
        for range in ranges(&records) {
            let batch = &records[range];
            observe(&mut self.session, self.guest, &self.place, batch)
                .map_err(|fault| self.failure(fault.into(), batch))?;
        }
        Ok(())
    }

    /// Returns one verdict for each of the next records, which come in the parts in which they were
    /// observed.
    pub fn decide(&mut self, records: &[Record]) -> Result<Vec<Verdict>, PluginError> {
        let records: Vec<&Record> = records.iter().collect();
        let mut verdicts = Vec::with_capacity(records.len());
        for range in ranges(&records) {
            let batch = &records[range];
            let decided = decide(&mut self.session, self.guest, &self.place, batch);
            verdicts.extend(decided.map_err(|blame| self.failure(blame, batch))?);
        }
        Ok(verdicts)
    }

    fn failure(&self, blame: Blame, batch: &[&Record]) -> PluginError {
        let concerned = match blame.record {
            Some(record) => &batch[record..=record],
            None => batch,
        };
        let ids = concerned.iter().map(|record| record.id()).collect();
        failure(self.plugin, &self.place, blame.fault, ids)
    }
}

fn ranges(records: &[&Record]) -> Vec<Range<usize>> {
    let sizes: Vec<usize> = records.iter().map(|record| convert::record_bytes(record)).collect();
    converse::batches(&sizes)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one batch is a list of one range")]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_left_out_closes_the_gap() {
        assert_eq!(without(&[0..2, 2..3, 3..5], 1), [0..2, 2..4]);
        assert!(without(&[0..1], 0).is_empty());
        assert_eq!(without(&[0..1, 1..4], 0), [0..3]);
    }
}
