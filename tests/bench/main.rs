//! `make bench`: the native engine against the programs that people use today.
//!
//! For each row of [`row::all`] every side is a process of its own, loaded once. All warm up, then
//! they run in turns, so that what slows the machine slows all of them; whoever's turn it is not
//! waits on a pipe. What comes out is one table of ratios, in Markdown and JSON.

mod input;
mod limit;
mod round;
mod row;
mod side;
mod table;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use aligner::model::backend::cpu::Cpu;
use aligner::model::source;
use aligner::model::text::Model;
use anyhow::{Context, Result};
use clap::Parser;

use input::Corpus;
use limit::Machine;
use row::{Isa, Order, Row, SCALING_GOAL, Work};
use side::{Python, Runs, Side};
use table::{Goal, Kind, Line, Ratio, Sample, Table, median};

/// Arguments of the bench.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows to measure: beginnings of their names with commas between, `quick`, or `all`
    #[arg(long, default_value = "all")]
    rows: String,
    /// Measured runs of each side, where time allows
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Seconds for a row, after which no further run begins
    #[arg(long, default_value_t = 90)]
    seconds: u64,
    /// Threads of every side [default: what the machine has, 2 at most]
    #[arg(long)]
    threads: Option<usize>,
    /// Prints the names of all rows
    #[arg(long)]
    list: bool,
    /// Given by `cargo bench`; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [verb, order] if verb == "worker" => worker::serve(order),
        _ => bench(&Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let rows = selected(&arguments.rows)?;
    if arguments.list {
        for row in &rows {
            println!("{:<18} {}", row.name, row.title);
        }
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    for part in ["models", "rows"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    let folder = folder.canonicalize()?;
    let (model, _) = source::open(worker::MODEL, &mut |_| ())?;
    let python = Python::find().and_then(|python| {
        prepare_models(&python, &model, &folder)?;
        Ok(python)
    });
    if let Err(why) = &python {
        eprintln!("no peers: {why}");
    }
    let load = load();
    let available = std::thread::available_parallelism()?.get();
    let threads = arguments.threads.unwrap_or(available.min(2));
    let machines = BTreeMap::from([1, threads].map(|n| (n, Machine::measure(n))));

    let mut bench = Bench {
        corpus: Corpus::new(&model)?,
        model,
        folder: folder.clone(),
        python,
        threads,
        machines,
        repeat: arguments.repeat.max(1),
        limit: Duration::from_secs(arguments.seconds),
        load,
    };
    let mut measured = Vec::new();
    let mut table = Table { head: bench.head(), lines: Vec::new() };
    for (i, row) in rows.iter().enumerate() {
        eprintln!("[{}/{}] {}", i + 1, rows.len(), row.title);
        measured.push(bench.measure(row)?);
        bench.machines.values_mut().for_each(Machine::measure_again);
        // After each row, so that an interrupted run leaves what it has.
        let lines = measured.iter().flat_map(|measured| bench.lines(measured)).collect();
        table = Table { head: bench.head(), lines };
        std::fs::write(folder.join("table.md"), table.markdown())?;
        std::fs::write(folder.join("table.json"), serde_json::to_string_pretty(&table.json())?)?;
    }
    println!("{}", table.markdown());
    Ok(())
}

/// Returns the rows that are asked for.
fn selected(names: &str) -> Result<Vec<Row>> {
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    let rows: Vec<Row> = row::all()
        .into_iter()
        .filter(|row| {
            names.is_empty()
                || names.iter().any(|&name| {
                    name == "all" || name == "quick" && row.quick || row.name.starts_with(name)
                })
        })
        .collect();
    anyhow::ensure!(!rows.is_empty(), "no row is named so; `--list` shows all of them");
    Ok(rows)
}

/// Makes the model files of the peers, where they are not there yet.
fn prepare_models(python: &Python, model: &Model, folder: &Path) -> Result<(), String> {
    let models = folder.join("models");
    if ["hf", "f32.gguf", "bf16.gguf", "q8_0.gguf"].iter().all(|name| models.join(name).exists()) {
        return Ok(());
    }
    eprintln!("making the peers' model files in `{}`", models.display());
    let status = Command::new(&python.path)
        .arg(side::peers_folder().join("prepare.py"))
        .args([&model.path, &models])
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("tests/peers/prepare.py fails ({status})"));
    }
    Ok(())
}

