//! A plugin under evaluation: its calls, and what is counted of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::batch::{Batch, Double, FIRST, Match, Needs, SECOND, Single};
use super::checks;
use super::load::{self, Terms, who};
use super::opinions::{choice, compare, scored, sifted};
use super::oracle::{Answers, NAMES};
use super::plugins::Wanted;
use crate::{
    evaluate::{
        filter::FilterTally,
        judge::{JudgeTally, ScoreTally},
        outcome::{Choice, Facts, Judged, Scored, Sifted},
        summary::{Cost, Determinism, Evaluated},
    },
    plugin::{
        Answerer, Fault, Kind, Outcome, Place, Plugin, PluginError, Runtime, Sitting, Spent, Stage,
    },
    progress::Progress,
    record::Record,
    round::{Need, Number, What},
};

/// How a plugin is called, with what is counted.
enum Tally {
    Filter(FilterTally),
    /// A judge that sees both completions of a pair.
    Together(JudgeTally),
    /// A judge that sees each completion of a pair by itself.
    Apart(JudgeTally),
    /// A judge over labelled completions.
    Scores(ScoreTally),
}

/// A plugin under evaluation.
pub struct Contestant {
    wanted: Wanted,
    bytes: usize,
    plugin: Option<Plugin>,
    /// What is measured for it.
    needs: Vec<Need>,
    ask_tokens: Option<u64>,
    failed: Option<String>,
    tally: Tally,
    cost: Cost,
    determinism: Option<Determinism>,
    probes: BTreeMap<&'static str, String>,
}

/// Plugins that are right or wrong about the same units, and so can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// About completions.
    Filters,
    /// About pairs.
    Judges,
}

/// Where calls happen: as in the first round of a run of one.
pub const PLACE: Place<'static> =
    Place { run_seed: 0, round: 1, rounds: 1, stage: "evaluate", position: 0 };

impl Contestant {
    /// Loads a plugin. One that cannot be loaded or called is kept with the reason.
    pub fn load(
        runtime: &Runtime,
        wanted: Wanted,
        terms: Terms,
        progress: &Progress,
    ) -> Contestant {
        let mut bytes = 0;
        let loaded = load::load(runtime, &wanted, terms, &mut bytes, progress);
        let kind = loaded.as_ref().map(|(plugin, _)| plugin.identity().kind);
        let tally = match (kind, terms.pairs, wanted.each) {
            (Ok(Kind::Judge), true, false) => Tally::Together(JudgeTally::default()),
            (Ok(Kind::Judge), true, true) => Tally::Apart(JudgeTally::default()),
            (Ok(Kind::Judge), false, _) => Tally::Scores(ScoreTally::default()),
            _ => Tally::Filter(FilterTally::default()),
        };
        let (plugin, needs, failed) = match loaded {
            Ok((plugin, needs)) => (Some(plugin), needs, None),
            Err(why) => (None, Vec::new(), Some(why)),
        };
        Contestant {
            wanted,
            bytes,
            plugin,
            needs,
            ask_tokens: terms.ask_tokens,
            failed,
            tally,
            cost: Cost::default(),
            determinism: None,
            probes: BTreeMap::new(),
        }
    }

    /// Returns what the user calls it.
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// Returns whether the user lets it ask the model, or it needs the model to measure.
    pub fn wants_model(&self) -> bool {
        self.wanted.ask || !self.needs.is_empty()
    }

    /// Returns whether it is called and the model has a part in that.
    pub fn uses_model(&self) -> bool {
        self.wants_model() && self.failed.is_none()
    }

    /// Takes it out where it needs measurements, which a reward model does not make.
    pub fn fail_without_measurements(&mut self) {
        if let Some(need) = self.needs.first() {
            let why = format!("it needs `{}`, and a reward model measures nothing", need.name);
            self.fail(why);
        }
    }

    /// Returns what it needs of a batch.
    pub fn needs(&self) -> Needs {
        let doubles = matches!(self.tally, Tally::Together(_));
        Needs { singles: !doubles, doubles }
    }

    /// Returns what is measured for it.
    pub fn measured(&self) -> &[Need] {
        &self.needs
    }

