//! The page: what was run, a table for each question, and which directions are the paper's.

use std::fmt::Write;

use super::experiment::{Claim, Experiments, Figure, Question, Row, Side};
use super::outcome::{Outcome, Spent};
use super::verdict::{Mean, Told, Verdict, compare};

/// All that is finished.
pub struct Finished<'a> {
    /// The file.
    pub experiments: &'a Experiments,
    /// How many seeds each row was asked for.
    pub seeds: usize,
    /// The initial model, once it is measured.
    pub initial: Option<Outcome>,
    /// For each question and row, in their order, the seeds that are finished, with their results.
    pub rows: Vec<Vec<Vec<(u64, Outcome)>>>,
}

impl Finished<'_> {
    /// Returns the page in Markdown.
    pub fn page(&self) -> String {
        let mut text = self.head();
        text.push_str(&self.summary());
        for (question, rows) in self.experiments.questions.iter().zip(&self.rows) {
            text.push_str(&self.section(question, rows));
        }
        text.lines().map(wrapped).collect::<String>().trim_end().to_owned() + "\n"
    }

    fn head(&self) -> String {
        let Experiments { model, dtype, seed, .. } = self.experiments;
        let (mut wall, mut cpu, mut done) = (0.0, 0.0, 0);
        let results = self.rows.iter().flatten().flatten().map(|(_, outcome)| outcome);
        for outcome in results.clone().chain(&self.initial) {
            (wall, cpu) = (wall + outcome.seconds, cpu + outcome.cpu_seconds);
            done += 1;
        }
        let rows: usize = self.rows.iter().map(Vec::len).sum();
        let asked = rows * self.seeds + 1;
        let mut engines: Vec<&str> = results
            .chain(&self.initial)
            .map(|outcome| outcome.engine.as_str())
            .filter(|engine| !engine.is_empty())
            .collect();
        engines.sort_unstable();
        engines.dedup();
        let engine = match &engines[..] {
            [] => String::new(),
            engines => format!(" ({})", engines.join("; ")),
        };
        let seeds = match self.seeds {
            1 => format!(
                "one seed, {seed}. One seed says little: a difference can be chance, however it looks"
            ),
            n => format!("{n} seeds from {seed} on"),
        };
        format!(
            "# What the papers compare, on a small model\n\n\
             This page is written by `make reproduce` from `tests/reproduce/experiments.toml`, where every \
             row and every direction stands; a change here is lost.\n\n\
             - Command: `{command}`; `ONLY=soft` does one question. Interrupted, the same command goes on; \
             what it made is in `runs/reproduce`.\n\
             - Model: {model}, weights in {dtype}{engine}, adapters in f32.\n\
             - Seeds: {seeds}.\n\
             - Finished: {done} of {asked} rows and seeds, in {wall} ({cpu} of processor time). Rows that \
             are not finished are named and have no numbers.\n\
             - Every row is measured by the same small suite of this project (`tests/reproduce/suite.toml`), \
             after its last round, and not by the method's own judge:\n{figures}\n\
             The papers' models are 10 to 500 times as large and their rounds 100 to 1,000 times. So what \
             agrees is no evidence for a paper, and what does not is none against it: the page shows that the \
             comparisons can be run, what they cost, and which of them this size can see at all.\n\n",
            command = match self.seeds {
                1 => "make reproduce".to_owned(),
                n => format!("SEEDS={n} make reproduce"),
            },
            wall = minutes(wall),
            cpu = minutes(cpu),
            figures = self.experiments.figures.iter().map(described).collect::<String>(),
        )
    }

    /// The directions, those that agree and those that do not.
    fn summary(&self) -> String {
        let mut text = String::from(
            "## Directions\n\n| question | what the paper reports | here | seeds |\n|---|---|---|--:|\n",
        );
        let mut counts = [0; 6];
        for (question, rows) in self.experiments.questions.iter().zip(&self.rows) {
            for claim in &question.claims {
                let (_, told) = self.told(question, rows, claim);
                counts[told.verdict as usize] += 1;
                let said = verdict(told.verdict);
                let seeds = told.difference.map_or(0, |difference| difference.seeds);
                let (name, says) = (&question.name, &claim.says);
                let _ = writeln!(text, "| {name} | {says} | {said} | {seeds} |");
            }
        }
        let [agree, disagree, small, noise, untrained, unfinished] = counts;
        let _ = writeln!(
            text,
            "\nOf {} directions that papers report: agree {agree}; do not agree {disagree}; too small or too \
             noisy to tell {}; without a trained row {untrained}; not finished {unfinished}.\n",
            counts.iter().sum::<i32>(),
            small + noise,
        );
        text
    }

    fn section(&self, question: &Question, rows: &[Vec<(u64, Outcome)>]) -> String {
        let Question { title, paper, text: about, plugin_set, .. } = question;
        let mut text = format!(
            "## {title}\n\n`{plugin_set}`, <{paper}>. {about}\n\n\
             | row | seeds | rounds | prompts | kept | updates |"
        );
        let figures = &self.experiments.figures;
        figures.iter().for_each(|figure| text.push_str(&format!(" {} |", figure.name)));
        text.push_str("\n|---|--:|--:|--:|--:|--:|");
        figures.iter().for_each(|_| text.push_str("--:|"));
        text.push('\n');
        if let Some(initial) = &self.initial {
            text.push_str("| initial model | – | – | – | – | – |");
            let initial = [(0, initial.clone())];
            figures.iter().for_each(|figure| text.push_str(&cell(&initial, figure)));
            text.push('\n');
        }
        for (row, done) in question.rows.iter().zip(rows).filter(|(_, done)| !done.is_empty()) {
            let _ = write!(text, "| {} | {} |", row.title, done.len());
            let mean = |of: fn(&Spent) -> u64| {
                let values: Vec<f64> = done.iter().map(|(_, o)| of(&o.spent) as f64).collect();
                Mean::of(&values).map_or(String::new(), |mean| whole(mean.value))
            };
            let spent = [
                mean(|spent| spent.rounds),
                mean(|spent| spent.prompts),
                mean(|spent| spent.kept),
                mean(|spent| spent.updates),
            ];
            spent.iter().for_each(|number| text.push_str(&format!(" {number} |")));
            figures.iter().for_each(|figure| text.push_str(&cell(done, figure)));
            text.push('\n');
        }
        text.push('\n');
        for claim in &question.claims {
            text.push_str(&self.line(question, rows, claim));
        }
        for (row, done) in question.rows.iter().zip(rows) {
            for (seed, outcome) in done {
                if let Some(why) = &outcome.stopped {
                    let _ = writeln!(text, "- Stopped: {}, seed {seed}: {why}.", row.title);
                }
            }
        }
        let missing = |(row, done): (&Row, &Vec<_>)| match (
            self.seeds.saturating_sub(done.len()),
            self.seeds,
        ) {
            (0, _) => None,
            (_, 1) => Some(row.title.clone()),
            (n, seeds) => Some(format!("{} ({n} of {seeds} seeds)", row.title)),
        };
        let missing: Vec<String> = question.rows.iter().zip(rows).filter_map(missing).collect();
        if !missing.is_empty() {
            let _ = writeln!(text, "- **Not finished**: {}.", missing.join("; "));
        }
        question.observed.iter().for_each(|seen| text.push_str(&format!("- {seen}\n")));
        text.push('\n');
        text
    }

    /// A direction with the numbers that it rests on.
    fn line(&self, question: &Question, rows: &[Vec<(u64, Outcome)>], claim: &Claim) -> String {
        let (row, Told { verdict: found, difference }) = self.told(question, rows, claim);
        let said = verdict(found);
        let Some((row, difference)) = row.zip(difference) else {
            return format!("- {}: {said}.\n", claim.says);
        };
        let figure = self.experiments.figure(&claim.figure).expect("the file was checked");
        let than = question.row(&claim.than).expect("the file was checked");
        let by = Mean { value: difference.value.abs(), ..difference }.shown(figure.digits);
        let side = if difference.value < 0.0 { "lower" } else { "higher" };
        let behind = match difference.seeds {
            1 => "one seed".to_owned(),
            n => format!("{n} seeds"),
        };
        let best = if claim.rows.len() > 1 { ", the furthest," } else { "" };
        format!(
            "- {}: **{said}**. By {}, “{}”{best} is {by} {side} than “{}” ({behind}).\n",
            claim.says, figure.name, row.title, than.title
        )
    }

    /// Returns the row that counts, and what is to be said. Where several rows are named, the one that is
    /// furthest in the paper's direction counts, as a search would find it. What trained nothing does not.
    fn told<'q>(
        &self,
        question: &'q Question,
        rows: &[Vec<(u64, Outcome)>],
        claim: &Claim,
    ) -> (Option<&'q Row>, Told) {
        let figure = self.experiments.figure(&claim.figure).expect("the file was checked");
        let key = key(figure);
        let place = |name: &String| question.rows.iter().position(|row| row.name == *name);
        let than = place(&claim.than).expect("the file was checked");
        let mut best: Option<(&Row, Told)> = None;
        for name in &claim.rows {
            let row = place(name).expect("the file was checked");
            let common: Vec<[&Outcome; 2]> = rows[row]
                .iter()
                .filter_map(|(seed, outcome)| {
                    let (_, other) = rows[than].iter().find(|(other, _)| other == seed)?;
                    Some([outcome, other])
                })
                .collect();
            if common.is_empty() {
                // The best of several is not known before all are there.
                return (None, Told { verdict: Verdict::Unfinished, difference: None });
            }
            let value = |outcome: &Outcome| outcome.figures.get(&key).copied();
            let pairs: Vec<(f64, f64)> = common
                .iter()
                .filter(|pair| pair.iter().all(|outcome| outcome.spent.kept > 0))
                .filter_map(|[outcome, other]| value(outcome).zip(value(other)))
                .collect();
            let told = compare(&pairs, claim.is, figure.tells);
            let Some(difference) = told.difference else { continue };
            let further =
                best.and_then(|(_, best)| best.difference).is_none_or(|old| match claim.is {
                    Side::Lower => difference.value < old.value,
                    Side::Higher => difference.value > old.value,
                });
            if further {
                best = Some((&question.rows[row], told));
            }
        }
        match best {
            Some((row, told)) => (Some(row), told),
            None => (None, Told { verdict: Verdict::Untrained, difference: None }),
        }
    }
}

