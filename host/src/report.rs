//! Tables of a run: what it will do, and what each round did.
//!
//! Pure functions from numbers to text; where the numbers come from is not known here.

pub mod alarm;
pub mod changes;
pub mod evaluation;
mod extrapolation;
mod measures;
mod page;
mod plan;
pub mod preview;
pub mod run;
mod table;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use alarm::{Alarm, Diverged};
pub use extrapolation::{Candidate, Extrapolation, Found};
pub use measures::measures;
pub(crate) use plan::bytes;
pub use plan::{Plan, PlanPlugin, PlanTime};
pub use preview::{Preview, PreviewText, PreviewToken};
use table::{Align, Table, printable};

use crate::plugin_set::Measure;
use crate::progress::counted;

/// The report's file in a run directory.
pub const FILE: &str = "report.json";

/// A held-out measure and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// For example `perplexity`.
    pub measure: String,
    /// Finite.
    pub value: f64,
}

/// What one round did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundSummary {
    /// From 1.
    pub round: u32,
    /// Prompts that the sampler plugin found in what the model wrote, filtered ones among them; absent
    /// where it writes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Prompts that the round worked on.
    pub prompts: u64,
    /// Completions that were generated.
    pub completions: u64,
    /// Records that the round trained on.
    pub kept: u64,
    /// Records that left the round, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Least and greatest difficulty of the round's prompts; absent where nothing scored them.
    pub difficulty: Option<[f64; 2]>,
    /// Mean tokens of a completion.
    pub mean_length: Option<f64>,
    /// Distinct word pairs over all word pairs of the kept completions, in [0, 1].
    pub distinct_2: Option<f64>,
    /// Mean over the completions of their mean token entropy, in nats.
    pub entropy: Option<f64>,
    /// Training loss of the first update, in nats a token.
    pub loss_first: Option<f64>,
    /// Training loss of the last update, in nats a token.
    pub loss_last: Option<f64>,
    /// Means over the updates, under TRL's names; empty unless completions were compared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub training: BTreeMap<String, f64>,
    /// What of the round is watched, by the names of `[watch]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, f64>,
    /// How far it went beyond what it trained; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolated: Option<Extrapolation>,
    /// In the order of `evaluate.measures`.
    pub held_out: Vec<Measured>,
}

/// What a run did so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Name of the method.
    pub method: String,
    /// Name of the model that was aligned.
    pub model: String,
    /// The measures of the initial model.
    pub before: Vec<Measured>,
    /// Prompts that left while the pool was prepared, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pool_dropped: BTreeMap<String, u64>,
    /// In order.
    pub rounds: Vec<RoundSummary>,
    /// What a reader must know before using the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// What went beyond the limits of `[watch]`; what moved first comes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// What ended the run in a round of its own; absent where every round came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Diverged>,
    /// The round whose policy is to blame for an alarm, where the result is from before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blamed: Option<u32>,
    /// The round that made the result; 0 before the first.
    pub best_round: u32,
    /// What the run ended with where nothing was left to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing_kept: Option<NothingKept>,
    /// Why the run ended: `rounds`, `early-stop`, `alarm` or `nothing-kept`; absent while it goes on.
    pub ended: Option<String>,
}

/// A round that kept no record, or a pool without a prompt that can be used: the end of a run, since the
/// same settings keep none again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NothingKept {
    /// From 1; 0 for the pool.
    pub round: u32,
    /// How many records it worked on.
    pub records: u64,
    /// Records that left it, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What of the round is watched, by the names of `[watch]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signals: BTreeMap<String, f64>,
}

impl fmt::Display for NothingKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.round, self.records) {
            (0, _) => f.write_str("no prompt of the pool could be used")?,
            (round, 0) => write!(f, "round {round} had no prompt to work on")?,
            (round, _) => {
                write!(f, "round {round} kept none of its {}", counted(self.records, "records"))?
            }
        }
        match self.dropped.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", drops(&self.dropped)),
        }
    }
}

impl Report {
    /// Returns the report of a run that has not done a round yet.
    pub fn new(method: &str, model: &str, before: Vec<Measured>) -> Report {
        Report {
            method: method.to_owned(),
            model: model.to_owned(),
            before,
            pool_dropped: BTreeMap::new(),
            rounds: Vec::new(),
            warning: None,
            alarms: Vec::new(),
            diverged: None,
            blamed: None,
            best_round: 0,
            nothing_kept: None,
            ended: None,
        }
    }

