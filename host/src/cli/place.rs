//! Where results go: files that are whole or not there, and that are none of those they are made of.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{CliError, exit};

/// Fails where a file cannot be put at `path`, before anything is computed for it. It must be none of
/// `inputs`, by whatever name, since it would replace them.
pub fn check(flag: &str, path: &Path, inputs: &[&Path]) -> Result<(), CliError> {
    let shown = path.display();
    if path.is_dir() {
        return Err(
            CliError::usage(format!("`{flag} {shown}` is a folder")).hint("name a file in it")
        );
    }
    if is_special(path) {
        return Ok(());
    }
    let who = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let there = who(path);
    if let Some(input) = inputs.iter().find(|input| there.is_some() && who(input) == there) {
        return Err(CliError::usage(format!(
            "`{flag} {shown}` would replace `{}`, which is read",
            input.display()
        ))
        .hint("name another file"));
    }
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(CliError::usage(format!(
            "`{flag} {shown}` cannot be written: `{}` is no folder",
            folder.display()
        )));
    }
    // Tried now, and gone again at once.
    tempfile::tempfile_in(folder).map(|_| ()).map_err(|error| cannot_write(path, &error))
}

/// Fails where two results would be one file.
pub fn check_apart(one: (&str, &Path), other: (&str, &Path)) -> Result<(), CliError> {
    let same = one.1 == other.1 && !is_special(one.1);
    match same {
        true => {
            Err(CliError::usage(format!("`{}` and `{}` are one file", one.0, other.0))
                .hint("name two"))
        }
        false => Ok(()),
    }
}

/// Writes a file that is whole or not there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let cannot = |error: io::Error| cannot_write(path, &error);
    let mut file = Unfinished::open(path).map_err(cannot)?;
    file.write_all(bytes).map_err(cannot)?;
    file.finish().map_err(cannot)
}

/// Returns the error of a result that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::new(exit::MODEL_OR_DATA, format!("cannot write `{}`: {error}", path.display()))
}

/// A file that gets its name once it is whole, and is gone where it does not get that far. Behind a link it
/// is the file that the link leads to; a device or a pipe is written into, and never replaced.
pub struct Unfinished(State);

enum State {
    Special(File),
    File { file: tempfile::NamedTempFile, target: PathBuf },
}

impl Unfinished {
    /// Begins a file at `path`.
    pub fn open(path: &Path) -> io::Result<Unfinished> {
        if is_special(path) {
            return Ok(Unfinished(State::Special(File::options().write(true).open(path)?)));
        }
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let file = tempfile::NamedTempFile::new_in(folder(&target))?;
        Ok(Unfinished(State::File { file, target }))
    }

    /// Gives it its name.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            State::Special(mut file) => file.flush(),
            State::File { file, target } => {
                // A file of its own may be read by others, as those that are created otherwise.
                file.as_file().set_permissions(permissions(&target))?;
                file.as_file().sync_all()?;
                file.persist(&target).map(|_| ()).map_err(|error| error.error)
            }
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            State::Special(file) => file.write(bytes),
            State::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            State::Special(file) => file.flush(),
            State::File { file, .. } => file.flush(),
        }
    }
}

/// Returns whether there is something at a path that is no file, such as a device or a pipe.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Returns the permissions of the file that is replaced, or those of a new one.
fn permissions(path: &Path) -> fs::Permissions {
    fs::metadata(path).map_or_else(|_| fs::Permissions::from_mode(0o644), |it| it.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_replaces_nothing_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("data"), "rows").unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        let said =
            |out: &str| check("--out", &at(out), &[&at("data")]).map_err(|it| it.to_string());
        for out in ["data", "link", "../x/../y"] {
            assert!(said(out).is_err(), "{out}");
        }
        assert!(said("data").unwrap_err().contains("would replace"));
        assert_eq!(said("other"), Ok(()));
        assert!(check_apart(("--json", &at("a")), ("--report", &at("a"))).is_err());
        assert!(check_apart(("--json", &at("a")), ("--report", &at("b"))).is_ok());
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_what_lies_beside_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("real"), "old").unwrap();
        fs::write(at("out.tmp"), "precious").unwrap();
        std::os::unix::fs::symlink(at("real"), at("out")).unwrap();
        let mut begun = Unfinished::open(&at("out")).unwrap();
        begun.write_all(b"new").unwrap();
        drop(begun);
        assert_eq!(fs::read(at("real")).unwrap(), b"old");
        write(&at("out"), b"new").unwrap();
        assert_eq!(fs::read(at("real")).unwrap(), b"new");
        assert!(fs::symlink_metadata(at("out")).unwrap().is_symlink());
        assert_eq!(fs::read(at("out.tmp")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
