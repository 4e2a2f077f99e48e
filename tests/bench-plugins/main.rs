//! `make bench-plugins`: what the sandbox costs, and how long the verbs for authors take.
//!
//! Both sides of a ratio take turns in one run, so that what slows the machine slows both; what stands in
//! the table is the ratio of medians, with the least and the greatest of neighbouring runs. What runs on one
//! thread is measured by the time that this thread had a processor, whole processes by the clock.

#[path = "extism/host/src/clock.rs"]
mod clock;
#[path = "../runtime/guests.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod guests;
mod light;
mod peer;
mod process;
mod raw;
mod table;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aligner::plugin::compile::Compiler;
use aligner::plugin::{
    Cache, Kind, Limits, NoAnswers, Outcome, Place, Plugin, Runtime, Settings, Setup, Source,
};
use aligner::plugin_set;
use aligner::record::{Completion, Finish, Prompt, Record, Repro, Text, Variant, VariantRole};
use aligner::source::Fetcher;
use anyhow::{Result, ensure};
use clap::Parser;

use table::{Goal, Table};

/// Records of a call, and bytes of each completion.
const RECORDS: usize = 1000;
const BYTES: usize = 1000;
/// The embedded plugins that are loaded together.
const FIVE: [&str; 5] = ["self-align", "exemplars", "self-align-format", "perplexity", "length"];

/// Arguments of the bench.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measured runs of each side
    #[arg(long, default_value_t = 31)]
    repeat: usize,
    /// Rows of the labelled file for `aligner evaluate`; 0 leaves that row out
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// The folder where Extism's worker and guest were built
    #[arg(long)]
    extism: Option<PathBuf>,
    /// Run a round of soft-plus too, with a real model
    #[arg(long)]
    round: bool,
    /// Given by `cargo bench`; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    // One thread on both sides of what is compared.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut table = Table::default();
    pool.install(|| boundary(arguments, &folder, &mut table))?;
    pool.install(|| loading(arguments, &folder, &mut table))?;
    process::check(arguments.repeat, &mut table)?;
    if arguments.rows > 0 {
        process::evaluate(&folder, arguments.rows, arguments.repeat.min(5), &mut table)?;
    }
    if arguments.round {
        process::round(&folder, &mut table)?;
    }
    std::fs::write(folder.join("plugins.md"), table.markdown())?;
    std::fs::write(folder.join("plugins.json"), serde_json::to_string_pretty(&table.rows)?)?;
    println!("{}", table.markdown());
    Ok(())
}

/// Runs every side in turns, after one turn that does not count, and returns seconds of each.
fn alternate(
    repeat: usize,
    sides: &mut [&mut dyn FnMut() -> Result<f64>],
) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::with_capacity(repeat); sides.len()];
    for turn in 0..=repeat {
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let one = side()?;
            if turn > 0 {
                seconds.push(one);
            }
        }
    }
    Ok(seconds)
}

/// Returns the seconds of processor time that this thread spends on some work.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = clock::thread_seconds();
    work()?;
    Ok(clock::thread_seconds() - begun)
}

