//! `aligner plugin check`: what a component is, imports and asks, before anything of it runs.

use serde_json::{Value, json};

use super::CheckArgs;
use crate::{
    cli::{CliError, host, output},
    plugin::{CONTRACT, Interface, Limits, Loaded, Setup},
};

/// Says what a component is. A component that a run would refuse is refused here, with the same
/// words; with `--config`, its configuration is tried too.
pub fn main(args: &CheckArgs) -> Result<(), CliError> {
    let file = super::named(&args.file, &args.shown.open())?;
    let begun = std::time::Instant::now();
    let loaded = host::runtime()?.open(&file, &Limits::default())?;
    let load_milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let compile_milliseconds = loaded.compiled_in().map(|time| time.as_secs_f64() * 1e3);
    let kinds: Vec<String> = loaded.kinds().iter().map(ToString::to_string).collect();
    if let Some(config) = &args.config {
        for kind in loaded.kinds() {
            loaded.configure(Setup { config: config.clone(), ..Setup::new(kind) })?;
        }
    }
    let interfaces: Vec<&str> = loaded.interfaces().iter().map(|it| it.as_str()).collect();
    let built_for = file.contract();
    let imports = file.imports();
    if args.json {
        let schema: Value = serde_json::from_str(loaded.schema()).unwrap_or(Value::Null);
        let found = json!({
            "name": loaded.name(),
            "version": loaded.version(),
            "summary": loaded.summary(),
            "kinds": kinds,
            "interfaces": interfaces,
            "imports": imports,
            "contract": CONTRACT,
            "built_for": built_for,
            "may_ask": may_ask(&loaded),
            "needs": loaded.needs(),
            "digest": loaded.digest(),
            "bytes": file.len(),
            "config_schema": schema,
            "compile_milliseconds": compile_milliseconds,
            "load_milliseconds": load_milliseconds,
        });
        return output::print(&format!("{found:#}\n"));
    }
    let mut text = format!("{} {}\n  {}\n", loaded.name(), loaded.version(), loaded.summary());
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<13}{value}\n"));
    line("kind", kinds.join(", "));
    line("exports", interfaces.join(", "));
    // More than that was refused; JSON has the names.
    let log = imports.iter().any(|name| name.contains("/log@"));
    line("imports", if log { "nothing but `log` and types" } else { "nothing but types" }.into());
    let built_for = built_for.unwrap_or_else(|| "which it does not say".into());
    line("contract", format!("{CONTRACT}, built for {built_for}"));
    line("asks", match may_ask(&loaded) {
        true => "may ask the models that its entry in a plugin set names; `plugin test` says which it asks".into(),
        false => "nothing: its interface cannot".into(),
    });
    line(
        "needs",
        if loaded.needs().is_empty() { "nothing".into() } else { loaded.needs().join(", ") },
    );
    line("config", keys(&loaded));
    line("file", format!("{} bytes, sha256 {}", file.len(), loaded.digest()));
    if let Some(milliseconds) = compile_milliseconds {
        line("compiled in", format!("{milliseconds:.1} ms"));
    }
    line("loaded in", format!("{load_milliseconds:.1} ms"));
    output::print(&text)
}

/// Returns whether calls of an interface that it has may ask.
fn may_ask(loaded: &Loaded) -> bool {
    loaded.interfaces().iter().any(|interface| match interface {
        Interface::Sampler | Interface::SetFilter => false,
        Interface::Principle
        | Interface::PromptWriter
        | Interface::Filter
        | Interface::Judge
        | Interface::Difficulty => true,
    })
}

fn keys(loaded: &Loaded) -> String {
    let schema: Value = serde_json::from_str(loaded.schema()).unwrap_or_default();
    match schema["properties"].as_object() {
        Some(properties) if !properties.is_empty() => {
            properties.keys().cloned().collect::<Vec<_>>().join(", ")
        }
        _ if loaded.schema().is_empty() => "its keys are not told".into(),
        _ => "no keys".into(),
    }
}
