//! Preference objectives in the trainer against torch, PEFT and TRL
//! (`tests/fixtures/make_preference.py`), and what must hold for any model.

use super::items::Objective;
use super::tests::{Tiny, adapter, from_peft, furthest, gradients, largest, lora, tensors};
use super::*;
use crate::model::backend::cpu::Cpu;
use crate::model::spec::Linear;
use crate::objective::Preference;
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    settings: ExpectedSettings,
    batch: Vec<ExpectedPair>,
    runs: Vec<ExpectedRun>,
    trl: Vec<ExpectedTrl>,
}

#[derive(Deserialize)]
struct ExpectedSettings {
    learning_rate: f64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    max_grad_norm: f64,
    warmup_ratio: f64,
    steps: u32,
}

#[derive(Deserialize)]
struct ExpectedPair {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    /// The prompt under good principles, and under bad ones.
    good: Vec<u32>,
    bad: Vec<u32>,
    /// The completion of the prompt as it is.
    plain: Vec<u32>,
}

#[derive(Deserialize)]
struct ExpectedRun {
    name: String,
    settings: Preference,
    reference: Option<String>,
    logprobs: Vec<Vec<f64>>,
    steps: Vec<ExpectedStep>,
}

#[derive(Deserialize)]
struct ExpectedStep {
    loss: f64,
    grad_norm: f64,
    #[serde(flatten)]
    means: Means,
}

#[derive(Deserialize)]
struct ExpectedTrl {
    loss_type: String,
    beta: f64,
    loss: f64,
    entropy: f64,
    #[serde(flatten)]
    means: Means,
}

#[derive(Deserialize)]
struct Means {
    #[serde(flatten)]
    means: PreferenceMetrics,
}

/// All numbers that both have, which are the same ones.
pub(super) fn numbers(got: &PreferenceMetrics, want: &PreferenceMetrics) -> Vec<(f64, f64)> {
    let all = |of: &PreferenceMetrics| {
        [
            of.rewards_chosen,
            of.rewards_rejected,
            of.rewards_margins,
            of.rewards_accuracies,
            of.logps_chosen,
            of.logps_rejected,
            of.logits_chosen,
            of.logits_rejected,
            of.kl,
        ]
    };
    let pair = |(got, want): (Option<f64>, Option<f64>)| {
        assert_eq!(got.is_some(), want.is_some(), "{got:?} {want:?}");
        got.zip(want)
    };
    all(got).into_iter().zip(all(want)).filter_map(pair).collect()
}

fn folder(file: &str) -> String {
    format!("../preference/{file}")
}

fn expected() -> Expected {
    serde_json::from_slice(&super::tests::fixture(&folder("expected.json"))).unwrap()
}

pub(super) fn items() -> Vec<Item> {
    let batch = expected().batch.into_iter().enumerate();
    batch.map(|(i, p)| Item::pair(format!("pair-{i}"), &p.prompt, &p.chosen, &p.rejected)).collect()
}

/// The items that an objective asks for; without pairs, chosen and rejected side by side.
fn items_of(objective: &Preference) -> Vec<Item> {
    match objective {
        Preference::Kto { .. } => {
            let mut rated = Vec::new();
            for item in items() {
                for (sequence, desirable) in item.sequences.into_iter().zip([true, false]) {
                    let id = format!("{}/{desirable}", item.id);
                    rated.push(Rated { id, sequence, desirable });
                }
            }
            unpaired(rated, 8, 128)
        }
        Preference::Sso(_) | Preference::SsoGenerator(_) => {
            let of = |(mut item, pair): (Item, ExpectedPair)| {
                let ExpectedPair { chosen, rejected, good, bad, plain, .. } = pair;
                for (prompt, completion) in
                    [(&good, &chosen), (&good, &rejected), (&bad, &plain), (&bad, &chosen)]
                {
                    item.sequences.push(Sequence::new(prompt, completion));
                }
                item.sequences.drain(..6 - objective.learnt());
                item
            };
            items().into_iter().zip(expected().batch).map(of).collect()
        }
        _ => items(),
    }
}

