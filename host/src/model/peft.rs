//! Adapters in the folder format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What is written is the subset that PEFT, vLLM, llama.cpp's converter and TRL all take: LoRA on
//! the linear layers of the blocks, no bias, no saved modules, no ranks by pattern. Reading refuses
//! whatever would mean something else.
//!
//! <https://huggingface.co/docs/peft/developer_guides/checkpoint>

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load as _;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::adapter::{Adapter, AdapterError, LoraConfig, Matrix, tensor_name};
use super::spec::{Linear, Spec};

/// Name of the file with the hyper-parameters.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Name of the file with the matrices.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// PEFT wraps the model twice, and the names of its tensors say so.
const PREFIX: &str = "base_model.model.";

/// The model that an adapter stands on, as other tools will look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base<'a> {
    /// A name on the Hugging Face hub where there is one, else a folder.
    pub name_or_path: &'a str,
    /// Revision on the hub.
    pub revision: Option<&'a str>,
}

/// Writes an adapter into a folder that exists, in f32, and syncs both files.
///
/// Writing is not atomic: give a folder that nobody reads yet. Equal adapters give equal bytes.
pub fn write(folder: &Path, adapter: &Adapter, base: Base<'_>) -> Result<(), PeftError> {
    let config = config_json(&adapter.config, base);
    let mut text = serde_json::to_string_pretty(&config).expect("a JSON value can be written");
    text.push('\n');
    write_file(&folder.join(CONFIG_FILE), text.as_bytes())?;

    let tensors: Vec<_> = adapter
        .tensors()
        .map(|tensor| {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (format!("{PREFIX}{}", tensor.name), tensor.shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        (name.as_str(), view.expect("a tensor has as many numbers as its shape says"))
    });
    // One key only: the order of several is that of a hash map, and differs between runs.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .expect("names and shapes that fit in memory fit in a header");
    write_file(&folder.join(WEIGHTS_FILE), &bytes)
}

/// Reads an adapter for a model of this shape; matrices in f16 or bf16 become f32.
pub fn read(folder: &Path, spec: &Spec) -> Result<Adapter, PeftError> {
    let path = folder.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).map_err(io(&path))?;
    let config =
        parse_config(&text).map_err(|message| PeftError::Config { path: path.clone(), message })?;
    let mut adapter = Adapter::zeros(spec, config);
    // Before any matrix is read: the target modules are the user's, and so are rank and dropout.
    adapter.check(spec).map_err(|source| PeftError::Adapter { path, source })?;

    let path = folder.join(WEIGHTS_FILE);
    let bytes = fs::read(&path).map_err(io(&path))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| PeftError::Safetensors { path: path.clone(), source })?;
    let mut left: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    let r = adapter.config.r;
    for (&(layer, linear), pair) in &mut adapter.pairs {
        let (outputs, inputs) = spec.linear_shape(linear);
        for (matrix, shape, values) in
            [(Matrix::A, [r, inputs], &mut pair.a), (Matrix::B, [outputs, r], &mut pair.b)]
        {
            let name = format!("{PREFIX}{}", tensor_name(layer, linear, matrix));
            *values = match left.remove(&name) {
                Some(view) => numbers(&view, shape),
                None => Err(format!("is missing; expected {shape:?} of f32, f16 or bf16")),
            }
            .map_err(|message| PeftError::Tensor {
                path: path.clone(),
                name,
                message,
            })?;
        }
    }
    match left.into_keys().next() {
        None => Ok(adapter),
        Some(name) => {
            let message =
                "belongs to no target module of `adapter_config.json` in this model".to_owned();
            Err(PeftError::Tensor { path, name, message })
        }
    }
}

/// The settings that `adapter_config.json` gets, keys in alphabetical order as PEFT writes them.
fn config_json(config: &LoraConfig, base: Base<'_>) -> Value {
    // Some readers declare `lora_alpha` as an integer.
    let alpha = if config.alpha.fract() == 0.0 && config.alpha.abs() < 1e15 {
        json!(config.alpha as i64)
    } else {
        json!(config.alpha)
    };
    json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base.name_or_path,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": {},
        "revision": base.revision,
        "target_modules": config.target_modules.iter().map(|l| l.name()).collect::<Vec<_>>(),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    })
}

