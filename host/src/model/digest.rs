//! What a model is, in one number: the same digest means the same tokens and the same weights.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::ModelError;
use crate::digest::{sha256, sha256_of};
use crate::file;

/// Returns the SHA-256 of a file's bytes, in lower-case hexadecimal.
pub fn of_file(path: &Path) -> Result<String, ModelError> {
    file::open(path).and_then(sha256_of).map_err(|source| ModelError::read(path, source))
}

/// Returns one digest for a set of files: for one file its own, for several the SHA-256 of their
/// file names and digests, sorted by name. Neither the folder nor the order counts.
pub fn of_files(paths: &[PathBuf]) -> Result<String, ModelError> {
    if let [only] = paths {
        return of_file(only);
    }
    let mut lines = paths
        .par_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(format!("{name} {}\n", of_file(path)?))
        })
        .collect::<Result<Vec<String>, ModelError>>()?;
    lines.sort();
    Ok(sha256(lines.concat().as_bytes()))
}

/// Returns the digest of a model that is used with further settings, given as text.
pub fn with_settings(digest: &str, settings: &str) -> String {
    sha256(format!("{digest} {settings}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "abc").unwrap();
        std::fs::write(&b, "").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(&a).unwrap(), abc);
        assert_eq!(of_files(std::slice::from_ref(&a)).unwrap(), abc);
        let both = of_files(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(both, of_files(&[b.clone(), a.clone()]).unwrap());
        std::fs::write(&b, "x").unwrap();
        assert_ne!(both, of_files(&[a, b.clone()]).unwrap());
        let error = of_file(&folder.path().join("c")).unwrap_err().to_string();
        assert!(error.ends_with("c` cannot be read: No such file or directory (os error 2)"));
    }
}
