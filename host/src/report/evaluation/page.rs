//! The page of an evaluation: one file, with its style and plots in it, for light and dark screens and
//! for paper. It loads nothing and runs nothing.

use std::fmt::Write;

use super::plot::{Dot, Line, dots, escape, square};
use super::{Grid, comparisons, cost, figures, heading, probes, with_interval};
use crate::evaluate::slices::LENGTH;
use crate::evaluate::summary::{Evaluated, Evaluation};

/// Figures that are drawn, where a plugin has them.
const DRAWN: [&str; 9] = [
    "accuracy",
    "kappa",
    "f1",
    "precision",
    "recall",
    "always-right",
    "prefers-first",
    "prefers-longer",
    "roc-auc",
];

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--faint:#666e78;--rule:#d6dbe1;\
--c0:#0b62c4;--c1:#c2410c;--c2:#157f3d;--c3:#7c3aed;--c4:#a16207;--c5:#be185d}\
@media (prefers-color-scheme:dark){:root{--back:#14171b;--text:#e6e9ed;--faint:#9aa4af;--rule:#363d46;\
--c0:#6cb0ff;--c1:#ff9a62;--c2:#6ad38f;--c3:#b79bff;--c4:#e2bd5b;--c5:#ff8dbd}}\
body{margin:2rem auto;max-width:70rem;padding:0 1rem;background:var(--back);color:var(--text);\
font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--rule)}\
h3{font-size:1rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}\
td.number{text-align:right;white-space:nowrap}.faint{color:var(--faint)}.failed{color:var(--c1)}\
.plots{display:flex;flex-wrap:wrap;gap:1.2rem}svg{max-width:100%;height:auto}\
svg text{font:11px system-ui,sans-serif;fill:var(--text)}\
.grid{stroke:var(--rule)}.chance{stroke:var(--faint);stroke-dasharray:4 4}.line{fill:none;stroke-width:2}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}\
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}\
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}\
.dot.c4{fill:var(--c4)}.dot.c5{fill:var(--c5)}\
code{font-size:.85em;overflow-wrap:anywhere}\
@media print{:root{--back:#fff;--text:#000;--faint:#444;--rule:#bbb;--c0:#0b62c4;--c1:#c2410c;--c2:#157f3d;\
--c3:#7c3aed;--c4:#a16207;--c5:#be185d}body{margin:0;max-width:none;font-size:11px}\
svg,table{break-inside:avoid}.wide{overflow:visible}}";

/// Returns the page.
pub fn page(evaluation: &Evaluation) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Evaluation on {data}</title><style>{STYLE}</style></head><body>\n\
         <h1>Filters and judges on {data}</h1>\n<p>{}</p>\n",
        escape(heading(evaluation).trim()),
        data = escape(&evaluation.data),
    );
    section(&mut page, "Figures", &grid("", &figures(evaluation)));
    page.push_str(
        "<p class=\"faint\">In brackets: 95 % intervals. Of a filter, to drop is the positive class: \
         precision is how many dropped completions are labelled bad, recall how many bad ones are \
         dropped. Of a judge, accuracy counts both orders of a pair, a tie or an answer that cannot be \
         read as one half; prefers-first is 0.5 where places do not matter.</p>\n",
    );
    let plots = plots(evaluation);
    if !plots.is_empty() {
        section(&mut page, "Plots", &format!("<div class=\"plots\">{plots}</div>"));
    }
    if !evaluation.comparisons.is_empty() {
        section(&mut page, "Compared on the same rows", &table(&comparisons(evaluation).cells()));
    }
    section(&mut page, "Cost and determinism", &grid("", &cost(evaluation)));
    let slices = super::slices(evaluation);
    if !slices.rows.is_empty() {
        section(&mut page, "Accuracy by slice", &grid("slice", &slices));
    }
    let probes = probes(evaluation);
    if !probes.rows.is_empty() {
        section(&mut page, "Made-up records", &grid("probe", &probes));
    }
    let each: String = evaluation.plugins.iter().map(plugin).collect();
    section(&mut page, "Plugins", &each);
    let _ = write!(page, "<p class=\"faint\">aligner {}</p>\n</body></html>\n", evaluation.aligner);
    page
}

fn section(page: &mut String, title: &str, content: &str) {
    let _ = write!(page, "<h2>{title}</h2>\n<div class=\"wide\">{content}</div>\n");
}

fn grid(corner: &str, grid: &Grid) -> String {
    let heading = [vec![corner.to_owned()], grid.columns.clone()].concat();
    let rows = grid.rows.iter().map(|(name, cells)| [vec![name.clone()], cells.clone()].concat());
    table(&[vec![heading], rows.collect()].concat())
}

/// Returns a table; the first row is its heading.
fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>");
    for (number, row) in rows.iter().enumerate() {
        html.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match (number, place) {
                (0, _) => write!(html, "<th scope=\"col\">{cell}</th>"),
                (_, 0) => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ if cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                    write!(html, "<td class=\"number\">{cell}</td>")
                }
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html + "</table>"
}

