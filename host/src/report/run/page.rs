//! The page itself: sections in the order in which a reader asks for them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::data::{Cost, HeldOut, Sample};
use super::{RunView, pictures};
use crate::plugin_set::{self, PluginSet};
use crate::progress::counted;
use crate::report::page::table::{Cell, table};
use crate::report::page::{document, escape, folded, grouped, wide};
use crate::report::{Report, number};
use crate::run::manifest::Manifest;

/// Returns the page.
pub fn page(view: &RunView) -> String {
    let title = format!("{} on {}", view.report.method, view.report.model);
    let mut body = format!("<header><h1>{}</h1>\n{}</header>\n", escape(&title), heading(view));
    warnings(&mut body, view);
    let cards = cards(view);
    if !cards.is_empty() {
        let _ = writeln!(body, "<div class=\"cards\">{cards}</div>");
    }
    let details = &view.details;
    let sections = [
        ("rounds", "Rounds", ROUNDS, rounds(&view.report)),
        ("held-out", "Held-out measures", "", held_out(&details.held_out)),
        ("watch", "Collapse watch", WATCH, watched(view)),
        ("records", "What became of the records", RECORDS, pictures::funnels(&details.rounds)),
        ("training", "Training", TRAINING, pictures::training(&details.rounds)),
        ("completions", "Completions", COMPLETIONS, pictures::completions(details)),
        ("variety", "Variety", VARIETY, pictures::signals(&view.report)),
        ("difficulty", "Difficulty", &*ordered(view), pictures::difficulty(details)),
        ("alpha", "Extrapolation", ALPHA, pictures::extrapolations(&view.report)),
        (
            "answers",
            "Answers before and after",
            BEFORE_AFTER,
            samples(&details.before_after, "before", "after"),
        ),
        (
            "learnt",
            "What the last round learnt from",
            LEARNT,
            samples(&details.learnt, "rejected", "chosen"),
        ),
        ("cost", "Cost", COST, costs(&details.costs)),
        ("times", "Times", TIMES, pictures::times(view)),
        ("method", "Method and plugins", "", method(view)),
        ("repeat", "How to repeat it", "", repeat(view)),
    ];
    let shown = || sections.iter().filter(|(.., content)| !content.is_empty());
    let links = shown().map(|(id, title, ..)| format!("<a href=\"#{id}\">{title}</a>"));
    let _ = writeln!(
        body,
        "<nav aria-label=\"sections\">{}</nav>",
        links.collect::<Vec<_>>().join(" ")
    );
    for (id, title, about, content) in shown() {
        let about = match about.is_empty() {
            true => String::new(),
            false => format!("<p class=\"faint\">{about}</p>\n"),
        };
        let _ = writeln!(body, "<section id=\"{id}\"><h2>{title}</h2>\n{about}{content}</section>");
    }
    document(&title, &body)
}

const ROUNDS: &str = "An asterisk marks the best round. Length is in tokens of a completion, entropy in nats a \
     token, loss that of the first and the last update.";
const WATCH: &str = "What the plugin set watches. The line across is the limit of each that it is nearest to, or \
     beyond.";
const RECORDS: &str = "From top to bottom, stage by stage: the band is what goes on, what turns to the right is \
     dropped there, for the reason beside it.";
const TRAINING: &str = "All updates of all rounds, under TRL's names; a dashed line is where a round begins. Of \
     many updates, neighbours are drawn as their means.";
const COMPLETIONS: &str = "Coloured are the completions of records that the round kept, grey those of records \
     that it dropped.";
const VARIETY: &str = "Distinct-2 is the distinct word pairs over all word pairs of what the round kept. The \
     kept share is of the round's prompts.";
const ALPHA: &str = "How far beyond the trained policy, along the line that leads to it; at 0 it is the trained \
     policy itself.";
const BEFORE_AFTER: &str = "Greedy answers to held-out prompts, of the initial model and of the best round. The \
     prompts are taken evenly from all, not picked.";
const LEARNT: &str = "Taken evenly from its training data, not picked.";
const COST: &str = "What the journal has counted, over all rounds. Fuel is what plugins computed with, in \
     instructions of theirs, roughly; asks are what plugins and measures asked models.";
