//! The suite for plugins over records: filters, judges, difficulty scorers, principles.

use std::ops::Range;

use super::answers::{Asked, Script};
use super::rebatch::{self, Way};
use super::records::{Maker, Shape, exemplars};
use super::report::Report;
use super::said::{PLACE, Said, Subject};
use super::{MOST_DATA, Tested, limits, texts, with_grants};
use crate::plugin::{Interface, Plugin, PluginError};
use crate::progress::counted;
use crate::record::Record;
use crate::round::needs_of;

/// Ordinary records of each shape.
const ORDINARY: usize = 12;
/// More than a batch has.
const MANY: usize = 300;

/// Runs every check of an interface.
pub fn check(tested: &Tested<'_>, interface: Interface, report: &mut Report) {
    let about = Some(interface);
    let data: Vec<Record> = tested.data.iter().take(MOST_DATA).cloned().collect();
    let begun = with_grants(tested.loaded, interface, tested.config, |plugin| {
        let maker = maker(plugin, interface)?;
        let subject = Subject { plugin, interface, script: Script::Plausible };
        let of_shape = |&shape: &Shape| tried(subject, &maker.ordinary(shape, ORDINARY));
        let shaped = shapes(interface).iter().map(of_shape).collect::<Result<Vec<_>, _>>()?;
        let of_data = tried(subject, &data)?;
        Ok((maker, shaped, of_data))
    });
    let (plugin, (maker, shaped, of_data)) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let check = if error.ungranted().is_some() { "asks" } else { "catalogue" };
            return report.fail(about, check, error.to_string());
        }
    };
    let subject = Subject { plugin: &plugin, interface, script: Script::Plausible };
    if interface == Interface::Principle {
        catalogue(&plugin, &maker, report);
    }

    let mut working = Vec::new();
    for (&shape, results) in shapes(interface).iter().zip(shaped) {
        if works(report, interface, shape.as_str(), results) {
            working.push(shape);
        }
    }
    let data_works = !data.is_empty() && works(report, interface, "data", of_data);
    if working.is_empty() && !data_works {
        let what = "it works on no record of any shape; `--data FILE` gives it records that it is meant for";
        return report.fail(about, "records", what);
    }

    (tested.hear)();
    nothing(&plugin, interface, report);
    let mut records: Vec<Record> =
        working.iter().flat_map(|&shape| maker.ordinary(shape, ORDINARY)).collect();
    if data_works {
        records.extend(data);
    }
    lengths(report, subject, &records);
    rebatched(report, subject, &records);

    (tested.hear)();
    awkward(report, subject, &maker, &working);
    (tested.hear)();
    asks(report, subject, &records);
    if !maker.needs.is_empty() {
        unmeasured(report, subject, &records);
    }
    (tested.hear)();
    limits::of_records(report, subject, &maker, &working);
}

fn shapes(interface: Interface) -> &'static [Shape] {
    match interface {
        Interface::Principle => &Shape::OF_PROMPTS,
        _ => &Shape::OF_RECORDS,
    }
}

/// Makes records for a plugin: a principle gets its own exemplars back.
fn maker(plugin: &Plugin, interface: Interface) -> Result<Maker, PluginError> {
    let exemplars = match interface {
        Interface::Principle => plugin.catalogue()?.into_iter().take(3).collect(),
        _ => exemplars(3),
    };
    Ok(Maker { exemplars, needs: needs_of(plugin).collect() })
}

/// Says whether the catalogue is always the same.
fn catalogue(plugin: &Plugin, maker: &Maker, report: &mut Report) {
    let about = Some(Interface::Principle);
    match (plugin.catalogue(), plugin.catalogue()) {
        (Ok(first), Ok(second)) if first == second => {
            let found = counted(first.len() as u64, "exemplars");
            let shown = if first.len() > maker.exemplars.len() {
                ", of which the first come back in records"
            } else {
                ""
            };
            report.ok(about, "catalogue", found + shown);
        }
        (Ok(_), Ok(_)) => report.fail(about, "catalogue", "another one when it is asked again"),
        (Err(error), _) | (_, Err(error)) => report.fail(about, "catalogue", error.to_string()),
    }
}

