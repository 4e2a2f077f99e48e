//! Every architecture against transformers and PEFT (`tests/fixtures/make_architectures.py`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::generate::{Hooks, Job, Output, Sampling, Settings, generate};
use crate::logprob::{Row, score};
use crate::model::activations::{Activations, PassShape};
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::cpu::{Cpu, Isa};
use crate::model::backend::{Backend, TrainingBackend};
use crate::model::backward::{Pass, Sequences};
use crate::model::checkpoint::Checkpoint;
use crate::model::config;
use crate::model::forward::Engine;
use crate::model::forward::tests::logits;
use crate::model::layout;
use crate::model::safetensors::{Safetensors, files};
use crate::model::spec::{Linear, RopeScaling, Spec};
use crate::model::trainable::{Gradients, TrainableAdapter, Trained as Learns};
use crate::model::weights::Weights;

const MODELS: [&str; 9] = [
    "llama-tied",
    "llama-untied",
    "llama3-scaled",
    "mistral-windowed",
    "mistral-open",
    "qwen2",
    "qwen2-windowed",
    "qwen3",
    "qwen3-untied",
];

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/architectures").join(model)
}

/// Opens a model of the fixtures.
pub(in crate::model) fn checkpoint(model: &str) -> Safetensors {
    let path = folder(model).join("config.json");
    let json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let spec = config::from_hugging_face(&path, &json).unwrap();
    Safetensors::open(spec, &files(&folder(model)).unwrap()).unwrap()
}

/// Loads a checkpoint.
pub(in crate::model) fn engine(backend: Cpu, checkpoint: &dyn Checkpoint) -> Engine<Cpu> {
    let weights = Weights::load(&backend, checkpoint, &mut |_, _| ()).unwrap();
    Engine::new(backend, weights)
}

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Prompt>,
    #[serde(default)]
    batch: Vec<Trained>,
    value: Option<f64>,
    value_with_adapter: Option<f64>,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
    greedy: Vec<u32>,
}

#[derive(Deserialize)]
struct Trained {
    tokens: Vec<u32>,
    trained: Vec<bool>,
}

fn expected(model: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(folder(model).join("expected.json")).unwrap()).unwrap()
}

fn tensors(model: &str, file: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(folder(model).join(file)).unwrap();
    let numbers = |view: safetensors::tensor::TensorView| -> Vec<f32> {
        let words = view.data();
        match view.dtype() {
            safetensors::Dtype::F32 => {
                words.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
            }
            safetensors::Dtype::BF16 => words
                .as_chunks()
                .0
                .iter()
                .map(|&word| half::bf16::from_le_bytes(word).to_f32())
                .collect(),
            other => panic!("{other:?}"),
        }
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), numbers(view))).collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn largest(a: &[f32]) -> f32 {
    a.iter().fold(0.0, |most, x| most.max(x.abs()))
}

#[test]
fn features_are_read() {
    let spec = |model| checkpoint(model).spec().clone();
    assert!(matches!(spec("llama3-scaled").rope.scaling, RopeScaling::Llama3 { .. }));
    assert_eq!(spec("mistral-windowed").sliding_windows, [Some(8), Some(8)]);
    assert_eq!(spec("qwen2-windowed").sliding_windows, [None, Some(8)]);
    for model in MODELS {
        let Spec { attention_bias, qk_norm, sliding_windows, .. } = spec(model);
        assert_eq!(attention_bias, model.starts_with("qwen2"), "{model}");
        assert_eq!(qk_norm, model.starts_with("qwen3"), "{model}");
        assert_eq!(sliding_windows.is_empty(), !model.ends_with("-windowed"), "{model}");
    }
    assert_eq!((spec("qwen3").head_dim, spec("qwen3").hidden), (12, 16));
}

#[test]
fn logits_are_those_of_transformers() {
    for model in MODELS {
        let want = &tensors(model, "logits.safetensors")["logits"];
        let tokens = expected(model).prompts.pop().unwrap().tokens;
        for backend in [Cpu::new(), Cpu::portable()] {
            let engine = engine(backend, &checkpoint(model));
            let got = logits(&engine, None, &tokens, 512);
            let worst = furthest(&got, want);
            println!("{model} {:?}: logits differ by {worst:e}", backend.isa());
            assert!(worst < 1e-4, "{model} {worst:e}");
            for chunk in [1, 7, 16] {
                assert!(logits(&engine, None, &tokens, chunk) == got, "{model} in chunks");
            }
        }
    }
}