#[derive(Deserialize)]
struct ConfigFile {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Value,
    #[serde(default)]
    use_rslora: bool,
    /// Everything else, some of which must be at its default.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Reads the hyper-parameters; an error says which setting is at fault, and why.
fn parse_config(text: &str) -> Result<LoraConfig, String> {
    let file: ConfigFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if file.peft_type != "LORA" {
        return Err(format!("`peft_type` is `{}`, only `LORA` can be used", file.peft_type));
    }
    for key in [
        "alora_invocation_tokens",
        "alpha_pattern",
        "arrow_config",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "kasa_config",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "lora_bias",
        "modules_to_save",
        "monteclora_config",
        "rank_pattern",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_qalora",
    ] {
        let value = file.rest.get(key).unwrap_or(&Value::Null);
        let default = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text == "none",
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        if !default {
            return Err(format!("`{key}` is {value}, which cannot be used; expected none"));
        }
    }
    if !file.lora_alpha.is_finite() {
        return Err("`lora_alpha` is not a finite number".to_owned());
    }
    let target_modules = target_modules(&file.target_modules)?;
    let (r, alpha) = (file.r, file.lora_alpha);
    let (dropout, use_rslora) = (file.lora_dropout, file.use_rslora);
    Ok(LoraConfig { r, alpha, dropout, target_modules, use_rslora })
}

/// Returns the named layers in checkpoint order, each once.
fn target_modules(value: &Value) -> Result<Vec<Linear>, String> {
    let known = Linear::ALL.map(Linear::name).join("`, `");
    let expected =
        format!("expected `all-linear` or a list of some of `{known}`, over every block");
    let names = match value {
        Value::String(text) if text == "all-linear" => return Ok(Linear::ALL.to_vec()),
        Value::Array(names) => names,
        _ => return Err(format!("`target_modules` is {value}, {expected}")),
    };
    let mut linears = Vec::new();
    for name in names {
        let linear = name.as_str().and_then(linear_named);
        let linear = linear.ok_or_else(|| format!("`target_modules` holds {name}, {expected}"))?;
        if !linears.contains(&linear) {
            linears.push(linear);
        }
    }
    linears.sort_unstable();
    Ok(linears)
}

/// Returns the layer that a target module names: `q_proj`, `self_attn.q_proj`, or, as PEFT writes
/// `all-linear` out, `model.layers.0.self_attn.q_proj`. That a layer is not named for every block
/// shows in the tensors that are missing.
fn linear_named(name: &str) -> Option<Linear> {
    let in_block = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let name = match in_block {
        Some((layer, path)) if layer.parse::<usize>().is_ok() => path,
        _ => name,
    };
    Linear::ALL.into_iter().find(|linear| name == linear.name() || name == linear.path())
}

/// Returns the numbers of a tensor; an error says what is wrong with it.
fn numbers(view: &TensorView<'_>, shape: [usize; 2]) -> Result<Vec<f32>, String> {
    if view.shape() != shape {
        return Err(format!("has shape {:?}, the model and rank need {shape:?}", view.shape()));
    }
    if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(format!("is {:?}, expected f32, f16 or bf16", view.dtype()));
    }
    let values: Vec<f32> = view
        .load(&candle_core::Device::Cpu)
        .and_then(|t| t.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1())
        .map_err(|e| format!("cannot be read: {e}"))?;
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(values),
        Some(i) => Err(format!("holds {} at number {i}, expected finite numbers", values[i])),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PeftError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io(path))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PeftError + use<> {
    let path = path.to_owned();
    move |source| PeftError::Io { path, source }
}

