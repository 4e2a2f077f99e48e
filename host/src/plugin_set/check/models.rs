//! `[models]`, and the names under which rounds leave their policies.

use std::collections::BTreeMap;

use super::{Checked, Surroundings, is_argument, one_of, server, utf8};
use crate::model::source::alias::ALIASES;
use crate::plugin_set::{
    MODEL_ROLES, Models,
    keys::{GENERATE, ROUNDS},
    problem::{Problem, list},
    section::Section,
    typed::Place,
};

pub(super) fn models(root: &Section<'_>, around: &Surroundings<'_>) -> Checked<Models> {
    let example = "an alias, a folder, a GGUF file or \"hf:owner/name@revision\"";
    let table = root.required_free_table("models")?;
    let mut models = Models {
        policy: String::new(),
        aligned: None,
        named: Default::default(),
        servers: Default::default(),
        saved: Default::default(),
    };
    both_names(&table)?;
    for entry in table.entries() {
        let server = server::server(&table, entry, around)?;
        let source = match server {
            Some(_) => {
                let within =
                    Section::free(&entry.value, &format!("`{}` of `[models]`", entry.key))?;
                model_source(&within, "base", within.required_text("base", example)?, around)?
            }
            None => {
                let source = table.required_text(&entry.key, example)?;
                model_source(&table, &entry.key, source, around)?
            }
        };
        let mut serve = |name: &str| {
            if let Some(server) = server.clone() {
                models.servers.insert(name.to_owned(), server);
            }
        };
        match entry.key.as_str() {
            // Whoever names another model on the command line means this one.
            "initial" if table.has("policy") && is_argument(table.place_of("policy")) => {}
            "policy" if table.has("initial") && is_argument(table.place_of("initial")) => {}
            "policy" | "initial" => {
                serve("policy");
                models.policy = source;
            }
            "aligned" if server.is_some() => {
                return Err(table
                    .wrong("aligned", "is a server, and its weights are taken, or its adapter")
                    .label("expected a model or an adapter folder"));
            }
            "aligned" => models.aligned = Some(source),
            role if MODEL_ROLES.contains(&role) => {
                return Err(Problem::new(
                    format!("`{role}` in `[models]` always means a state of the policy"),
                    &entry.place,
                )
                .label("expected another name"));
            }
            name if !is_name(name) => {
                return Err(Problem::new(
                    format!("`{name}` in `[models]` is no name"),
                    &entry.place,
                )
                .label(NAME));
            }
            name => {
                serve(name);
                models.named.insert(name.to_owned(), source);
            }
        }
    }
    if models.policy.is_empty() {
        return Err(table.missing("policy", example));
    }
    models.saved = saved(root, &models)?;
    Ok(models)
}

/// `initial` is another name for `policy`, for methods that speak of an initial and an aligned model.
fn both_names(table: &Section<'_>) -> Checked<()> {
    let places = ["policy", "initial"].map(|key| table.place_of(key));
    let both = table.has("policy") && table.has("initial");
    match both && is_argument(places[0]) == is_argument(places[1]) {
        false => Ok(()),
        true => Err(table
            .wrong("initial", "is given, and so is `policy`")
            .label("expected one of them: both name the model that is aligned")),
    }
}

/// What a model may be called. A search for alpha calls its candidates otherwise.
const NAME: &str = "expected letters, digits, `-`, `_` and `.`, at most 64 in all";

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(letter)
}

/// Reads the names under which rounds leave their policies, with the round of each.
fn saved(root: &Section<'_>, models: &Models) -> Checked<BTreeMap<String, u32>> {
    let mut saved = BTreeMap::new();
    for (index, table) in root.tables("rounds", &ROUNDS)?.iter().enumerate() {
        let Some(name) = table.text("save_as")? else { continue };
        if !is_name(&name) {
            return Err(table.wrong("save_as", "is no name").label(NAME));
        }
        let taken = if MODEL_ROLES.contains(&name.as_str()) || name == "aligned" {
            Some("always means another model".to_owned())
        } else if models.named.contains_key(&name) {
            Some("is a model of `[models]`".to_owned())
        } else {
            saved.get(&name).map(|round| format!("is what round {round} saves"))
        };
        if let Some(taken) = taken {
            let wrong = table.wrong("save_as", &format!("is `{name}`, which {taken}"));
            return Err(wrong.label("expected another name"));
        }
        saved.insert(name, index as u32 + 1);
    }
    Ok(saved)
}

/// Makes the paths among model names absolute. A path has a separator, begins with a dot, ends in
/// `.gguf`, or is there; everything else is an alias or an `hf:` name, which the loader knows. A pack
/// names no paths of whoever opens it.
pub(super) fn model_source(
    table: &Section<'_>,
    key: &str,
    source: String,
    around: &Surroundings<'_>,
) -> Checked<String> {
    if source.is_empty() {
        return Err(table.wrong(key, "is empty").label("expected a model"));
    }
    if let Some((scheme, _)) = source.split_once(':')
        && scheme.len() > 1
        && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return match scheme {
            "hf" => Ok(source),
            _ => Err(table
                .wrong(key, &format!("begins with `{scheme}:`, which names no model"))
                .label("expected an alias, a folder, a GGUF file or \"hf:owner/name@revision\"")),
        };
    }
    let path = around.folder(table.place_of(key)).join(&source);
    if around.pack.is_some() && !is_argument(table.place_of(key)) {
        let aliases: Vec<&str> = ALIASES.iter().map(|alias| alias.name).collect();
        return match aliases.contains(&source.as_str()) {
            true => Ok(source),
            false => Err(table
                .wrong(key, &format!("is `{source}`, and a pack holds no models"))
                .label(format!(
                    "expected \"hf:owner/name@revision\" or an alias: {}",
                    list(&aliases)
                ))
                .hint(format!("`--set models.{key}=PATH` gives a model of yours"))),
        };
    }
    if is_model_path(&source) || path.exists() { utf8(table, key, &path) } else { Ok(source) }
}

/// Returns whether a model name is a path, whatever is there.
pub(in crate::plugin_set) fn is_model_path(source: &str) -> bool {
    source.contains(['/', '\\']) || source.starts_with('.') || source.ends_with(".gguf")
}

pub(super) fn known_model(name: &str, place: &Place, models: &Models) -> Checked<()> {
    let names = models.named.keys().chain(models.saved.keys()).map(String::as_str);
    let known: Vec<&str> = MODEL_ROLES.into_iter().chain(names).collect();
    if known.contains(&name) {
        return Ok(());
    }
    Err(Problem::new(format!("no model is called `{name}`"), place)
        .label(one_of(&known))
        .suggest(name, known.iter().copied()))
}

/// Fails where a round generates with what it saves itself, or what a later one does.
pub(super) fn generates_with(
    model: &str,
    round: usize,
    models: &Models,
    entry: &Section<'_>,
    root: &Section<'_>,
) -> Checked<()> {
    let Some(saving) = models.saved.get(model).filter(|saving| **saving as usize >= round) else {
        return Ok(());
    };
    let own = entry.table("generate", &GENERATE)?.filter(|table| table.has("model"));
    let table = match own {
        Some(own) => Some(own),
        None => root.table("generate", &GENERATE)?,
    };
    let place = table.as_ref().map_or(entry.place(), |table| table.place_of("model"));
    let message = format!(
        "round {round} generates with `{model}`, which round {saving} saves once it is done"
    );
    Err(Problem::new(message, place).label("expected a model that is there when the round begins"))
}