#[test]
fn logprobs_are_those_of_transformers() {
    for model in MODELS {
        let engine = engine(Cpu::new(), &checkpoint(model));
        let prompts = expected(model).prompts;
        let rows: Vec<Row> =
            prompts.iter().map(|p| Row { tokens: p.tokens.clone(), from: 1 }).collect();
        for settings in [settings(8, 512), settings(2, 7)] {
            let scores = score(&engine, None, &rows, &settings, &mut |_| ControlFlow::Continue(()));
            for (score, prompt) in scores.unwrap().iter().zip(&prompts) {
                assert_eq!(score.token_logprobs.len(), prompt.tokens.len() - 1);
                for (&got, want) in score.token_logprobs.iter().zip(&prompt.logprobs) {
                    assert!((f64::from(got) - want).abs() < 1e-4, "{model}: {got} {want}");
                }
            }
        }
    }
}

fn settings(max_batch: usize, prefill_rows: usize) -> Settings {
    Settings { max_batch, prefill_rows, ..Settings::default() }
}

fn complete(engine: &Engine<Cpu>, jobs: &[Job], settings: &Settings) -> Vec<Output> {
    let mut outputs = vec![None; jobs.len()];
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |index, output| {
            outputs[index] = Some(output);
            ControlFlow::Continue(())
        },
        progress: &mut |_| ControlFlow::Continue(()),
    };
    generate(engine, None, jobs, settings, hooks).unwrap();
    outputs.into_iter().map(Option::unwrap).collect()
}

#[test]
fn greedy_tokens_are_those_of_transformers_however_they_are_made() {
    for model in MODELS {
        let engine = engine(Cpu::new(), &checkpoint(model));
        let vocab = engine.weights.spec.vocab;
        let prompts = expected(model).prompts;
        let jobs: Vec<Job> = prompts
            .iter()
            .map(|prompt| Job {
                prompt: prompt.tokens.clone(),
                sampling: Sampling {
                    temperature: 0.0,
                    top_p: 1.0,
                    top_k: 0,
                    repetition_penalty: 1.0,
                    max_new_tokens: prompt.greedy.len(),
                },
                seed: 0,
            })
            .collect();
        // Mixed lengths in one batch, with shared prefixes, longer than the window of 8.
        let together = complete(&engine, &jobs, &settings(8, 512));
        for (output, prompt) in together.iter().zip(&prompts) {
            assert_eq!(output.tokens, prompt.greedy, "{model}");
            // Without a cache.
            let mut tokens = prompt.tokens.clone();
            for &next in &prompt.greedy {
                let logits = logits(&engine, None, &tokens, 512);
                let last = &logits[logits.len() - vocab..];
                let best = (0..vocab).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
                assert_eq!(best, next as usize, "{model}");
                tokens.push(next);
            }
        }
        for (max_batch, rows) in [(1, 512), (3, 7), (8, 1)] {
            let again = complete(&engine, &jobs, &settings(max_batch, rows));
            assert_eq!(again, together, "{model}: {max_batch} {rows}");
        }
    }
}

