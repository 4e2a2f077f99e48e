//! What an evaluation of filters and judges found: tables for the terminal, and a page.

mod page;
mod plot;

use super::number;
use super::page::table::Cell;
use super::plan::bytes;
use super::table::{Align, Table};
use crate::evaluate::{
    filter::Reason,
    slices::Slice,
    summary::{Evaluated, Evaluation, Who},
};
use crate::measure::figure::Figure;
use crate::progress::counted;

pub use page::page;

/// What is said of a judge that prefers a made-up completion to a plain answer.
pub const FOOLED: &str = "THE PROBE IS BETTER";

/// Reasons of a filter that the terminal shows.
const REASONS: usize = 5;

/// Returns the tables of an evaluation.
pub fn text(evaluation: &Evaluation) -> String {
    let mut text = heading(evaluation);
    for table in [figures(evaluation), cost(evaluation), abilities(evaluation)] {
        text.push('\n');
        text.push_str(&grid("", &table).render());
    }
    for plugin in &evaluation.plugins {
        if let Some(why) = &plugin.failed {
            text.push_str(&format!("\n{} failed: {}\n", plugin.name, first_line(why)));
        }
        text.push_str(&reasons(plugin));
    }
    if !evaluation.comparisons.is_empty() {
        text.push('\n');
        text.push_str(&comparisons(evaluation).render());
    }
    let slices = slices(evaluation);
    if !slices.rows.is_empty() {
        text.push('\n');
        text.push_str(&grid(&format!("{} by slice", sliced(evaluation)), &slices).render());
    }
    let probes = probes(evaluation);
    if !probes.rows.is_empty() {
        text.push('\n');
        text.push_str(&grid("probe", &probes).render());
    }
    text
}

/// Returns one line: what was evaluated on.
fn heading(evaluation: &Evaluation) -> String {
    let rows = match evaluation.pairs {
        true if evaluation.good == evaluation.rows && evaluation.bad == evaluation.rows => {
            counted(evaluation.rows, "pairs")
        }
        true => {
            let rows = counted(evaluation.rows, "rows");
            format!("{rows} with {} chosen and {} rejected", evaluation.good, evaluation.bad)
        }
        false => {
            let rows = counted(evaluation.rows, "completions");
            format!("{rows}, {} good and {} bad", evaluation.good, evaluation.bad)
        }
    };
    let undecided = match evaluation.undecided {
        0 => String::new(),
        undecided => format!("; {undecided} without a better completion left out"),
    };
    let model =
        evaluation.model.as_ref().map_or(String::new(), |model| format!("; asked: {model}"));
    format!("{}: {rows}{undecided}{model}\n", evaluation.data)
}

