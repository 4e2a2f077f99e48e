//! The table: ratios with their spread, what was to be reached, and by how much it was missed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What one run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Tokens that were read or made, the same on all sides.
    pub tokens: u64,
    /// Time on the clock.
    #[serde(rename = "wall_seconds")]
    pub wall: f64,
    /// Time of all threads on processors.
    #[serde(rename = "cpu_seconds")]
    pub cpu: f64,
    /// The most memory that the process ever held.
    pub peak_bytes: u64,
    /// A number that must be about the same on all sides.
    #[serde(default)]
    pub check: Option<f64>,
    /// Seconds of each stage, of a whole round.
    #[serde(default)]
    pub stages: BTreeMap<String, f64>,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Name of the row.
    pub row: String,
    /// What is done.
    pub title: String,
    /// What is compared.
    pub kind: Kind,
    /// With whom or what.
    pub against: String,
    /// Ours.
    pub ours: Option<f64>,
    /// The other's, in the same unit.
    pub theirs: Option<f64>,
    /// Of both.
    pub unit: &'static str,
    /// The ratio, where both sides are there.
    pub ratio: Option<Ratio>,
    /// What the ratio is to reach.
    pub goal: Option<Goal>,
    /// What is to be known besides, for example why a side is missing.
    pub note: Option<String>,
    /// Every measured run, ours and theirs, where the line is the first of its comparison.
    pub samples: Vec<Vec<Sample>>,
}

/// What a line compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Time of the other over ours: over 1 is faster.
    Speed,
    /// Our peak memory over the other's: under 1 is less.
    Memory,
    /// Time of one thread over that of several.
    Threads,
    /// Our time over the least that the machine could need.
    Limit,
}

/// Medians compared, and pairs of neighbouring runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Ratio of the medians.
    pub median: f64,
    /// Least ratio of two neighbouring runs.
    pub min: f64,
    /// Greatest ratio of two neighbouring runs.
    pub max: f64,
    /// Ratio of the medians of processor time, for machines that are busy with other things.
    pub cpu: Option<f64>,
    /// Runs of each side.
    pub runs: usize,
}

/// What a ratio is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Goal {
    fn shown(self) -> String {
        match self {
            Goal::AtLeast(goal) => format!("≥ {goal}×"),
            Goal::AtMost(goal) => format!("≤ {goal}×"),
        }
    }

    /// Says whether a ratio reaches it, or by how much it does not.
    pub fn verdict(self, ratio: f64) -> String {
        let missed = match self {
            Goal::AtLeast(goal) => 1.0 - ratio / goal,
            Goal::AtMost(goal) => ratio / goal - 1.0,
        };
        match missed > 0.0 {
            true => format!("missed by {:.0} %", (100.0 * missed).max(1.0)),
            false => "reached".to_owned(),
        }
    }
}

/// Returns the middle value, or the mean of the two in the middle; none of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Ratio {
    /// Compares runs that alternated: `over` over `under`, each per token.
    pub fn of(over: &[Sample], under: &[Sample]) -> Option<Ratio> {
        let wall = |sample: &Sample| sample.wall / sample.tokens.max(1) as f64;
        let cpu = |sample: &Sample| sample.cpu / sample.tokens.max(1) as f64;
        let ratio = |of: &dyn Fn(&Sample) -> f64| {
            Some(median(over.iter().map(of))? / median(under.iter().map(of))?)
        };
        let pairs: Vec<f64> = over.iter().zip(under).map(|(o, u)| wall(o) / wall(u)).collect();
        Some(Ratio {
            median: ratio(&wall)?,
            min: pairs.iter().copied().fold(f64::INFINITY, f64::min),
            max: pairs.iter().copied().fold(0.0, f64::max),
            cpu: ratio(&cpu),
            runs: pairs.len(),
        })
    }
}

/// What was measured, where, and with what.
pub struct Table {
    /// Head: the machine, versions, what the numbers mean.
    pub head: Vec<(String, String)>,
    /// Lines, in the order of the rows.
    pub lines: Vec<Line>,
}

impl Table {
    /// Returns the table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# The native engine against its peers\n\n");
        for (name, value) in &self.head {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        text.push_str(
            "\nRatios of medians, in brackets the least and the greatest ratio of two neighbouring \
             runs. Speed: the other's time over ours. Memory: our peak over the other's. Threads: \
             our time with one over that with all. Limit: our time over the least that this machine \
             could need.\n\n\
             | work | against | what | ratio | by CPU time | ours | theirs | goal | |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for line in &self.lines {
            let cells = [
                line.title.clone(),
                line.against.clone(),
                format!("{:?}", line.kind).to_lowercase(),
                line.ratio.map_or("–".into(), Ratio::shown),
                line.ratio.and_then(|r| r.cpu).map_or("–".into(), |cpu| format!("{cpu:.2}×")),
                line.amount(line.ours),
                line.amount(line.theirs),
                line.goal.map_or("–".into(), Goal::shown),
                line.verdict(),
            ];
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }

    /// Returns the same for programs.
    pub fn json(&self) -> Value {
        let head: serde_json::Map<String, Value> =
            self.head.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({ "format": 1, "head": head, "lines": self.lines })
    }
}

impl Ratio {
    fn shown(self) -> String {
        match self.runs > 1 {
            true => format!("**{:.2}×** ({:.2}–{:.2})", self.median, self.min, self.max),
            false => format!("**{:.2}×**", self.median),
        }
    }
}

impl Line {
    fn amount(&self, value: Option<f64>) -> String {
        match value {
            None => "–".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0} {}", self.unit),
            Some(value) => format!("{value:.2} {}", self.unit),
        }
    }

    fn verdict(&self) -> String {
        let reached = self.goal.zip(self.ratio).map(|(goal, ratio)| goal.verdict(ratio.median));
        let parts: Vec<String> = reached.into_iter().chain(self.note.clone()).collect();
        parts.join("; ")
    }
}
