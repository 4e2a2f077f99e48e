//! The rows of work, on models of random weights.

use std::ops::ControlFlow;
use std::sync::Arc;

use aligner::generate::{self, Hooks, Job, Sampling, Settings};
use aligner::model::adapter::{Adapter, LoraConfig};
use aligner::model::backend::{AnyDevice, Backend, TrainingBackend, WeightType, Write};
use aligner::model::checkpoint::{Checkpoint, CheckpointError};
use aligner::model::forward::Engine;
use aligner::model::spec::{Linear, Rope, RopeScaling, Spec};
use aligner::model::weights::Weights;
use aligner::objective::Preference;
use aligner::run::seed;
use aligner::train::{
    Data, Example, Item, LrSchedulerType, Reference, TrainSettings, Trainer, reference_logprobs,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Result, seconds};

/// One run of a row, which says how long it took.
pub type Work = Box<dyn FnMut() -> Result<Value>>;

/// `work.json`, as far as it is read here.
#[derive(Deserialize)]
struct Plan {
    shapes: std::collections::BTreeMap<String, Shape>,
    sizes: std::collections::BTreeMap<String, Sizes>,
    context_length: usize,
    lora: Lora,
}

#[derive(Clone, Deserialize)]
struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    tied: bool,
    micro_batch_tokens: usize,
    sizes: String,
}

#[derive(Clone, Copy, Deserialize)]
struct Sizes {
    sequences: usize,
    length: usize,
    prompt: usize,
    few: usize,
    many: usize,
    prompts: usize,
    common: usize,
    own: usize,
    new: usize,
    batch: usize,
    matmul: usize,
    copied: usize,
}

#[derive(Clone, Copy, Deserialize)]
struct Lora {
    r: usize,
    lora_alpha: f64,
}

/// What this process is asked for.
pub struct Order {
    /// Name of the model's shape.
    pub shape: String,
    /// Name of the row.
    pub row: String,
    /// On the processor.
    pub cpu: bool,
    spec: Spec,
    sizes: Sizes,
    lora: Lora,
    micro_batch_tokens: usize,
}

