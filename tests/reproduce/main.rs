//! `make reproduce`: what the papers compare, on a small model, as a page.
//!
//! Every row of `experiments.toml` is a run of the program and a call of `model eval`, each in its own
//! folder under `runs/reproduce`. A row is finished once its result stands there, and is done again when
//! what it is the result of has changed. The page is written anew after each row, from what is finished.

pub mod experiment;
pub mod outcome;
pub mod page;
pub mod verdict;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use experiment::{Experiments, Question, Row};
use page::Finished;
use work::{ASKED, INTERRUPTED, Workshop};

/// Runs what the papers compare, and writes docs/methods/comparison.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seeds of each row
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Names of the questions to work on, with commas between, or `all`
    #[arg(long, default_value = "all")]
    only: String,
    /// Writes the page of what is finished, and runs nothing
    #[arg(long)]
    page_only: bool,
    /// The program that is run
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_aligner"))]
    aligner: PathBuf,
    /// Given by `cargo bench`; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match reproduce(&Arguments::parse()) {
        _ if ASKED.load(Ordering::SeqCst) => {
            eprintln!("interrupted; the same command goes on from here");
            ExitCode::from(INTERRUPTED as u8)
        }
        Ok(failed) if failed.is_empty() => ExitCode::SUCCESS,
        Ok(failed) => {
            failed.iter().for_each(|why| eprintln!("error: {why}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is not finished and writes the page. Returns what failed, a sentence for each row.
fn reproduce(arguments: &Arguments) -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let aligner = std::path::absolute(&arguments.aligner)?;
    // As a user in the project's folder, so that messages name short paths.
    std::env::set_current_dir(&root)?;
    let experiments = Experiments::read(Path::new("tests/reproduce/experiments.toml"))?;
    let chosen = chosen(&experiments, &arguments.only)?;
    let folder = PathBuf::from("runs/reproduce");
    let _lock = work::lock(&folder)?;
    ctrlc::set_handler(|| ASKED.store(true, Ordering::SeqCst)).context("listening for Ctrl-C")?;
    let shop = Workshop::open(aligner, folder, &experiments)?;
    let page = Path::new("docs/methods/comparison.md");
    let write = || outcome::write_whole(page, &finished(&shop, arguments.seeds).page());
    write()?;
    let mut failed = Vec::new();
    if !arguments.page_only {
        let start = Instant::now();
        if shop.initial().is_none() {
            eprintln!("the initial model");
            shop.measure_initial()?;
            write()?;
        }
        let tasks = tasks(&experiments, &chosen, arguments.seeds);
        for (i, (question, row, seed)) in tasks.iter().enumerate() {
            let name = format!("{} {}, seed {seed}", question.name, row.name);
            if shop.finished(question, row, *seed).is_some() {
                continue;
            }
            let minutes = start.elapsed().as_secs() / 60;
            eprintln!("\n[{}/{}] {name}, after {minutes} min", i + 1, tasks.len());
            let result = shop.work(question, row, *seed);
            if ASKED.load(Ordering::SeqCst) {
                return Ok(failed);
            }
            if let Err(error) = result {
                eprintln!("error: {name}: {error:#}");
                failed.push(format!("{name}: {error:#}"));
            }
            write()?;
        }
    }
    println!("{}", page.display());
    Ok(failed)
}

/// Returns the questions that are asked for.
fn chosen<'a>(experiments: &'a Experiments, only: &str) -> Result<Vec<&'a Question>> {
    let questions = &experiments.questions;
    let mut chosen = Vec::new();
    for name in only.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let before = chosen.len();
        chosen.extend(questions.iter().filter(|q| name == "all" || q.name == name));
        let names: Vec<&str> = questions.iter().map(|question| question.name.as_str()).collect();
        ensure!(
            chosen.len() > before,
            "no question is named `{name}`; there are {}",
            names.join(", ")
        );
    }
    Ok(chosen)
}

/// Returns every row to do, all of the first seed before the second.
fn tasks<'a>(
    experiments: &Experiments,
    questions: &[&'a Question],
    seeds: u64,
) -> Vec<(&'a Question, &'a Row, u64)> {
    let seeds = experiments.seed..experiments.seed + seeds;
    let of = |seed| {
        let rows = questions
            .iter()
            .flat_map(|&question| question.rows.iter().map(move |row| (question, row)));
        rows.map(move |(question, row)| (question, row, seed))
    };
    seeds.flat_map(of).collect()
}

/// Returns all that is finished, of more seeds than are asked for too.
fn finished<'a>(shop: &Workshop<'a>, seeds: u64) -> Finished<'a> {
    let experiments = shop.experiments;
    let known = experiments.seed..experiments.seed + 100;
    let of = |question: &Question| {
        let of_row = |row: &Row| {
            let found =
                known.clone().filter_map(|seed| Some((seed, shop.finished(question, row, seed)?)));
            found.collect::<Vec<_>>()
        };
        question.rows.iter().map(of_row).collect()
    };
    let rows: Vec<Vec<Vec<_>>> = experiments.questions.iter().map(of).collect();
    let most = rows.iter().flatten().map(Vec::len).max().unwrap_or_default();
    Finished { experiments, seeds: most.max(seeds as usize), initial: shop.initial(), rows }
}
