//! Ledgers: files of one JSON document a line that grow at their end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DirectoryError, fault, io_error, open_file};

/// An append-only file of one JSON document a line.
#[derive(Debug)]
pub struct Ledger {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Ledger {
    /// Appends one row and syncs it: after this returns, a kill does not lose it.
    pub fn append(&mut self, row: &impl Serialize) -> Result<(), DirectoryError> {
        let mut line = serde_json::to_vec(row).expect("our own types serialise");
        line.push(b'\n');
        self.append_lines(&line)
    }

    /// Appends whole lines and syncs them. A crash of the machine may tear any of them: who appends so has to
    /// know elsewhere how many bytes are good.
    pub fn append_lines(&mut self, lines: &[u8]) -> Result<(), DirectoryError> {
        let half = lines.len() / 2;
        self.file
            .write_all(&lines[..half])
            .and_then(|()| fault::point())
            .and_then(|()| self.file.write_all(&lines[half..]))
            .and_then(|()| self.file.sync_data())
            .and_then(|()| fault::point())
            .map_err(io_error("write", &self.path))
    }
}

/// Reads the whole lines of a ledger and touches nothing; none where there is no file.
pub fn read_ledger<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DirectoryError> {
    match open_file(path) {
        Ok(file) => Ok(whole_lines(&file, path)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Reads lines up to one that a killed process left half-written; returns them, and how many bytes they
/// take.
pub(super) fn whole_lines<T: DeserializeOwned>(
    file: &File,
    path: &Path,
) -> Result<(Vec<T>, u64), DirectoryError> {
    let (mut rows, mut whole, mut torn) = (Vec::new(), 0u64, None);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(io_error("read", path))? as u64;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok((rows, whole));
        }
        // A crash can tear the last line only; one before it that does not parse was altered.
        if let Some(detail) = torn {
            return Err(DirectoryError::Damaged { path: path.to_owned(), detail });
        }
        match serde_json::from_slice(&line) {
            Ok(row) => {
                rows.push(row);
                whole += read;
            }
            Err(error) => torn = Some(format!("line {}: {error}", rows.len() + 1)),
        }
    }
}