/// The settings of the fixtures: every step takes all items.
pub(super) fn settings() -> TrainSettings {
    let s = expected().settings;
    TrainSettings {
        learning_rate: s.learning_rate,
        num_train_epochs: s.steps.into(),
        per_device_train_batch_size: 8,
        warmup_ratio: s.warmup_ratio,
        weight_decay: s.weight_decay,
        adam_beta1: s.adam_beta1,
        adam_beta2: s.adam_beta2,
        adam_epsilon: s.adam_epsilon,
        max_grad_norm: s.max_grad_norm,
        ..TrainSettings::default()
    }
}

const DPO: Preference = Preference::Dpo { beta: 0.3, label_smoothing: 0.1 };

fn data(objective: Preference, reference: Reference) -> Data {
    Data::Preference { items: items_of(&objective), objective, reference }
}

/// Every objective of the fixtures with its name.
pub(super) fn objectives() -> Vec<(String, impl Fn() -> Data)> {
    let of = |run: ExpectedRun| {
        let ExpectedRun { name, settings, reference: of, .. } = run;
        (name, move || data(settings, reference(of.as_deref())))
    };
    expected().runs.into_iter().map(of).collect()
}

fn trainer(data: Data, settings: TrainSettings) -> Trainer<Cpu> {
    Trainer::new(Tiny::new(true).engine(), &adapter(), data, settings).unwrap()
}

fn reference(name: Option<&str>) -> Reference {
    match name {
        Some("start") => Reference::Adapter(adapter()),
        _ => Reference::Initial,
    }
}

pub(super) fn close(got: f64, want: f64, tolerance: f64) -> bool {
    (got - want).abs() <= tolerance * want.abs().max(1.0)
}

fn trained_tokens(sequences: &[Sequence]) -> usize {
    sequences.iter().map(Sequence::trained_tokens).sum()
}

#[test]
fn ten_steps_of_every_objective_are_those_of_torch() {
    let runs = expected().runs;
    assert_eq!(runs.len(), 9);
    for run in runs {
        let data = data(run.settings, reference(run.reference.as_deref()));
        let mut trainer = trainer(data, settings());
        let Objective::Preference { reference, .. } = &trainer.learner.objective else { panic!() };
        for (got, want) in reference.iter().flatten().zip(run.logprobs.iter().flatten()) {
            assert!(close(*got, *want, 1e-5), "{} {got} {want}", run.name);
        }
        let items = items_of(&run.settings);
        let trained: usize =
            items.iter().map(|i| trained_tokens(&i.sequences[..run.settings.learnt()])).sum();
        let tokens: usize = items.iter().map(|i| i.tokens(0..i.sequences.len())).sum();
        let (mut worst, mut worst_norm) = (0f64, 0f64);
        for want in &run.steps {
            let got = trainer.step().unwrap().unwrap();
            let mut want_means = want.means.means;
            // While the policy is the reference, rounding decides which reward is the larger.
            if want_means.rewards_margins.unwrap().abs() < 1e-9 {
                want_means.rewards_accuracies = got.preference.rewards_accuracies;
            }
            let means = numbers(&got.preference, &want_means);
            assert_eq!(means.len(), 8);
            for (got, want) in means.into_iter().chain([(got.loss, want.loss)]) {
                let distance = (got - want).abs() / want.abs().max(1.0);
                worst = worst.max(distance);
            }
            worst_norm = worst_norm.max((got.grad_norm / want.grad_norm - 1.0).abs());
            assert_eq!((got.trained_tokens, got.tokens), (trained, tokens));
        }
        println!("{}: loss and metrics differ by {worst:e}, norms by {worst_norm:e}", run.name);
        assert!(worst < 2e-4 && worst_norm < 2e-4, "{} {worst:e} {worst_norm:e}", run.name);
        assert_eq!(trainer.step().unwrap(), None);
        if run.name == "dpo" {
            let want = from_peft(&tensors(&folder("dpo.safetensors")), "final.");
            let got = trainer.adapter().unwrap();
            let tensors = got.tensors().zip(want.tensors());
            let worst = tensors.map(|(g, w)| furthest(g.values, w.values)).fold(0.0, f32::max);
            println!("dpo: ten steps differ by {worst:e}");
            assert!(worst < 2e-4, "{worst:e}");
        }
    }
}