const TIMES: &str = "The only part of this page that differs between equal runs: wall time of the machine that \
     did the run.";

/// What was done, in a line or two.
fn heading(view: &RunView) -> String {
    let report = &view.report;
    let done = counted(report.rounds.len() as u64, "rounds");
    let state = match report.ended.as_deref() {
        None => format!("Going on: {done} done so far"),
        Some("early-stop") => format!("Stopped early, after {done}"),
        Some("alarm") => format!("Ended by an alarm, after {done}"),
        Some("nothing-kept") => format!("Ended without a record to train on, after {done}"),
        Some(_) => format!("Finished, {done}"),
    };
    let best = match report.best_round {
        0 => String::new(),
        best => format!("; round {best} is the best"),
    };
    let mut html = format!("<p class=\"faint\">{state}{best}.");
    if let Some(manifest) = &view.manifest {
        let seed = manifest.plugin_set.run.seed;
        let _ = write!(
            html,
            " Seed {seed}, engine {}, aligner {}.",
            escape(&manifest.engine),
            escape(&manifest.aligner)
        );
        if let Some(summary) = &manifest.plugin_set.method.summary {
            let _ = write!(html, "</p>\n<p>{}", escape(summary));
        }
    }
    html + "</p>\n"
}

/// What a reader must know before using the result.
fn warnings(body: &mut String, view: &RunView) {
    let report = &view.report;
    let nothing = report.nothing_kept.as_ref().map(ToString::to_string);
    let missing = view.details.missing.iter().map(|what| format!("Not on this page: {what}"));
    let all: Vec<String> = report.warnings().into_iter().chain(nothing).chain(missing).collect();
    if !all.is_empty() {
        let items = all.iter().take(12).map(|what| format!("<li>{}</li>", escape(what)));
        let _ = writeln!(body, "<ul class=\"warnings\">{}</ul>", items.collect::<String>());
    }
}

fn watched(view: &RunView) -> String {
    let watch = view.manifest.as_ref().and_then(|manifest| manifest.plugin_set.watch.as_ref());
    watch.map_or(String::new(), |watch| pictures::watched(&view.report, watch))
}

/// The run at a glance.
fn cards(view: &RunView) -> String {
    let mut cards = String::new();
    let mut card = |name: &str, big: &str, faint: &str| {
        let _ = writeln!(
            cards,
            "<article class=\"card c0\"><h3>{}</h3><p class=\"big\">{}</p><p class=\"faint\">{}</p></article>",
            escape(name),
            escape(big),
            escape(faint)
        );
    };
    for measure in &view.details.held_out {
        let Some(change) = &measure.change else { continue };
        let at = |round| measure.points.iter().find(|point| point.round == round);
        let (Some(before), Some(after)) = (at(0), at(change.round)) else { continue };
        let ends = change.interval.map_or(String::new(), |ends| {
            format!(" (95 %: {} to {})", signed(ends.low), signed(ends.high))
        });
        let faint = format!("from {}: {}{ends}", number(before.value), signed(change.difference));
        card(&format!("{}, round {}", measure.measure, change.round), &number(after.value), &faint);
    }
    let rounds = &view.report.rounds;
    let (kept, prompts) = rounds
        .iter()
        .fold((0, 0), |(kept, prompts), round| (kept + round.kept, prompts + round.prompts));
    if prompts > 0 {
        let share = 100.0 * kept as f64 / prompts as f64;
        card(
            "kept",
            &format!("{share:.0} %"),
            &format!("{kept} of {}", counted(prompts, "records")),
        );
    }
    cards
}

fn signed(value: f64) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", number(value)).replace('-', "−")
}

fn rows(cells: &[Vec<String>]) -> impl Iterator<Item = Vec<Cell>> {
    cells.iter().map(|row| row.iter().cloned().map(Cell::from).collect())
}

fn rounds(report: &Report) -> String {
    if report.rounds.is_empty() && report.before.is_empty() {
        return String::new();
    }
    let cells = report.rounds_table().shown();
    let Some((head, body)) = cells.split_first() else { return String::new() };
    wide("rounds", &table(head, rows(body)))
}