#[test]
fn gradients_are_those_of_torch() {
    for model in ["mistral-windowed", "qwen2", "qwen3"] {
        let (checkpoint, expected) = (checkpoint(model), expected(model));
        let config = LoraConfig::new(2, 3.0, &Linear::ALL);
        let spec = checkpoint.spec();
        let given = tensors(model, "adapter.safetensors");
        let want = tensors(model, "gradients.safetensors");
        let mut start = Adapter::zeros(spec, config.clone()).unwrap();
        for (&(layer, linear), pair) in &mut start.pairs {
            let take = |letter| {
                let module = format!("base_model.model.model.layers.{layer}.{}", linear.path());
                given[&format!("{module}.lora_{letter}.weight")].clone()
            };
            (pair.a, pair.b) = (take('A'), take('B'));
        }
        let mut sequences = Sequences::default();
        for example in &expected.batch {
            sequences.push(&example.tokens, &example.trained, 0);
        }
        for backend in [Cpu::new(), Cpu::portable()] {
            let engine = engine(backend, &checkpoint);
            let run = |start: &Adapter| {
                let mut adapter = TrainableAdapter::new(&backend, spec, start).unwrap();
                let rows = sequences.tokens.len();
                let shape = PassShape {
                    spec,
                    pairs: &adapter.pairs(),
                    dropout: false,
                    rows,
                    gradient_checkpointing: false,
                };
                let mut activations =
                    Activations::new(shape, &mut |room| backend.make_room(room)).unwrap();
                let mut pass = Pass {
                    backend: &backend,
                    weights: &engine.weights,
                    trained: Learns { adapter: Some(&mut adapter), gradients: None },
                    activations: &mut activations,
                };
                pass.forward(&sequences).unwrap();
                let ones = vec![1.0; sequences.rows.len()];
                let logprobs = pass.backward(&sequences, &ones).unwrap();
                (logprobs.iter().map(|token| f64::from(token.logprob)).sum::<f64>(), adapter)
            };
            let (value, _) = run(&Adapter::zeros(spec, config.clone()).unwrap());
            assert!((value / expected.value.unwrap() - 1.0).abs() < 1e-5, "{model}: {value}");
            let (value, adapter) = run(&start);
            let wanted = expected.value_with_adapter.unwrap();
            assert!((value / wanted - 1.0).abs() < 1e-5, "{model}: {value} {wanted}");
            let (mut worst, mut count) = (0f32, 0);
            for parameter in adapter.parameters() {
                let want = &want[&format!("grad.base_model.model.{}", parameter.name)];
                let distance = furthest(&parameter.gradient, want) / largest(want);
                assert!(distance < 5e-5, "{model} {}: {distance:e}", parameter.name);
                (worst, count) = (worst.max(distance), count + 1);
            }
            assert_eq!(count, 28);
            println!("{model} {:?}: gradients differ by {worst:e} of the largest", backend.isa());
        }
    }
}

#[test]
fn gradients_of_every_weight_are_those_of_torch() {
    for model in ["mistral-windowed", "qwen2", "qwen3"] {
        let (checkpoint, expected) = (checkpoint(model), expected(model));
        let spec = checkpoint.spec();
        let want = tensors(model, "gradients.safetensors");
        let mut sequences = Sequences::default();
        for example in &expected.batch {
            sequences.push(&example.tokens, &example.trained, 0);
        }
        let run = |backend: Cpu, gradient_checkpointing| {
            let weights = Weights::load(&backend, &checkpoint, &mut |_, _| ()).unwrap();
            let mut gradients = Gradients::new(&backend, &weights).unwrap();
            let (pairs, rows) = (&BTreeMap::new(), sequences.tokens.len());
            let shape = PassShape { spec, pairs, dropout: false, rows, gradient_checkpointing };
            let mut activations =
                Activations::new(shape, &mut |room| backend.make_room(room)).unwrap();
            let trained = Learns { adapter: None, gradients: Some(&mut gradients) };
            let activations = &mut activations;
            let mut pass = Pass { backend: &backend, weights: &weights, trained, activations };
            pass.forward(&sequences).unwrap();
            let ones = vec![1.0; sequences.rows.len()];
            let logprobs = pass.backward(&sequences, &ones).unwrap();
            let value: f64 = logprobs.iter().map(|token| f64::from(token.logprob)).sum();
            let wanted = expected.value.unwrap();
            assert!((value / wanted - 1.0).abs() < 1e-5, "{model}: {value} {wanted}");
            let values = gradients.iter().map(|(name, gradient)| {
                let values = match name.shape(spec)[..] {
                    [outputs, inputs] => backend.unpack_buffer(gradient, outputs, inputs).unwrap(),
                    _ => gradient.to_vec(),
                };
                (name.to_string(), values)
            });
            values.collect::<BTreeMap<String, Vec<f32>>>()
        };
        for isa in Isa::all() {
            let gradients = run(Cpu::from(isa), false);
            assert!(run(Cpu::from(isa), true) == gradients, "{model} {isa:?}");
            assert_eq!(gradients.len(), layout::tensors(spec).len());
            let mut worst = 0f32;
            for (name, gradient) in &gradients {
                let want = &want[&format!("grad.full.{name}")];
                let distance = furthest(gradient, want) / largest(want);
                assert!(distance < 5e-5, "{model} {name}: {distance:e}");
                worst = worst.max(distance);
            }
            println!("{model} {isa:?}: gradients differ by {worst:e} of the largest");
        }
    }
}

