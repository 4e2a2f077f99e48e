//! The pictures of a run's page. Each has its numbers in a table below it.

use std::collections::BTreeMap;

use super::data::{Details, HeldOut, RoundDetails, Spread, Update};
use super::funnel::Funnel;
use super::read::evenly;
use super::{RunView, Time};
use crate::plugin_set::Watch;
use crate::report::alarm::edge;
use crate::report::page::bars::{Bar, bars};
use crate::report::page::chart::{About, Curve, Point, chart, legend};
use crate::report::page::figure;
use crate::report::page::flow::{Stage, flow};
use crate::report::page::histogram::Part;
use crate::report::{Extrapolation, Report, number};

/// Rounds whose flows are drawn; of more, as many of them are taken evenly.
const FLOWS: usize = 12;
/// Reasons of one stage that a flow shows by name.
const REASONS: usize = 6;

/// The plots of the training: a title, and what is drawn in it under the names of `metrics.jsonl`.
pub const TRAINING: [(&str, &[&str]); 7] = [
    ("loss", &["loss"]),
    ("rewards", &["rewards/chosen", "rewards/rejected"]),
    ("reward margin", &["rewards/margins"]),
    ("reward accuracy", &["rewards/accuracies"]),
    ("logprobs", &["logps/chosen", "logps/rejected"]),
    ("gradient norm", &["grad_norm"]),
    ("learning rate", &["learning_rate"]),
];

/// Every held-out measure over the rounds, with its intervals.
pub fn held_out(measures: &[HeldOut]) -> String {
    let one = |measure: &HeldOut| {
        let points = measure.points.iter().map(|point| Point {
            x: f64::from(point.round),
            y: point.value,
            ends: point.interval.map(|ends| (ends.low, ends.high)),
        });
        let curve = Curve {
            name: &measure.measure,
            colour: 0,
            parts: vec![points.collect()],
            marked: true,
        };
        let svg = chart(&over_rounds(&measure.measure), &[curve]);
        let row = |point: &super::data::Measure| {
            let ends = point
                .interval
                .map_or_else(Default::default, |ends| [number(ends.low), number(ends.high)]);
            let n = if point.n > 0 { point.n.to_string() } else { String::new() };
            let [low, high] = ends;
            vec![point.round.to_string(), number(point.value), low, high, n]
        };
        let head = ["round", measure.measure.as_str(), "95 % from", "to", "prompts"];
        figure(&svg, &head, measure.points.iter().map(row))
    };
    plots(measures.iter().map(one))
}

fn over_rounds(title: &str) -> About<'_> {
    About { title, x: "round", whole: true, parted: &[], mark: None }
}

/// What became of the records of each round.
pub fn funnels(rounds: &[RoundDetails]) -> String {
    let one = |round: &RoundDetails| {
        let number = round.round;
        let written = round.written.iter().map(|funnel| {
            funnel_figure(&format!("round {number}: prompts written"), funnel, "join the pool")
        });
        let records = funnel_figure(
            &format!("round {number}"),
            &round.funnel,
            match (round.funnel.complete, round.steps) {
                (false, _) => "so far",
                (true, 0) => "kept",
                (true, _) => "trained",
            },
        );
        format!("<div>{}</div>", written.chain([records]).collect::<String>())
    };
    let shown = evenly(rounds.len() as u32, FLOWS);
    let numbered = (1u32..).zip(rounds).filter(|(number, _)| shown.contains(number));
    plots(numbered.map(|(_, round)| one(round)))
}

