//! Our side of a row, in a process of its own: `engine worker ORDER`.
//!
//! The protocol is that of tests/peers/worker.py.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use aligner::generate::{Hooks, Job, Output, Sampling, Settings, generate};
use aligner::logprob;
use aligner::model::adapter::{Adapter, LoraConfig};
use aligner::model::backend::WeightType;
use aligner::model::backend::cpu::Cpu;
use aligner::model::forward::Engine;
use aligner::model::source;
use aligner::model::spec::Linear;
use aligner::model::weights::Weights;
use aligner::objective::Preference;
use aligner::train::{
    Data, Example, Item, LrSchedulerType, Reference, TrainSettings, Trainer, reference_logprobs,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::input::Input;
use crate::round;
use crate::row::{Isa, Method, Order, Work};

/// The model of every row.
pub const MODEL: &str = "smollm2-135m-instruct";

fn backend(isa: Isa) -> Result<Cpu> {
    match isa {
        Isa::Best => Ok(Cpu::new()),
        Isa::Avx2 => {
            Cpu::avx2().ok_or_else(|| anyhow::anyhow!("the machine does not have AVX2 and FMA"))
        }
        Isa::Portable => Ok(Cpu::portable()),
    }
}

fn engine(order: &Order) -> Result<Engine<Cpu>> {
    let (_, checkpoint) = source::open(MODEL, &mut |_| ())?;
    let backend = backend(order.isa)?;
    let weights = Weights::load_as(&backend, &*checkpoint, order.weights, &mut |_, _| ())?;
    Ok(Engine::new(backend, weights))
}

/// Answers on stdout until stdin ends.
pub fn serve(order: &str) -> Result<()> {
    let order: Order = serde_json::from_str(order)?;
    let mut stdout = std::io::stdout().lock();
    let mut say = |answer: Value| -> Result<()> {
        writeln!(stdout, "{answer}")?;
        Ok(stdout.flush()?)
    };
    let mut task = match Task::load(&order) {
        Ok(task) => task,
        Err(error) => return say(json!({ "error": format!("{error:#}") })),
    };
    say(json!({ "ready": { "aligner": env!("CARGO_PKG_VERSION") } }))?;
    for line in std::io::stdin().lock().lines() {
        if line?.trim() != "run" {
            break;
        }
        match task.run() {
            Ok(run) => say(run.answer())?,
            Err(error) => return say(json!({ "error": format!("{error:#}") })),
        }
    }
    Ok(())
}

/// What is loaded for a row.
enum Task {
    Generate {
        engine: Engine<Cpu>,
        jobs: Vec<Job>,
        settings: Settings,
        work: Work,
        made: String,
    },
    Score {
        engine: Engine<Cpu>,
        rows: Vec<logprob::Row>,
    },
    /// `compared` is what the reference says each time anew, as the other side does.
    Train {
        trainer: Box<Trainer<Cpu>>,
        compared: Option<(Engine<Cpu>, Vec<Item>)>,
    },
    Round {
        folder: PathBuf,
        weights: WeightType,
    },
}

/// What a run came to.
struct Run {
    tokens: usize,
    watch: Stopwatch,
    /// A number that the other side gets too, about.
    check: Option<f64>,
    /// Seconds of each stage of a round.
    stages: BTreeMap<String, f64>,
}

impl Run {
    fn answer(&self) -> Value {
        let (wall, cpu) = self.watch.stopped.unwrap_or_default();
        json!({
            "tokens": self.tokens, "wall_seconds": wall, "cpu_seconds": cpu,
            "peak_bytes": peak_bytes(), "check": self.check, "stages": self.stages,
        })
    }
}

impl Task {
    fn load(order: &Order) -> Result<Task> {
        if order.work == Work::Round {
            return Ok(Task::Round { folder: run_folder(&order.input), weights: order.weights });
        }
        let Input { prompts, rows, examples, pairs, .. } = Input::read(Path::new(&order.input))?;
        let engine = engine(order)?;
        let new = match order.work {
            Work::Decode { new, .. } | Work::Stage { new, .. } => new,
            Work::Prefill { .. } => 1,
            Work::Score { .. } => {
                let row =
                    |row: crate::input::Row| logprob::Row { tokens: row.tokens, from: row.from };
                return Ok(Task::Score { engine, rows: rows.into_iter().map(row).collect() });
            }
            Work::Train { method: Method::Dpo, rank, .. } => {
                let pair = |(i, pair): (usize, crate::input::Pair)| {
                    Item::pair(i.to_string(), &pair.prompt, &pair.chosen, &pair.rejected)
                };
                let items: Vec<Item> = pairs.into_iter().enumerate().map(pair).collect();
                let data = Data::Preference {
                    items: items.clone(),
                    objective: Preference::Dpo { beta: 0.1, label_smoothing: 0.0 },
                    reference: Reference::Initial,
                };
                let trainer = Box::new(trainer(engine.clone(), data, items.len(), rank)?);
                return Ok(Task::Train { trainer, compared: Some((engine, items)) });
            }
            Work::Train { method, rank, .. } => {
                let batch = examples.len();
                let examples = examples.into_iter().enumerate().map(|(i, row)| Example {
                    id: i.to_string(),
                    trained: (0..row.tokens.len()).map(|t| t >= row.from).collect(),
                    tokens: row.tokens,
                });
                let data = Data::Supervised(examples.collect());
                let trainer = Box::new(match method {
                    Method::Full => {
                        let Engine { backend, weights } = engine;
                        let Ok(weights) = Arc::try_unwrap(weights) else {
                            bail!("weights are shared")
                        };
                        Trainer::full(backend, weights, data, settings(batch))?
                    }
                    _ => trainer(engine, data, batch, rank)?,
                });
                return Ok(Task::Train { trainer, compared: None });
            }
            Work::Round => unreachable!("returned above"),
        };
        let sampling = Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: new,
        };
        let jobs: Vec<Job> =
            prompts.into_iter().map(|prompt| Job { prompt, sampling, seed: 0 }).collect();
        let mut settings = Settings { max_batch: jobs.len(), ..Settings::default() };
        if let Work::Decode { .. } = order.work {
            // All prompts in the first pass, so that the others decode and nothing else.
            settings.prefill_rows = jobs.iter().map(|job| job.prompt.len()).sum();
        }
        let made = made_path(&order.input);
        Ok(Task::Generate { engine, jobs, settings, work: order.work, made })
    }

    fn run(&mut self) -> Result<Run> {
        let mut watch = Stopwatch::start();
        let stages = BTreeMap::new();
        match self {
            Task::Generate { engine, jobs, settings, work, made } => {
                let mut outputs: Vec<Option<Output>> = vec![None; jobs.len()];
                let decode = matches!(work, Work::Decode { .. });
                let mut passes = 0;
                let hooks = Hooks {
                    stop: &|_, _| false,
                    on_done: &mut |index, output| {
                        outputs[index] = Some(output);
                        ControlFlow::Continue(())
                    },
                    progress: &mut |_| {
                        passes += 1;
                        if decode && passes == 1 {
                            watch = Stopwatch::start();
                        }
                        ControlFlow::Continue(())
                    },
                };
                generate(engine, None, jobs, settings, hooks)?;
                watch.stop();
                let outputs: Vec<Vec<u32>> =
                    outputs.into_iter().flatten().map(|output| output.tokens).collect();
                if !Path::new(made).exists() {
                    std::fs::write(made, serde_json::to_string(&outputs)?)?;
                }
                let new: usize = outputs.iter().map(Vec::len).sum();
                let tokens = match work {
                    Work::Prefill { .. } => jobs.iter().map(|job| job.prompt.len()).sum(),
                    Work::Decode { .. } => new - outputs.len(),
                    _ => new,
                };
                Ok(Run { tokens, watch, check: None, stages })
            }
            Task::Score { engine, rows } => {
                let settings = Settings::default();
                let scores = logprob::score(engine, None, rows, &settings, &mut |_| {
                    ControlFlow::Continue(())
                })?;
                watch.stop();
                let tokens = rows.iter().map(|row| row.tokens.len()).sum();
                let check = Some(scores.iter().map(|score| score.logprob).sum());
                Ok(Run { tokens, watch, check, stages })
            }
            Task::Round { folder, weights } => {
                let stages = round::run(folder, *weights)?;
                watch.stop();
                Ok(Run { tokens: 1, watch, check: None, stages })
            }
            Task::Train { trainer, compared } => {
                if let Some((engine, items)) = compared {
                    let settings = settings(items.len());
                    reference_logprobs(engine, None, items, &settings, &mut |_| {
                        ControlFlow::Continue(())
                    })?;
                }
                let Some(metrics) = trainer.step()? else { bail!("the trainer is at its end") };
                watch.stop();
                Ok(Run { tokens: metrics.tokens, watch, check: Some(metrics.loss), stages })
            }
        }
    }
}