fn read(model: &str, changes: Value) -> Result<Spec, String> {
    let text = std::fs::read(folder(model).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        // `absent` takes a field away.
        match value.as_str() {
            Some("absent") => drop(config.as_object_mut().unwrap().remove(name)),
            _ => config[name] = value.clone(),
        }
    }
    let path = Path::new("config.json");
    config::from_hugging_face(path, &config).map_err(|error| error.to_string())
}

#[test]
fn which_blocks_have_a_window() {
    let check = |model: &str, changes: Value, expected: &[Option<usize>]| {
        assert_eq!(read(model, changes.clone()).unwrap().sliding_windows, expected, "{changes}");
    };
    check("mistral-windowed", json!({"sliding_window": 1}), &[Some(1), Some(1)]);
    // As long as the context, or longer, it hides nothing.
    check("mistral-windowed", json!({"sliding_window": 128}), &[]);
    check("mistral-windowed", json!({"sliding_window": null}), &[]);
    let long = json!({"sliding_window": "absent", "max_position_embeddings": 32768});
    check("mistral-windowed", long, &[Some(4096), Some(4096)]);
    // A Llama has none whatever its file says.
    check("llama-tied", json!({"sliding_window": 8}), &[]);
    for model in ["qwen2-windowed", "qwen3"] {
        let on = |types: Value| {
            json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1,
                "layer_types": types})
        };
        check(model, on(json!("absent")), &[None, Some(8)]);
        check(model, on(json!(null)), &[None, Some(8)]);
        check(model, on(json!(["sliding_attention", "full_attention"])), &[Some(8), None]);
        check(model, on(json!(["full_attention", "full_attention"])), &[]);
        let all = json!({"use_sliding_window": true, "sliding_window": 8, "layer_types": null,
            "max_window_layers": 0});
        check(model, all, &[Some(8), Some(8)]);
        let off = json!({"use_sliding_window": "absent", "sliding_window": 8, "layer_types": null});
        check(model, off, &[]);
    }
    assert_eq!(read("qwen3", json!({"head_dim": "absent"})).unwrap().head_dim, 128);
}

#[test]
fn what_is_not_supported_is_named() {
    let check = |model: &str, changes: Value, expected: &str| {
        assert_eq!(read(model, changes).unwrap_err(), format!("`config.json` {expected}"));
    };
    let no = |what: &str| format!("asks for {what}, which is not supported");
    for model in ["llama-tied", "mistral-open", "qwen3"] {
        check(model, json!({"attention_bias": true}), &no("`attention_bias = true`"));
    }
    check(
        "qwen2",
        json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}),
        &no("the rope scaling `yarn`"),
    );
    check(
        "qwen3",
        json!({"architectures": ["Qwen3MoeForCausalLM"]}),
        &no("the architecture `Qwen3MoeForCausalLM`"),
    );
    check(
        "qwen2-windowed",
        json!({"layer_types": ["full_attention", "chunked_attention"]}),
        &no("`chunked_attention` in `layer_types`"),
    );
    check(
        "qwen2-windowed",
        json!({"layer_types": ["full_attention"]}),
        "has 1 `layer_types` for 2 blocks",
    );
    check(
        "qwen2-windowed",
        json!({"use_sliding_window": false}),
        "has `sliding_attention` in `layer_types`, and no `sliding_window` in use",
    );
    check(
        "qwen2-windowed",
        json!({"layer_types": [1, 2]}),
        "has `layer_types` = [1,2], expected a list of names",
    );
    check(
        "mistral-windowed",
        json!({"sliding_window": 0}),
        "has `sliding_window` = 0, expected a positive whole number",
    );
    check(
        "qwen2-windowed",
        json!({"max_window_layers": -1, "layer_types": null}),
        "has `max_window_layers` = -1, expected a whole number from 0",
    );
}
