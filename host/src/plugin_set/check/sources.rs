//! Where plugins and data files come from, and what a lock says of them.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use super::{Checked, Surroundings, is_argument, one_of, utf8};
use crate::{
    digest::sha256_of,
    plugin_set::{
        Pin, PinnedBy, Source,
        lock::{Locked, Locking},
        problem::Problem,
        section::Section,
        typed::Place,
    },
};

const COMPONENT: &str = "\"builtin:NAME\", a file, \"https://…\" or \"oci:…\"";
const DATA: &str = "\"builtin:NAME\" or a file";

/// Reads `plugin` with the `sha256` beside it, and sees that it is there, as far as that is known without
/// fetching anything.
pub(super) fn component(
    table: &Section<'_>,
    around: &Surroundings<'_>,
) -> Checked<(Source, Option<Pin>)> {
    let text = table.required_text("plugin", COMPONENT)?;
    let source = source(table, "plugin", &text, around)?;
    if let Source::Builtin(name) = &source {
        embedded(table, "plugin", name, "plugin", around.embedded.plugins)?;
        return match typed_digest(table)? {
            Some(_) => Err(table
                .wrong("sha256", "is given for a plugin that comes with aligner")
                .label("expected no `sha256` beside `builtin:`")),
            None => Ok((source, None)),
        };
    }
    let typed = typed_digest(table)?;
    let locked = locked(table, "plugin", &source, around)?;
    if let (Some(typed), Some(locked)) = (&typed, locked)
        && *typed != locked.sha256
    {
        return Err(table
            .wrong("sha256", "is not what `aligner.lock` says")
            .label(format!("`aligner.lock` has {}", locked.sha256))
            .hint(accepts(around)));
    }
    let manifest = locked.and_then(|locked| locked.manifest.clone());
    let pin = match (typed, locked, around.locking) {
        (Some(sha256), _, _) => Some(Pin { sha256, manifest, by: PinnedBy::Key }),
        (None, Some(locked), Locking::Kept { set, .. }) => {
            let by = PinnedBy::Lock { set: set.to_owned() };
            Some(Pin { sha256: locked.sha256.clone(), manifest, by })
        }
        (None, _, _) => None,
    };
    let loose = source.is_remote() && !source.is_exact() && pin.is_none();
    if loose && !matches!(around.locking, Locking::Renewed) {
        let pinned = match source {
            Source::Oci(_) => "expected `@sha256:…` behind it, or `sha256` beside it",
            _ => "expected `sha256` beside it",
        };
        return Err(table
            .wrong("plugin", "is fetched, and nothing says what it has to be")
            .label(pinned)
            .hint(format!(
                "`aligner plugin pull {source}` prints the lines to write here; `aligner plugin lock SET` \
                 keeps what all sources of a plugin set are"
            )));
    }
    Ok((source, pin))
}

/// Reads the `source` of data under `key`, and sees that it is there and what a lock says it is.
pub(super) fn data_file(
    table: &Section<'_>,
    key: &str,
    text: &str,
    around: &Surroundings<'_>,
) -> Checked<Source> {
    let source = source(table, key, text, around)?;
    match &source {
        Source::Builtin(name) => embedded(table, key, name, "data", around.embedded.data)?,
        Source::Url(_) | Source::Oci(_) => return Err(not_in_this_version(table, key, text)),
        Source::Packed { .. } => {}
        Source::File(path) => {
            let Some(locked) = locked(table, key, &source, around)? else { return Ok(source) };
            let opened = crate::file::open(path).and_then(sha256_of);
            let found = opened.map_err(|error| unreadable(table, key, text, &error))?;
            if found != locked.sha256 {
                return Err(table
                    .wrong(key, &format!("names `{text}`, which is not what `aligner.lock` says"))
                    .label(format!("has sha256 {found}, `aligner.lock` has {}", locked.sha256))
                    .hint(accepts(around)));
            }
        }
    }
    Ok(source)
}

