//! A small random model, and whether it learns and repeats itself as it should.

use std::ops::ControlFlow;
use std::sync::Mutex;

use super::Finding;
use crate::generate::{self, Hooks, Job, Output, Sampling, Settings};
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::{AnyDevice, Backend};
use crate::model::backward::{Pass, Sequences};
use crate::model::checkpoint::{Checkpoint, CheckpointError};
use crate::model::forward::Engine;
use crate::model::spec::{Linear, Rope, RopeScaling, Spec};
use crate::model::trainable::{TrainableAdapter, Trained};
use crate::model::weights::Weights;
use crate::progress::counted;
use crate::run::seed;

/// What went wrong before anything could be compared, such as no memory.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Random weights, made when they are asked for: numbers of a normal distribution that come again after
/// a prime number of them.
pub(super) struct RandomModel {
    spec: Spec,
    numbers: Vec<f32>,
}

impl RandomModel {
    pub(super) fn new(spec: Spec) -> RandomModel {
        let numbers = (0..4093).map(|index| seed::normal(17, index) as f32).collect();
        RandomModel { spec, numbers }
    }
}

impl Checkpoint for RandomModel {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let &[rows, inputs] = shape else { return Ok(vec![1.0; shape.iter().product()]) };
        let scale = 1.0 / (inputs as f32).sqrt();
        let first = seed::of([name.into()]) as usize % self.numbers.len();
        let numbers = self.numbers.iter().cycle().skip(first);
        Ok(numbers.take(rows * inputs).map(|number| number * scale).collect())
    }
}

/// A Llama of two blocks.
pub(super) fn tiny() -> Spec {
    Spec {
        layers: 2,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        intermediate: 96,
        vocab: 256,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings: true,
        context_length: 256,
    }
}

/// How far a slope by differences may be from the gradient's length, as a part of it: rounding to f32, and
/// that the loss is no straight line, come to a thousandth.
const MOST: f64 = 0.02;

/// Compares the backward pass with differences of losses: along its own gradient each tensor of an adapter
/// must have that gradient's length as its slope.
pub fn gradient(device: &AnyDevice) -> Finding {
    let check = if device.shares_memory() { "gradient" } else { "cuda-gradient" };
    match slopes(device) {
        Ok(slopes) => judge(check, &slopes),
        Err(error) => Finding::failed(check, error.to_string(), REPORT),
    }
}

const REPORT: &str = "results of this machine cannot be trusted; please report it with all lines, and \
                      try another machine";

/// The slope of the loss along a tensor's gradient, by differences and as the gradient has it.
struct Slope {
    name: String,
    by_differences: f64,
    of_gradient: f64,
}

impl Slope {
    /// Returns how far the two are apart, as a part; 1 where there is no gradient.
    fn distance(&self) -> f64 {
        let distance = (self.by_differences / self.of_gradient - 1.0).abs();
        if distance.is_nan() { 1.0 } else { distance }
    }
}

fn judge(check: &'static str, slopes: &[Slope]) -> Finding {
    let worst = slopes.iter().max_by(|a, b| a.distance().total_cmp(&b.distance()));
    let Some(worst) = worst else {
        return Finding::failed(check, "nothing could be trained", REPORT);
    };
    let tensors = counted(slopes.len() as u64, "tensors");
    let distance = worst.distance();
    let finding = match distance <= MOST {
        true => Finding::ok(
            check,
            format!("{tensors}: backward pass and differences agree to {distance:.0e}"),
        ),
        false => Finding::failed(
            check,
            format!(
                "of {tensors} `{}` has a gradient of {:.3e}, and by differences {:.3e}",
                worst.name, worst.of_gradient, worst.by_differences
            ),
            REPORT,
        ),
    };
    finding.with("largest_distance", distance)
}