/// What all rows share.
struct Bench {
    corpus: Corpus,
    model: Model,
    folder: PathBuf,
    python: Result<Python, String>,
    threads: usize,
    machines: BTreeMap<usize, Machine>,
    repeat: usize,
    limit: Duration,
    /// Load of the machine before anything ran.
    load: String,
}

impl Bench {
    fn head(&self) -> Vec<(String, String)> {
        let mut head = vec![
            ("processor".to_owned(), processor()),
            ("threads".to_owned(), self.threads.to_string()),
            ("load before".to_owned(), self.load.clone()),
            ("aligner".to_owned(), format!("{:?} kernels", Cpu::new().isa())),
            ("model".to_owned(), worker::MODEL.to_owned()),
        ];
        for machine in self.machines.values() {
            let giga = |rate: f64| format!("{:.0}", rate * 1e-9);
            head.push((
                format!("peak with {} thread(s)", machine.threads),
                format!(
                    "{} GFLOP/s f32, {} bf16, {} 8-bit, {} f32 portable; {} GB/s read",
                    giga(machine.f32_rate),
                    giga(machine.bf16_rate),
                    giga(machine.int8_rate),
                    giga(machine.portable_rate),
                    giga(machine.bandwidth),
                ),
            ));
        }
        let peers = match &self.python {
            Ok(python) => {
                let shown =
                    python.modules.iter().map(|(name, version)| format!("{name} {version}"));
                shown.collect::<Vec<_>>().join(", ")
            }
            Err(why) => why.clone(),
        };
        head.push(("peers".to_owned(), peers));
        head
    }

    /// Measures a row.
    fn measure(&self, row: &Row) -> Result<Measured> {
        let start = Instant::now();
        let input = self.folder.join("rows").join(format!("{}.json", row.name));
        let order = Order {
            work: row.work,
            weights: row.weights,
            isa: row.isa,
            threads: self.threads,
            input: input.display().to_string(),
            models: self.folder.join("models").display().to_string(),
        };
        let mut tokens = self.corpus.input(row.work);
        tokens.made = self.corpus.stand_in(row.work, tokens.prompts.len());
        tokens.write(&input)?;
        let made = PathBuf::from(worker::made_path(&order.input));
        let _ = std::fs::remove_file(&made);
        let log = |side: &str| self.folder.join("rows").join(format!("{}-{side}.log", row.name));

        let began = |side: Result<Side, String>| {
            side.and_then(|mut side| {
                side.warm_up()?;
                Ok(side)
            })
        };
        let mut ours = began(Side::ours(&order, &log("ours")));
        if ours.is_ok() && row.work == Work::Round {
            let round = round::input(&worker::run_folder(&order.input), &self.model)?;
            let prompts: Vec<_> = round.completed.iter().map(|c| c.tokens.clone()).collect();
            tokens.common = input::common_prefix(&prompts);
            tokens.round = Some(round);
            tokens.write(&input)?;
        }
        if made.exists() {
            let text = std::fs::read_to_string(&made).context("our completions")?;
            tokens.made = serde_json::from_str(&text)?;
            tokens.write(&input)?;
        }
        let mut others: Vec<Result<Side, String>> = Vec::new();
        for against in &row.against {
            let side = match &self.python {
                Err(why) => Err(why.clone()),
                Ok(python) => match python.lacks(against.peer) {
                    Some(module) => Err(format!("`{module}` is not installed")),
                    None => {
                        let weights = against.weights.unwrap_or(row.weights);
                        let order = Order { weights, ..order.clone() };
                        let log = log(&against.name().replace(' ', "-"));
                        Side::peer(against.peer, &python.path, &order, &log)
                    }
                },
            };
            others.push(began(side));
        }
        let mut alone = None;
        if row.scaling && self.threads > 1 && ours.is_ok() {
            let order = Order { threads: 1, ..order.clone() };
            alone = Some(began(Side::ours(&order, &log("alone"))));
        }

        for turn in 0..self.repeat {
            if turn > 0 && start.elapsed() > self.limit {
                break;
            }
            for side in [&mut ours].into_iter().chain(&mut others).chain(&mut alone) {
                let failed = match side {
                    Ok(side) => side.measure(turn + 1).err(),
                    Err(_) => None,
                };
                if let Some(why) = failed {
                    *side = Err(why);
                }
            }
        }
        let runs = |side: Result<Side, String>| side.map(|mut side| std::mem::take(&mut side.runs));
        Ok(Measured {
            row: row.clone(),
            ours: runs(ours),
            others: others.into_iter().map(runs).collect(),
            alone: alone.map(runs),
        })
    }

