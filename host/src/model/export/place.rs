//! A new folder that is whole or absent.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Folder;

/// In a folder with this file somebody is writing, or was before he was killed.
const MARK: &str = ".aligner-unfinished";

/// A folder under construction: under another name until [`finish`](NewFolder::finish), and gone
/// where that is never called.
#[derive(Debug)]
pub struct NewFolder {
    path: PathBuf,
    temporary: PathBuf,
    /// Held by this process while it writes.
    mark: Option<File>,
}

impl NewFolder {
    /// Begins a folder. Nothing may be there but an empty folder.
    ///
    /// It is written beside its place as `NAME.tmp`; what a killed process left there is removed.
    pub fn begin(path: &Path) -> Result<NewFolder, PlaceError> {
        // The name as it is, should it end in `/` or `..`.
        let path = std::path::absolute(path).map_err(io_error("find", path))?;
        let Some(name) = path.file_name().map(|name| name.to_os_string()) else {
            return Err(PlaceError::Occupied { path });
        };
        match is_empty(&path) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::NotADirectory => {
                return Err(io_error("read", &path)(error));
            }
            Ok(false) | Err(_) => return Err(PlaceError::Occupied { path }),
        }
        let mut temporary_name = name;
        temporary_name.push(".tmp");
        let temporary = path.with_file_name(temporary_name);
        fs::create_dir_all(&temporary).map_err(io_error("make", &temporary))?;
        let marked = temporary.join(MARK);
        let empty =
            fs::read_dir(&temporary).map_err(io_error("read", &temporary))?.next().is_none();
        if !empty && !marked.exists() {
            return Err(PlaceError::Occupied { path: temporary });
        }
        let mark = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&marked)
            .map_err(io_error("write", &marked))?;
        match mark.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PlaceError::InUse { path: temporary }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &marked)(source)),
        }
        let folder = NewFolder { path, temporary, mark: Some(mark) };
        for entry in fs::read_dir(&folder.temporary).map_err(io_error("read", &folder.temporary))? {
            let entry = entry.map_err(io_error("read", &folder.temporary))?.path();
            if entry != marked {
                fs::remove_file(&entry).map_err(io_error("remove", &entry))?;
            }
        }
        Ok(folder)
    }

    /// Returns where the files are for now.
    pub fn unfinished(&self) -> &Path {
        &self.temporary
    }

    /// Makes the files last, and gives the folder its name.
    pub fn finish(mut self) -> Result<(), PlaceError> {
        for entry in fs::read_dir(&self.temporary).map_err(io_error("read", &self.temporary))? {
            let entry = entry.map_err(io_error("read", &self.temporary))?.path();
            File::open(&entry)
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", &entry))?;
        }
        let mark = self.temporary.join(MARK);
        fs::remove_file(&mark).map_err(io_error("remove", &mark))?;
        fs::rename(&self.temporary, &self.path).map_err(io_error("rename", &self.temporary))?;
        self.mark = None;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error("sync", parent))
    }
}

impl Folder for NewFolder {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Write + '_>> {
        self.temporary.create(name)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.mark.take().is_some() {
            // What cannot be removed now is removed by the next one.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError + use<> {
    let path = path.to_owned();
    move |source| PlaceError::Io { action, path, source }
}

/// Why a folder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The operating system said no.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// For example `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is there.
    #[error("`{}` is there already, and is not written over", path.display())]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
    /// Another process writes there.
    #[error("another aligner process writes `{}`", path.display())]
    InUse {
        /// What it writes.
        path: PathBuf,
    },
}

impl PlaceError {
    /// Returns the way out, where there is one to tell.
    pub fn hint(&self) -> Option<String> {
        match self {
            PlaceError::Io { .. } => None,
            PlaceError::Occupied { .. } => Some("name another folder, or move it away".to_owned()),
            PlaceError::InUse { .. } => {
                Some("wait for it to end, or name another folder".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &mut NewFolder, name: &str) {
        folder.create(name).unwrap().write_all(b"x").unwrap();
    }

    #[test]
    fn a_folder_is_whole_or_absent() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new");
        let mut folder = NewFolder::begin(&path).unwrap();
        write(&mut folder, "a");
        assert!(!path.exists());
        assert!(matches!(NewFolder::begin(&path), Err(PlaceError::InUse { .. })));
        drop(folder);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");

        // An empty folder may be there.
        fs::create_dir(&path).unwrap();
        let mut folder = NewFolder::begin(&path).unwrap();
        write(&mut folder, "a");
        folder.finish().unwrap();
        let names = |path: &Path| -> Vec<_> {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names(&path), ["a"]);
        assert_eq!(names(place.path()), ["new"]);
        assert!(matches!(NewFolder::begin(&path), Err(PlaceError::Occupied { .. })));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (path, temporary) = (place.path().join("new"), place.path().join("new.tmp"));
        fs::create_dir(&temporary).unwrap();
        fs::write(temporary.join("thesis.txt"), "years of work").unwrap();
        let error = NewFolder::begin(&path).unwrap_err();
        assert!(error.to_string().ends_with("new.tmp` is there already, and is not written over"));
        assert!(temporary.join("thesis.txt").exists());

        fs::write(temporary.join(MARK), "").unwrap();
        let folder = NewFolder::begin(&path).unwrap();
        assert!(!temporary.join("thesis.txt").exists());
        folder.finish().unwrap();
        assert!(path.exists() && !temporary.exists());

        fs::write(place.path().join("file"), "").unwrap();
        for occupied in ["file", "."] {
            let error = NewFolder::begin(&place.path().join(occupied)).unwrap_err();
            assert!(matches!(error, PlaceError::Occupied { .. }), "{error}");
        }
        assert!(matches!(NewFolder::begin(Path::new("/")), Err(PlaceError::Occupied { .. })));
    }
}
