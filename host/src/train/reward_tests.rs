//! The training of reward models against torch, transformers, PEFT and TRL (`tests/fixtures/make_reward.py`),
//! and what must hold for any model.

use super::preference_tests::{close, items};
use super::tests::{
    ExpectedSettings, Tensors, Tiny, fixture, furthest, gradients, largest, lora, tensors,
};
use super::*;
use crate::generate::Settings;
use crate::model::adapter::{SCORE, Tensor};
use crate::model::backend::cpu::Cpu;
use crate::model::peft;
use crate::objective::Preference;
use crate::reward::{RewardModel, rewards};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    settings: ExpectedSettings,
    runs: Vec<ExpectedRun>,
    trl: Vec<ExpectedTrl>,
}

#[derive(Deserialize)]
struct ExpectedRun {
    center: f64,
    steps: Vec<ExpectedStep>,
}

#[derive(Deserialize)]
struct ExpectedStep {
    loss: f64,
    grad_norm: f64,
    /// Of chosen and rejected.
    rewards: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct ExpectedTrl {
    center: f64,
    loss: f64,
    accuracy: f64,
    margin: f64,
}

fn expected() -> Expected {
    serde_json::from_slice(&fixture("../reward/expected.json")).unwrap()
}

/// The reward model of the fixtures, in a folder that PEFT wrote for a sequence classifier.
pub(super) fn start() -> Adapter {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/reward/adapter");
    peft::read(Path::new(folder), &Tiny::new(true).spec).unwrap()
}

pub(super) fn data(center_rewards_coefficient: f64) -> Data {
    let objective = Preference::Reward { center_rewards_coefficient };
    Data::Preference { items: items(), objective, reference: Reference::Initial }
}

fn settings() -> TrainSettings {
    let s = expected().settings;
    TrainSettings {
        learning_rate: s.learning_rate,
        num_train_epochs: s.steps.into(),
        per_device_train_batch_size: 4,
        warmup_ratio: s.warmup_ratio,
        weight_decay: s.weight_decay,
        adam_beta1: s.adam_beta1,
        adam_beta2: s.adam_beta2,
        adam_epsilon: s.adam_epsilon,
        max_grad_norm: s.max_grad_norm,
        ..TrainSettings::default()
    }
}

fn trainer(center: f64, settings: TrainSettings) -> Trainer<Cpu> {
    Trainer::new(Tiny::new(true).engine(), &start(), data(center), settings).unwrap()
}

/// The numbers of a tensor that PEFT named.
fn of_peft<'a>(all: &'a Tensors, prefix: &str, name: &str) -> &'a [f32] {
    &all[&format!("{prefix}base_model.model.{name}")]
}

#[test]
fn ten_steps_are_those_of_torch() {
    let runs = expected().runs;
    assert_eq!(runs.len(), 2);
    for run in runs {
        let mut trainer = trainer(run.center, settings());
        let (mut worst, mut worst_norm) = (0f64, 0f64);
        for want in &run.steps {
            let got = trainer.step().unwrap().unwrap();
            let mean = |i: usize| want.rewards.iter().map(|pair| pair[i]).sum::<f64>() / 4.0;
            let right = want.rewards.iter().filter(|pair| pair[0] > pair[1]).count();
            let said = got.preference;
            for (got, want) in [
                (got.loss, want.loss),
                (said.rewards_chosen.unwrap(), mean(0)),
                (said.rewards_rejected.unwrap(), mean(1)),
                (said.rewards_margins.unwrap(), mean(0) - mean(1)),
                (said.rewards_accuracies.unwrap(), right as f64 / 4.0),
            ] {
                worst = worst.max((got - want).abs() / want.abs().max(1.0));
            }
            worst_norm = worst_norm.max((got.grad_norm / want.grad_norm - 1.0).abs());
            // Nothing is said of logprobs.
            assert_eq!((said.logps_chosen, said.logps_rejected, got.entropy), (None, None, None));
            assert_eq!((got.trained_tokens, got.tokens), (57, 99));
        }
        println!("center {}: {worst:e}, norms {worst_norm:e}", run.center);
        assert!(worst < 2e-4 && worst_norm < 2e-3, "{} {worst:e} {worst_norm:e}", run.center);
        assert_eq!(trainer.step().unwrap(), None);
        if run.center > 0.0 {
            let (got, want) = (trainer.adapter().unwrap(), tensors("../reward/reward.safetensors"));
            let distance = |of: Tensor<'_>| furthest(of.values, of_peft(&want, "final.", &of.name));
            let worst = got.tensors().map(distance).fold(0.0, f32::max);
            println!("ten steps differ by {worst:e}");
            assert!(worst < 2e-4 && got.score != start().score, "{worst:e}");
        }
    }
}

