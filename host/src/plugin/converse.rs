//! Calls over a whole stage: batches, the asking and answering, and what happens to bad records.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::asking::{answer_all, check_asking};
use super::convert;
use super::error::{CallError, Fault, PluginError};
use super::load::Plugin;
use super::session::Session;
use super::setup::OnError;
use crate::record::{Answer, Request};
use crate::run::seed;

/// Records in one call, at most.
const MAX_BATCH_RECORDS: usize = 256;
/// Bytes of records in one call, about; a single larger record is called by itself.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Where in the run a stage stands. Seeds are drawn from it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The run's seed.
    pub run_seed: u64,
    /// From 1.
    pub round: u32,
    /// How many rounds the run has.
    pub rounds: u32,
    /// The stage, for example `filter`.
    pub stage: &'a str,
    /// Which of the plugins of this stage it is, from 0. Tells the seeds of a chain apart.
    pub position: u32,
}

impl Place<'_> {
    /// Returns the seed of a record at this place.
    pub(super) fn seed(&self, record: &str) -> u64 {
        seed::of([
            self.run_seed.into(),
            self.round.into(),
            self.stage.into(),
            self.position.into(),
            record.into(),
        ])
    }

    pub(super) fn context(&self) -> super::bindings::aligner::plugin::types::Context {
        super::bindings::aligner::plugin::types::Context { round: self.round, rounds: self.rounds }
    }
}

/// Something that a plugin asks a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask<'a> {
    /// The record's id.
    pub record: &'a str,
    /// Counts the record's requests from 0, over all its rounds of answers.
    pub index: usize,
    /// The request's seed mixed with run seed, round, stage and record: what decoding draws from.
    pub seed: u64,
    /// What is asked.
    pub request: &'a Request,
}

/// Answers what plugins ask. The models are behind it, and the journal.
pub trait Answerer {
    /// Answers all requests of a stage at once: one answer for each, in the same order.
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>>;
}

/// An answerer where there is no model: a plugin that asks fails ([`PluginError::Answer`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAnswers;

impl Answerer for NoAnswers {
    fn answer(
        &mut self,
        _: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        Err("there is no model here to ask".into())
    }
}

/// What a stage used. The same on every machine, so it may go into the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Calls into the plugin, `configure` among them.
    pub calls: u64,
    /// Instances made.
    pub instances: u64,
    /// Units of fuel.
    pub fuel: u64,
    /// Requests to models.
    pub requests: u64,
    /// Tokens that the answers have.
    pub tokens: u64,
    /// The most linear memory that an instance had, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Bytes written to the log.
    #[serde(default)]
    pub log_bytes: u64,
}

impl std::ops::Sub for Spent {
    type Output = Spent;

    /// What came after `before`; the most memory stays what it is.
    fn sub(self, before: Spent) -> Spent {
        Spent {
            calls: self.calls - before.calls,
            instances: self.instances - before.instances,
            fuel: self.fuel - before.fuel,
            requests: self.requests - before.requests,
            tokens: self.tokens - before.tokens,
            memory_bytes: self.memory_bytes,
            log_bytes: self.log_bytes - before.log_bytes,
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Spent) {
        self.calls += other.calls;
        self.instances += other.instances;
        self.fuel += other.fuel;
        self.requests += other.requests;
        self.tokens += other.tokens;
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.log_bytes += other.log_bytes;
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<T> {
    /// The plugin's result; checked.
    Done(T),
    /// The plugin failed on it, and `on_error = "drop"`: the record is dropped with reason
    /// [`PLUGIN_ERROR`](super::PLUGIN_ERROR). The text says how, in one sentence.
    Failed(String),
}

/// What a plugin made of the records of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage<T> {
    /// One for each record, in the same order.
    pub outcomes: Vec<Outcome<T>>,
    /// What it took.
    pub spent: Spent,
}

/// What came back for one record.
pub(super) enum Reply<T> {
    Ask(Vec<Request>),
    Done(T),
}

/// One record of a call.
pub(super) struct Todo<'a> {
    /// Its position in the stage.
    pub index: usize,
    pub seed: u64,
    pub answers: &'a [Answer],
}

/// A fault, and the one record of the call that it is about, where that is known.
#[derive(Debug)]
pub(super) struct Blame {
    pub fault: Fault,
    pub record: Option<usize>,
}

impl From<Fault> for Blame {
    fn from(fault: Fault) -> Blame {
        Blame { fault, record: None }
    }
}

impl Blame {
    /// The value for record number `record` of the call is not what the contract allows.
    pub fn value(record: usize, message: String) -> Blame {
        Blame { fault: Fault::Value(message), record: Some(record) }
    }
}

/// Returns a fault where a list has not the length that it must have.
pub(super) fn same_length(
    returned: usize,
    results: &'static str,
    wanted: usize,
    items: &'static str,
) -> Result<(), Fault> {
    if returned == wanted {
        return Ok(());
    }
    Err(Fault::Count { returned, results, wanted, items })
}

/// Cuts items into batches of about [`MAX_BATCH_BYTES`] and at most [`MAX_BATCH_RECORDS`].
pub(super) fn batches(sizes: &[usize]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        let full = index - start == MAX_BATCH_RECORDS || bytes + size > MAX_BATCH_BYTES;
        if full && index > start {
            batches.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        batches.push(start..sizes.len());
    }
    batches
}

/// The records of a stage: ids, and about how many bytes each takes in a call.
pub(super) struct Items<'a> {
    pub ids: Vec<&'a str>,
    pub bytes: Vec<usize>,
}

