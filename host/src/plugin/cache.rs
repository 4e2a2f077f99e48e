//! Compiled plugins, kept between runs.
//!
//! Machine code from a file is run as it is, so whoever can change the file owns the process. The
//! folder is the user's own and closed to others, and every entry carries a keyed digest that is
//! checked before the code is used; the key is made by the host and never leaves the folder. An
//! entry that does not check is thrown away and made again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::digest::hex;

/// The first bytes of an entry; the number changes with its layout.
const MAGIC: &[u8; 8] = b"alignpc1";
const KEY_FILE: &str = "key";
/// The entries together; over it the oldest go.
const MAX_BYTES: u64 = 1 << 30;

/// A folder of compiled plugins that was found safe.
pub(super) struct Store {
    folder: PathBuf,
    key: [u8; 32],
}

/// Why there is no cache, or why an entry is not used. The program works without, more slowly.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("`{}` belongs to another user", .0.display())]
    Foreign(PathBuf),
    #[error("`{}` is open to other users (mode {:o})", .0.display(), .1)]
    Open(PathBuf, u32),
    #[error("`{}` is no file", .0.display())]
    NoKey(PathBuf),
    #[error("`{}` is not a folder", .0.display())]
    NoFolder(PathBuf),
    #[error("`{}` is not a file", .0.display())]
    NoFile(PathBuf),
    #[error("`{}` is a link", .0.display())]
    Link(PathBuf),
    #[error("`{}`: it is not as it was written", .0.display())]
    Changed(PathBuf),
    #[error("`{}`: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

/// Returns where the cache lies: `$ALIGNER_CACHE`, else `$XDG_CACHE_HOME/aligner`, else
/// `~/.cache/aligner`, each with `plugins` after it. `None` where no home is known.
pub(super) fn default_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    variable("ALIGNER_CACHE")
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| Some(variable("XDG_CACHE_HOME").and_then(absolute)?.join("aligner")))
        .or_else(|| Some(variable("HOME").and_then(absolute)?.join(".cache/aligner")))
        .map(|folder| folder.join("plugins"))
}

impl Store {
    /// Opens the folder, making it where it is missing, and checks that nobody else can write there.
    pub fn open(folder: PathBuf) -> Result<Store, CacheError> {
        let io = |error| CacheError::Io(folder.clone(), error);
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => {}
        }
        // Not following a link: its owner could point it elsewhere later.
        let metadata = fs::symlink_metadata(&folder).map_err(io)?;
        if !metadata.is_dir() {
            return Err(CacheError::NoFolder(folder));
        }
        check_owner(&folder, &metadata)?;
        let key = read_key(&folder)?;
        Ok(Store { folder, key })
    }

    /// Returns an entry, where there is one that checks.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        match self.read(name, &path) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!("discarding an entry of the cache: {error}");
                self.remove(name);
                None
            }
        }
    }

    fn read(&self, name: &str, path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
        let io = |error| CacheError::Io(path.to_owned(), error);
        // Without waiting: a pipe opens at once, and is found not to be a file.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(CacheError::Link(path.to_owned()));
            }
            Err(error) => return Err(io(error)),
        };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(CacheError::NoFile(path.to_owned()));
        }
        check_owner(path, &metadata)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let head = MAGIC.len() + 32;
        let sound = bytes.len() >= head
            && bytes.starts_with(MAGIC)
            && same(&bytes[MAGIC.len()..head], &self.digest(name, &bytes[head..]));
        if !sound {
            return Err(CacheError::Changed(path.to_owned()));
        }
        bytes.drain(..head);
        Ok(Some(bytes))
    }

    /// Keeps an entry. Failures (a full disk) leave the cache without it.
    pub fn put(&self, name: &str, payload: &[u8]) {
        let write = || -> io::Result<()> {
            // In the same folder, so that renaming is atomic; made with mode 0600.
            let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(&self.folder)?;
            file.write_all(MAGIC)?;
            file.write_all(&self.digest(name, payload))?;
            file.write_all(payload)?;
            file.persist(self.path(name))?;
            Ok(())
        };
        match write() {
            Ok(()) => prune(&self.folder, MAX_BYTES, is_entry),
            Err(error) => tracing::warn!(
                "a compiled plugin could not be kept in `{}`: {error}",
                self.folder.display()
            ),
        }
    }

    /// Forgets an entry.
    pub fn remove(&self, name: &str) {
        // Where this fails, the entry is refused again the next time.
        let _ = fs::remove_file(self.path(name));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.bin"))
    }

    /// The name is part of what is signed: an entry cannot stand in for another.
    fn digest(&self, name: &str, payload: &[u8]) -> [u8; 32] {
        hmac(&self.key, &[&(name.len() as u64).to_le_bytes(), name.as_bytes(), payload])
    }
}

