//! Measurements: numbers of completions that the host makes because a plugin says that it needs them.
//!
//! They are made before the plugins of a place are called, in a stage of their own, and travel with the
//! records from there on. Where a filter revises a completion, what was measured of it goes with it.

use serde_json::json;

use super::ask::Asker;
use super::cluster::clusters;
use super::models::{ScoreJob, row};
use super::needs::{Need, Number, What, variant};
use super::rows::Measured;
use super::stage::{Made, Notebook, Place, label};
use super::{Flow, Policy, RunError, Workshop};
use crate::embedding::embed;
use crate::generate::{SequenceError, Settings};
use crate::logprob::Row;
use crate::plugin::Plugin;
use crate::plugin_set::After;
use crate::progress::go_on;
use crate::record::{Answer, Measurement, Record};
use crate::run::seed;

/// Completions that are looked for at once.
const AT_ONCE: usize = 64;

/// Measures what the plugins of a place need and the records do not carry yet. `stage` is
/// `measure-generate` before the filters over completions, `measure-judge` before the judge and the
/// filters after it, `measure-pair` and `measure-difficulty`.
pub fn measure(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    stage: &'static str,
    mut flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let needs = needs_at(shop, round, stage);
    if needs.is_empty() {
        return Ok(flow);
    }
    shop.check_cancel(book)?;
    let place = Place { round, stage };
    let names: Vec<&str> = needs.iter().map(|need| need.name.as_str()).collect();
    let depends = json!([flow.digest, names, policy.digest, shop.set.measure]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let mut records = flow.records.clone();
        meet(shop, place, &needs, &mut records, &mut asker)?;
        let made = records.into_iter().map(|record| Measured {
            id: record.id().to_owned(),
            measurements: record.measurements,
        });
        asker.close(book, Made::rows(made.collect()))
    })?;
    flow.digest = output.digest;
    for (record, row) in flow.records.iter_mut().zip(output.rows) {
        record.measurements = row.measurements;
    }
    Ok(flow)
}

/// Returns what the plugins at a place need, each measurement once.
fn needs_at(shop: &Workshop<'_>, round: u32, stage: &str) -> Vec<Need> {
    let plugins = shop.plugins;
    let at = |after: After| {
        let filters = plugins.filters.iter().filter(move |(place, _)| *place == after);
        filters.map(|(_, plugin)| plugin).collect::<Vec<_>>()
    };
    let called = match stage {
        "measure-generate" => at(After::Generate),
        "measure-judge" if shop.set.judge(round).is_none() => Vec::new(),
        "measure-judge" => plugins.judge.iter().chain(at(After::Judge)).collect(),
        "measure-pair" => at(After::Pair),
        _ => plugins.difficulty.iter().collect(),
    };
    let mut needs: Vec<Need> = Vec::new();
    for need in called.into_iter().flat_map(of_plugin) {
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}

/// Returns what one plugin needs; that its names can be read was seen before anything was loaded.
pub fn of_plugin(plugin: &Plugin) -> impl Iterator<Item = Need> + '_ {
    plugin.needs().iter().filter_map(|name| Need::parse(name))
}

/// Gives records the measurements that they lack; one that has not the variants, or whose text the model
/// cannot read, is left without.
pub fn meet(
    shop: &Workshop<'_>,
    place: Place<'_>,
    needs: &[Need],
    records: &mut [Record],
    asker: &mut Asker<'_>,
) -> Result<(), RunError> {
    for need in needs {
        match &need.what {
            What::Scored { .. } => {
                scored(need, records, |model, jobs| asker.scores(model, jobs))?;
            }
            What::Cluster { completion } => {
                for (record, number) in numbers(shop, place, (need, completion), records, asker)? {
                    give(&mut records[record], need, number.into());
                }
            }
        }
    }
    Ok(())
}