    /// Returns the plugin where it is a filter over all rows: it observes them before it decides.
    pub fn set_filter(&self) -> Option<Plugin> {
        self.plugin.as_ref().filter(|plugin| checks::is_set_filter(plugin)).cloned()
    }

    /// Takes it out for a reason.
    pub fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    /// Shows a batch to a filter over all rows.
    pub fn observe(&mut self, batch: &Batch, sitting: &mut Sitting<'_>) {
        if self.failed.is_some() {
            return;
        }
        let begun = Instant::now();
        if let Err(error) = sitting.observe(&batch.records) {
            self.failed = Some(self.explain(&error));
        }
        self.cost.seconds += begun.elapsed().as_secs_f64();
    }

    /// Adds what a filter over all rows took, once it has seen all of them.
    pub fn note_spent(&mut self, spent: Spent) {
        self.cost.calls += spent.calls;
        self.cost.fuel += spent.fuel;
        self.cost.requests += spent.requests;
        self.cost.tokens += spent.tokens;
        self.cost.memory_bytes = self.cost.memory_bytes.max(spent.memory_bytes);
    }

    /// Returns whom it can be compared with.
    pub fn group(&self) -> Option<Group> {
        match self.tally {
            Tally::Filter(_) => Some(Group::Filters),
            Tally::Together(_) | Tally::Apart(_) => Some(Group::Judges),
            Tally::Scores(_) => None,
        }
    }

    /// Calls it with a batch; returns whether it is right about each completion, or about each pair.
    /// `None` where it could not be loaded. Where it has failed it is not called again, and is right about
    /// nothing.
    pub fn take(
        &mut self,
        batch: &Batch,
        sitting: Option<&mut Sitting<'_>>,
        answers: &mut Answers,
    ) -> Option<Vec<bool>> {
        let plugin = self.plugin.as_ref()?;
        if let Some(why) = &self.failed {
            return Some(fail(&mut self.tally, batch, why));
        }
        answers.allow(self.ask_tokens.map(|most| most.saturating_sub(self.cost.tokens)));
        let (begun, asked) = (Instant::now(), answers.spent());
        let mut spent = Spent::default();
        let called = match (&mut self.tally, sitting) {
            (Tally::Filter(tally), Some(sitting)) => decide(sitting, tally, batch, &self.needs),
            (tally, _) => call(plugin, tally, batch, &self.needs, answers, &mut spent),
        };
        let model = answers.spent() - asked;
        self.cost.model_seconds += model.as_secs_f64();
        self.cost.seconds += begun.elapsed().saturating_sub(model).as_secs_f64();
        self.note_spent(spent);
        match called {
            Ok(Called { right, records, failed }) => {
                self.cost.records += records as u64;
                if failed.len() == records
                    && let Some(first) = failed.into_iter().next()
                {
                    self.failed =
                        Some(format!("it failed on every record of a batch; first: {first}"));
                }
                Some(right)
            }
            Err(error) => {
                let why = self.explain(&error);
                let right = fail(&mut self.tally, batch, &why);
                self.failed = Some(why);
                Some(right)
            }
        }
    }

    /// Returns a failure with the way out that there is here.
    fn explain(&self, error: &PluginError) -> String {
        let text = error.to_string();
        let PluginError::Call(call) = error else { return text };
        let hint = match call.fault {
            Fault::NoGrant { .. } if self.wanted.ask => {
                let names = NAMES.map(|name| format!("`{name}`")).join(", ");
                format!("the model is called {names} here; configure the plugin so")
            }
            Fault::NoGrant { .. } => {
                format!("`--ask {}` lets it ask the model of `--model`", self.wanted.name)
            }
            Fault::Tokens { .. } => {
                "`--ask-tokens` says how many tokens the answers to one plugin may have".to_owned()
            }
            _ => return text,
        };
        let what = text.split("\n\nhint: ").next().unwrap_or_default();
        format!("{what}\n\nhint: {hint}")
    }

    /// Calls it again with the beginning of a batch, and with made-up records.
    pub fn check(&mut self, batch: &Batch, answers: &mut Answers) {
        let (Some(plugin), None) = (&self.plugin, &self.failed) else { return };
        answers.allow(None);
        let records = match self.tally {
            Tally::Together(_) => &batch.fronts,
            _ => &batch.records,
        };
        let most = if self.wanted.ask { 16 } else { 128 };
        let records = &records[..records.len().min(most)];
        self.determinism = checks::determinism(plugin, records, answers);
        self.probes = match self.tally {
            Tally::Together(_) => checks::probe_pairs(plugin, &self.needs, answers),
            _ => checks::probe_completions(plugin, &self.needs, answers),
        };
    }

