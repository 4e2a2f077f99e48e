//! From what the user named to an open model.
//!
//! | name | model |
//! |---|---|
//! | `smollm2-135m-instruct` | an alias: a known file, fetched once and checked by its digest |
//! | `hf:owner/name[@revision]` | a repository of the Hugging Face Hub, fetched once |
//! | a folder | Hugging Face layout: `config.json`, safetensors, `tokenizer.json` |
//! | `FILE.gguf` | one file with all of it |

pub mod alias;
pub mod hub;

use std::path::{Path, PathBuf};

use self::alias::{ALIASES, Alias};
use self::hub::Hub;
use super::checkpoint::{Checkpoint, CheckpointError};
use super::error::ModelError;
use super::gguf::Gguf;
use super::safetensors::Safetensors;
use super::spec::Spec;
use super::template::Template;
use super::text::Model;
use super::tokenizer::{Tokenizer, optional_json};
use super::{config, digest, peft, safetensors};

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being fetched.
    pub what: String,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Opens a model by its name, fetching it where it is not there yet; reads no weights.
///
/// An alias goes before a file of the same name; `./name` names the file. `progress` is called
/// while something is fetched.
pub fn open(
    name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    if let Some(alias) = Alias::find(name) {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let file = alias.fetch(&cache_folder()?, &search, progress)?;
        return open_gguf(name, &file, alias.sha256.to_owned());
    }
    if let Some(repository) = name.strip_prefix("hf:") {
        return open_folder(name, &Hub::from_env().fetch(repository, progress)?);
    }
    let path = Path::new(name);
    if path.is_dir() {
        return open_folder(name, path);
    }
    if path.is_file() {
        return open_file(name, path);
    }
    Err(unknown(name))
}

/// Opens what a server serves by the name of its base: tokenizer, chat template and sizes, and the weights
/// where they are here. Of a repository of the hub no weights are fetched.
pub fn open_base(
    name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    let folder = match name.strip_prefix("hf:") {
        Some(repository) => Hub::from_env().fetch_small(repository, progress)?,
        None if Alias::find(name).is_none() && Path::new(name).is_dir() => name.into(),
        None => return open(name, progress),
    };
    let whole =
        safetensors::files(&folder).is_ok_and(|files| files.iter().all(|file| file.exists()));
    match whole {
        true => open_folder(name, &folder),
        false => open_without_weights(name, &folder),
    }
}

/// Returns the folder in which aligner keeps what it can fetch or make again: `$ALIGNER_CACHE`,
/// else `$XDG_CACHE_HOME/aligner`, else `~/.cache/aligner`. It need not exist.
pub fn cache_folder() -> Result<PathBuf, ModelError> {
    let folder = |name| {
        std::env::var_os(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty())
    };
    folder("ALIGNER_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|path| path.join("aligner")))
        .or_else(|| folder("HOME").map(|path| path.join(".cache").join("aligner")))
        .ok_or(ModelError::NoCache)
}

fn unknown(name: &str) -> ModelError {
    let near = ALIASES
        .iter()
        .map(|alias| (strsim::damerau_levenshtein(alias.name, name), alias.name))
        .min()
        .filter(|(distance, _)| *distance <= 4)
        .map(|(_, alias)| format!("did you mean `{alias}`?"));
    let all = || {
        let aliases: Vec<_> = ALIASES.iter().map(|alias| format!("`{}`", alias.name)).collect();
        format!(
            "name a folder in Hugging Face layout, a GGUF file, `hf:owner/name`, or {}",
            aliases.join(", ")
        )
    };
    ModelError::Unknown { name: name.to_owned(), hint: near.unwrap_or_else(all) }
}

/// Opens a single file, which must be a GGUF file.
fn open_file(name: &str, path: &Path) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    if matches!(path.extension().and_then(|e| e.to_str()), Some("safetensors" | "json" | "bin")) {
        return Err(ModelError::Unknown {
            name: name.to_owned(),
            hint: "it is one file of a model; name the folder that holds all of them".to_owned(),
        });
    }
    open_gguf(name, path, digest::of_file(path)?)
}

fn open_gguf(
    name: &str,
    path: &Path,
    digest: String,
) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    let file = Gguf::open(path)?;
    let tokenizer = file.tokenizer()?;
    let template = file.template(name, &tokenizer)?;
    let spec = file.spec().clone();
    let model = Model::new(name, digest, spec, tokenizer, template, path.to_owned())?;
    Ok((model, Box::new(file)))
}

