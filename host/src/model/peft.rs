//! Adapters in the folder format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What is written is the subset that PEFT, vLLM, llama.cpp's converter and TRL all take: LoRA on
//! the linear layers of the blocks, no bias, no saved modules. Ranks and scales by pattern are
//! PEFT's alone, see [`readers`]. Reading refuses whatever would mean something else.
//!
//! A reward model is the adapter of a sequence classifier with one label (`SEQ_CLS`), and its head is
//! the one module that is saved, `score`: PEFT and TRL's `RewardTrainer` read and write the same.
//!
//! <https://huggingface.co/docs/peft/developer_guides/checkpoint>

pub mod scaled;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load as _;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::adapter::{
    Adapter, AdapterError, LoraConfig, LoraPair, Matrix, PairConfig, SCORE, TargetModules,
    module_path, names_a_linear, tensor_name,
};
use super::spec::{Linear, Spec};
use crate::file;

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
    let config = config_json(adapter, base);
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
    write_file(&folder.join(WEIGHTS_FILE), &file_of(views))
}

/// Returns the bytes of a safetensors file.
fn file_of<'a>(views: impl Iterator<Item = (&'a str, TensorView<'a>)>) -> Vec<u8> {
    // One key only: the order of several is that of a hash map, and differs between runs.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata))
        .expect("names and shapes that fit in memory fit in a header")
}

/// Returns whether a folder holds an adapter, and no whole model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).exists() && !folder.join("config.json").exists()
}

/// Reads an adapter for a model of this shape; matrices in f16 or bf16 become f32.
pub fn read(folder: &Path, spec: &Spec) -> Result<Adapter, PeftError> {
    let path = folder.join(CONFIG_FILE);
    let text = file::read_text(&path).map_err(io(&path))?;
    let Parsed { config, score } =
        parse_config(&text).map_err(|message| PeftError::Config { path: path.clone(), message })?;
    // Before any matrix is read: what is wanted of the model is the file's word, and may be anything.
    let fits = |source| PeftError::Adapter { path: path.clone(), source };
    let wanted = config.pairs(spec.layers).map_err(fits)?;

    let weights = folder.join(WEIGHTS_FILE);
    let bytes = file::read(&weights).map_err(io(&weights))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| PeftError::Safetensors { path: weights.clone(), source })?;
    let mut left: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    let mut tensor = |name: String, shape: [usize; 2]| {
        let name = format!("{PREFIX}{name}");
        match left.remove(&name) {
            Some(view) => numbers(&view, shape),
            None => Err(format!("is missing; expected {shape:?} of f32, f16 or bf16")),
        }
        .map_err(|message| PeftError::Tensor { path: weights.clone(), name, message })
    };
    let mut pairs = BTreeMap::new();
    for ((layer, linear), PairConfig { r, scale }) in wanted {
        let (outputs, inputs) = spec.linear_shape(linear);
        let a = tensor(tensor_name(layer, linear, Matrix::A), [r, inputs])?;
        let b = tensor(tensor_name(layer, linear, Matrix::B), [outputs, r])?;
        pairs.insert((layer, linear), LoraPair { r, scale, a, b });
    }
    let score = match score {
        true => Some(tensor(SCORE.to_owned(), [1, spec.hidden])?),
        false => None,
    };
    if let Some(name) = left.into_keys().next() {
        let message = format!(
            "belongs to no target module of `{CONFIG_FILE}` in this model of {} blocks",
            spec.layers
        );
        return Err(PeftError::Tensor { path: weights, name, message });
    }
    let adapter = Adapter { config, pairs, score };
    adapter.check(spec).map_err(fits)?;
    Ok(adapter)
}

/// What a reader other than PEFT makes of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The program.
    pub name: &'static str,
    /// What it leaves out, so that the adapter has another effect there; none where it reads all.
    pub ignores: Option<&'static str>,
    /// What must be said to it.
    pub option: Option<String>,
}

