//! The stages in which plugins form opinions: filter, judge, difficulty; and the order that follows.

use std::collections::BTreeMap;

use serde_json::json;

use super::ask::Asker;
use super::measure;
use super::needs::Need;
use super::rows::{Filtered, Judged, Scored};
use super::stage::{Made, Notebook, Place};
use super::{Flow, Policy, RunError, Workshop};
use crate::plugin::{Answerer, Interface, NoAnswers, Outcome, PLUGIN_ERROR, Plugin};
use crate::plugin_set::{After, Order, PluginSet};
use crate::record::{Opinion, Record, Revision, Verdict};
use crate::run::plugins::{self, Plugins};
use crate::run::seed;

/// Answers what plugins ask, and measures what they need.
pub trait Measurer: Answerer {
    /// Gives records the measurements that they lack.
    fn meet(
        &mut self,
        place: Place<'_>,
        needs: &[Need],
        records: &mut [Record],
    ) -> Result<(), RunError>;
}

impl Measurer for Asker<'_> {
    fn meet(
        &mut self,
        place: Place<'_>,
        needs: &[Need],
        records: &mut [Record],
    ) -> Result<(), RunError> {
        measure::meet(self.shop(), place, needs, records, self)
    }
}

/// Where there is no model nothing is measured.
impl Measurer for NoAnswers {
    fn meet(&mut self, _: Place<'_>, _: &[Need], _: &mut [Record]) -> Result<(), RunError> {
        Ok(())
    }
}

/// The plugins of a set that form opinions, in one round of it.
#[derive(Clone, Copy)]
pub struct Assessors<'a> {
    /// What they are called for.
    pub set: &'a PluginSet,
    /// The loaded plugins, by their place in the set.
    pub plugins: &'a Plugins,
    /// 0 for the pool.
    pub round: u32,
}

/// Runs the filters that stand at one place, one after the other, as a stage of its own.
pub fn filter(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    after: After,
    flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let keys = filter_keys(shop, after);
    // Filters behind a judge look at what it said.
    let unjudged = after == After::Judge && shop.set.judge(round).is_none();
    if keys.is_empty() || unjudged {
        return Ok(flow);
    }
    shop.check_cancel(book)?;
    let place = Place { round, stage: filter_stage(after) };
    let depends = json!([flow.digest, keys, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let Sifted { kept, rows, fuel } =
            shop.assessors(round).sift(after, &[], flow.records.clone(), &mut asker)?;
        let kept = kept.len() as u64;
        asker.close(book, Made::rows(rows).count("kept", kept).count("fuel", fuel))
    })?;
    Ok(follow(Flow { digest: output.digest, ..flow }, &output.rows))
}

/// Returns what keys hold of the filters at one place: each with its position among all filters, which its
/// seeds are drawn from.
pub fn filter_keys(shop: &Workshop<'_>, after: After) -> Vec<serde_json::Value> {
    let wanted = shop.set.filters.iter().map(|filter| &filter.plugin);
    let filters = shop.plugins.filters.iter().zip(wanted).enumerate();
    let here = filters.filter(|(_, ((at, _), _))| *at == after);
    here.map(|(position, ((_, plugin), wanted))| {
        json!([position, plugins::key(Some(plugin), Some(wanted))])
    })
    .collect()
}

/// What the filters of one place made of some records.
pub struct Sifted {
    /// The records that stay, as they are then.
    pub kept: Vec<Record>,
    /// What was said, filter by filter.
    pub rows: Vec<Filtered>,
    /// Units that it took.
    pub fuel: u64,
}

