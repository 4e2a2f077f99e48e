//! Packs: a plugin set with its components and data in one file, `NAME.aligner`.
//!
//! A pack holds all that decides a method but the models: `plugin-set.toml`, in which every source names
//! a file of the pack, these files in `components/` and `data/` (also those that come with the program,
//! since another version has others), and `aligner-pack.json` with the digest of each. Files are read
//! from where they lie in the archive, into memory, one at a time; nothing is unpacked to disk.
//!
//! Whoever opens a pack trusts it with nothing: what it names is in it, and its components are compiled
//! and run as those of strangers.

mod archive;
mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::sha256;
use crate::shown::printable;
use archive::Archive;
pub use error::{Fault, PackError};

/// What the name of a pack ends in.
pub const EXTENSION: &str = "aligner";
/// The version of what is in a pack. It goes up when a reader of the old one would misread the new.
pub const FORMAT: u64 = 1;
/// The list of the other files.
pub const MANIFEST: &str = "aligner-pack.json";
/// The plugin set.
pub const SET: &str = "plugin-set.toml";
/// The folder of the plugins.
pub const COMPONENTS: &str = "components/";
/// The folder of prompts, pairs and held-out prompts.
pub const DATA: &str = "data/";
/// The most files that a pack has.
pub const MAX_FILES: usize = 1000;
/// The longest file of a pack in bytes: one is in memory at a time.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// The longest plugin set and list of files in bytes.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Returns whether a path is that of a pack, by its name.
pub fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
        && path.exists()
        && !path.is_dir()
}

/// What `aligner-pack.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the program that packed it.
    pub format: u64,
    /// The version of the contract that the plugin set was written for.
    pub contract: String,
    /// Every other file, by name.
    pub files: BTreeMap<String, Packed>,
}

/// A file of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// What it was called before: `builtin:NAME`, an address, or the last part of a path.
    pub from: String,
    /// Its length.
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: String,
}

/// A pack that is open. Its files are looked at when they are read.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    archive: Archive,
    manifest: Manifest,
}

impl Pack {
    /// Opens a pack and checks all but the contents of its files.
    pub fn open(path: &Path) -> Result<Pack, PackError> {
        let opened = match path.metadata() {
            // A pipe would be waited for.
            Ok(metadata) if !metadata.is_file() => {
                Err(Fault::from(std::io::Error::other("it is no file")))
            }
            _ => File::open(path).map_err(Fault::from).and_then(Archive::open),
        };
        opened.and_then(|archive| Pack::checked(path, archive)).map_err(failed(path))
    }

    fn checked(path: &Path, archive: Archive) -> Result<Pack, Fault> {
        let missing = |name: &str| Fault::Missing { name: name.to_owned() };
        for text in [MANIFEST, SET] {
            let found = archive.entries().iter().find(|entry| entry.name == text);
            let bytes = found.ok_or_else(|| missing(text))?.bytes;
            check_length(text, bytes.into(), MAX_TEXT_BYTES)?;
        }
        let manifest = archive.read(MANIFEST)?.ok_or_else(|| missing(MANIFEST))?;
        let manifest = read_manifest(&manifest)?;
        for entry in archive.entries().iter().filter(|entry| entry.name != MANIFEST) {
            if !manifest.files.contains_key(&entry.name) {
                return Err(Fault::Unlisted { name: entry.name.clone() });
            }
        }
        let has = |name: &str| archive.entries().iter().any(|entry| entry.name == name);
        if let Some(name) = manifest.files.keys().find(|name| !has(name)) {
            return Err(missing(&shown(name)));
        }
        Ok(Pack { path: path.to_owned(), archive, manifest })
    }

    /// Returns where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the names of all files that plugin sets can name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifest.files.keys().map(String::as_str).filter(|name| *name != SET)
    }

    /// Reads a file. Fails where it is not the one that was packed.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, PackError> {
        self.read_checked(name).map_err(failed(&self.path))
    }

    fn read_checked(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let missing = || Fault::Missing { name: shown(name) };
        let listed = self.manifest.files.get(name).ok_or_else(missing)?;
        let bytes = self.archive.read(name)?.ok_or_else(missing)?;
        let found = sha256(&bytes);
        if found != listed.sha256 || bytes.len() as u64 != listed.bytes {
            let (name, listed) = (name.to_owned(), listed.sha256.clone());
            return Err(Fault::Digest { name, found, listed });
        }
        Ok(bytes)
    }

    /// Reads the text of the plugin set.
    pub fn plugin_set(&self) -> Result<String, PackError> {
        let bytes = self.read(SET)?;
        String::from_utf8(bytes).map_err(|_| failed(&self.path)(Fault::NotUtf8))
    }
}

