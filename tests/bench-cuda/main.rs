//! `make bench-cuda`: the engine on a GPU, on models of random weights. Each row of work is printed as
//! a line of JSON; `table.py` beside this runs the same with PyTorch and prints both.
//!
//! ```text
//! bench-cuda SHAPE ROW…      SHAPE: 135m, 1.5b or 7b
//!                            ROW: decode-N, prefix, lora, dpo, full, each in bf16
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use aligner::generate::{self, Hooks, Job, Sampling, Settings};
use aligner::model::adapter::{Adapter, LoraConfig};
use aligner::model::backend::WeightType;
use aligner::model::backend::cuda::Cuda;
use aligner::model::checkpoint::{Checkpoint, CheckpointError};
use aligner::model::forward::Engine;
use aligner::model::spec::{Linear, Rope, RopeScaling, Spec};
use aligner::model::weights::Weights;
use aligner::objective::Preference;
use aligner::run::seed;
use aligner::train::{Data, Example, Item, Reference, TrainSettings, Trainer};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Weights that nobody trained, as large as those of a fresh model.
struct Random {
    spec: Spec,
    numbers: Vec<f32>,
}

impl Random {
    fn new(spec: Spec) -> Random {
        // Prime, so that rows differ.
        const COUNT: u64 = 1_299_709;
        let numbers = (0..COUNT).map(|i| (seed::uniform(1, i) as f32 - 0.5) * 0.07).collect();
        Random { spec, numbers }
    }
}

impl Checkpoint for Random {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(
        &self,
        _name: &str,
        shape: &[usize],
    ) -> std::result::Result<Vec<f32>, CheckpointError> {
        let len = shape.iter().product();
        Ok(match shape {
            [_] => vec![1.0; len],
            _ => self.numbers.iter().copied().cycle().take(len).collect(),
        })
    }
}

fn spec(shape: &str) -> Option<Spec> {
    let [layers, hidden, heads, kv_heads, head_dim, intermediate, vocab] = match shape {
        "135m" => [30, 576, 9, 3, 64, 1536, 49152],
        "1.5b" => [28, 1536, 12, 2, 128, 8960, 151_936],
        "7b" => [32, 4096, 32, 32, 128, 11008, 32000],
        _ => return None,
    };
    Some(Spec {
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        intermediate,
        vocab,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings: shape != "7b",
        context_length: 4096,
    })
}

fn tokens(spec: &Spec, key: u64, len: usize) -> Vec<u32> {
    let key = seed::of([3u64.into(), key.into()]);
    (0..len as u64).map(|i| (seed::bits(key, i) % spec.vocab as u64) as u32).collect()
}

fn say(shape: &str, row: &str, seconds: f64, tokens: usize, memory: Option<(usize, usize)>) {
    let used = memory.map_or(0, |(free, total)| total - free);
    println!(
        "{{\"engine\": \"aligner\", \"shape\": \"{shape}\", \"row\": \"{row}\", \"seconds\": {seconds:.5}, \
         \"tokens\": {tokens}, \"tokens_per_second\": {:.1}, \"memory_gb\": {:.2}}}",
        tokens as f64 / seconds,
        used as f64 / 1e9
    );
}

/// Completes prompts of `common` tokens that all share and `own` that they do not.
fn decode(
    engine: &Engine<Cuda>,
    batch: usize,
    common: usize,
    own: usize,
    new: usize,
) -> Result<f64> {
    let spec = &engine.weights.spec;
    let shared = tokens(spec, 0, common);
    let jobs: Vec<Job> = (0..batch)
        .map(|i| Job {
            prompt: [shared.clone(), tokens(spec, 1 + i as u64, own)].concat(),
            sampling: Sampling {
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
                repetition_penalty: 1.0,
                max_new_tokens: new,
            },
            seed: i as u64,
        })
        .collect();
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |_, _| ControlFlow::Continue(()),
        progress: &mut |_| ControlFlow::Continue(()),
    };
    let settings = Settings {
        max_batch: batch.min(256),
        cache_bytes: 24 << 30,
        prefill_rows: 1024,
        ..Settings::default()
    };
    let begun = Instant::now();
    generate::generate(engine, None, &jobs, &settings, hooks)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn examples(spec: &Spec, count: usize, length: usize) -> Vec<Example> {
    (0..count)
        .map(|i| Example {
            id: i.to_string(),
            tokens: tokens(spec, 100 + i as u64, length),
            trained: (0..length).map(|t| t > 0).collect(),
        })
        .collect()
}

