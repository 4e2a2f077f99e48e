//! What is otherwise in one run than in another, record by record: verdicts, opinions, pairs, lessons.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Report, number};
use crate::progress::counted;
use crate::record::{Text, Verdict};
use crate::round::rows::{
    Filtered, Generated, Judged, Lesson, Paired, Sampled, Scored, Trained, Written,
};
use crate::round::stage::{Place, folder, label};
use crate::run::directory::{DirectoryError, read_ledger};
use crate::shown::printable;

/// Records that are named for each stage in the text.
const NAMED: usize = 5;
/// Characters of a text that are shown.
const GIST: usize = 48;

/// A record of which a stage made something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its id.
    pub record: String,
    /// What the stage made in the first run; absent where the record was not there.
    pub before: Option<String>,
    /// What it made in the second.
    pub after: Option<String>,
}

/// A stage that made something else of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageChanges {
    /// 0 for the pool.
    pub round: u32,
    /// For example `filter-generate`.
    pub stage: String,
    /// Records that the stage had in either run.
    pub records: usize,
    /// In the order of ids.
    pub changes: Vec<Change>,
}

/// The stages whose rows are compared, in the order of a round.
const STAGES: [&str; 11] = [
    "write",
    "filter-sample",
    "sample",
    "generate",
    "filter-generate",
    "judge",
    "filter-judge",
    "pair",
    "filter-pair",
    "train",
    "anchors",
];

/// Compares the rows of two runs. Stages that made the same of every record are left out.
///
/// Fails where a file is damaged.
pub fn changes(first: &Path, second: &Path) -> Result<Vec<StageChanges>, DirectoryError> {
    let there = |round: u32| [first, second].iter().any(|run| run.join(folder(round)).is_dir());
    let mut found = Vec::new();
    for round in (0..).take_while(|&round| round == 0 || there(round)) {
        let scored = if round == 0 { Some("difficulty") } else { None };
        for stage in STAGES.into_iter().chain(scored) {
            let (before, after) = (made(first, round, stage)?, made(second, round, stage)?);
            let mut ids: Vec<&String> = before.keys().chain(after.keys()).collect();
            ids.sort();
            ids.dedup();
            let changes: Vec<Change> = ids
                .iter()
                .filter(|id| before.get(**id) != after.get(**id))
                .map(|&id| Change {
                    record: id.clone(),
                    before: before.get(id).cloned(),
                    after: after.get(id).cloned(),
                })
                .collect();
            if !changes.is_empty() {
                let stage = stage.to_owned();
                found.push(StageChanges { round, stage, records: ids.len(), changes });
            }
        }
    }
    Ok(found)
}

/// Returns what a stage made of each record, in words.
fn made(run: &Path, round: u32, stage: &str) -> Result<BTreeMap<String, String>, DirectoryError> {
    let place = Place { round, stage };
    let file = run.join(place.file());
    Ok(match stage {
        "write" => each(&file, |row: Written| {
            let end = row.dropped.map_or(String::new(), |why| format!(", dropped: {why}"));
            (row.id, format!("{}{end}", quoted(&shown(&row.prompt))))
        })?,
        "sample" => each(&file, |row: Sampled| {
            let equipment = match row.exemplars.is_empty() {
                true => "selected".to_owned(),
                false => format!("selected with {}", row.exemplars.join(", ")),
            };
            (row.id, row.dropped.map_or(equipment, |why| format!("dropped: {why}")))
        })?,
        "generate" => each(&file, |row: Generated| {
            let texts = row.variants.iter().filter_map(|variant| {
                let completion = variant.completion.as_ref()?;
                Some(format!("{} {}", variant.name, quoted(&completion.text)))
            });
            let said = texts.collect::<Vec<_>>().join(", ");
            (row.id, row.dropped.map_or(said, |why| format!("dropped: {why}")))
        })?,
        "judge" | "anchors" => each(&file, |row: Judged| {
            (row.id, row.opinion.map_or("failed".into(), |opinion| opinion.to_string()))
        })?,
        "pair" => each(&file, |row: Paired| {
            let pair = row.pair.map(|pair| format!("{} over {}", pair.chosen, pair.rejected));
            let dropped = row.dropped.map(|why| format!("dropped: {why}"));
            (row.id, pair.or(dropped).unwrap_or_default())
        })?,
        "difficulty" => each(&file, |row: Scored| {
            (row.id, row.difficulty.map_or("none".into(), |value| format!("{value}")))
        })?,
        "train" => each(&file, |row: Trained| {
            let lesson = match &row.lesson {
                Lesson::Preference { chosen, rejected, .. } => {
                    format!("{} over {}", quoted(chosen.words()), quoted(rejected.words()))
                }
                Lesson::Completion { completion, .. } => quoted(completion.words()),
            };
            let id = format!("{}@{}", row.record_id, row.round);
            (id, row.dropped.map_or(lesson, |why| format!("dropped: {why}")))
        })?,
        // Several filters stand at one place: what they said of a record is one line.
        _ => {
            let mut said: BTreeMap<String, String> = BTreeMap::new();
            for row in read_ledger::<Filtered>(&file)? {
                let line = said.entry(row.id).or_default();
                let verdict = match row.verdict {
                    Verdict::Keep => continue,
                    Verdict::Drop(reason) => format!("dropped: {reason} ({})", row.plugin),
                    Verdict::Revise(revisions) => {
                        let texts = revisions.iter().map(|it| quoted(&it.text));
                        format!("{} by {}", texts.collect::<Vec<_>>().join(", "), row.plugin)
                    }
                };
                let comma = if line.is_empty() { "" } else { ", " };
                let _ = write!(line, "{comma}{verdict}");
            }
            said.values_mut().filter(|line| line.is_empty()).for_each(|line| line.push_str("kept"));
            said
        }
    })
}

