//! Finding and reading a plugin set.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use super::{
    PluginSet, PluginSetError,
    check::{self, Surroundings},
    lock::{Lock, Locking},
    typed::{self, Override},
};
use crate::pack::{self, Pack};

/// The longest plugin set, in bytes: a hundred times as long as any that is known, and little enough to be parsed
/// in little memory.
const MAX_BYTES: usize = 256 << 10;

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
    /// Where the file lies, absolute; absent for an embedded set.
    pub folder: Option<PathBuf>,
}

/// Reads the plugin set that `name` stands for: a path, that of a pack too, or else the embedded set of
/// that name (with or without `.toml`); the `overrides` stand over what it says.
///
/// Relative paths in the file are relative to its folder, relative paths in overrides to the current
/// one. Where an `aligner.lock` lies beside the file, what it says of sources is kept to. Fails with what
/// stands in [`PluginSetError`].
pub fn load(
    name: &Path,
    overrides: &[Override],
    embedded: &Embedded<'_>,
) -> Result<Loaded, PluginSetError> {
    read(name, overrides, embedded, true)
}

/// Reads a plugin set whose lock is about to be written: whatever a lock says now, and whether sources
/// have digests, counts for nothing.
pub fn load_to_lock(name: &Path, embedded: &Embedded<'_>) -> Result<Loaded, PluginSetError> {
    read(name, &[], embedded, false)
}

fn read(
    name: &Path,
    overrides: &[Override],
    embedded: &Embedded<'_>,
    locked: bool,
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
    let (shown, bytes, file_folder) = match (read_bounded(name), embedded_set) {
        (Ok(bytes), _) => {
            let folder = here.join(name.parent().unwrap_or(Path::new("")));
            (name.display().to_string(), bytes, Some(folder))
        }
        // A folder that happens to have a method's name is no plugin set either way.
        (Err(error), Some((name, text)))
            if error.kind() == ErrorKind::NotFound || Path::new(asked.as_ref()).is_dir() =>
        {
            (format!("builtin:{name}"), text.as_bytes().to_vec(), None)
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
    if bytes.len() > MAX_BYTES {
        return Err(PluginSetError::TooLarge { path: name.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        PluginSetError::NotUtf8 { path: name.to_owned(), line }
    })?;
    let folder = file_folder.as_ref().unwrap_or(&here);
    if folder.to_str().is_none() {
        return Err(PluginSetError::FolderNotUtf8 { path: folder.clone() });
    }
    let lock = match &file_folder {
        Some(folder) if locked => Lock::read(folder)?,
        _ => None,
    };
    let locking = match &lock {
        Some(lock) => Locking::Kept { lock, set: name },
        None if locked => Locking::None,
        None => Locking::Renewed,
    };
    let around =
        Surroundings { embedded, file_folder: folder, argument_folder: &here, pack: None, locking };
    let set = checked(&shown, &text, overrides, &around)?;
    Ok(Loaded { set, name: shown, text, folder: file_folder })
}

/// Reads a file, or one byte more than a plugin set may have of it: a pipe may have no end.
fn read_bounded(name: &Path) -> std::io::Result<Vec<u8>> {
    if crate::file::is_named_pipe(name) {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is a named pipe"));
    }
    let mut bytes = Vec::new();
    File::open(name)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
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
    if text.len() > MAX_BYTES {
        return Err(PluginSetError::TooLarge { path: name.to_owned() });
    }
    let around = Surroundings {
        embedded,
        file_folder: here,
        argument_folder: here,
        pack: Some(&pack),
        locking: Locking::None,
    };
    let shown = name.display().to_string();
    let set = checked(&format!("{shown}#{}", pack::SET), &text, overrides, &around)?;
    Ok(Loaded { set, name: shown, text, folder: None })
}

/// Checks the `text` of a plugin set that messages call `name`, without a lock.
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
    let around = Surroundings {
        embedded,
        file_folder: folder,
        argument_folder: here,
        pack: None,
        locking: Locking::None,
    };
    checked(name, text, overrides, &around)
}

fn checked(
    name: &str,
    text: &str,
    overrides: &[Override],
    around: &Surroundings<'_>,
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
