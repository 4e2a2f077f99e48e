//! The tables.

use std::fmt::Write;

use super::assumptions::{Assumptions, DESCRIBED, Origin};
use super::flight::{Cost, fly};
use super::round::{Stage, round};
use super::server::Request;

/// A round that differs from the one at hand.
pub struct Change {
    /// What is other.
    pub what: &'static str,
    /// The assumptions that are other, and what they are then.
    pub set: &'static [(&'static str, f64)],
    /// How many times as long all takes that the host does.
    pub host: f64,
}

const fn change(what: &'static str, set: &'static [(&'static str, f64)]) -> Change {
    Change { what, set, host: 1.0 }
}

const fn host(what: &'static str, times: f64) -> Change {
    Change { what, set: &[], host: times }
}

/// A model of the width of Llama 3 8B, with a server on each GPU and no weights to gather for an update.
const fn small(
    billions: f64,
    kv_heads: f64,
    gpus: f64,
    in_flight: f64,
) -> [(&'static str, f64); 12] {
    [
        ("billions", billions),
        ("kv_heads", kv_heads),
        ("gpus", gpus),
        ("in_flight", in_flight),
        ("layers", 32.0),
        ("hidden", 4096.0),
        ("gpus_per_server", 1.0),
        ("all_reduce_us", 0.0),
        ("start_seconds", 60.0),
        ("train_launch_seconds", 30.0),
        ("train_step_seconds", 0.3),
        ("train_share", 0.35),
    ]
}

/// What is tried.
pub const CHANGES: &[Change] = &[
    change("nothing", &[]),
    change("`in_flight` at its default, 256", &[("in_flight", 256.0)]),
    change("10,000 prompts", &[("prompts", 10_000.0)]),
    change("4 completions of each prompt", &[("samples", 4.0)]),
    change(
        "long reasoning: 2000 tokens, σ 1, at most 16,384",
        &[("answer_tokens", 2000.0), ("answer_sigma", 1.0), ("answer_most", 16_384.0)],
    ),
    change("no judge", &[("judge_asks", 0.0)]),
    change("no scores for difficulty", &[("scored", 0.0)]),
    change("prompts and questions are chats", &[("chats", 1.0)]),
    change("8 of the GPUs train, 56 serve", &[("training_gpus", 8.0), ("in_flight", 3584.0)]),
    change(
        "servers half as fast",
        &[("compute_share", 0.275), ("bandwidth_share", 0.35), ("step_ms", 6.0)],
    ),
    change("128 GPUs", &[("gpus", 128.0), ("in_flight", 8192.0)]),
    change("8B on 64 GPUs", &small(8.03, 8.0, 64.0, 32_768.0)),
    Change {
        what: "8B on 64 GPUs, and host × ¼",
        set: &small(8.03, 8.0, 64.0, 32_768.0),
        host: 0.25,
    },
    change("7B without grouped heads, on 8 GPUs", &small(6.74, 32.0, 8.0, 4096.0)),
    change("8B on 1 GPU", &small(8.03, 8.0, 1.0, 512.0)),
    host("host × 10", 10.0),
    host("host × ¼", 0.25),
    change("each answer's line synced by itself, 1 ms", &[("sync_ms", 1.0)]),
    change("each answer's line synced by itself, 5 ms", &[("sync_ms", 5.0)]),
    change("all requests made before the first is sent", &[("burst", 100_000.0)]),
    change("TRL's rows scored by the embedded engine", &[("probe_rows", 4.0)]),
    change("prompts tokenised at a tenth of that", &[("prompt_ms", 0.145)]),
];

/// Runs of the program against a server that takes 5 ms for a token whatever else it does, as
/// `tests/simulate/measure --only flight` measures them: requests under way, milliseconds of a line in the ledger, and
/// seconds of 2000 short chats.
pub const FLIGHTS: &[(f64, f64, f64)] =
    &[(64.0, 0.0, 19.9), (256.0, 0.0, 6.9), (1024.0, 0.0, 6.4), (2000.0, 0.0, 7.5)];

/// Returns all tables, each with its heading.
pub fn page(assumptions: &Assumptions) -> [String; 4] {
    [
        described(assumptions),
        stages(assumptions),
        changes(assumptions, CHANGES),
        compared(assumptions),
    ]
}

/// Returns the table of what is assumed.
fn described(assumptions: &Assumptions) -> String {
    let mut out = "## What is assumed\n\n| name | what it is of | value | from |\n| --- | --- | --- | --- |\n".to_owned();
    let mut assumptions = assumptions.clone();
    for described in DESCRIBED {
        let value = *(described.of)(&mut assumptions);
        let from = match described.origin {
            Origin::Measured(row) => format!("measured, `{row}`"),
            Origin::Published(by) => by.to_owned(),
            Origin::Aligner(what) => format!("aligner: {what}"),
            Origin::Assumed(why) => format!("assumed: {why}"),
        };
        let (name, what, unit) = (described.name, described.what, described.unit);
        let _ = writeln!(
            out,
            "| `{name}` | {what} | {} | {from} |",
            [&value.to_string(), unit].join(" ").trim()
        );
    }
    out
}

/// Returns the table of the stages of a round.
fn stages(assumptions: &Assumptions) -> String {
    let with = round(assumptions);
    let without = round(&assumptions.without_host());
    let all = total(&with);
    let mut out = "## Where the time goes\n\n\
        | stage | seconds | of the round | GPUs idle | host at work | the host adds |\n\
        | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (stage, free) in with.iter().zip(&without) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            stage.name,
            seconds(stage.seconds),
            percent(stage.seconds / all),
            percent(stage.idle / stage.seconds / assumptions.gpus),
            percent(stage.host / stage.seconds),
            seconds(stage.seconds - free.seconds)
        );
    }
    let idle: f64 = with.iter().map(|stage| stage.idle).sum();
    let _ = writeln!(
        out,
        "| all | {} | 100 % | {} | {} | {} |\n",
        seconds(all),
        percent(idle / all / assumptions.gpus),
        percent(with.iter().map(|stage| stage.host).sum::<f64>() / all),
        seconds(all - total(&without))
    );
    let _ = writeln!(
        out,
        "| stage | requests | a second | tokens written | until the first is sent | last 5 % | the longest request |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for stage in &with {
        if let Some(flown) = &stage.flown {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {} | {} s | {} s | {} s |",
                stage.name,
                flown.answered,
                flown.answered as f64 / flown.seconds,
                flown.written,
                seconds(flown.first),
                seconds(flown.tail),
                seconds(flown.longest)
            );
        }
    }
    out
}

