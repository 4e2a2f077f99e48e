//! Opening files that a user names, or that come with what a user names. A pipe may stay without a writer for ever,
//! and a device without an end, so nothing waits for either.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a file; fails where the path leads to a pipe or a device.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    // What is wrong with a folder shows where it is read.
    match kind.is_file() || kind.is_dir() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe or a device")),
    }
}

/// Reads a whole file as [`open`] opens it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole file of UTF-8 as [`open`] opens it.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns whether a path leads to a named pipe. One that a shell makes (`<(…)`) has no name, and a writer.
pub fn is_named_pipe(path: &Path) -> bool {
    #[cfg(unix)]
    {
        let kind = path.metadata().map(|found| found.file_type());
        kind.is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_fifo(&kind))
            && !path.starts_with("/dev")
            && path.canonicalize().is_ok()
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}