fn slopes(device: &AnyDevice) -> Result<Vec<Slope>, Trouble> {
    let weights = Weights::load(device, &RandomModel::new(tiny()), &mut |_, _| {})?;
    let spec = &weights.spec;
    let mut start = Adapter::zeros(spec, LoraConfig::new(4, 8.0, &Linear::ALL))?;
    let matrices = start.pairs.values_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
    for (tensor, values) in (100..).zip(matrices) {
        for (index, value) in (0..).zip(values) {
            *value = 0.2 * seed::normal(tensor, index) as f32;
        }
    }
    let mut sequences = Sequences::default();
    for (sequence, length, shared) in [(0, 9, 0), (1, 17, 0), (2, 24, 0), (3, 14, 7)] {
        let from = |t| if t < shared { sequence - 1 } else { sequence };
        let token = |t| (seed::uniform(from(t), t) * spec.vocab as f64) as u32;
        let tokens: Vec<u32> = (0..length).map(token).collect();
        let scored: Vec<bool> = (0..length).map(|t| t > shared && t > length / 3).collect();
        sequences.branch(&tokens, &scored, shared as usize, 0);
    }
    let (_, gradients) = loss(device, &weights, &start, &sequences)?;
    let mut slopes = Vec::new();
    for (at, (name, gradient)) in gradients.iter().enumerate() {
        let squares = gradient.iter().map(|&g| f64::from(g).powi(2));
        let of_gradient = squares.sum::<f64>().sqrt();
        let moved = |by: f64| -> Result<f64, Trouble> {
            let mut adapter = start.clone();
            let matrices = adapter.pairs.values_mut().flat_map(|it| [&mut it.a, &mut it.b]);
            let values = matrices.skip(at).take(1).flatten();
            for (value, &g) in values.zip(gradient) {
                *value += (by * f64::from(g) / of_gradient) as f32;
            }
            Ok(loss(device, &weights, &adapter, &sequences)?.0)
        };
        // Far enough for rounding not to show, near enough for the loss to be straight.
        const STEP: f64 = 5e-3;
        let by_differences = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
        slopes.push(Slope { name: name.clone(), by_differences, of_gradient });
    }
    Ok(slopes)
}

/// The names of tensors, each with its gradient.
type Gradients = Vec<(String, Vec<f32>)>;

/// Returns the mean loss of the scored tokens in nats, and the gradient of each tensor of the adapter.
fn loss(
    device: &AnyDevice,
    weights: &Weights<AnyDevice>,
    adapter: &Adapter,
    sequences: &Sequences,
) -> Result<(f64, Gradients), Trouble> {
    let spec = &weights.spec;
    let mut trainable = TrainableAdapter::new(device, spec, adapter)?;
    let pairs = &trainable.pairs();
    let rows = sequences.tokens.len();
    let shape = PassShape { spec, pairs, dropout: false, rows, gradient_checkpointing: false };
    let mut activations = Activations::new(shape, &mut |room| device.make_room(room))?;
    let trained = Trained { adapter: Some(&mut trainable), gradients: None };
    let mut pass = Pass { backend: device, weights, trained, activations: &mut activations };
    let scored = sequences.targets.len() as f64;
    let said = device.enter(|| {
        pass.forward(sequences)?;
        pass.backward(sequences, &vec![-1.0 / scored as f32; sequences.targets.len()])
    })?;
    let loss = -said.iter().map(|token| f64::from(token.logprob)).sum::<f64>() / scored;
    let mut gradients = Vec::new();
    for parameter in trainable.parameters() {
        let gradient = device.view(&parameter.gradient, 0..parameter.len())?.into_owned();
        gradients.push((parameter.name.clone(), gradient));
    }
    Ok((loss, gradients))
}

/// Completes the same prompts one at a time on one thread, and together on all: every bit must be the same.
pub fn determinism(device: &AnyDevice) -> Finding {
    let check = if device.shares_memory() { "determinism" } else { "cuda-determinism" };
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let outputs = alone.map_err(Trouble::from).and_then(|alone| {
        let alone = alone.install(|| completions(device, 1))?;
        Ok([alone, completions(device, JOBS)?, completions(device, JOBS)?])
    });
    match outputs {
        Ok([alone, together, again]) => same(check, &alone, &together, &again),
        Err(error) => Finding::failed(check, error.to_string(), REPORT),
    }
}

const JOBS: usize = 8;