    /// Returns everything that was found.
    pub fn finish(self) -> Evaluated {
        let mut found = Evaluated {
            name: self.wanted.name,
            source: self.wanted.source.to_string(),
            plugin: self.plugin.as_ref().map(|plugin| who(plugin, self.bytes)),
            config: self.wanted.config,
            may_ask: self.wanted.ask,
            failed: self.failed,
            figures: Vec::new(),
            reasons: Vec::new(),
            unread: Vec::new(),
            curve: None,
            calibration: None,
            slices: Vec::new(),
            cost: self.cost,
            determinism: self.determinism,
            probes: self.probes,
        };
        if found.plugin.is_none() {
            return found;
        }
        match self.tally {
            Tally::Filter(tally) => {
                found.figures = tally.figures();
                found.curve = tally.curve();
                found.reasons = tally.reasons();
                found.slices = tally.slices();
            }
            Tally::Together(tally) | Tally::Apart(tally) => {
                found.figures = tally.figures();
                found.calibration = tally.calibration();
                found.slices = tally.slices();
                found.unread = tally.examples().to_vec();
            }
            Tally::Scores(tally) => {
                found.curve = tally.curve();
                found.figures = tally.figures(found.curve.as_ref());
                found.slices = tally.slices();
                found.unread = tally.examples().to_vec();
            }
        }
        found
    }
}

/// What came of a batch.
struct Called {
    right: Vec<bool>,
    /// Records that the plugin was called with.
    records: usize,
    /// How it failed on records.
    failed: Vec<String>,
}

fn call(
    plugin: &Plugin,
    tally: &mut Tally,
    batch: &Batch,
    needs: &[Need],
    answers: &mut dyn Answerer,
    spent: &mut Spent,
) -> Result<Called, PluginError> {
    let Batch { records, singles, fronts, backs, doubles, matches, .. } = batch;
    let mut failed = Vec::new();
    match tally {
        Tally::Filter(tally) => {
            let stage = plugin.filter(&PLACE, records, answers)?;
            let outcomes = finished(stage, spent, &mut failed);
            let right = note_sifted(tally, batch, needs, outcomes.into_iter().map(sifted));
            Ok(Called { right, records: records.len(), failed })
        }
        Tally::Together(tally) => {
            let front = finished(plugin.judge(&PLACE, fronts, answers)?, spent, &mut failed);
            let back = finished(plugin.judge(&PLACE, backs, answers)?, spent, &mut failed);
            let said = doubles.iter().zip(front).zip(back);
            let right = said.map(|((double, front), back)| {
                let judged = Judged::Together(choice(front, FIRST), choice(back, SECOND));
                tally.note(facts_of_pair(double), double.length, &judged)
            });
            let right = right.collect();
            Ok(Called { right, records: fronts.len() + backs.len(), failed })
        }
        Tally::Apart(tally) => {
            let outcomes = finished(plugin.judge(&PLACE, records, answers)?, spent, &mut failed);
            let scored: Vec<Scored> = outcomes.into_iter().map(scored).collect();
            let right = matches.iter().map(|one| note_apart(tally, batch, &scored, one)).collect();
            Ok(Called { right, records: records.len(), failed })
        }
        Tally::Scores(tally) => {
            let outcomes = finished(plugin.judge(&PLACE, records, answers)?, spent, &mut failed);
            for (place, outcome) in outcomes.into_iter().enumerate() {
                tally.note(facts_of_single(batch, place), singles[place].good, &scored(outcome));
            }
            Ok(Called { right: Vec::new(), records: records.len(), failed })
        }
    }
}

/// Adds up what a stage took, and takes down how it failed.
fn finished<T>(stage: Stage<T>, spent: &mut Spent, failed: &mut Vec<String>) -> Vec<Outcome<T>> {
    *spent += stage.spent;
    for outcome in &stage.outcomes {
        if let Outcome::Failed(why) = outcome {
            failed.push(why.clone());
        }
    }
    stage.outcomes
}

