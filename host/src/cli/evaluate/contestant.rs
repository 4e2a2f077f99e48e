//! A plugin under evaluation: its calls, and what is counted of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::batch::{Batch, Double, FIRST, Needs, SECOND};
use super::checks;
use super::oracle::{Answers, MAX_NEW_TOKENS, NAMES};
use super::plugins::Wanted;
use crate::{
    evaluate::{
        filter::FilterTally,
        judge::{JudgeTally, ScoreTally},
        outcome::{Choice, Facts, Judged, Scored, Sifted},
        summary::{Cost, Determinism, Evaluated, Who},
    },
    plugin::{
        Answerer, Fault, Grant, Interface, Kind, OnError, Outcome, Place, Plugin, PluginError,
        Runtime, Setup, Spent, Stage,
    },
    record::{Opinion, Record, Reward, Verdict},
    run::plugins::source,
};

/// Tokens of the answers to one chunk, at most.
const TOKENS: u64 = 50_000_000;

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
    pub fn load(runtime: &Runtime, wanted: Wanted, pairs: bool) -> Contestant {
        let mut bytes = 0;
        let loaded = load(runtime, &wanted, pairs, &mut bytes);
        let kind = loaded.as_ref().map(|plugin| plugin.identity().kind);
        let tally = match (kind, pairs, wanted.each) {
            (Ok(Kind::Judge), true, false) => Tally::Together(JudgeTally::default()),
            (Ok(Kind::Judge), true, true) => Tally::Apart(JudgeTally::default()),
            (Ok(Kind::Judge), false, _) => Tally::Scores(ScoreTally::default()),
            _ => Tally::Filter(FilterTally::default()),
        };
        let (plugin, failed) = match loaded {
            Ok(plugin) => (Some(plugin), None),
            Err(why) => (None, Some(why)),
        };
        Contestant {
            wanted,
            bytes,
            plugin,
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

    /// Returns whether it is called and may ask the model.
    pub fn may_ask(&self) -> bool {
        self.wanted.ask && self.failed.is_none()
    }

    /// Returns what it needs of a batch.
    pub fn needs(&self) -> Needs {
        let doubles = matches!(self.tally, Tally::Together(_));
        Needs { singles: !doubles, doubles }
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
    /// `None` where it has failed: it is not called again then.
    pub fn take(&mut self, batch: &Batch, answers: &mut Answers) -> Option<Vec<bool>> {
        if self.failed.is_some() {
            return None;
        }
        let plugin = self.plugin.as_ref()?;
        let (begun, asked) = (Instant::now(), answers.spent());
        let mut spent = Spent::default();
        let called = call(plugin, &mut self.tally, batch, answers, &mut spent);
        let model = answers.spent() - asked;
        self.cost.model_seconds += model.as_secs_f64();
        self.cost.seconds += begun.elapsed().saturating_sub(model).as_secs_f64();
        self.cost.calls += spent.calls;
        self.cost.fuel += spent.fuel;
        self.cost.requests += spent.requests;
        self.cost.tokens += spent.tokens;
        self.cost.memory_bytes = self.cost.memory_bytes.max(spent.memory_bytes);
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
                self.failed = Some(self.explain(&error));
                None
            }
        }
    }

    /// Returns a failure with the way out that there is here.
    fn explain(&self, error: &PluginError) -> String {
        let text = error.to_string();
        let is_grant =
            matches!(error, PluginError::Call(call) if matches!(call.fault, Fault::NoGrant { .. }));
        if !is_grant {
            return text;
        }
        let what = text.split("\n\nhint: ").next().unwrap_or_default();
        match self.wanted.ask {
            false => format!(
                "{what}\n\nhint: `--ask {}` lets it ask the model of `--model`",
                self.wanted.name
            ),
            true => {
                let names = NAMES.map(|name| format!("`{name}`")).join(", ");
                format!("{what}\n\nhint: the model is called {names} here; configure the plugin so")
            }
        }
    }

    /// Calls it again with the beginning of a batch, and with made-up records.
    pub fn check(&mut self, batch: &Batch, answers: &mut Answers) {
        let (Some(plugin), None) = (&self.plugin, &self.failed) else { return };
        let records = match self.tally {
            Tally::Together(_) => &batch.fronts,
            _ => &batch.records,
        };
        let most = if self.wanted.ask { 16 } else { 128 };
        let records = &records[..records.len().min(most)];
        self.determinism = checks::determinism(plugin, records, answers);
        self.probes = match self.tally {
            Tally::Together(_) => checks::probe_pairs(plugin, answers),
            _ => checks::probe_completions(plugin, answers),
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
                found.unread = tally.examples().to_vec();
            }
        }
        found
    }
}

