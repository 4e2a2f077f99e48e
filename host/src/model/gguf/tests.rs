//! A GGUF file made of the tiny model must be the tiny model.

use std::io::Cursor;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use serde_json::Value as Json;

use super::*;
use crate::model::architecture::tests as architectures;
use crate::model::backend::cpu::Cpu;
use crate::model::forward::tests::logits;
use crate::model::spec::{Rope, RopeScaling};
use crate::model::tokenizer::optional_json;
use crate::model::{export, source};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// What goes into a file.
pub struct Parts {
    settings: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
}

impl Parts {
    /// The tiny model, its matrices in the given type.
    pub fn tiny(dtype: GgmlDType) -> Parts {
        let folder = fixtures().join("tiny-llama");
        let (model, checkpoint) = source::open(folder.to_str().unwrap(), &mut |_| ()).unwrap();
        let spec = &model.spec;
        let mut settings = vec![
            ("general.architecture", Value::String("llama".into())),
            ("llama.block_count", Value::U32(spec.layers as u32)),
            ("llama.context_length", Value::U32(spec.context_length as u32)),
            ("llama.embedding_length", Value::U32(spec.hidden as u32)),
            ("llama.feed_forward_length", Value::U32(spec.intermediate as u32)),
            ("llama.attention.head_count", Value::U32(spec.heads as u32)),
            ("llama.attention.head_count_kv", Value::U32(spec.kv_heads as u32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(spec.rms_norm_eps)),
            ("llama.rope.freq_base", Value::F32(spec.rope.theta as f32)),
            ("llama.rope.dimension_count", Value::U32(spec.head_dim as u32)),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("smollm".into())),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
            ("tokenizer.ggml.scores", Value::Array(vec![Value::F32(0.5); 3])),
        ];
        let json = optional_json(&folder.join("tokenizer.json")).unwrap().unwrap();
        let texts = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
        let mut vocab: Vec<(u64, String)> = json["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
            .collect();
        vocab.sort();
        let kinds = vocab.iter().map(|(id, _)| Value::I32(if *id < 3 { 3 } else { 1 })).collect();
        let merges = json["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
            .collect();
        let template = model.template.as_ref().unwrap().source().to_owned();
        settings.extend([
            ("tokenizer.ggml.tokens", texts(vocab.into_iter().map(|(_, token)| token).collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds)),
            ("tokenizer.ggml.merges", texts(merges)),
            ("tokenizer.chat_template", Value::String(template)),
        ]);
        let tensors = layout::tensors(spec)
            .into_iter()
            .map(|(name, shape)| {
                let mut data = checkpoint.tensor(&name, &shape).unwrap();
                if name.contains("q_proj") || name.contains("k_proj") {
                    data = interleave(&data, shape[1], spec.head_dim);
                }
                let tensor = Tensor::from_vec(data, &shape[..], &Device::Cpu).unwrap();
                let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
                (gguf_name(&name), QTensor::quantize(&tensor, dtype).unwrap())
            })
            .collect();
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Parts { settings, tensors }
    }

    pub fn set(mut self, name: &str, value: Option<Value>) -> Parts {
        self.settings.retain(|(other, _)| other != name);
        self.settings.extend(value.map(|value| (name.to_owned(), value)));
        self
    }

    fn add(mut self, name: &str, data: Vec<f32>) -> Parts {
        let length = data.len();
        let tensor = Tensor::from_vec(data, length, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        self.tensors.push((name.to_owned(), tensor));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        let settings: Vec<_> = self.settings.iter().map(|(name, v)| (name.as_str(), v)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        gguf_file::write(&mut out, &settings, &tensors).unwrap();
        out.into_inner()
    }
}

impl Parts {
    /// A model of the architectures' fixtures in f32 under the name that GGUF files give to its
    /// architecture; without a tokenizer.
    fn of(checkpoint: &dyn Checkpoint, name: &str) -> Parts {
        let spec = checkpoint.spec();
        let size = |size: usize| Value::U32(size as u32);
        let mut settings = vec![
            ("block_count", size(spec.layers)),
            ("context_length", size(spec.context_length)),
            ("embedding_length", size(spec.hidden)),
            ("feed_forward_length", size(spec.intermediate)),
            ("attention.head_count", size(spec.heads)),
            ("attention.head_count_kv", size(spec.kv_heads)),
            ("attention.key_length", size(spec.head_dim)),
            ("attention.value_length", size(spec.head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F32(spec.rms_norm_eps)),
            ("rope.freq_base", Value::F32(spec.rope.theta as f32)),
        ];
        if let Some(Some(window)) = spec.sliding_windows.first() {
            settings.push(("attention.sliding_window", size(*window)));
        }
        let mut settings: Vec<_> =
            settings.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect();
        settings.push(("general.architecture".to_owned(), Value::String(name.to_owned())));
        let tensors = layout::tensors(spec)
            .into_iter()
            .map(|(tensor, shape)| {
                let mut data = checkpoint.tensor(&tensor, &shape).unwrap();
                // The converter permutes these rows for `llama` only.
                if name == "llama" && (tensor.contains("q_proj") || tensor.contains("k_proj")) {
                    data = interleave(&data, shape[1], spec.head_dim);
                }
                let data = Tensor::from_vec(data, &shape[..], &Device::Cpu).unwrap();
                (gguf_name(&tensor), QTensor::quantize(&data, GgmlDType::F32).unwrap())
            })
            .collect();
        Parts { settings, tensors }
    }
}

/// Writes a file that need not hold a tokenizer and opens it.
fn open_weights(parts: &Parts) -> Result<Gguf, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, parts.bytes()).unwrap();
    let shown = path.display().to_string();
    Gguf::open(&path).map_err(|error| error.to_string().replace(&shown, "m.gguf"))
}

#[test]
fn every_architecture_is_the_one_of_its_folder() {
    for (model, name) in [
        ("llama-untied", "llama"),
        ("mistral-windowed", "llama"),
        ("mistral-open", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
        ("qwen3-untied", "qwen3"),
    ] {
        let original = architectures::checkpoint(model);
        let parts = Parts::of(&original, name);
        let file = open_weights(&parts).unwrap();
        assert_eq!(file.spec(), original.spec(), "{model}");
        let tokens: Vec<u32> = (0..30).map(|i| i * 11 % 64).collect();
        let [theirs, ours] = [&original as &dyn Checkpoint, &file].map(|checkpoint| {
            logits(&architectures::engine(Cpu::new(), checkpoint), None, &tokens, 512)
        });
        assert!(theirs == ours, "{model}");
        if model == "qwen2" {
            let missing = |name: &str| {
                let mut parts = Parts::of(&original, "qwen2");
                parts.tensors.retain(|(other, _)| other != name);
                open_weights(&parts).err().unwrap()
            };
            assert_eq!(
                missing("blk.1.attn_k.bias"),
                "`m.gguf` has no tensor `model.layers.1.self_attn.k_proj.bias` [8]"
            );
            let window = Some(Value::U32(8));
            assert_eq!(
                open_weights(&parts.set("qwen2.attention.sliding_window", window)).err().unwrap(),
                "`m.gguf` asks for `qwen2.attention.sliding_window` = 8, which is not supported"
            );
        } else if model == "qwen3" {
            let mut parts = parts;
            parts.tensors.retain(|(name, _)| name != "blk.0.attn_q_norm.weight");
            let wide = parts.add("blk.0.attn_q_norm.weight", vec![1.0; 16]);
            assert_eq!(
                open_weights(&wide).err().unwrap(),
                "`m.gguf` holds `model.layers.0.self_attn.q_norm.weight` with shape [16], and the \
                 configuration asks for [12]"
            );
        }
    }
}

/// As the converter of llama.cpp does: the two dimensions of a rotated pair side by side.
fn interleave(data: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for head in data.chunks(head_dim * width) {
        for pair in 0..head_dim / 2 {
            for from in [pair, pair + head_dim / 2] {
                rows.extend_from_slice(&head[from * width..(from + 1) * width]);
            }
        }
    }
    rows
}

fn gguf_name(name: &str) -> String {
    name.replace("model.embed_tokens", "token_embd")
        .replace("lm_head", "output")
        .replace("model.norm", "output_norm")
        .replace("model.layers.", "blk.")
        .replace("input_layernorm", "attn_norm")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("self_attn.o_proj", "attn_output")
        .replace("self_attn.", "attn_")
        .replace("mlp.", "ffn_")
        .replace("_proj", "")
}

/// Writes a file and opens it.
pub fn open(bytes: &[u8]) -> Result<(crate::model::text::Model, Box<dyn Checkpoint>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let shown = path.display().to_string();
    source::open(&shown, &mut |_| ()).map_err(|error| error.to_string().replace(&shown, "m.gguf"))
}

#[test]
fn the_same_model_in_every_type() {
    let folder = fixtures().join("tiny-llama");
    let (model, checkpoint) = source::open(folder.to_str().unwrap(), &mut |_| ()).unwrap();
    for (dtype, bound) in [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 0.001),
        (GgmlDType::BF16, 0.005),
        (GgmlDType::Q8_0, 0.005),
        (GgmlDType::Q4_1, 0.07),
        (GgmlDType::Q4_0, 0.13),
    ] {
        let (ours, file) = open(&Parts::tiny(dtype).bytes()).unwrap();
        assert_eq!(ours.spec, model.spec);
        for (name, shape) in layout::tensors(&model.spec) {
            let expected = checkpoint.tensor(&name, &shape).unwrap();
            let found = file.tensor(&name, &shape).unwrap();
            let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() <= bound * largest, "{dtype:?} {name}: {a} {b}");
            }
        }
    }
}

#[test]
fn blocks_of_256() {
    let data: Vec<f32> = (0..512).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    for dtype in [GgmlDType::Q4K, GgmlDType::Q6K] {
        let tensor = Tensor::from_vec(data.clone(), (2, 256), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, dtype).unwrap();
        let bytes = tensor.data().unwrap().into_owned();
        let info = Info { shape: vec![2, 256], dtype, bytes: 0..bytes.len() };
        let found = numbers(&info, &bytes).unwrap();
        for (a, b) in data.iter().zip(&found) {
            assert!((a - b).abs() < 0.08, "{dtype:?}: {a} {b}");
        }
    }
}

#[test]
fn the_same_tokens_and_template() {
    let folder = fixtures().join("tiny-llama");
    let (model, _) = source::open(folder.to_str().unwrap(), &mut |_| ()).unwrap();
    let (ours, _) = open(&Parts::tiny(GgmlDType::F32).bytes()).unwrap();
    let file = std::fs::read(fixtures().join("tiny-llama-tokens.json")).unwrap();
    let cases: Vec<Json> = serde_json::from_slice(&file).unwrap();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        assert_eq!(ours.tokenizer.encode(text).unwrap(), ids("ids"), "{text:?}");
        assert_eq!(ours.tokenizer.encode_plain(text).unwrap(), ids("plain"), "{text:?}");
        assert_eq!(ours.tokenizer.decode(&ids("plain")).unwrap(), text);
    }
    assert_eq!(cases.len(), 14);
    assert_eq!(ours.template.unwrap().source(), model.template.unwrap().source());
    assert_eq!(ours.tokenizer.stop_tokens(), [2]);
    assert_eq!((ours.tokenizer.bos(), ours.tokenizer.adds_bos()), (Some(1), false));
}

