//! The run directory: the only state of a run, and the only module that writes into it.
//!
//! A file is whole or absent: it is written under another name, synced and renamed, and the journal
//! speaks of it only afterwards. What a stage collects while it works goes to an append-only ledger
//! beside the final file; a resumed stage starts from it.

mod fault;
mod ledger;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::{sha256, sha256_of};
pub use ledger::{Ledger, read_ledger};
use ledger::{Torn, whole_lines};

/// Why the run directory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The operating system said no: no space, no permission, a folder gone.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// For example `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works in the directory.
    #[error("`{}` is in use by another aligner process", path.display())]
    InUse {
        /// The run directory.
        path: PathBuf,
    },
    /// A file holds something else than the program wrote.
    #[error("`{}` is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        detail: String,
    },
    /// The directory was written by a newer aligner.
    #[error("`{}` has run format {found}, and this aligner reads up to {known}", path.display())]
    Newer {
        /// The run directory.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The directory holds something that `--out` must not write over.
    #[error("`{}` {what}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        what: String,
        /// The way out.
        hint: String,
    },
    /// Something the run stands on is not what it was when the run began.
    #[error("{what}")]
    Changed {
        /// One sentence that names the thing.
        what: String,
    },
    /// What is done again does not come out as it was.
    #[error("{what}")]
    Differs {
        /// One sentence that names the stage, the file and, where there is one, the record.
        what: String,
    },
    /// A stage that nothing is to be done in is not done.
    #[error("{what} is not done")]
    ToDo {
        /// For example `round 2: judge`.
        what: String,
    },
}

impl DirectoryError {
    /// Returns the way out, where there is one to tell.
    pub fn hint(&self) -> Option<String> {
        match self {
            DirectoryError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room, then `aligner resume` goes on from the last finished batch".into())
            }
            DirectoryError::Io { .. }
            | DirectoryError::Differs { .. }
            | DirectoryError::ToDo { .. } => None,
            DirectoryError::InUse { .. } => Some(
                "wait for it to end; `aligner --plugins SET --out DIR` begins another run".into(),
            ),
            DirectoryError::Damaged { .. } => Some(
                "restore the file, or begin again: `aligner --plugins SET --out DIR --fresh`"
                    .into(),
            ),
            DirectoryError::Newer { .. } => Some("upgrade aligner to open this run".into()),
            DirectoryError::Occupied { hint, .. } => Some(hint.clone()),
            DirectoryError::Changed { .. } => Some(
                "put it back as it was, or begin again: `aligner --plugins SET --out DIR --fresh`"
                    .into(),
            ),
        }
    }
}

/// Log lines of the processes that worked on the run, with the time of day: no part of what the run is.
pub const LOG: &str = "log.txt";

/// An open run directory, held by this process alone.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// Holds the lock until the last of them is dropped.
    _lock: Arc<File>,
}

impl Directory {
    /// Opens a directory, making it where it is not there, and takes its lock.
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        fs::create_dir_all(path).map_err(io_error("make", path))?;
        let lock_path = path.join(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        // SAFETY: the descriptor belongs to `lock`, which lives through the call.
        let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if locked != 0 {
            return Err(DirectoryError::InUse { path: path.to_owned() });
        }
        Ok(Directory { path: path.to_owned(), _lock: Arc::new(lock) })
    }

    /// Returns where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns whether a file or folder is there.
    pub fn has(&self, name: &str) -> bool {
        self.join(name).exists()
    }

