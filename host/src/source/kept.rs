//! What was fetched before, in files that are called by the SHA-256 of what is in them.
//!
//! Every read is checked against the name, so that whoever can change a file gains nothing by it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::digest::sha256;
use crate::plugin::{MAX_FILE_BYTES, prune};

/// The files together; over it those go that were not used for longest.
const MAX_BYTES: u64 = 1 << 30;

/// A folder of files that were fetched; without one nothing is kept.
pub(super) struct Kept {
    folder: Option<PathBuf>,
}

impl Kept {
    /// Keeps files in a folder, which is made when there is something to keep.
    pub fn open(folder: Option<PathBuf>) -> Kept {
        Kept { folder }
    }

    /// Returns the bytes with this digest. A file that has others is thrown away.
    pub fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(digest);
        // A link or a pipe is none of ours.
        if !fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&file).take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        if sha256(&bytes) != digest {
            tracing::warn!("discarding `{}`: it is not as it was fetched", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        // Where this fails, as in a cache that is only to be read, the file goes sooner.
        let _ = File::options()
            .append(true)
            .open(&path)
            .map(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// Keeps bytes under their digest. Failures (a full disk) leave things as they are.
    pub fn put(&self, digest: &str, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let path = folder.join(digest);
        if path.exists() {
            return;
        }
        let write = || -> io::Result<()> {
            if let Some(parent) = folder.parent() {
                fs::create_dir_all(parent)?;
            }
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.persist(&path)?;
            Ok(())
        };
        match write() {
            Ok(()) => prune(folder, MAX_BYTES, |_| true),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!("what was fetched could not be kept in `{folder}`: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;

    fn kept() -> (tempfile::TempDir, Kept, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/fetched");
        (folder, Kept::open(Some(inner.clone())), inner)
    }

    #[test]
    fn what_was_kept_comes_back_only_as_it_was() {
        let (_folder, kept, folder) = kept();
        let digest = sha256(b"bytes");
        assert_eq!(kept.get(&digest), None);
        kept.put(&digest, b"bytes");
        assert_eq!(kept.get(&digest).as_deref(), Some(&b"bytes"[..]));
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        for poison in [&b"byteS"[..], b"", b"bytes and more"] {
            fs::write(folder.join(&digest), poison).unwrap();
            assert_eq!(kept.get(&digest), None);
            assert!(!folder.join(&digest).exists(), "what is wrong is thrown away");
        }
        let elsewhere = folder.with_file_name("elsewhere");
        fs::write(&elsewhere, b"bytes").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.join(&digest)).unwrap();
        assert_eq!(kept.get(&digest), None, "a link is not followed");
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let kept = Kept::open(None);
        kept.put(&sha256(b"bytes"), b"bytes");
        assert_eq!(kept.get(&sha256(b"bytes")), None);
    }

    #[test]
    fn the_longest_unused_go_first() {
        let (_folder, kept, folder) = kept();
        let files: Vec<Vec<u8>> = (0..3).map(|digit| vec![digit; 1000]).collect();
        for (age, bytes) in [300, 200, 100].iter().zip(&files) {
            kept.put(&sha256(bytes), bytes);
            let file = File::options().write(true).open(folder.join(sha256(bytes))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(*age)).unwrap();
        }
        kept.get(&sha256(&files[0])).unwrap();
        prune(&folder, 2500, |_| true);
        let left: Vec<bool> =
            files.iter().map(|bytes| folder.join(sha256(bytes)).exists()).collect();
        assert_eq!(left, [true, false, true]);
    }
}