fn funnel_figure(title: &str, funnel: &Funnel, end: &str) -> String {
    let stage = |stage: &'_ super::funnel::FunnelStage| {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for leave in &stage.leaves {
            *reasons.entry(&leave.reason).or_default() += leave.count;
        }
        let mut leaves: Vec<(String, u64)> =
            reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
        leaves.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if leaves.len() > REASONS {
            let rest = leaves.split_off(REASONS - 1);
            let count = rest.iter().map(|(_, count)| count).sum();
            leaves.push((format!("{} other reasons", rest.len()), count));
        }
        leaves
    };
    // Where all have left, nothing more is to be seen.
    let stages: Vec<Stage<'_>> = funnel
        .stages
        .iter()
        .enumerate()
        .filter(|(place, stage)| *place == 0 || stage.enters > 0)
        .map(|(_, stage)| stage)
        .map(|it| Stage { name: &it.stage, enters: it.enters, leaves: stage(it) })
        .collect();
    let rows = funnel.stages.iter().flat_map(|stage| {
        let left: u64 = stage.leaves.iter().map(|leave| leave.count).sum();
        let row = |cells: [&str; 3], count: u64| {
            cells.into_iter().map(str::to_owned).chain([count.to_string()]).collect::<Vec<_>>()
        };
        let enters = row([&stage.stage, "enters", ""], stage.enters);
        let leaves = stage
            .leaves
            .iter()
            .map(move |leave| row([&stage.stage, &leave.reason, &leave.by], leave.count));
        let stays = row([&stage.stage, "stays", ""], stage.enters - left);
        std::iter::once(enters).chain(leaves).chain([stays]).collect::<Vec<_>>()
    });
    let head = ["stage", "what", "dropped by", "records"];
    figure(&flow(title, &stages, end), &head, rows)
}

/// Curves over all updates, a line for each round.
pub fn training(rounds: &[RoundDetails]) -> String {
    let begins: Vec<f64> = rounds
        .iter()
        .filter_map(|round| round.updates.first())
        .skip(1)
        .map(|update| update.update - 0.5)
        .collect();
    let parted = if begins.len() <= 12 { &begins[..] } else { &[] };
    plots(TRAINING.iter().map(|(title, names)| {
        let names: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| updates(rounds).any(|update| update.values.contains_key(*name)))
            .collect();
        let part = |round: &RoundDetails, name: &str| -> Vec<Point> {
            let point = |update: &Update| Some(Point::at(update.update, *update.values.get(name)?));
            round.updates.iter().filter_map(point).collect()
        };
        let curves: Vec<Curve<'_>> = names
            .iter()
            .enumerate()
            .map(|(colour, name)| Curve {
                name,
                colour,
                parts: rounds.iter().map(|round| part(round, name)).collect(),
                marked: false,
            })
            .collect();
        let mark = (*title == "reward accuracy").then_some(0.5);
        let svg = chart(&About { title, x: "update", whole: true, parted, mark }, &curves);
        if svg.is_empty() {
            return String::new();
        }
        let head: Vec<&str> = std::iter::once("update").chain(names.iter().copied()).collect();
        let rows = updates(rounds).map(|update| {
            let value = |name: &&str| update.values.get(*name).map_or(String::new(), |v| exact(*v));
            std::iter::once(number(update.update)).chain(names.iter().map(value)).collect()
        });
        figure(&svg, &head, rows)
    }))
}

fn updates(rounds: &[RoundDetails]) -> impl Iterator<Item = &Update> {
    rounds.iter().flat_map(|round| &round.updates)
}

/// Four digits that count, whatever the size.
fn exact(value: f64) -> String {
    match value.abs() {
        size if size > 0.0 && size < 1e-3 => format!("{value:.3e}"),
        _ => number(value),
    }
}

/// Lengths of completions, and what the judge gives them, round by round.
pub fn completions(details: &Details) -> String {
    let spread = |spread: &Option<Spread>, what: &str, x: &str| {
        let all = spread.as_ref().map_or_else(Vec::new, |spread| spreads(spread, what, x));
        plots(all.into_iter())
    };
    let pictures = spread(&details.lengths, "length", "tokens")
        + &spread(&details.margins, "judge's margin", "reward of chosen less rejected");
    match pictures.is_empty() {
        true => pictures,
        false => legend(&[("c0", "kept"), ("dropped", "dropped")]) + &pictures,
    }
}