fn load(
    runtime: &Runtime,
    wanted: &Wanted,
    pairs: bool,
    bytes: &mut usize,
) -> Result<Plugin, String> {
    let found = source(&wanted.source).map_err(|error| error.to_string())?;
    *bytes = found.len();
    let limits = crate::plugin::Limits::default();
    let loaded = runtime.open(&found, &limits).map_err(|error| error.to_string())?;
    let kinds = loaded.kinds();
    let order = if pairs { [Kind::Judge, Kind::Filter] } else { [Kind::Filter, Kind::Judge] };
    let Some(kind) = order.into_iter().find(|kind| kinds.contains(kind)) else {
        return Err("it is neither a filter nor a judge".to_owned());
    };
    if kind == Kind::Filter && loaded.interfaces().contains(&Interface::SetFilter) {
        let what =
            "it is a filter over a whole stage (`set-filter`), and rows are read in chunks here";
        return Err(what.to_owned());
    }
    if let Some(need) = loaded.needs().first() {
        return Err(format!("it needs measurements such as `{need}`, which a run makes"));
    }
    let grant = wanted.ask.then(|| Grant::new(NAMES.map(str::to_owned), TOKENS, MAX_NEW_TOKENS));
    let config = wanted.config.to_string();
    let setup = Setup { config, grant, on_error: OnError::Drop, ..Setup::new(kind) };
    loaded.configure(setup).map_err(|error| error.to_string())
}

