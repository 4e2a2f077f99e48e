//! Full training against transformers and torch (`tests/fixtures/make_full_training.py`), and what
//! must hold with and without gradient checkpointing.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::tests::*;
use super::*;
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{SCORE, TargetModules};
use crate::model::backend::Backend;
use crate::model::backend::cpu::{Buffer, Cpu};
use crate::model::backward::Pass;
use crate::model::backward::Sequences;
use crate::model::spec::{Rope, RopeScaling};
use crate::model::trainable::{Gradients, Trained};
use crate::model::weights::{Weight, WeightName};
use crate::objective::Preference;

fn spec(tied_embeddings: bool) -> Spec {
    Spec {
        layers: 2,
        hidden: 20,
        heads: 2,
        kv_heads: 1,
        head_dim: 10,
        intermediate: 22,
        vocab: 61,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings,
        context_length: 64,
    }
}

fn tiny(tied: bool) -> Tiny {
    Tiny { spec: spec(tied), tensors: tensors("../full-training/model.safetensors") }
}

fn weights(tiny: &Tiny, backend: Cpu) -> Weights<Cpu> {
    Weights::load(&backend, tiny, &mut |_, _| {}).unwrap()
}

#[derive(Deserialize)]
struct Expected {
    settings: ExpectedSettings,
    batch: Vec<ExpectedExample>,
    tied: ExpectedRun,
    untied: ExpectedRun,
}

#[derive(Deserialize)]
struct ExpectedRun {
    steps: Vec<ExpectedStep>,
    without_decay: Vec<String>,
}

fn expected() -> Expected {
    serde_json::from_slice(&fixture("../full-training/expected.json")).unwrap()
}

fn batch() -> Vec<Example> {
    let example = |(i, e): (usize, ExpectedExample)| Example {
        id: format!("example-{i}"),
        tokens: e.tokens,
        trained: e.trained,
    };
    expected().batch.into_iter().enumerate().map(example).collect()
}

/// The settings of the fixtures: every step takes all three examples.
fn full_settings() -> TrainSettings {
    let s = expected().settings;
    TrainSettings {
        learning_rate: s.learning_rate,
        num_train_epochs: s.steps.into(),
        per_device_train_batch_size: 3,
        warmup_ratio: s.warmup_ratio,
        weight_decay: s.weight_decay,
        adam_beta1: s.adam_beta1,
        adam_beta2: s.adam_beta2,
        adam_epsilon: s.adam_epsilon,
        max_grad_norm: s.max_grad_norm,
        ..TrainSettings::default()
    }
}

fn full_on(backend: Cpu, tied: bool, settings: TrainSettings) -> Trainer<Cpu> {
    let weights = weights(&tiny(tied), backend);
    Trainer::full(Arc::new(backend), weights, batch(), settings).unwrap()
}

fn full(tied: bool, settings: TrainSettings) -> Trainer<Cpu> {
    full_on(Cpu::new(), tied, settings)
}

/// Gradients by name, row-major.
fn unpacked(backend: Cpu, spec: &Spec, gradients: &Gradients<Cpu>) -> Tensors {
    let values = |(name, gradient): (WeightName, &Buffer)| {
        let values = match name.shape(spec)[..] {
            [outputs, inputs] => backend.unpack_buffer(gradient, outputs, inputs).unwrap(),
            _ => gradient.to_vec(),
        };
        (name.to_string(), values)
    };
    gradients.iter().map(values).collect()
}

fn gradients(trainer: &Trainer<Cpu>) -> Tensors {
    let Subject::Weights { weights, gradients } = &trainer.learner.subject else {
        panic!("an adapter")
    };
    unpacked(*trainer.learner.backend, &weights.spec, gradients)
}

fn trained(trainer: &Trainer<Cpu>) -> Tensors {
    let weights = trainer.weights();
    let values = |name: WeightName| {
        (name.to_string(), weights.values(&*trainer.learner.backend, name).unwrap())
    };
    WeightName::all(&weights.spec).into_iter().map(values).collect()
}

fn run(mut trainer: Trainer<Cpu>) -> Tensors {
    while trainer.step().unwrap().is_some() {}
    trained(&trainer)
}