/// One call: converts, calls, checks lengths and values, converts back.
pub(super) type Call<'a, T> =
    dyn Fn(&mut Session, &[Todo]) -> Result<Vec<Reply<T>>, Blame> + Sync + 'a;

/// Calls the plugin for all items, has its requests answered, and calls again until all are done.
pub(super) fn converse<T: Send>(
    plugin: &Plugin,
    place: &Place,
    items: &Items,
    answerer: &mut dyn Answerer,
    call: &Call<T>,
) -> Result<Stage<T>, PluginError> {
    converse_on(plugin, place, items, plugin.spent_before(), answerer, call)
}

/// Does the same for a stage that has spent something on other items already.
pub(super) fn converse_on<T: Send>(
    plugin: &Plugin,
    place: &Place,
    items: &Items,
    before: Spent,
    answerer: &mut dyn Answerer,
    call: &Call<T>,
) -> Result<Stage<T>, PluginError> {
    let seeds: Vec<u64> = items.ids.iter().map(|id| place.seed(id)).collect();
    let mut answers: Vec<Vec<Answer>> = items.ids.iter().map(|_| Vec::new()).collect();
    let mut outcomes: Vec<Option<Outcome<T>>> = items.ids.iter().map(|_| None).collect();
    let mut pending: Vec<usize> = (0..items.ids.len()).collect();
    let mut own = Spent::default();
    let mut rounds = 0;
    while !pending.is_empty() {
        let todos: Vec<Todo> = pending
            .iter()
            .map(|&index| Todo { index, seed: seeds[index], answers: &answers[index] })
            .collect();
        let sizes: Vec<usize> = todos
            .iter()
            .map(|todo| {
                items.bytes[todo.index]
                    + todo.answers.iter().map(convert::answer_bytes).sum::<usize>()
            })
            .collect();
        let results: Vec<_> = batches(&sizes)
            .into_par_iter()
            .map(|range| {
                let mut used = own;
                (run_batch(plugin, &todos[range], call, &mut used), used - own)
            })
            .collect();

        // In record order from here on: which fault is reported must not depend on threads.
        let mut asking: Vec<(usize, Vec<Request>)> = Vec::new();
        for (result, used) in results {
            own += used;
            let replies = result.map_err(|failed| {
                failure(plugin, place, failed.0, failed.1.iter().map(|&i| items.ids[i]).collect())
            })?;
            plugin.check_run(&own).map_err(|fault| failure(plugin, place, fault, Vec::new()))?;
            for (index, reply) in replies {
                let blame = match reply {
                    Ok(Reply::Done(value)) => {
                        outcomes[index] = Some(Outcome::Done(value));
                        continue;
                    }
                    Ok(Reply::Ask(requests)) => {
                        match check_asking(plugin, &requests, answers[index].len(), rounds) {
                            Ok(()) => {
                                asking.push((index, requests));
                                continue;
                            }
                            Err(fault) => fault,
                        }
                    }
                    Err(fault) => fault,
                };
                if plugin.setup().on_error == OnError::Stop || blame.always_stops() {
                    return Err(failure(plugin, place, blame, vec![items.ids[index]]));
                }
                outcomes[index] = Some(Outcome::Failed(blame.to_string()));
            }
        }
        pending = asking.iter().map(|(index, _)| *index).collect();
        answer_all((plugin, place, items), &asking, answerer, &mut answers, &before, &mut own)?;
        rounds += 1;
    }
    plugin.note_used(own);
    let mut spent = before;
    spent += own;
    let outcomes = outcomes.into_iter().map(|o| o.expect("nothing is pending")).collect();
    Ok(Stage { outcomes, spent })
}

