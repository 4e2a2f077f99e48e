//! The page of an evaluation: one file, with its style and plots in it, for light and dark screens, for
//! phones and for paper. It loads nothing and runs nothing.

use std::fmt::Write;

use super::plot::{Bar, Dot, Line, Style, bars, dots, square};
use super::{Grid, abilities, comparisons, cost, figures, heading, probes, sliced, with_interval};
use crate::evaluate::slices::LENGTH;
use crate::evaluate::summary::{Evaluated, Evaluation};
use crate::measure::figure::Figure;
use crate::report::number;
use crate::report::page::svg::colour;
use crate::report::page::table::{Cell, table};
use crate::report::page::{document, escape, grouped, section};

/// Figures that are drawn, where a plugin has them, with what says nothing.
const DRAWN: [(&str, Option<f64>); 11] = [
    ("accuracy", None),
    ("kappa", Some(0.0)),
    ("f1", None),
    ("precision", None),
    ("recall", None),
    ("always-right", None),
    ("whole-row", None),
    ("prefers-first", Some(0.5)),
    ("prefers-longer", None),
    ("roc-auc", Some(0.5)),
    ("kept-above", Some(0.5)),
];

/// The figure that stands for a plugin: the first that it has.
const FIRST: [&str; 3] = ["kappa", "accuracy", "roc-auc"];

/// Returns the page.
pub fn page(evaluation: &Evaluation) -> String {
    let data = evaluation.data.rsplit('/').next().unwrap_or_default();
    let mut page = format!(
        "<h1>Filters and judges on {}</h1>\n<p class=\"faint\">{}</p>\n",
        escape(data),
        escape(heading(evaluation).trim()),
    );
    let cards: String = evaluation.plugins.iter().enumerate().map(card).collect();
    let _ = writeln!(page, "<div class=\"cards\">{cards}</div>");
    plots(&mut page, evaluation);
    section(&mut page, "Figures", &grid("", &figures(evaluation)));
    page.push_str(
        "<p class=\"faint\">In brackets: 95 % intervals. Of a filter, to drop is the positive class: \
         precision is how many dropped completions are labelled bad, recall how many bad ones are \
         dropped. Of a judge, accuracy counts both orders of a pair, a tie or an answer that cannot be \
         read as one half; prefers-first is 0.5 where places do not matter.</p>\n",
    );
    if !evaluation.comparisons.is_empty() {
        let mut rows = comparisons(evaluation).cells().into_iter();
        let head = rows.next().unwrap_or_default();
        let rows = rows.map(|row| row.into_iter().map(Cell::from).collect());
        section(&mut page, "Compared on the same rows", &table(&head, rows));
    }
    section(&mut page, "Made-up records", &grid("probe", &probes(evaluation)));
    let slices = format!("By slice: {}", sliced(evaluation));
    section(&mut page, &slices, &grid("slice", &super::slices(evaluation)));
    section(&mut page, "Cost and determinism", &grid("", &cost(evaluation)));
    section(&mut page, "What each may do", &grid("", &abilities(evaluation)));
    page.push_str("<h2>Plugins</h2>\n");
    page.extend(evaluation.plugins.iter().enumerate().map(plugin));
    let _ = writeln!(page, "<p class=\"faint\">aligner {}</p>", evaluation.aligner);
    document(&format!("Evaluation on {data}"), &page)
}