/// Gives records the number that is needed of a score, each that lacks it and has both completion and prompt.
/// `score` answers jobs for a model, in their order.
pub fn scored<E>(
    need: &Need,
    records: &mut [Record],
    score: impl FnOnce(&str, &[ScoreJob]) -> Result<Vec<Answer>, E>,
) -> Result<(), E> {
    let What::Scored { completion, prompt, initial, number } = &need.what else {
        return Ok(());
    };
    let (mut places, mut jobs) = (Vec::new(), Vec::new());
    for (place, record) in records.iter().enumerate().filter(|(_, record)| !need.is_met(record)) {
        let completion = variant(record, completion).and_then(|found| found.completion.as_ref());
        if let (Some(completion), Some(under)) = (completion, variant(record, prompt)) {
            places.push(place);
            jobs.push(ScoreJob {
                record: record.id().to_owned(),
                prompt: under.prompt.clone(),
                completion: completion.text.clone(),
            });
        }
    }
    let answers = score(if *initial { "initial" } else { "policy" }, &jobs)?;
    for (place, answer) in places.into_iter().zip(answers) {
        let Answer::Score(score) = answer else { continue };
        let value = match number {
            Number::Logprob => Some(score.logprob / f64::from(score.tokens)),
            Number::Perplexity => Some(score.perplexity()),
            Number::Entropy => score.entropy,
        };
        if let Some(value) = value {
            give(&mut records[place], need, value);
        }
    }
    Ok(())
}

/// Returns the cluster of each record's completion, by where the policy's last hidden rows lie on average
/// over it. What cluster a completion is in depends on all others, so unless every record has its number
/// all of them get new ones.
fn numbers(
    shop: &Workshop<'_>,
    place: Place<'_>,
    (need, completion): (&Need, &str),
    records: &[Record],
    asker: &Asker<'_>,
) -> Result<Vec<(usize, u32)>, RunError> {
    let encode = |record: &Record| {
        let found = variant(record, completion)?;
        let text = &found.completion.as_ref()?.text;
        let row = row(shop.models.policy(), &found.prompt, text).ok()?;
        (row.from < row.tokens.len()).then_some(row)
    };
    let rows = records.iter().enumerate().filter_map(|(at, record)| Some((at, encode(record)?)));
    let (places, rows): (Vec<usize>, Vec<Row>) = rows.unzip();
    if places.iter().all(|&place| need.is_met(&records[place])) {
        return Ok(Vec::new());
    }
    let (engine, adapter) = shop.models.scorer(asker.policy())?;
    let bar = shop.progress.stage(&label(place), rows.len() as u64, "completions");
    let mut points = Vec::with_capacity(rows.len());
    for (rows, places) in rows.chunks(AT_ONCE).zip(places.chunks(AT_ONCE)) {
        let mut go_on = |_| go_on(shop.cancel);
        let settings = Settings::on(shop.models.device());
        let found = embed(&engine, adapter, rows, &settings, &mut go_on);
        if let Err(SequenceError::Cancelled) = found {
            asker.check_cancel()?;
        }
        let id = |row: usize| records[places[row]].id();
        let found = found.map_err(|error| RunError::of_engine(error, id));
        points.extend(found.map_err(RunError::of_policy(asker.policy().round))?);
        bar.inc(rows.len() as u64);
    }
    bar.finish();
    let asked = shop.set.measure.and_then(|measure| measure.clusters);
    let k = asked.map_or(points.len().div_ceil(3), |k| k as usize);
    let seed = seed::of([shop.seed(place).into(), need.name.as_str().into()]);
    Ok(places.into_iter().zip(clusters(&points, k, seed)).collect())
}

/// Gives a record a measurement; numbers that are not finite are none.
fn give(record: &mut Record, need: &Need, value: f64) {
    if value.is_finite() {
        record.measurements.retain(|measurement| measurement.name != need.name);
        record.measurements.push(Measurement { name: need.name.clone(), value });
    }
}
