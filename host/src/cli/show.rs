//! `aligner show DIR [RECORD]`: what became of a record. This file holds its arguments.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::Value;

use super::{CliError, exit, output};
use crate::{
    plugin::PLUGIN_ERROR,
    plugin_set::Source,
    progress::counted,
    record::{Finish, Measurement, Opinion, Text, Verdict},
    round::rows::{
        Filtered, Generated, Judged, Measured, Paired, Rendered, Sampled, Scored, Trained, Written,
    },
    round::stage::folder,
    run::{self, manifest},
};

/// Arguments of `show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Run directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Id of a record; without it, the records of the run are listed
    #[arg(value_name = "RECORD")]
    pub record: Option<String>,
    /// Only this round
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub round: Option<u32>,
    /// Only what was dropped, with plugin and reason
    #[arg(long, conflicts_with = "record")]
    pub dropped: bool,
}

/// Prints the life of a record, the list of records, or what was dropped.
pub fn main(args: &ShowArgs) -> Result<(), CliError> {
    output::print(&text(args)?)
}

/// Returns what is printed.
pub fn text(args: &ShowArgs) -> Result<String, CliError> {
    let run = &args.directory;
    manifest::check_format(run)?;
    if !run.join(manifest::FILE).exists() {
        let message = format!("`{}` is no run directory", run.display());
        return Err(CliError::new(exit::RUN_DIRECTORY, message));
    }
    // 0 is the pool.
    let rounds: Vec<u32> = match args.round {
        Some(round) => vec![round],
        None => (0..).take_while(|&n| n == 0 || run.join(folder(n)).is_dir()).collect(),
    };
    if let Some(round) = args.round
        && !run.join(folder(round)).is_dir()
    {
        let message = format!("`{}` has no round {round}", run.display());
        return Err(CliError::new(exit::RUN_DIRECTORY, message));
    }
    match &args.record {
        Some(record) => life(run, &rounds, record),
        None if args.dropped => dropped(run, &rounds),
        None => list(run, &rounds),
    }
}

/// Reads a stage's file; a stage that has not been done has no rows.
fn rows<T: serde::de::DeserializeOwned>(
    run: &Path,
    round: u32,
    stage: &str,
) -> Result<Vec<T>, CliError> {
    let path = run.join(folder(round)).join(format!("{stage}.jsonl"));
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(Vec::new()) };
    let row = |(index, line)| {
        serde_json::from_str(line).map_err(|error| {
            let place = format!("`{}` is damaged: line {}: {error}", path.display(), index + 1);
            CliError::new(exit::RUN_DIRECTORY, place)
        })
    };
    text.lines().enumerate().map(row).collect()
}

/// Returns what was completed: by a model, or with what was given.
fn completed(run: &Path, round: u32) -> Result<Vec<Generated>, CliError> {
    let given = rows(run, round, "given")?;
    if given.is_empty() { rows(run, round, "generate") } else { Ok(given) }
}

/// The filters' stages, in the order of a round.
const FILTERS: [&str; 4] = ["filter-sample", "filter-generate", "filter-judge", "filter-pair"];

/// The stages in which completions are measured, in the order of a round.
const MEASURES: [&str; 4] =
    ["measure-generate", "measure-judge", "measure-pair", "measure-difficulty"];

/// Returns one line for each record and round: what became of it.
fn list(run: &Path, rounds: &[u32]) -> Result<String, CliError> {
    let mut text = String::new();
    // The pool has a list of its own where it is asked for.
    let asked = |round: &&u32| **round > 0 || rounds.len() == 1;
    for &round in rounds.iter().filter(asked) {
        let mut ends: BTreeMap<String, String> = BTreeMap::new();
        for row in rows::<Written>(run, round, "write")? {
            let end = row.dropped.map_or("written".into(), |why| format!("dropped: {why}"));
            ends.insert(row.id, end);
        }
        for row in rows::<Sampled>(run, round, "sample")? {
            ends.insert(row.id, row.dropped.unwrap_or_else(|| "selected".into()));
        }
        for row in completed(run, round)? {
            ends.insert(row.id, row.dropped.unwrap_or_else(|| "completed".into()));
        }
        for stage in FILTERS {
            for row in rows::<Filtered>(run, round, stage)? {
                if let Verdict::Drop(reason) = row.verdict {
                    ends.insert(row.id, format!("dropped: {reason} ({})", row.plugin));
                }
            }
        }
        for row in rows::<Paired>(run, round, "pair")? {
            if let Some(why) = row.dropped {
                ends.insert(row.id, format!("dropped: {why}"));
            }
        }
        for row in rows::<Trained>(run, round, "train")? {
            if row.round == round {
                let end = row.dropped.map_or("trained".into(), |why| format!("dropped: {why}"));
                ends.insert(row.record_id, end);
            }
        }
        for row in rows::<Scored>(run, round, "difficulty")?.into_iter().filter(|_| round == 0) {
            let end = row.difficulty.map_or("dropped".to_owned(), |it| format!("scored {it:.4}"));
            ends.insert(row.id, end);
        }
        for (id, end) in ends {
            let _ = writeln!(text, "{}  {id:<12} {end}", name_of(round));
        }
    }
    Ok(text)
}

