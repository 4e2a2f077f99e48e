//! How far a stage is: a bar on a terminal, lines elsewhere, or JSON; all of it on stderr.

mod event;

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{memory, report};
use event::Event;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line at the start, at most every two seconds, and at the end.
    Plain,
    /// A bar that moves; lines where stderr is not a terminal.
    Fancy,
    /// One JSON object a line, for other programs: at the start, at most every half second, and at
    /// the end.
    Json,
    /// Nothing at all.
    Silent,
}

/// Shows the progress of one stage after the other.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    style: Style,
}

/// Time between two lines of a stage.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Time between two JSON objects of a stage.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// Time between two looks at how much memory is held.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What log lines are filed under that stderr shows in a way of its own, such as stages that have
/// ended: they go to a run's log alone.
pub const LOG_TARGET: &str = "progress";

/// A stage that ends sooner gets no line at its end.
const BLINK: Duration = Duration::from_millis(200);

impl Progress {
    /// Shows progress in this style.
    pub fn new(style: Style) -> Progress {
        let drawable = style != Style::Fancy || io::stderr().is_terminal();
        Progress { style: if drawable { style } else { Style::Plain } }
    }

    /// Says something that is neither a result nor a warning, such as the plan of a run.
    pub fn note(&self, text: &str) {
        match self.style {
            Style::Plain | Style::Fancy => say(text.trim_end_matches('\n')),
            Style::Json => say(&Event::Note { text: text.trim_end_matches('\n') }.line()),
            Style::Silent => {}
        }
    }

    /// Begins a stage, for example `round 2, generate` with 96 `completions`. A stage without
    /// anything to do says nothing.
    pub fn stage(&self, name: &str, total: u64, unit: &str) -> Stage {
        let counts = Counts { name: name.to_owned(), unit: unit.to_owned(), total };
        let style = if total == 0 { Style::Silent } else { self.style };
        let bar = match style {
            Style::Fancy => Some(bar(&counts)),
            Style::Plain => {
                say(&format!("{name}: {}", counted(total, unit)));
                None
            }
            Style::Json => {
                say(&Event::Stage { stage: name, unit, total }.line());
                None
            }
            Style::Silent => None,
        };
        let now = Instant::now();
        Stage {
            counts,
            style,
            bar,
            begun: now,
            done: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            memory: AtomicU64::new(memory::resident().unwrap_or(0)),
            last: Mutex::new(Last { line: now, look: now }),
        }
    }

    /// Returns what hears how many of how many are done: a stage that begins when it first does, and
    /// ends with the last.
    pub fn counter<'a>(&'a self, name: &'a str, unit: &'a str) -> impl FnMut(usize, usize) + 'a {
        let mut open: Option<(Stage, usize)> = None;
        move |done, total| {
            let (stage, before) =
                open.get_or_insert_with(|| (self.stage(name, total as u64, unit), 0));
            stage.inc((done - *before) as u64);
            *before = done;
            if done == total
                && let Some((stage, _)) = open.take()
            {
                stage.finish();
            }
        }
    }
}

/// A stage at work. Can be told from several threads at once.
#[derive(Debug)]
pub struct Stage {
    counts: Counts,
    style: Style,
    bar: Option<ProgressBar>,
    begun: Instant,
    done: AtomicU64,
    tokens: AtomicU64,
    /// The most bytes that the process was seen to hold; 0 where the system does not say.
    memory: AtomicU64,
    last: Mutex<Last>,
}

/// When something was done last.
#[derive(Debug)]
struct Last {
    line: Instant,
    look: Instant,
}

#[derive(Debug)]
struct Counts {
    name: String,
    unit: String,
    total: u64,
}

