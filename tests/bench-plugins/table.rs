//! The table of the bench, with what was to be reached.

use serde::Serialize;

/// What a row is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A ratio of this or less.
    AtMost(f64),
    /// A ratio of this or more.
    AtLeast(f64),
}

/// A row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What is done.
    pub what: String,
    /// With what it is compared; empty where it is a time by itself.
    pub against: String,
    /// Ours, with its unit.
    pub ours: String,
    /// The other's; empty where there is none.
    pub theirs: String,
    /// The ratio, or nothing where the row is a time.
    pub ratio: Option<f64>,
    /// The least and the greatest of neighbouring runs.
    pub spread: Option<(f64, f64)>,
    /// What is to be reached, in words.
    pub goal: String,
    /// Whether it is.
    pub reached: bool,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Table {
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
    notes: Vec<String>,
}

/// Returns the middle value; not a number where there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(over: &[f64], under: &[f64]) -> (f64, f64) {
    let ratios = over.iter().zip(under).map(|(over, under)| over / under);
    ratios.fold((f64::INFINITY, 0.0), |(least, most), ratio| (ratio.min(least), ratio.max(most)))
}

impl Table {
    /// Adds a ratio, the way that the goal reads: our time over the other's where less is better, the other's
    /// over ours where more is.
    pub fn compare(
        &mut self,
        what: &str,
        against: &str,
        (ours, theirs): (&[f64], &[f64]),
        unit: &dyn Fn(f64) -> String,
        goal: Goal,
    ) {
        let (over, under) = match goal {
            Goal::AtMost(_) => (ours, theirs),
            Goal::AtLeast(_) => (theirs, ours),
        };
        let ratio = median(over) / median(under);
        let (goal, reached) = match goal {
            Goal::AtMost(most) => (format!("≤ {most}×"), ratio <= most),
            Goal::AtLeast(least) => (format!("≥ {least}× faster"), ratio >= least),
        };
        self.rows.push(Row {
            what: what.into(),
            against: against.into(),
            ours: unit(median(ours)),
            theirs: unit(median(theirs)),
            ratio: Some(ratio),
            spread: Some(spread(over, under)),
            goal,
            reached,
        });
    }

    /// Adds a time, or any other number, that is to stay under a goal.
    pub fn time(&mut self, what: &str, values: &[f64], unit: impl Fn(f64) -> String, goal: f64) {
        let found = median(values);
        self.rows.push(Row {
            what: what.into(),
            against: String::new(),
            ours: unit(found),
            theirs: String::new(),
            ratio: None,
            spread: None,
            goal: format!("≤ {}", unit(goal)),
            reached: found <= goal,
        });
    }

    /// Adds a remark below the table.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }

    /// Returns the table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| what | against | ours | theirs | ratio | goal | |\n");
        text += "|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let ratio = match (row.ratio, row.spread) {
                (Some(ratio), Some((least, most))) => {
                    format!("**{ratio:.2}×** ({least:.2}–{most:.2})")
                }
                _ => String::new(),
            };
            let Row { what, against, ours, theirs, goal, reached, .. } = row;
            let verdict = if *reached { "reached" } else { "missed" };
            text += &format!(
                "| {what} | {against} | {ours} | {theirs} | {ratio} | {goal} | {verdict} |\n"
            );
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }
}
