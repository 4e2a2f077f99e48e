//! `aligner plugin pull` and `aligner plugin push`.

use std::path::Path;

use super::{PullArgs, PushArgs};
use crate::{
    cli::{CliError, host, output, place},
    plugin::{self, Limits, Loaded},
    plugin_set::Source,
    source::{Fetcher, Found},
};

/// Fetches a component, checks it as a run would, and prints what a plugin set says of it.
pub fn pull(args: &PullArgs) -> Result<(), CliError> {
    let (source, found) = host::component(&args.source, &args.shown.open())?;
    let loaded = host::runtime()?.open(&found.component, &Limits::default())?;
    if let Some(out) = &args.out {
        write(out, &found.component)?;
    }
    let mut text = description(&loaded, &found.component);
    if let Some(manifest) = &found.manifest {
        text.push_str(&format!("manifest  sha256:{manifest}\n"));
    }
    if let Some(out) = &args.out {
        text.push_str(&format!("kept as   {}\n", out.display()));
    }
    text.push_str(&format!("\nin a plugin set:\n{}", lines(&source, &found)));
    output::print(&text)
}

/// Puts a component into a registry, once a run would take it.
pub fn push(args: &PushArgs) -> Result<(), CliError> {
    let reference = match host::source(&args.reference)? {
        Source::Oci(reference) if !reference.contains('@') => reference,
        _ => {
            let message = format!("`{}` is no place in a registry", args.reference);
            return Err(CliError::usage(message).hint("write `oci:REGISTRY/NAME:TAG`"));
        }
    };
    let (_, found) = host::component(&args.file, &args.shown.open())?;
    let loaded = host::runtime()?.open(&found.component, &Limits::default())?;
    let annotations = [
        ("org.opencontainers.image.title", loaded.name()),
        ("org.opencontainers.image.version", loaded.version()),
        ("org.opencontainers.image.description", loaded.summary()),
    ];
    let pushed = Fetcher::from_env().push(&reference, &found.component, &annotations)?;
    let mut text = description(&loaded, &found.component);
    text.push_str(&format!("manifest  sha256:{}\n", pushed.manifest));
    let source = Source::Oci(pushed.reference);
    text.push_str(&format!("\nin a plugin set:\n{}", lines(&source, &found)));
    output::print(&text)
}

fn description(loaded: &Loaded, component: &plugin::Source) -> String {
    let kinds: Vec<String> = loaded.kinds().iter().map(ToString::to_string).collect();
    format!(
        "{} {}\n  {}\nkind      {}\nfile      {} bytes, sha256 {}\n",
        loaded.name(),
        loaded.version(),
        loaded.summary(),
        kinds.join(", "),
        component.len(),
        loaded.digest()
    )
}

/// Returns the lines of a plugin set that name a component and say what it is.
fn lines(source: &Source, found: &Found) -> String {
    let manifest = found.manifest.as_ref();
    let named = match (source, manifest) {
        (Source::Oci(_), Some(digest)) if !source.is_exact() => format!("{source}@sha256:{digest}"),
        _ => source.to_string(),
    };
    let plugin = toml::Value::from(named);
    match source {
        // Its manifest's digest says which one it is.
        Source::Oci(_) | Source::Builtin(_) => format!("plugin = {plugin}\n"),
        Source::Url(_) | Source::File(_) | Source::Packed { .. } => {
            format!("plugin = {plugin}\nsha256 = \"{}\"\n", found.component.digest())
        }
    }
}

fn write(out: &Path, component: &plugin::Source) -> Result<(), CliError> {
    place::write(out, component.as_bytes())
}