#[test]
fn every_gradient_is_that_of_torch() {
    let want = tensors("../reward/reward.safetensors");
    for backend in [Cpu::new(), Cpu::portable()] {
        let engine = Tiny::new(true).engine_on(backend);
        let center = expected().runs.last().unwrap().center;
        let mut trainer = Trainer::new(engine, &start(), data(center), settings()).unwrap();
        let (_, gradients) = gradients(&mut trainer);
        assert_eq!((gradients.len(), gradients[28].0.as_str()), (29, SCORE));
        let scale = gradients.iter().map(|(_, g)| largest(g)).fold(0.0, f32::max);
        let distance = |(name, gradient): &(String, Vec<f32>)| {
            furthest(gradient, of_peft(&want, "grad.", name)) / scale
        };
        let worst = gradients.iter().map(distance).fold(0.0, f32::max);
        println!("{backend:?}: gradients differ by {worst:e} of the largest");
        assert!(worst < 1e-5, "{worst:e}");
    }
}

#[test]
fn the_first_step_is_that_of_trl() {
    let said = expected().trl;
    assert_eq!(said.len(), 2);
    for want in said {
        let got = trainer(want.center, settings()).step().unwrap().unwrap();
        let of = got.preference;
        for (got, want) in [
            (got.loss, want.loss),
            (of.rewards_accuracies.unwrap(), want.accuracy),
            (of.rewards_margins.unwrap(), want.margin),
        ] {
            assert!(close(got, want, 2e-5), "{got} {want}");
        }
    }
}

#[test]
fn what_training_sees_is_what_the_reward_model_says() {
    let engine = Tiny::new(true).engine();
    let said = |adapter: &Adapter| {
        let loaded = engine.load_adapter(adapter, 1.0).unwrap();
        let sequences: Vec<Vec<u32>> =
            items().iter().flat_map(|item| &item.sequences).map(|s| s.tokens.clone()).collect();
        let model = RewardModel::of(&loaded).unwrap();
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        let said = rewards(&engine, &model, &sequences, &Settings::default(), &mut go_on).unwrap();
        let mean = |i: usize| said.iter().skip(i).step_by(2).sum::<f64>() / 4.0;
        [mean(0), mean(1)]
    };
    let mut trainer = trainer(0.0, settings());
    for _ in 0..5 {
        let before = said(&trainer.adapter().unwrap());
        let of = trainer.step().unwrap().unwrap().preference;
        for (got, want) in [of.rewards_chosen, of.rewards_rejected].into_iter().zip(before) {
            assert!(close(got.unwrap(), want, 1e-5), "{got:?} {want}");
        }
    }
}

