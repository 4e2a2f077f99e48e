//! Numbers against transformers, PEFT and torch (`tests/fixtures/make_training.py`), and what must
//! hold for any model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

use super::*;
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::PairConfig;
use crate::model::backend::Backend;
use crate::model::backend::cpu::Cpu;
use crate::model::backward::Pass;
use crate::model::backward::Sequences;
use crate::model::checkpoint::{Checkpoint, CheckpointError};
use crate::model::peft;
use crate::model::spec::{Linear, Rope, RopeScaling};
use crate::model::trainable::{TrainableAdapter, Trained};
use crate::model::weights::Weights;

pub(super) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

pub(super) type Tensors = BTreeMap<String, Vec<f32>>;

pub(super) fn tensors(name: &str) -> Tensors {
    let bytes = fixture(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |dtype, data: &[u8]| match dtype {
        Dtype::F32 => {
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        Dtype::BF16 => data
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
            .collect(),
        other => panic!("{other:?}"),
    };
    file.iter().map(|(name, view)| (name.to_owned(), numbers(view.dtype(), view.data()))).collect()
}

/// The model of the fixtures, and variations of it.
pub(super) struct Tiny {
    pub(super) spec: Spec,
    pub(super) tensors: Tensors,
}

impl Tiny {
    pub(super) fn new(tied: bool) -> Tiny {
        let spec = Spec {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            intermediate: 96,
            vocab: 256,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: tied,
            context_length: 128,
        };
        Tiny { spec, tensors: tensors("model.safetensors") }
    }

    pub(super) fn engine_on(&self, backend: Cpu) -> Engine<Cpu> {
        let weights = Weights::load(&backend, self, &mut |_, _| {}).unwrap();
        Engine::new(backend, weights)
    }

    pub(super) fn engine(&self) -> Engine<Cpu> {
        self.engine_on(Cpu::new())
    }
}

impl Checkpoint for Tiny {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors[name].clone();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        Ok(values)
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/training"))
}

pub(super) fn lora() -> LoraConfig {
    LoraConfig::new(4, 6.0, &Linear::ALL)
}

/// The adapter of the fixtures, in a folder that PEFT wrote: neither matrix is zero.
pub(super) fn adapter() -> Adapter {
    peft::read(&folder().join("adapter"), &Tiny::new(true).spec).unwrap()
}

pub(super) fn from_peft(tensors: &Tensors, prefix: &str) -> Adapter {
    let mut adapter = Adapter::zeros(&Tiny::new(true).spec, lora()).unwrap();
    for (&(layer, linear), pair) in &mut adapter.pairs {
        let take = |letter| {
            let path = linear.path();
            let name = format!(
                "{prefix}base_model.model.model.layers.{layer}.{path}.lora_{letter}.weight"
            );
            tensors[&name].clone()
        };
        (pair.a, pair.b) = (take('A'), take('B'));
    }
    adapter
}

#[derive(Deserialize)]
struct Expected {
    settings: ExpectedSettings,
    batch: Vec<ExpectedExample>,
    tied: ExpectedRun,
    untied: ExpectedRun,
}

#[derive(Deserialize)]
pub(super) struct ExpectedSettings {
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    pub(super) adam_beta1: f64,
    pub(super) adam_beta2: f64,
    pub(super) adam_epsilon: f64,
    pub(super) max_grad_norm: f64,
    pub(super) warmup_ratio: f64,
    pub(super) steps: u32,
}

#[derive(Deserialize)]
pub(super) struct ExpectedExample {
    pub(super) tokens: Vec<u32>,
    pub(super) trained: Vec<bool>,
}

#[derive(Deserialize)]
struct ExpectedRun {
    logprobs: Vec<Vec<f64>>,
    steps: Vec<ExpectedStep>,
}

#[derive(Deserialize)]
pub(super) struct ExpectedStep {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
}

fn expected() -> Expected {
    serde_json::from_slice(&fixture("expected.json")).unwrap()
}

pub(super) fn examples() -> Vec<Example> {
    let example = |(i, e): (usize, ExpectedExample)| Example {
        id: format!("example-{i}"),
        tokens: e.tokens,
        trained: e.trained,
    };
    expected().batch.into_iter().enumerate().map(example).collect()
}

/// The settings of the fixtures: every step takes all three examples.
pub(super) fn settings() -> TrainSettings {
    let s = expected().settings;
    TrainSettings {
        learning_rate: s.learning_rate,
        num_train_epochs: s.steps.into(),
        per_device_train_batch_size: 3,
        gradient_accumulation_steps: 1,
        warmup_ratio: s.warmup_ratio,
        lr_scheduler_type: LrSchedulerType::Cosine,
        weight_decay: s.weight_decay,
        adam_beta1: s.adam_beta1,
        adam_beta2: s.adam_beta2,
        adam_epsilon: s.adam_epsilon,
        max_grad_norm: s.max_grad_norm,
        ..TrainSettings::default()
    }
}

fn trainer(tiny: &Tiny, start: &Adapter, settings: TrainSettings) -> Trainer<Cpu> {
    Trainer::new(tiny.engine(), start, examples(), settings).unwrap()
}

/// Loss and gradients of the first step.
pub(super) fn gradients(trainer: &mut Trainer<Cpu>) -> (f64, Vec<(String, Vec<f32>)>) {
    let indices = trainer.learner.batches.of_step(0);
    let loss = trainer.accumulate(&indices).unwrap().loss;
    let gradients =
        trainer.learner.subject.gradients().into_iter().map(|gradient| gradient.to_vec());
    (loss, trainer.learner.subject.names().into_iter().zip(gradients).collect())
}

pub(super) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(super) fn largest(a: &[f32]) -> f32 {
    a.iter().fold(0.0, |m, x| m.max(x.abs()))
}

#[test]
fn an_adapter_of_peft_is_read_and_written_under_the_same_names() {
    assert!(adapter().under(lora(), 2).is_some());
    let written = tempfile::tempdir().unwrap();
    peft::write(written.path(), &adapter(), peft::Base { name_or_path: "tiny", revision: None })
        .unwrap();
    let names = |bytes: &[u8]| -> Vec<(String, Vec<usize>)> {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut names: Vec<_> =
            file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
        names.sort();
        names
    };
    let ours = std::fs::read(written.path().join(peft::WEIGHTS_FILE)).unwrap();
    assert_eq!(names(&ours), names(&fixture("adapter/adapter_model.safetensors")));
}

#[test]
fn logprobs_are_those_of_transformers() {
    for (tied, run) in [(true, expected().tied), (false, expected().untied)] {
        let tiny = Tiny::new(tied);
        let (engine, adapter) = (tiny.engine(), adapter());
        let backend = &*engine.backend;
        let mut adapter = TrainableAdapter::new(backend, &tiny.spec, &adapter).unwrap();
        let shape = PassShape {
            spec: &tiny.spec,
            pairs: &adapter.pairs(),
            dropout: false,
            rows: 49,
            gradient_checkpointing: false,
        };
        let mut activations = Activations::new(shape, &mut |room| backend.make_room(room)).unwrap();
        let mut sequences = Sequences::default();
        for example in examples() {
            sequences.push(&example.tokens, &example.trained, 0);
        }
        let trained = Trained { adapter: Some(&mut adapter), gradients: None };
        let (weights, activations) = (&*engine.weights, &mut activations);
        let mut pass = Pass { backend, weights, trained, activations };
        pass.forward(&sequences).unwrap();
        let scored = pass.logprobs(&sequences).unwrap();
        let want = run.logprobs.concat();
        assert_eq!(scored.len(), want.len());
        for (got, want) in scored.iter().zip(&want) {
            assert!((f64::from(got.logprob) - want).abs() < 2e-5, "{got:?} {want}");
        }
        // The backward pass reports the same logprobs.
        let again = pass.backward(&sequences, &vec![1.0; want.len()]).unwrap();
        for (a, b) in scored.iter().zip(&again) {
            assert!((a.logprob - b.logprob).abs() < 1e-6, "{a:?} {b:?}");
        }
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_torch() {
    for (tied, file, run) in [
        (true, "tied.safetensors", expected().tied),
        (false, "untied.safetensors", expected().untied),
    ] {
        let want = tensors(file);
        for backend in [Cpu::new(), Cpu::portable()] {
            let engine = Tiny::new(tied).engine_on(backend);
            let mut trainer = Trainer::new(engine, &adapter(), examples(), settings()).unwrap();
            let (loss, gradients) = gradients(&mut trainer);
            assert!((loss - run.steps[0].loss).abs() < 1e-5, "{loss}");
            assert_eq!(gradients.len(), 28);
            let scale = gradients.iter().map(|(_, g)| largest(g)).fold(0.0, f32::max);
            let mut worst = 0f32;
            for (name, gradient) in gradients {
                let want = &want[&format!("grad.base_model.model.{name}")];
                let distance = furthest(&gradient, want) / scale;
                assert!(distance < 1e-5, "{name} {distance:e}");
                worst = worst.max(distance);
            }
            println!("{file} {backend:?}: gradients differ by {worst:e} of the largest");
        }
    }
}

#[test]
fn ten_steps_are_those_of_torch() {
    for (tied, file, run) in [
        (true, "tied.safetensors", expected().tied),
        (false, "untied.safetensors", expected().untied),
    ] {
        let mut trainer = trainer(&Tiny::new(tied), &adapter(), settings());
        for want in &run.steps {
            let got = trainer.step().unwrap().unwrap();
            assert!((got.loss - want.loss).abs() < 1e-4, "{got:?} {}", want.loss);
            assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-4, "{got:?}");
            assert!((got.learning_rate - want.learning_rate).abs() < 1e-12, "{got:?}");
            assert_eq!((got.trained_tokens, got.tokens), (32, 49));
        }
        assert_eq!(trainer.step().unwrap(), None);
        let (got, want) = (trainer.adapter().unwrap(), from_peft(&tensors(file), "final."));
        let distance = got.tensors().zip(want.tensors()).map(|(g, w)| furthest(g.values, w.values));
        let worst = distance.fold(0.0, f32::max);
        println!("{file}: ten steps differ by {worst:e}");
        assert!(worst < 1e-4, "{worst:e}");
    }
}

/// The slope of the loss along the gradient, by differences, against the gradient's own length.
fn check_slope(config: LoraConfig) {
    let mut start = adapter();
    start.config = config;
    let pairs = start.config.pairs(2).unwrap();
    start.pairs.retain(|key, _| pairs.contains_key(key));
    for (key, pair) in &mut start.pairs {
        // The first rows and columns of the matrices of rank 4.
        let PairConfig { r, scale } = pairs[key];
        pair.a.truncate(pair.a.len() / 4 * r);
        pair.b = pair.b.chunks(4).flat_map(|row| row[..r].to_vec()).collect();
        (pair.r, pair.scale) = (r, scale);
    }
    let tiny = Tiny::new(true);
    let mut at = trainer(&tiny, &start, settings());
    let (_, gradients) = gradients(&mut at);
    let length: f64 = gradients.iter().flat_map(|(_, g)| g).map(|&g| f64::from(g).powi(2)).sum();
    let moved = |by: f64| {
        let mut adapter = start.clone();
        let pairs = adapter.pairs.values_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for (values, (_, gradient)) in pairs.zip(&gradients) {
            for (value, &g) in values.iter_mut().zip(gradient) {
                *value += (by * f64::from(g) / length.sqrt()) as f32;
            }
        }
        let mut trainer = trainer(&tiny, &adapter, settings());
        trainer.accumulate(&[0, 1, 2]).unwrap().loss
    };
    let slope = (moved(2e-3) - moved(-2e-3)) / 4e-3;
    let ratio = slope / length.sqrt();
    assert!((ratio - 1.0).abs() < 2e-3, "{:?} {slope} {}", start.config, length.sqrt());
}

#[test]
fn gradients_are_slopes() {
    check_slope(lora());
    check_slope(LoraConfig { use_rslora: true, ..lora() });
    check_slope(LoraConfig::new(4, 6.0, &[Linear::Q]));
    check_slope(LoraConfig::new(4, 6.0, &[Linear::V, Linear::Down]));
    let rank_pattern = vec![("layers.0.*_proj".to_owned(), 1), ("q_proj".to_owned(), 3)];
    let alpha_pattern = vec![("1.mlp.up_proj".to_owned(), 2.5), ("v_proj".to_owned(), 1.0)];
    // Of the length of the others, so that the loss is as straight along it.
    let patterns =
        LoraConfig { rank_pattern, alpha_pattern, ..LoraConfig::new(4, 2.0, &Linear::ALL) };
    check_slope(patterns.clone());
    check_slope(LoraConfig { use_rslora: true, ..patterns });
}

#[test]
fn gradients_under_dropout_are_slopes_for_the_same_draws() {
    check_slope(LoraConfig { dropout: 0.3, ..lora() });
}

#[test]
fn dropout_draws_depend_on_example_and_epoch_only() {
    let mut start = adapter();
    start.config.dropout = 0.5;
    let tiny = Tiny::new(true);
    let loss = |micro_batch_tokens, seed, step: u64| {
        let settings = TrainSettings { micro_batch_tokens, seed, ..settings() };
        let mut trainer = trainer(&tiny, &start, settings);
        trainer.step = step;
        trainer.accumulate(&[0, 1, 2]).unwrap().loss
    };
    assert!((loss(1024, 1, 0) - loss(20, 1, 0)).abs() < 1e-6);
    assert!((loss(1024, 1, 0) - loss(1024, 2, 0)).abs() > 1e-3);
    assert!((loss(1024, 1, 0) - loss(1024, 1, 1)).abs() > 1e-3);
}

#[test]
fn the_cut_into_micro_batches_does_not_change_the_update() {
    let tiny = Tiny::new(true);
    let after = |micro_batch_tokens| {
        let settings = TrainSettings { micro_batch_tokens, ..settings() };
        let mut trainer = trainer(&tiny, &adapter(), settings);
        let (loss, gradients) = gradients(&mut trainer);
        (loss, gradients.into_iter().flat_map(|(_, g)| g).collect::<Vec<f32>>())
    };
    let (loss, whole) = after(1024);
    for most in [1, 9, 26, 40] {
        let (part_loss, parts) = after(most);
        assert!((loss - part_loss).abs() < 1e-6, "{most}");
        let distance = furthest(&whole, &parts) / largest(&whole);
        assert!(distance < 1e-6, "{most} {distance:e}");
    }
    let cut = |batch, accumulate| {
        let settings = TrainSettings {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulate,
            num_train_epochs: 4.0,
            ..settings()
        };
        run(trainer(&tiny, &adapter(), settings)).digest()
    };
    // Batch size times accumulation is all that matters.
    assert_eq!(cut(3, 1), cut(1, 3));
}

fn run(mut trainer: Trainer<Cpu>) -> Adapter {
    while trainer.step().unwrap().is_some() {}
    trainer.adapter().unwrap()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(trainer(&Tiny::new(true), &adapter(), settings())).digest())
    };
    let one = on(1);
    assert!([2, 3, 5].into_iter().all(|threads| on(threads) == one));
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let tiny = Tiny::new(true);
    let mut config = lora();
    config.dropout = 0.1;
    let start = Adapter::init(&tiny.spec, config, 5).unwrap();
    let settings = TrainSettings {
        per_device_train_batch_size: 2,
        num_train_epochs: 3.0,
        shuffle: true,
        seed: 9,
        ..settings()
    };
    let mut undisturbed = trainer(&tiny, &start, settings.clone());
    let mut metrics = Vec::new();
    while let Some(step) = undisturbed.step().unwrap() {
        metrics.push(step);
    }
    assert_eq!(metrics.len(), 6);
    let last = undisturbed.state().unwrap().to_bytes();
    // Also while the first steps are still being proved.
    for kill in [0, 1, 2, 4, 6] {
        let mut first = trainer(&tiny, &start, settings.clone());
        for _ in 0..kill {
            first.step().unwrap();
        }
        let bytes = first.state().unwrap().to_bytes();
        let state = TrainState::from_bytes(&bytes).unwrap();
        assert_eq!(state.to_bytes(), bytes);
        let mut second =
            Trainer::resume(tiny.engine(), state, examples(), settings.clone()).unwrap();
        assert_eq!(second.steps_done(), kill as u64);
        let mut rest = Vec::new();
        while let Some(step) = second.step().unwrap() {
            rest.push(step);
        }
        assert_eq!(rest, metrics[kill..]);
        assert_eq!(second.state().unwrap().to_bytes(), last, "killed after {kill}");
    }
}

#[test]
fn a_saved_state_of_something_else_is_refused() {
    let tiny = Tiny::new(true);
    let state = trainer(&tiny, &adapter(), settings()).state().unwrap();
    let resume = |examples, settings| match Trainer::resume(
        tiny.engine(),
        state.clone(),
        examples,
        settings,
    ) {
        Ok(_) => panic!("resumed"),
        Err(error) => error.to_string(),
    };
    let other = "the saved training belongs to other examples, other settings or another model";
    let mut fewer = examples();
    fewer.pop();
    assert_eq!(resume(fewer, settings()), other);
    assert_eq!(resume(examples(), TrainSettings { seed: 1, ..settings() }), other);
    // Less memory is no other training.
    let less = TrainSettings { gradient_checkpointing: true, ..settings() };
    let resumed = Trainer::resume(tiny.engine(), state.clone(), examples(), less);
    assert_eq!(resumed.unwrap().state().unwrap().to_bytes(), state.to_bytes());

    let bytes = state.to_bytes();
    let error = TrainState::from_bytes(&bytes[..bytes.len() - 1]).unwrap_err().to_string();
    assert!(error.starts_with("the saved training cannot be read: "), "{error}");
    let error = TrainState::from_bytes(&fixture("adapter/adapter_model.safetensors"))
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("its metadata has no `aligner_train_state`"), "{error}");
    let mut newer = bytes;
    let format = newer.windows(13).position(|w| w == br#"\"format\":2,"#.as_slice());
    newer[format.unwrap() + 11] = b'7';
    let error = TrainState::from_bytes(&newer).unwrap_err();
    assert_eq!(error, StateError::Newer { format: 7 });
}

#[test]
fn a_tiny_model_learns() {
    let tiny = Tiny::new(true);
    let mut examples = examples();
    let tokens: Vec<u32> = (0..20).map(|i| 30 + i * 7 % 50).collect();
    let trained = (0..20).map(|t| t >= 6).collect();
    examples.push(Example { id: "fourth".into(), tokens, trained });
    let settings = TrainSettings {
        learning_rate: 2e-2,
        num_train_epochs: 30.0,
        per_device_train_batch_size: 2,
        warmup_ratio: 0.1,
        shuffle: true,
        ..TrainSettings::default()
    };
    let config = LoraConfig { dropout: 0.05, ..lora() };
    let start = Adapter::init(&tiny.spec, config, 17).unwrap();
    let mut trainer = Trainer::new(tiny.engine(), &start, examples, settings).unwrap();
    let mut losses = Vec::new();
    while let Some(step) = trainer.step().unwrap() {
        losses.push(step.loss);
    }
    assert_eq!(losses.len(), 60);
    let (first, last) = ((losses[0] + losses[1]) / 2.0, (losses[58] + losses[59]) / 2.0);
    println!("loss {first} -> {last}");
    assert!(last < 0.5 * first, "{first} -> {last}");
    assert!(trainer.startup.is_done());
}

#[test]
fn a_fresh_adapter_gets_gradients_in_b_first_and_moves_everywhere_by_the_second_update() {
    let tiny = Tiny::new(false);
    let start = Adapter::init(&tiny.spec, lora(), 3).unwrap();
    // With warm-up the first step has learning rate 0, and the proof waits for it.
    for (warmup_ratio, needed) in [(0.0, 2), (0.1, 3)] {
        let mut trainer = trainer(&tiny, &start, TrainSettings { warmup_ratio, ..settings() });
        let (_, gradients) = gradients(&mut trainer);
        for (name, gradient) in gradients {
            let zero = gradient.iter().all(|&g| g == 0.0);
            assert_eq!(zero, name.contains("lora_A"), "{name}");
        }
        for step in 1..=needed {
            assert!(!trainer.startup.is_done(), "{step}");
            trainer.step().unwrap();
        }
        assert!(trainer.startup.is_done());
        let moved = trainer.adapter().unwrap();
        assert!(moved.tensors().zip(start.tensors()).all(|(a, b)| a.values != b.values));
    }
}

#[test]
fn a_cut_gradient_is_noticed_in_the_first_step() {
    let check = |zeroed: &str, targets: &[Linear], expected: &str| {
        let mut tiny = Tiny::new(true);
        tiny.tensors.get_mut(zeroed).unwrap().fill(0.0);
        let config = LoraConfig::new(4, 6.0, targets);
        let start = Adapter::init(&tiny.spec, config, 3).unwrap();
        let mut trainer = trainer(&tiny, &start, settings());
        let error = trainer.step().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(
        "model.layers.0.self_attn.o_proj.weight",
        &[Linear::Q, Linear::K, Linear::V],
        "3 of 12 trainable tensors got no gradient in step 1\n  \
         the first is `model.layers.0.self_attn.q_proj.lora_B.weight` [64, 4]\n\nhint: ",
    );
    check(
        "model.norm.weight",
        &Linear::ALL,
        "14 of 28 trainable tensors got no gradient in step 1\n  \
         the first is `model.layers.0.self_attn.q_proj.lora_B.weight` [64, 4]\n\nhint: ",
    );
}

#[test]
fn a_step_too_small_to_move_anything_is_noticed() {
    let tiny = Tiny::new(true);
    let settings = TrainSettings { learning_rate: 1e-30, warmup_ratio: 0.0, ..settings() };
    let mut trainer = trainer(&tiny, &adapter(), settings);
    trainer.step().unwrap();
    let error = trainer.step().unwrap_err().to_string();
    assert!(error.contains("trainable tensors did not move in 2 updates"), "{error}");
}

#[test]
fn a_prompt_of_one_token_with_one_to_train_is_no_false_alarm() {
    let tiny = Tiny::new(true);
    let example = Example { id: "short".into(), tokens: vec![5, 6], trained: vec![false, true] };
    let start = Adapter::init(&tiny.spec, lora(), 3).unwrap();
    let settings = TrainSettings { num_train_epochs: 3.0, ..settings() };
    let mut trainer = Trainer::new(tiny.engine(), &start, vec![example], settings).unwrap();
    while trainer.step().unwrap().is_some() {}
}

#[test]
fn a_loss_that_is_no_number_names_step_and_examples() {
    let tiny = Tiny::new(true);
    let mut start = adapter();
    for pair in start.pairs.values_mut() {
        pair.b.fill(1e30);
    }
    let error = trainer(&tiny, &start, settings()).step().unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 1, steps: 10, .. }), "{error}");
    let error = error.to_string();
    assert!(error.ends_with("the examples are `example-0`, `example-1`, `example-2`"), "{error}");
}