fn spreads(spread: &Spread, what: &str, x: &str) -> Vec<String> {
    let mut rounds: Vec<u32> = spread.parts.iter().map(|part| part.round).collect();
    rounds.dedup();
    let parts = |round: u32| -> Vec<Part<'_>> {
        let of_round = spread.parts.iter().enumerate().filter(|(_, part)| part.round == round);
        of_round
            .map(|(index, part)| match part.kept {
                true => Part { index, class: "bar c0", name: "kept" },
                false => Part { index, class: "left", name: "dropped" },
            })
            .collect()
    };
    let indices = |round: u32| parts(round).iter().map(|part| part.index).collect::<Vec<_>>();
    let most =
        rounds.iter().map(|&round| spread.histogram.most(&indices(round))).max().unwrap_or(0);
    let one = |&round: &u32| {
        let parts = parts(round);
        let title = match round {
            0 => format!("{what} in the pool"),
            round => format!("{what} in round {round}"),
        };
        let svg = spread.histogram.draw(&title, x, &parts, most);
        let names = parts.iter().map(|part| if round == 0 { "prompts" } else { part.name });
        let head: Vec<&str> = ["from", "to"].into_iter().chain(names).collect();
        let rows = spread.histogram.rows().map(|row| {
            let counts = parts.iter().map(|part| row[2 + part.index].clone());
            row[..2].iter().cloned().chain(counts).collect()
        });
        figure(&svg, &head, rows)
    };
    rounds.iter().map(one).collect()
}

/// How hard the records are, and in which order they are trained on.
pub fn difficulty(details: &Details) -> String {
    let spread = details.difficulty.iter();
    let histograms = spread.flat_map(|it| spreads(it, "difficulty", "difficulty"));
    plots(histograms.chain([order(details)]))
}

/// Difficulty in the order of the training.
fn order(details: &Details) -> String {
    if details.order.is_empty() {
        return String::new();
    }
    let rounds = details.order.chunk_by(|one, two| one.round == two.round);
    let parts: Vec<Vec<Point>> = rounds
        .map(|round| round.iter().map(|it| Point::at(it.place, it.difficulty)).collect())
        .collect();
    let begins: Vec<f64> =
        parts.iter().skip(1).filter_map(|part| Some(part.first()?.x - 0.5)).collect();
    let about = About {
        title: "difficulty in the order of the training",
        x: "record",
        whole: true,
        parted: if begins.len() <= 12 { &begins } else { &[] },
        mark: None,
    };
    let svg = chart(&about, &[Curve { name: "difficulty", colour: 0, parts, marked: false }]);
    let rows = details
        .order
        .iter()
        .map(|it| vec![it.round.to_string(), number(it.place), number(it.difficulty)]);
    figure(&svg, &["round", "record", "difficulty"], rows)
}

/// Diversity and entropy of what the rounds wrote, and how much of it they kept.
pub fn signals(report: &Report) -> String {
    type Of = fn(&crate::report::RoundSummary) -> Option<f64>;
    let all: [(&str, Of); 3] = [
        ("distinct-2 of what is kept", |round| round.distinct_2),
        ("mean token entropy, nats", |round| round.entropy),
        ("kept share", |round| {
            (round.prompts > 0).then(|| round.kept as f64 / round.prompts as f64)
        }),
    ];
    plots(all.iter().map(|(title, of)| {
        let points: Vec<Point> = report
            .rounds
            .iter()
            .filter_map(|round| Some(Point::at(f64::from(round.round), of(round)?)))
            .collect();
        let curve = Curve { name: title, colour: 0, parts: vec![points.clone()], marked: true };
        let svg = chart(&over_rounds(title), &[curve]);
        if svg.is_empty() {
            return String::new();
        }
        let rows = points.iter().map(|point| vec![number(point.x), number(point.y)]);
        figure(&svg, &["round", title], rows)
    }))
}

/// Every signal that is watched, with the limit that it is nearest to or beyond.
pub fn watched(report: &Report, watch: &Watch) -> String {
    plots(watch.limits.iter().map(|(signal, bounds)| {
        let name = signal.as_str();
        let start = report.at_start(name).map(|value| (0, value));
        let seen = start.into_iter().chain(report.signal(name));
        let points: Vec<Point> =
            seen.map(|(round, value)| Point::at(f64::from(round), value)).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return String::new();
        };
        let edges = bounds.given().map(|(limit, bound)| (edge(limit, bound, first.y), limit));
        let nearest = edges
            .min_by(|(one, _), (two, _)| (one - last.y).abs().total_cmp(&(two - last.y).abs()));
        let alarm = report.alarms.iter().find(|alarm| alarm.signal == name);
        let nearest = alarm
            .map(|alarm| (edge(&alarm.limit, alarm.bound, first.y), alarm.limit.as_str()))
            .or(nearest);
        let title = nearest.map_or(name.to_owned(), |(_, limit)| format!("{name} and its {limit}"));
        let curve = Curve { name, colour: 0, parts: vec![points.clone()], marked: true };
        let about = About { mark: nearest.map(|(edge, _)| edge), ..over_rounds(&title) };
        let edge = nearest.map_or(String::new(), |(edge, _)| number(edge));
        let rows = points.iter().map(|it| vec![it.x.to_string(), number(it.y), edge.clone()]);
        figure(&chart(&about, &[curve]), &["round", name, "limit"], rows)
    }))
}

