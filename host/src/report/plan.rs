//! What a run will do, said before it does it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::table::{Align, Table, printable};
use crate::plugin_set::{Ask, Keep};
use crate::progress::{counted, duration};

/// What a run will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the method.
    pub method: String,
    /// What the plugin set is called: its path, or `builtin:NAME`.
    pub plugin_set: String,
    /// At least 1.
    pub rounds: u32,
    /// As the user named it.
    pub model: String,
    /// SHA-256 of the model's files, in hexadecimal.
    pub model_digest: String,
    /// Of the model's files.
    pub model_bytes: u64,
    /// Bytes of the model that each round writes, where every weight is trained.
    pub round_model_bytes: Option<u64>,
    /// Which of these stay.
    pub keep: Keep,
    /// In the order of the stages.
    pub plugins: Vec<PlanPlugin>,
    /// Prompts of the pool.
    pub prompts: u64,
    /// Prompts that the sampler plugin writes in each round, where it writes any.
    pub written: Option<u64>,
    /// Rows that were left out because an earlier one has the same text.
    pub duplicates: u64,
    /// Held-out prompts; 0 where nothing is measured on them.
    pub held_out: u64,
    /// Pairs that the judge is asked about before the first round and after each.
    pub anchors: u64,
    /// Prompts that do not fit into the context with their completion, and of how many that were tried.
    pub too_long: (u64, u64),
    /// Which rounds go beyond what they trained, and how far; absent where none does.
    pub extrapolation: Option<String>,
    /// What is watched, and what comes of it; absent where nothing is.
    pub watch: Option<String>,
    /// Which rounds another program trains, and what is started for that; absent where none is.
    pub trainer: Option<String>,
    /// Tokens that go through the models over all rounds, estimated.
    pub tokens: u64,
    /// How long that takes, estimated; absent where the machine was not measured.
    pub time: Option<PlanTime>,
    /// What each stage holds at its height, in bytes, estimated; not empty.
    pub memory: Vec<(&'static str, u64)>,
    /// How many bytes there are for it; absent where the system does not say.
    pub available: Option<u64>,
    /// Servers that answer for models: name of the model, and address.
    pub servers: Vec<(String, String)>,
    /// For example `cpu`.
    pub device: String,
    /// The run directory.
    pub out: PathBuf,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanTime {
    /// In seconds, on a machine that does nothing else.
    pub seconds: f64,
    /// Others use this one now. How much longer it takes for that changes from moment to moment.
    pub busy: bool,
}

/// A plugin of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanPlugin {
    /// `principle`, `sampler`, `filter`, `judge` or `difficulty`.
    pub kind: String,
    /// As it calls itself.
    pub name: String,
    /// As it calls itself.
    pub version: String,
    /// SHA-256 of the component, in hexadecimal; eight digits are shown.
    pub digest: String,
    /// What it may ask; absent where it may not.
    pub ask: Option<Ask>,
}