#[test]
fn loss_and_every_gradient_are_those_of_torch() {
    let Expected { tied, untied, .. } = expected();
    for (is_tied, file, run) in
        [(true, "tied.safetensors", tied), (false, "untied.safetensors", untied)]
    {
        let want = tensors(&format!("../full-training/{file}"));
        for backend in [Cpu::new(), Cpu::portable()] {
            for gradient_checkpointing in [false, true] {
                let settings = TrainSettings { gradient_checkpointing, ..full_settings() };
                let mut trainer = full_on(backend, is_tied, settings);
                let loss = trainer.accumulate(&[0, 1, 2]).unwrap().loss;
                assert!((loss - run.steps[0].loss).abs() < 1e-5, "{loss}");
                let gradients = gradients(&trainer);
                assert_eq!(gradients.len(), if is_tied { 20 } else { 21 });
                let scale = gradients.values().map(|g| largest(g)).fold(0.0, f32::max);
                let mut worst = 0f32;
                for (name, gradient) in gradients {
                    let distance = furthest(&gradient, &want[&format!("grad.{name}")]) / scale;
                    assert!(distance < 1e-5, "{name} {distance:e}");
                    worst = worst.max(distance);
                }
                println!("{file} {backend:?}: gradients differ by {worst:e} of the largest");
            }
        }
    }
}

#[test]
fn a_long_warm_up_is_no_false_alarm() {
    // A norm's weights are about 1, and its first rates less than half a unit in their last place.
    let settings = TrainSettings {
        learning_rate: 1e-6,
        num_train_epochs: 200.0,
        warmup_ratio: 0.9,
        ..full_settings()
    };
    let mut trainer = full(true, settings);
    for _ in 0..10 {
        trainer.step().unwrap().unwrap();
    }
    assert!(!trainer.startup.is_done());
    while trainer.step().unwrap().is_some() {}
    assert!(trainer.startup.is_done());
}

#[test]
fn ten_steps_are_those_of_torch() {
    let Expected { tied, untied, .. } = expected();
    for (is_tied, file, run) in
        [(true, "tied.safetensors", tied), (false, "untied.safetensors", untied)]
    {
        let mut trainer = full(is_tied, full_settings());
        for want in &run.steps {
            let got = trainer.step().unwrap().unwrap();
            assert!((got.loss - want.loss).abs() < 1e-4, "{got:?} {}", want.loss);
            assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-4, "{got:?}");
            assert!((got.learning_rate - want.learning_rate).abs() < 1e-12, "{got:?}");
        }
        assert_eq!(trainer.step().unwrap(), None);
        assert!(trainer.startup.is_done());
        let want = tensors(&format!("../full-training/{file}"));
        let mut worst = 0f32;
        for (name, values) in trained(&trainer) {
            worst = worst.max(furthest(&values, &want[&format!("final.{name}")]));
        }
        println!("{file}: ten steps differ by {worst:e}");
        assert!(worst < 1e-4, "{worst:e}");
    }
}

#[test]
fn weight_decay_spares_what_the_trainer_of_transformers_spares() {
    for (tied, run) in [(true, expected().tied), (false, expected().untied)] {
        let names = WeightName::all(&spec(tied)).into_iter();
        let mut spared: Vec<String> =
            names.filter(|name| !name.decays()).map(|name| name.to_string()).collect();
        spared.sort();
        assert_eq!(spared, run.without_decay);
    }
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    for tied in [true, false] {
        let with = |gradient_checkpointing| {
            run(full(tied, TrainSettings { gradient_checkpointing, ..full_settings() }))
        };
        assert!(with(true) == with(false));
    }
    // Beside an adapter with dropout, in several micro-batches.
    let model = Tiny::new(true);
    let mut start = adapter();
    start.config.dropout = 0.3;
    let with = |gradient_checkpointing, start: &Adapter| {
        let settings =
            TrainSettings { gradient_checkpointing, micro_batch_tokens: 26, ..settings() };
        let mut trainer = Trainer::new(model.engine(), start, examples(), settings).unwrap();
        while trainer.step().unwrap().is_some() {}
        trainer.adapter().unwrap().digest()
    };
    assert_eq!(with(true, &start), with(false, &start));
    // With other ranks in each block, and no pair in one of them.
    let config = LoraConfig {
        rank_pattern: vec![("layers.1.mlp.up_proj".into(), 7)],
        target_modules: TargetModules::Regex(r".*(0.*q_proj|1.*down_proj|up_proj)".into()),
        ..lora()
    };
    let start = Adapter::init(&model.spec, config, 3).unwrap();
    assert_eq!(with(true, &start), with(false, &start));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(full(true, full_settings())))
    };
    let one = on(1);
    assert!([2, 3, 5].into_iter().all(|threads| on(threads) == one));
}