fn plots(evaluation: &Evaluation) -> String {
    let mut plots = String::new();
    for name in DRAWN {
        let dot = |(colour, plugin): (usize, &'_ Evaluated)| {
            let figure = plugin.figure(name)?;
            let ends = figure.interval.map(|ends| (ends.low, ends.high));
            Some((plugin.name.clone(), colour, figure.value?, ends))
        };
        let found: Vec<_> = evaluation.plugins.iter().enumerate().filter_map(dot).collect();
        if !found.is_empty() {
            let found: Vec<Dot<'_>> = found
                .iter()
                .map(|(name, colour, value, ends)| Dot {
                    name,
                    colour: *colour,
                    value: *value,
                    ends: *ends,
                })
                .collect();
            plots.push_str(&dots(name, &found));
        }
    }
    type Points = Vec<(f64, f64)>;
    let mut lines = |title: &str,
                     x: &str,
                     y: &str,
                     marked: bool,
                     chance: bool,
                     of: &dyn Fn(&Evaluated) -> Option<Points>| {
        let found: Vec<Line<'_>> = evaluation
            .plugins
            .iter()
            .enumerate()
            .filter_map(|(colour, it)| {
                Some(Line { name: &it.name, colour, points: of(it)?, marked })
            })
            .filter(|line| !line.points.is_empty())
            .collect();
        if !found.is_empty() {
            plots.push_str(&square(title, x, y, chance, &found));
        }
    };
    lines("ROC", "false positive rate", "true positive rate (ROC)", false, true, &|it| {
        it.curve.as_ref().map(|curve| curve.roc.clone())
    });
    lines("precision and recall", "recall", "precision", false, false, &|it| {
        it.curve.as_ref().map(|curve| curve.precision_recall.clone())
    });
    let sure = "confidence: sigmoid of the distance of rewards";
    lines("calibration", sure, "accuracy", true, true, &|it| {
        let bins = &it.calibration.as_ref()?.bins;
        Some(bins.iter().map(|bin| (bin.confidence, bin.accuracy)).collect())
    });
    let tenth = "rows by length, shortest to longest";
    lines("accuracy by length", tenth, "accuracy", true, false, &by_length);
    plots
}

/// The accuracy of each slice by length, the slices evenly apart.
fn by_length(plugin: &Evaluated) -> Option<Vec<(f64, f64)>> {
    let slices: Vec<_> = plugin.slices.iter().filter(|slice| slice.column == LENGTH).collect();
    let apart = slices.len().checked_sub(1).filter(|&apart| apart > 0)? as f64;
    let point = |(place, slice): (usize, &&crate::evaluate::slices::Slice)| {
        Some((place as f64 / apart, slice.figures.first()?.value?))
    };
    Some(slices.iter().enumerate().filter_map(point).collect())
}

/// Returns what there is to say of one plugin.
fn plugin(plugin: &Evaluated) -> String {
    let mut html = format!("<h3>{}</h3>\n", escape(&plugin.name));
    if let Some(why) = &plugin.failed {
        let _ = writeln!(html, "<p class=\"failed\">failed: {}</p>", escape(why));
    }
    let mut facts = vec![vec!["source".to_owned(), plugin.source.clone()]];
    let mut fact = |name: &str, value: String| facts.push(vec![name.to_owned(), value]);
    if let Some(who) = &plugin.plugin {
        fact("plugin", format!("{} {}, a {}", who.name, who.version, who.kind));
        fact("exports", who.interfaces.join(", "));
        fact("imports", "nothing but log and types".to_owned());
        fact("file", format!("{} bytes, sha256 {}", who.bytes, who.digest));
    }
    fact("configuration", plugin.config.to_string());
    fact("may ask the model", if plugin.may_ask { "yes" } else { "no" }.to_owned());
    html.push_str(&table(&[vec![vec![String::new(), String::new()]], facts].concat()));
    if !plugin.reasons.is_empty() {
        let mut rows = vec![
            ["reason", "completions", "of them good", "for example"].map(String::from).to_vec(),
        ];
        for reason in &plugin.reasons {
            let (n, good) = (reason.n.to_string(), reason.good.to_string());
            rows.push(vec![reason.reason.clone(), n, good, reason.examples.join("\n")]);
        }
        html.push_str(&table(&rows));
    }
    for line in &plugin.unread {
        let _ = writeln!(html, "<p class=\"faint\"><code>{}</code></p>", escape(line));
    }
    if !plugin.slices.is_empty() {
        html.push_str("<details><summary>Slices</summary>");
        let names = plugin.slices[0].figures.iter().map(|figure| figure.name.clone());
        let mut rows =
            vec![["column", "value", "rows"].map(String::from).into_iter().chain(names).collect()];
        for slice in &plugin.slices {
            let figures = slice.figures.iter().map(with_interval);
            let front = [slice.column.clone(), slice.value.clone(), slice.n.to_string()];
            rows.push(front.into_iter().chain(figures).collect::<Vec<_>>());
        }
        html.push_str(&table(&rows));
        html.push_str("</details>\n");
    }
    html
}
