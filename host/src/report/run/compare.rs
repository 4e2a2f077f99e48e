//! Runs beside each other: a table with a row for each, what they differ in, and their curves over each other.

use serde::Serialize;

use super::RunView;
use super::data::{Details, Update};
use super::pictures::TRAINING;
use crate::report::page::chart::{About, Curve, Point, chart, legend};
use crate::report::page::svg::colour;
use crate::report::page::table::{Cell, table};
use crate::report::page::{document, escape, figure, wide};
use crate::report::table::{Align, Table};
use crate::report::{Measured, Report, RoundSummary, measured_on, number, printable};

/// A run with what it is called.
pub struct Compared {
    /// As the user names it.
    pub name: String,
    /// The run.
    pub view: RunView,
}

/// What is known of a run beside others, for programs.
#[derive(Serialize)]
pub struct Row<'a> {
    /// As the user names it.
    pub run: &'a str,
    /// What it did.
    #[serde(flatten)]
    pub report: &'a Report,
    /// What makes it another run than the first, in words; empty for the first.
    pub differs_in: Vec<String>,
    /// What its files say besides.
    pub details: &'a Details,
}

/// Returns what programs read of runs, in the order given.
pub fn rows(runs: &[Compared]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (Compared { name, view }, differs_in) in runs.iter().zip(differences(runs)) {
        rows.push(Row { run: name, report: &view.report, differs_in, details: &view.details });
    }
    rows
}

/// Returns the table of runs and what they differ in, ending in a newline.
pub fn text(runs: &[Compared]) -> String {
    let mut text = summary(runs).render();
    text.push_str("* of the best round; in brackets: the difference to the first run\n");
    for line in sentences(runs) {
        text.push_str(&printable(&line));
        text.push('\n');
    }
    text
}

/// Returns for each run what makes it another one than the first.
fn differences(runs: &[Compared]) -> Vec<Vec<String>> {
    let first = runs.first().and_then(|run| run.view.manifest.as_ref());
    let differs = |run: &Compared| match (&run.view.manifest, first) {
        (Some(manifest), Some(first)) => manifest.differences(first),
        _ => Vec::new(),
    };
    runs.iter().map(differs).collect()
}

fn sentences(runs: &[Compared]) -> Vec<String> {
    let first = runs.first().map_or("", |run| run.name.as_str());
    let sentence = |(run, differs): (&Compared, Vec<String>)| match differs.is_empty() {
        true => format!("{} and {first} are the same run", run.name),
        false => format!("{} differs from {first} in: {}", run.name, differs.join(", ")),
    };
    runs.iter().zip(differences(runs)).skip(1).map(sentence).collect()
}

/// The round whose numbers stand for a run: its best, or its last where it has none yet; none where an alarm left none.
fn best(report: &Report) -> Option<&RoundSummary> {
    let best = report.rounds.iter().find(|round| round.round == report.best_round);
    best.or(report.rounds.last().filter(|_| report.blamed.is_none()))
}

