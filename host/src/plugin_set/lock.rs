//! `aligner.lock`: what the sources of plugin sets were when somebody last looked.
//!
//! One file a folder, beside the plugin sets that it covers. A source has one digest there, whichever of
//! them names it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::source::{Pin, Source};

/// The file.
pub const LOCK_FILE: &str = "aligner.lock";
const VERSION: u64 = 1;
const HEAD: &str = "# Written by `aligner plugin lock SET`, which also accepts changes.\n";
/// A lock with a thousand sources has 300 kB.
const MAX_BYTES: u64 = 4 << 20;

/// The sources of the plugin sets in a folder, with their digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u64,
    /// File names of the plugin sets that are covered, sorted.
    sets: Vec<String>,
    /// Sorted by source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source: Vec<Locked>,
}

/// A source with what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// As the plugin set names it; a path is relative to the folder.
    pub source: String,
    /// Of the component or data file.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the manifest that an OCI reference stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// File names of the plugin sets that name it, sorted.
    pub sets: Vec<String>,
}

/// Why a lock is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be read or written.
    #[error("cannot {action} `{}`: {error}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// It is none.
    #[error("`{}` is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        detail: String,
    },
    /// A later version wrote it.
    #[error("`{}` has version {found}, this aligner reads {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

impl LockError {
    /// Returns the way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            LockError::Io { .. } => return None,
            LockError::Damaged { .. } => {
                "put it back as it was, or remove it and run `aligner plugin lock SET`".into()
            }
            LockError::Newer { .. } => "take the aligner that wrote it, or a later one".into(),
        })
    }
}

impl Lock {
    /// Returns a lock that covers nothing.
    pub fn empty() -> Lock {
        Lock { version: VERSION, sets: Vec::new(), source: Vec::new() }
    }