#[test]
fn the_cut_into_micro_batches_does_not_change_the_update() {
    let after = |micro_batch_tokens| {
        let mut trainer = full(false, TrainSettings { micro_batch_tokens, ..full_settings() });
        trainer.accumulate(&[0, 1, 2]).unwrap();
        gradients(&trainer)
    };
    let whole = after(1024);
    for most in [1, 26, 40] {
        for (name, part) in after(most) {
            let distance = furthest(&whole[&name], &part) / largest(&whole[&name]);
            assert!(distance < 1e-5, "{most} {name} {distance:e}");
        }
    }
}

/// Sequences share a pass without padding; what one contributes is as if it were alone.
#[test]
fn gradients_of_a_sequence_do_not_depend_on_its_neighbours() {
    let (backend, tiny) = (Cpu::new(), tiny(false));
    let weights = weights(&tiny, backend);
    let batch = batch();
    let of_first = |neighbours: &[usize]| {
        let mut sequences = Sequences::default();
        let mut slopes = Vec::new();
        for &i in [1].iter().chain(neighbours) {
            sequences.push(&batch[i].tokens, &batch[i].trained, 0);
            // Only the first has a loss.
            slopes.resize(sequences.targets.len(), if i == 1 { -0.1 } else { 0.0 });
        }
        let rows = sequences.tokens.len();
        let shape = PassShape {
            spec: &tiny.spec,
            pairs: &BTreeMap::new(),
            dropout: false,
            rows,
            gradient_checkpointing: false,
        };
        let mut activations = Activations::new(shape, &mut |room| backend.make_room(room)).unwrap();
        let mut gradients = Gradients::new(&backend, &weights).unwrap();
        let trained = Trained { adapter: None, gradients: Some(&mut gradients) };
        let activations = &mut activations;
        let mut pass = Pass { backend: &backend, weights: &weights, trained, activations };
        pass.forward(&sequences).unwrap();
        pass.backward(&sequences, &slopes).unwrap();
        unpacked(backend, &tiny.spec, &gradients)
    };
    let alone = of_first(&[]);
    assert!(alone.values().all(|gradient| largest(gradient) > 0.0));
    for neighbours in [&[0usize][..], &[2], &[2, 0]] {
        for (name, gradient) in of_first(neighbours) {
            assert!(gradient == alone[&name], "{name} beside {neighbours:?}");
        }
    }
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let settings = TrainSettings {
        per_device_train_batch_size: 2,
        num_train_epochs: 3.0,
        shuffle: true,
        seed: 9,
        ..full_settings()
    };
    let saved = |trainer: &Trainer<Cpu>| {
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        folder
    };
    let files = |folder: &tempfile::TempDir| {
        let moments = ["exp_avg.safetensors", "exp_avg_sq.safetensors"];
        let names = ["state.json", "model.safetensors"].into_iter().chain(moments);
        names.map(|name| std::fs::read(folder.path().join(name)).unwrap()).collect::<Vec<_>>()
    };
    let mut undisturbed = full(true, settings.clone());
    let mut metrics = Vec::new();
    while let Some(step) = undisturbed.step().unwrap() {
        metrics.push(step);
    }
    let last = files(&saved(&undisturbed));
    for kill in [0, 1, 2, 4, 6] {
        let mut first = full(true, settings.clone());
        for _ in 0..kill {
            first.step().unwrap();
        }
        let folder = saved(&first);
        let state = WeightsState::open(folder.path(), &spec(true)).unwrap();
        assert_eq!(state.steps_done(), kill as u64);
        let backend = Arc::new(Cpu::new());
        let mut second = Trainer::resume_full(backend, &state, batch(), settings.clone()).unwrap();
        assert!(files(&saved(&second)) == files(&folder));
        let mut rest = Vec::new();
        while let Some(step) = second.step().unwrap() {
            rest.push(step);
        }
        assert_eq!(rest, metrics[kill..]);
        assert!(files(&saved(&second)) == last, "killed after {kill}");
    }
}

/// Pairs of completions of the first tokens of the batch, to compare.
fn preferences(reference: Reference) -> Data {
    let pair = |(i, example): (usize, Example)| {
        let tokens = &example.tokens;
        Item::pair(format!("pair-{i}"), &tokens[..3], &tokens[3..8], &tokens[5..7])
    };
    let items = batch().into_iter().enumerate().map(pair).collect();
    Data::Preference { items, objective: DPO, reference }
}