/// Returns where our side leaves its completions for the others.
pub fn made_path(input: &str) -> String {
    format!("{input}.made")
}

/// Returns where our side leaves the run directory of a round.
pub fn run_folder(input: &str) -> PathBuf {
    PathBuf::from(format!("{input}.run"))
}

fn trainer(engine: Engine<Cpu>, data: Data, batch: usize, rank: usize) -> Result<Trainer<Cpu>> {
    let config = LoraConfig::new(rank, rank as f64, &Linear::ALL);
    let adapter = Adapter::init(&engine.weights.spec, config, 0)?;
    Ok(Trainer::new(engine, &adapter, data, settings(batch))?)
}

fn settings(batch: usize) -> TrainSettings {
    TrainSettings {
        num_train_epochs: 10_000.0,
        per_device_train_batch_size: batch,
        lr_scheduler_type: LrSchedulerType::Constant,
        ..TrainSettings::default()
    }
}

/// Wall and processor time between two moments.
struct Stopwatch {
    wall: Instant,
    cpu: f64,
    stopped: Option<(f64, f64)>,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { wall: Instant::now(), cpu: cpu_seconds(), stopped: None }
    }

    fn stop(&mut self) {
        self.stopped = Some((self.wall.elapsed().as_secs_f64(), cpu_seconds() - self.cpu));
    }
}

/// Returns the processor time of this process and its finished children so far, in seconds.
fn cpu_seconds() -> f64 {
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .map(|who| {
            // SAFETY: all zeros is a valid value, and the call writes no more than it.
            let usage: libc::rusage = unsafe {
                let mut usage = std::mem::zeroed();
                libc::getrusage(who, &mut usage);
                usage
            };
            seconds(usage.ru_utime) + seconds(usage.ru_stime)
        })
        .iter()
        .sum()
}

/// Returns the most memory that this process ever held; 0 where the system does not say.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