/// Parses a source, and sees that a file is there. In a pack it is the name of another file of it.
fn source(
    table: &Section<'_>,
    key: &str,
    text: &str,
    around: &Surroundings<'_>,
) -> Checked<Source> {
    let (expected, names) = match key {
        "plugin" => (COMPONENT, around.embedded.plugins),
        _ => (DATA, around.embedded.data),
    };
    if let Some(pack) = around.pack.filter(|_| !is_argument(table.place_of(key))) {
        let names: Vec<&str> = pack.names().collect();
        return match names.contains(&text) {
            true => Ok(Source::Packed { pack: pack.path().to_owned(), name: text.to_owned() }),
            false => Err(table
                .wrong(key, &format!("is `{text}`, which is not in the pack"))
                .label(one_of(&names))
                .hint(
                    "a packed plugin set has its plugins and data with it; `--set` names others",
                )),
        };
    }
    if text.starts_with("hf:") {
        return Err(not_in_this_version(table, key, text));
    }
    if text.is_empty() {
        return Err(table.wrong(key, "is empty").label(format!("expected {expected}")));
    }
    let source: Source = text.parse().map_err(|error: crate::plugin_set::SourceError| {
        table.wrong(key, &error.what).label(format!("expected {expected}")).hint(error.hint)
    })?;
    let Source::File(path) = source else { return Ok(source) };
    let path = around.folder(table.place_of(key)).join(path);
    let trouble = match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            format!("names `{text}`, which is not there")
        }
        Err(error) => return Err(unreadable(table, key, text, &error)),
        Ok(metadata) if metadata.is_dir() => format!("names `{text}`, which is a folder"),
        Ok(_) => return utf8(table, key, &path).map(|path| Source::File(path.into())),
    };
    let wrong = table.wrong(key, &trouble).label(format!("expected {expected}"));
    Err(if names.contains(&text) {
        wrong.hint(format!("did you mean `builtin:{text}`?"))
    } else if matches!(table.place_of(key), Place::File(_)) && Path::new(text).is_relative() {
        wrong.hint("paths are relative to the folder of the plugin set")
    } else {
        wrong
    })
}

fn embedded(table: &Section<'_>, key: &str, name: &str, what: &str, names: &[&str]) -> Checked<()> {
    match names.contains(&name) {
        true => Ok(()),
        false => Err(table
            .wrong(key, &format!("is `builtin:{name}`, and no embedded {what} has this name"))
            .label(one_of(names))
            .suggest(name, names.iter().copied())),
    }
}

/// Returns the `sha256` that counts for the `plugin` beside it: a plugin that is tried from the command line
/// is another one than that of the file.
fn typed_digest(table: &Section<'_>) -> Checked<Option<String>> {
    let Some(text) = table.text("sha256")? else { return Ok(None) };
    let of_file = |key| matches!(table.place_of(key), Place::File(_));
    if of_file("sha256") && !of_file("plugin") {
        return Ok(None);
    }
    match Pin::digits(&text) {
        Some(digits) => Ok(Some(digits)),
        None => Err(table.wrong("sha256", "is no SHA-256").label("expected 64 hexadecimal digits")),
    }
}

/// Returns what a lock says of a source; what the user names on the command line is no part of what was
/// locked. Fails where the lock covers the plugin set without knowing the source.
fn locked<'a>(
    table: &Section<'_>,
    key: &str,
    source: &Source,
    around: &Surroundings<'a>,
) -> Checked<Option<&'a Locked>> {
    let Locking::Kept { lock, set } = around.locking else { return Ok(None) };
    if !matches!(table.place_of(key), Place::File(_)) {
        return Ok(None);
    }
    match lock.find(around.file_folder, source) {
        None if lock.covers(&Locking::name_of(set)) => Err(table
            .wrong(key, "is not in `aligner.lock`, which has the sources of this plugin set")
            .label("expected what was there as it was locked")
            .hint(accepts(around))),
        found => Ok(found),
    }
}

/// Returns how a change is accepted.
fn accepts(around: &Surroundings<'_>) -> String {
    match around.locking {
        Locking::Kept { set, .. } => PinnedBy::Lock { set: set.to_owned() }.way_out(""),
        Locking::None | Locking::Renewed => String::new(),
    }
}

fn not_in_this_version(table: &Section<'_>, key: &str, text: &str) -> Problem {
    let scheme = text.split(':').next().unwrap_or(text);
    let expected = if key == "plugin" { COMPONENT } else { DATA };
    table
        .wrong(key, &format!("begins with `{scheme}:`, which is not in this version"))
        .label(format!("expected {expected}"))
        .hint("download the file, check its digest, and name its path")
}

fn unreadable(table: &Section<'_>, key: &str, text: &str, error: &io::Error) -> Problem {
    table.wrong(key, &format!("names `{text}`, which cannot be opened: {error}"))
}
