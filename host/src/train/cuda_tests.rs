//! Whole models on a GPU against the processor: logits, losses, gradients and completions. Where there
//! is no card, the tests say so and pass. `ALIGNER_TEST_MODEL` names a model to try besides the tiny
//! ones.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::tests::Tiny;
use super::{
    Data, Example, Reference, StepMetrics, TrainSettings, Trainer, preference_tests, reward_tests,
};
use crate::generate::{self, Hooks, Job, Output, Sampling};
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::cuda::tests::{compare, difference, fresh, open};
use crate::model::backend::{AnyDevice, TrainingBackend, WeightType};
use crate::model::checkpoint::Checkpoint;
use crate::model::forward::Engine;
use crate::model::forward::tests::logits;
use crate::model::source;
use crate::model::spec::{Linear, Spec};
use crate::model::tiny;
use crate::model::weights::Weights;
use crate::run::seed;

fn specs() -> Vec<Spec> {
    let plain = tiny::spec(16, true);
    let windows = vec![None, Some(8)];
    vec![
        plain.clone(),
        tiny::spec(12, false),
        Spec { attention_bias: true, qk_norm: true, sliding_windows: windows, ..plain.clone() },
        Spec { kv_heads: 4, hidden: 64, intermediate: 160, ..plain },
    ]
}

fn engine<B: TrainingBackend>(
    backend: B,
    checkpoint: &dyn Checkpoint,
    weight_type: WeightType,
) -> Engine<B> {
    let weights = Weights::load_as(&backend, checkpoint, weight_type, &mut |_, _| ());
    Engine::new(backend, weights.unwrap())
}

fn tokens(spec: &Spec, name: &str, len: u64) -> Vec<u32> {
    let seed = seed::of([fresh().into(), name.into()]);
    (0..len).map(|i| (seed::bits(seed, i) % spec.vocab as u64) as u32).collect()
}

fn examples(spec: &Spec, count: u64) -> Vec<Example> {
    (0..count)
        .map(|i| {
            let tokens = tokens(spec, &format!("example {i}"), 9 + 7 * i);
            let trained = (0..tokens.len()).map(|t| t > 3).collect();
            Example { id: i.to_string(), tokens, trained }
        })
        .collect()
}

/// The same adapter with a rank of 8: what is new of `B` is 0, so that it begins with what it was.
fn of_rank_8(adapter: &Adapter) -> Adapter {
    let LoraConfig { r, alpha, .. } = adapter.config;
    let config = LoraConfig { r: 8, alpha: alpha * 8.0 / r as f64, ..adapter.config.clone() };
    let mut wider = Adapter::zeros(&Tiny::new(true).spec, config).unwrap();
    for (i, (to, from)) in wider.pairs.values_mut().zip(adapter.pairs.values()).enumerate() {
        to.a = tiny::normal(seed::of([fresh().into(), (i as u64).into()]), to.a.len(), 0.05);
        to.a[..from.a.len()].copy_from_slice(&from.a);
        for (to, from) in to.b.chunks_mut(8).zip(from.b.chunks(from.r)) {
            to[..from.len()].copy_from_slice(from);
        }
    }
    wider
}

/// Adapters with ranks that go into the products of a GPU's layers, others, and both.
fn adapters(spec: &Spec) -> Vec<(String, Adapter)> {
    let of = |r, dropout| LoraConfig { dropout, ..LoraConfig::new(r, 8.0, &Linear::ALL) };
    let some = [Linear::Q, Linear::O, Linear::Up, Linear::Down];
    let rank_pattern = vec![("layers.1.*_proj".to_owned(), 16), ("up_proj".to_owned(), 3)];
    let mixed = LoraConfig { rank_pattern, ..LoraConfig::new(8, 8.0, &some) };
    let configs = [
        ("rank 4", of(4, 0.0)),
        ("rank 4, dropout", of(4, 0.2)),
        ("rank 8", of(8, 0.0)),
        ("rank 8, dropout", of(8, 0.2)),
        ("ranks 16, 8 and 3", mixed),
    ];
    let adapter =
        |(name, config): (&str, _)| (name.to_owned(), tiny::adapter_with(spec, config, fresh()));
    configs.into_iter().map(adapter).collect()
}

/// Loss and gradients of the first step, one after the other.
fn first_step<B: TrainingBackend>(mut trainer: Trainer<B>) -> (f64, Vec<f32>) {
    let indices = trainer.learner.batches.of_step(0);
    let loss = trainer.accumulate(&indices).unwrap().loss;
    let backend = &trainer.learner.backend;
    let all = |buffer| backend.view(buffer, 0..backend.len(buffer)).unwrap().into_owned();
    (loss, trainer.learner.subject.gradients().into_iter().flat_map(all).collect())
}