impl Order {
    /// Reads `SHAPE ROW [--device cpu]`.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Order> {
        let (Some(shape), Some(row)) = (arguments.next(), arguments.next()) else {
            return Err("expected SHAPE ROW [--device cpu]".into());
        };
        let plan: Plan = serde_json::from_str(include_str!("work.json"))?;
        let Some(found) = plan.shapes.get(&shape).cloned() else {
            let names: Vec<_> = plan.shapes.keys().map(String::as_str).collect();
            return Err(format!("no shape `{shape}`, but {}", names.join(", ")).into());
        };
        let mut order = Order {
            spec: spec(&found, plan.context_length),
            sizes: plan.sizes[&found.sizes],
            lora: plan.lora,
            micro_batch_tokens: found.micro_batch_tokens,
            cpu: false,
            shape,
            row,
        };
        while let Some(name) = arguments.next() {
            match (name.as_str(), arguments.next().as_deref()) {
                ("--device", Some("cpu")) => order.cpu = true,
                ("--device", Some("cuda")) => order.cpu = false,
                (name, value) => {
                    return Err(format!("no such setting: {name} {}", value.unwrap_or("")).into());
                }
            }
        }
        Ok(order)
    }

    /// Says what was chosen for this row.
    pub fn how(&self, device: &AnyDevice) -> String {
        let passes = format!("passes of {} tokens", self.micro_batch_tokens);
        match self.row.as_str() {
            "limits" => "products of bf16 with sums in f32, and f32 copied by a kernel".into(),
            "lora" | "full" => passes,
            "dpo" => format!("{passes}, reference scored in each step"),
            row => {
                let rows = Settings::on(device).prefill_rows;
                let batch =
                    row.strip_prefix("decode-").map_or(self.sizes.batch.to_string(), str::to_owned);
                format!("{batch} prompts at a time, {rows} of their rows in a pass")
            }
        }
    }

    /// Returns what a run takes with this `[generate] batch`.
    fn decoding(&self, device: &AnyDevice, batch: usize) -> Settings {
        Settings { max_batch: batch, ..Settings::on(device) }
    }

    fn training(&self, items: usize) -> TrainSettings {
        TrainSettings {
            per_device_train_batch_size: items,
            // More steps than anybody will ask for.
            num_train_epochs: 1e4,
            lr_scheduler_type: LrSchedulerType::Constant,
            micro_batch_tokens: self.micro_batch_tokens,
            ..TrainSettings::default()
        }
    }

    fn adapter(&self) -> Result<Adapter> {
        let Lora { r, lora_alpha } = self.lora;
        Ok(Adapter::init(&self.spec, LoraConfig::new(r, lora_alpha, &Linear::ALL), 1)?)
    }

    fn tokens(&self, key: u64, len: usize) -> Vec<u32> {
        let key = seed::of([3u64.into(), key.into()]);
        let vocab = self.spec.vocab as u64;
        (0..len as u64).map(|i| (seed::bits(key, i) % vocab) as u32).collect()
    }

    fn examples(&self) -> Vec<Example> {
        let Sizes { sequences, length, .. } = self.sizes;
        let example = |i: usize| Example {
            id: i.to_string(),
            tokens: self.tokens(100 + i as u64, length),
            trained: (0..length).map(|t| t > 0).collect(),
        };
        (0..sequences).map(example).collect()
    }

    fn pairs(&self) -> Vec<Item> {
        let Sizes { sequences, length, .. } = self.sizes;
        let part = |key: usize| self.tokens(500 + key as u64, length / 2);
        let pair =
            |i: usize| Item::pair(i.to_string(), &part(3 * i), &part(3 * i + 1), &part(3 * i + 2));
        (0..sequences / 2).map(pair).collect()
    }
}

fn spec(shape: &Shape, context_length: usize) -> Spec {
    let &Shape { layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, tied, .. } = shape;
    Spec {
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
        tied_embeddings: tied,
        context_length,
    }
}

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
        if let [_] = shape {
            return Ok(vec![1.0; len]);
        }
        let mut values = Vec::with_capacity(len);
        while values.len() < len {
            let left = self.numbers.len().min(len - values.len());
            values.extend_from_slice(&self.numbers[..left]);
        }
        Ok(values)
    }
}