#[test]
fn every_gradient_of_dpo_is_that_of_torch() {
    let want = tensors(&folder("dpo.safetensors"));
    for backend in [Cpu::new(), Cpu::portable()] {
        let engine = Tiny::new(true).engine_on(backend);
        let data = data(DPO, Reference::Initial);
        let mut trainer = Trainer::new(engine, &adapter(), data, settings()).unwrap();
        let (_, gradients) = gradients(&mut trainer);
        assert_eq!(gradients.len(), 28);
        let scale = gradients.iter().map(|(_, g)| largest(g)).fold(0.0, f32::max);
        let mut worst = 0f32;
        for (name, gradient) in gradients {
            let want = &want[&format!("grad.base_model.model.{name}")];
            let distance = furthest(&gradient, want) / scale;
            assert!(distance < 1e-5, "{name} {distance:e}");
            worst = worst.max(distance);
        }
        println!("{backend:?}: gradients differ by {worst:e} of the largest");
    }
}

#[test]
fn the_first_step_is_that_of_trl() {
    let said = expected().trl;
    assert_eq!(said.len(), 4);
    for want in said {
        let beta = want.beta;
        let objective = match want.loss_type.as_str() {
            "sigmoid" => Preference::Dpo { beta, label_smoothing: 0.0 },
            "ipo" => Preference::Ipo { beta, length_averaged: true },
            "hinge" => Preference::Hinge { beta },
            "kto" => Preference::Kto { beta, desirable_weight: 1.0, undesirable_weight: 1.0 },
            other => panic!("{other}"),
        };
        let items = match objective {
            // The chosen completions of every other prompt, the rejected ones of the rest.
            Preference::Kto { .. } => {
                let rated = items().into_iter().enumerate().map(|(i, item)| Rated {
                    sequence: item.sequences[i % 2].clone(),
                    id: item.id,
                    desirable: i % 2 == 0,
                });
                unpaired(rated.collect(), 4, 128)
            }
            _ => items(),
        };
        let data = Data::Preference { items, objective, reference: Reference::Initial };
        let got = trainer(data, settings()).step().unwrap().unwrap();
        let all = [(got.loss, want.loss), (got.entropy.unwrap(), want.entropy)].into_iter();
        for (got, want) in all.chain(numbers(&got.preference, &want.means.means)) {
            assert!(close(got, want, 2e-5), "{objective:?} {got} {want}");
        }
        let json = serde_json::to_value(&got).unwrap();
        assert_eq!(json["rewards/margins"], got.preference.rewards_margins.unwrap());
        assert_eq!(json["logps/rejected"], got.preference.logps_rejected.unwrap());
        assert_eq!(json["logits/chosen"], got.preference.logits_chosen.unwrap());
        let unpaired = matches!(objective, Preference::Kto { .. });
        assert_eq!(json.get("kl").is_some(), unpaired);
        assert_eq!(json.get("rewards/accuracies").is_some(), !unpaired);
    }
}

#[test]
fn gradients_are_slopes_of_the_whole() {
    let config = LoraConfig { dropout: 0.2, ..lora() };
    let at = |adapter: &Adapter| {
        let data = data(DPO, Reference::Initial);
        Trainer::new(Tiny::new(true).engine(), adapter, data, settings()).unwrap()
    };
    let start = Adapter { config, ..adapter() };
    let (_, gradients) = gradients(&mut at(&start));
    let length: f64 = gradients.iter().flat_map(|(_, g)| g).map(|&g| f64::from(g).powi(2)).sum();
    let moved = |by: f64| {
        let mut adapter = start.clone();
        let pairs = adapter.pairs.values_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for (values, (_, gradient)) in pairs.zip(&gradients) {
            for (value, &g) in values.iter_mut().zip(gradient) {
                *value += (by * f64::from(g) / length.sqrt()) as f32;
            }
        }
        at(&adapter).accumulate(&[0, 1, 2, 3]).unwrap().loss
    };
    let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
    let ratio = slope / length.sqrt();
    assert!((ratio - 1.0).abs() < 3e-3, "{slope} {}", length.sqrt());
}

#[test]
fn a_policy_that_is_the_reference_has_no_margin() {
    let fresh = Adapter::init(&Tiny::new(true).spec, lora(), 3).unwrap();
    for (start, reference) in
        [(fresh, Reference::Initial), (adapter(), Reference::Adapter(adapter()))]
    {
        let objective = Preference::Dpo { beta: 0.1, label_smoothing: 0.0 };
        let data = data(objective, reference);
        let mut trainer = Trainer::new(Tiny::new(true).engine(), &start, data, settings()).unwrap();
        let first = trainer.step().unwrap().unwrap();
        assert!((first.loss - std::f64::consts::LN_2).abs() < 1e-6, "{first:?}");
        assert!(first.preference.rewards_margins.unwrap().abs() < 1e-5, "{first:?}");
    }
}

