//! A checked plugin set as a file again, with everything filled in: whoever has it needs neither the file that
//! was typed nor the arguments that stood over it.

use serde_json::{Map, Value, json};

use super::{Alpha, Extrapolate, Goal, Objective, PluginSet, Source, Train};

/// Returns the text of a plugin set that is checked to be `set` again. `digests` are those of its plugins, in
/// the order of [`PluginSet::plugins`], for what does not come with aligner; without them, nothing says what a
/// file has to be.
///
/// `None` where it names files of a pack, which no file can.
pub fn resolved(set: &PluginSet, digests: &[&str]) -> Option<String> {
    let packed = |source: &Source| matches!(source, Source::Packed { .. });
    if set.plugins().iter().any(|(_, plugin)| packed(&plugin.source))
        || set.data.files().any(|(_, file)| packed(file))
    {
        return None;
    }
    let mut root = object(json!(set));
    let names = ["principle", "sampler", "filters", "judge", "difficulty"];
    let mut digests = digests.iter();
    for name in names {
        let plugins = match root.get_mut(name) {
            Some(Value::Array(filters)) => filters.iter_mut().collect(),
            Some(plugin @ Value::Object(_)) => vec![plugin],
            _ => Vec::new(),
        };
        for plugin in plugins {
            typed_plugin(plugin, digests.next().copied());
        }
    }
    if let Some(filters) = root.remove("filters") {
        root.insert("filter".into(), filters);
    }
    let models = root.entry("models").or_insert(Value::Null);
    let (mut models_typed, named) = split(models.take(), "named");
    models_typed.remove("saved");
    let servers = models_typed.remove("servers").unwrap_or_default();
    models_typed.extend(object(named));
    for (name, server) in object(servers) {
        let mut server = object(server);
        server.insert("base".into(), models_typed.remove(&name).unwrap_or_default());
        // Without a budget it has no end.
        if !server.contains_key("tokens") {
            server.remove("on_budget");
        }
        models_typed.insert(name, Value::Object(server));
    }
    *models = Value::Object(models_typed);
    // Where nothing was typed, they are what stands there already.
    let held_out =
        set.models.aligned.is_some() && set.data.held_out.as_ref() == Some(&set.data.prompts);
    let given = set.data.pairs.is_some() || held_out;
    if let Some(Value::Object(data)) = root.get_mut("data").filter(|_| given) {
        data.remove("prompts");
    }
    if let (Some(evaluate), Some(train)) = (set.train.as_ref(), root.get_mut("train")) {
        *train = typed_train(evaluate);
    }
    if let (Some(extrapolate), Some(typed)) = (&set.extrapolate, root.get_mut("extrapolate")) {
        *typed = typed_extrapolate(extrapolate);
    }
    if let Some(Value::Object(watch)) = root.get_mut("watch") {
        let limits = watch.remove("limits").unwrap_or_default();
        watch.extend(object(limits));
    }
    root.insert("rounds".into(), rounds(set));
    // A list of no tables says nothing of what it would hold.
    root.retain(|key, value| !["filter", "rounds"].contains(&key.as_str()) || *value != json!([]));
    let root = without_nulls(Value::Object(root));
    let table: toml::Table = serde_json::from_value(root).ok()?;
    toml::to_string(&ordered(table)).ok()
}

/// Puts tables into the order of plugin sets.
fn ordered(mut table: toml::Table) -> toml::Table {
    let mut ordered = toml::Table::new();
    for key in super::keys::ROOT.keys {
        if let Some(value) = table.remove(*key) {
            ordered.insert((*key).to_owned(), value);
        }
    }
    ordered
}

/// Gives a plugin the names that are typed.
fn typed_plugin(plugin: &mut Value, digest: Option<&str>) {
    let Value::Object(plugin) = plugin else { return };
    let source = plugin.remove("source").unwrap_or_default();
    let builtin = source.as_str().is_some_and(|source| source.starts_with("builtin:"));
    if let Some(digest) = digest.filter(|_| !builtin) {
        plugin.insert("sha256".into(), digest.into());
    }
    plugin.insert("plugin".into(), source);
    if let Some(Value::Object(limits)) = plugin.get_mut("limits")
        && let Some(memory) = limits.remove("memory_bytes")
    {
        limits.insert("memory".into(), memory);
    }
}