type Results = Vec<Result<Said, PluginError>>;

/// Calls the plugin with each record by itself; none after the first where it fails on that already, which
/// may take long. An error is that it asked a model which it may not.
fn tried(subject: Subject<'_>, records: &[Record]) -> Result<Results, PluginError> {
    let Some((first, rest)) = records.split_first() else { return Ok(Vec::new()) };
    let mut results = subject.alone(std::slice::from_ref(first));
    if !matches!(&results[0], Err(error) if !error.is_of_input()) {
        results.extend(subject.alone(rest));
    }
    let is_ungranted = |result: &Result<_, PluginError>| matches!(result, Err(error) if error.ungranted().is_some());
    match results.iter().position(is_ungranted) {
        Some(place) => Err(results.swap_remove(place).err().unwrap_or_else(no_error)),
        None => Ok(results),
    }
}

fn no_error() -> PluginError {
    PluginError::Host("an error was none".into())
}

/// Notes what came of records of a shape; returns whether the plugin works on such records. One that says
/// that they lack what it needs does nothing wrong.
fn works(report: &mut Report, interface: Interface, shape: &str, results: Results) -> bool {
    let about = Some(interface);
    let check = format!("records ({shape})");
    let all = results.len();
    let mut said = Said::default();
    let (mut refused, mut failed) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(of_one) => said.add(of_one),
            Err(error) if error.is_of_input() => refused.push(error),
            Err(error) => failed.push(error),
        }
    }
    match (failed.first(), refused.first()) {
        (Some(error), _) => {
            report.fail(about, &check, format!("it fails on {} of {all}\n{error}", failed.len()));
        }
        (None, Some(error)) => {
            let (refused, why) = (refused.len(), said_of(error));
            report.note(about, &check, format!("it does not work on {refused} of {all}\n{why}"));
        }
        (None, None) => report.ok(about, &check, said.summary()),
    }
    failed.is_empty() && refused.is_empty()
}