    /// Writes a whole file: under another name, synced, renamed. Returns its SHA-256 in hex.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<String, DirectoryError> {
        let path = self.join(name);
        let folder = path.parent().expect("a file in the run directory has a parent");
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        let temporary = self.join(&format!("{name}.tmp"));
        let mut file = File::create(&temporary).map_err(io_error("write", &temporary))?;
        let half = bytes.len() / 2;
        file.write_all(&bytes[..half])
            .and_then(|()| fault::point())
            .and_then(|()| file.write_all(&bytes[half..]))
            .and_then(|()| file.sync_all())
            .and_then(|()| fault::point())
            .map_err(io_error("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        sync_folder(folder)?;
        fault::point().map_err(io_error("write", &path))?;
        Ok(sha256(bytes))
    }

    /// Writes a JSON document, indented.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<String, DirectoryError> {
        let mut text = serde_json::to_vec_pretty(value).expect("our own types serialise");
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Writes one JSON document a line.
    pub fn write_lines<T: Serialize>(
        &self,
        name: &str,
        rows: &[T],
    ) -> Result<String, DirectoryError> {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row).expect("our own types serialise");
            text.push(b'\n');
        }
        self.write(name, &text)
    }

    /// Writes a folder that `fill` makes: under another name, synced, renamed. What stood there under
    /// this name is replaced: what a killed process left before its journal line, or an older state.
    pub fn write_folder<E: From<DirectoryError>>(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.join(name);
        let folder = path.parent().expect("a folder in the run directory has a parent");
        let temporary = self.join(&format!("{name}.tmp"));
        self.remove(&format!("{name}.tmp"))?;
        // Makes the parent as well.
        fs::create_dir_all(&temporary).map_err(io_error("make", &temporary))?;
        fill(&temporary)?;
        sync_tree(&temporary)?;
        fault::point().map_err(io_error("write", &temporary))?;
        // Renamed and removed only afterwards: a large folder takes its time to go. What a kill leaves
        // between the two names is found again by `restore_folder`.
        let before = old_name(name);
        self.remove(&before)?;
        if path.exists() {
            fs::rename(&path, self.join(&before)).map_err(io_error("rename", &path))?;
            fault::point().map_err(io_error("write", &path))?;
        }
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        sync_folder(folder)?;
        fault::point().map_err(io_error("write", &path))?;
        self.remove(&before)?;
        Ok(())
    }

    /// Says whether a folder is there that [`write_folder`](Directory::write_folder) wrote; one that a
    /// kill left half replaced is put back.
    pub fn restore_folder(&self, name: &str) -> Result<bool, DirectoryError> {
        let (path, before) = (self.join(name), self.join(&old_name(name)));
        if !path.exists() && before.exists() {
            fs::rename(&before, &path).map_err(io_error("rename", &before))?;
        }
        Ok(path.exists())
    }

    /// Removes a folder that [`write_folder`](Directory::write_folder) wrote, with what a kill left
    /// of the one before.
    pub fn remove_folder(&self, name: &str) -> Result<(), DirectoryError> {
        self.remove(&old_name(name))?;
        self.remove(name)
    }

    /// Copies a folder of the run to another name in it.
    pub fn copy_folder(&self, from: &str, to: &str) -> Result<(), DirectoryError> {
        let source = self.join(from);
        self.write_folder(to, |target| {
            for entry in fs::read_dir(&source).map_err(io_error("read", &source))? {
                let entry = entry.map_err(io_error("read", &source))?;
                let copy = target.join(entry.file_name());
                fs::copy(entry.path(), &copy).map_err(io_error("write", &copy))?;
            }
            Ok(())
        })
    }

    /// Copies a file of another run to the same name in this one. Returns whether it was there, and with
    /// this SHA-256; there is no file else.
    pub fn take(&self, run: &Path, name: &str, digest: &str) -> Result<bool, DirectoryError> {
        let (source, path) = (run.join(name), self.join(name));
        // Nothing but a file: a link or a pipe of a stranger could lead anywhere, or have no end.
        let is_file = fs::symlink_metadata(&source).map(|metadata| metadata.is_file());
        let mut from =
            match is_file.and_then(|is_file| is_file.then(|| File::open(&source)).transpose()) {
                Ok(Some(file)) => file,
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(io_error("read", &source)(error)),
            };
        let folder = path.parent().expect("a file in the run directory has a parent");
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        let temporary = self.join(&format!("{name}.tmp"));
        let mut file = File::create(&temporary).map_err(io_error("write", &temporary))?;
        io::copy(&mut from, &mut file)
            .and_then(|_| fault::point())
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &temporary))?;
        // Of the copy: what was read may have changed in between.
        let found = File::open(&temporary).and_then(sha256_of);
        if found.map_err(io_error("read", &temporary))? != digest {
            self.remove(&format!("{name}.tmp"))?;
            return Ok(false);
        }
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        sync_folder(folder)?;
        fault::point().map_err(io_error("write", &path))?;
        Ok(true)
    }

    /// Takes the lock that a file of the run stands for, and makes the file where it is not there; none where a
    /// living process holds it. Who inherits the file keeps the lock as long as it lives.
    pub fn lock(&self, name: &str) -> Result<Option<File>, DirectoryError> {
        let path = self.join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        // SAFETY: the descriptor belongs to `file`, which lives through the call.
        match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
            0 => Ok(Some(file)),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(io_error("lock", &path)(error)),
            },
        }
    }

    /// Makes a folder for what others write.
    pub fn make_folder(&self, name: &str) -> Result<(), DirectoryError> {
        let path = self.join(name);
        fs::create_dir_all(&path).map_err(io_error("make", &path))
    }

    /// Opens the log, to write at its end.
    pub fn log(&self) -> Result<File, DirectoryError> {
        let path = self.join(LOG);
        OpenOptions::new().create(true).append(true).open(&path).map_err(io_error("open", &path))
    }

    /// Reads a whole file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, DirectoryError> {
        let path = self.join(name);
        fs::read(&path).map_err(io_error("read", &path))
    }

    /// Reads a JSON document.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, DirectoryError> {
        serde_json::from_slice(&self.read(name)?).map_err(|error| self.damaged(name, error))
    }

    /// Reads a file of one JSON document a line.
    pub fn read_lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, DirectoryError> {
        let bytes = self.read(name)?;
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines
            .enumerate()
            .map(|(index, line)| {
                serde_json::from_slice(line)
                    .map_err(|error| self.damaged(name, format!("line {}: {error}", index + 1)))
            })
            .collect()
    }

    /// Removes a file or folder; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        let path = self.join(name);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Opens a ledger: reads the whole lines that are there, cuts off what a killed process left
    /// half-written, and appends from there. Damage before the last line is an error.
    pub fn ledger<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<(Vec<T>, Ledger), DirectoryError> {
        self.open_ledger(name, Torn::Last)
    }

    /// The same of one whose rows are synced several at a time ([`Ledger::append_soon`]): where one is torn, it and
    /// those behind it are cut off, to be made again.
    pub fn ledger_of_answers<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<(Vec<T>, Ledger), DirectoryError> {
        self.open_ledger(name, Torn::Any)
    }

    fn open_ledger<T: DeserializeOwned>(
        &self,
        name: &str,
        can_be: Torn,
    ) -> Result<(Vec<T>, Ledger), DirectoryError> {
        let path = self.join(name);
        let folder = path.parent().expect("a file in the run directory has a parent");
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let (rows, whole) = whole_lines(&file, &path, can_be)?;
        file.set_len(whole).map_err(io_error("cut", &path))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(io_error("read", &path))?;
        Ok((rows, Ledger::of(file, path)))
    }

    /// Opens a file of lines of which the first `bytes` are good: what a killed process wrote behind them is
    /// cut off. Fails where it has fewer.
    pub fn lines_up_to(&self, name: &str, bytes: u64) -> Result<Ledger, DirectoryError> {
        let path = self.join(name);
        let open =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(io_error("open", &path))?;
        let length = file.metadata().map_err(io_error("read", &path))?.len();
        if length < bytes {
            let detail = format!("it has {length} bytes, and had {bytes}");
            return Err(DirectoryError::Damaged { path, detail });
        }
        file.set_len(bytes).map_err(io_error("cut", &path))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(io_error("read", &path))?;
        Ok(Ledger::of(file, path))
    }

    /// Gives a file a place outside of the directory, in the place of what is there. One that has gone there
    /// already is no error.
    pub fn hand_over(&self, name: &str, to: &Path) -> Result<(), DirectoryError> {
        let path = self.join(name);
        match fs::rename(&path, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
            renamed => renamed.map_err(io_error("rename", &path))?,
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new(".")))?;
        fault::point().map_err(io_error("write", to))
    }

    /// Removes the directory with all that is in it.
    pub fn discard(self) -> Result<(), DirectoryError> {
        fs::remove_dir_all(&self.path).map_err(io_error("remove", &self.path))
    }

    /// Writes a ledger anew with these rows, and appends from there.
    pub fn rewrite_ledger<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        rows: &[T],
    ) -> Result<Ledger, DirectoryError> {
        self.write_lines(name, rows)?;
        Ok(self.ledger::<T>(name)?.1)
    }

    /// Returns the SHA-256 of a file, in hex.
    pub fn digest(&self, name: &str) -> Result<String, DirectoryError> {
        let path = self.join(name);
        File::open(&path).and_then(sha256_of).map_err(io_error("read", &path))
    }

    /// Returns the files of a folder by name, the folder's before it, with their SHA-256.
    pub fn digests(&self, folder: &str) -> Result<BTreeMap<String, String>, DirectoryError> {
        let path = self.join(folder);
        let mut digests = BTreeMap::new();
        for entry in fs::read_dir(&path).map_err(io_error("read", &path))? {
            let entry = entry.map_err(io_error("read", &path))?;
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            digests.insert(name.clone(), self.digest(&name)?);
        }
        Ok(digests)
    }

    /// Returns an error that says a file is not what the program wrote.
    pub fn damaged(&self, name: &str, detail: impl ToString) -> DirectoryError {
        DirectoryError::Damaged { path: self.join(name), detail: detail.to_string() }
    }
}

