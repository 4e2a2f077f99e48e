//! Finding and reading a plugin set.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    PluginSet, PluginSetError,
    check::{self, Surroundings},
    typed::{self, Override},
};
use crate::pack::{self, Pack};

/// What the binary carries, by name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedded<'a> {
    /// Plugin sets with their texts; names without `.toml`.
    pub plugin_sets: &'a [(&'a str, &'a str)],
    /// Names of components.
    pub plugins: &'a [&'a str],
    /// Names of data files.
    pub data: &'a [&'a str],
}

/// A plugin set with its text.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The checked set.
    pub set: PluginSet,
    /// What it is called in messages: the path as given, or `builtin:NAME`.
    pub name: String,
    /// As in the file, before the overrides.
    pub text: String,
}

/// Reads the plugin set that `name` stands for: a path, that of a pack too, or else the embedded set of
/// that name (with or without `.toml`); the `overrides` stand over what it says.
///
/// Relative paths in the file are relative to its folder, relative paths in overrides to the current
/// one. Fails with what stands in [`PluginSetError`].
pub fn load(
    name: &Path,
    overrides: &[Override],
    embedded: &Embedded<'_>,
) -> Result<Loaded, PluginSetError> {
    let here = std::path::absolute(".")
        .map_err(|error| PluginSetError::Read { path: PathBuf::from("."), error })?;
    if pack::is_pack(name) {
        return load_packed(name, &here, overrides, embedded);
    }
    let asked = name.to_string_lossy();
    let stem = asked.strip_prefix("builtin:").unwrap_or(&asked);
    let stem = stem.strip_suffix(".toml").unwrap_or(stem);
    let embedded_set = embedded.plugin_sets.iter().find(|(name, _)| *name == stem);
    let (shown, bytes, folder) = match (std::fs::read(name), embedded_set) {
        (Ok(bytes), _) => {
            let folder = here.join(name.parent().unwrap_or(Path::new("")));
            (name.display().to_string(), bytes, folder)
        }
        // A folder that happens to have a method's name is no plugin set either way.
        (Err(error), Some((name, text)))
            if error.kind() == ErrorKind::NotFound || Path::new(asked.as_ref()).is_dir() =>
        {
            (format!("builtin:{name}"), text.as_bytes().to_vec(), here.clone())
        }
        (Err(_), _) if name.is_dir() => {
            return Err(PluginSetError::Folder { path: name.to_owned() });
        }
        (Err(error), _) if error.kind() == ErrorKind::NotFound => {
            let names = embedded.plugin_sets.iter().map(|(name, _)| (*name).to_owned());
            let embedded = names.collect();
            return Err(PluginSetError::Missing { name: asked.into_owned(), embedded });
        }
        (Err(error), _) => return Err(PluginSetError::Read { path: name.to_owned(), error }),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        PluginSetError::NotUtf8 { path: name.to_owned(), line }
    })?;
    if folder.to_str().is_none() {
        return Err(PluginSetError::FolderNotUtf8 { path: folder });
    }
    let set = parse(&shown, &text, &folder, &here, overrides, embedded)?;
    Ok(Loaded { set, name: shown, text })
}

/// Reads the plugin set of a pack, in which it finds all that it names but models.
fn load_packed(
    name: &Path,
    here: &Path,
    overrides: &[Override],
    embedded: &Embedded<'_>,
) -> Result<Loaded, PluginSetError> {
    let path = here.join(name);
    if path.to_str().is_none() {
        return Err(PluginSetError::FolderNotUtf8 { path });
    }
    let pack = Pack::open(&path)?;
    let text = pack.plugin_set()?;
    let around =
        Surroundings { embedded, file_folder: here, argument_folder: here, pack: Some(&pack) };
    let shown = name.display().to_string();
    let set = check(&format!("{shown}#{}", pack::SET), &text, &around, overrides)?;
    Ok(Loaded { set, name: shown, text })
}

/// Checks the `text` of a plugin set that messages call `name`.
///
/// Relative paths in the text are relative to `folder`, those in overrides to `here`; both absolute.
pub fn parse(
    name: &str,
    text: &str,
    folder: &Path,
    here: &Path,
    overrides: &[Override],
    embedded: &Embedded<'_>,
) -> Result<PluginSet, PluginSetError> {
    let around = Surroundings { embedded, file_folder: folder, argument_folder: here, pack: None };
    check(name, text, &around, overrides)
}

fn check(
    name: &str,
    text: &str,
    around: &Surroundings<'_>,
    overrides: &[Override],
) -> Result<PluginSet, PluginSetError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let arguments: Vec<&str> = overrides.iter().map(|each| each.argument.as_str()).collect();
    let checked = || {
        let mut root = typed::parse(text)?;
        for (index, each) in overrides.iter().enumerate() {
            each.apply(&mut root, index)?;
        }
        check::plugin_set(&root, around)
    };
    checked().map_err(|problem: super::problem::Problem| problem.locate(name, text, &arguments))
}