#[test]
fn logits_are_those_of_the_processor() {
    for spec in specs() {
        let checkpoint = tiny::checkpoint(spec.clone(), fresh());
        let (tokens, adapter) = (tokens(&spec, "logits", 200), tiny::adapter(&spec, fresh()));
        let cpu = engine(Cpu::new(), &checkpoint, WeightType::F32);
        let beside = cpu.load_adapter(&adapter, 1.0).unwrap();
        // Some random models round more than others.
        for (weight_type, bound) in [(WeightType::F32, 1e-5), (WeightType::Bf16, 5e-2)] {
            let Some(card) = open(weight_type) else { return };
            let cuda = engine(card, &checkpoint, weight_type);
            let loaded = cuda.load_adapter(&adapter, 1.0).unwrap();
            for (cpu_adapter, adapter) in [(None, None), (Some(&beside), Some(&loaded))] {
                let found = logits(&cuda, adapter, &tokens, 1000);
                let wanted = logits(&cpu, cpu_adapter, &tokens, 1000);
                compare(&format!("logits {weight_type}"), &found, &wanted, bound);
                for chunk in [1, 7, 64] {
                    assert!(logits(&cuda, adapter, &tokens, chunk) == found, "chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn gradients_of_an_adapter_are_those_of_the_processor() {
    let mut rounded = Vec::new();
    for spec in specs() {
        let checkpoint = tiny::checkpoint(spec.clone(), fresh());
        for (name, adapter) in adapters(&spec) {
            let settings = |gradient_checkpointing| TrainSettings {
                gradient_checkpointing,
                ..TrainSettings::default()
            };
            let cpu = engine(Cpu::new(), &checkpoint, WeightType::F32);
            let cpu = Trainer::new(cpu, &adapter, examples(&spec, 8), settings(false)).unwrap();
            let (wanted_loss, wanted) = first_step(cpu);
            for weight_type in [WeightType::F32, WeightType::Bf16] {
                let run = |checkpointing| {
                    let engine = engine(open(weight_type)?, &checkpoint, weight_type);
                    let data = examples(&spec, 8);
                    let trainer = Trainer::new(engine, &adapter, data, settings(checkpointing));
                    Some(first_step(trainer.unwrap()))
                };
                let Some((loss, gradients)) = run(false) else { return };
                let what = format!("gradients {weight_type}, {name}");
                let errors = [
                    difference("loss", &[loss as f32], &[wanted_loss as f32]),
                    difference(&what, &gradients, &wanted),
                ];
                match weight_type {
                    WeightType::F32 => assert!(errors.iter().all(|&it| it <= 2e-5), "{what}"),
                    _ => rounded.push(errors),
                }
                // The same bits again, and with less kept.
                assert!(run(false).unwrap() == (loss, gradients.clone()), "{what} again");
                assert!(run(true).unwrap() == (loss, gradients), "{what} with checkpointing");
            }
        }
    }
    // Some random models round far more than others: so what is bounded is how much half of them do.
    for (which, bound) in [(0, 3e-2), (1, 1e-1)] {
        let mut errors: Vec<f64> = rounded.iter().map(|errors| errors[which]).collect();
        errors.sort_by(f64::total_cmp);
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        assert!(median <= bound && worst <= 5.0 * bound, "{errors:?}");
    }
}

#[test]
fn gradients_of_every_weight_are_those_of_the_processor() {
    /// Returns losses and norms, and all weights before and after.
    fn run<B: TrainingBackend>(backend: B, checkpoint: &dyn Checkpoint) -> [Vec<f32>; 3] {
        fn all<B: TrainingBackend>(weights: &Weights<B>, backend: &B) -> Vec<f32> {
            let names = crate::model::weights::WeightName::all(&weights.spec).into_iter();
            names.flat_map(|name| weights.values(backend, name).unwrap()).collect()
        }
        let spec = checkpoint.spec();
        let weights = Weights::load(&backend, checkpoint, &mut |_, _| ()).unwrap();
        let before = all(&weights, &backend);
        let settings = TrainSettings { num_train_epochs: 5.0, ..TrainSettings::default() };
        let trainer = Trainer::full(Arc::new(backend), weights, examples(spec, 4), settings);
        let mut trainer = trainer.unwrap();
        let mut said = Vec::new();
        while let Some(metrics) = trainer.step().unwrap() {
            said.extend([metrics.loss as f32, metrics.grad_norm as f32]);
        }
        let after = all(trainer.weights(), &*trainer.learner.backend);
        [said, before, after]
    }
    for spec in specs() {
        let checkpoint = tiny::checkpoint(spec, fresh());
        let [wanted_said, before, wanted] = run(Cpu::new(), &checkpoint);
        // With bf16 the weights are f32 all the same, and products read them rounded.
        for (weight_type, bound) in [(WeightType::F32, 1e-2), (WeightType::Bf16, 5e-1)] {
            let Some(card) = open(weight_type) else { return };
            let [said, _, values] = run(card, &checkpoint);
            compare("losses and norms of gradients", &said, &wanted_said, bound / 5.0);
            // What the steps changed, as that is little beside what was there.
            let changed = |values: &[f32]| -> Vec<f32> {
                values.iter().zip(&before).map(|(after, before)| after - before).collect()
            };
            compare("what five steps change", &changed(&values), &changed(&wanted), bound);
        }
    }
}

/// What three steps say, and what they leave.
fn three_steps<B: TrainingBackend>(
    engine: Engine<B>,
    start: &Adapter,
    data: Data,
) -> (Vec<StepMetrics>, Vec<f32>) {
    let settings = preference_tests::settings();
    let mut trainer = Trainer::new(engine, start, data, settings).unwrap();
    let said = (0..3).map(|_| trainer.step().unwrap().unwrap()).collect();
    let adapter = trainer.adapter().unwrap();
    (said, adapter.tensors().flat_map(|tensor| tensor.values.to_vec()).collect())
}

#[test]
fn every_objective_is_that_of_the_processor() {
    let objectives = preference_tests::objectives();
    assert_eq!(objectives.len(), 9);
    for (name, data) in objectives {
        as_on_the_processor(&name, &super::tests::adapter(), &data);
        if name == "dpo" {
            let adapter = of_rank_8(&super::tests::adapter());
            as_on_the_processor("dpo rank 8", &adapter, &data);
        }
    }
    for center in [0.0, 0.1] {
        let data = || reward_tests::data(center);
        as_on_the_processor(&format!("reward {center}"), &reward_tests::start(), data);
    }
}

#[test]
fn a_policy_that_is_its_own_reference_is_at_no_distance_from_it() {
    let start = super::tests::adapter();
    let (_, dpo) =
        preference_tests::objectives().into_iter().find(|(name, _)| name == "dpo").unwrap();
    for weight_type in [WeightType::F32, WeightType::Bf16] {
        let Some(card) = open(weight_type) else { return };
        let Data::Preference { items, objective, .. } = dpo() else { unreachable!() };
        let reference = Reference::Adapter(start.clone());
        let data = Data::Preference { items, objective, reference };
        let engine = engine(card, &Tiny::new(true), weight_type);
        let (said, _) = three_steps(engine, &start, data);
        let means = said[0].preference;
        for reward in [means.rewards_chosen.unwrap(), means.rewards_rejected.unwrap()] {
            assert!(reward.abs() < 1e-4, "{weight_type}: {reward:e}");
        }
    }
}

fn as_on_the_processor(name: &str, start: &Adapter, data: impl Fn() -> Data) {
    let checkpoint = Tiny::new(true);
    let cpu = engine(Cpu::new(), &checkpoint, WeightType::F32);
    let (wanted_said, wanted) = three_steps(cpu, start, data());
    for (weight_type, bound) in [(WeightType::F32, 1e-4), (WeightType::Bf16, 2e-1)] {
        let run = || {
            let engine = engine(open(weight_type)?, &checkpoint, weight_type);
            Some(three_steps(engine, start, data()))
        };
        let Some((said, values)) = run() else { return };
        let what = format!("{name} {weight_type}");
        for (step, (said, wanted)) in said.iter().zip(&wanted_said).enumerate() {
            let mut means = wanted.preference;
            // Of two rewards that are equal but for what is rounded, rounding decides which is the larger.
            let close = means.rewards_margins.is_some_and(|margin| margin.abs() < 1e-4);
            if close || weight_type != WeightType::F32 {
                means.rewards_accuracies = said.preference.rewards_accuracies;
            }
            let pairs = [(said.loss, wanted.loss), (said.grad_norm, wanted.grad_norm)];
            let means = preference_tests::numbers(&said.preference, &means);
            for (said, wanted) in pairs.into_iter().chain(means) {
                let close = preference_tests::close(said, wanted, bound);
                assert!(close, "{what}, step {step}: {said} and not {wanted}");
            }
        }
        compare(&format!("{what}: what is left"), &values, &wanted, bound);
        assert!(run().unwrap().1 == values, "{what} again");
    }
}

fn complete<B: TrainingBackend>(engine: &Engine<B>, max_batch: usize) -> Vec<Output> {
    let spec = &engine.weights.spec;
    let jobs: Vec<Job> = (0..12)
        .map(|i| {
            let prompt = [vec![7; 40], tokens(spec, &format!("prompt {i}"), 3 + i)].concat();
            let temperature = if i % 2 == 0 { 0.0 } else { 0.8 };
            let (top_p, top_k) = if i % 3 == 0 { (0.9, 20) } else { (1.0, 0) };
            let repetition_penalty = if i % 4 == 0 { 1.2 } else { 1.0 };
            let sampling =
                Sampling { temperature, top_p, top_k, repetition_penalty, max_new_tokens: 40 };
            Job { prompt, sampling, seed: seed::of([fresh().into(), i.into()]) }
        })
        .collect();
    let mut outputs = vec![None; jobs.len()];
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |index, output| {
            outputs[index] = Some(output);
            ControlFlow::Continue(())
        },
        progress: &mut |_| ControlFlow::Continue(()),
    };
    let settings = generate::Settings { max_batch, prefill_rows: 50, ..Default::default() };
    generate::generate(engine, None, &jobs, &settings, hooks).unwrap();
    outputs.into_iter().map(|output| output.expect("every job is done")).collect()
}

#[test]
fn completions_do_not_depend_on_the_batch_and_are_those_of_the_processor() {
    for spec in specs() {
        let checkpoint = tiny::checkpoint(spec, fresh());
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let Some(card) = open(weight_type) else { return };
            let gpu = engine(AnyDevice::Cuda(Arc::new(card)), &checkpoint, weight_type);
            let found = complete(&gpu, 12);
            for batch in [1, 5] {
                assert!(complete(&gpu, batch) == found, "{weight_type}, batches of {batch}");
            }
            if weight_type == WeightType::F32 {
                let wanted = complete(&engine(AnyDevice::cpu(), &checkpoint, weight_type), 12);
                let pairs = found.iter().zip(&wanted).enumerate();
                // With top-p the device draws in another order.
                let alike = pairs.filter(|(i, _)| i % 3 != 0 || i % 2 == 0);
                let same = alike.filter(|(_, (a, b))| a.tokens == b.tokens).count();
                // A draw may fall between two sums that differ in their last bits.
                assert!(same >= 9, "{same} of 10 completions are those of the processor");
            }
        }
    }
}

#[test]
fn a_model_of_the_users_is_as_on_the_processor() {
    if open(WeightType::F32).is_none() {
        return;
    }
    let Some(name) = std::env::var("ALIGNER_TEST_MODEL").ok() else {
        eprintln!("skipped, as ALIGNER_TEST_MODEL names no model");
        return;
    };
    let (_, checkpoint) = source::open(&name, &mut |_| {}).unwrap();
    let spec = checkpoint.spec().clone();
    let tokens = tokens(&spec, "logits", 600);
    let adapter = Adapter::init(&spec, LoraConfig::new(16, 16.0, &Linear::ALL), fresh()).unwrap();
    let mut adapter = adapter;
    for (i, pair) in adapter.pairs.values_mut().enumerate() {
        pair.b = tiny::normal(seed::of([fresh().into(), (i as u64).into()]), pair.b.len(), 0.02);
    }
    let examples: Vec<Example> = examples(&spec, 16);
    let settings = TrainSettings::default;
    let cpu = engine(Cpu::new(), &*checkpoint, WeightType::F32);
    let wanted = logits(&cpu, None, &tokens, 1000);
    let (wanted_loss, wanted_gradients) =
        first_step(Trainer::new(cpu, &adapter, examples.clone(), settings()).unwrap());
    for (weight_type, bounds) in [(WeightType::F32, [1e-5, 1e-4]), (WeightType::Bf16, [3e-2, 6e-2])]
    {
        let gpu = engine(open(weight_type).expect("there was one"), &*checkpoint, weight_type);
        let found = logits(&gpu, None, &tokens, 1000);
        compare(&format!("logits of {name} {weight_type}"), &found, &wanted, bounds[0]);
        assert!(logits(&gpu, None, &tokens, 100) == found, "in chunks");
        let (loss, gradients) =
            first_step(Trainer::new(gpu, &adapter, examples.clone(), settings()).unwrap());
        compare("loss", &[loss as f32], &[wanted_loss as f32], bounds[0]);
        compare("gradients", &gradients, &wanted_gradients, bounds[1]);
    }
}