/// One objective of each kind: of pairs, without pairs, of several pairs.
fn kinds() -> [Preference; 4] {
    let runs = expected().runs;
    ["dpo", "kto", "sso", "sso-generator"]
        .map(|name| runs.iter().find(|run| run.name == name).unwrap().settings)
}

#[test]
fn the_cut_into_micro_batches_does_not_change_the_update() {
    for objective in kinds() {
        let after = |micro_batch_tokens, batch, accumulate| {
            let settings = TrainSettings {
                micro_batch_tokens,
                per_device_train_batch_size: batch,
                gradient_accumulation_steps: accumulate,
                ..settings()
            };
            let mut trainer = trainer(data(objective, Reference::Initial), settings);
            let (loss, gradients) = gradients(&mut trainer);
            (loss, gradients.into_iter().flat_map(|(_, g)| g).collect::<Vec<f32>>())
        };
        let (loss, whole) = after(1024, 8, 1);
        assert_eq!(after(1024, 1, 8), (loss, whole.clone()));
        for most in [1, 50, 60] {
            let (part_loss, parts) = after(most, 2, 4);
            assert!((loss - part_loss).abs() < 1e-6, "{objective:?} {most}");
            let distance = furthest(&whole, &parts) / largest(&whole);
            assert!(distance < 1e-5, "{objective:?} {most} {distance:e}");
        }
    }
}

#[test]
fn given_reference_logprobs_are_as_good_as_computed_ones() {
    let tiny = Tiny::new(true);
    let engine = tiny.engine();
    for adapter in [None, Some(adapter())] {
        let loaded = adapter.as_ref().map(|adapter| engine.load_adapter(adapter, 1.0).unwrap());
        // Neither what fits into a pass nor what else is scored changes a bit.
        let score = |items: &[Item], micro_batch_tokens| {
            let mut progress = |_| std::ops::ControlFlow::Continue(());
            let (loaded, settings) =
                (loaded.as_ref(), TrainSettings { micro_batch_tokens, ..settings() });
            reference_logprobs(&engine, loaded, items, &settings, &mut progress).unwrap()
        };
        let logprobs = score(&items(), 512);
        assert_eq!(score(&items(), 3), logprobs);
        assert_eq!(score(&items()[2..3], 512), logprobs[2..3]);
        let end = |reference| {
            let mut trainer = trainer(data(DPO, reference), settings());
            while trainer.step().unwrap().is_some() {}
            trainer.adapter().unwrap().digest()
        };
        let computed = adapter.map_or(Reference::Initial, Reference::Adapter);
        assert_eq!(end(computed), end(Reference::Logprobs(logprobs)));
    }
}

