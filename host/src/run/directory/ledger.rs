//! Ledgers: files of one JSON document a line that grow at their end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DirectoryError, fault, io_error, open_file};

/// An append-only file of one JSON document a line.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    /// When it was last synced.
    synced: Option<Instant>,
    /// Whether there are rows since.
    is_behind: bool,
}

/// How long the answers may be that a crash of the machine, not of the program, takes back.
const SOON: Duration = Duration::from_secs(1);

impl Ledger {
    pub(super) fn of(file: File, path: PathBuf) -> Ledger {
        Ledger { file, path, synced: None, is_behind: false }
    }

    /// Appends one row and syncs it: after this returns, neither a kill nor a crash of the machine loses it.
    pub fn append(&mut self, row: &impl Serialize) -> Result<(), DirectoryError> {
        self.append_lines(&line(row))
    }

    /// Appends one row, which no kill loses, and syncs all that are there where that was not done for a second: a
    /// crash of the machine may lose or tear those since. For what comes by the hundred a second and can be had again,
    /// where a sync for each would be what everything waits for. Such a ledger is read by
    /// [`Directory::ledger_of_answers`](super::Directory::ledger_of_answers).
    pub fn append_soon(&mut self, row: &impl Serialize) -> Result<(), DirectoryError> {
        self.write(&line(row))?;
        self.is_behind = true;
        match self.synced {
            Some(synced) if synced.elapsed() < SOON => Ok(()),
            _ => self.sync(),
        }
    }

    /// Appends whole lines and syncs them. A crash of the machine may tear any of them: who appends so has to
    /// know elsewhere how many bytes are good.
    pub fn append_lines(&mut self, lines: &[u8]) -> Result<(), DirectoryError> {
        self.write(lines)?;
        self.sync()
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), DirectoryError> {
        let half = lines.len() / 2;
        self.file
            .write_all(&lines[..half])
            .and_then(|()| fault::point())
            .and_then(|()| self.file.write_all(&lines[half..]))
            .and_then(|()| fault::point())
            .map_err(io_error("write", &self.path))
    }

    fn sync(&mut self) -> Result<(), DirectoryError> {
        (self.synced, self.is_behind) = (Some(Instant::now()), false);
        self.file.sync_data().map_err(io_error("write", &self.path))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.is_behind {
            // What is written next says whether the disk takes anything.
            let _ = self.sync();
        }
    }
}

fn line(row: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(row).expect("our own types serialise");
    line.push(b'\n');
    line
}

/// Reads the whole lines of a ledger and touches nothing; none where there is no file.
pub fn read_ledger<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DirectoryError> {
    match open_file(path) {
        Ok(file) => Ok(whole_lines(&file, path, Torn::Last)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Where a crash can have torn a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Torn {
    /// The last alone: each was synced before the next was written.
    Last,
    /// Any, and all behind it are in doubt.
    Any,
}

/// Reads lines up to one that is torn; returns them, and how many bytes they take.
pub(super) fn whole_lines<T: DeserializeOwned>(
    file: &File,
    path: &Path,
    can_be: Torn,
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
        // One before the last that does not parse was altered.
        if let Some(detail) = torn {
            return Err(DirectoryError::Damaged { path: path.to_owned(), detail });
        }
        match serde_json::from_slice(&line) {
            Ok(row) => {
                rows.push(row);
                whole += read;
            }
            Err(_) if can_be == Torn::Any => return Ok((rows, whole)),
            Err(error) => torn = Some(format!("line {}: {error}", rows.len() + 1)),
        }
    }
}
