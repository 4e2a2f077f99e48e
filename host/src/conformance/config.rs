//! Whether a plugin reads its configuration with care.

use serde_json::{Map, Value, json};

use super::report::Report;
use super::setup;
use crate::plugin::{Kind, LoadFault, Loaded, PluginError};

/// A key that no plugin has.
const UNKNOWN: &str = "no-such-key";

/// Tries configurations; returns whether the given one is taken.
pub fn check(loaded: &Loaded, kind: Kind, config: &str, report: &mut Report) -> bool {
    let try_with = |config: &str| loaded.configure(setup(kind, config, Default::default()));
    match try_with(config) {
        Ok(_) => report.ok(None, "takes its configuration", config),
        Err(error) => {
            let hint = match config {
                "{}" => "\n(`--config JSON` gives another one than `{}`)",
                _ => "",
            };
            report.fail(None, "takes its configuration", format!("not `{config}`\n{error}{hint}"));
            return false;
        }
    }
    let mut given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    let schema = loaded.schema();
    given.insert(UNKNOWN.to_owned(), json!(1));
    let text = Value::Object(given.clone()).to_string();
    refuses(report, "refuses an unknown key", &text, try_with(&text).map(|_| ()));
    given.remove(UNKNOWN);
    for text in [r#"{"a":"#, "[]", "null", ""] {
        let name = match text {
            "" => "refuses an empty text".to_owned(),
            text => format!("refuses `{text}`"),
        };
        refuses(report, &name, text, try_with(text).map(|_| ()));
    }

    if schema.is_empty() {
        report.note(None, "schema", "it has none, so nobody is told what its configuration may be");
        return true;
    }
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    match problem(&schema, "") {
        Some(problem) => {
            report.fail(None, "schema", problem);
            return true;
        }
        None if schema["type"] == "object" || schema.as_object().is_some_and(Map::is_empty) => {
            report.ok(None, "schema", summary(&schema));
        }
        None => report.fail(None, "schema", "its `type` is not `object`"),
    }
    let defaults = defaults(&schema, &given);
    if defaults.is_empty() {
        return true;
    }
    let names: Vec<&str> = defaults.keys().map(String::as_str).collect();
    let all: Map<String, Value> = given.into_iter().chain(defaults.clone()).collect();
    match try_with(&Value::Object(all).to_string()) {
        Ok(_) => report.ok(None, "takes the defaults of its schema", names.join(", ")),
        Err(error) => report.fail(
            None,
            "takes the defaults of its schema",
            format!("not `{}`\n{error}", Value::Object(defaults.clone())),
        ),
    }
    true
}

/// Notes whether a wrong configuration is refused as such.
fn refuses(report: &mut Report, check: &str, config: &str, tried: Result<(), PluginError>) {
    match tried {
        Err(PluginError::Load { fault: LoadFault::Config { message, .. }, .. }) => {
            report.ok(None, check, message);
        }
        Err(error) => report.fail(None, check, format!("it does not return `config`\n{error}")),
        Ok(()) => report.fail(
            None,
            check,
            format!("it takes `{config}`; a mistake in a plugin set would go unnoticed"),
        ),
    }
}

/// The defaults of keys that are not given.
fn defaults(schema: &Value, given: &Map<String, Value>) -> Map<String, Value> {
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let default = |(name, of): (String, Value)| Some((name, of.get("default")?.clone()));
    let defaults = properties.into_iter().filter_map(default);
    defaults.filter(|(name, _)| !given.contains_key(name)).collect()
}

fn summary(schema: &Value) -> String {
    let names: Vec<String> = match schema["properties"].as_object() {
        Some(properties) => properties.keys().cloned().collect(),
        None => Vec::new(),
    };
    match names.is_empty() {
        true => "no keys".to_owned(),
        false => names.join(", "),
    }
}

const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];