const DPO: Preference = Preference::Dpo { beta: 0.3, label_smoothing: 0.1 };

/// The slope of the loss along the gradient, by differences, against the gradient's own length.
#[test]
fn gradients_of_a_preference_are_slopes_of_the_whole() {
    for is_tied in [true, false] {
        let model = tiny(is_tied);
        let engine = Engine::new(Cpu::new(), weights(&model, Cpu::new()));
        let Data::Preference { items, .. } = preferences(Reference::Initial) else { panic!() };
        let mut progress = |_| std::ops::ControlFlow::Continue(());
        let logprobs =
            reference_logprobs(&engine, None, &items, &full_settings(), &mut progress).unwrap();
        // Away from the reference, where every pair has a weight of its own.
        let shifted = logprobs.iter().enumerate().map(|(i, of)| vec![of[0] - i as f64, of[1]]);
        let reference = Reference::Logprobs(shifted.collect());
        let at = |tiny: &Tiny| {
            let backend = Arc::new(Cpu::new());
            let weights = weights(tiny, *backend);
            let data = preferences(reference.clone());
            Trainer::full(backend, weights, data, full_settings()).unwrap()
        };
        let mut start = at(&model);
        let loss = start.accumulate(&[0, 1, 2]).unwrap().loss;
        assert!((loss - std::f64::consts::LN_2).abs() > 1e-2, "{loss}");
        let gradients = gradients(&start);
        let length = |name: &str| -> f64 {
            let of = gradients.iter().filter(|(other, _)| name.is_empty() || *other == name);
            of.flat_map(|(_, g)| g).map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
        };
        let head = if is_tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        // All weights at once, and the head alone.
        for moves in ["", head] {
            let length = length(moves);
            let moved = |by: f64| {
                let mut moved = Tiny { spec: model.spec.clone(), tensors: model.tensors.clone() };
                for (name, gradient) in gradients.iter().filter(|(n, _)| n.contains(moves)) {
                    let values = moved.tensors.get_mut(name).unwrap();
                    for (value, &g) in values.iter_mut().zip(gradient) {
                        *value += (by * f64::from(g) / length) as f32;
                    }
                }
                at(&moved).accumulate(&[0, 1, 2]).unwrap().loss
            };
            let slope = (moved(3e-3) - moved(-3e-3)) / 6e-3;
            println!("tied {is_tied} `{moves}`: slope {slope}, length {length}");
            assert!((slope / length - 1.0).abs() < 3e-3, "{moves}: {slope} {length}");
        }
    }
}

#[test]
fn a_preference_moves_every_weight_and_goes_on_after_a_kill() {
    let settings = || TrainSettings {
        per_device_train_batch_size: 2,
        num_train_epochs: 3.0,
        shuffle: true,
        learning_rate: 1e-3,
        ..full_settings()
    };
    let new = || {
        let backend = Arc::new(Cpu::new());
        let weights = weights(&tiny(true), *backend);
        Trainer::full(backend, weights, preferences(Reference::Initial), settings()).unwrap()
    };
    let mut undisturbed = new();
    let mut metrics = Vec::new();
    while let Some(step) = undisturbed.step().unwrap() {
        metrics.push(step);
    }
    assert!(undisturbed.startup.is_done());
    let first = metrics[0].preference;
    assert!(
        first.rewards_margins.unwrap().abs() < 1e-5,
        "the model is its own reference: {first:?}"
    );
    assert!(metrics.last().unwrap().loss < metrics[0].loss);
    // The reference stays what it was at the start, though the weights have moved.
    for kill in [0, 1, 4] {
        let mut first = new();
        for _ in 0..kill {
            first.step().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        first.save(folder.path()).unwrap();
        let state = WeightsState::open(folder.path(), &spec(true)).unwrap();
        let resume =
            |data: Data| Trainer::resume_full(Arc::new(Cpu::new()), &state, data, settings());
        let other = resume(preferences(Reference::Adapter(adapter()))).err();
        assert!(matches!(other, Some(TrainError::State(StateError::OtherTask))), "{other:?}");
        let mut second = resume(preferences(Reference::Initial)).unwrap();
        // What is saved again can be gone on from again.
        let again = tempfile::tempdir().unwrap();
        second.save(again.path()).unwrap();
        let header = |folder: &tempfile::TempDir| {
            std::fs::read_to_string(folder.path().join("state.json")).unwrap()
        };
        assert_eq!(header(&again), header(&folder));
        let mut rest = Vec::new();
        while let Some(step) = second.step().unwrap() {
            rest.push(step);
        }
        assert_eq!(rest, metrics[kill..]);
        assert!(trained(&second) == trained(&undisturbed), "killed after {kill}");
    }
}

#[test]
fn weights_that_are_rounded_are_not_trained() {
    for weight_type in [WeightType::Bf16, WeightType::Int8] {
        let backend = Arc::new(Cpu::new());
        let weights =
            Weights::load_as(&*backend, &tiny(true), weight_type, &mut |_, _| {}).unwrap();
        let error = Trainer::full(backend, weights, batch(), full_settings()).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "the model's weights are in {weight_type}, and only weights in f32 can all be \
                 trained\n\nhint: load the model with the dtype `f32`, or train an adapter"
            )
        );
    }
}