#[test]
fn a_completion_counts_where_it_is_marked() {
    // A turn of the user in the middle of the completion counts for neither side.
    let mut items = items();
    for sequence in &mut items[0].sequences {
        sequence.trained[4] = false;
    }
    let engine = Tiny::new(true).engine();
    let score = |items: &[Item]| {
        let mut progress = |_| std::ops::ControlFlow::Continue(());
        reference_logprobs(&engine, None, items, &settings(), &mut progress).unwrap()
    };
    let logprobs = score(&items);
    assert!(logprobs[0][0] > score(&self::items())[0][0]);
    let data = Data::Preference { items, objective: DPO, reference: Reference::Initial };
    let fresh = Adapter::init(&Tiny::new(true).spec, lora(), 3).unwrap();
    let mut trainer = Trainer::new(engine, &fresh, data, settings()).unwrap();
    let metrics = trainer.step().unwrap().unwrap();
    let [chosen, rejected] =
        [metrics.preference.rewards_chosen, metrics.preference.rewards_rejected];
    assert!(chosen.unwrap().abs() + rejected.unwrap().abs() < 1e-5, "{metrics:?}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for objective in kinds() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = trainer(data(objective, Reference::Initial), settings());
                while trainer.step().unwrap().is_some() {}
                trainer.adapter().unwrap().digest()
            })
        };
        let one = on(1);
        assert!([2, 3].into_iter().all(|threads| on(threads) == one), "{objective:?}");
    }
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let tiny = Tiny::new(true);
    let start = Adapter::init(&tiny.spec, LoraConfig { dropout: 0.1, ..lora() }, 5).unwrap();
    let settings = TrainSettings {
        per_device_train_batch_size: 2,
        num_train_epochs: 3.0,
        shuffle: true,
        seed: 9,
        ..settings()
    };
    for (objective, reference) in [
        (DPO, Reference::Initial),
        (DPO, Reference::Adapter(adapter())),
        (kinds()[1], Reference::Initial),
        (kinds()[2], Reference::Initial),
    ] {
        let data = || data(objective, reference.clone());
        let new = || Trainer::new(tiny.engine(), &start, data(), settings.clone()).unwrap();
        let mut undisturbed = new();
        let mut metrics = Vec::new();
        while let Some(step) = undisturbed.step().unwrap() {
            metrics.push(step);
        }
        assert_eq!(metrics.len(), if objective.is_paired() { 6 } else { 12 });
        let last = undisturbed.state().unwrap().to_bytes();
        for kill in [0, 1, 3, 6] {
            let mut first = new();
            for _ in 0..kill {
                first.step().unwrap();
            }
            let state = TrainState::from_bytes(&first.state().unwrap().to_bytes()).unwrap();
            let mut second =
                Trainer::resume(tiny.engine(), state, data(), settings.clone()).unwrap();
            let mut rest = Vec::new();
            while let Some(step) = second.step().unwrap() {
                rest.push(step);
            }
            assert_eq!(rest, metrics[kill..]);
            assert_eq!(second.state().unwrap().to_bytes(), last, "killed after {kill}");
        }
    }
}

#[test]
fn a_state_of_another_objective_or_reference_is_refused() {
    let state = trainer(data(DPO, Reference::Initial), settings()).state().unwrap();
    let resume = |data: Data| {
        Trainer::resume(Tiny::new(true).engine(), state.clone(), data, settings()).err()
    };
    assert!(resume(data(DPO, Reference::Initial)).is_none());
    let other = [
        data(DPO, Reference::Adapter(adapter())),
        data(Preference::Dpo { beta: 0.3, label_smoothing: 0.0 }, Reference::Initial),
        data(Preference::Hinge { beta: 0.3 }, Reference::Initial),
        Data::Preference {
            items: items()[..3].to_vec(),
            objective: DPO,
            reference: Reference::Initial,
        },
    ];
    for data in other {
        let error = resume(data);
        let refused = matches!(error, Some(TrainError::State(StateError::OtherTask)));
        assert!(refused, "{error:?}");
    }
}

#[test]
fn a_tiny_model_learns_what_is_preferred() {
    let settings = TrainSettings {
        learning_rate: 1e-2,
        num_train_epochs: 20.0,
        per_device_train_batch_size: 2,
        shuffle: true,
        ..TrainSettings::default()
    };
    let tiny = Tiny::new(true);
    for objective in expected().runs.into_iter().map(|run| run.settings) {
        let start = Adapter::init(&tiny.spec, LoraConfig { dropout: 0.05, ..lora() }, 17).unwrap();
        let data = data(objective, Reference::Initial);
        let mut trainer = Trainer::new(tiny.engine(), &start, data, settings.clone()).unwrap();
        let mut steps = Vec::new();
        while let Some(step) = trainer.step().unwrap() {
            steps.push(step);
        }
        let (first, last) = (&steps[0], &steps[steps.len() - 1]);
        println!("{objective:?} loss {} -> {}", first.loss, last.loss);
        assert!(last.loss < 0.7 * first.loss, "{objective:?} {} {}", first.loss, last.loss);
        match last.preference.rewards_accuracies {
            Some(right) => assert_eq!(right, 1.0, "{objective:?}"),
            None => {
                let right = last.preference.rewards_margins.is_none_or(|margin| margin > 0.0);
                assert!(right, "{last:?}");
            }
        }
        assert!(trainer.startup.is_done());
    }
}