/// A row for each run.
fn summary(runs: &[Compared]) -> Table {
    let mut measures: Vec<&str> = Vec::new();
    for one in
        runs.iter().filter_map(|run| best(&run.view.report)).flat_map(|round| &round.held_out)
    {
        if !measures.contains(&one.measure.as_str()) {
            measures.push(&one.measure);
        }
    }
    let mut table = Table::new();
    for heading in ["run", "method", "model"] {
        table.column(heading, "", Align::Left);
    }
    for heading in ["seed", "rounds", "best", "kept"] {
        table.column(heading, "", Align::Right);
    }
    for heading in ["length*", "distinct-2*", "entropy*", "loss*"] {
        table.column(heading, "", Align::Right);
    }
    for measure in &measures {
        table.column(&format!("{measure}*"), measured_on(measure), Align::Right);
    }
    let first = runs.first().and_then(|run| best(&run.view.report));
    for (place, run) in runs.iter().enumerate() {
        let RunView { manifest, report, .. } = &run.view;
        let best = best(report);
        let of = |number: fn(&RoundSummary) -> Option<f64>| best.and_then(number);
        let shown = |value: Option<f64>| value.map_or(String::new(), number);
        let (kept, prompts) = report
            .rounds
            .iter()
            .fold((0, 0), |(kept, prompts), round| (kept + round.kept, prompts + round.prompts));
        let mut cells = vec![
            run.name.clone(),
            report.method.clone(),
            report.model.clone(),
            manifest.as_ref().map_or(String::new(), |it| it.plugin_set.run.seed.to_string()),
            match report.ended {
                Some(_) => report.rounds.len().to_string(),
                None => format!("{} so far", report.rounds.len()),
            },
            if report.best_round == 0 { String::new() } else { report.best_round.to_string() },
            match prompts {
                0 => String::new(),
                _ => format!("{:.0} %", 100.0 * kept as f64 / prompts as f64),
            },
            shown(of(|round| round.mean_length)),
            shown(of(|round| round.distinct_2)),
            shown(of(|round| round.entropy)),
            shown(of(|round| round.loss_last)),
        ];
        cells.extend(measures.iter().map(|measure| {
            let value = |row: &RoundSummary| find(&row.held_out, measure);
            match (best.and_then(value), first.and_then(value)) {
                (Some(value), Some(first)) if place > 0 => {
                    let sign = if value > first { "+" } else { "" };
                    format!("{} ({sign}{})", number(value), number(value - first))
                }
                (value, _) => shown(value),
            }
        }));
        table.row(cells);
    }
    table
}

fn find(row: &[Measured], measure: &str) -> Option<f64> {
    row.iter().find(|it| it.measure == measure).map(|it| it.value)
}

/// Returns one page of runs with their curves over each other.
pub fn page(runs: &[Compared]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("{} runs compared", runs.len());
    let mut body = format!("<header><h1>{title}</h1>\n</header>\n");
    let classes: Vec<String> = (0..runs.len()).map(colour).collect();
    let named = classes.iter().map(String::as_str).zip(names);
    body += &legend(&named.collect::<Vec<_>>());
    let cells = summary(runs).shown();
    if let Some((head, rows)) = cells.split_first() {
        let rows = rows.iter().map(|row| row.iter().cloned().map(Cell::from).collect());
        body += &format!(
            "<section id=\"runs\"><h2>Runs</h2>\n<p class=\"faint\">An asterisk: of the best round. In \
             brackets: the difference to the first run.</p>\n{}</section>\n",
            wide("runs", &table(head, rows))
        );
    }
    let differences: String =
        sentences(runs).iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    body += &format!(
        "<section id=\"differences\"><h2>Differences</h2>\n<ul>{differences}</ul></section>\n"
    );
    for (id, name, plots) in [
        ("held-out", "Held-out measures", held_out(runs)),
        ("rounds", "Round by round", round_by_round(runs)),
        ("training", "Training", training(runs)),
    ] {
        if !plots.is_empty() {
            body += &format!(
                "<section id=\"{id}\"><h2>{name}</h2>\n<div class=\"plots\">{plots}</div></section>\n"
            );
        }
    }
    document(&title, &body)
}

/// The points of one run.
type Points = Vec<Point>;

/// Draws a curve for each run that has points.
fn over(runs: &[Compared], title: &str, x: &str, of: &dyn Fn(&RunView) -> Points) -> String {
    let found: Vec<(usize, &str, Points)> = runs
        .iter()
        .enumerate()
        .map(|(place, run)| (place, run.name.as_str(), of(&run.view)))
        .filter(|(.., points)| !points.is_empty())
        .collect();
    let curves: Vec<Curve<'_>> = found
        .iter()
        .map(|(place, name, points)| Curve {
            name,
            colour: *place,
            parts: vec![points.clone()],
            marked: x == "round",
        })
        .collect();
    let svg = chart(&About { title, x, whole: true, parted: &[], mark: None }, &curves);
    if svg.is_empty() {
        return svg;
    }
    let rows = found.iter().flat_map(|(_, name, points)| {
        let row = |point: &Point| vec![(*name).to_owned(), number(point.x), number(point.y)];
        points.iter().map(row).collect::<Vec<_>>()
    });
    figure(&svg, &["run", x, title], rows)
}

