//! Runs: opening and resuming them, the loop over rounds, and how they end.

pub mod directory;
pub mod earlier;
pub mod journal;
pub mod manifest;
pub mod memory;
pub mod plan;
pub mod plugins;
pub mod preview;
pub mod seed;

mod aligned;
mod card;
mod export;
mod finish;
mod prepare;
mod trial;
pub mod watch;

pub use finish::put_result;
pub use prepare::{Pooled, Prepared, check_needs, pool_of, prepare};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use crate::memory::Budget;
use crate::plugin_set::{Keep, MOST_ROUNDS, Measure, PluginSet, Train};
use crate::progress::Progress;
use crate::report::{self, Measured, NothingKept, Report, RoundSummary};
use crate::round::budget::Budgets;
use crate::round::rows::Trained;
use crate::round::stage::{self, Notebook};
use crate::round::{self, Models, Pool, RunError, Workshop};
use directory::{Directory, DirectoryError};
use earlier::Earlier;
use manifest::Manifest;

/// What to do with a run directory that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Only a finished run of the same settings is welcome: its table is printed.
    Refuse,
    /// Go on with it.
    Resume,
    /// Throw it away.
    Fresh,
}

/// A run directory that is ready: begun, or to be gone on with, or finished.
#[derive(Debug)]
pub enum Opened {
    /// There is work to do.
    Open(Directory),
    /// The same run is finished there.
    Finished(Directory),
}

/// Opens the directory of a run, under the rules for directories that are there already.
pub fn open(
    path: &Path,
    manifest: &Manifest,
    existing: Existing,
) -> Result<Opened, DirectoryError> {
    let occupied = |what: &str, hint: &str| DirectoryError::Occupied {
        path: path.to_owned(),
        what: what.to_owned(),
        hint: hint.to_owned(),
    };
    if path.exists() && !path.is_dir() {
        return Err(occupied("is a file", "name another folder with `--out`"));
    }
    let holds_something = path.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != ".lock"))
    });
    let is_run = path.join(manifest::FILE).exists();
    if holds_something && !is_run {
        let unborn = path.join(format!("{}.tmp", manifest::FILE)).exists();
        if !unborn {
            return Err(occupied(
                "holds files that are not an aligner run",
                "name another folder with `--out`; nothing was written",
            ));
        }
    }
    let directory = Directory::open(path)?;
    if existing == Existing::Fresh {
        // Even a damaged manifest may be thrown away; one of a newer format may not.
        if let Err(error @ DirectoryError::Newer { .. }) = Manifest::read(directory.path()) {
            return Err(error);
        }
        begin_anew(&directory, manifest)?;
        return Ok(Opened::Open(directory));
    }
    let Some(found) = Manifest::read(directory.path())? else {
        directory.write_json(manifest::FILE, manifest)?;
        return Ok(Opened::Open(directory));
    };
    let differences = manifest.differences(&found);
    if !differences.is_empty() {
        return Err(occupied(
            &format!("holds another run: it differs in {}", differences.join(", ")),
            "name another folder with `--out`, or throw the old run away with `--fresh`",
        ));
    }
    if journal::has_ended(&journal::read(path)?) {
        return Ok(Opened::Finished(directory));
    }
    match existing {
        Existing::Resume => Ok(Opened::Open(directory)),
        Existing::Refuse | Existing::Fresh => Err(occupied(
            "holds this run, unfinished",
            "go on with `--resume`, or begin again with `--fresh`",
        )),
    }
}

/// Returns whether a folder holds a run that has ended. Touches nothing.
pub fn has_ended(path: &Path) -> bool {
    journal::read(path).is_ok_and(|entries| journal::has_ended(&entries))
}

/// Throws away what a run has done and writes the manifest of the new one. The manifest is replaced
/// last: without it, a kill would leave a folder that is no run.
fn begin_anew(directory: &Directory, manifest: &Manifest) -> Result<(), DirectoryError> {
    round::abandon(directory, MOST_ROUNDS)?;
    for entry in [
        journal::FILE,
        stage::TIMINGS,
        "pool",
        "rounds",
        "final",
        report::FILE,
        report::run::FILE,
        export::TENSORBOARD,
        directory::LOG,
        round::EXCHANGE,
        SERVERS,
    ] {
        directory.remove(entry)?;
    }
    directory.write_json(manifest::FILE, manifest)?;
    Ok(())
}

