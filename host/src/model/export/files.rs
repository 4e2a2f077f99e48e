//! The small files beside the weights.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Dtype;
use crate::model::config;
use crate::model::error::ModelError;
use crate::model::text::Model;
use crate::model::tokenizer::optional_json;

type Files = Vec<(&'static str, Vec<u8>)>;

/// Returns everything but weights and card.
pub(super) fn of_model(model: &Model, dtype: Dtype) -> Result<Files, ModelError> {
    let source = model.path.is_dir().then_some(model.path.as_path());
    let mut files = vec![
        ("config.json", pretty(&config(model, source, dtype)?)),
        ("generation_config.json", pretty(&generation_config(model, source)?)),
    ];
    files.extend(of_text(model)?);
    Ok(files)
}

/// Returns the tokenizer's files and the chat template.
pub(super) fn of_text(model: &Model) -> Result<Files, ModelError> {
    match model.path.is_dir() {
        true => text_of_folder(model, &model.path),
        false => text_of_file(model),
    }
}

/// Returns JSON as people read it, with a newline at its end.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value can be written");
    text.push(b'\n');
    text
}

/// The source's own, but for the type of the weights.
fn config(model: &Model, source: Option<&Path>, dtype: Dtype) -> Result<Value, ModelError> {
    let own = match source {
        Some(folder) => optional_json(&folder.join("config.json"))?,
        None => None,
    };
    let Some(Value::Object(mut config)) = own else {
        let mut config = config::to_hugging_face(&model.spec);
        config.extend(ids(model));
        config.insert("torch_dtype".to_owned(), json!(dtype.torch_name()));
        return Ok(Value::Object(config));
    };
    // transformers called it `torch_dtype`, then `dtype`, and reads both.
    let known: Vec<&str> =
        ["torch_dtype", "dtype"].into_iter().filter(|&key| config.contains_key(key)).collect();
    for key in if known.is_empty() { vec!["torch_dtype"] } else { known } {
        config.insert(key.to_owned(), json!(dtype.torch_name()));
    }
    Ok(Value::Object(config))
}

/// The source's own, with every token that ends a completion: a server that knows only one of them
/// never stops.
fn generation_config(model: &Model, source: Option<&Path>) -> Result<Value, ModelError> {
    let own = match source {
        Some(folder) => optional_json(&folder.join("generation_config.json"))?,
        None => None,
    };
    let mut config = match own {
        Some(Value::Object(config)) => config,
        _ => ids(model),
    };
    let stops = model.tokenizer.stop_tokens();
    match &stops[..] {
        [] => {}
        [only] => drop(config.insert("eos_token_id".to_owned(), json!(only))),
        several => drop(config.insert("eos_token_id".to_owned(), json!(several))),
    }
    Ok(Value::Object(config))
}

/// Ids of the tokens that have a role.
fn ids(model: &Model) -> Map<String, Value> {
    let tokens = model.tokenizer.named_tokens().iter();
    let roles = tokens.filter(|(name, _)| name != "unk_token");
    roles
        .filter_map(|(name, text)| Some((format!("{name}_id"), json!(model.tokenizer.id(text)?))))
        .collect()
}

/// The files of a folder as they are, and what older or newer readers expect besides.
fn text_of_folder(model: &Model, folder: &Path) -> Result<Files, ModelError> {
    let read = |name| {
        let path = folder.join(name);
        match crate::file::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ModelError::read(&path, error)),
        }
    };
    let mut files = Vec::new();
    // The last four are what some converters read instead.
    for name in
        ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"]
    {
        files.extend(read(name)?.map(|bytes| (name, bytes)));
    }
    let map = read("special_tokens_map.json")?.unwrap_or_else(|| pretty(&roles(model)));
    files.push(("special_tokens_map.json", map));

    let settings = optional_json(&folder.join("tokenizer_config.json"))?;
    let mut settings = match settings {
        Some(Value::Object(settings)) => settings,
        _ => tokenizer_config(model),
    };
    // A list of named templates is more than we know; it stays as it is.
    let several = settings.get("chat_template").is_some_and(Value::is_array);
    if let Some(template) = model.template.as_ref()
        && !several
    {
        settings.insert("chat_template".to_owned(), json!(template.source()));
        files.push(("chat_template.jinja", template.source().as_bytes().to_vec()));
    }
    files.push(("tokenizer_config.json", pretty(&Value::Object(settings))));
    Ok(files)
}

/// The tokenizer and the template that a GGUF file carries, in Hugging Face's files.
fn text_of_file(model: &Model) -> Result<Files, ModelError> {
    let mut files = vec![
        ("tokenizer.json", model.tokenizer.to_json()?),
        ("tokenizer_config.json", pretty(&Value::Object(tokenizer_config(model)))),
        ("special_tokens_map.json", pretty(&roles(model))),
    ];
    let template = model.template.as_ref().map(|template| template.source().as_bytes().to_vec());
    files.extend(template.map(|source| ("chat_template.jinja", source)));
    Ok(files)
}

/// Texts of the tokens that have a role.
fn roles(model: &Model) -> Value {
    let tokens = model.tokenizer.named_tokens().iter();
    Value::Object(tokens.map(|(name, text)| (name.clone(), json!(text))).collect())
}

fn tokenizer_config(model: &Model) -> Map<String, Value> {
    let mut config = Map::from_iter([
        ("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast")),
        ("add_bos_token".to_owned(), json!(model.tokenizer.adds_bos())),
        ("add_eos_token".to_owned(), json!(false)),
        ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ("model_max_length".to_owned(), json!(model.spec.context_length)),
    ]);
    let tokens = model.tokenizer.named_tokens().iter();
    config.extend(tokens.map(|(name, text)| (name.clone(), json!(text))));
    let template = model.template.as_ref().map(|template| json!(template.source()));
    config.extend(template.map(|template| ("chat_template".to_owned(), template)));
    config
}