    /// Returns the table of the rounds, without what was dropped. `*` marks the best round.
    fn rounds_table(&self) -> Table {
        let measures = self.measures();
        let mut table = Table::new();
        table.column("round", "", Align::Right);
        table.column("prompts", "", Align::Right);
        table.column("completions", "", Align::Right);
        table.column("kept", "", Align::Right);
        table.column("written", "", Align::Right);
        table.column("difficulty", "", Align::Right);
        table.column("length", "", Align::Right);
        table.column("distinct-2", "", Align::Right);
        table.column("entropy", "", Align::Right);
        table.column("loss", "", Align::Right);
        table.column("accuracy", "rewards", Align::Right);
        table.column("margin", "rewards", Align::Right);
        for measure in &measures {
            table.column(measure, measured_on(measure), Align::Right);
        }
        if !self.before.is_empty() {
            let mut row = vec![String::new(); 12];
            row[0] = "start".to_owned();
            row.extend(measures.iter().map(|measure| measured(&self.before, measure)));
            table.row(row);
        }
        for round in &self.rounds {
            let best = if round.round == self.best_round { "*" } else { "" };
            let mean = |name: &str| round.training.get(name).copied();
            let mut row = vec![
                format!("{best}{}", round.round),
                round.prompts.to_string(),
                round.completions.to_string(),
                round.kept.to_string(),
                round.written.map_or(String::new(), |written| written.to_string()),
                round.difficulty.map_or(String::new(), |[least, most]| {
                    format!("{}–{}", number(least), number(most))
                }),
                optional(round.mean_length, |length| format!("{length:.1}")),
                optional(round.distinct_2, |share| format!("{share:.3}")),
                optional(round.entropy, |entropy| format!("{entropy:.2}")),
                match (round.loss_first, round.loss_last) {
                    (Some(first), Some(last)) => format!("{}→{}", number(first), number(last)),
                    _ => String::new(),
                },
                optional(mean("rewards/accuracies"), |share| format!("{share:.3}")),
                optional(mean("rewards/margins"), number),
            ];
            row.extend(measures.iter().map(|measure| measured(&round.held_out, measure)));
            table.row(row);
        }
        table
    }

    /// Returns the table of the rounds with what was dropped under it, ending in a newline.
    ///
    /// Columns of numbers that no round has are left out. `*` marks the best round.
    pub fn table(&self) -> String {
        let mut text = self.rounds_table().render();
        if self.rounds.iter().any(|round| round.round == self.best_round) {
            text.push_str("* best round\n");
        }
        for warning in self.warnings() {
            text.push_str(&format!("{warning}\n"));
        }
        if !self.pool_dropped.is_empty() {
            text.push_str(&format!("dropped from the pool: {}\n", drops(&self.pool_dropped)));
        }
        for round in self.rounds.iter().filter(|round| !round.dropped.is_empty()) {
            text.push_str(&format!(
                "dropped in round {}: {}\n",
                round.round,
                drops(&round.dropped)
            ));
        }
        for round in &self.rounds {
            let curve = round.extrapolated.as_ref().map(|found| found.table(round.round));
            text.extend(curve);
        }
        if let Some(nothing) = &self.nothing_kept {
            text.push_str(&format!("{nothing}\n"));
        }
        text
    }

    /// Returns what a reader must know before using the result, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let alarm = |(index, alarm): (usize, &Alarm)| match index {
            0 if self.alarms.len() > 1 => format!("alarm, first to move: {alarm}"),
            _ => format!("alarm: {alarm}"),
        };
        let warning = self.warning.iter().map(|warning| format!("warning: {warning}"));
        let diverged = self.diverged.iter().map(|diverged| format!("alarm: {diverged}"));
        let alarms = self.alarms.iter().enumerate().map(alarm);
        let mut lines: Vec<String> = warning.chain(alarms).chain(diverged).collect();
        if let Some(blamed) = self.blamed {
            let to_blame = match blamed {
                0 => "the initial model is to blame".to_owned(),
                blamed => format!("the policy of round {blamed} is to blame"),
            };
            lines.push(match self.best_round {
                0 => format!("rolled back: {to_blame}, and no round before it made a policy"),
                best => format!("rolled back: {to_blame}, and the result is of round {best}"),
            });
        }
        lines
    }

    /// The measures that any row has, in order of appearance.
    fn measures(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let rows = std::iter::once(&self.before).chain(self.rounds.iter().map(|r| &r.held_out));
        for measured in rows.flatten() {
            if !names.contains(&measured.measure.as_str()) {
                names.push(&measured.measure);
            }
        }
        names
    }
}

/// Returns reasons with their counts, the most frequent first.
pub fn drops(dropped: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<(&String, &u64)> = dropped.iter().collect();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
    let shown: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{} {count}", printable(reason))).collect();
    shown.join(", ")
}

/// Returns what a measure is of, as it stands over its column.
fn measured_on(measure: &str) -> &'static str {
    match measure == Measure::Agreement.as_str() {
        true => "anchors",
        false => "held-out",
    }
}

fn measured(row: &[Measured], measure: &str) -> String {
    let found = row.iter().find(|measured| measured.measure == measure);
    found.map_or(String::new(), |measured| number(measured.value))
}