#[test]
fn neither_the_cut_nor_checkpointing_changes_the_update() {
    let after = |micro_batch_tokens, gradient_checkpointing| {
        let settings = TrainSettings { micro_batch_tokens, gradient_checkpointing, ..settings() };
        let (loss, gradients) = gradients(&mut trainer(0.05, settings));
        (loss, gradients.into_iter().flat_map(|(_, g)| g).collect::<Vec<f32>>())
    };
    let (loss, whole) = after(1024, false);
    assert_eq!(after(1024, true), (loss, whole.clone()));
    for most in [1, 50, 60] {
        let (part_loss, parts) = after(most, false);
        assert!((loss - part_loss).abs() < 1e-6, "{most}");
        let distance = furthest(&whole, &parts) / largest(&whole);
        assert!(distance < 1e-5, "{most} {distance:e}");
        assert_eq!(after(most, true), (part_loss, parts));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = trainer(0.0, settings());
            while trainer.step().unwrap().is_some() {}
            trainer.adapter().unwrap().digest()
        })
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let spec = Tiny::new(true).spec;
    let start = Adapter::init(&spec, LoraConfig { dropout: 0.1, ..lora() }, 5).unwrap();
    let start = start.with_score(&spec, 5);
    let settings = TrainSettings {
        per_device_train_batch_size: 2,
        num_train_epochs: 3.0,
        shuffle: true,
        seed: 9,
        ..settings()
    };
    let new = || Trainer::new(Tiny::new(true).engine(), &start, data(0.01), settings.clone());
    let mut undisturbed = new().unwrap();
    let mut metrics = Vec::new();
    while let Some(step) = undisturbed.step().unwrap() {
        metrics.push(step);
    }
    let last = undisturbed.state().unwrap().to_bytes();
    assert_ne!(undisturbed.adapter().unwrap().score, start.score);
    for kill in [0, 1, 4, 6] {
        let mut first = new().unwrap();
        (0..kill).for_each(|_| assert!(first.step().unwrap().is_some()));
        let state = first.state().unwrap();
        let read = TrainState::from_bytes(&state.to_bytes()).unwrap();
        assert_eq!(read, state);
        let engine = Tiny::new(true).engine();
        let mut second = Trainer::resume(engine, read, data(0.01), settings.clone()).unwrap();
        let mut rest = Vec::new();
        while let Some(step) = second.step().unwrap() {
            rest.push(step);
        }
        assert_eq!(rest, metrics[kill..]);
        assert_eq!(second.state().unwrap().to_bytes(), last, "killed after {kill}");
    }
    let state = new().unwrap().state().unwrap();
    let other = Trainer::resume(Tiny::new(true).engine(), state, data(0.5), settings).err();
    assert!(matches!(other, Some(TrainError::State(StateError::OtherTask))), "{other:?}");
}

#[test]
fn a_fresh_reward_model_learns_to_tell_pairs_apart() {
    let spec = Tiny::new(true).spec;
    let start = Adapter::init(&spec, lora(), 17).unwrap().with_score(&spec, 17);
    let settings = TrainSettings {
        learning_rate: 1e-2,
        num_train_epochs: 20.0,
        per_device_train_batch_size: 2,
        shuffle: true,
        ..TrainSettings::default()
    };
    let mut trainer = Trainer::new(Tiny::new(true).engine(), &start, data(0.01), settings).unwrap();
    let mut steps = Vec::new();
    while let Some(step) = trainer.step().unwrap() {
        steps.push(step);
    }
    let last = &steps[steps.len() - 1];
    println!("loss {} -> {}", steps[0].loss, last.loss);
    assert!(last.loss < 0.1 && last.preference.rewards_accuracies == Some(1.0), "{last:?}");
    assert!(trainer.startup.is_done());
}

#[test]
fn a_policy_and_a_reward_model_are_not_trained_as_each_other() {
    let check = |adapter: &Adapter, data: Data, expected: &str| {
        let trainer = Trainer::new(Tiny::new(true).engine(), adapter, data, settings());
        assert_eq!(trainer.map(|_| ()).unwrap_err().to_string(), expected);
    };
    let policy = Adapter { score: None, ..start() };
    check(&policy, data(0.0), "the adapter has no head, and a reward model needs one");
    let dpo = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };
    let dpo = Data::Preference { items: items(), objective: dpo, reference: Reference::Initial };
    let headed = "the adapter has the head of a reward model, and a policy was to be trained";
    check(&start(), dpo, headed);
    check(&start(), super::tests::examples().into(), headed);
    check(&start(), data(-1.0), "`center_rewards_coefficient` is -1, expected 0 or more");
    let tiny = Tiny::new(true);
    let weights = Weights::load(&Cpu::new(), &tiny, &mut |_, _| {}).unwrap();
    let full = Trainer::full(Arc::new(Cpu::new()), weights, data(0.0), settings());
    assert_eq!(
        full.map(|_| ()).unwrap_err().to_string(),
        "a reward model is an adapter with a head, and every weight was to be trained"
    );
}