    /// Returns what the table says of a row.
    fn lines(&self, measured: &Measured) -> Vec<Line> {
        let Measured { row, ours, others, alone } = measured;
        let line = |kind, against: String, unit| {
            let (row, title) = (row.name.clone(), row.title.clone());
            let (ours, theirs, ratio, goal, note) = (None, None, None, None, None);
            let samples = Vec::new();
            Line { row, title, kind, against, ours, theirs, unit, ratio, goal, note, samples }
        };
        let unit = if row.work == Work::Round { "s" } else { "tok/s" };
        let mut lines = Vec::new();
        for (against, other) in row.against.iter().zip(others) {
            let goal = against.goal.map(Goal::AtLeast);
            let note = ours.as_ref().err().or(other.as_ref().err()).cloned();
            let (our_samples, their_samples) = (samples(ours), samples(other));
            lines.push(Line {
                ours: rate(row.work, our_samples),
                theirs: rate(row.work, their_samples),
                ratio: Ratio::of(their_samples, our_samples),
                goal,
                note: note.or_else(|| disagreement(ours, other)).or_else(|| isa_note(row.isa)),
                samples: vec![our_samples.to_vec(), their_samples.to_vec()],
                ..line(Kind::Speed, against.name(), unit)
            });
            for (stage, ours, theirs, ratio) in stages(our_samples, their_samples) {
                let against = against.name();
                let title = format!("{}: {stage}", row.title);
                let (ours, theirs, ratio) = (Some(ours), Some(theirs), Some(ratio));
                lines.push(Line { title, ours, theirs, ratio, ..line(Kind::Speed, against, "s") });
            }
            if let Some(goal) = against.memory {
                let peak = |samples: &[Sample]| samples.last().map(|s| s.peak_bytes as f64 * 1e-9);
                let (ours, theirs) = (peak(our_samples), peak(their_samples));
                let ratio = ours.zip(theirs).map(|(ours, theirs)| {
                    let median = ours / theirs;
                    Ratio { median, min: median, max: median, cpu: None, runs: 1 }
                });
                let goal = Some(Goal::AtMost(goal));
                let against = against.name();
                lines.push(Line { ours, theirs, ratio, goal, ..line(Kind::Memory, against, "GB") });
            }
        }
        let Ok(ours) = ours else { return lines };
        if let Some(alone) = alone {
            // By processor time: what both threads did over what they were there for.
            let ratio = Ratio::of(samples(alone), &ours.measured).map(|ratio| Ratio {
                cpu: ratio.cpu.map(|cpu| cpu * self.threads as f64),
                ..ratio
            });
            lines.push(Line {
                ours: rate(row.work, &ours.measured),
                theirs: rate(row.work, samples(alone)),
                ratio,
                goal: Some(Goal::AtLeast(SCALING_GOAL)),
                note: alone.as_ref().err().cloned(),
                ..line(Kind::Threads, "itself, one thread".to_owned(), "tok/s")
            });
        }
        let machine = &self.machines[&self.threads];
        if let (Some(cost), Some(wall), Some(cpu)) = (
            limit::cost(row.work, row.weights, &self.model.spec),
            median(ours.measured.iter().map(|sample| sample.wall)),
            median(ours.measured.iter().map(|sample| sample.cpu)),
        ) {
            let least = machine.seconds(&cost, row.weights, row.isa);
            let alone = self.machines[&1].seconds(&cost, row.weights, row.isa);
            let over = |sample: &Sample| sample.wall / least;
            lines.push(Line {
                ours: Some(wall),
                theirs: Some(least),
                ratio: Some(Ratio {
                    median: wall / least,
                    min: ours.measured.iter().map(over).fold(f64::INFINITY, f64::min),
                    max: ours.measured.iter().map(over).fold(0.0, f64::max),
                    cpu: Some(cpu / alone),
                    runs: ours.measured.len(),
                }),
                goal: row.limit_goal.map(Goal::AtMost),
                ..line(Kind::Limit, "limit of the machine".to_owned(), "s")
            });
        }
        lines
    }
}

