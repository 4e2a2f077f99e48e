//! Which plugins are evaluated, from the command line and from a TOML file.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::EvaluateArgs;
use crate::{
    cli::{CliError, host},
    plugin_set::Source,
    shown::printable,
};

/// A plugin, with its configuration and rights.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What tables call it, without what cannot be seen; no two are called the same.
    pub name: String,
    /// The component.
    pub source: Source,
    /// A JSON object.
    pub config: Value,
    /// Whether it may ask the model.
    pub ask: bool,
    /// Whether a judge is shown each completion of a pair by itself.
    pub each: bool,
}

/// The TOML file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugin: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    source: Source,
    #[serde(default)]
    config: serde_json::Map<String, Value>,
    #[serde(default)]
    ask: bool,
    #[serde(default)]
    each: bool,
}

/// Returns what the user named, in that order: the command line first.
pub fn wanted(args: &EvaluateArgs) -> Result<Vec<Wanted>, CliError> {
    let mut all: Vec<Wanted> =
        args.plugins.iter().map(|text| named(text)).collect::<Result<_, _>>()?;
    if let Some(path) = &args.file {
        all.extend(read(path)?);
    }
    if all.is_empty() {
        let error = CliError::usage("no plugin is named");
        return Err(error.hint("`aligner evaluate builtin:length --data FILE` evaluates one"));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = all.iter().find(|wanted| !names.insert(&wanted.name)) {
        let message = format!("two plugins are called `{}`", twice.name);
        return Err(CliError::usage(message).hint(format!(
            "give each a name of its own, for example `a={} b={}`",
            twice.source, twice.source
        )));
    }
    for text in &args.config {
        let wrong = |why: String| CliError::usage(format!("`--config {text}`: {why}"));
        let (name, json) =
            text.split_once('=').ok_or_else(|| wrong("expected NAME=JSON".into()))?;
        let config = match serde_json::from_str(json) {
            Ok(config @ Value::Object(_)) => config,
            Ok(_) => return Err(wrong("expected a JSON object".into())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        find(&mut all, "--config", name)?.config = config;
    }
    for name in &args.ask {
        find(&mut all, "--ask", name)?.ask = true;
    }
    for name in &args.each {
        find(&mut all, "--each", name)?.each = true;
    }
    Ok(all)
}

fn find<'a>(all: &'a mut [Wanted], flag: &str, name: &str) -> Result<&'a mut Wanted, CliError> {
    let names: Vec<String> = all.iter().map(|wanted| format!("`{}`", wanted.name)).collect();
    all.iter_mut().find(|wanted| wanted.name == printable(name)).ok_or_else(|| {
        let error = CliError::usage(format!("`{flag}` names `{name}`, and no plugin is called so"));
        error.hint(format!("there are {}", names.join(", ")))
    })
}

/// Reads `NAME=SOURCE`, or a source alone, which is called by its last part.
fn named(text: &str) -> Result<Wanted, CliError> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
    };
    let (name, source) = match text.split_once('=') {
        Some((name, source)) if is_name(name) => (Some(name.to_owned()), source),
        _ => (None, text),
    };
    if source.is_empty() {
        return Err(CliError::usage(format!("`{text}` names no plugin")));
    }
    let source = host::source(source)?;
    let name = name.unwrap_or_else(|| printable(&source.short()));
    Ok(Wanted { name, source, config: Value::Object(Default::default()), ask: false, each: false })
}

/// Reads a TOML file; paths in it are relative to it.
fn read(path: &Path) -> Result<Vec<Wanted>, CliError> {
    let shown = path.display();
    let text = crate::file::read_text(path)
        .map_err(|error| CliError::usage(format!("cannot read `{shown}`: {error}")))?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let error = CliError::usage(format!("`{shown}`: {}", error.to_string().trim_end()));
        error.hint("a plugin is `[[plugin]]` with `source`, and perhaps `name`, `config`, `ask` and `each`")
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let wanted = |entry: Entry| {
        let source = match entry.source {
            Source::File(path) => Source::File(folder.join(path)),
            elsewhere => elsewhere,
        };
        Wanted {
            name: printable(&entry.name.unwrap_or_else(|| source.short())),
            source,
            config: Value::Object(entry.config),
            ask: entry.ask,
            each: entry.each,
        }
    };
    Ok(file.plugin.into_iter().map(wanted).collect())
}