/// Returns what was dropped, grouped by plugin and reason, with the records.
fn dropped(run: &Path, rounds: &[u32]) -> Result<String, CliError> {
    let mut text = String::new();
    for &round in rounds {
        let mut groups: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut note = |who: &str, why: &str, id: String| {
            groups.entry((who.to_owned(), why.to_owned())).or_default().push(id);
        };
        let sifted = rows::<Filtered>(run, round, FILTERS[0])?;
        let by_filter = |id: &str| {
            sifted.iter().any(|row| row.id == id && matches!(row.verdict, Verdict::Drop(_)))
        };
        for row in rows::<Written>(run, round, "write")? {
            if let Some(why) = &row.dropped
                && !by_filter(&row.id)
            {
                note("aligner", why, row.id);
            }
        }
        for row in rows::<Sampled>(run, round, "sample")? {
            if let Some(why) = &row.dropped {
                note("sampler", why, row.id);
            }
        }
        for row in completed(run, round)? {
            if let Some(why) = &row.dropped {
                note("aligner", why, row.id);
            }
        }
        for row in rows::<Scored>(run, round, "difficulty")? {
            if row.difficulty.is_none() {
                note("difficulty", PLUGIN_ERROR, row.id);
            }
        }
        for row in rows::<Judged>(run, round, "judge")? {
            match row.opinion {
                Some(Opinion::Unparsable(_)) => note("judge", "unparsable", row.id),
                None => note("judge", PLUGIN_ERROR, row.id),
                Some(_) => {}
            }
        }
        for row in rows::<Paired>(run, round, "pair")? {
            if let Some(why) = &row.dropped {
                note("aligner", why, row.id);
            }
        }
        for stage in FILTERS {
            for row in rows::<Filtered>(run, round, stage)? {
                if let Verdict::Drop(why) = &row.verdict {
                    note(&format!("{} {}", row.plugin, row.version), why, row.id);
                }
            }
        }
        for row in rows::<Trained>(run, round, "train")? {
            if let (Some(why), true) = (&row.dropped, row.round == round) {
                note("aligner", why, row.record_id);
            }
        }
        for ((who, why), ids) in groups {
            let place = if round == 0 { "pool".to_owned() } else { format!("round {round}") };
            let _ = writeln!(text, "{place:<8} {why} ({who}): {}", ids.len());
            let _ = writeln!(text, "         {}", ids.join(" "));
        }
    }
    if text.is_empty() {
        text.push_str("nothing was dropped\n");
    }
    Ok(text)
}