impl Plan {
    /// Returns the plan as lines, ending in a newline.
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| {
            lines.push(format!("{name:<9}{}\n", printable(&value)));
        };
        let rounds = counted(self.rounds.into(), "rounds");
        line("method", format!("{} ({}), {rounds}", self.method, self.plugin_set));
        line(
            "model",
            format!(
                "{}, {}, sha256 {}",
                self.model,
                bytes(self.model_bytes),
                eight(&self.model_digest)
            ),
        );
        for (name, server) in &self.servers {
            line("server", format!("{server} answers for `{name}`"));
        }
        if let Some(size) = self.round_model_bytes {
            let size = bytes(size);
            let kept = match self.keep {
                Keep::All => "",
                Keep::Last => ", the last and the best stay",
            };
            line("training", format!("every weight; each round writes a model of {size}{kept}"));
        }
        let mut prompts = counted(self.prompts, "prompts");
        if self.duplicates > 0 {
            prompts.push_str(&format!(", {} left out", counted(self.duplicates, "duplicates")));
        }
        if let Some(written) = self.written {
            prompts.push_str(&format!(", {written} written in each round"));
        }
        if self.held_out > 0 {
            prompts.push_str(&format!(", {} held out", self.held_out));
        }
        if self.anchors > 0 {
            let anchors = counted(self.anchors, "anchors");
            prompts.push_str(&format!(", {anchors} for the judge before and after each round"));
        }
        line("data", prompts);
        if let (too_long @ 1.., tried) = self.too_long {
            let prompts = counted(tried, "prompts");
            line(
                "context",
                format!("leaves out {too_long} of {prompts}: with a completion they do not fit"),
            );
        }
        if let Some(extrapolation) = &self.extrapolation {
            line("beyond", extrapolation.clone());
        }
        if let Some(watch) = &self.watch {
            line("watch", watch.clone());
        }
        if let Some(trainer) = &self.trainer {
            line("trainer", trainer.clone());
        }
        let time = self.time.map_or(String::new(), |time| format!(", {}", time.render()));
        // What a difficulty scorer asks is known: each prompt once.
        let asking = self.plugins.iter().filter(|it| it.ask.is_some() && it.kind != "difficulty");
        let kinds: BTreeSet<&str> = asking.map(|plugin| plugin.kind.as_str()).collect();
        let kinds: Vec<&str> = kinds.into_iter().collect();
        let besides = match kinds.as_slice() {
            [] => String::new(),
            [kind] => format!(", besides what the {kind} asks"),
            kinds => format!(", besides what the {} ask", kinds.join(" and the ")),
        };
        let tokens = rounded(self.tokens);
        line("work", format!("about {tokens} tokens on {}{time}{besides}", self.device));
        line("memory", self.memory());
        line("output", self.out.display().to_string());
        let mut text = lines.concat();
        if !self.plugins.is_empty() {
            text.push('\n');
            text.push_str(&self.plugin_table());
        }
        text
    }

    fn memory(&self) -> String {
        let mut stages = self.memory.clone();
        stages.sort_by_key(|&(_, most)| std::cmp::Reverse(most));
        let most = stages.first().map_or(0, |&(_, most)| most);
        let stages: Vec<String> =
            stages.iter().map(|&(name, most)| format!("{name} {}", bytes(most))).collect();
        let mut text = format!("about {} ({})", bytes(most), stages.join(", "));
        if let Some(available) = self.available {
            text.push_str(&format!(", {} available", bytes(available)));
        }
        text
    }

    fn plugin_table(&self) -> String {
        let mut table = Table::new();
        for heading in ["kind", "plugin", "version", "sha256", "may ask"] {
            table.column(heading, "", Align::Left);
        }
        for plugin in &self.plugins {
            let ask = match &plugin.ask {
                Some(ask) => may_ask(ask),
                None => "nothing".to_owned(),
            };
            table.row(vec![
                plugin.kind.clone(),
                plugin.name.clone(),
                plugin.version.clone(),
                eight(&plugin.digest),
                ask,
            ]);
        }
        table.render()
    }
}

/// Returns a grant in words: which models, and how much in each stage and in the whole run.
fn may_ask(ask: &Ask) -> String {
    let mut text = format!("{}, {} tokens", ask.models.join(", "), rounded(ask.tokens));
    let mut add = |number: Option<u64>, what: &str| {
        if let Some(number) = number {
            text.push_str(&format!(", {} {what}", rounded(number)));
        }
    };
    add(ask.requests, "requests");
    add(ask.record_requests.map(u64::from), "for one record");
    add(ask.run_tokens, "tokens in the run");
    add(ask.run_requests, "requests in the run");
    text
}

impl PlanTime {
    fn render(self) -> String {
        let longer = if self.busy { ", longer while others use the machine" } else { "" };
        format!("about {}{longer}", rough(self.seconds))
    }
}

/// Returns a time as exactly as an estimate is: `40 s`, `2 min 30 s`, `12 min`, `1 h 20 min`.
fn rough(seconds: f64) -> String {
    let to = |step: f64| (seconds / step).round().max(1.0) * step;
    let step = match seconds {
        ..55.0 => 10.0,
        55.0..585.0 => 30.0,
        585.0..3570.0 => 60.0,
        3570.0..35_700.0 => 600.0,
        _ => 3600.0,
    };
    let text = duration(to(step));
    [" 0 s", " 0 min"].iter().find_map(|zero| text.strip_suffix(zero)).unwrap_or(&text).to_owned()
}

fn eight(digest: &str) -> String {
    digest.chars().take(8).collect()
}

/// Returns a number as people say it: `950`, `12 k`, `3.4 M`.
fn rounded(number: u64) -> String {
    let value = number as f64;
    match number {
        0..1000 => number.to_string(),
        1000..9_950 => format!("{:.1} k", value / 1e3),
        9_950..999_500 => format!("{:.0} k", value / 1e3),
        999_500..9_950_000 => format!("{:.1} M", value / 1e6),
        9_950_000..999_500_000 => format!("{:.0} M", value / 1e6),
        _ => format!("{:.1} G", value / 1e9),
    }
}