fn held_out(runs: &[Compared]) -> String {
    let mut measures: Vec<&str> = Vec::new();
    for measure in runs.iter().flat_map(|run| &run.view.details.held_out) {
        if !measures.contains(&measure.measure.as_str()) {
            measures.push(&measure.measure);
        }
    }
    let one = |measure: &&str| {
        over(runs, measure, "round", &|view| {
            let own = view.details.held_out.iter().filter(|it| it.measure == **measure);
            own.flat_map(|it| &it.points)
                .map(|it| Point::at(f64::from(it.round), it.value))
                .collect()
        })
    };
    measures.iter().map(one).collect()
}

fn round_by_round(runs: &[Compared]) -> String {
    type Of = fn(&RoundSummary) -> Option<f64>;
    let all: [(&str, Of); 4] = [
        ("kept share", |round| {
            (round.prompts > 0).then(|| round.kept as f64 / round.prompts as f64)
        }),
        ("mean length, tokens", |round| round.mean_length),
        ("distinct-2 of what is kept", |round| round.distinct_2),
        ("mean token entropy, nats", |round| round.entropy),
    ];
    let one = |(title, of): &(&str, Of)| {
        over(runs, title, "round", &|view| {
            let point = |round: &RoundSummary| Some(Point::at(f64::from(round.round), of(round)?));
            view.report.rounds.iter().filter_map(point).collect()
        })
    };
    all.iter().map(one).collect()
}

fn training(runs: &[Compared]) -> String {
    let names = TRAINING.iter().flat_map(|(_, names)| *names);
    let one = |name: &&str| {
        over(runs, name, "update", &|view| {
            let updates = view.details.rounds.iter().flat_map(|round| &round.updates);
            let point = |it: &Update| Some(Point::at(it.update, *it.values.get(*name)?));
            updates.filter_map(point).collect()
        })
    };
    names.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, values: &[f64]) -> Compared {
        let measured = |value| vec![Measured { measure: "perplexity".into(), value }];
        let mut report = Report::new("m<1>", "model", measured(9.0));
        for (round, value) in (1u32..).zip(values) {
            let row = serde_json::json!({
                "round": round, "prompts": 10, "completions": 10, "kept": 4, "dropped": {},
                "difficulty": null, "mean_length": 12.0, "distinct_2": 0.5, "entropy": 1.5,
                "loss_first": 2.0, "loss_last": 1.25, "held_out": measured(*value),
            });
            report.rounds.push(serde_json::from_value(row).unwrap());
        }
        report.best_round = values.len() as u32;
        let (manifest, details, times) = (None, Details::default(), Vec::new());
        Compared { name: name.into(), view: RunView { manifest, report, details, times } }
    }

    #[test]
    fn runs_have_a_row_each() {
        let runs = [run("a", &[8.0, 7.5]), run("b", &[8.25])];
        let expected = "
                                                                                                            held-out
run  method  model  seed    rounds  best  kept  length*  distinct-2*  entropy*  loss*   perplexity*
a    m<1>    model        2 so far     2  40 %     12.0        0.500      1.50   1.25          7.50
b    m<1>    model        1 so far     1  40 %     12.0        0.500      1.50   1.25  8.25 (+0.750)
* of the best round; in brackets: the difference to the first run
b and a are the same run
";
        let found = text(&runs);
        let lines = |text: &str| -> Vec<Vec<String>> {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            text.trim().lines().map(words).collect()
        };
        assert_eq!(lines(&found), lines(expected), "{found}");
        let page = page(&runs);
        assert!(page.contains("m&lt;1&gt;") && !page.contains("m<1>"));
        assert_eq!(page.matches("<polyline").count(), 4, "curves of `a`; `b` has a point in each");
        let json = serde_json::to_value(rows(&runs)).unwrap();
        assert_eq!((&json[1]["run"], &json[1]["best_round"]), (&"b".into(), &1.into()));
    }
}