fn each<T: DeserializeOwned>(
    file: &Path,
    told: impl Fn(T) -> (String, String),
) -> Result<BTreeMap<String, String>, DirectoryError> {
    Ok(read_ledger::<T>(file)?.into_iter().map(told).collect())
}

fn shown(text: &Text) -> String {
    match text {
        Text::Raw(text) => text.clone(),
        Text::Chat(messages) => messages.last().map_or(String::new(), |last| last.content.clone()),
    }
}

/// Returns a text between quotes, whole: what is compared must not be cut.
fn quoted(text: &str) -> String {
    format!("“{text}”")
}

/// Returns the beginning of what is shown of a record.
fn gist(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(GIST) {
        Some((at, _)) => printable(&format!("{}…", &line[..at])),
        None => printable(&line),
    }
}

/// Returns the changes in words, ending in a newline: how many records each stage made something else of,
/// the first of them, and the measures of both runs.
pub fn text(changes: &[StageChanges], first: &Report, second: &Report) -> String {
    let mut text = String::new();
    for stage in changes {
        let place = Place { round: stage.round, stage: &stage.stage };
        let _ = writeln!(
            text,
            "{}: otherwise for {} of {}",
            label(place),
            stage.changes.len(),
            counted(stage.records as u64, "records")
        );
        for change in stage.changes.iter().take(NAMED) {
            let side = |made: &Option<String>| made.as_deref().map_or("not there".into(), gist);
            let (before, after) = (side(&change.before), side(&change.after));
            let _ = match before == after {
                false => writeln!(text, "  {}: {before} → {after}", printable(&change.record)),
                true => writeln!(
                    text,
                    "  {}: {before} → it goes on otherwise",
                    printable(&change.record)
                ),
            };
        }
        let more = stage.changes.len().saturating_sub(NAMED);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more");
        }
    }
    if changes.is_empty() {
        text.push_str("every record went the same way\n");
    }
    let rounds = first.rounds.len().max(second.rounds.len());
    for index in 0..rounds {
        let (ours, theirs) = (first.rounds.get(index), second.rounds.get(index));
        let kept = |round: Option<&super::RoundSummary>| {
            round.map_or("-".to_owned(), |round| round.kept.to_string())
        };
        let mut line = format!("round {}: kept {} → {}", index + 1, kept(ours), kept(theirs));
        let (ours, theirs) = (ours.map(|it| &it.held_out), theirs.map(|it| &it.held_out));
        for measure in ours.into_iter().flatten() {
            let other = theirs.into_iter().flatten().find(|it| it.measure == measure.measure);
            let other = other.map_or("-".to_owned(), |other| number(other.value));
            let _ = write!(line, ", {} {} → {other}", measure.measure, number(measure.value));
        }
        let _ = writeln!(text, "{line}");
    }
    for (which, report) in [("first", first), ("second", second)] {
        let nothing = report.nothing_kept.as_ref().map(ToString::to_string);
        if let Some(why) = nothing.or(report.diverged.as_ref().map(ToString::to_string)) {
            let _ = writeln!(text, "the {which} run ended there: {why}");
        }
    }
    text
}