type Replies<T> = Vec<(usize, Result<Reply<T>, Fault>)>;

/// Calls one batch in a fresh instance. Under `on_error = "drop"` a failing batch is halved until
/// the records at fault stand alone. An error carries the positions of the records concerned.
fn run_batch<T>(
    plugin: &Plugin,
    todos: &[Todo],
    call: &Call<T>,
    spent: &mut Spent,
) -> Result<Replies<T>, (Fault, Vec<usize>)> {
    let result = match plugin.session(spent) {
        Ok(mut session) => call(&mut session, todos),
        // Without a record: the configuration was accepted at load, so this is no record's fault,
        // but what a plugin does at random it may do here.
        Err(fault) => Err(fault.into()),
    };
    match result {
        Ok(replies) => {
            Ok(todos.iter().map(|todo| todo.index).zip(replies.into_iter().map(Ok)).collect())
        }
        Err(Blame { fault, record }) => {
            if plugin.setup().on_error == OnError::Stop || fault.always_stops() {
                let concerned = match record {
                    Some(record) => vec![todos[record].index],
                    None => todos.iter().map(|todo| todo.index).collect(),
                };
                return Err((fault, concerned));
            }
            if let [todo] = todos {
                return Ok(vec![(todo.index, Err(fault))]);
            }
            // Halving costs call after call.
            let all = || todos.iter().map(|todo| todo.index).collect();
            plugin.check_run(spent).map_err(|fault| (fault, all()))?;
            let (left, right) = todos.split_at(todos.len() / 2);
            let mut replies = run_batch(plugin, left, call, spent)?;
            replies.extend(run_batch(plugin, right, call, spent)?);
            Ok(replies)
        }
    }
}

/// Puts a fault into its place.
pub(super) fn failure(
    plugin: &Plugin,
    place: &Place,
    fault: Fault,
    records: Vec<&str>,
) -> PluginError {
    PluginError::Call(Box::new(CallError {
        identity: plugin.identity().clone(),
        fault,
        round: Some(place.round),
        stage: place.stage.to_owned(),
        records: records.into_iter().map(str::to_owned).collect(),
    }))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one batch is a list of one range")]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_by_number_and_by_size() {
        let check = |sizes: &[usize], expected: &[Range<usize>]| {
            assert_eq!(batches(sizes), expected);
        };
        check(&[], &[]);
        check(&[1], &[0..1]);
        check(&[1; 256], &[0..256]);
        check(&[1; 600], &[0..256, 256..512, 512..600]);
        let half = MAX_BATCH_BYTES / 2;
        check(&[half, half, 1], &[0..2, 2..3]);
        // One that is too large stands alone, whatever comes before and after.
        check(&[1, MAX_BATCH_BYTES * 3, 1], &[0..1, 1..2, 2..3]);
        check(&[MAX_BATCH_BYTES * 3; 2], &[0..1, 1..2]);
    }

    #[test]
    fn seeds_tell_places_apart() {
        let place = Place { run_seed: 17, round: 1, rounds: 3, stage: "filter", position: 0 };
        let seed = place.seed("p-001");
        assert_eq!(seed, place.seed("p-001"));
        assert_ne!(seed, place.seed("p-002"));
        assert_ne!(seed, Place { round: 2, ..place }.seed("p-001"));
        assert_ne!(seed, Place { position: 1, ..place }.seed("p-001"));
        assert_ne!(seed, Place { stage: "judge", ..place }.seed("p-001"));
        // The number of rounds is no part of it: a longer run begins like a shorter one.
        assert_eq!(seed, Place { rounds: 9, ..place }.seed("p-001"));
    }
}