/// Returns a size in decimal units, as download pages give it.
pub(crate) fn bytes(number: u64) -> String {
    match number {
        0..1000 => format!("{number} B"),
        _ => format!("{}B", rounded(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_all() {
        let plugin = |kind: &str, name: &str, ask| PlanPlugin {
            kind: kind.into(),
            name: name.into(),
            version: "0.1.0".into(),
            digest: "0123456789abcdef".into(),
            ask,
        };
        let ask = Ask {
            models: vec!["initial".into()],
            tokens: 500_000,
            run_tokens: None,
            requests: None,
            run_requests: None,
            record_requests: None,
        };
        let plan = Plan {
            method: "soft-plus".into(),
            plugin_set: "builtin:soft-plus".into(),
            rounds: 3,
            model: "smollm2-135m-instruct".into(),
            model_digest: "fedcba9876543210".into(),
            model_bytes: 98_000_000,
            round_model_bytes: None,
            keep: Keep::All,
            plugins: vec![
                plugin("principle", "self-align", None),
                plugin("difficulty", "perplexity", Some(ask.clone())),
            ],
            prompts: 240,
            written: None,
            duplicates: 1,
            held_out: 40,
            anchors: 0,
            extrapolation: None,
            watch: None,
            trainer: None,
            tokens: 34_567,
            too_long: (0, 96),
            time: Some(PlanTime { seconds: 400.0, busy: false }),
            memory: vec![
                ("loading", 700_000_000),
                ("generation", 940_000_000),
                ("training", 1_290_000_000),
            ],
            available: Some(20_300_000_000),
            servers: Vec::new(),
            device: "cpu".into(),
            out: "runs/demo".into(),
        };
        assert_eq!(
            plan.render(),
            "\
method   soft-plus (builtin:soft-plus), 3 rounds
model    smollm2-135m-instruct, 98 MB, sha256 fedcba98
data     240 prompts, 1 duplicate left out, 40 held out
work     about 35 k tokens on cpu, about 6 min 30 s
memory   about 1.3 GB (training 1.3 GB, generation 940 MB, loading 700 MB), 20.3 GB available
output   runs/demo

kind        plugin      version  sha256    may ask
principle   self-align  0.1.0    01234567  nothing
difficulty  perplexity  0.1.0    01234567  initial, 500 k tokens
"
        );
        let less = Plan { too_long: (3, 96), ..plan.clone() }.render();
        assert!(less.contains(
            "out\ncontext  leaves out 3 of 96 prompts: with a completion they do not fit\nwork"
        ));
        let writes = Plan { written: Some(64), ..plan.clone() }.render();
        assert!(writes.contains("64 written in each round"), "{writes}");
        let extrapolation = Some("round 3 by alpha 0.3".into());
        let beyond = Plan { extrapolation, ..plan.clone() }.render();
        assert!(beyond.contains("40 held out\nbeyond   round 3 by alpha 0.3\nwork"));
        let asks =
            |ask| Plan { plugins: vec![plugin("judge", "grade", Some(ask))], ..plan.clone() };
        let more = Ask { requests: Some(2_000), run_tokens: Some(3_400_000), ..ask.clone() };
        assert!(
            asks(more)
                .render()
                .contains("initial, 500 k tokens, 2.0 k requests, 3.4 M tokens in the run\n")
        );
        let asked = asks(ask.clone()).render();
        assert!(asked.contains("about 6 min 30 s, besides what the judge asks\n"), "{asked}");
        let full = Plan { round_model_bytes: Some(538_000_000), ..plan.clone() }.render();
        assert!(
            full.contains("\ntraining every weight; each round writes a model of 538 MB\ndata")
        );
        let plan = Plan { round_model_bytes: Some(538_000_000), keep: Keep::Last, ..plan }.render();
        assert!(plan.contains("a model of 538 MB, the last and the best stay\ndata"));
    }

    #[test]
    fn estimated_times_are_as_exact_as_they_are() {
        let check = |seconds: f64, expected: &str| assert_eq!(rough(seconds), expected);
        check(0.0, "10 s");
        check(26.0, "30 s");
        check(54.9, "50 s");
        check(59.0, "1 min");
        check(104.0, "1 min 30 s");
        check(400.0, "6 min 30 s");
        check(700.0, "12 min");
        check(3580.0, "1 h");
        check(4900.0, "1 h 20 min");
        check(100_000.0, "28 h");
        check(f64::INFINITY, "unknown");
        let time = |busy| PlanTime { seconds: 104.0, busy }.render();
        assert_eq!(time(false), "about 1 min 30 s");
        assert_eq!(time(true), "about 1 min 30 s, longer while others use the machine");
    }

    #[test]
    fn numbers_are_rounded_as_people_say_them() {
        let check = |number: u64, tokens: &str, size: &str| {
            assert_eq!((rounded(number).as_str(), bytes(number).as_str()), (tokens, size));
        };
        check(0, "0", "0 B");
        check(999, "999", "999 B");
        check(1_000, "1.0 k", "1.0 kB");
        check(999_499, "999 k", "999 kB");
        check(3_400_000, "3.4 M", "3.4 MB");
        check(7_000_000_000, "7.0 G", "7.0 GB");
    }
}