fn described(figure: &Figure) -> String {
    let Figure { name, says, tells, .. } = figure;
    format!("  - {name}: {says}. Differences up to {tells} say nothing.\n")
}

fn key(figure: &Figure) -> String {
    format!("{}/{}", figure.measure, figure.figure)
}

fn cell(done: &[(u64, Outcome)], figure: &Figure) -> String {
    let key = key(figure);
    let values: Vec<f64> =
        done.iter().filter_map(|(_, outcome)| outcome.figures.get(&key).copied()).collect();
    match Mean::of(&values) {
        Some(mean) if values.len() == done.len() => format!(" {} |", mean.shown(figure.digits)),
        _ => " none |".to_owned(),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Agrees => "agrees",
        Verdict::Disagrees => "does not agree",
        Verdict::TooSmall => "too small to tell",
        Verdict::Noise => "within the noise of the seeds",
        Verdict::Untrained => "nothing was trained",
        Verdict::Unfinished => "not finished",
    }
}

/// A number of things, which a mean over seeds need not be.
fn whole(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Breaks a line of prose or of a list at 118 columns; tables and headings stay as they are.
fn wrapped(line: &str) -> String {
    const WIDTH: usize = 118;
    if line.starts_with(['|', '#']) {
        return format!("{line}\n");
    }
    let indent = line.len() - line.trim_start_matches([' ', '-']).len();
    let (mut text, mut width) = (line[..indent].to_owned(), indent);
    for (i, word) in line[indent..].split(' ').enumerate() {
        let length = word.chars().count();
        if i > 0 && width + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            width = indent;
        } else if i > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += length;
    }
    text + "\n"
}

fn minutes(seconds: f64) -> String {
    match (seconds / 60.0).round() {
        0.0 => format!("{seconds:.0} s"),
        minutes => format!("{minutes:.0} min"),
    }
}
