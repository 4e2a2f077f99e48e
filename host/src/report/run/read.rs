//! Reads what a page of a run shows out of its directory. Touches nothing, and goes on where something is not
//! there or cannot be read: a run may be going on, or have been cut short.
//!
//! Rows are read one at a time, since completions of a whole run need not fit into memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::Time;
use super::data::{Cost, Details, Placed, RoundDetails, Sample, Spread, SpreadPart, Update};
use super::funnel::{Drop, Sieve};
use super::held_out::{Answers, held_out};
use crate::plugin_set::{PluginSet, Scope};
use crate::record::{Opinion, Verdict};
use crate::report::Report;
use crate::report::page::histogram::histogram;
use crate::report::page::thinned;
use crate::round::rows::{
    Asked, Filtered, Generated, Judged, Lesson, Paired, Sampled, Scored, Step, Trained, Written,
};
use crate::round::stage::{TIMINGS, Timing, folder};
use crate::run::directory::read_ledger;
use crate::run::journal::{self, Entry};

/// Points of the training that are shown, over all rounds.
const POINTS: usize = 150;
/// Rounds that have parts of their own in a histogram; of more, as many of them are taken evenly.
const SPREAD_ROUNDS: usize = 6;
/// Samples that are shown of each kind.
const SAMPLES: usize = 8;
/// Characters of a sample's text that are shown.
const CHARACTERS: usize = 900;
/// Why a record leaves that a plugin has failed on.
const FAILED: &str = crate::plugin::PLUGIN_ERROR;
/// What is named where no plugin but the host drops a record.
const BY_HOST: &str = "aligner";

struct Reader<'a> {
    run: &'a Path,
    set: Option<&'a PluginSet>,
    missing: Vec<String>,
}

/// What is found of each round, before it is put together.
#[derive(Default)]
struct Found {
    rounds: Vec<RoundDetails>,
    lengths: Vec<(SpreadPart, Vec<f64>)>,
    margins: Vec<(SpreadPart, Vec<f64>)>,
    difficulty: Vec<(SpreadPart, Vec<f64>)>,
    order: Vec<Placed>,
    learnt: Vec<Sample>,
    steps: u64,
}

/// Reads a run. `set` says how it pairs and scores, where that is known.
pub fn details(run: &Path, report: &Report, set: Option<&PluginSet>) -> Details {
    let mut reader = Reader { run, set, missing: Vec::new() };
    let last = (1..).take_while(|&round| run.join(folder(round)).is_dir()).last().unwrap_or(0);
    let shown = evenly(last, SPREAD_ROUNDS);
    let mut found = Found::default();
    for round in 1..=last {
        reader.round(&mut found, round, report, shown.contains(&round));
    }
    reader.pool(&mut found);
    let mut answers = Answers::new();
    for round in 0..=last {
        reader.answers(&mut answers, round);
    }
    let costs = reader.costs();
    let each = (POINTS / (last.max(1) as usize)).max(12);
    for round in &mut found.rounds {
        round.updates = means(std::mem::take(&mut round.updates), each);
    }
    Details {
        rounds: found.rounds,
        held_out: held_out(report, &answers),
        lengths: spread(found.lengths),
        margins: spread(found.margins),
        difficulty: spread(found.difficulty),
        order: order(&found.order),
        before_after: before_after(&answers, report.best_round),
        learnt: found.learnt,
        costs,
        missing: reader.missing,
    }
}

/// Reads how long stages took; none where that is not known.
pub fn times(run: &Path) -> Vec<Time> {
    let rows: Vec<Timing> = read_ledger(&run.join(TIMINGS)).unwrap_or_default();
    let time = |row: Timing| Time {
        round: row.round,
        stage: row.stage,
        seconds: row.seconds,
        peak_memory_bytes: row.peak_memory_bytes,
    };
    rows.into_iter().map(time).collect()
}