/// Returns what vLLM and llama.cpp make of an adapter whose largest rank is `rank`: both have one
/// scale for all pairs, and llama.cpp knows no rsLoRA.
pub fn readers(config: &LoraConfig, rank: usize) -> [Reader; 2] {
    let (rslora, alphas) = (config.use_rslora, !config.alpha_pattern.is_empty());
    let ranks = !config.rank_pattern.is_empty();
    // vLLM's default for `--max-lora-rank`; it takes these values only.
    let allowed = [8, 16, 32, 64, 128, 256, 320, 512].into_iter().find(|&allowed| allowed >= rank);
    let vllm = Reader {
        name: "vLLM",
        ignores: match (ranks, alphas) {
            (_, true) => Some("`alpha_pattern`"),
            (true, false) => Some("`rank_pattern`"),
            (false, false) if allowed.is_none() => Some("ranks over 512"),
            _ => None,
        },
        option: allowed.filter(|&rank| rank > 16).map(|rank| format!("--max-lora-rank {rank}")),
    };
    let llama_cpp = Reader {
        name: "llama.cpp",
        ignores: match (rslora, alphas) {
            (true, _) => Some("`use_rslora`"),
            (_, true) => Some("`alpha_pattern`"),
            _ => None,
        },
        option: None,
    };
    [vllm, llama_cpp]
}

/// The settings that `adapter_config.json` gets, keys in alphabetical order as PEFT writes them.
fn config_json(adapter: &Adapter, base: Base<'_>) -> Value {
    let config = &adapter.config;
    // Some readers declare `lora_alpha` as an integer.
    let number = |alpha: f64| match alpha.fract() == 0.0 && alpha.abs() < 1e15 {
        true => json!(alpha as i64),
        false => json!(alpha),
    };
    let alphas = config.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha)));
    let ranks = config.rank_pattern.iter().map(|(key, r)| (key.clone(), json!(r)));
    // An expression is written out: readers differ in what they make of one.
    let paths =
        || adapter.pairs.keys().map(|&(layer, linear)| module_path(layer, linear)).collect();
    let target_modules: Vec<String> = match &config.target_modules {
        TargetModules::Names(names) => names.clone(),
        TargetModules::Regex(_) => paths(),
    };
    let (modules_to_save, task_type) = match adapter.score {
        Some(_) => (json!([SCORE_MODULE]), "SEQ_CLS"),
        None => (Value::Null, "CAUSAL_LM"),
    };
    json!({
        "alpha_pattern": alphas.collect::<Map<_, _>>(),
        "base_model_name_or_path": base.name_or_path,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_to_transform": null,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "modules_to_save": modules_to_save,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": ranks.collect::<Map<_, _>>(),
        "revision": base.revision,
        "target_modules": target_modules,
        "task_type": task_type,
        "use_dora": false,
        "use_rslora": config.use_rslora,
    })
}

/// The head of a sequence classifier, as transformers calls it.
const SCORE_MODULE: &str = "score";

/// What PEFT always adds to the modules that it saves of a sequence classifier; a model has one of both.
const CLASSIFIER_MODULES: [&str; 2] = ["classifier", SCORE_MODULE];

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
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
    #[serde(default = "Value::default")]
    init_lora_weights: Value,
    #[serde(default = "Value::default")]
    modules_to_save: Value,
    /// Everything else. What is not in [`IRRELEVANT`] must be off.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Settings that say where an adapter comes from or how it was made, and change nothing about what
/// it does once it is trained.
const IRRELEVANT: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// What `adapter_config.json` says.
struct Parsed {
    config: LoraConfig,
    /// Whether there is the head of a reward model.
    score: bool,
}