#[test]
fn a_saved_state_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    full(true, full_settings()).save(folder.path()).unwrap();
    let open = || WeightsState::open(folder.path(), &spec(true));
    let other = TrainSettings { seed: 1, ..full_settings() };
    let error = match Trainer::resume_full(Arc::new(Cpu::new()), &open().unwrap(), batch(), other) {
        Ok(_) => panic!("resumed"),
        Err(error) => error.to_string(),
    };
    assert_eq!(
        error,
        "the saved training belongs to other examples, other settings or another model"
    );
    let untied = WeightsState::open(folder.path(), &spec(false)).err().unwrap().to_string();
    assert!(untied.contains("has no tensor `lm_head.weight` [61, 20]"), "{untied}");

    let header = folder.path().join("state.json");
    let text = std::fs::read_to_string(&header).unwrap();
    std::fs::write(&header, text.replace("\"format\":1", "\"format\":7")).unwrap();
    assert_eq!(open().err().unwrap(), StateError::Newer { format: 7 });
    std::fs::write(&header, "{}").unwrap();
    let error = open().err().unwrap().to_string();
    assert!(error.starts_with("the saved training cannot be read: "), "{error}");
}

#[test]
fn a_cut_gradient_is_noticed_in_the_first_step() {
    let check = |zeroed: &str, expected: &str| {
        let mut tiny = tiny(false);
        tiny.tensors.get_mut(zeroed).unwrap().fill(0.0);
        let weights = weights(&tiny, Cpu::new());
        let settings = full_settings();
        let mut trainer = Trainer::full(Arc::new(Cpu::new()), weights, batch(), settings).unwrap();
        let error = trainer.step().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(
        "model.layers.0.self_attn.o_proj.weight",
        "4 of 21 trainable tensors got no gradient in step 1\n  \
         the first is `model.layers.0.input_layernorm.weight` [20]\n\nhint: ",
    );
    check(
        "model.norm.weight",
        "20 of 21 trainable tensors got no gradient in step 1\n  \
         the first is `model.embed_tokens.weight` [61, 20]\n\nhint: ",
    );
}

#[test]
fn what_is_trained_can_be_taken_out() {
    let mut trainer = full(true, full_settings());
    trainer.step().unwrap();
    assert!(matches!(trainer.adapter(), Err(TrainError::NoAdapter)));
    assert!(matches!(trainer.state(), Err(TrainError::NoAdapter)));
    assert!(trainer.into_weights().is_some());

    let adapted = Trainer::new(Tiny::new(true).engine(), &adapter(), examples(), settings());
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(adapted.as_ref().unwrap().save(folder.path()), Err(TrainError::NotFull)));
    assert!(adapted.unwrap().into_weights().is_none());
}