/// What was found along the line of each extrapolation.
pub fn extrapolations(report: &Report) -> String {
    let found =
        report.rounds.iter().filter_map(|round| Some((round.round, round.extrapolated.as_ref()?)));
    plots(found.map(|(round, it)| alphas(round, it)))
}

fn alphas(round: u32, found: &Extrapolation) -> String {
    let Some(objective) = &found.objective else { return String::new() };
    let point = |candidate: &crate::report::Candidate| {
        Some(Point::at(candidate.alpha, candidate.found?.objective?))
    };
    // Marks alone: each point is a part of its own.
    let marks = |of: &dyn Fn(&crate::report::Candidate) -> bool| {
        let own = found.candidates.iter().filter(|it| of(it));
        own.filter_map(point).map(|point| vec![point]).collect::<Vec<_>>()
    };
    let line = vec![found.candidates.iter().filter_map(point).collect()];
    let curve = |name, colour, parts| Curve { name, colour, parts, marked: true };
    let mut curves =
        vec![curve(objective.as_str(), 0, line), curve("chosen", 2, marks(&|it| it.chosen))];
    let refused = marks(&|it| it.refused.is_some());
    if !refused.is_empty() {
        curves.push(curve("refused", 5, refused));
    }
    let title = format!("round {round}: {objective} by alpha");
    let about = About { title: &title, x: "alpha", whole: false, parted: &[], mark: None };
    let rows = found.candidates.iter().map(|candidate| {
        let mark = if candidate.chosen { " (chosen)" } else { "" };
        let said = candidate.found.map_or_else(Default::default, |it| {
            [
                it.objective.map_or(String::new(), number),
                number(it.length),
                number(it.ended),
                number(it.repeated),
            ]
        });
        let mut row = vec![format!("{}{mark}", candidate.alpha)];
        row.extend(said);
        row.push(candidate.refused.clone().unwrap_or_default());
        row
    });
    let head = ["alpha", objective.as_str(), "length", "ended", "repeated", "refused"];
    figure(&chart(&about, &curves), &head, rows)
}

/// Seconds of each stage over all rounds, the longest first.
pub fn times(view: &RunView) -> String {
    let mut stages: Vec<(&str, f64, u64)> = Vec::new();
    for Time { stage, seconds, peak_memory_bytes, .. } in &view.times {
        match stages.iter_mut().find(|(name, ..)| name == stage) {
            Some((_, all, peak)) => {
                *all += seconds;
                *peak = (*peak).max(*peak_memory_bytes);
            }
            None => stages.push((stage, *seconds, *peak_memory_bytes)),
        }
    }
    stages.sort_by(|one, two| two.1.total_cmp(&one.1));
    let all: Vec<Bar<'_>> = stages
        .iter()
        .take(12)
        .map(|&(name, value, _)| Bar { name, value, said: crate::progress::duration(value) })
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let rows = view.times.iter().map(|time| {
        let memory = crate::report::bytes(time.peak_memory_bytes);
        vec![time.round.to_string(), time.stage.clone(), format!("{:.3}", time.seconds), memory]
    });
    let head = ["round", "stage", "seconds", "peak memory so far"];
    let seconds: f64 = view.times.iter().map(|time| time.seconds).sum();
    let peak = view.times.iter().map(|time| time.peak_memory_bytes).max().unwrap_or(0);
    format!(
        "<p class=\"faint\">In all {}; the process held {} at most.</p>\n{}",
        crate::progress::duration(seconds),
        crate::report::bytes(peak),
        figure(&bars("seconds by stage", "bar c0", &all), &head, rows)
    )
}

/// Puts plots beside each other; nothing where there are none.
fn plots(all: impl Iterator<Item = String>) -> String {
    let all: String = all.collect();
    if all.is_empty() { all } else { format!("<div class=\"plots\">{all}</div>\n") }
}