/// Reads the hyper-parameters; an error says which setting is at fault, and why.
fn parse_config(text: &str) -> Result<Parsed, String> {
    let file: ConfigFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if file.peft_type != "LORA" {
        return Err(format!("`peft_type` is `{}`, only `LORA` can be used", file.peft_type));
    }
    for (key, value) in &file.rest {
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text == "none",
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        if !off && !IRRELEVANT.contains(&key.as_str()) {
            return Err(format!("`{key}` is {value}, which cannot be used; expected none"));
        }
    }
    // The other ways to begin change the weights under the adapter.
    let init = &file.init_lora_weights;
    let harmless = ["gaussian", "eva", "orthogonal"];
    if !matches!(init, Value::Null | Value::Bool(_))
        && !init.as_str().is_some_and(|init| harmless.contains(&init))
    {
        return Err(format!(
            "`init_lora_weights` is {init}, which changes the weights under the adapter; convert it \
             to plain LoRA with PEFT's `path_initial_model_for_weight_conversion`"
        ));
    }
    let finite = |key: &str, value: f64| match value.is_finite() {
        true => Ok(value),
        false => Err(format!("`{key}` is not a finite number")),
    };
    let rank = |(key, value): (String, Value)| match value.as_u64() {
        Some(r) => Ok((key, r as usize)),
        None => Err(format!("`rank_pattern` gives `{key}` {value}, expected a whole number")),
    };
    let alpha = |(key, value): (String, Value)| match value.as_f64() {
        Some(alpha) => Ok((key, finite("alpha_pattern", alpha)?)),
        None => Err(format!("`alpha_pattern` gives `{key}` {value}, expected a number")),
    };
    let config = LoraConfig {
        r: file.r,
        alpha: finite("lora_alpha", file.lora_alpha)?,
        dropout: file.lora_dropout,
        target_modules: target_modules(&file.target_modules)?,
        use_rslora: file.use_rslora,
        rank_pattern: file.rank_pattern.into_iter().map(rank).collect::<Result<_, _>>()?,
        alpha_pattern: file.alpha_pattern.into_iter().map(alpha).collect::<Result<_, _>>()?,
    };
    Ok(Parsed { config, score: saves_score(&file.modules_to_save)? })
}

/// Returns whether the saved modules are the head of a sequence classifier; fails where there are others.
fn saves_score(modules: &Value) -> Result<bool, String> {
    let names = match modules {
        Value::Null => &[][..],
        Value::Array(names) => &names[..],
        _ => return Err(format!("`modules_to_save` is {modules}, expected a list")),
    };
    let known = |name: &Value| name.as_str().is_some_and(|name| CLASSIFIER_MODULES.contains(&name));
    match names.iter().all(known) && (names.is_empty() || names.contains(&json!(SCORE_MODULE))) {
        true => Ok(!names.is_empty()),
        false => Err(format!(
            "`modules_to_save` is {modules}, which cannot be used; expected none, or `{SCORE_MODULE}` of a \
             reward model"
        )),
    }
}

/// Reads a list of names, an expression, or `all-linear`.
fn target_modules(value: &Value) -> Result<TargetModules, String> {
    let known = Linear::ALL.map(Linear::name).join("`, `");
    let expected = format!("expected `all-linear`, a regular expression or a list of `{known}`");
    let names = match value {
        Value::String(text) if text.eq_ignore_ascii_case("all-linear") => {
            return Ok(Linear::ALL[..].into());
        }
        Value::String(text) => return Ok(TargetModules::Regex(text.clone())),
        Value::Array(names) => names,
        _ => return Err(format!("`target_modules` is {value}, {expected}")),
    };
    let name = |name: &Value| match name.as_str() {
        Some(text) if names_a_linear(text) => Ok(text.to_owned()),
        _ => Err(format!("`target_modules` holds {name}, {expected}")),
    };
    Ok(TargetModules::Names(names.iter().map(name).collect::<Result<_, _>>()?))
}

/// Returns the numbers of a tensor; an error says what is wrong with it.
fn numbers(view: &TensorView<'_>, shape: [usize; 2]) -> Result<Vec<f32>, String> {
    if view.shape() != shape {
        return Err(format!("has shape {:?}, the model and rank need {shape:?}", view.shape()));
    }
    floats(view)
}

/// The same for a tensor of any shape.
fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
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

/// Returns what a folder names as its base: a name on the hub, or a path elsewhere.
pub fn base_of(folder: &Path) -> Option<String> {
    let text = file::read_text(&folder.join(CONFIG_FILE)).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    Some(config["base_model_name_or_path"].as_str()?.to_owned())
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

impl PeftError {
    /// Returns that the adapter of a folder does not fit a model.
    pub fn fits(folder: &Path, source: AdapterError) -> PeftError {
        PeftError::Adapter { path: folder.join(CONFIG_FILE), source }
    }
}

#[cfg(test)]
mod tests;