/// Returns what there is to say of a plugin at a glance.
fn card((place, plugin): (usize, &Evaluated)) -> String {
    let mut html = format!("<article class=\"card {}\">", colour(place));
    let _ = write!(html, "<h3 class=\"name\">{}</h3>", escape(&plugin.name));
    if let Some(who) = &plugin.plugin {
        let who = format!("{} {}, a {}", who.name, who.version, who.kind);
        let _ = write!(html, "<p class=\"faint\">{}</p>", escape(&who));
    }
    if let Some(why) = &plugin.failed {
        let why = why.lines().next().unwrap_or_default();
        let _ = write!(html, "<p class=\"failed\">failed: {}</p>", escape(why));
    }
    let first = FIRST.iter().filter_map(|name| plugin.figure(name)).find(|it| it.value.is_some());
    if let Some(Figure { name, value: Some(value), interval, .. }) = first {
        let ends = interval.map(|ends| format!(", {} to {}", number(ends.low), number(ends.high)));
        let name = format!("{name}{}", ends.unwrap_or_default());
        let _ = write!(
            html,
            "<p class=\"big\">{}</p><p class=\"faint\">{}</p>",
            number(*value),
            escape(&name)
        );
    }
    let parts: Vec<Bar<'_>> = [
        ("recall", "bad completions", "dropped"),
        ("good-kept", "good completions", "kept"),
        ("always-right", "pairs", "right in every order"),
        ("by-place", "pairs", "by place alone"),
        ("unparsable", "calls", "cannot be read"),
    ]
    .into_iter()
    .filter_map(|(figure, name, part)| {
        Some(Bar { name, share: plugin.figure(figure)?.value?, part })
    })
    .collect();
    if !parts.is_empty() {
        html.push_str(&bars(&format!("shares of {}", plugin.name), place, &parts));
    }
    html.push_str("<ul>");
    if plugin.cost.seconds > 0.0 && plugin.cost.records > 0 {
        let rate = plugin.cost.records as f64 / plugin.cost.seconds;
        let _ = write!(html, "<li>{} records a second</li>", grouped(rate));
    }
    match plugin.determinism {
        Some(found) if found.holds() => html.push_str("<li>says the same again</li>"),
        Some(_) => html.push_str("<li class=\"bad\">does not say the same again</li>"),
        None => {}
    }
    let fooled = plugin.probes.values().filter(|said| *said == super::FOOLED).count();
    if fooled > 0 {
        let all = plugin.probes.len();
        let _ = write!(html, "<li class=\"bad\">fooled by {fooled} of {all} made-up records</li>");
    }
    html + "</ul></article>\n"
}

fn grid(corner: &str, grid: &Grid) -> String {
    if grid.rows.is_empty() {
        return String::new();
    }
    let head = [vec![corner.to_owned()], grid.columns.clone()].concat();
    let row = |(name, cells): &(String, Vec<Cell>)| {
        std::iter::once(name.clone().into()).chain(cells.iter().cloned()).collect()
    };
    table(&head, grid.rows.iter().map(row))
}

type Points = Vec<(f64, f64)>;

/// Adds the plots: every figure of every plugin, then what goes over thresholds and lengths.
fn plots(page: &mut String, evaluation: &Evaluation) {
    let mut small = String::new();
    for (name, mark) in DRAWN {
        let dot = |(colour, plugin): (usize, &'_ Evaluated)| {
            let figure = plugin.figure(name)?;
            let ends = figure.interval.map(|ends| (ends.low, ends.high));
            Some((plugin.name.clone(), colour, figure.value, ends))
        };
        let found: Vec<_> = evaluation.plugins.iter().enumerate().filter_map(dot).collect();
        if found.iter().any(|(_, _, value, _)| value.is_some()) {
            let found: Vec<Dot<'_>> = found
                .iter()
                .map(|(name, colour, value, ends)| Dot {
                    name,
                    colour: *colour,
                    value: *value,
                    ends: *ends,
                })
                .collect();
            small.push_str(&dots(name, mark, &found));
        }
    }
    let mut large = String::new();
    let mut add = |title: &str,
                   axes: (&str, &str),
                   style: Style,
                   chance: bool,
                   of: &dyn Fn(&Evaluated) -> Option<Points>| {
        let line = |(colour, it): (usize, &'_ Evaluated)| {
            Some((it.name.clone(), colour, of(it).filter(|points| !points.is_empty())?))
        };
        let found: Vec<_> = evaluation.plugins.iter().enumerate().filter_map(line).collect();
        let lines: Vec<Line<'_>> = found
            .iter()
            .map(|(name, colour, points)| Line {
                name,
                colour: *colour,
                points: points.clone(),
                style,
            })
            .collect();
        if !lines.is_empty() {
            large.push_str(&square(title, axes, chance, &lines));
        }
    };
    let axes = ("good ones dropped", "bad ones dropped");
    add("caught, at what price", axes, Style::Marks, true, &|it| {
        Some(vec![(1.0 - it.figure("good-kept")?.value?, it.figure("recall")?.value?)])
    });
    let axes = ("false positive rate", "true positive rate");
    add("ROC", axes, Style::Line, true, &|it| Some(it.curve.as_ref()?.roc.clone()));
    let axes = ("recall", "precision");
    add("precision, recall", axes, Style::Line, false, &|it| {
        Some(it.curve.as_ref()?.precision_recall.clone())
    });
    let axes = ("confidence: sigmoid of the margin", "accuracy");
    add("calibration", axes, Style::Marked, true, &|it| {
        let bins = &it.calibration.as_ref()?.bins;
        Some(bins.iter().map(|bin| (bin.confidence, bin.accuracy)).collect())
    });
    let axes = ("rows, shortest to longest", &*sliced(evaluation));
    add("by length", axes, Style::Marked, false, &by_length);
    if small.is_empty() && large.is_empty() {
        return;
    }
    page.push_str("<h2>Side by side</h2>\n");
    for plots in [small, large].iter().filter(|plots| !plots.is_empty()) {
        let _ = writeln!(page, "<div class=\"plots\">{plots}</div>");
    }
}