impl Stage {
    /// Notes that `count` more units are done.
    pub fn inc(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(self.rates(done));
            }
            None if matches!(self.style, Style::Plain | Style::Json) => self.line(done),
            None => {}
        }
        self.look();
    }

    /// Returns what hears how many units of a part are done in all, and notes those that are new.
    pub fn follow(&self) -> impl FnMut(u64) + '_ {
        let mut before = 0;
        move |done| {
            self.inc(done - before);
            before = done;
        }
    }

    /// Notes that `count` more tokens went through a model; they are shown as a rate.
    pub fn note_tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Ordering::Relaxed);
    }

    /// Ends the stage.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.note_memory();
        let elapsed = self.begun.elapsed();
        let (done, tokens) = self.now();
        let memory = Some(self.memory.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0);
        if self.counts.total == 0 {
            return;
        }
        let line = self.counts.last_line(done, tokens, elapsed, memory);
        match self.style {
            Style::Silent => {}
            Style::Json => {
                let Counts { name: stage, unit, .. } = &self.counts;
                let seconds = elapsed.as_secs_f64();
                say(&Event::Done { stage, unit, done, seconds, tokens, memory_bytes: memory }
                    .line());
            }
            Style::Plain | Style::Fancy if self.bar.is_some() || elapsed >= BLINK => say(&line),
            Style::Plain | Style::Fancy => {}
        }
        tracing::info!(target: LOG_TARGET, "{line}");
    }

    fn line(&self, done: u64) {
        // Whoever finds the clock in use need not wait for it: the other one shows a line.
        let Ok(mut last) = self.last.try_lock() else { return };
        let every = if self.style == Style::Json { EVENT_EVERY } else { LINE_EVERY };
        if last.line.elapsed() < every || done >= self.counts.total {
            return;
        }
        last.line = Instant::now();
        let Counts { name, unit, total } = &self.counts;
        if self.style != Style::Json {
            return say(&format!("{name}: {done}/{total} {unit}, {}", self.rates(done)));
        }
        let tokens = self.tokens.load(Ordering::Relaxed);
        let rate = done as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
        let seconds_left = (done > 0).then(|| (total - done) as f64 / rate);
        let event =
            Event::Progress { stage: name, unit, done, total: *total, rate, tokens, seconds_left };
        say(&event.line());
    }

    /// Takes note of how much memory is held, now and then.
    fn look(&self) {
        let Ok(mut last) = self.last.try_lock() else { return };
        if last.look.elapsed() >= LOOK_EVERY {
            last.look = Instant::now();
            self.note_memory();
        }
    }

    fn note_memory(&self) {
        self.memory.fetch_max(memory::resident().unwrap_or(0), Ordering::Relaxed);
    }

    fn rates(&self, done: u64) -> String {
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.counts.rates(done, tokens, self.begun.elapsed())
    }

    fn now(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.tokens.load(Ordering::Relaxed))
    }
}

impl Drop for Stage {
    /// A stage that fails takes its bar away, so that the error stands alone.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Counts {
    fn rates(&self, done: u64, tokens: u64, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let rate = done as f64 / seconds;
        let mut text = format!("{} {}/s", short(rate), self.unit);
        if tokens > 0 {
            text.push_str(&format!(", {} tok/s", short(tokens as f64 / seconds)));
        }
        if done > 0 {
            let left = self.total.saturating_sub(done) as f64 / rate;
            text.push_str(&format!(", {} left", duration(left)));
        }
        text
    }

    fn last_line(&self, done: u64, tokens: u64, elapsed: Duration, memory: Option<u64>) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let mut text = format!(
            "{}: {} in {} ({}/s",
            self.name,
            counted(done, &self.unit),
            duration(seconds),
            short(done as f64 / seconds)
        );
        if tokens > 0 {
            let (tokens, rate) = (counted(tokens, "tokens"), short(tokens as f64 / seconds));
            text.push_str(&format!(", {tokens}, {rate} tok/s"));
        }
        if let Some(memory) = memory {
            text.push_str(&format!(", {} held", report::bytes(memory)));
        }
        text.push(')');
        text
    }
}