fn typed_train(train: &Train) -> Value {
    let mut typed = object(json!(train));
    if let Objective::Preference(preference) = &train.objective {
        typed.extend(object(json!(preference)));
    }
    typed.insert("objective".into(), train.objective.name().into());
    // A round may have another than the table that it stands over.
    let backend = if train.trl.is_some() { "trl" } else { "native" };
    typed.insert("backend".into(), backend.into());
    match typed.get_mut("lora") {
        Some(Value::Object(lora)) => {
            for key in ["rank_pattern", "alpha_pattern"] {
                if let Some(Value::Array(pairs)) = lora.remove(key) {
                    let pair = |pair: Value| Some((pair[0].as_str()?.to_owned(), pair[1].clone()));
                    lora.insert(key.into(), pairs.into_iter().filter_map(pair).collect());
                }
            }
            typed.insert("method".into(), "lora".into());
        }
        _ => {
            typed.remove("lora");
            typed.insert("method".into(), "full".into());
        }
    }
    Value::Object(typed)
}

fn typed_extrapolate(extrapolate: &Extrapolate) -> Value {
    let mut typed = object(json!(extrapolate));
    match &extrapolate.alpha {
        Alpha::Fixed(alpha) => {
            typed.insert("alpha".into(), json!(alpha));
        }
        Alpha::Search(search) => {
            typed.extend(object(json!(search)));
            typed.insert("alpha".into(), "search".into());
            typed.insert("objective".into(), search.objective.as_str().into());
            if let Goal::Judge(Some(reward)) = &search.objective {
                typed.insert("reward".into(), reward.as_str().into());
            }
        }
    }
    Value::Object(typed)
}

/// Returns an entry for each round that has settings of its own, or a name for what it makes.
fn rounds(set: &PluginSet) -> Value {
    let entry = |(index, round): (usize, &super::RoundSettings)| {
        let number = index as u32 + 1;
        let mut entry = Map::new();
        entry.insert("generate".into(), json!(round.generate));
        if let Some(train) = &round.train {
            entry.insert("train".into(), typed_train(train));
        }
        if set.judge.is_some() {
            entry.insert("judge".into(), round.judge.into());
        }
        match &round.extrapolate {
            Some(extrapolate) => {
                entry.insert("extrapolate".into(), typed_extrapolate(extrapolate));
            }
            None if set.extrapolate.is_some() => {
                entry.insert("extrapolate".into(), false.into());
            }
            None => {}
        }
        if let Some(name) = set.save_as(number) {
            entry.insert("save_as".into(), name.into());
        }
        Value::Object(entry)
    };
    Value::Array(set.rounds.iter().enumerate().map(entry).collect())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn split(value: Value, key: &str) -> (Map<String, Value>, Value) {
    let mut map = object(value);
    let part = map.remove(key).unwrap_or_default();
    (map, part)
}

/// TOML has no null: what is absent is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::plugin_set::{Embedded, Override, load, parse};

    /// Checks that what is written is read as the same set.
    fn check(set: &PluginSet, folder: &Path, embedded: &Embedded<'_>) {
        let digest = "0123456789abcdef".repeat(4);
        let digests = vec![digest.as_str(); set.plugins().len()];
        let text = resolved(set, &digests).expect("nothing of a pack");
        let again = parse("again", &text, Path::new("/"), Path::new("/"), &[], embedded);
        let mut again =
            again.unwrap_or_else(|error| panic!("{}: {error}\n{text}", folder.display()));
        let mut set = set.clone();
        for set in [&mut set, &mut again] {
            set.plugins_mut().into_iter().for_each(|plugin| plugin.pin = None);
        }
        assert_eq!(again, set, "{}\n{text}", folder.display());
    }

    #[test]
    fn what_is_written_is_the_same_set() {
        let plugins: Vec<&str> = aligner_embed::component_names().collect();
        let data: Vec<&str> = aligner_embed::DATA.iter().map(|(name, _)| *name).collect();
        let embedded =
            Embedded { plugin_sets: aligner_embed::PLUGIN_SETS, plugins: &plugins, data: &data };
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plugin_sets");
        let mut checked = 0;
        for entry in fs::read_dir(cases).unwrap() {
            let folder = entry.unwrap().path();
            if !folder.join("set.json").exists() {
                continue;
            }
            let arguments = fs::read_to_string(folder.join("arguments.txt")).unwrap_or_default();
            let overrides: Vec<Override> =
                arguments.lines().map(|line| Override::parse(line).unwrap()).collect();
            let loaded = load(&folder.join("set.toml"), &overrides, &embedded).unwrap();
            check(&loaded.set, &folder, &embedded);
            checked += 1;
        }
        for (name, _) in aligner_embed::PLUGIN_SETS {
            let loaded = load(Path::new(name), &[], &embedded).unwrap();
            check(&loaded.set, Path::new(name), &embedded);
            checked += 1;
        }
        assert!(checked > 35, "only {checked} plugin sets");
    }
}