/// What a trainer holds, buffer by buffer; what passes work in for the moment is as in `want`.
fn held(trainer: &Trainer<Cpu>, want: &TrainMemory) -> TrainMemory {
    let bytes = |numbers: usize| 4 * numbers;
    let backend = &*trainer.learner.backend;
    let weights = trainer.weights();
    let packed = |name: WeightName| match weights.get(name).unwrap() {
        Weight::Matrix(matrix) => {
            let (outputs, inputs) = backend.shape(matrix);
            backend.pack_buffer(&vec![0.0; outputs * inputs], outputs, inputs).unwrap().len()
        }
        Weight::Vector(buffer) => buffer.len(),
    };
    let rotary = weights.rotary.cos.len() + weights.rotary.sin.len();
    let adapter: usize = match &trainer.learner.subject {
        Subject::Adapter { adapter, .. } => adapter
            .parameters()
            .map(|p| match p.name.as_str() {
                // A head is used as it is.
                SCORE => p.values.len(),
                _ => p.values.len() + backend.packed_len(p.shape[0], p.shape[1]),
            })
            .sum(),
        Subject::Weights { .. } => 0,
    };
    let lens = trainer.learner.activations.lens();
    TrainMemory {
        weights: bytes(
            WeightName::all(&weights.spec).into_iter().map(packed).sum::<usize>() + rotary,
        ),
        adapter: bytes(adapter),
        gradients: bytes(trainer.learner.subject.gradients().into_iter().map(|x| x.len()).sum())
            + bytes(trainer.sums.of.iter().map(|x| x.len()).sum()),
        moments: bytes(trainer.moments.iter().flatten().map(|x| x.len()).sum()),
        activations: bytes(lens.iter().sum())
            + backend
                .attention_gradient_bytes(weights.spec.attention(0), lens[0] / weights.spec.hidden),
        logits: bytes(49 * weights.spec.vocab),
        ..*want
    }
}

#[test]
fn memory_is_what_was_predicted() {
    for gradient_checkpointing in [false, true] {
        let settings = TrainSettings { gradient_checkpointing, ..settings() };
        let trainer = full(true, TrainSettings { gradient_checkpointing, ..full_settings() });
        let spec = &trainer.weights().spec;
        let predict = TrainMemory::predict;
        let (cpu, f32) = (Cpu::new(), WeightType::F32);
        let want = predict(&cpu, spec, None, false, f32, 49, gradient_checkpointing).unwrap();
        assert_eq!(held(&trainer, &want), want);

        // Ranks by pattern, and blocks without some pairs.
        let uneven = LoraConfig {
            rank_pattern: vec![("layers.1.mlp.up_proj".into(), 7)],
            target_modules: TargetModules::Regex(r".*(0.*q_proj|1.*down_proj|up_proj)".into()),
            ..lora()
        };
        for (config, dropout) in [(lora(), 0.0), (lora(), 0.1), (uneven, 0.0)] {
            let config = LoraConfig { dropout, ..config };
            let start = Adapter::init(&Tiny::new(false).spec, config, 3).unwrap();
            let engine = Tiny::new(false).engine();
            let trainer = Trainer::new(engine, &start, examples(), settings.clone()).unwrap();
            let spec = &trainer.weights().spec;
            let lora = Some(&start.config);
            let want = predict(&cpu, spec, lora, false, f32, 49, gradient_checkpointing).unwrap();
            assert_eq!(held(&trainer, &want), want);
        }

        // A reward model has a head and forms no logits.
        let spec = Tiny::new(true).spec;
        let start = Adapter::init(&spec, lora(), 3).unwrap().with_score(&spec, 3);
        let objective = Preference::Reward { center_rewards_coefficient: 0.0 };
        let items = vec![Item::pair("pair", &[7; 9], &[8; 20], &[9; 11])];
        let data = Data::Preference { items, objective, reference: Reference::Initial };
        let engine = Tiny::new(true).engine();
        let trainer = Trainer::new(engine, &start, data, settings.clone()).unwrap();
        // The prompt goes through the model once, but for its last token.
        let rows = 49 - 8;
        let want = predict(&cpu, &spec, Some(&lora()), true, f32, rows, gradient_checkpointing);
        let want = want.unwrap();
        assert_eq!(TrainMemory { logits: 0, ..held(&trainer, &want) }, want);
    }
}

#[test]
fn gradient_checkpointing_takes_less_memory() {
    let spec = Spec { layers: 30, hidden: 576, heads: 9, kv_heads: 3, head_dim: 64, ..spec(true) };
    let spec = Spec { intermediate: 1536, vocab: 49152, ..spec };
    let of = |checkpointing| {
        let f32 = WeightType::F32;
        TrainMemory::predict(&Cpu::new(), &spec, None, false, f32, 1024, checkpointing).unwrap()
    };
    let (all, inputs) = (of(false), of(true));
    assert!(4 * inputs.activations < all.activations, "{all:?} {inputs:?}");
    assert_eq!((all.weights, all.moments), (inputs.weights, inputs.moments));
}