/// Deletes the files of a folder that were not changed for longest, of those that are `ours`, until these have
/// `most` bytes at most.
pub(crate) fn prune(folder: &Path, most: u64, ours: impl Fn(&Path) -> bool) {
    let Ok(files) = fs::read_dir(folder) else { return };
    let mut entries: Vec<(SystemTime, u64, PathBuf)> = files
        .filter_map(|file| {
            let (file, path) = file.ok().map(|file| (file.metadata(), file.path()))?;
            let metadata = file.ok()?;
            ours(&path).then(|| Some((metadata.modified().ok()?, metadata.len(), path)))?
        })
        .collect();
    let mut total: u64 = entries.iter().map(|entry| entry.1).sum();
    entries.sort();
    for (_, bytes, path) in entries {
        if total <= most {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

/// Whether a file is an entry, or one that was not finished.
fn is_entry(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "bin" || end == "tmp")
}

/// Returns the name of the entry for a plugin file: its digest, and everything that machine code
/// depends on (engine version and settings, processor features, this program's own checks).
pub(super) fn entry_name(engine: &Engine, file_digest: &[u8; 32]) -> String {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut feed = Feed(Sha256::new());
    env!("CARGO_PKG_VERSION").hash(&mut feed);
    super::inspect::CONTRACT.hash(&mut feed);
    std::env::consts::ARCH.hash(&mut feed);
    std::env::consts::OS.hash(&mut feed);
    engine.precompile_compatibility_hash().hash(&mut feed);
    feed.write(file_digest);
    hex(&feed.0.finalize())
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), CacheError> {
    // SAFETY: geteuid has no conditions.
    if metadata.uid() != unsafe { libc::geteuid() } {
        return Err(CacheError::Foreign(path.to_owned()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(CacheError::Open(path.to_owned(), metadata.mode() & 0o777));
    }
    Ok(())
}

/// Opens the key's file; of a pipe nobody waits for the other end.
fn open_key(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Reads the key, making it where it is missing.
fn read_key(folder: &Path) -> Result<[u8; 32], CacheError> {
    let path = folder.join(KEY_FILE);
    let io = |error| CacheError::Io(path.clone(), error);
    // Twice: another process may make it at the same time, or it may be damaged.
    for _ in 0..2 {
        match open_key(&path) {
            Ok(mut file) => {
                let metadata = file.metadata().map_err(io)?;
                if !metadata.is_file() {
                    return Err(CacheError::NoKey(path.clone()));
                }
                check_owner(&path, &metadata)?;
                if metadata.mode() & 0o077 != 0 {
                    return Err(CacheError::Open(path.clone(), metadata.mode() & 0o777));
                }
                let mut key = [0; 32];
                if metadata.len() == 32 && file.read_exact(&mut key).is_ok() {
                    return Ok(key);
                }
                fs::remove_file(&path).map_err(io)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let mut key = [0; 32];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut key))
            .map_err(io)?;
        let make = || -> io::Result<()> {
            // Complete under its name or not there at all; whoever comes first wins.
            let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder)?;
            file.write_all(&key)?;
            file.persist_noclobber(&path)?;
            Ok(())
        };
        match make() {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => {}
        }
    }
    let mut file = open_key(&path).map_err(io)?;
    let mut key = [0; 32];
    file.read_exact(&mut key).map_err(io)?;
    Ok(key)
}

/// HMAC-SHA-256 (RFC 2104) over the parts, one after the other.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner.finalize())
        .finalize()
        .into()
}

/// Compares without telling by its time where the first difference lies.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("a/plugins")).unwrap();
        (folder, store)
    }

    #[test]
    fn hmac_is_the_standards() {
        // RFC 4231, test cases 1, 2 and 6.
        let check = |key: &[u8], data: &[u8], expected: &str| {
            assert_eq!(hex(&hmac(key, &[data])), expected);
        };
        check(
            &[0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        );
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn an_entry_comes_back_only_as_it_was_written() {
        let (_folder, store) = store();
        assert_eq!(store.get("aa"), None);
        store.put("aa", b"machine code");
        assert_eq!(store.get("aa").as_deref(), Some(&b"machine code"[..]));
        // Again, with the key read from its file.
        let again = Store::open(store.folder.clone()).unwrap();
        assert_eq!(again.get("aa").as_deref(), Some(&b"machine code"[..]));

        let whole = fs::read(store.path("aa")).unwrap();
        for change in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[change] ^= 1;
            fs::write(store.path("aa"), &bytes).unwrap();
            assert_eq!(store.get("aa"), None, "byte {change}");
            assert!(!store.path("aa").exists());
        }
        for length in [0, 5, 8, 39, 40, whole.len() - 1] {
            fs::write(store.path("aa"), &whole[..length]).unwrap();
            assert_eq!(store.get("aa"), None, "length {length}");
        }
        // Under another name it is not that entry.
        fs::write(store.path("bb"), &whole).unwrap();
        assert_eq!(store.get("bb"), None);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let (_folder, store) = store();
        let check = |path: PathBuf, mode, expected: &str| {
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Store::open(store.folder.clone()).err().expect("the folder is refused");
            assert!(error.to_string().contains(expected), "{error}");
            fs::set_permissions(&path, before).unwrap();
        };
        check(store.folder.clone(), 0o770, "open to other users (mode 770)");
        check(store.folder.clone(), 0o702, "open to other users (mode 702)");
        check(store.folder.join(KEY_FILE), 0o644, "open to other users (mode 644)");
        assert!(Store::open(store.folder.clone()).is_ok());

        let link = store.folder.with_file_name("link");
        std::os::unix::fs::symlink(&store.folder, &link).unwrap();
        assert!(matches!(Store::open(link), Err(CacheError::NoFolder(_))));
        let file = store.folder.with_file_name("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Store::open(file.clone()), Err(CacheError::NoFolder(_))));
        assert!(matches!(Store::open(file.join("plugins")), Err(CacheError::Io(..))));
    }

    #[test]
    fn what_is_made_is_closed_to_others() {
        let (_folder, store) = store();
        store.put("aa", b"x");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&store.folder), 0o700);
        assert_eq!(mode(&store.folder.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&store.path("aa")), 0o600);
    }

    #[test]
    fn a_damaged_key_is_made_anew() {
        let (_folder, store) = store();
        store.put("aa", b"x");
        let key = store.folder.join(KEY_FILE);
        fs::write(&key, "short").unwrap();
        let again = Store::open(store.folder.clone()).unwrap();
        assert_ne!(again.key, store.key);
        assert_eq!(again.get("aa"), None);
    }

    #[test]
    fn the_oldest_entries_go_first() {
        let (_folder, store) = store();
        for (age, name) in [(300, "old"), (200, "middle"), (100, "new")] {
            store.put(name, &[0; 1000]);
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::options()
                .write(true)
                .open(store.path(name))
                .and_then(|file| file.set_modified(time))
                .unwrap();
        }
        prune(&store.folder, 2500, is_entry);
        let left = ["old", "middle", "new"].map(|name| store.path(name).exists());
        assert_eq!(left, [false, true, true]);
        assert!(store.folder.join(KEY_FILE).exists());
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let folder = default_folder(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            });
            assert_eq!(folder, expected.map(PathBuf::from));
        };
        let all = [("ALIGNER_CACHE", "/a"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        check(&all, Some("/a/plugins"));
        check(&all[1..], Some("/x/aligner/plugins"));
        check(&all[2..], Some("/h/.cache/aligner/plugins"));
        check(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")], Some("/h/.cache/aligner/plugins"));
        check(&[("ALIGNER_CACHE", ""), ("HOME", "/h")], Some("/h/.cache/aligner/plugins"));
        check(&[], None);
    }
}