/// Returns the table of what becomes of a round where something is other.
pub fn changes(assumptions: &Assumptions, changes: &[Change]) -> String {
    let mut out = "## What if\n\n\
        | other | round | generate | its last 5 % | judge | score | train | GPUs idle | the host adds | of the round | longest request |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for change in changes {
        let changed = changed(assumptions, change);
        if let Err(why) = changed.check() {
            let _ = writeln!(out, "| {} | {why} |{}", change.what, " |".repeat(9));
            continue;
        }
        let (with, without) = (round(&changed), round(&changed.without_host()));
        let all = total(&with);
        let of = |names: &[&str]| {
            let stages =
                with.iter().filter(|stage| names.iter().any(|name| stage.name.starts_with(name)));
            seconds(stages.fold(0.0, |sum, stage| sum + stage.seconds))
        };
        let idle: f64 = with.iter().map(|stage| stage.idle).sum();
        let adds = all - total(&without);
        let flown = with.iter().filter_map(|stage| stage.flown.as_ref());
        let longest = flown.map(|flown| flown.longest).fold(0.0, f64::max);
        let late = if longest > changed.timeout_seconds { " (too long)" } else { "" };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}{late} |",
            change.what,
            seconds(all),
            of(&["sample", "generate", "filter-generate"]),
            seconds(tail(&with)),
            of(&["judge", "filter-judge"]),
            of(&["score"]),
            of(&["train", "servers"]),
            percent(idle / all / changed.gpus),
            seconds(adds),
            percent(adds / all),
            seconds(longest)
        );
    }
    out
}

/// Returns what assumptions are with a change.
pub fn changed(assumptions: &Assumptions, change: &Change) -> Assumptions {
    let mut changed = assumptions.clone();
    for (name, value) in change.set {
        changed.set(name, *value).expect("changes name what there is");
    }
    changed.scale_host(change.host);
    changed
}

/// Returns the table of runs that were measured and what is simulated of them.
fn compared(assumptions: &Assumptions) -> String {
    let mut out = "## Beside runs\n\n\
        | under way | a line in the ledger | measured | simulated | |\n\
        | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for &(in_flight, sync_ms, measured) in FLIGHTS {
        let simulated = flight(assumptions, in_flight, sync_ms);
        let _ = writeln!(
            out,
            "| {in_flight} | {sync_ms} ms | {} s | {} s | {:+.0} % |",
            seconds(measured),
            seconds(simulated),
            100.0 * (simulated / measured - 1.0)
        );
    }
    out
}

/// Simulates such a run: one server whose steps take 5 ms, on this machine.
fn flight(assumptions: &Assumptions, in_flight: f64, sync_ms: f64) -> f64 {
    let mut of_runs = assumptions.clone();
    let other = [
        ("gpus", 1.0),
        ("gpus_per_server", 1.0),
        ("training_gpus", 0.0),
        ("billions", 0.0),
        ("layers", 0.0),
        ("step_ms", 5.0),
        ("tokens_per_step", 1e9),
        ("most_running", 1e9),
        ("network_ms", 0.0),
        ("sync_ms", sync_ms),
        ("in_flight", in_flight),
    ];
    for (name, value) in other {
        of_runs.set(name, value).expect("it is there");
    }
    let mut draws = super::draw::Draws::of(of_runs.seed as u64, "flight");
    let requests: Vec<Request> = (0..2000)
        .map(|_| {
            let answer = draws.log_normal(100.0, 0.6).clamp(1.0, 400.0) as u32;
            Request { common: 0, own: 50, answer }
        })
        .collect();
    fly(&of_runs, &requests, false, Cost { chats: 1.0, echoes: false }).seconds
}

/// Returns how long the last answers of generation take.
fn tail(stages: &[Stage]) -> f64 {
    let generate = stages.iter().find(|stage| stage.name == "generate");
    generate.and_then(|stage| stage.flown.as_ref()).map_or(0.0, |flown| flown.tail)
}

fn total(stages: &[Stage]) -> f64 {
    stages.iter().map(|stage| stage.seconds).sum()
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1}"),
        _ => format!("{seconds:.0}"),
    }
}

fn percent(share: f64) -> String {
    match share.is_finite() {
        true => format!("{:.0} %", 100.0 * share),
        false => "-".to_owned(),
    }
}