/// A filter through the sandbox against the same code on the processor, and against Extism; a call that
/// does nothing.
fn boundary(arguments: &Arguments, folder: &Path, table: &mut Table) -> Result<()> {
    let texts = texts(RECORDS, BYTES);
    let records: Vec<Record> = texts.iter().enumerate().map(|(n, text)| record(n, text)).collect();
    let guest = Source::file(&guests::path("light"))?;
    let settings = Settings { compiler: Compiler::InProcess, cache: Cache::Off };
    let metered = Runtime::new(settings)?.load(&guest, Setup::new(Kind::Filter))?;
    let unmetered = Runtime::unmetered()?.load(&guest, Setup::new(Kind::Filter))?;
    let faults = || texts.iter().map(|text| light::fault(text)).filter(Option::is_some).count();
    let expected = faults();
    ensure!(expected > 0 && expected < RECORDS, "the texts are all alike to the filter");
    let native = || {
        timed(|| {
            ensure!(std::hint::black_box(faults()) == expected);
            Ok(())
        })
    };
    let through = |plugin: &Plugin| {
        timed(|| {
            let place = Place { run_seed: 17, round: 1, rounds: 1, stage: "bench", position: 0 };
            let stage = plugin.filter(&place, &records, &mut NoAnswers)?;
            let keeps =
                |outcome: &Outcome<_>| *outcome == Outcome::Done(aligner::record::Verdict::Keep);
            ensure!(stage.outcomes.iter().filter(|it| keeps(it)).count() == RECORDS - expected);
            Ok(())
        })
    };
    let mut raw = raw::Filter::new(&guests::component("light"))?;
    let worker = match &arguments.extism {
        Some(built) => Some(RefCell::new(peer::Worker::start(built, folder, &records)?)),
        None => None,
    };
    let peer = |work| worker.as_ref().map_or(Ok(f64::NAN), |it| it.borrow_mut().run(work));
    let seconds = alternate(
        arguments.repeat,
        &mut [
            &mut || native(),
            &mut || through(&metered),
            &mut || through(&unmetered),
            &mut || raw.empty_call(),
            &mut || peer("filter"),
            &mut || peer("empty"),
        ],
    )?;
    let [native, metered, unmetered, empty, theirs, their_empty] = &seconds[..] else {
        unreachable!("there are as many lists as sides")
    };
    let what = "filter, 1,000 records of 1 KB";
    let per_record = |seconds: f64| format!("{:.2} µs", seconds * 1e6 / RECORDS as f64);
    let goals =
        [(metered, "fuel, clock and NaN rule", 2.1), (unmetered, "clock and NaN rule", 1.7)];
    for (ours, limits, goal) in goals {
        let title = format!("{what}: {limits}");
        table.compare(
            &title,
            "the same code native",
            (ours, native),
            &per_record,
            Goal::AtMost(goal),
        );
    }
    if arguments.extism.is_some() {
        let faster = Goal::AtLeast(1.4);
        table.compare(what, "Extism 1.30, as JSON", (metered, theirs), &per_record, faster);
        let nanoseconds = |seconds: f64| format!("{:.0} ns", seconds * 1e9);
        let faster = Goal::AtLeast(8.0);
        table.compare("empty call", "Extism 1.30", (empty, their_empty), &nanoseconds, faster);
    } else {
        table.note("Extism: not built (`make bench-plugins` builds it)");
    }
    Ok(())
}

/// A fresh instance, and plugins from the cache.
fn loading(arguments: &Arguments, folder: &Path, table: &mut Table) -> Result<()> {
    let cache = folder.join("cache");
    if cache.exists() {
        std::fs::remove_dir_all(&cache)?;
    }
    let runtime = || {
        let cache = Cache::Folder(cache.clone());
        Runtime::new(Settings { compiler: Compiler::InProcess, cache })
    };
    let builtin = |name: &str| {
        let source = plugin_set::Source::Builtin(name.to_owned());
        Fetcher::from_env().open(&source, None, &mut |_| {}).map(|found| found.component)
    };
    let sources = FIVE.map(builtin).into_iter().collect::<Result<Vec<_>, _>>()?;
    let limits = Limits::default();
    let load = || {
        timed(|| {
            let runtime = runtime()?;
            for source in &sources {
                runtime.open(source, &limits)?;
            }
            Ok(())
        })
    };
    let opened = runtime()?.open(&Source::file(&guests::path("light"))?, &limits)?;
    const INSTANCES: u32 = 200;
    let instances = || {
        let all = timed(|| {
            for _ in 0..INSTANCES {
                opened.configure(Setup::new(Kind::Filter))?;
            }
            Ok(())
        })?;
        Ok(all / f64::from(INSTANCES))
    };
    let seconds = alternate(arguments.repeat, &mut [&mut || load(), &mut || instances()])?;
    let micros = |seconds: f64| format!("{:.1} µs", seconds * 1e6);
    let millis = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    table.time("fresh instance with store, configured", &seconds[1], micros, 20e-6);
    table.time("five plugins from a warm cache", &seconds[0], millis, 5e-3);
    Ok(())
}

/// Returns texts of about so many bytes, the same on every call; one in ten says what it is.
fn texts(count: usize, bytes: usize) -> Vec<String> {
    const WORDS: [&str; 16] = [
        "a", "careful", "answer", "names", "what", "it", "does", "not", "know", "and", "says",
        "why", "before", "others", "have", "to",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let text = |number: usize| {
        let mut text = String::with_capacity(bytes + 32);
        while text.len() < bytes {
            text += WORDS[next() % WORDS.len()];
            text.push(' ');
        }
        text + if number % 10 == 9 { "As a language model" } else { "and ends" }
    };
    (0..count).map(text).collect()
}

fn record(number: usize, text: &str) -> Record {
    let prompt = Text::user("How do I tell what I do not know?");
    let completion = Completion {
        text: text.to_owned(),
        tokens: 200,
        logprob: -150.0,
        entropy: Some(1.0),
        finish: Finish::Stop,
        repro: Repro::Exact,
    };
    let variant = Variant {
        name: "plain".into(),
        role: VariantRole::Plain,
        prompt: prompt.clone(),
        completion: Some(completion),
    };
    let prompt = Prompt { id: format!("p-{number:04}"), text: prompt, tags: vec![] };
    Record { variants: vec![variant], ..Record::new(prompt) }
}