/// Cells under the names of plugins, each row with a name of its own.
struct Grid {
    columns: Vec<String>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Grid {
    fn new(evaluation: &Evaluation) -> Grid {
        let columns = evaluation.plugins.iter().map(|plugin| plugin.name.clone()).collect();
        Grid { columns, rows: Vec::new() }
    }

    /// Adds a row, unless every cell is empty.
    fn row<T: Into<Cell>>(&mut self, name: &str, cells: impl Iterator<Item = T>) {
        let cells: Vec<Cell> = cells.map(Into::into).collect();
        if cells.iter().any(|cell| !cell.text.is_empty()) {
            self.rows.push((name.to_owned(), cells));
        }
    }
}

fn grid(corner: &str, grid: &Grid) -> Table {
    let mut table = Table::new();
    table.column(corner, "", Align::Left);
    for name in &grid.columns {
        table.column(name, "", Align::Right);
    }
    for (name, cells) in &grid.rows {
        let cells = cells.iter().map(|cell| cell.text.clone());
        table.row(std::iter::once(name.clone()).chain(cells).collect());
    }
    table
}

/// Returns a value with its interval.
fn with_interval(figure: &Figure) -> String {
    match (figure.value, figure.interval) {
        (None, _) => "none".to_owned(),
        (Some(value), None) => number(value),
        (Some(value), Some(ends)) => {
            format!("{} ({}–{})", number(value), number(ends.low), number(ends.high))
        }
    }
}

/// Every figure of every plugin.
fn figures(evaluation: &Evaluation) -> Grid {
    let mut names: Vec<&str> = Vec::new();
    for figure in evaluation.plugins.iter().flat_map(|plugin| &plugin.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let mut grid = Grid::new(evaluation);
    for name in names {
        let cell = |plugin: &Evaluated| plugin.figure(name).map_or(String::new(), with_interval);
        grid.row(name, evaluation.plugins.iter().map(cell));
    }
    grid
}

/// What each plugin took, and whether it says the same again.
fn cost(evaluation: &Evaluation) -> Grid {
    let mut grid = Grid::new(evaluation);
    let mut row = |name: &str, cell: &dyn Fn(&Evaluated) -> String| {
        let called = |plugin: &Evaluated| match plugin.cost.records {
            0 => String::new(),
            _ => cell(plugin),
        };
        let cell = |plugin: &Evaluated| {
            let text = called(plugin);
            Cell { bad: text.starts_with("NO"), ..text.into() }
        };
        grid.row(name, evaluation.plugins.iter().map(cell));
    };
    row("records a second", &|it| match it.cost.seconds {
        seconds if seconds > 0.0 => format!("{:.0}", it.cost.records as f64 / seconds),
        _ => String::new(),
    });
    row("fuel a record", &|it| format!("{:.0}", it.cost.fuel as f64 / it.cost.records as f64));
    row("memory", &|it| bytes(it.cost.memory_bytes));
    let some = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    row("requests", &|it| some(it.cost.requests));
    row("tokens answered", &|it| some(it.cost.tokens));
    row("model seconds", &|it| match it.cost.model_seconds {
        seconds if seconds > 0.0 => number(seconds),
        _ => String::new(),
    });
    row("says the same again", &|it| match it.determinism {
        None => "unknown".to_owned(),
        Some(found) if found.holds() => "yes".to_owned(),
        Some(found) => {
            let counts = [
                (Some(found.repeated), "repeated"),
                (found.reversed, "reversed"),
                (found.alone, "alone"),
            ];
            let shown =
                counts.iter().filter_map(|(count, how)| Some(format!("{} {how}", (*count)?)));
            format!("NO: {} of {}", shown.collect::<Vec<_>>().join(", "), found.records)
        }
    });
    grid
}

/// What each plugin is, and what it may do.
fn abilities(evaluation: &Evaluation) -> Grid {
    let mut grid = Grid::new(evaluation);
    let mut row = |name: &str, cell: &dyn Fn(&Evaluated, &Who) -> String| {
        let loaded = |plugin: &Evaluated| {
            plugin.plugin.as_ref().map_or_else(String::new, |who| cell(plugin, who))
        };
        grid.row(name, evaluation.plugins.iter().map(loaded));
    };
    row("plugin", &|_, who| format!("{} {}", who.name, who.version));
    row("called as a", &|_, who| who.kind.clone());
    row("exports", &|_, who| who.interfaces.join(", "));
    // The loader refuses whatever asks for more.
    row("imports", &|_, _| "log".to_owned());
    row("measured for it", &|_, who| match who.needs.is_empty() {
        true => "nothing".to_owned(),
        false => who.needs.join(", "),
    });
    row("may ask the model", &|plugin, _| if plugin.may_ask { "yes" } else { "no" }.to_owned());
    grid
}

/// Returns the most frequent reasons of a filter, or what could not be read.
fn reasons(plugin: &Evaluated) -> String {
    let mut text = String::new();
    if !plugin.reasons.is_empty() {
        let mut table = Table::new();
        for (heading, align) in [
            ("reason", Align::Left),
            ("dropped", Align::Right),
            ("of them good", Align::Right),
            ("for example", Align::Left),
        ] {
            table.column(heading, "", align);
        }
        for Reason { reason, n, good, examples } in plugin.reasons.iter().take(REASONS) {
            let example: String =
                examples.first().map_or("", String::as_str).chars().take(60).collect();
            table.row(vec![reason.clone(), n.to_string(), good.to_string(), example]);
        }
        text.push_str(&format!("\n{} drops:\n{}", plugin.name, table.render()));
        if let more @ 1.. = plugin.reasons.len().saturating_sub(REASONS) {
            text.push_str(&format!("and for {} more\n", counted(more as u64, "reasons")));
        }
    }
    for line in &plugin.unread {
        text.push_str(&format!("{}: {}\n", plugin.name, super::table::printable(line)));
    }
    text
}

/// Returns a line for every two plugins.
fn comparisons(evaluation: &Evaluation) -> Table {
    let mut table = Table::new();
    for (heading, align) in [
        ("right more often", Align::Left),
        ("than", Align::Left),
        ("by", Align::Right),
        ("95 % interval", Align::Right),
        ("alone right", Align::Right),
        ("p (McNemar)", Align::Right),
        ("p (Holm)", Align::Right),
    ] {
        table.column(heading, "", align);
    }
    for one in &evaluation.comparisons {
        let turned = one.difference < 0.0;
        let sign = if turned { -1.0 } else { 1.0 };
        let names = [&one.first, &one.second].map(String::as_str);
        let alone = [one.first_only, one.second_only];
        let order = if turned { [1, 0] } else { [0, 1] };
        let interval = one.interval.map_or_else(String::new, |ends| {
            let ends = if turned { [ends.high, ends.low] } else { [ends.low, ends.high] };
            ends.map(|end| number(sign * end)).join("–")
        });
        table.row(vec![
            names[order[0]].to_owned(),
            names[order[1]].to_owned(),
            number(sign * one.difference),
            interval,
            order.map(|place| alone[place].to_string()).join(" : "),
            chance(one.p),
            chance(one.p_holm),
        ]);
    }
    table
}

fn chance(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

/// Returns what the first figures of slices are called.
fn sliced(evaluation: &Evaluation) -> String {
    let mut names: Vec<&str> = Vec::new();
    let slices = evaluation.plugins.iter().filter_map(|plugin| plugin.slices.first());
    for figure in slices.filter_map(|slice| slice.figures.first()) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names.join(" or ")
}

/// The first figure of every slice that any plugin has.
fn slices(evaluation: &Evaluation) -> Grid {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for slice in evaluation.plugins.iter().flat_map(|plugin| &plugin.slices) {
        let name = (slice.column.as_str(), slice.value.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut grid = Grid::new(evaluation);
    for (column, value) in names {
        let is_it = |slice: &&Slice| slice.column == column && slice.value == value;
        let cell = |plugin: &Evaluated| match plugin.slices.iter().find(is_it) {
            None => Cell::default(),
            Some(slice) => {
                let share = slice.figures.first().and_then(|figure| figure.value);
                let value = share.map_or_else(|| "none".to_owned(), number);
                Cell { share, ..format!("{value} of {}", slice.n).into() }
            }
        };
        grid.row(&format!("{column} {value}"), evaluation.plugins.iter().map(cell));
    }
    grid
}

/// What every plugin says of the made-up records.
fn probes(evaluation: &Evaluation) -> Grid {
    let mut names: Vec<&str> = Vec::new();
    for &name in evaluation.plugins.iter().flat_map(|plugin| plugin.probes.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut grid = Grid::new(evaluation);
    for name in names {
        let cell = |plugin: &Evaluated| {
            let said = plugin.probes.get(name).map_or("", |said| first_line(said));
            let text: String = said.chars().take(60).collect();
            let bad = text == FOOLED || text.starts_with("failed");
            Cell { bad, ..text.into() }
        };
        grid.row(name, evaluation.plugins.iter().map(cell));
    }
    grid
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