fn text_of(record: &Record) -> &str {
    let completion = record.variants.first().and_then(|variant| variant.completion.as_ref());
    completion.map_or("", |completion| &completion.text)
}

fn facts_of_single(batch: &Batch, place: usize) -> Facts<'_> {
    let Single { row, score, characters, ref slices, .. } = batch.singles[place];
    Facts { row, slices, characters, shown: text_of(&batch.records[place]), score }
}

fn facts_of_pair(double: &Double) -> Facts<'_> {
    let Double { row, characters, ref slices, .. } = *double;
    Facts { row, slices, characters, ..Facts::default() }
}

/// Asks a filter over all rows about a batch.
fn decide(
    sitting: &mut Sitting<'_>,
    tally: &mut FilterTally,
    batch: &Batch,
    needs: &[Need],
) -> Result<Called, PluginError> {
    let verdicts = sitting.decide(&batch.records)?;
    let said = verdicts.into_iter().map(|verdict| sifted(Outcome::Done(verdict)));
    let right = note_sifted(tally, batch, needs, said);
    Ok(Called { right, records: batch.records.len(), failed: Vec::new() })
}

/// Adds what a filter said of a batch. Where one number is measured for it, that is its score.
fn note_sifted(
    tally: &mut FilterTally,
    batch: &Batch,
    needs: &[Need],
    said: impl Iterator<Item = Sifted>,
) -> Vec<bool> {
    let note = |(place, sifted): (usize, Sifted)| {
        let good = batch.singles[place].good;
        if let [need] = needs {
            let mut measured = batch.records[place].measurements.iter();
            let found = measured.find(|measurement| measurement.name == need.name);
            // The less perplexing, the likelier.
            let less = matches!(
                need.what,
                What::Scored { number: Number::Perplexity | Number::Entropy, .. }
            );
            let value = found.map(|found| if less { -found.value } else { found.value });
            value.into_iter().for_each(|value| tally.note_measured(value, good));
        }
        tally.note(facts_of_single(batch, place), good, &sifted)
    };
    said.enumerate().map(note).collect()
}

/// Counts a batch as failed.
fn fail(tally: &mut Tally, batch: &Batch, why: &str) -> Vec<bool> {
    let singles = 0..batch.singles.len();
    match tally {
        Tally::Filter(tally) => {
            let failed = Sifted::Failed(why.to_owned());
            let note = |place: usize| {
                tally.note(facts_of_single(batch, place), batch.singles[place].good, &failed)
            };
            singles.map(note).collect()
        }
        Tally::Together(tally) => {
            let failed = || Choice::Failed(why.to_owned());
            let note = |double: &Double| {
                let judged = Judged::Together(failed(), failed());
                tally.note(facts_of_pair(double), double.length, &judged)
            };
            batch.doubles.iter().map(note).collect()
        }
        Tally::Apart(tally) => {
            let scored: Vec<_> = singles.map(|_| Scored::Failed(why.to_owned())).collect();
            batch.matches.iter().map(|one| note_apart(tally, batch, &scored, one)).collect()
        }
        Tally::Scores(tally) => {
            let failed = Scored::Failed(why.to_owned());
            for place in singles {
                tally.note(facts_of_single(batch, place), batch.singles[place].good, &failed);
            }
            Vec::new()
        }
    }
}

/// Adds a pair of which each completion was judged by itself.
fn note_apart(tally: &mut JudgeTally, batch: &Batch, scored: &[Scored], of: &Match) -> bool {
    let Match { better, worse } = *of;
    let choice = match (&scored[better], &scored[worse]) {
        (Scored::Failed(why), _) | (_, Scored::Failed(why)) => Choice::Failed(why.clone()),
        (Scored::Unparsable(why), _) | (_, Scored::Unparsable(why)) => {
            Choice::Unparsable(why.clone())
        }
        (Scored::Reward(better), Scored::Reward(worse)) => compare(better - worse),
    };
    let [long, short] = [better, worse].map(|place| batch.singles[place].characters);
    let Single { row, slices, .. } = &batch.singles[better];
    let facts = Facts { row: *row, slices, characters: long + short, ..Facts::default() };
    tally.note(facts, long.cmp(&short), &Judged::Apart(choice))
}