#[test]
fn what_a_file_holds_is_written_as_a_folder() {
    let add_bos = |parts: Parts| parts.set("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)));
    for (parts, adds_bos) in
        [(Parts::tiny(GgmlDType::Q8_0), false), (add_bos(Parts::tiny(GgmlDType::Q8_0)), true)]
    {
        let (model, weights) = open(&parts.bytes()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = export::Settings::default();
        let mut go_on = |_, _| std::ops::ControlFlow::Continue(());
        let mut to = folder.path().to_owned();
        export::write(&mut to, &model, &*weights, &settings, &mut go_on).unwrap();
        let (back, copy) = source::open(folder.path().to_str().unwrap(), &mut |_| ()).unwrap();
        assert_eq!(back.spec, model.spec);
        for (name, shape) in layout::tensors(&model.spec) {
            let same =
                copy.tensor(&name, &shape).unwrap() == weights.tensor(&name, &shape).unwrap();
            assert!(same, "{name}");
        }
        assert_eq!(
            back.template.as_ref().unwrap().source(),
            model.template.as_ref().unwrap().source()
        );
        assert_eq!(back.tokenizer.stop_tokens(), model.tokenizer.stop_tokens());
        assert_eq!(back.tokenizer.named_tokens(), model.tokenizer.named_tokens());
        assert_eq!((back.tokenizer.bos(), back.tokenizer.adds_bos()), (Some(1), adds_bos));
        let file = std::fs::read(fixtures().join("tiny-llama-tokens.json")).unwrap();
        let cases: Vec<Json> = serde_json::from_slice(&file).unwrap();
        // As other tools read it, with what the file itself says about the first token.
        let json = folder.path().join("tokenizer.json");
        let theirs = tokenizers::Tokenizer::from_file(json).unwrap();
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            let mut ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(back.tokenizer.encode(text).unwrap(), ids, "{text:?}");
            if adds_bos {
                ids.insert(0, 1);
            }
            assert_eq!(theirs.encode(text, true).unwrap().get_ids(), ids, "{text:?}");
        }
    }
}

#[test]
fn settings_of_llama_3() {
    let parts = || Parts::tiny(GgmlDType::F32);
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = Rope { theta: 10000.0, scaling: RopeScaling::None };
    let scaled = Rope { theta: 10000.0, scaling: scaling.clone() };
    // With frequencies as high as these only the ramp's first half is met, so stretch them.
    let theta = 5e8;
    let [plain, scaled] = [plain, scaled].map(|rope| Rope { theta, ..rope }.frequencies(8));
    let divisors: Vec<f32> = plain.iter().zip(&scaled).map(|(a, b)| (a / b) as f32).collect();
    assert!(divisors.iter().any(|&divisor| divisor > 1.5));
    let theta = |parts: Parts| parts.set("llama.rope.freq_base", Some(Value::F32(5e8)));
    let (model, _) = open(&theta(parts()).add(ROPE_FACTORS, divisors.clone()).bytes()).unwrap();
    assert_eq!(model.spec.rope.scaling, scaling);
    let other = divisors.iter().map(|divisor| divisor * 1.5).collect();
    assert_eq!(
        open(&theta(parts()).add(ROPE_FACTORS, other).bytes()).err().unwrap(),
        "`m.gguf` asks for the rope scaling of `rope_freqs.weight`, which is not supported"
    );

    for (pre, bos, ids) in [
        ("llama-bpe", true, "in 1234 'S"),
        ("tekken", true, "in 1234 'S"),
        ("qwen2", false, "in 1234 'S"),
        ("gpt-2", false, "in 1234 'S"),
    ] {
        let pre = parts().set("tokenizer.ggml.pre", Some(Value::String(pre.into())));
        let (model, _) = open(&pre.bytes()).unwrap();
        assert_eq!(model.tokenizer.adds_bos(), bos);
        let found = model.tokenizer.encode(ids).unwrap();
        assert_eq!(model.tokenizer.decode(&found).unwrap(), ids);
    }
    let said = parts().set("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)));
    assert!(open(&said.bytes()).unwrap().0.tokenizer.adds_bos());
    let turn = parts().set("tokenizer.ggml.eot_token_id", Some(Value::U32(0)));
    assert_eq!(open(&turn.bytes()).unwrap().0.tokenizer.stop_tokens(), [0, 2]);
}

fn check(name: &str, value: Option<Value>, expected: &str) {
    let parts = Parts::tiny(GgmlDType::F32).set(name, value);
    assert_eq!(open(&parts.bytes()).err().unwrap(), expected);
}

#[test]
fn what_is_wrong_is_named() {
    let text = |text: &str| Some(Value::String(text.into()));
    check(
        "general.architecture",
        text("gemma"),
        "`m.gguf` asks for the architecture `gemma`, which is not supported",
    );
    check("general.architecture", None, "`m.gguf` has no `general.architecture`");
    check("llama.block_count", None, "`m.gguf` has no `llama.block_count`");
    check(
        "llama.block_count",
        Some(Value::U32(3)),
        "`m.gguf` lacks 9 of its tensors, the first is `model.layers.2.input_layernorm.weight` [32]",
    );
    check(
        "llama.block_count",
        text("two"),
        "`m.gguf` has `llama.block_count` = a text, expected a whole number",
    );
    check(
        "llama.expert_count",
        Some(Value::U32(8)),
        "`m.gguf` asks for a mixture of experts, which is not supported",
    );
    check(
        "llama.rope.scaling.type",
        text("yarn"),
        "`m.gguf` asks for the rope scaling `yarn`, which is not supported",
    );
    check(
        "llama.attention.head_count",
        Some(Value::U32(2)),
        "`m.gguf` has `llama.rope.dimension_count` = 8, and heads of width 16",
    );
    check("general.alignment", Some(Value::U32(0)), "`m.gguf` has `general.alignment` = 0");
    check(
        "tokenizer.ggml.model",
        text("bert"),
        "the tokenizer in `m.gguf` is of the kind `bert`, and only byte-level BPE (`gpt2`) and \
         SentencePiece BPE (`llama`) are read from GGUF files; use the model's folder in Hugging \
         Face layout",
    );
    let unknown = |name: &str| {
        format!(
            "the tokenizer in `m.gguf` cuts text in a way that is not known: `tokenizer.ggml.pre` \
             is {name}, expected `smollm`, `llama-bpe`, `llama3`, `llama-v3`, `qwen2`, `tekken` or \
             `gpt-2`; use the model's folder in Hugging Face layout"
        )
    };
    check("tokenizer.ggml.pre", text("default"), &unknown("`default`"));
    check("tokenizer.ggml.pre", None, &unknown("absent"));
    check(
        "tokenizer.ggml.eos_token_id",
        Some(Value::U32(400)),
        "the tokenizer in `m.gguf` has `tokenizer.ggml.eos_token_id` = 400, and 400 tokens",
    );
    let tokens = |count: usize| {
        Some(Value::Array((0..count).map(|i| Value::String(format!("t{}", i % 399))).collect()))
    };
    check(
        "tokenizer.ggml.tokens",
        tokens(400),
        "the tokenizer in `m.gguf` has the token `t0` twice",
    );
    check(
        "tokenizer.ggml.merges",
        Some(Value::Array(vec![Value::String("ab".into())])),
        "the tokenizer in `m.gguf` has a merge `ab`, expected two parts",
    );
    let extra = Parts::tiny(GgmlDType::F32).add("blk.0.attn_q.bias", vec![0.0; 32]);
    assert_eq!(
        open(&extra.bytes()).err().unwrap(),
        "`m.gguf` holds a tensor `model.layers.0.self_attn.q_proj.bias` [32] that a model of this \
         architecture does not have"
    );
    let mut small = Parts::tiny(GgmlDType::F32);
    let rows = Tensor::zeros((399, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    small.tensors[0].1 = QTensor::quantize(&rows, GgmlDType::F32).unwrap();
    let error = open(&small.bytes()).err().unwrap();
    assert!(error.contains("does not fit the model: it has a token"), "{error}");
    assert!(error.contains("with id 399, and the embedding has 399 rows"), "{error}");
}

#[test]
fn a_number_that_is_not_finite_is_found() {
    let mut parts = Parts::tiny(GgmlDType::F32);
    let data = [vec![1.0; 31], vec![f32::INFINITY]].concat();
    parts.tensors.retain(|(name, _)| name != "output_norm.weight");
    let (_, file) = open(&parts.add("output_norm.weight", data).bytes()).unwrap();
    assert!(
        file.tensor("model.norm.weight", &[32]).unwrap_err().message.ends_with(
            "tensor `model.norm.weight` holds inf at position 31; a weight must be finite"
        )
    );
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let bytes = Parts::tiny(GgmlDType::Q8_0).bytes();
    for length in (0..200).chain((200..bytes.len()).step_by(211)).chain([bytes.len() - 1]) {
        let error = Header::read(&bytes[..length]).err().unwrap_or_default();
        assert!(error.contains("truncated") || error == "is not a GGUF file", "{length}: {error}");
    }
    let error = open(&bytes[..bytes.len() - 1]).err().unwrap();
    assert!(error.starts_with("`m.gguf` is truncated or broken: `output_norm.weight`"), "{error}");
    assert_eq!(open(b"").err().unwrap(), "`m.gguf` is not a GGUF file");
}

#[test]
fn a_header_that_lies_costs_an_error() {
    let bytes = Parts::tiny(GgmlDType::Q8_0).bytes();
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        Header::read(&bytes).err().unwrap_or_default()
    };
    let huge = u64::MAX.to_le_bytes();
    assert!(patched(8, &huge).contains("promises 18446744073709551615 tensors"));
    assert!(patched(16, &huge).contains("18446744073709551615 settings"));
    assert!(patched(24, &huge).contains("its header goes on after"));
    assert!(patched(4, &[1, 0, 0, 0]).contains("version 1, expected 2 or 3"));
    assert!(patched(4, &[0, 0, 0, 3]).contains("big-endian"));

    // Bytes changed at random: any answer but a panic or the machine's whole memory.
    let end = bytes.len().min(20_000);
    let mut state = 17u64;
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = bytes.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes[(state >> 33) as usize % end] = (state >> 20) as u8;
        }
        refused += usize::from(Header::read(&bytes).is_err());
    }
    assert!(refused > 100, "{refused}");
}