/// Fails where a file of a run is gone, or is not the one with this SHA-256.
pub fn check_file(run: &Path, name: &str, digest: &str) -> Result<(), DirectoryError> {
    let path = run.join(name);
    let damaged = |path, detail: &str| DirectoryError::Damaged { path, detail: detail.to_owned() };
    match open_file(&path).and_then(sha256_of) {
        Ok(found) if found == digest => Ok(()),
        Ok(_) => Err(damaged(path, "its contents differ from the journal's digest")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged(path, "it is gone")),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Returns the files below a folder, by their names from there, with their SHA-256; none where it is not
/// there.
pub fn tree(folder: &Path) -> Result<BTreeMap<String, String>, DirectoryError> {
    let mut files = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(io_error("read", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(io_error("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(tree(&path)?.into_iter().map(|(file, it)| (format!("{name}/{file}"), it)));
        } else {
            let digest = File::open(&path).and_then(sha256_of).map_err(io_error("read", &path))?;
            files.insert(name, digest);
        }
    }
    Ok(files)
}

/// Opens a file to read it. Reading from a pipe or a device, which somebody may have put there, could wait for
/// ever.
fn open_file(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { action, path, source }
}

/// Returns what a folder is called while another one takes its place.
fn old_name(name: &str) -> String {
    format!("{name}.old")
}

/// Makes a rename in a folder last through a crash of the machine.
fn sync_folder(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
}

fn sync_tree(path: &Path) -> Result<(), DirectoryError> {
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let entry = entry.map_err(io_error("read", path))?;
        let kind = entry.file_type().map_err(io_error("read", path))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", &entry.path()))?;
        }
    }
    sync_folder(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(&folder.path().join("run")).unwrap();
        (folder, directory)
    }

    #[test]
    fn a_file_is_whole_or_absent() {
        let (_folder, directory) = directory();
        let digest = directory.write("rounds/01/a.jsonl", b"hello").unwrap();
        assert_eq!(digest, sha256(b"hello"));
        assert_eq!(directory.read("rounds/01/a.jsonl").unwrap(), b"hello");
        assert!(!directory.has("rounds/01/a.jsonl.tmp"));
    }

    #[test]
    fn a_second_process_is_refused() {
        let (_folder, directory) = directory();
        let second = Directory::open(directory.path());
        assert!(matches!(second, Err(DirectoryError::InUse { .. })), "{second:?}");
    }

    #[test]
    fn a_ledger_forgets_a_half_written_line_and_nothing_else() {
        let (_folder, directory) = directory();
        let (rows, mut ledger) = directory.ledger::<u32>("l.jsonl").unwrap();
        assert!(rows.is_empty());
        for row in 1..=3 {
            ledger.append(&row).unwrap();
        }
        drop(ledger);
        let bytes = directory.read("l.jsonl").unwrap();
        for cut in 0..=bytes.len() {
            fs::write(directory.join("l.jsonl"), &bytes[..cut]).unwrap();
            let (rows, mut ledger) = directory.ledger::<u32>("l.jsonl").unwrap();
            let whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count() as u32;
            assert_eq!(rows, (1..=whole).collect::<Vec<_>>(), "cut at {cut}");
            ledger.append(&9).unwrap();
            drop(ledger);
            let (rows, _) = directory.ledger::<u32>("l.jsonl").unwrap();
            assert_eq!(rows.last(), Some(&9), "cut at {cut}");
        }
    }

    #[test]
    fn a_ledger_of_answers_is_read_up_to_the_first_torn_line() {
        let (_folder, directory) = directory();
        let (_, mut ledger) = directory.ledger_of_answers::<u32>("l.jsonl").unwrap();
        for row in 11..=15 {
            ledger.append_soon(&row).unwrap();
        }
        drop(ledger);
        // As a file system leaves a page that it had not written.
        let mut bytes = directory.read("l.jsonl").unwrap();
        bytes[6..8].fill(0);
        fs::write(directory.join("l.jsonl"), &bytes).unwrap();
        assert!(directory.ledger::<u32>("l.jsonl").is_err());
        let (rows, mut ledger) = directory.ledger_of_answers::<u32>("l.jsonl").unwrap();
        assert_eq!(rows, [11, 12]);
        ledger.append_soon(&99).unwrap();
        drop(ledger);
        assert_eq!(directory.ledger::<u32>("l.jsonl").unwrap().0, [11, 12, 99]);
    }

    #[test]
    fn a_folder_replaces_what_a_killed_process_left() {
        let (_folder, directory) = directory();
        fs::create_dir_all(directory.join("adapter.tmp")).unwrap();
        fs::write(directory.join("adapter.tmp/half"), b"x").unwrap();
        let fill = |path: &Path| {
            fs::write(path.join("whole"), b"y").unwrap();
            Ok::<(), DirectoryError>(())
        };
        directory.write_folder("adapter", fill).unwrap();
        directory.write_folder("adapter", fill).unwrap();
        assert!(directory.has("adapter/whole") && !directory.has("adapter/half"));
        assert!(!directory.has("adapter.old") && !directory.has("adapter.tmp"));
        let names: Vec<String> = directory.digests("adapter").unwrap().into_keys().collect();
        assert_eq!(names, ["adapter/whole"]);
        directory.copy_folder("adapter", "final/adapter").unwrap_or_else(|error| {
            panic!("the parent folder is made as well: {error}");
        });
        fs::create_dir(directory.join("adapter.old")).unwrap();
        directory.remove_folder("adapter").unwrap();
        assert!(!directory.has("adapter") && !directory.has("adapter.old"));
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let (_folder, directory) = directory();
        fs::write(directory.join("rows.jsonl"), b"1\n2\nthree\n").unwrap();
        let error = directory.read_lines::<u32>("rows.jsonl").unwrap_err().to_string();
        assert!(error.contains("rows.jsonl") && error.contains("line 3"), "{error}");
    }
}
