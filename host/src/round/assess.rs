//! The stages in which plugins form opinions: filter, judge, difficulty; and the order that follows.

use std::collections::BTreeMap;

use serde_json::json;

use super::ask::Asker;
use super::rows::{Filtered, Judged, Scored};
use super::stage::{Made, Notebook, Place};
use super::{Flow, Policy, RunError, Workshop};
use crate::plugin::{Interface, Outcome, PLUGIN_ERROR};
use crate::plugin_set::{After, Order};
use crate::record::{Opinion, Record, Revision, Verdict};
use crate::run::plugins;
use crate::run::seed;

/// Runs the filters that stand at one place, one after the other.
pub fn filter(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    after: After,
    flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let chain = || {
        let wanted = shop.set.filters.iter().map(|filter| &filter.plugin);
        let filters = shop.plugins.filters.iter().zip(wanted).enumerate();
        filters.filter(|(_, ((place, _), _))| *place == after)
    };
    if chain().next().is_none() {
        return Ok(flow);
    }
    shop.check_cancel(book)?;
    let place = Place { round, stage: filter_stage(after) };
    let keys: Vec<_> = chain()
        .map(|(_, ((_, plugin), wanted))| plugins::key(Some(plugin), Some(wanted)))
        .collect();
    let depends = json!([flow.digest, keys, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let mut left = flow.records.clone();
        let (mut rows, mut fuel) = (Vec::new(), 0);
        for (position, ((_, plugin), _)) in chain() {
            let at = shop.plugin_place(place, position);
            let stage = if plugin.has(Interface::SetFilter) {
                plugin.filter_set(&at, &left)?
            } else {
                plugin.filter(&at, &left, &mut asker)?
            };
            fuel += stage.spent.fuel;
            let mut next = Vec::new();
            for (mut record, outcome) in left.into_iter().zip(stage.outcomes) {
                let verdict =
                    done(&record, outcome).unwrap_or_else(|| Verdict::Drop(PLUGIN_ERROR.into()));
                rows.push(Filtered {
                    id: record.id().into(),
                    plugin: plugin.name().into(),
                    version: plugin.version().into(),
                    verdict: verdict.clone(),
                });
                if abide(&mut record, &verdict) {
                    next.push(record);
                }
            }
            left = next;
        }
        let kept = left.len() as u64;
        asker.close(book, Made::rows(rows).count("kept", kept).count("fuel", fuel))
    })?;
    Ok(follow(Flow { digest: output.digest, ..flow }, &output.rows))
}

/// Returns what a plugin made of a record; where it failed (under `on_error = "drop"`), the log says
/// how.
pub(super) fn done<T>(record: &Record, outcome: Outcome<T>) -> Option<T> {
    match outcome {
        Outcome::Done(result) => Some(result),
        Outcome::Failed(why) => {
            tracing::warn!(record = record.id(), "{why}");
            None
        }
    }
}

/// Returns the stage of the filters at a place, which names their file.
pub fn filter_stage(after: After) -> &'static str {
    match after {
        After::Sample => "filter-sample",
        After::Generate => "filter-generate",
        After::Judge => "filter-judge",
        After::Pair => "filter-pair",
    }
}

/// Carries out a verdict; returns whether the record stays.
fn abide(record: &mut Record, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Keep => true,
        Verdict::Drop(_) => false,
        Verdict::Revise(revisions) => {
            for Revision { variant, text, finish } in revisions {
                let variant = record.variants.iter_mut().find(|found| found.name == *variant);
                if let Some(completion) = variant.and_then(|found| found.completion.as_mut()) {
                    completion.text = text.clone();
                    completion.finish = *finish;
                }
            }
            true
        }
    }
}