/// Loads what a row needs and returns its work.
pub fn prepare(order: &Order, device: Arc<AnyDevice>) -> Result<Work> {
    let Sizes { sequences, prompt, few, many, prompts, common, own, new, batch, .. } = order.sizes;
    let load = |weight_type| {
        let checkpoint = Random::new(order.spec.clone());
        Weights::load_as(&*device, &checkpoint, weight_type, &mut |_, _| ())
    };
    if order.row == "limits" {
        return limits(order, device);
    }
    if order.row == "full" {
        let data = order.examples();
        let weights = load(WeightType::F32)?;
        let trainer = Trainer::full(device.clone(), weights, data, order.training(sequences))?;
        return Ok(steps(trainer, device, || Ok(())));
    }
    let weights = Arc::new(load(WeightType::Bf16)?);
    let engine = Engine { backend: device.clone(), weights };
    if let Some(batch) = order.row.strip_prefix("decode-") {
        let batch: usize = batch.parse().map_err(|_| format!("no row `{}`", order.row))?;
        let settings = order.decoding(&device, batch);
        let jobs = |new| -> Vec<Job> {
            (0..batch).map(|i| job(order.tokens(i as u64, prompt), i, new)).collect()
        };
        let (few, many) = (jobs(few), jobs(many));
        return Ok(Box::new(move || {
            // The difference leaves the prompts out.
            let less = complete(&engine, &few, &settings)?;
            let spent = complete(&engine, &many, &settings)? - less;
            match spent > 0.0 {
                true => Ok(json!({ "seconds": spent })),
                false => Err("more tokens took no longer than few".into()),
            }
        }));
    }
    match order.row.as_str() {
        "prefix" => {
            let shared = order.tokens(0, common);
            let own = |i| order.tokens(1 + i as u64, own);
            let jobs: Vec<Job> =
                (0..prompts).map(|i| job([shared.clone(), own(i)].concat(), i, new)).collect();
            let settings = order.decoding(&device, batch);
            let spent = move || complete(&engine, &jobs, &settings);
            Ok(Box::new(move || Ok(json!({ "seconds": spent()? }))))
        }
        "lora" => {
            let (start, settings) = (order.adapter()?, order.training(sequences));
            let trainer = Trainer::new(engine, &start, order.examples(), settings)?;
            Ok(steps(trainer, device, || Ok(())))
        }
        "dpo" => {
            let items = order.pairs();
            let settings = order.training(items.len());
            let score = {
                let (engine, items, settings) = (engine.clone(), items.clone(), settings.clone());
                let hear = |_| ControlFlow::Continue(());
                move || reference_logprobs(&engine, None, &items, &settings, &mut { hear })
            };
            let objective = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };
            let reference = Reference::Logprobs(score()?);
            let data = Data::Preference { items, objective, reference };
            let trainer = Trainer::new(engine, &order.adapter()?, data, settings)?;
            Ok(steps(trainer, device, move || {
                score()?;
                Ok(())
            }))
        }
        row => Err(format!("no row `{row}`").into()),
    }
}

/// A training step, and what has to be done before it each time.
fn steps(
    mut trainer: Trainer<AnyDevice>,
    device: Arc<AnyDevice>,
    mut before: impl FnMut() -> Result<()> + 'static,
) -> Work {
    Box::new(move || {
        let spent = seconds(&device, || {
            before()?;
            trainer.step()?.ok_or("no step is left")?;
            Ok(())
        })?;
        Ok(json!({ "seconds": spent }))
    })
}

fn job(prompt: Vec<u32>, i: usize, new: usize) -> Job {
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_new_tokens: new,
    };
    Job { prompt, sampling, seed: i as u64 }
}

/// Returns how long the completions of all jobs take, in seconds.
fn complete(engine: &Engine<AnyDevice>, jobs: &[Job], settings: &Settings) -> Result<f64> {
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |_, _| ControlFlow::Continue(()),
        progress: &mut |_| ControlFlow::Continue(()),
    };
    seconds(&engine.backend, || Ok(generate::generate(engine, None, jobs, settings, hooks)?))
}

/// How fast the device multiplies, in operations a second, and copies, in bytes read and written a second.
fn limits(order: &Order, device: Arc<AnyDevice>) -> Result<Work> {
    let Sizes { matmul: n, copied, .. } = order.sizes;
    let numbers = Random::new(order.spec.clone()).tensor("", &[n, n])?;
    let weight = device.pack(&numbers, n, n, WeightType::Bf16)?;
    let x = device.upload(&numbers)?;
    let mut y = device.zeros(n * n)?;
    let (from, mut to) = (device.zeros(copied)?, device.zeros(copied)?);
    /// Repetitions, so that starting costs nothing.
    const TIMES: usize = 10;
    Ok(Box::new(move || {
        let product = seconds(&device, || {
            (0..TIMES).for_each(|_| device.linear(&x, n, &weight, &mut y, Write::Set));
            Ok(())
        })?;
        let copy = seconds(&device, || {
            (0..TIMES).for_each(|_| device.add_scaled(&from, 1.0, copied, &mut to, Write::Set));
            Ok(())
        })?;
        let times = TIMES as f64;
        Ok(json!({
            "matmul": times * 2.0 * (n as f64).powi(3) / product,
            "copy": times * 8.0 * copied as f64 / copy,
        }))
    }))
}