/// Returns all that the run knows of one record, stage by stage.
fn life(run: &Path, rounds: &[u32], record: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let prompt = seed_prompt(run, record)?;
    // A prompt is often put in the same way again: each rendering is shown once.
    let mut renderings: BTreeMap<String, (String, String)> = BTreeMap::new();
    for &round in rounds {
        let mut part = String::new();
        let written = rows::<Written>(run, round, "write")?.into_iter().find(|r| r.id == record);
        let slot = written.as_ref().map(|row| format!("slot-{}", row.slot));
        if let Some(row) = written {
            let end = row.dropped.map_or(String::new(), |why| format!(", dropped: {why}"));
            let _ = writeln!(part, "  write       slot {}{end}:", row.slot);
            block(&mut part, &shown(&row.prompt));
        }
        for row in rows::<Sampled>(run, round, "sample")?.into_iter().filter(|r| r.id == record) {
            let _ = writeln!(part, "  sample      exemplars {}", row.exemplars.join(", "));
        }
        for row in rows::<Rendered>(run, round, "render")?.into_iter().filter(|r| r.id == record) {
            for variant in row.variants {
                let rendering = shown(&variant.prompt);
                match renderings.get(&variant.name) {
                    Some((place, before)) if *before == rendering => {
                        let name = &variant.name;
                        let _ = writeln!(part, "  render      variant {name}: as in {place}");
                    }
                    _ => {
                        let _ = writeln!(part, "  render      variant {}:", variant.name);
                        block(&mut part, &rendering);
                        renderings.insert(variant.name, (name_of(round), rendering));
                    }
                }
            }
        }
        for row in completed(run, round)?.into_iter().filter(|r| r.id == record) {
            for variant in row.variants {
                let Some(completion) = variant.completion else { continue };
                let _ = writeln!(
                    part,
                    "  generate    variant {}: {}, logprob {:.2}, {}:",
                    variant.name,
                    counted(completion.tokens.into(), "tokens"),
                    completion.logprob,
                    match completion.finish {
                        Finish::Stop => "whole",
                        Finish::Length => "cut at its limit",
                    }
                );
                block(&mut part, &completion.text);
            }
        }
        for row in rows::<Scored>(run, round, "difficulty")?.into_iter().filter(|r| r.id == record)
        {
            if let Some(difficulty) = row.difficulty {
                let _ = writeln!(part, "  difficulty  {difficulty:.4}");
            }
        }
        for stage in MEASURES {
            for row in rows::<Measured>(run, round, stage)?.into_iter().filter(|r| r.id == record) {
                for Measurement { name, value } in row.measurements {
                    let _ = writeln!(part, "  {stage}: {name} {value:.4}");
                }
            }
        }
        for stage in FILTERS {
            for row in rows::<Filtered>(run, round, stage)?.into_iter().filter(|r| r.id == record) {
                let who = format!("  {stage:<11} {} {}", row.plugin, row.version);
                match row.verdict {
                    Verdict::Keep => {
                        let _ = writeln!(part, "{who}: keep");
                    }
                    Verdict::Drop(reason) => {
                        let _ = writeln!(part, "{who}: drop, {reason}");
                    }
                    Verdict::Revise(revisions) => {
                        for revision in revisions {
                            let _ = writeln!(part, "{who}: revise {}:", revision.variant);
                            block(&mut part, &revision.text);
                        }
                    }
                }
            }
        }
        for row in rows::<Judged>(run, round, "judge")?.into_iter().filter(|r| r.id == record) {
            let _ = writeln!(part, "  judge       {}", safe(&opinion(row.opinion.as_ref())));
        }
        for row in rows::<Paired>(run, round, "pair")?.into_iter().filter(|r| r.id == record) {
            let said = match (row.pair, row.dropped) {
                (Some(pair), _) => format!("{} over {}", pair.chosen, pair.rejected),
                (None, why) => format!("dropped: {}", why.unwrap_or_default()),
            };
            let _ = writeln!(part, "  pair        {said}");
        }
        for stage in ["write", "render", "judge", "difficulty"].into_iter().chain(FILTERS) {
            for row in rows::<Value>(run, round, &format!("{stage}-asks"))? {
                // What a written prompt was found in was asked for its slot.
                let of_slot =
                    stage == "write" && slot.as_deref().is_some_and(|s| row["record"] == *s);
                if of_slot || row["record"] == *record {
                    let _ = writeln!(part, "  {stage} asked");
                    block(&mut part, &row["request"].to_string());
                    block(&mut part, &row["answer"].to_string());
                }
            }
        }
        let trained = rows::<Trained>(run, round, "train")?;
        for (place, _) in trained.iter().enumerate().filter(|(_, r)| r.record_id == record) {
            let _ = writeln!(
                part,
                "  train       row {} of {} in train.jsonl",
                place + 1,
                trained.len()
            );
        }
        if !part.is_empty() {
            let _ = write!(text, "{}\n{part}", name_of(round));
        }
    }
    if text.is_empty() {
        let message = format!("no record `{record}` in `{}`", run.display());
        return Err(CliError::new(exit::RUN_DIRECTORY, message)
            .hint(format!("`aligner show {}` lists the records", run.display())));
    }
    Ok(prompt + &text)
}

/// Returns what the record began with, where it is of the pool and its file is as the run read it.
fn seed_prompt(run: &Path, record: &str) -> Result<String, CliError> {
    let Some(manifest) = manifest::Manifest::read(run)? else { return Ok(String::new()) };
    // A pipe in its place would be waited for.
    let is_file = |source: &Source| match source {
        Source::File(path) => path.is_file(),
        _ => true,
    };
    if !manifest.plugin_set.data.files().all(|(_, source)| is_file(source)) {
        return Ok(String::new());
    }
    let Ok(pool) = run::pool_of(&manifest.plugin_set) else { return Ok(String::new()) };
    let Some(prompt) = pool.prompts.iter().find(|prompt| prompt.id == record) else {
        return Ok(String::new());
    };
    if pool.digest() != manifest.prompts.digest {
        let source = safe(&manifest.prompts.source);
        return Ok(format!("prompt: `{source}` is not what the run read any more\n"));
    }
    let mut text = "prompt\n".to_owned();
    block(&mut text, &shown(&prompt.text));
    Ok(text)
}

fn name_of(round: u32) -> String {
    if round == 0 { "the pool".to_owned() } else { format!("round {round}") }
}

fn shown(text: &Text) -> String {
    match text {
        Text::Raw(text) => text.clone(),
        Text::Chat(messages) => {
            let lines = messages.iter().map(|m| format!("[{}] {}", m.speaker.as_str(), m.content));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

/// Adds text, indented.
fn block(text: &mut String, content: &str) {
    for line in content.lines() {
        let _ = writeln!(text, "      {}", safe(line));
    }
}

/// Returns a line in which control characters, which could move a terminal's cursor, are escapes.
fn safe(line: &str) -> String {
    line.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// Returns what a judge found, in words.
fn opinion(opinion: Option<&Opinion>) -> String {
    match opinion {
        Some(Opinion::Unparsable(what)) => format!("dropped: unparsable, {what}"),
        Some(opinion) => opinion.to_string(),
        None => format!("dropped: {PLUGIN_ERROR}"),
    }
}