impl Reader<'_> {
    /// Hands each row of a stage's file on; returns whether the file is there.
    fn each<T: DeserializeOwned>(
        &mut self,
        round: u32,
        stage: &str,
        mut with: impl FnMut(T),
    ) -> bool {
        let name = format!("{}/{stage}.jsonl", folder(round));
        let file = match File::open(self.run.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => {
                self.missing.push(format!("{name} cannot be read: {error}"));
                return false;
            }
        };
        let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0u64);
        loop {
            line.clear();
            number += 1;
            let why = match reader.read_until(b'\n', &mut line) {
                Ok(0) => return true,
                Err(error) => error.to_string(),
                Ok(_) => match serde_json::from_slice(&line) {
                    Ok(row) => {
                        with(row);
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
            };
            self.missing.push(format!("{name} is damaged: line {number}: {why}"));
            return true;
        }
    }

    fn rows<T: DeserializeOwned>(&mut self, round: u32, stage: &str) -> Option<Vec<T>> {
        let mut rows = Vec::new();
        self.each(round, stage, |row| rows.push(row)).then_some(rows)
    }

    /// Reads a round: what became of its records, and what was measured of those that stayed and those that
    /// left.
    fn round(&mut self, found: &mut Found, round: u32, report: &Report, shown: bool) {
        let written = self.written(round);
        let mut ids = Vec::new();
        let mut drops = Vec::new();
        self.each(round, "sample", |row: Sampled| {
            ids.extend(row.dropped.is_none().then(|| row.id.clone()));
            drops.extend(row.dropped.map(|reason| host(row.id, reason)));
        });
        let left = drops.iter().map(|drop| drop.id.clone());
        let mut sieve = Sieve::new(ids.iter().cloned().chain(left));
        sieve.stage("sample", drops);
        if written.is_none() {
            self.filter(&mut sieve, round, "filter-sample");
        }

        // Tokens of each record's completions, and what is said of them.
        let mut lengths: Vec<(String, Vec<f64>)> = Vec::new();
        let mut drops = Vec::new();
        let mut take = |row: Generated| {
            let completions = row.variants.iter().filter_map(|it| it.completion.as_ref());
            lengths.push((row.id.clone(), completions.map(|it| f64::from(it.tokens)).collect()));
            drops.extend(row.dropped.map(|reason| host(row.id, reason)));
        };
        let given = self.each(round, "given", &mut take);
        if given || self.each(round, "generate", &mut take) {
            sieve.stage(if given { "given" } else { "generate" }, drops);
        }
        self.filter(&mut sieve, round, "filter-generate");
        let mut rewards: HashMap<String, Vec<(String, String, f64)>> = HashMap::new();
        let mut drops = Vec::new();
        let judge = self.plugin_name("judge");
        if self.each(round, "judge", |row: Judged| match row.opinion {
            Some(Opinion::Rewards(said)) => {
                let said = said.into_iter().map(|it| (it.variant, it.name, it.value));
                rewards.insert(row.id, said.collect());
            }
            Some(Opinion::Unparsable(_)) => drops.push(drop(row.id, "unparsable", &judge)),
            None => drops.push(drop(row.id, FAILED, &judge)),
            Some(_) => {}
        }) {
            sieve.stage("judge", drops);
        }
        self.filter(&mut sieve, round, "filter-judge");
        let mut margins: Vec<(String, f64)> = Vec::new();
        let mut drops = Vec::new();
        let reward = self.set.and_then(|set| set.pairing(round)?.reward);
        if self.each(round, "pair", |row: Paired| {
            if let (Some(pair), Some(said)) = (&row.pair, rewards.get(&row.id)) {
                let of = |variant: &str| {
                    let counts = |name: &str| reward.as_ref().is_none_or(|reward| reward == name);
                    let own = said.iter().filter(|(it, name, _)| it == variant && counts(name));
                    own.map(|(.., value)| value).sum::<f64>()
                };
                margins.push((row.id.clone(), of(&pair.chosen) - of(&pair.rejected)));
            }
            drops.extend(row.dropped.map(|reason| host(row.id, reason)));
        }) {
            sieve.stage("pair", drops);
        }
        self.filter(&mut sieve, round, "filter-pair");
        let mut difficulty: Vec<(String, f64)> = Vec::new();
        let mut drops = Vec::new();
        let scorer = self.plugin_name("difficulty");
        if self.each(round, "difficulty", |row: Scored| match row.difficulty {
            Some(score) => difficulty.push((row.id, score)),
            None => drops.push(drop(row.id, FAILED, &scorer)),
        }) {
            sieve.stage("difficulty", drops);
        }
        let trained = self.trained(found, &mut sieve, round);

        let done = report.ended.is_some() || report.rounds.iter().any(|row| row.round == round);
        let complete = trained || done;
        let (steps, updates) = self.updates(round, found.steps);
        found.steps += steps;
        if !sieve.funnel(complete).stages.iter().all(|stage| stage.enters == 0) || steps > 0 {
            let funnel = sieve.funnel(complete);
            found.rounds.push(RoundDetails { round, written, funnel, updates, steps });
        }
        if shown {
            let parts = |found: &mut Vec<_>, values: Vec<(String, Vec<f64>)>| {
                for kept in [true, false] {
                    let own = values.iter().filter(|(id, _)| sieve.holds(id) == kept);
                    let values = own.flat_map(|(_, values)| values.iter().copied());
                    found.push((SpreadPart { round, kept }, values.collect()));
                }
            };
            let one = |(id, value)| (id, vec![value]);
            parts(&mut found.lengths, lengths);
            parts(&mut found.margins, margins.into_iter().map(one).collect());
            parts(&mut found.difficulty, difficulty.into_iter().map(one).collect());
        }
    }

    /// Reads what became of the prompts that a round wrote.
    fn written(&mut self, round: u32) -> Option<super::funnel::Funnel> {
        let (mut ids, mut drops) = (Vec::new(), Vec::new());
        let there = self.each(round, "write", |row: Written| {
            ids.push(row.id.clone());
            drops.extend(row.dropped.map(|reason| (row.id, reason)));
        });
        let mut sifted: HashMap<String, String> = HashMap::new();
        if there {
            self.each(round, "filter-sample", |row: Filtered| {
                if matches!(row.verdict, Verdict::Drop(_)) {
                    sifted.insert(row.id, format!("{} {}", row.plugin, row.version));
                }
            });
        }
        let by = |id: &str| sifted.get(id).map_or(BY_HOST, String::as_str).to_owned();
        let mut sieve = Sieve::new(ids);
        sieve
            .stage("write", drops.into_iter().map(|(id, reason)| Drop { by: by(&id), id, reason }));
        there.then(|| sieve.funnel(true))
    }

    fn filter(&mut self, sieve: &mut Sieve, round: u32, stage: &str) {
        let mut drops = Vec::new();
        let there = self.each(round, stage, |row: Filtered| {
            if let Verdict::Drop(reason) = row.verdict {
                let by = format!("{} {}", row.plugin, row.version);
                drops.push(Drop { id: row.id, reason, by });
            }
        });
        if there {
            sieve.stage(stage, drops);
        }
    }

    /// Reads what a round has trained on, which is the order of its training too; returns whether it has.
    fn trained(&mut self, found: &mut Found, sieve: &mut Sieve, round: u32) -> bool {
        let (mut drops, mut samples, mut order) = (Vec::new(), Vec::new(), Vec::new());
        // Of all rows a few are kept as samples: the first, and those so far apart.
        let (before, mut kept, mut apart) = (found.order.len() as u64, 0, 1);
        let there = self.each(round, "train", |row: Trained| {
            if row.round != round {
                return;
            }
            match row.dropped {
                Some(reason) => drops.push(host(row.record_id, reason)),
                None => {
                    kept += 1;
                    let place = (before + kept) as f64;
                    order.extend(row.difficulty.map(|difficulty| Placed {
                        round,
                        place,
                        difficulty,
                    }));
                    if (kept - 1) % apart != 0 {
                        return;
                    }
                    let (first, second) = match &row.lesson {
                        Lesson::Preference { chosen, rejected, .. } => {
                            (cut(rejected.words()), cut(chosen.words()))
                        }
                        Lesson::Completion { completion, .. } => {
                            (String::new(), cut(completion.words()))
                        }
                    };
                    let prompt = cut(row.prompt.prompt().gist());
                    samples.push(Sample { id: row.record_id, prompt, first, second });
                    if samples.len() > 64 * SAMPLES {
                        apart *= 2;
                        let mut number = 0;
                        samples.retain(|_| {
                            number += 1;
                            number % 2 == 1
                        });
                    }
                }
            }
        });
        if there {
            sieve.stage("train", drops);
            found.order.extend(order);
            found.learnt = some(samples);
        }
        there
    }

    /// Reads the updates of a round, `before` of which were done in the rounds before.
    fn updates(&mut self, round: u32, before: u64) -> (u64, Vec<Update>) {
        let mut updates = Vec::new();
        self.each(round, "metrics", |step: Step| {
            let values = serde_json::to_value(step).unwrap_or_default();
            let number = |(name, value): (&String, &serde_json::Value)| {
                Some((name.clone(), value.as_f64()?))
            };
            updates.push(Update {
                update: (before + step.step) as f64,
                values: values.as_object().into_iter().flatten().filter_map(number).collect(),
            });
        });
        (updates.len() as u64, updates)
    }

    /// Reads the scores of the pool, where it was scored.
    fn pool(&mut self, found: &mut Found) {
        if self
            .set
            .and_then(|set| set.difficulty.as_ref())
            .is_some_and(|it| it.scope == Scope::Round)
        {
            return;
        }
        let scores = self.rows::<Scored>(0, "difficulty").unwrap_or_default();
        let scores: Vec<f64> = scores.into_iter().filter_map(|row| row.difficulty).collect();
        if !scores.is_empty() {
            found.difficulty = vec![(SpreadPart { round: 0, kept: true }, scores)];
        }
    }

    fn answers(&mut self, answers: &mut Answers, round: u32) {
        let mut rows = std::collections::BTreeMap::<String, super::held_out::Answered>::new();
        self.each(round, "evaluate-asks", |row: Asked| {
            rows.entry(row.record.clone()).or_default().add(row);
        });
        if !rows.is_empty() {
            answers.insert(round, rows);
        }
    }

    fn costs(&mut self) -> Vec<Cost> {
        let entries = match journal::read(self.run) {
            Ok(entries) => entries,
            Err(_) => {
                self.missing.push(format!("{} cannot be read", journal::FILE));
                Vec::new()
            }
        };
        let cost = |entry| match entry {
            Entry::Finished { round, stage, counts, .. } => Some(Cost { round, stage, counts }),
            _ => None,
        };
        entries.into_iter().filter_map(cost).collect()
    }

    /// Returns what a kind of plugin is called in the set, for what it drops.
    fn plugin_name(&self, kind: &str) -> String {
        let plugins = self.set.map(PluginSet::plugins).unwrap_or_default();
        let plugin = plugins.iter().find(|(it, _)| *it == kind);
        plugin.map_or(kind.to_owned(), |(_, plugin)| plugin.source.short())
    }
}