impl Assessors<'_> {
    /// Runs the filters at one place over records; those over the whole stage see first what is `standing`
    /// already.
    pub fn sift(
        &self,
        after: After,
        standing: &[Record],
        records: Vec<Record>,
        asker: &mut dyn Measurer,
    ) -> Result<Sifted, RunError> {
        let place = Place { round: self.round, stage: filter_stage(after) };
        let filters = self.plugins.filters.iter().enumerate().filter(|(_, (at, _))| *at == after);
        let mut sifted = Sifted { kept: records, rows: Vec::new(), fuel: 0 };
        for (position, (_, plugin)) in filters {
            let at = place.of_plugin(self.set, position);
            // What filters before it have revised is measured again.
            let needs: Vec<Need> = measure::of_plugin(plugin).collect();
            asker.meet(place, &needs, &mut sifted.kept)?;
            let stage = if plugin.has(Interface::SetFilter) {
                plugin.filter_set(&at, standing, &sifted.kept)?
            } else {
                plugin.filter(&at, &sifted.kept, asker)?
            };
            sifted.fuel += stage.spent.fuel;
            for (mut record, outcome) in
                std::mem::take(&mut sifted.kept).into_iter().zip(stage.outcomes)
            {
                let verdict =
                    done(&record, outcome).unwrap_or_else(|| Verdict::Drop(PLUGIN_ERROR.into()));
                sifted.rows.push(Filtered {
                    id: record.id().into(),
                    plugin: plugin.name().into(),
                    version: plugin.version().into(),
                    verdict: verdict.clone(),
                });
                if abide(&mut record, &verdict) {
                    sifted.kept.push(record);
                }
            }
        }
        Ok(sifted)
    }

    /// Asks the judge about each record. Returns a row for each, and the fuel that it took.
    pub fn judge(
        &self,
        plugin: &Plugin,
        records: &[Record],
        asker: &mut dyn Measurer,
    ) -> Result<(Vec<Judged>, u64), RunError> {
        let at = Place { round: self.round, stage: JUDGE }.of_plugin(self.set, 0);
        let stage = plugin.judge(&at, records, asker)?;
        let rows = records.iter().zip(stage.outcomes).map(|(record, outcome)| Judged {
            id: record.id().into(),
            opinion: done(record, outcome),
        });
        Ok((rows.collect(), stage.spent.fuel))
    }

    /// Scores how hard each record is. Returns a row for each, and the fuel that it took.
    pub fn score(
        &self,
        plugin: &Plugin,
        records: &[Record],
        asker: &mut dyn Measurer,
    ) -> Result<(Vec<Scored>, u64), RunError> {
        let at = Place { round: self.round, stage: DIFFICULTY }.of_plugin(self.set, 0);
        let stage = plugin.score(&at, records, asker)?;
        let rows = records.iter().zip(stage.outcomes).map(|(record, outcome)| Scored {
            id: record.id().into(),
            difficulty: done(record, outcome),
        });
        Ok((rows.collect(), stage.spent.fuel))
    }
}

/// The stage of the judge.
pub const JUDGE: &str = "judge";
/// The stage of the difficulty plugin.
pub const DIFFICULTY: &str = "difficulty";

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

/// Carries out a verdict; returns whether the record stays. What was measured of a record goes where its
/// completions change.
pub fn abide(record: &mut Record, verdict: &Verdict) -> bool {
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
            record.measurements.clear();
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

/// Why a record is dropped of which the judge could not read what its model said.
pub const UNPARSABLE: &str = "unparsable";

/// Lets the judge form an opinion of each record. Unparsable ones are dropped and counted.
pub fn judge(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    mut flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let wanted = shop.set.judge(round);
    let Some(plugin) = shop.plugins.judge.as_ref().filter(|_| wanted.is_some()) else {
        return Ok(flow);
    };
    shop.check_cancel(book)?;
    let place = Place { round, stage: JUDGE };
    let key = plugins::key(Some(plugin), wanted);
    let depends = json!([flow.digest, key, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let (rows, fuel) = shop.assessors(round).judge(plugin, &flow.records, &mut asker)?;
        asker.close(book, Made::rows(rows).count("fuel", fuel))
    })?;
    flow.digest = output.digest;
    for (mut record, row) in std::mem::take(&mut flow.records).into_iter().zip(output.rows) {
        match row.opinion {
            Some(Opinion::Rewards(rewards)) => record.rewards = rewards,
            Some(Opinion::Preference(pair)) => record.pair = Some(pair),
            Some(Opinion::Tie) => {}
            Some(Opinion::Unparsable(_)) => {
                flow.note_drop(UNPARSABLE);
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
    let place = Place { round, stage: DIFFICULTY };
    let wanted = shop.set.difficulty.as_ref().map(|difficulty| &difficulty.plugin);
    let key = plugins::key(Some(plugin), wanted);
    let depends = json!([flow.digest, key, policy.digest, shop.asking_key(place)]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let (rows, fuel) = shop.assessors(round).score(plugin, &flow.records, &mut asker)?;
        asker.close(book, Made::rows(rows).count("fuel", fuel))
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