/// The measures, with a word on their intervals.
fn held_out(measures: &[HeldOut]) -> String {
    let pictures = pictures::held_out(measures);
    let methods: Vec<String> = measures
        .iter()
        .filter(|it| !it.method.is_empty())
        .map(|it| format!("{} by the {}", it.measure, it.method))
        .collect();
    match (pictures.is_empty(), methods.is_empty()) {
        (true, _) | (_, true) => pictures,
        _ => format!(
            "<p class=\"faint\">Round 0 is the initial model. Bars are 95 % intervals: {}. They say how much \
             another choice of prompts could change a value; two rounds have the same prompts, so a difference \
             is surer than its two intervals.</p>\n{pictures}",
            escape(&methods.join(", "))
        ),
    }
}

/// Says what the order of the training is.
fn ordered(view: &RunView) -> String {
    let difficulty = view.manifest.as_ref().and_then(|it| it.plugin_set.difficulty.as_ref());
    let by = match difficulty {
        Some(it) => format!(
            "Scored by <code>{}</code>; higher is harder. ",
            escape(&it.plugin.source.short())
        ),
        None => "Higher is harder. ".to_owned(),
    };
    let within = match difficulty.map(|it| it.scope) {
        Some(plugin_set::Scope::Pool) => {
            "Records are drawn in the order of the training data; within a round the trainer shuffles them."
        }
        _ => "Records are drawn in the order in which they are trained on.",
    };
    by + within
}

/// Two texts of each sample side by side; where there is one of each, samples are side by side.
fn samples(samples: &[Sample], first: &str, second: &str) -> String {
    let single = samples.iter().all(|sample| sample.first.is_empty());
    let one = |sample: &Sample| {
        let text = |text: &str| {
            let text = if text.is_empty() { "(empty)" } else { text };
            format!("<p class=\"text\" dir=\"auto\">{}</p>", escape(text))
        };
        let named = |name: &str, said: &str| format!("<div><h4>{name}</h4>{}</div>", text(said));
        let texts = match single {
            true => text(&sample.second),
            false => {
                let both = named(first, &sample.first) + &named(second, &sample.second);
                format!("<div class=\"two\">{both}</div>")
            }
        };
        format!(
            "<article class=\"sample\"><h3><span dir=\"auto\">{}</span> <small class=\"faint\">{}</small></h3>\
             {texts}</article>\n",
            escape(&sample.prompt),
            escape(&sample.id)
        )
    };
    let all: String = samples.iter().map(one).collect();
    if single && !all.is_empty() { format!("<div class=\"two\">{all}</div>\n") } else { all }
}

/// What stages count besides what they cost; the pictures above show it.
const NO_COST: [&str; 3] = ["examples", "kept", "selected"];

/// What each stage has counted over all rounds, and in each of them.
fn costs(costs: &[Cost]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut stages: Vec<(&str, BTreeMap<&str, u64>)> = Vec::new();
    for cost in costs {
        let place = match stages.iter().position(|(stage, _)| *stage == cost.stage) {
            Some(place) => place,
            None => {
                stages.push((&cost.stage, BTreeMap::new()));
                stages.len() - 1
            }
        };
        for (name, count) in
            cost.counts.iter().filter(|(name, _)| !NO_COST.contains(&name.as_str()))
        {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
            *stages[place].1.entry(name).or_default() += count;
        }
    }
    let first = ["tokens", "reused", "asks", "fuel", "steps"];
    let place = |name: &str| first.iter().position(|it| *it == name).unwrap_or(first.len());
    names.sort_by_key(|name| (place(name), *name));
    if names.is_empty() {
        return String::new();
    }
    let head: Vec<String> =
        std::iter::once("stage").chain(names.iter().copied()).map(str::to_owned).collect();
    let cells = |front: String, counts: &dyn Fn(&str) -> Option<u64>| {
        let count = |name: &&str| counts(name).map_or(String::new(), |count| grouped(count as f64));
        std::iter::once(front).chain(names.iter().map(count)).map(Cell::from).collect::<Vec<_>>()
    };
    let counted = stages.iter().filter(|(_, counts)| !counts.is_empty());
    let all = table(
        &head,
        counted
            .map(|(stage, counts)| cells((*stage).to_owned(), &|name| counts.get(name).copied())),
    );
    let counts = |cost: &&Cost| cost.counts.keys().any(|name| names.contains(&name.as_str()));
    let each = costs.iter().filter(counts).map(|cost| {
        let place = match cost.round {
            0 => format!("pool: {}", cost.stage),
            round => format!("round {round}: {}", cost.stage),
        };
        cells(place, &|name| cost.counts.get(name).copied())
    });
    wide("cost", &all) + &folded("Stage by stage", &table(&head, each))
}

