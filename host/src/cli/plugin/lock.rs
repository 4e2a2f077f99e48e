//! `aligner plugin lock`.

use std::path::Path;

use super::LockArgs;
use crate::{
    cli::{CliError, exit, host, output},
    digest::sha256_of,
    plugin::Limits,
    plugin_set::{
        self, PluginSet, Source,
        lock::{LOCK_FILE, Lock, Locked, Locking},
    },
    progress::{Progress, counted},
    source::Fetcher,
};

/// Writes down what every source of a plugin set is; a plugin is checked as a run would check it.
pub fn main(args: &LockArgs) -> Result<(), CliError> {
    let loaded = plugin_set::load_to_lock(&args.set, &host::embedded())?;
    let Some(folder) = loaded.folder else {
        let message =
            format!("`{}` comes with aligner, and so does all that it names", loaded.name);
        return Err(CliError::usage(message).hint("name a plugin set that is a file"));
    };
    let mut sources = plugins(&loaded.set, &folder, &args.shown.open())?;
    for (_, source) in loaded.set.data.files() {
        let Source::File(path) = source else { continue };
        let read =
            crate::file::open(path).and_then(|file| Ok((file.metadata()?.len(), sha256_of(file)?)));
        let (bytes, sha256) = read.map_err(|error| {
            let message = format!("cannot read data file `{}`: {error}", path.display());
            CliError::new(exit::MODEL_OR_DATA, message)
        })?;
        let source = named(source, &folder);
        sources.push(Locked { source, sha256, bytes, manifest: None, sets: Vec::new() });
    }
    sources.sort_by(|a, b| a.source.cmp(&b.source));
    sources.dedup_by(|a, b| a.source == b.source);
    let mut lock = Lock::read(&folder)?.unwrap_or_else(Lock::empty);
    let changed = lock.put(&Locking::name_of(&args.set), sources.clone());
    lock.write(&folder)?;
    let mut text = String::new();
    for source in &sources {
        text.push_str(&format!("{}  {}\n", source.sha256, source.source));
        if let Some(before) = changed.iter().find(|before| before.source == source.source) {
            text.push_str(&format!("{}  as it was before\n", before.sha256));
        }
    }
    let file = args.set.with_file_name(LOCK_FILE);
    text.push_str(&format!("{} in {}\n", counted(sources.len() as u64, "sources"), file.display()));
    output::print(&text)
}

/// Returns what the plugins are that do not come with aligner.
fn plugins(set: &PluginSet, folder: &Path, progress: &Progress) -> Result<Vec<Locked>, CliError> {
    let runtime = host::runtime()?;
    let mut downloads = host::Downloads::new(progress);
    let fetcher = Fetcher::from_env();
    let mut locked = Vec::new();
    for (_, plugin) in set.plugins() {
        if matches!(plugin.source, Source::Builtin(_)) {
            continue;
        }
        let report = &mut |state| downloads.note(state);
        let found = fetcher.open(&plugin.source, plugin.pin.as_ref(), report)?;
        runtime.open(&found.component, &Limits::default())?;
        // What was fetched before comes without the manifest that a tag stands for; a lock says it all the same.
        let manifest = match (&plugin.source, found.manifest) {
            (Source::Oci(_), None) => {
                let asked = fetcher.open(&plugin.source, None, report)?;
                asked.manifest.filter(|_| asked.component.digest() == found.component.digest())
            }
            (_, manifest) => manifest,
        };
        locked.push(Locked {
            source: named(&plugin.source, folder),
            sha256: found.component.digest(),
            bytes: found.component.len() as u64,
            manifest,
            sets: Vec::new(),
        });
    }
    downloads.finish();
    Ok(locked)
}

/// Returns a source as the plugin set names it.
fn named(source: &Source, folder: &Path) -> String {
    match source {
        Source::File(path) => path.strip_prefix(folder).unwrap_or(path).display().to_string(),
        source => source.to_string(),
    }
}