/// Does a run from where it stands to its end, and returns its report. What an earlier run has done is taken
/// over or done again, as that says. A run that has nothing left to train on has ended too
/// ([`Report::nothing_kept`]).
pub fn execute(
    prepared: &Prepared,
    models: &Models,
    directory: Directory,
    earlier: Option<Arc<Earlier>>,
    memory: &Budget<'_>,
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<Report, RunError> {
    let set = &prepared.set;
    let manifest = &prepared.manifest;
    let base = json!([
        manifest.format,
        manifest.engine,
        manifest.models,
        manifest.prompts.digest,
        set.run.seed,
        set.run.rounds,
    ]);
    let mut book = Notebook::open(directory, base, earlier)?;
    book.budgets = Budgets::open(&prepared.plugins, models, &book.journal);
    models.exchange_in(&book.directory);
    note_servers(&book, models)?;
    round::check_trainers(&prepared.set, &book)?;
    let ended = go_through(prepared, models, &mut book, memory, progress, cancel);
    let left = models.end_exchange();
    let report = ended?;
    left?;
    Ok(report)
}

/// The file that says how the servers of a run were found, each time that it was begun or gone on with: no part of
/// what the run is.
const SERVERS: &str = "servers.jsonl";

fn note_servers(book: &Notebook, models: &Models) -> Result<(), DirectoryError> {
    let probes = models.probes();
    if probes.is_empty() {
        return Ok(());
    }
    let (_, mut ledger) = book.directory.ledger::<serde_json::Value>(SERVERS)?;
    probes.iter().try_for_each(|probe| ledger.append(probe))
}

/// Does the rounds that are not done.
fn go_through(
    prepared: &Prepared,
    models: &Models,
    book: &mut Notebook,
    memory: &Budget<'_>,
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<Report, RunError> {
    let (set, manifest) = (&prepared.set, &prepared.manifest);
    let shop = Workshop {
        set,
        plugins: &prepared.plugins,
        models,
        catalogue: &prepared.catalogue,
        given: &prepared.given,
        aligned: prepared.aligned.as_ref(),
        held_out: &prepared.held_out,
        held_out_digest: manifest.held_out.as_ref().map_or("", |data| &data.digest),
        anchors: &prepared.anchors,
        anchors_digest: manifest.anchors.as_ref().map_or("", |data| &data.digest),
        memory,
        progress,
        cancel,
    };

    let initial = models.initial();
    let before = round::held_out(&shop, book, 0, &initial)?;
    let mut report = Report::new(&set.method.name, &set.models.policy, before);
    check_start(set, &report)?;
    let mut pool = Pool::new(prepared.prompts.clone());
    let mut pool_drops = round::pool(&shop, book, &mut pool, &initial)?;
    if pool.is_empty() {
        let records = prepared.prompts.len() as u64;
        let (dropped, signals) = (pool_drops, BTreeMap::new());
        report.nothing_kept = Some(NothingKept { round: 0, records, dropped, signals });
        return finish::finish(prepared, book, report, "nothing-kept");
    }
    if manifest.prompts.duplicates > 0 {
        pool_drops.insert("duplicate".into(), manifest.prompts.duplicates);
    }

    report.pool_dropped = pool_drops;
    let (mut policy, mut earlier) = (initial, Vec::<Trained>::new());
    let mut reason = "rounds";
    for number in 1..=set.run.rounds {
        let outcome = match round::round(&shop, book, number, &mut pool, &policy, &earlier) {
            // The same settings keep none again, so this is how the run ends; what earlier rounds made
            // is its result.
            Err(RunError::NothingKept { nothing, .. }) => {
                report.nothing_kept = Some(nothing);
                choose(prepared, &mut report);
                reason = "nothing-kept";
                break;
            }
            Err(error) => match watch::diverged(set.watch.as_ref(), number, &error) {
                Some(diverged) => {
                    report.diverged = Some(diverged);
                    choose(prepared, &mut report);
                    round::forget(book, number)?;
                    reason = "alarm";
                    break;
                }
                None => return Err(error),
            },
            Ok(outcome) => outcome,
        };
        if let Some(name) = set.save_as(number) {
            models.save(name, &outcome.policy);
        }
        // A reward model is no policy: the next round goes on from the one that entered this.
        if !outcome.policy.is_reward_model() {
            policy = outcome.policy;
        }
        earlier.extend(outcome.trained);
        report.rounds.push(outcome.summary);
        choose(prepared, &mut report);
        book.directory.write_json(report::FILE, &report)?;
        report::run::put(&book.directory, manifest, &report)?;
        export::after_round(&book.directory, &report)?;
        if set.run.keep == Keep::Last {
            let bests = [report.best_round, spare(prepared, &report, number)];
            remove_models(prepared, book, number, bests)?;
        }
        if set.watch.as_ref().is_some_and(|watch| watch::ends(watch, &report.alarms)) {
            reason = "alarm";
            break;
        }
        if should_stop(prepared, &report) && number < set.run.rounds {
            reason = "early-stop";
            break;
        }
    }
    finish::finish(prepared, book, report, reason)
}

/// Removes the whole models of the rounds before `last`, but for the best one, those that are saved under a
/// name, and the one that the next round goes on from. No later round asks for the others, and none of them
/// can become the best any more, unless an alarm takes the policy back that they go on with ([`spare`]).
fn remove_models(
    prepared: &Prepared,
    book: &mut Notebook,
    last: u32,
    bests: [u32; 2],
) -> Result<(), DirectoryError> {
    let set = &prepared.set;
    let makes_policy = |&round: &u32| !set.train(round).is_some_and(Train::makes_reward_model);
    let policy = (1..=last).rfind(makes_policy);
    let needed = |round: u32| {
        bests.contains(&round) || Some(round) == policy || set.save_as(round).is_some()
    };
    for round in (1..last).filter(|&round| !needed(round)) {
        if prepared.set.train(round).is_some_and(|train| train.lora.is_none()) {
            let folder = stage::folder(round);
            book.journal.remove(&book.directory, &format!("{folder}/model"))?;
            if prepared.set.extrapolate(round).is_some() {
                let folder = format!("{folder}/{}", round::EXTRAPOLATED_MODEL);
                book.journal.remove(&book.directory, &folder)?;
            }
        }
    }
    Ok(())
}

/// Fails where the model that a run begins with is beyond a limit of `[watch]`.
fn check_start(set: &PluginSet, report: &Report) -> Result<(), RunError> {
    let beyond = set.watch.as_ref().and_then(|watch| watch::beyond_before(watch, report));
    match beyond {
        None => Ok(()),
        Some((signal, value, limit)) => Err(RunError::Settings {
            what: format!(
                "`watch.{signal}` has `{limit}`, and it is {value:.4} before the first round: every \
                 round would raise an alarm"
            ),
            hint: "give it a limit that the initial model keeps; `max_rise` and `max_fall` count from \
                   what it is"
                .into(),
        }),
    }
}

/// Says of a report what has gone wrong, which round is the best, and what a reader must know of it.
fn choose(prepared: &Prepared, report: &mut Report) {
    let set = &prepared.set;
    if let Some(watch) = &set.watch {
        report.alarms = watch::alarms(set, watch, report);
        report.blamed = watch::blamed(watch, report);
    }
    let measure = stop_measure(prepared);
    report.best_round = best_round(report, set, measure);
    report.warning = measure.and_then(|measure| no_better(report, measure));
}

/// Returns the round that is the best where an alarm of the next one blames the policy that enters it.
fn spare(prepared: &Prepared, report: &Report, round: u32) -> u32 {
    let set = &prepared.set;
    match &set.watch {
        Some(watch) if watch.on_alarm.ends() => {
            let blamed = Some(set.entering(round + 1));
            let report = Report { blamed, ..report.clone() };
            best_round(&report, set, stop_measure(prepared))
        }
        _ => report.best_round,
    }
}

/// Returns the measure that chooses the best round: what the judge thinks of anchors does only where it is named.
fn stop_measure(prepared: &Prepared) -> Option<Measure> {
    let evaluate = prepared.set.evaluate.as_ref()?;
    match evaluate.early_stop {
        Some(stop) => Some(stop.measure),
        None => {
            let mut prompts = evaluate.measures.iter().copied().filter(|m| m.is_held_out());
            prompts.find(|m| m.better(0.0, 1.0).is_some())
        }
    }
}

/// Returns the best round by a measure, the earlier of equals; the last one where nothing is measured. Where
/// the run's last round makes a reward model, that is the result: the rounds before it were for its sake. A
/// round that saves its policy for later ones makes a tool and no result, so it is the best only as long as
/// there is no other. After an alarm that rolls back, only the rounds before the one to blame count.
fn best_round(report: &Report, set: &PluginSet, measure: Option<Measure>) -> u32 {
    let sound = |row: &&RoundSummary| report.blamed.is_none_or(|blamed| row.round < blamed);
    let rounds: Vec<&RoundSummary> = report.rounds.iter().filter(sound).collect();
    let results: Vec<&RoundSummary> =
        rounds.iter().copied().filter(|row| set.save_as(row.round).is_none()).collect();
    let Some(last) = results.last() else {
        let tool = rounds.last().filter(|_| report.blamed.is_none());
        return tool.map_or(0, |row| row.round);
    };
    let makes_reward_model = set.train(last.round).is_some_and(Train::makes_reward_model);
    let value = |row: &RoundSummary| find(&row.held_out, measure?);
    let mut best: Option<&RoundSummary> = None;
    for &row in results.iter().filter(|row| !makes_reward_model && value(row).is_some()) {
        let better = match (best.and_then(value), value(row), measure) {
            (Some(old), Some(new), Some(measure)) => measure.better(new, old) == Some(true),
            _ => true,
        };
        if better {
            best = Some(row);
        }
    }
    best.unwrap_or(last).round
}

/// Says so where even the best round is no better than the model it began with.
fn no_better(report: &Report, measure: Measure) -> Option<String> {
    let best = report.rounds.iter().find(|row| row.round == report.best_round)?;
    let (new, old) = (find(&best.held_out, measure)?, find(&report.before, measure)?);
    let of_prompts = if measure.is_held_out() { "held-out " } else { "" };
    (measure.better(new, old) != Some(true)).then(|| {
        format!("no round is better than the initial model by {of_prompts}{}", measure.as_str())
    })
}

/// Returns whether the last `patience` rounds brought nothing better than what was before them.
fn should_stop(prepared: &Prepared, report: &Report) -> bool {
    let Some(stop) = prepared.set.evaluate.as_ref().and_then(|evaluate| evaluate.early_stop) else {
        return false;
    };
    let mut best = find(&report.before, stop.measure);
    let mut without = 0;
    for row in report.rounds.iter().filter(|row| prepared.set.save_as(row.round).is_none()) {
        let Some(new) = find(&row.held_out, stop.measure) else { continue };
        if best.is_none_or(|old| stop.measure.better(new, old) == Some(true)) {
            (best, without) = (Some(new), 0);
        } else {
            without += 1;
        }
    }
    without >= stop.patience
}

fn find(measures: &[Measured], measure: Measure) -> Option<f64> {
    measures.iter().find(|row| row.measure == measure.as_str()).map(|row| row.value)
}

/// Returns the directory of a run that names none: the method, the day and four digits of what the
/// run is, so that the same run on the same day finds itself.
pub fn default_directory(manifest: &Manifest, day: &str) -> PathBuf {
    let name = &manifest.plugin_set.method.name;
    PathBuf::from("runs").join(format!("{name}-{day}-{}", &manifest.digest()[..4]))
}