/// Opens a folder in Hugging Face layout.
fn open_folder(name: &str, folder: &Path) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    let Text { spec, tokenizer, template } = Text::open(name, folder)?;
    let weights = safetensors::files(folder)?;
    let checkpoint = Safetensors::open(spec.clone(), &weights)?;
    let mut files = weights;
    files.extend(small_files(folder));
    let digest = digest::of_files(&files)?;
    let model = Model::new(name, digest, spec, tokenizer, template, folder.to_owned())?;
    Ok((model, Box::new(checkpoint)))
}

/// Opens a folder in Hugging Face layout whose weights are elsewhere.
fn open_without_weights(
    name: &str,
    folder: &Path,
) -> Result<(Model, Box<dyn Checkpoint>), ModelError> {
    let Text { spec, tokenizer, template } = Text::open(name, folder)?;
    let digest = digest::of_files(&small_files(folder))?;
    let elsewhere = Elsewhere { spec: spec.clone(), folder: folder.to_owned() };
    let model = Model::new(name, digest, spec, tokenizer, template, folder.to_owned())?;
    Ok((model, Box::new(elsewhere)))
}

/// The checkpoint of a folder whose weights are elsewhere.
struct Elsewhere {
    spec: Spec,
    folder: PathBuf,
}

impl Checkpoint for Elsewhere {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let folder = self.folder.display();
        let message = format!("`{folder}` has no weights, and so no `{name}`: a server has them");
        Err(CheckpointError { message })
    }

    fn has_weights(&self) -> bool {
        false
    }
}

fn small_files(folder: &Path) -> Vec<PathBuf> {
    SMALL_FILES.map(|name| folder.join(name)).into_iter().filter(|file| file.exists()).collect()
}

/// What a folder in Hugging Face layout has beside its weights.
struct Text {
    spec: Spec,
    tokenizer: Tokenizer,
    template: Option<Template>,
}

impl Text {
    fn open(name: &str, folder: &Path) -> Result<Text, ModelError> {
        let config_path = folder.join("config.json");
        let Some(config) = optional_json(&config_path)? else {
            if peft::is_adapter(folder) {
                return Err(adapter(folder));
            }
            return Err(ModelError::malformed(
                folder,
                "has no `config.json`, so it is not a model in Hugging Face layout",
            ));
        };
        let spec = config::from_hugging_face(&config_path, &config)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        let template = match folder_template(folder)? {
            Some(source) => Some(Template::new(name, &source, tokenizer.named_tokens().to_vec())?),
            None => None,
        };
        Ok(Text { spec, tokenizer, template })
    }
}

/// Says what an adapter folder is, and how it is used.
fn adapter(folder: &Path) -> ModelError {
    let base = peft::base_of(folder).map(|base| format!(", `{}`", base.escape_debug()));
    let shown = folder.display();
    let hint = format!(
        "`aligner model merge --adapter {shown} --out DIR` makes a model of it and its base{}; `aligner \
         model chat`, `score` and `eval` take it beside that, with `--adapter {shown}`",
        base.unwrap_or_default()
    );
    ModelError::Adapter { path: folder.to_owned(), hint }
}

/// The files beside the weights that change what a model reads or writes.
const SMALL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Returns the chat template of a folder: its own file, or the one in the tokenizer's settings,
/// which may be a list of named ones.
fn folder_template(folder: &Path) -> Result<Option<String>, ModelError> {
    let file = folder.join("chat_template.jinja");
    match crate::file::read_text(&file) {
        Ok(source) => return Ok(Some(source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ModelError::read(&file, error)),
    }
    let path: PathBuf = folder.join("tokenizer_config.json");
    let Some(settings) = optional_json(&path)? else { return Ok(None) };
    match &settings["chat_template"] {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(source) => Ok(Some(source.clone())),
        serde_json::Value::Array(list) => list
            .iter()
            .find(|one| one["name"] == "default")
            .and_then(|one| one["template"].as_str())
            .map(|source| Some(source.to_owned()))
            .ok_or_else(|| {
                ModelError::malformed(&path, "has several chat templates and none named `default`")
            }),
        _ => Err(ModelError::malformed(&path, "has a `chat_template` that is not a text")),
    }
}

#[cfg(test)]
pub(in crate::model) mod tests;