fn optional(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or(String::new(), show)
}

/// Returns a number with about three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{value:.2e}"),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[(&str, f64)]) -> Vec<Measured> {
        values
            .iter()
            .map(|(name, value)| Measured { measure: (*name).into(), value: *value })
            .collect()
    }

    fn report() -> Report {
        let round = |round, kept, held_out: &[(&str, f64)]| RoundSummary {
            round,
            written: None,
            prompts: 32,
            completions: 32,
            kept,
            dropped: [("format".to_owned(), 3), ("repetition".to_owned(), 9)].into(),
            difficulty: Some([1.234, 45.67]),
            mean_length: Some(58.31),
            distinct_2: Some(0.8712),
            entropy: Some(1.934),
            loss_first: Some(2.3456),
            loss_last: Some(1.9876),
            training: BTreeMap::new(),
            signals: BTreeMap::new(),
            extrapolated: None,
            held_out: measured(held_out),
        };
        let mut report = Report::new(
            "soft-plus",
            "m",
            measured(&[("perplexity", 14.25), ("distinct-2", 0.91), ("length", 120.0)]),
        );
        report.rounds.push(round(
            1,
            20,
            &[("perplexity", 13.5), ("distinct-2", 0.9), ("length", 96.04)],
        ));
        report.rounds.push(round(
            2,
            8,
            &[("perplexity", 12345.6), ("distinct-2", 0.8), ("length", 50.0)],
        ));
        report.best_round = 1;
        report
    }

    /// After a first line break, so that the first line may begin with spaces.
    const EXPECTED: &str = "
                                                                                         held-out    held-out  held-out
round  prompts  completions  kept  difficulty  length  distinct-2  entropy       loss  perplexity  distinct-2    length
start                                                                                        14.2       0.910       120
   *1       32           32    20   1.23–45.7    58.3       0.871     1.93  2.35→1.99        13.5       0.900      96.0
    2       32           32     8   1.23–45.7    58.3       0.871     1.93  2.35→1.99       12346       0.800      50.0
* best round
dropped in round 1: repetition 9, format 3
dropped in round 2: repetition 9, format 3
";

    #[test]
    fn the_table_is_aligned_and_fits() {
        let text = report().table();
        assert_eq!(format!("\n{text}"), EXPECTED);
        assert!(
            text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 120),
            "{text}"
        );
    }

    #[test]
    fn what_no_round_has_takes_no_room() {
        let mut report = report();
        report.before.clear();
        for round in &mut report.rounds {
            round.difficulty = None;
            round.entropy = None;
            round.held_out.clear();
            round.dropped.clear();
        }
        report.best_round = 0;
        assert_eq!(
            report.table(),
            "\
round  prompts  completions  kept  length  distinct-2       loss
    1       32           32    20    58.3       0.871  2.35→1.99
    2       32           32     8    58.3       0.871  2.35→1.99
"
        );
        report.rounds.truncate(1);
        report.rounds[0].written = Some(71);
        let table = report.table();
        assert_eq!(table.lines().next().unwrap().split_whitespace().nth(4), Some("written"));
        assert_eq!(table.lines().nth(1).unwrap().split_whitespace().nth(4), Some("71"));
        report.rounds.clear();
        assert_eq!(report.table(), "round  prompts  completions  kept\n");
    }

    #[test]
    fn reports_survive_json() {
        let report = report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn a_run_that_ended_with_nothing_says_so_under_the_table() {
        let check = |round, records, dropped: &[(&str, u64)], expected: &str| {
            let dropped = dropped.iter().map(|&(reason, count)| (reason.to_owned(), count));
            let dropped = dropped.collect();
            let signals = BTreeMap::new();
            let nothing_kept = Some(NothingKept { round, records, dropped, signals });
            let report = Report { nothing_kept, ..report() };
            assert_eq!(report.table(), format!("{}{expected}\n", &EXPECTED[1..]));
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        };
        let drops = [("too-long", 1), ("too-short", 3)];
        check(3, 4, &drops, "round 3 kept none of its 4 records: too-short 3, too-long 1");
        check(3, 1, &[], "round 3 kept none of its 1 record");
        check(3, 0, &[], "round 3 had no prompt to work on");
        check(0, 4, &drops, "no prompt of the pool could be used: too-short 3, too-long 1");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(0.0, "0.000");
        check(0.9996, "1.00");
        check(9.996, "10.0");
        check(99.96, "100");
        check(-1.5, "-1.50");
        check(12345.6, "12346");
        check(1.5e9, "1.50e9");
    }

    #[test]
    fn reasons_of_plugins_cannot_move_the_cursor() {
        let dropped = [("a\u{1b}[2J\nb".to_owned(), 1)].into();
        assert_eq!(drops(&dropped), "a\u{fffd}[2J\u{fffd}b 1");
    }
}