/// Returns what is wrong with a JSON Schema: with the keywords that tools read, and with its defaults. What
/// is not known here is let pass, as JSON Schema wants it.
fn problem(schema: &Value, at: &str) -> Option<String> {
    let here = if at.is_empty() { "the schema".to_owned() } else { format!("`{at}`") };
    let keys = match schema {
        Value::Bool(_) => return None,
        Value::Object(keys) => keys,
        _ => return Some(format!("{here} is neither an object nor true or false")),
    };
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    if let Some(value) = keys.get("type") {
        let known = match value {
            Value::Array(list) => !list.is_empty() && list.iter().all(is_type),
            value => is_type(value),
        };
        if !known {
            return Some(format!("{here} has the type {value}; there are {}", TYPES.join(", ")));
        }
    }
    if keys.get("enum").is_some_and(|it| it.as_array().is_none_or(Vec::is_empty)) {
        return Some(format!("`enum` of {here} is no list of values"));
    }
    const NUMBERS: [&str; 9] = [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    ];
    if let Some(name) =
        NUMBERS.iter().find(|name| keys.get(**name).is_some_and(|it| !it.is_number()))
    {
        return Some(format!("`{name}` of {here} is no number"));
    }
    let properties = match keys.get("properties") {
        None => Map::new(),
        Some(Value::Object(properties)) => properties.clone(),
        Some(_) => return Some(format!("`properties` of {here} is no object")),
    };
    if let Some(required) = keys.get("required") {
        let names = required.as_array().map(|it| it.iter().map(Value::as_str).collect::<Vec<_>>());
        let fits = |name: &Option<&str>| name.is_some_and(|name| properties.contains_key(name));
        if names.is_none_or(|names| !names.iter().all(fits)) {
            return Some(format!("`required` of {here} is no list of its properties"));
        }
    }
    let below = properties.iter().map(|(name, of)| (format!("{at}/{name}"), of));
    let others = ["items", "additionalProperties"]
        .into_iter()
        .filter_map(|name| Some((format!("{at}/{name}"), keys.get(name)?)));
    if let Some(problem) = below.chain(others).find_map(|(at, of)| problem(of, &at)) {
        return Some(problem);
    }
    let default = keys.get("default")?;
    let why = misfit(default, keys)?;
    Some(format!("the default of {here}, {default}, {why}"))
}

/// Returns why a value is not what a schema says.
fn misfit(value: &Value, schema: &Map<String, Value>) -> Option<String> {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    let fits = match schema.get("type") {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    if !fits {
        return Some(format!("is not of the type {}", schema["type"]));
    }
    if let Some(Value::Array(values)) = schema.get("enum")
        && !values.contains(value)
    {
        return Some("is none of its `enum`".to_owned());
    }
    let number = value.as_f64()?;
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let beyond = bound("minimum").is_some_and(|bound| number < bound)
        || bound("maximum").is_some_and(|bound| number > bound)
        || bound("exclusiveMinimum").is_some_and(|bound| number <= bound)
        || bound("exclusiveMaximum").is_some_and(|bound| number >= bound);
    beyond.then(|| "is out of its bounds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_looked_through() {
        let check = |schema: Value, expected: &str| {
            let found = problem(&schema, "").unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check(json!({}), "");
        check(json!([]), "the schema is neither");
        check(json!({"type": "object", "additionalProperties": false}), "");
        check(json!({"type": "text"}), "the type \"text\"");
        check(json!({"type": ["string", "null"]}), "");
        check(json!({"properties": []}), "`properties` of the schema is no object");
        check(json!({"properties": {"a": {"type": "x"}}}), "`/a` has the type");
        check(json!({"properties": {"a": {"items": 3}}}), "`/a/items` is neither");
        check(json!({"properties": {"a": {"enum": []}}}), "`enum` of `/a`");
        check(json!({"properties": {"a": {"minimum": "1"}}}), "`minimum` of `/a`");
        check(json!({"required": ["a"]}), "`required` of the schema");
        check(json!({"required": ["a"], "properties": {"a": {}}}), "");
        let default = |of: Value| json!({"properties": {"a": of}});
        check(default(json!({"type": "integer", "default": 1.5})), "is not of the type");
        check(default(json!({"type": "integer", "minimum": 2, "default": 1})), "out of its bounds");
        check(default(json!({"enum": ["x", "y"], "default": "z"})), "none of its `enum`");
        check(default(json!({"type": "number", "exclusiveMinimum": 0, "default": 0.1})), "");
        check(default(json!({"type": "array", "items": {"type": "string"}, "default": []})), "");
    }

    #[test]
    fn given_keys_need_no_default() {
        let schema = json!({"properties": {"a": {"default": 1}, "b": {"default": 2}, "c": {}}});
        let given = json!({"a": 5}).as_object().cloned().unwrap();
        assert_eq!(Value::Object(defaults(&schema, &given)), json!({"b": 2}));
    }
}