/// Seconds of a step, the first left out.
fn steps(mut trainer: Trainer<Cuda>, backend: &Cuda) -> Result<(f64, Option<(usize, usize)>)> {
    let mut times = Vec::new();
    for _ in 0..4 {
        let begun = Instant::now();
        trainer.step()?;
        backend.wait()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok((times[1], backend.memory()))
}

fn run(shape: &str, row: &str, engine: &Engine<Cuda>) -> Result<()> {
    const LENGTH: usize = 1024;
    const COUNT: usize = 16;
    let (spec, backend) = (&engine.weights.spec, engine.backend.clone());
    let settings = TrainSettings {
        per_device_train_batch_size: COUNT,
        num_train_epochs: 4.0,
        micro_batch_tokens: if shape == "7b" { 4096 } else { 16384 },
        ..TrainSettings::default()
    };
    let lora = LoraConfig::new(16, 16.0, &Linear::ALL);
    if let Some(batch) = row.strip_prefix("decode-") {
        let batch: usize = batch.parse()?;
        decode(engine, batch, 0, 32, 4)?;
        // The difference of two lengths leaves the prompts out.
        let (few, many) = (decode(engine, batch, 0, 32, 8)?, decode(engine, batch, 0, 32, 72)?);
        say(shape, row, many - few, 64 * batch, backend.memory());
        return Ok(());
    }
    match row {
        "prefix" => {
            decode(engine, 16, 2048, 16, 2)?;
            let seconds = decode(engine, 512, 2048, 16, 64)?;
            say(shape, row, seconds, 512 * 64, backend.memory());
        }
        "lora" => {
            let start = Adapter::init(spec, lora, 1)?;
            let trainer =
                Trainer::new(engine.clone(), &start, examples(spec, COUNT, LENGTH), settings)?;
            let (seconds, memory) = steps(trainer, &backend)?;
            say(shape, row, seconds, COUNT * LENGTH, memory);
        }
        "dpo" => {
            let start = Adapter::init(spec, lora, 1)?;
            let part = |key: usize| tokens(spec, 500 + key as u64, LENGTH / 2);
            let items = (0..COUNT / 2).map(|i| {
                Item::pair(i.to_string(), &part(3 * i), &part(3 * i + 1), &part(3 * i + 2))
            });
            let objective = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };
            let data = Data::Preference {
                items: items.collect(),
                objective,
                reference: Reference::Initial,
            };
            let settings = TrainSettings { per_device_train_batch_size: COUNT / 2, ..settings };
            let trainer = Trainer::new(engine.clone(), &start, data, settings)?;
            let (seconds, memory) = steps(trainer, &backend)?;
            say(shape, row, seconds, COUNT * LENGTH, memory);
        }
        _ => return Err(format!("no row `{row}`").into()),
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let shape = arguments.next().ok_or("which shape? 135m, 1.5b or 7b")?;
    let spec = spec(&shape).ok_or("which shape? 135m, 1.5b or 7b")?;
    let checkpoint = Random::new(spec);
    let backend = Cuda::open(0, WeightType::Bf16)?;
    let rows: Vec<String> = arguments.collect();
    let (full, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row == "full");
    let begun = Instant::now();
    let weights = Weights::load_as(&backend, &checkpoint, WeightType::Bf16, &mut |_, _| ())?;
    backend.wait()?;
    eprintln!("{shape}: loaded in {:.1} s", begun.elapsed().as_secs_f64());
    let engine = Engine::new(backend, weights);
    for row in others {
        run(&shape, &row, &engine)?;
    }
    drop(engine);
    if !full.is_empty() {
        let backend = Arc::new(Cuda::open(0, WeightType::Bf16)?);
        let weights = Weights::load(&*backend, &checkpoint, &mut |_, _| ())?;
        let settings = TrainSettings {
            per_device_train_batch_size: 16,
            num_train_epochs: 4.0,
            micro_batch_tokens: 8192,
            ..TrainSettings::default()
        };
        let data = examples(&checkpoint.spec, 16, 1024);
        let trainer = Trainer::full(backend.clone(), weights, data, settings)?;
        let (seconds, memory) = steps(trainer, &backend)?;
        say(&shape, "full", seconds, 16 * 1024, memory);
    }
    Ok(())
}