fn bar(counts: &Counts) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(counts.total), ProgressDrawTarget::stderr());
    let template = "{prefix} {bar:30} {pos}/{len} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(counts.name.clone());
    bar.set_message(counts.unit.clone());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Writes a line to stderr. Whoever closed it does not want to read it.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Returns a rate with two digits or more: `0.031`, `1.3`, `27`, `1450`.
fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 9.95 || rate == 0.0 => format!("{rate:.0}"),
        rate if rate >= 0.995 => format!("{rate:.1}"),
        rate if rate >= 0.0995 => format!("{rate:.2}"),
        rate => format!("{rate:.3}"),
    }
}

/// Says whether work goes on, or ends since `cancel` was set.
pub fn go_on(cancel: &AtomicBool) -> ControlFlow<()> {
    if cancel.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Returns a number of things as people say it, given their plural: `1 step`, `4 steps`.
pub fn counted(number: u64, things: &str) -> String {
    let thing = if number == 1 { things.strip_suffix('s').unwrap_or(things) } else { things };
    format!("{number} {thing}")
}

/// Returns a time as people say it: `0.4 s`, `38 s`, `4 min 10 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    if seconds.is_nan() || seconds > 1e9 {
        return "unknown".to_owned();
    }
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        let check = |seconds: f64, expected: &str| assert_eq!(duration(seconds), expected);
        check(0.0, "0.0 s");
        check(-1.0, "0.0 s");
        check(0.44, "0.4 s");
        check(9.94, "9.9 s");
        check(9.96, "10 s");
        check(59.6, "1 min 0 s");
        check(250.0, "4 min 10 s");
        check(3599.6, "1 h 0 min");
        check(7500.0, "2 h 5 min");
        check(f64::INFINITY, "unknown");
        check(f64::NAN, "unknown");
    }

    #[test]
    fn one_thing_is_no_plural() {
        let check = |number, things, expected: &str| assert_eq!(counted(number, things), expected);
        check(0, "steps", "0 steps");
        check(1, "steps", "1 step");
        check(2, "steps", "2 steps");
        check(1, "KiB", "1 KiB");
    }

    #[test]
    fn rates_keep_two_digits() {
        let check = |rate: f64, expected: &str| assert_eq!(short(rate), expected);
        check(0.0, "0");
        check(0.031, "0.031");
        check(0.5, "0.50");
        check(1.26, "1.3");
        check(9.96, "10");
        check(1449.6, "1450");
    }

    #[test]
    fn lines_hold_rate_tokens_and_time_left() {
        let counts =
            Counts { name: "round 1, generate".into(), unit: "completions".into(), total: 96 };
        let ten = Duration::from_secs(10);
        assert_eq!(counts.rates(24, 0, ten), "2.4 completions/s, 30 s left");
        assert_eq!(counts.rates(24, 1500, ten), "2.4 completions/s, 150 tok/s, 30 s left");
        assert_eq!(counts.rates(0, 0, Duration::ZERO), "0 completions/s");
        assert_eq!(counts.rates(200, 0, ten), "20 completions/s, 0.0 s left");
        assert_eq!(
            counts.last_line(96, 6000, Duration::from_secs(40), Some(940_000_000)),
            "round 1, generate: 96 completions in 40 s (2.4/s, 6000 tokens, 150 tok/s, 940 MB held)"
        );
        let one = Counts { name: "round 1: train".into(), unit: "steps".into(), total: 1 };
        assert_eq!(
            one.last_line(1, 1, ten, None),
            "round 1: train: 1 step in 10 s (0.10/s, 1 token, 0.10 tok/s)"
        );
    }

    #[test]
    fn a_stage_counts_from_all_threads() {
        let stage = Progress::new(Style::Silent).stage("s", 800, "records");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..100).for_each(|_| stage.inc(1)));
            }
        });
        stage.note_tokens(3);
        assert_eq!(stage.now(), (800, 3));
        assert!(stage.memory.load(Ordering::Relaxed) > 1 << 20);
        stage.finish();
    }
}