/// Why an adapter folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// The file system said no.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not what PEFT writes, or asks for something else than plain LoRA.
    #[error("`{}` is not a usable adapter configuration: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which setting, and what is expected.
        message: String,
    },
    /// The settings fit no adapter of this model.
    #[error("`{}` does not fit the model: {source}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AdapterError,
    },
    /// The file is truncated or no safetensors file.
    #[error("`{}` is not a whole safetensors file: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor is missing, of another shape or type, unknown, or not finite.
    #[error("tensor `{name}` of `{}` {message}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// What is wrong, and what is expected.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{Rope, RopeScaling};

    fn spec() -> Spec {
        Spec {
            layers: 2,
            hidden: 8,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            intermediate: 12,
            vocab: 16,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
            attention_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            tied_embeddings: true,
            context_length: 16,
        }
    }

    fn config() -> LoraConfig {
        let target_modules = vec![Linear::Q, Linear::V, Linear::Down];
        LoraConfig { r: 2, alpha: 16.0, dropout: 0.05, target_modules, use_rslora: false }
    }

    fn adapter() -> Adapter {
        let mut adapter = Adapter::init(&spec(), config(), 7);
        for (i, pair) in adapter.pairs.values_mut().enumerate() {
            pair.b.iter_mut().enumerate().for_each(|(j, b)| *b = (i * 100 + j) as f32 / 7.0);
        }
        adapter
    }

    const BASE: Base<'_> = Base { name_or_path: "owner/name", revision: Some("main") };

    #[test]
    fn an_adapter_comes_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter(), BASE).unwrap();
        let back = read(folder.path(), &spec()).unwrap();
        assert_eq!(back, adapter());
        assert_eq!(back.digest(), adapter().digest());
        // Written again, the bytes are the same.
        let bytes = |name| fs::read(folder.path().join(name)).unwrap();
        let before = (bytes(CONFIG_FILE), bytes(WEIGHTS_FILE));
        write(folder.path(), &back, BASE).unwrap();
        assert_eq!((bytes(CONFIG_FILE), bytes(WEIGHTS_FILE)), before);
        let weights = bytes(WEIGHTS_FILE);
        let file = SafeTensors::deserialize(&weights).unwrap();
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
        assert_eq!(file.tensor(name).unwrap().shape(), [8, 2]);
        assert_eq!(file.len(), 12);
    }

    #[test]
    fn the_configuration_is_what_other_tools_read() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter(), BASE).unwrap();
        let text = fs::read_to_string(folder.path().join(CONFIG_FILE)).unwrap();
        assert_eq!(
            text,
            r#"{
  "alpha_pattern": {},
  "base_model_name_or_path": "owner/name",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_to_transform": null,
  "lora_alpha": 16,
  "lora_dropout": 0.05,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {},
  "revision": "main",
  "target_modules": [
    "q_proj",
    "v_proj",
    "down_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
}
"#
        );
    }

    #[test]
    fn configurations_that_mean_something_else_are_refused() {
        let check = |change: Value, expected: &str| {
            let mut config = config_json(&config(), BASE);
            for (key, value) in change.as_object().unwrap() {
                config[key] = value.clone();
            }
            match parse_config(&config.to_string()) {
                Ok(_) => assert_eq!(expected, ""),
                Err(message) => {
                    assert!(message.starts_with(expected) && !expected.is_empty(), "{message}")
                }
            }
        };
        check(json!({}), "");
        check(json!({"target_modules": "all-linear"}), "");
        check(json!({"target_modules": ["self_attn.q_proj", "up_proj"], "lora_alpha": 0.5}), "");
        check(json!({"target_modules": ["model.layers.12.mlp.up_proj"]}), "");
        check(
            json!({"target_modules": ["model.layers.x.mlp.up_proj"]}),
            "`target_modules` holds \"model.layers.x.mlp.up_proj\"",
        );
        check(json!({"megatron_config": null, "peft_version": "0.21"}), "");
        check(json!({"use_dora": true}), "`use_dora` is true, which cannot be used");
        check(json!({"bias": "all"}), "`bias` is \"all\"");
        check(json!({"modules_to_save": ["lm_head"]}), "`modules_to_save` is [\"lm_head\"]");
        check(json!({"rank_pattern": {"q_proj": 4}}), "`rank_pattern` is {\"q_proj\":4}");
        check(json!({"layers_to_transform": [0]}), "`layers_to_transform` is [0]");
        check(json!({"target_modules": ["lm_head"]}), "`target_modules` holds \"lm_head\"");
        check(json!({"target_modules": ".*proj"}), "`target_modules` is \".*proj\"");
        check(json!({"peft_type": "IA3"}), "`peft_type` is `IA3`");
        check(json!({"r": "many"}), "invalid type");
    }

    #[test]
    fn broken_folders_are_named() {
        let check = |change: &dyn Fn(&Path), spec: Spec, expected: &str| {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &adapter(), BASE).unwrap();
            change(folder.path());
            let error = read(folder.path(), &spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let same = |_: &Path| ();
        check(&|f| fs::remove_file(f.join(CONFIG_FILE)).unwrap(), spec(), "cannot access `");
        check(&|f| fs::write(f.join(CONFIG_FILE), "{").unwrap(), spec(), "is not a usable adapter");
        let truncate = |f: &Path| {
            let path = f.join(WEIGHTS_FILE);
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 8]).unwrap();
        };
        check(&truncate, spec(), "is not a whole safetensors file");
        check(
            &same,
            Spec { intermediate: 16, ..spec() },
            "has shape [2, 12], the model and rank need [2, 16]",
        );
        check(&same, Spec { layers: 3, ..spec() }, "is missing; expected [2, 8]");
        check(&same, Spec { layers: 1, ..spec() }, "belongs to no target module");
        let rank = |f: &Path| {
            let path = f.join(CONFIG_FILE);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("\"r\": 2", "\"r\": 0")).unwrap();
        };
        check(&rank, spec(), "needs a rank of at least 1");
        let poison = |f: &Path| {
            let mut poisoned = adapter();
            poisoned.pairs.get_mut(&(0, Linear::Q)).unwrap().a[3] = f32::NAN;
            write(f, &poisoned, BASE).unwrap();
        };
        check(&poison, spec(), "holds NaN at number 3, expected finite numbers");
    }

    #[test]
    fn half_precision_is_read() {
        // 1.5, -2 and 0.25 in bf16 and in f16.
        for (dtype, bits) in
            [(Dtype::BF16, [0x3fc0u16, 0xc000, 0x3e80]), (Dtype::F16, [0x3e00, 0xc000, 0x3400])]
        {
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let view = TensorView::new(dtype, vec![1, 3], &bytes).unwrap();
            assert_eq!(numbers(&view, [1, 3]).unwrap(), [1.5, -2.0, 0.25]);
        }
    }
}