fn host(id: String, reason: String) -> Drop {
    Drop { id, reason, by: BY_HOST.to_owned() }
}

fn drop(id: String, reason: &str, by: &str) -> Drop {
    Drop { id, reason: reason.to_owned(), by: by.to_owned() }
}

/// Returns at most `most` of the rounds up to `last`, the first and the last among them.
pub fn evenly(last: u32, most: usize) -> Vec<u32> {
    match last as usize <= most {
        true => (1..=last).collect(),
        false => (0..most as u64)
            .map(|index| (1 + index * u64::from(last - 1) / (most as u64 - 1)) as u32)
            .collect(),
    }
}

fn spread(found: Vec<(SpreadPart, Vec<f64>)>) -> Option<Spread> {
    let (parts, values): (Vec<SpreadPart>, Vec<Vec<f64>>) = found.into_iter().unzip();
    let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    Some(Spread { histogram: histogram(&values)?, parts })
}

/// Returns updates, of which neighbours go together into their means where there are more than `most`.
fn means(updates: Vec<Update>, most: usize) -> Vec<Update> {
    let mean = |group: &[Update]| {
        let n = group.len() as f64;
        let mut values = std::collections::BTreeMap::new();
        for update in group {
            for (name, value) in &update.values {
                *values.entry(name.clone()).or_insert(0.0) += value / n;
            }
        }
        Update { update: group.iter().map(|it| it.update / n).sum(), values }
    };
    thinned(&updates, most).map(mean).collect()
}