    /// Reads the lock of a folder; `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Lock>, LockError> {
        let path = folder.join(LOCK_FILE);
        let damaged = |detail: String| LockError::Damaged { path: path.clone(), detail };
        let io = |error| LockError::Io { action: "read", path: path.clone(), error };
        match path.metadata() {
            // A link to what is gone is a lock that somebody meant to be kept to.
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_symlink() => {
                return Err(damaged("it is a link to a file that is not there".into()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(metadata) if !metadata.is_file() => return Err(damaged("it is no file".into())),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(damaged(format!("it has {} bytes", metadata.len())));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        // First the version: what a later one has besides is not known here.
        let version = table.get("version").and_then(toml::Value::as_integer);
        match version.and_then(|version| u64::try_from(version).ok()) {
            None => return Err(damaged("it names no version".into())),
            Some(found) if found > VERSION => return Err(LockError::Newer { path, found }),
            Some(_) => {}
        }
        let lock: Lock = table
            .try_into()
            .map_err(|error: toml::de::Error| damaged(error.message().to_owned()))?;
        match lock.source.iter().find(|locked| !locked.is_sound()) {
            Some(locked) => Err(damaged(format!("`{}` has no SHA-256", locked.source))),
            None => Ok(Some(lock)),
        }
    }

    /// Writes the lock of a folder, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<(), LockError> {
        let path = folder.join(LOCK_FILE);
        let text = HEAD.to_owned() + &toml::to_string(self).expect("our own types serialise");
        let write = || -> std::io::Result<()> {
            let temporary = folder.join(format!("{LOCK_FILE}.tmp"));
            std::fs::write(&temporary, text)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|error| LockError::Io { action: "write", path: path.clone(), error })
    }

    /// Returns whether a plugin set, by its file name, has all its sources here.
    pub fn covers(&self, set: &str) -> bool {
        self.sets.iter().any(|covered| covered == set)
    }

    /// Returns what a source is, whose path is relative to `folder` here and absolute there.
    pub fn find(&self, folder: &Path, source: &Source) -> Option<&Locked> {
        self.source.iter().find(|locked| match (source, locked.source.parse()) {
            (Source::File(path), Ok(Source::File(locked))) => folder.join(locked) == *path,
            (source, Ok(locked)) => *source == locked,
            (_, Err(_)) => false,
        })
    }

    /// Puts what a plugin set names in the place of what it named before. Returns the sources whose digest
    /// is another one now, as they were.
    pub fn put(&mut self, set: &str, sources: Vec<Locked>) -> Vec<Locked> {
        for locked in &mut self.source {
            locked.sets.retain(|name| name != set);
        }
        let mut changed = Vec::new();
        for new in sources {
            match self.source.iter_mut().find(|locked| locked.source == new.source) {
                Some(locked) => {
                    if locked.sha256 != new.sha256 {
                        changed.push(locked.clone());
                    }
                    let sets = std::mem::take(&mut locked.sets);
                    *locked = Locked { sets, ..new };
                    locked.sets.push(set.to_owned());
                    locked.sets.sort();
                    locked.sets.dedup();
                }
                None => self.source.push(Locked { sets: vec![set.to_owned()], ..new }),
            }
        }
        self.source.retain(|locked| !locked.sets.is_empty());
        self.source.sort_by(|a, b| a.source.cmp(&b.source));
        self.sets.push(set.to_owned());
        self.sets.sort();
        self.sets.dedup();
        changed
    }
}

impl Locked {
    fn is_sound(&self) -> bool {
        let sha256 = |text: &str| Pin::digits(text).is_some_and(|digits| digits == text);
        sha256(&self.sha256) && self.manifest.as_deref().is_none_or(sha256)
    }
}

/// What a lock has to say while a plugin set is checked.
#[derive(Clone, Copy, Debug)]
pub enum Locking<'a> {
    /// There is none.
    None,
    /// It is kept to.
    Kept {
        /// The lock beside the plugin set.
        lock: &'a Lock,
        /// The plugin set, as it was named.
        set: &'a Path,
    },
    /// It is about to be written: nothing has to be pinned yet.
    Renewed,
}

impl Locking<'_> {
    /// Returns the file name of a plugin set, by which a lock knows it.
    pub fn name_of(set: &Path) -> String {
        set.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(source: &str, digit: char) -> Locked {
        let sha256 = digit.to_string().repeat(64);
        Locked { source: source.into(), sha256, bytes: 1, manifest: None, sets: Vec::new() }
    }

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap(), None);
        let mut lock = Lock::empty();
        let oci = Locked { manifest: Some("c".repeat(64)), ..locked("oci:localhost/a:1", 'b') };
        assert_eq!(lock.put("one.toml", vec![oci, locked("a.wasm", 'a')]), []);
        lock.write(folder.path()).unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap(), Some(lock.clone()));
        assert!(lock.covers("one.toml") && !lock.covers("two.toml"));
        let found = lock.find(Path::new("/x"), &Source::File("/x/./a.wasm".into()));
        assert_eq!(found.unwrap().sha256, "a".repeat(64));
        assert_eq!(lock.find(Path::new("/y"), &Source::File("/x/a.wasm".into())), None);
        let remote = Source::Oci("localhost/a:1".into());
        assert_eq!(lock.find(Path::new("/y"), &remote).unwrap().manifest, Some("c".repeat(64)));
    }

    #[test]
    fn sets_share_sources_and_leave_them() {
        let mut lock = Lock::empty();
        lock.put("one.toml", vec![locked("a", 'a'), locked("b", 'b')]);
        let changed = lock.put("two.toml", vec![locked("b", 'c'), locked("c", 'c')]);
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].sha256, "b".repeat(64));
        let sources = |lock: &Lock| -> Vec<(String, String)> {
            let of = |it: &Locked| (it.source.clone(), it.sets.join(" "));
            lock.source.iter().map(of).collect()
        };
        let row = |source: &str, sets: &str| (source.to_owned(), sets.to_owned());
        let both = "one.toml two.toml";
        assert_eq!(sources(&lock), [row("a", "one.toml"), row("b", both), row("c", "two.toml")]);
        lock.put("one.toml", vec![]);
        assert_eq!(sources(&lock), [row("b", "two.toml"), row("c", "two.toml")]);
        assert!(lock.covers("one.toml"));
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, expected: &str| {
            std::fs::write(folder.path().join(LOCK_FILE), text).unwrap();
            let error = Lock::read(folder.path()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some());
        };
        check("x", "is damaged");
        check("", "names no version");
        check("version = -1", "names no version");
        check("version = 2\nfuture = 1", "has version 2, this aligner reads 1");
        check("version = 1", "missing field `sets`");
        check("version = 1\nsets = []\nmore = 1", "unknown field `more`");
        let source = "version = 1\nsets = []\n[[source]]\nsource = 'a'\nbytes = 1\nsets = []\n";
        check(&format!("{source}sha256 = '00'"), "`a` has no SHA-256");
        let sound = format!("{source}sha256 = '{}'\n", "0".repeat(64));
        check(&format!("{sound}manifest = 'x'"), "`a` has no SHA-256");
        std::fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
        std::fs::create_dir(folder.path().join(LOCK_FILE)).unwrap();
        let error = Lock::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("it is no file"), "{error}");
        std::fs::remove_dir(folder.path().join(LOCK_FILE)).unwrap();
        std::os::unix::fs::symlink("gone", folder.path().join(LOCK_FILE)).unwrap();
        let error = Lock::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("it is a link to a file that is not there"), "{error}");
    }
}