/// Returns the first line of an error.
fn said_of(error: &PluginError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Says what comes of an empty batch.
pub fn nothing(plugin: &Plugin, interface: Interface, report: &mut Report) {
    match plugin.call_with_nothing(interface, &PLACE) {
        Ok(()) => report.ok(Some(interface), "empty batch", ""),
        Err(error) => {
            report.fail(Some(interface), "empty batch", format!("the call fails\n{error}"))
        }
    }
}

/// Calls with batches of several sizes: as many results must come back.
fn lengths(report: &mut Report, subject: Subject<'_>, records: &[Record]) {
    let sizes = [1, 2, 7, MANY];
    for size in sizes {
        let mut batch: Vec<Record> = records.iter().cycle().take(size).cloned().collect();
        // No two records of a stage have the same id.
        batch.iter_mut().enumerate().for_each(|(at, it)| it.prompt.id = format!("record-{at}"));
        if let Err(error) = subject.records(&batch) {
            let found = format!("a stage of {} fails\n{error}", counted(size as u64, "records"));
            return report.fail(Some(subject.interface), "lengths", found);
        }
    }
    report.ok(Some(subject.interface), "lengths", format!("stages of {sizes:?} records"));
}

/// Calls with the same records in other batches.
fn rebatched(report: &mut Report, subject: Subject<'_>, records: &[Record]) {
    let names: Vec<String> = records.iter().map(|record| record.id().to_owned()).collect();
    let each = |calls: &[Vec<usize>]| {
        let mut all = Said::default();
        for call in calls {
            let batch: Vec<Record> = call.iter().map(|&at| records[at].clone()).collect();
            all.add(subject.records(&batch)?);
        }
        Ok(all)
    };
    let set = |calls: &[Vec<usize>]| {
        let ranges: Vec<Range<usize>> =
            calls.iter().map(|call| call[0]..call[call.len() - 1] + 1).collect();
        subject.set(records, &ranges)
    };
    match subject.interface {
        Interface::SetFilter => {
            rebatch::check(report, subject.interface, &names, &Way::IN_ORDER, &set);
        }
        _ => {
            rebatch::check(report, subject.interface, &names, &Way::ALL, &each);
        }
    }
}

/// Puts each awkward text into records of every shape that the plugin works on. Whatever is said of them is
/// right, but a failure stops a run.
fn awkward(report: &mut Report, subject: Subject<'_>, maker: &Maker, working: &[Shape]) {
    let Some(&ordinary) = working.first() else { return };
    let texts = texts::awkward();
    let completed: Vec<Shape> =
        working.iter().copied().filter(|&shape| is_completed(shape)).collect();
    let one = |text: &(&'static str, String)| {
        let mut records = Vec::new();
        for &shape in &completed {
            records.extend(with_completion(maker, shape, text));
        }
        of_text(subject, maker, ordinary, records)
    };
    if !completed.is_empty() {
        tell(report, subject.interface, "awkward completions", &texts, one);
    }
    // No prompt file holds a blank prompt.
    let texts: Vec<_> = texts.into_iter().filter(|(_, text)| !text.trim().is_empty()).collect();
    let exchange = &texts::EXCHANGES[0];
    tell(report, subject.interface, "awkward prompts", &texts, |(name, text)| {
        let record = |&shape: &Shape| {
            let id = format!("{name}, prompt, {}", shape.as_str());
            maker.record(shape, id, text, exchange.better, exchange.worse)
        };
        of_text(subject, maker, ordinary, working.iter().map(record).collect())
    });
}

fn is_completed(shape: Shape) -> bool {
    !matches!(shape, Shape::Prompt | Shape::History | Shape::Raw | Shape::Equipped | Shape::Open)
}

/// Returns records with an awkward text in one completion, and in both where there are two.
fn with_completion(maker: &Maker, shape: Shape, (name, text): &(&str, String)) -> Vec<Record> {
    let ordinary = &texts::EXCHANGES[0];
    let record = |part: &str, first: &str, second: &str| {
        let id = format!("{name}, {part}, {}", shape.as_str());
        maker.record(shape, id, ordinary.prompt, first, second)
    };
    let mut records = vec![record("completion", text, ordinary.worse)];
    if matches!(shape, Shape::Contrast | Shape::Paired) {
        records.push(record("bad completion", ordinary.better, text));
        records.push(record("both completions", texts::a_quarter(text), texts::a_quarter(text)));
    }
    records
}

/// Calls the plugin with the records of one text, up to the first that it fails on.
fn of_text(
    subject: Subject<'_>,
    maker: &Maker,
    ordinary: Shape,
    records: Vec<Record>,
) -> Result<Said, PluginError> {
    let mut all = Said::default();
    for record in records {
        let mut stage = match subject.interface {
            // What a set filter thinks of a text depends on what it has seen.
            Interface::SetFilter => maker.ordinary(ordinary, 3),
            _ => Vec::new(),
        };
        stage.push(record);
        let mut said = subject.records(&stage)?;
        said.labels.drain(..stage.len() - 1);
        all.add(said);
    }
    Ok(all)
}

/// Notes what came of awkward texts, each by itself.
fn tell(
    report: &mut Report,
    interface: Interface,
    check: &str,
    texts: &[(&'static str, String)],
    call: impl Fn(&(&'static str, String)) -> Result<Said, PluginError> + Send + Sync,
) {
    use rayon::prelude::*;
    let results: Results = texts.par_iter().map(call).collect();
    let about = Some(interface);
    let mut said = Said::default();
    let mut failed = Vec::new();
    for ((name, _), result) in texts.iter().zip(results) {
        match result {
            Ok(of_one) => said.add(of_one),
            Err(error) => failed.push((name, error)),
        }
    }
    let Some((_, first)) = failed.first() else {
        let found = format!("{} texts: {}", texts.len(), said.summary());
        return report.ok(about, check, found);
    };
    let names: Vec<String> = failed.iter().map(|(name, _)| format!("`{name}`")).collect();
    let merely = match first.is_of_input() {
        true => {
            "\n(a record that is merely bad is no error, which would stop a run: say so in the result)"
        }
        false => "",
    };
    let (count, all) = (failed.len(), texts.len());
    let found = format!("it fails on {count} of {all}: {}\n{first}{merely}", names.join(", "));
    report.fail(about, check, found);
}

/// Says what models were asked, and how the plugin takes answers that it does not hope for.
fn asks(report: &mut Report, subject: Subject<'_>, records: &[Record]) {
    let asked = subject.records(records).map(|said| said.asked).unwrap_or_default();
    if !told(report, subject.interface, &asked) {
        return;
    }
    for script in Script::AWKWARD {
        let subject = Subject { script, ..subject };
        scripted(report, subject.interface, script, subject.alone(records));
    }
}

/// Notes what models were asked; returns whether any was.
pub fn told(report: &mut Report, interface: Interface, asked: &Asked) -> bool {
    if asked.models.is_empty() {
        report.ok(Some(interface), "asks", "no model");
        return false;
    }
    let models = asked.models.iter().map(|(model, kinds)| {
        let kinds: Vec<String> =
            kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!("`{model}` ({})", kinds.join(", "))
    });
    let models: Vec<String> = models.collect();
    let names: Vec<String> = asked.models.keys().map(|model| format!("\"{model}\"")).collect();
    let found = format!(
        "{}; up to {} a record\nit may where its entry says `ask = {{ models = [{}] }}`",
        models.join(", "),
        counted(asked.most as u64, "requests"),
        names.join(", ")
    );
    report.ok(Some(interface), "asks", found);
    true
}

/// Notes how a plugin takes the answers of a script.
pub fn scripted(
    report: &mut Report,
    interface: Interface,
    script: Script,
    results: Vec<Result<Said, PluginError>>,
) {
    let about = Some(interface);
    let all = results.len();
    let (mut said, mut failed) = (Said::default(), Vec::new());
    for result in results {
        match result {
            Ok(of_one) => said.add(of_one),
            Err(error) => failed.push(error),
        }
    }
    match failed.first() {
        None => report.ok(about, script.as_str(), said.summary()),
        // Without an answer there may be nothing to say.
        Some(error)
            if script == Script::Unanswered && failed.iter().all(PluginError::is_of_input) =>
        {
            let found =
                format!("it cannot go on with {} of {all}\n{}", failed.len(), said_of(error));
            report.note(about, script.as_str(), found);
        }
        Some(error) => {
            report.fail(
                about,
                script.as_str(),
                format!("it fails on {} of {all}\n{error}", failed.len()),
            );
        }
    }
}

/// Says how the plugin takes records that could not be measured.
fn unmeasured(report: &mut Report, subject: Subject<'_>, records: &[Record]) {
    let mut bare = records.to_vec();
    bare.iter_mut().for_each(|record| record.measurements.clear());
    let about = Some(subject.interface);
    let failed: Vec<PluginError> =
        subject.alone(&bare).into_iter().filter_map(Result::err).collect();
    match failed.iter().find(|error| !error.is_of_input()).or(failed.first()) {
        None => report.ok(about, "without measurements", "works"),
        Some(error) if error.is_of_input() => {
            report.note(about, "without measurements", said_of(error));
        }
        Some(error) => report.fail(about, "without measurements", format!("it fails\n{error}")),
    }
}