/// Reads one file of a pack.
pub fn read(path: &Path, name: &str) -> Result<Vec<u8>, PackError> {
    Pack::open(path)?.read(name)
}

/// Reads the list of files; its format first, because a newer one may have other fields.
fn read_manifest(bytes: &[u8]) -> Result<Manifest, Fault> {
    let damaged = |error: serde_json::Error| Fault::Manifest(shown(&error.to_string()));
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    let found = value.get("format").and_then(serde_json::Value::as_u64);
    let found = found.ok_or_else(|| Fault::Manifest("it names no `format`".into()))?;
    if found > FORMAT {
        return Err(Fault::Newer { found });
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(damaged)?;
    let is_digest =
        |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (name, file) in &manifest.files {
        if file.from != shown(&file.from) || !is_digest(&file.sha256) {
            return Err(Fault::Manifest(format!("what it says of `{}` is wrong", shown(name))));
        }
    }
    match manifest.contract == shown(&manifest.contract) {
        true => Ok(manifest),
        false => Err(Fault::Manifest("its `contract` is no version".into())),
    }
}

/// The files of a pack that is being made.
#[derive(Debug, Default)]
pub struct Contents {
    files: BTreeMap<String, (Packed, Vec<u8>)>,
}

impl Contents {
    /// Adds a file to `folder` and returns its name: that of `like` as far as a pack can have it, with
    /// a number where that is taken. `from` is what it was called.
    pub fn add(&mut self, folder: &str, like: &str, from: &str, bytes: Vec<u8>) -> String {
        let (stem, ending) = match folder {
            COMPONENTS => (like.strip_suffix(".wasm").unwrap_or(like), "wasm"),
            _ => (like.strip_suffix(".jsonl").unwrap_or(like), "jsonl"),
        };
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let stem: String = stem.to_ascii_lowercase().chars().filter(|&c| letter(c)).collect();
        let stem: String =
            stem.trim_start_matches(['-', '_', '.']).chars().take(64).collect::<String>();
        let stem = if stem.is_empty() { "file" } else { &stem };
        let names = (1..).map(|number| match number {
            1 => format!("{folder}{stem}.{ending}"),
            number => format!("{folder}{stem}-{number}.{ending}"),
        });
        let free = |name: &String| !self.files.contains_key(name);
        let name = { names }.find(free).expect("some number is free");
        self.put(name.clone(), from, bytes);
        name
    }

    fn put(&mut self, name: String, from: &str, bytes: Vec<u8>) {
        let (length, sha256) = (bytes.len() as u64, sha256(&bytes));
        let packed = Packed { from: shown(from), bytes: length, sha256 };
        self.files.insert(name, (packed, bytes));
    }

    /// Writes the pack of a plugin set that was written for `contract` and called `from`.
    ///
    /// Equal plugin sets and files give equal bytes. Fails where a pack cannot hold them.
    pub fn write(
        mut self,
        text: &str,
        from: &str,
        contract: &str,
        out: &mut dyn Write,
    ) -> Result<(), Fault> {
        self.put(SET.to_owned(), from, text.as_bytes().to_vec());
        // One of them is the manifest's own.
        if self.files.len() >= MAX_FILES {
            return Err(Fault::TooMany { files: self.files.len() + 1 });
        }
        check_length(SET, text.len() as u64, MAX_TEXT_BYTES)?;
        for (name, (file, _)) in &self.files {
            check_length(name, file.bytes, MAX_FILE_BYTES)?;
        }
        let listed = self.files.iter().map(|(name, (file, _))| (name.clone(), file.clone()));
        let manifest =
            Manifest { format: FORMAT, contract: contract.into(), files: listed.collect() };
        let mut list = serde_json::to_vec_pretty(&manifest).expect("our own types serialise");
        list.push(b'\n');
        let files = self.files.iter().map(|(name, (_, bytes))| (name.as_str(), &bytes[..]));
        // Its name is the first of all in the order of names.
        archive::write(std::iter::once((MANIFEST, &list[..])).chain(files), out)?;
        Ok(())
    }
}

fn check_length(name: &str, bytes: u64, most: u64) -> Result<(), Fault> {
    match bytes > most {
        true => Err(Fault::TooLarge { name: name.to_owned(), bytes, most }),
        false => Ok(()),
    }
}

/// Makes text from a pack safe to show: one line, no control characters, not long.
fn shown(text: &str) -> String {
    let mut shown: String = printable(text).chars().take(200).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

fn failed(path: &Path) -> impl FnOnce(Fault) -> PackError {
    let path = path.to_owned();
    move |fault| PackError { path, fault }
}

impl From<PackError> for io::Error {
    fn from(error: PackError) -> io::Error {
        io::Error::other(error)
    }
}