/// What the sides of a row came to, or why one did not.
struct Measured {
    row: Row,
    ours: Result<Runs, String>,
    /// In the order of the row's comparisons.
    others: Vec<Result<Runs, String>>,
    /// Our side with one thread.
    alone: Option<Result<Runs, String>>,
}

fn samples(side: &Result<Runs, String>) -> &[Sample] {
    side.as_ref().map_or(&[], |runs| &runs.measured)
}

/// Returns tokens a second, of the median run; of a whole round, its seconds.
fn rate(work: Work, samples: &[Sample]) -> Option<f64> {
    median(samples.iter().map(|sample| match work {
        Work::Round => sample.wall,
        _ => sample.tokens as f64 / sample.wall,
    }))
}

/// Compares the stages that both sides of a round report: name, ours, theirs, ratio.
fn stages(ours: &[Sample], theirs: &[Sample]) -> Vec<(String, f64, f64, Ratio)> {
    let Some(first) = theirs.first() else { return Vec::new() };
    let part = |samples: &[Sample], stage: &str| -> Vec<Sample> {
        let wall = |sample: &Sample| sample.stages.get(stage).copied();
        let of = |sample: &Sample| Some(Sample { wall: wall(sample)?, ..sample.clone() });
        samples.iter().filter_map(of).collect()
    };
    let compare = |stage: &String| {
        let (ours, theirs) = (part(ours, stage), part(theirs, stage));
        let ratio = Ratio { cpu: None, ..Ratio::of(&theirs, &ours)? };
        Some((stage.clone(), rate(Work::Round, &ours)?, rate(Work::Round, &theirs)?, ratio))
    };
    first.stages.keys().filter_map(compare).collect()
}

/// Says where both sides should have found the same number and did not.
fn disagreement(ours: &Result<Runs, String>, other: &Result<Runs, String>) -> Option<String> {
    let tokens = |runs: &Result<Runs, String>| Some(runs.as_ref().ok()?.warm_up.as_ref()?.tokens);
    let (our_tokens, other_tokens) = (tokens(ours)?, tokens(other)?);
    if our_tokens != other_tokens {
        return Some(format!("the sides count {our_tokens} and {other_tokens} tokens"));
    }
    let check = |runs: &Result<Runs, String>| runs.as_ref().ok()?.warm_up.as_ref()?.check;
    let (ours, other) = (check(ours)?, check(other)?);
    let apart = (ours - other).abs() / ours.abs().max(1e-9);
    (apart > 0.02).then(|| format!("the sides disagree: {ours:.4} and {other:.4}"))
}

/// Says what keeps the other side to an instruction set.
fn isa_note(isa: Isa) -> Option<String> {
    let set = side::isa_variables(isa).iter().map(|(name, value)| format!("{name}={value}"));
    let set: Vec<String> = set.collect();
    (!set.is_empty()).then(|| format!("the other with {}", set.join(", ")))
}

/// Returns how busy the machine is with other things, which makes all times less certain.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Returns the processor's name and the features that kernels ask for.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let flags = field("flags").unwrap_or_default();
    let known = ["avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16"];
    let found: Vec<&str> =
        known.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect();
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{name} ({})", found.join(", "))
}