/// What was run: the method, its plugins, models and data.
fn method(view: &RunView) -> String {
    let Some(manifest) = &view.manifest else { return String::new() };
    let set = &manifest.plugin_set;
    let mut html = String::new();
    if let Some(paper) = &set.method.paper {
        let link = match paper.starts_with("https://") {
            true => format!("<a href=\"{0}\">{0}</a>", escape(paper)),
            false => escape(paper),
        };
        let _ = writeln!(html, "<p>Paper: {link}</p>");
    }
    let head = ["kind", "plugin", "version", "source", "sha256"].map(String::from);
    let plugins = manifest.plugins.iter().map(|plugin| {
        let cells = [&plugin.kind, &plugin.name, &plugin.version, &plugin.source, &plugin.digest];
        cells.map(|cell| Cell::from(cell.as_str())).to_vec()
    });
    if !manifest.plugins.is_empty() {
        html += &wide("plugins", &table(&head, plugins));
    }
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (name, model) in &manifest.models {
        rows.push(
            [&format!("model {name}"), &model.name, "", &model.digest].map(Cell::from).to_vec(),
        );
    }
    for (name, data) in [
        ("prompts", Some(&manifest.prompts)),
        ("held-out", manifest.held_out.as_ref()),
        ("anchors", manifest.anchors.as_ref()),
    ] {
        if let Some(data) = data {
            let rows_used = counted(data.rows, "rows");
            rows.push([name, &data.source, &rows_used, &data.digest].map(Cell::from).to_vec());
        }
    }
    let head = ["what", "name", "size", "sha256"].map(String::from);
    html + &wide("models and data", &table(&head, rows.into_iter()))
}

/// The command that does the same again, and the plugin set that it needs.
fn repeat(view: &RunView) -> String {
    let Some(manifest) = &view.manifest else { return String::new() };
    let Manifest { engine, plugin_set: set, .. } = manifest;
    let digests: Vec<&str> = manifest.plugins.iter().map(|plugin| plugin.digest.as_str()).collect();
    let file = format!("{}.toml", set.method.name);
    let equal = format!(
        "<p class=\"faint\">Equal bytes need the same data and models (SHA-256 above), aligner {} and a machine \
         whose engine is <code>{}</code>; elsewhere last digits may differ.</p>\n",
        escape(&manifest.aligner),
        escape(engine)
    );
    match plugin_set::resolved(set, &digests) {
        Some(text) => format!(
            "<p>Save the plugin set below as <code>{0}</code>, with all that was set by arguments in it. Then:</p>\n\
             <pre><code>aligner --plugins {0} --out again</code></pre>\n{equal}{1}",
            escape(&file),
            folded(
                &format!("The plugin set: {file}"),
                &format!("<pre><code>{}</code></pre>", escape(&text))
            )
        ),
        None => format!(
            "<p>The plugin set came out of a pack, {}; what stood over it is in <code>run.json</code>.</p>\n{equal}",
            escape(&pack(set))
        ),
    }
}

/// Returns the pack that a set came out of.
fn pack(set: &PluginSet) -> String {
    let sources = set.plugins().into_iter().map(|(_, plugin)| &plugin.source);
    let data = [&set.data.prompts].into_iter();
    let pack = |source: &plugin_set::Source| match source {
        plugin_set::Source::Packed { pack, .. } => Some(pack.display().to_string()),
        _ => None,
    };
    sources.chain(data).find_map(pack).unwrap_or_default()
}