#[test]
fn what_cannot_be_compared_is_said_at_once() {
    type Change = fn(&mut Vec<Item>, &mut Preference, &mut Reference);
    let check = |change: Change, expected: &str| {
        let (mut items, mut objective, mut reference) = (items(), DPO, Reference::Initial);
        change(&mut items, &mut objective, &mut reference);
        let data = Data::Preference { items, objective, reference };
        match Trainer::new(Tiny::new(true).engine(), &adapter(), data, settings()) {
            Ok(_) => panic!("no error, expected: {expected}"),
            Err(error) => assert_eq!(error.to_string(), expected),
        }
    };
    check(|i, _, _| i.clear(), "there is no item to train on");
    check(
        |i, _, _| i[1].sequences[1] = i[1].sequences[0].clone(),
        "item `pair-1`: `chosen` and `rejected` are identical\n\n\
         hint: nothing can be learnt from such a pair; leave it out",
    );
    check(
        |i, _, _| i[1].sequences[0].tokens[2] ^= 1,
        "item `pair-1`: `chosen` and `rejected` follow different prompts",
    );
    check(
        |i, _, _| i[2] = Item::pair("empty", &[1, 2], &[3], &[]),
        "item `empty`: `rejected` has no completion",
    );
    check(
        |i, _, _| i[2] = Item::pair("bare", &[], &[3], &[4]),
        "item `bare`: `chosen` begins with its completion, which nothing predicts",
    );
    check(
        |i, _, _| i[0] = Item::pair("long", &[1; 9], &[2; 120], &[3]),
        "item `long`: `chosen` has 129 tokens, the model reads 128",
    );
    check(
        |i, _, _| i[0] = Item::pair("odd", &[1; 9], &[2], &[256]),
        "item `odd`: `rejected` holds token 256, the model has 256",
    );
    check(
        |i, _, _| drop(i[3].sequences.pop()),
        "item `pair-3`: it has 1 sequences, the objective compares 2",
    );
    check(
        |i, _, _| i[3].sequences[0].trained.truncate(11),
        "item `pair-3`: `chosen` has 12 tokens and 11 marks",
    );
    check(
        |_, o, _| *o = Preference::Dpo { beta: 0.0, label_smoothing: 0.0 },
        "`beta` is 0, expected a positive number",
    );
    check(
        |_, o, _| *o = Preference::Dpo { beta: 0.1, label_smoothing: 0.5 },
        "`label_smoothing` is 0.5, expected a number from 0 to below 0.5",
    );
    check(
        |_, _, r| *r = Reference::Logprobs(vec![vec![-1.0, -2.0]; 3]),
        "there are reference logprobs for 3 items, and 4 items",
    );
    check(
        |_, _, r| *r = Reference::Logprobs(vec![vec![-1.0]; 4]),
        "item `pair-0`: it has 1 reference logprobs for 2 sequences",
    );
    for (logprob, shown) in
        [(f64::NAN, "NaN"), (f64::NEG_INFINITY, "-inf"), (f64::INFINITY, "inf"), (0.5, "0.5")]
    {
        let data = data(
            DPO,
            Reference::Logprobs(vec![
                vec![-1.0, logprob],
                vec![-1.0; 2],
                vec![-1.0; 2],
                vec![-1.0; 2],
            ]),
        );
        let error = Trainer::new(Tiny::new(true).engine(), &adapter(), data, settings()).err();
        assert_eq!(
            error.unwrap().to_string(),
            format!(
                "item `pair-0`: `rejected` has the reference logprob {shown}, expected a finite \
                 number of at most 0"
            )
        );
    }
    check(
        |_, _, r| {
            let mut wild = adapter();
            wild.pairs.values_mut().for_each(|pair| pair.b.fill(1e30));
            *r = Reference::Adapter(wild);
        },
        "item `pair-0`: `chosen` has the reference logprob NaN, expected a finite number of at \
         most 0",
    );
    check(
        |_, _, r| {
            let mut other = adapter();
            other.pairs.remove(&(1, Linear::Q));
            *r = Reference::Adapter(other);
        },
        "adapter has no tensor `model.layers.1.self_attn.q_proj.lora_A.weight`, which its target \
         modules and the model ask for",
    );
}

#[test]
fn a_reference_that_is_not_needed_is_not_computed() {
    let wild = Reference::Logprobs(vec![vec![f64::NAN]]);
    let mut trainer = trainer(data(Preference::Orpo { beta: 0.1 }, wild), settings());
    assert!(trainer.step().unwrap().unwrap().loss.is_finite());
}