/// The same of places in the training order, within each round.
fn order(placed: &[Placed]) -> Vec<Placed> {
    let rounds = placed.chunk_by(|one, two| one.round == two.round);
    let each = (POINTS / rounds.clone().count().max(1)).max(12);
    let mean = |group: &[Placed]| {
        let n = group.len() as f64;
        Placed {
            round: group[0].round,
            place: group.iter().map(|it| it.place / n).sum(),
            difficulty: group.iter().map(|it| it.difficulty / n).sum(),
        }
    };
    rounds.flat_map(|round| thinned(round, each).map(mean)).collect()
}

/// Returns answers of the initial model beside those of the best round.
fn before_after(answers: &Answers, best: u32) -> Vec<Sample> {
    let (Some(old), Some(new)) = (answers.get(&0), answers.get(&best)) else { return Vec::new() };
    let pair = |(id, row): (&String, &super::held_out::Answered)| {
        let (first, second) = (row.text()?, new.get(id)?.text()?);
        Some(Sample {
            id: id.clone(),
            prompt: cut(&row.prompt),
            first: cut(first),
            second: cut(second),
        })
    };
    if best == 0 { Vec::new() } else { some(old.iter().filter_map(pair).collect()) }
}

/// Returns a few of some samples, evenly from the first to the last, so that nobody has picked them.
fn some(samples: Vec<Sample>) -> Vec<Sample> {
    let wanted = evenly(samples.len() as u32, SAMPLES);
    let numbered = (1u32..).zip(samples);
    numbered.filter(|(number, _)| wanted.contains(number)).map(|(_, sample)| sample).collect()
}

/// Returns the beginning of a text, with how much is missing.
fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}… ({more} more characters)", &text[..end])
        }
    }
}