#[test]
fn what_cannot_be_trained_is_said_at_once() {
    let tiny = Tiny::new(true);
    let check = |change: fn(&mut Vec<Example>, &mut TrainSettings), expected: &str| {
        let (mut examples, mut settings) = (examples(), settings());
        change(&mut examples, &mut settings);
        let error = match Trainer::new(tiny.engine(), &adapter(), examples, settings) {
            Ok(_) => panic!("no error, expected: {expected}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(error, expected);
    };
    check(|e, _| e.clear(), "there is no example to train on");
    check(|e, _| e[1].trained.fill(false), "example `example-1` has no token to train");
    check(
        |e, _| e[1].trained[0] = true,
        "example `example-1` trains its first token, which nothing predicts",
    );
    check(|e, _| e[0].tokens[3] = 256, "example `example-0` holds token 256, the model has 256");
    check(|e, _| e[2].trained.truncate(22), "example `example-2` has 23 tokens and 22 marks");
    check(
        |e, _| {
            e[0].tokens.resize(129, 1);
            e[0].trained.resize(129, true);
        },
        "example `example-0` has 129 tokens, the model reads 128",
    );
    check(|_, s| s.learning_rate = 0.0, "`learning_rate` is 0, expected a positive number");
    check(|_, s| s.learning_rate = f64::NAN, "`learning_rate` is NaN, expected a positive number");
    check(|_, s| s.warmup_ratio = 1.5, "`warmup_ratio` is 1.5, expected a number from 0 to 1");
    check(|_, s| s.adam_beta2 = 1.0, "`adam_beta2` is 1, expected a number from 0 to below 1");
    check(
        |_, s| s.per_device_train_batch_size = 0,
        "`per_device_train_batch_size` is 0, expected at least 1",
    );
}