/// Carries out the verdicts of a whole stage.
fn follow(mut flow: Flow, rows: &[Filtered]) -> Flow {
    let mut verdicts: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
    for row in rows {
        verdicts.entry(&row.id).or_default().push(&row.verdict);
    }
    for mut record in std::mem::take(&mut flow.records) {
        let said = verdicts.get(record.id()).map_or(&[][..], Vec::as_slice);
        let dropped = said.iter().find_map(|verdict| match verdict {
            Verdict::Drop(reason) => Some(reason),
            _ => None,
        });
        match dropped {
            Some(reason) => flow.note_drop(reason),
            None => {
                for verdict in said {
                    abide(&mut record, verdict);
                }
                flow.records.push(record);
            }
        }
    }
    flow
}

/// Lets the judge form an opinion of each record. Unparsable ones are dropped and counted.
pub fn judge(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    mut flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let Some(plugin) = &shop.plugins.judge else { return Ok(flow) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "judge" };
    let key = plugins::key(Some(plugin), shop.set.judge.as_ref());
    let depends = json!([flow.digest, key, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let at = shop.plugin_place(place, 0);
        let stage = plugin.judge(&at, &flow.records, &mut asker)?;
        let rows = flow.records.iter().zip(stage.outcomes).map(|(record, outcome)| Judged {
            id: record.id().into(),
            opinion: done(record, outcome),
        });
        asker.close(book, Made::rows(rows.collect()).count("fuel", stage.spent.fuel))
    })?;
    flow.digest = output.digest;
    for (mut record, row) in std::mem::take(&mut flow.records).into_iter().zip(output.rows) {
        match row.opinion {
            Some(Opinion::Rewards(rewards)) => record.rewards = rewards,
            Some(Opinion::Preference(pair)) => record.pair = Some(pair),
            Some(Opinion::Tie) => {}
            Some(Opinion::Unparsable(_)) => {
                flow.note_drop("unparsable");
                continue;
            }
            None => {
                flow.note_drop(PLUGIN_ERROR);
                continue;
            }
        }
        flow.records.push(record);
    }
    Ok(flow)
}

/// Scores how hard each record is. One that the plugin fails on (under `on_error = "drop"`) is
/// dropped.
pub fn difficulty(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    mut flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let Some(plugin) = &shop.plugins.difficulty else { return Ok(flow) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "difficulty" };
    let wanted = shop.set.difficulty.as_ref().map(|difficulty| &difficulty.plugin);
    let key = plugins::key(Some(plugin), wanted);
    let depends = json!([flow.digest, key, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let at = shop.plugin_place(place, 0);
        let stage = plugin.score(&at, &flow.records, &mut asker)?;
        let rows = flow.records.iter().zip(stage.outcomes).map(|(record, outcome)| Scored {
            id: record.id().into(),
            difficulty: done(record, outcome),
        });
        asker.close(book, Made::rows(rows.collect()).count("fuel", stage.spent.fuel))
    })?;
    flow.digest = output.digest;
    for (mut record, row) in std::mem::take(&mut flow.records).into_iter().zip(output.rows) {
        record.difficulty = row.difficulty;
        match row.difficulty {
            Some(_) => flow.records.push(record),
            None => flow.note_drop(PLUGIN_ERROR),
        }
    }
    Ok(flow)
}

/// Puts scored records into the order that `[difficulty] order` gives. Ties keep their order.
pub fn order(shop: &Workshop<'_>, round: u32, mut flow: Flow) -> Flow {
    let Some(difficulty) = &shop.set.difficulty else { return flow };
    let score = |record: &Record| record.difficulty.unwrap_or(f64::INFINITY);
    match difficulty.order {
        Order::EasyToHard => flow.records.sort_by(|a, b| score(a).total_cmp(&score(b))),
        Order::HardToEasy => flow.records.sort_by(|a, b| score(b).total_cmp(&score(a))),
        Order::Random => seed::shuffle(order_seed(shop, round), &mut flow.records),
        Order::AsGiven => {}
    }
    flow
}

/// Returns the seed of a random order.
pub fn order_seed(shop: &Workshop<'_>, round: u32) -> u64 {
    shop.seed(Place { round, stage: "order" })
}