fn same(check: &'static str, alone: &[Output], together: &[Output], again: &[Output]) -> Finding {
    let bits = |outputs: &[Output]| -> Vec<(Vec<u32>, u64, u64)> {
        let of = |it: &Output| (it.tokens.clone(), it.logprob.to_bits(), it.entropy.to_bits());
        outputs.iter().map(of).collect()
    };
    let differing = |one: &[Output], other: &[Output]| {
        let (one, other) = (bits(one), bits(other));
        one.iter().zip(&other).filter(|(one, other)| one != other).count()
            + one.len().abs_diff(other.len())
    };
    let (by_batch, by_time) = (differing(alone, together), differing(together, again));
    let completions = counted(together.len() as u64, "completions");
    match (by_batch, by_time) {
        (0, 0) if !together.is_empty() => {
            let threads = counted(rayon::current_num_threads() as u64, "threads");
            Finding::ok(
                check,
                format!(
                    "{completions} are the same bits alone on 1 thread and together on {threads}"
                ),
            )
        }
        (0, by_time) => Finding::failed(
            check,
            format!("{by_time} of {completions} differ a second time"),
            REPORT,
        ),
        (by_batch, _) => Finding::failed(
            check,
            format!("{by_batch} of {completions} differ alone on 1 thread and together on all"),
            REPORT,
        ),
    }
}

fn completions(device: &AnyDevice, max_batch: usize) -> Result<Vec<Output>, Trouble> {
    let weights = Weights::load(device, &RandomModel::new(tiny()), &mut |_, _| {})?;
    let engine = Engine::new(device.clone(), weights);
    let jobs: Vec<Job> = (0..JOBS as u64)
        .map(|job| Job {
            prompt: (0..5 + 3 * job).map(|t| (seed::uniform(job, t) * 256.0) as u32).collect(),
            sampling: sampling(0.8, 24),
            seed: job,
        })
        .collect();
    let settings = Settings { max_batch, ..Settings::default() };
    let done = Mutex::new(vec![None; JOBS]);
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |job, output| {
            if let Ok(mut done) = done.lock() {
                done[job] = Some(output);
            }
            ControlFlow::Continue(())
        },
        progress: &mut |_| ControlFlow::Continue(()),
    };
    generate::generate(&engine, None, &jobs, &settings, hooks)?;
    let done = done.into_inner().unwrap_or_default();
    Ok(done.into_iter().flatten().collect())
}

pub(super) fn sampling(temperature: f64, max_new_tokens: usize) -> Sampling {
    Sampling { temperature, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, max_new_tokens }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_gradient_that_is_no_slope_is_named() {
        let found = gradient(&AnyDevice::cpu());
        assert_eq!(found.status, Status::Ok, "{found:?}");
        assert!(found.found.starts_with("28 tensors"), "{found:?}");
        let mut slopes = slopes(&AnyDevice::cpu()).unwrap();
        let worst = judge("gradient", &slopes).numbers[0].1;
        assert!(worst < 0.25 * MOST, "{worst}");
        slopes[3].of_gradient *= 1.1;
        let wrong = judge("gradient", &slopes);
        assert_eq!(wrong.status, Status::Failed);
        assert!(wrong.found.contains(&slopes[3].name), "{wrong:?}");
        slopes[3].of_gradient = 0.0;
        assert_eq!(judge("gradient", &slopes).status, Status::Failed);
        slopes[3].by_differences = 0.0;
        assert_eq!(
            judge("gradient", &slopes).status,
            Status::Failed,
            "a tensor that does not learn"
        );
    }

    #[test]
    fn a_completion_of_other_bits_is_found() {
        let outputs = completions(&AnyDevice::cpu(), JOBS).unwrap();
        assert_eq!(outputs.len(), JOBS);
        assert_eq!(determinism(&AnyDevice::cpu()).status, Status::Ok);
        let mut other = outputs.clone();
        other[5].logprob = f64::from_bits(other[5].logprob.to_bits() + 1);
        let found = same("determinism", &outputs, &other, &other);
        assert_eq!(found.status, Status::Failed);
        assert!(found.found.starts_with("1 of 8 completions differ alone"), "{found:?}");
        let found = same("determinism", &outputs, &outputs, &other[..7]);
        assert!(found.found.starts_with("2 of 8 completions differ a second time"), "{found:?}");
    }
}