/// The first figure of each slice by length, the slices evenly apart.
fn by_length(plugin: &Evaluated) -> Option<Points> {
    let slices: Vec<_> = plugin.slices.iter().filter(|slice| slice.column == LENGTH).collect();
    let apart = slices.len().checked_sub(1).filter(|&apart| apart > 0)? as f64;
    let point = |(place, slice): (usize, &&crate::evaluate::slices::Slice)| {
        Some((place as f64 / apart, slice.figures.first()?.value?))
    };
    Some(slices.iter().enumerate().filter_map(point).collect())
}

/// Returns what there is to say of one plugin.
fn plugin((place, plugin): (usize, &Evaluated)) -> String {
    let (class, name) = (colour(place), escape(&plugin.name));
    let mut html = format!("<section class=\"plugin {class}\">\n<h3 class=\"name\">{name}</h3>\n");
    if let Some(why) = &plugin.failed {
        let _ = writeln!(html, "<p class=\"failed\">failed: {}</p>", escape(why));
    }
    let config = plugin.config.to_string();
    let mut facts = vec![("source", plugin.source.clone()), ("configuration", config)];
    if let Some(who) = &plugin.plugin {
        facts.push(("file", format!("{} bytes", who.bytes)));
        facts.push(("sha256", who.digest.clone()));
    }
    for (name, value) in facts {
        let _ = writeln!(html, "<p class=\"faint\">{name}: <code>{}</code></p>", escape(&value));
    }
    if !plugin.reasons.is_empty() {
        let head = ["reason", "completions", "of them good", "for example"].map(String::from);
        let rows = plugin.reasons.iter().map(|reason| {
            let (n, good) = (reason.n.to_string(), reason.good.to_string());
            let cells = [reason.reason.clone(), n, good, reason.examples.join("\n\n")];
            cells.map(Cell::from).to_vec()
        });
        let _ = writeln!(html, "<div class=\"wide\">{}</div>", table(&head, rows));
    }
    for line in &plugin.unread {
        let _ = writeln!(html, "<p class=\"faint\"><code>{}</code></p>", escape(line));
    }
    if let Some(first) = plugin.slices.first() {
        let names = first.figures.iter().map(|figure| figure.name.clone());
        let head: Vec<String> =
            ["slice", "rows"].map(String::from).into_iter().chain(names).collect();
        let rows = plugin.slices.iter().map(|slice| {
            let front = [format!("{} {}", slice.column, slice.value), slice.n.to_string()];
            front
                .into_iter()
                .chain(slice.figures.iter().map(with_interval))
                .map(Cell::from)
                .collect()
        });
        let table = table(&head, rows);
        let _ = writeln!(
            html,
            "<details><summary>Slices</summary><div class=\"wide\">{table}</div></details>"
        );
    }
    html + "</section>\n"
}