fn who(plugin: &Plugin, bytes: usize) -> Who {
    Who {
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        kind: plugin.identity().kind.to_string(),
        interfaces: plugin.interfaces().iter().map(|it| it.as_str().to_owned()).collect(),
        needs: plugin.needs().to_vec(),
        digest: plugin.digest().to_owned(),
        bytes,
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
    answers: &mut dyn Answerer,
    spent: &mut Spent,
) -> Result<Called, PluginError> {
    let Batch { records, singles, fronts, backs, doubles, .. } = batch;
    let mut failed = Vec::new();
    match tally {
        Tally::Filter(tally) => {
            let stage = plugin.filter(&PLACE, records, answers)?;
            let outcomes = finished(stage, spent, &mut failed);
            let said = records.iter().zip(singles).zip(outcomes);
            let right = said.map(|((record, single), outcome)| {
                let text = text_of(record);
                let characters = text.chars().count();
                let facts = Facts { slices: &single.slices, characters, shown: text };
                tally.note(facts, single.good, &sifted(outcome))
            });
            let right = right.collect();
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
            let right =
                (0..records.len() / 2).map(|pair| note_apart(tally, batch, &scored, 2 * pair));
            let right = right.collect();
            Ok(Called { right, records: records.len(), failed })
        }
        Tally::Scores(tally) => {
            let outcomes = finished(plugin.judge(&PLACE, records, answers)?, spent, &mut failed);
            for (single, outcome) in singles.iter().zip(outcomes) {
                tally.note(single.good, &scored(outcome));
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

fn facts_of_pair(double: &Double) -> Facts<'_> {
    Facts { slices: &double.slices, characters: double.characters, shown: "" }
}

/// What a filter's verdict comes to.
pub fn sifted(outcome: Outcome<Verdict>) -> Sifted {
    match outcome {
        Outcome::Done(Verdict::Keep) => Sifted::Kept,
        Outcome::Done(Verdict::Revise(_)) => Sifted::Revised,
        Outcome::Done(Verdict::Drop(reason)) => Sifted::Dropped(reason),
        Outcome::Failed(why) => Sifted::Failed(why),
    }
}

/// What a judge's opinion comes to, where the completion of variant `labelled` is the better one.
pub fn choice(outcome: Outcome<Opinion>, labelled: &str) -> Choice {
    let rewards = match outcome {
        Outcome::Failed(why) => return Choice::Failed(why),
        Outcome::Done(Opinion::Tie) => return Choice::Tie,
        Outcome::Done(Opinion::Unparsable(why)) => return Choice::Unparsable(why),
        Outcome::Done(Opinion::Preference(pair)) => {
            let right = pair.chosen == labelled;
            return if right { Choice::Right(None) } else { Choice::Wrong(None) };
        }
        Outcome::Done(Opinion::Rewards(rewards)) => rewards,
    };
    let [first, second] =
        [FIRST, SECOND].map(|name| mean(rewards.iter().filter(|reward| reward.variant == name)));
    let (Some(first), Some(second)) = (first, second) else {
        let why = "it gives a reward to one of the two completions alone; `--each NAME` shows it each \
                   by itself";
        return Choice::Failed(why.to_owned());
    };
    let margin = if labelled == FIRST { first - second } else { second - first };
    compare(margin)
}

/// What rewards say that are so far apart.
fn compare(margin: f64) -> Choice {
    match margin {
        margin if margin > 0.0 => Choice::Right(Some(margin)),
        margin if margin < 0.0 => Choice::Wrong(Some(-margin)),
        _ => Choice::Tie,
    }
}

/// What a judge's opinion of a single completion comes to.
pub fn scored(outcome: Outcome<Opinion>) -> Scored {
    match outcome {
        Outcome::Failed(why) => Scored::Failed(why),
        Outcome::Done(Opinion::Unparsable(why)) => Scored::Unparsable(why),
        Outcome::Done(Opinion::Rewards(rewards)) => match mean(rewards.iter()) {
            Some(reward) => Scored::Reward(reward),
            None => Scored::Failed("it gives no reward".to_owned()),
        },
        Outcome::Done(Opinion::Preference(_) | Opinion::Tie) => {
            Scored::Failed("it gives no reward to a completion by itself".to_owned())
        }
    }
}

fn mean<'a>(rewards: impl Iterator<Item = &'a Reward>) -> Option<f64> {
    crate::round::diversity::mean(rewards.map(|reward| reward.value))
}

/// Adds a pair of which each completion was judged by itself: those at `first` and after it.
fn note_apart(tally: &mut JudgeTally, batch: &Batch, scored: &[Scored], first: usize) -> bool {
    let second = first + 1;
    let (labelled, other) =
        if batch.singles[first].good { (first, second) } else { (second, first) };
    let choice = match (&scored[labelled], &scored[other]) {
        (Scored::Failed(why), _) | (_, Scored::Failed(why)) => Choice::Failed(why.clone()),
        (Scored::Unparsable(why), _) | (_, Scored::Unparsable(why)) => {
            Choice::Unparsable(why.clone())
        }
        (Scored::Reward(labelled), Scored::Reward(other)) => compare(labelled - other),
    };
    let [long, short] =
        [labelled, other].map(|place| text_of(&batch.records[place]).chars().count());
    let slices = &batch.singles[labelled].slices;
    let facts = Facts { slices, characters: long + short, shown: "" };
    tally.note(facts, long.cmp(&short), &Judged::Apart(choice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Pair;

    fn reward(variant: &str, value: f64) -> Reward {
        Reward { variant: variant.into(), name: "quality".into(), value }
    }

    #[test]
    fn opinions_come_to_choices() {
        let rewards = |it: &[Reward]| Outcome::Done(Opinion::Rewards(it.to_vec()));
        let both = [reward(FIRST, 3.0), reward(FIRST, 1.0), reward(SECOND, 1.5)];
        assert_eq!(choice(rewards(&both), FIRST), Choice::Right(Some(0.5)));
        assert_eq!(choice(rewards(&both), SECOND), Choice::Wrong(Some(0.5)));
        let same = [reward(FIRST, 1.0), reward(SECOND, 1.0)];
        assert_eq!(choice(rewards(&same), FIRST), Choice::Tie);
        let one = choice(rewards(&[reward(SECOND, 1.0)]), FIRST);
        assert!(matches!(&one, Choice::Failed(why) if why.contains("--each")), "{one:?}");
        let pair = Pair { chosen: SECOND.into(), rejected: FIRST.into() };
        let prefers = || Outcome::Done(Opinion::Preference(pair.clone()));
        assert_eq!(choice(prefers(), SECOND), Choice::Right(None));
        assert_eq!(choice(prefers(), FIRST), Choice::Wrong(None));
        assert_eq!(choice(Outcome::Failed("x".into()), FIRST), Choice::Failed("x".into()));
    }

    #[test]
    fn opinions_of_one_completion_come_to_rewards() {
        let rewards = Opinion::Rewards(vec![reward("plain", 1.0), reward("plain", 2.0)]);
        assert_eq!(scored(Outcome::Done(rewards)), Scored::Reward(1.5));
        let tie = scored(Outcome::Done(Opinion::Tie));
        assert!(matches!(tie, Scored::Failed(_)));
    }
}
