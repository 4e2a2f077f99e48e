//! The cache of compiled plugins: what others could have put there is never run.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aligner::plugin::compile::Compiler;
use aligner::plugin::{Cache, Kind, NoAnswers, Outcome, Setup, Source};
use aligner::record::Verdict;

use super::loading::{no_compiler, runtime};
use super::modules::{MODULE, Module};
use super::{PLACE, check_sound, compiler, guests, records};

/// Entries of a cache folder, without its key.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .map(|files| files.map(|file| file.unwrap().path()).collect())
        .unwrap_or_default();
    entries.retain(|path: &PathBuf| path.extension().is_some_and(|end| end == "bin"));
    entries
}

/// Runs `work` and returns what it logged besides what it returned.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let lines = lines.0.lock().unwrap().clone();
    (result, String::from_utf8(lines).expect("lines are UTF-8"))
}

/// A cache folder with one compiled plugin in it.
struct Cached {
    _folder: tempfile::TempDir,
    cache: PathBuf,
    entry: PathBuf,
}

impl Cached {
    fn new() -> Cached {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("plugins");
        let mut cached = Cached { _folder: folder, cache, entry: PathBuf::new() };
        assert!(!cached.works(no_compiler()).0);
        assert!(cached.works(compiler()).0);
        let [entry] = &entries(&cached.cache)[..] else { panic!("one entry is expected") };
        cached.entry = entry.clone();
        // From here on no compiler is needed.
        assert_eq!(cached.works(no_compiler()), (true, String::new()));
        cached
    }

    /// Loads and calls the plugin: whether that works, and what is logged.
    fn works(&self, compiler: Compiler) -> (bool, String) {
        logged(|| {
            let runtime = runtime(compiler, Cache::Folder(self.cache.clone()));
            let plugin = runtime.load(&guests::hostile(), Setup::new(Kind::Filter));
            let stage =
                plugin.and_then(|plugin| plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers));
            stage.is_ok_and(|stage| stage.outcomes == [Outcome::Done(Verdict::Keep)])
        })
    }

    /// Checks that the poisoned entry is not used, that a warning says so, and that the plugin is
    /// compiled again.
    fn check(&self, how: &str, warning: &str) {
        let poison = std::fs::read(&self.entry).ok();
        let (works, lines) = self.works(no_compiler());
        assert!(!works, "{how}: it was used");
        assert!(lines.contains("WARN") && lines.contains(warning), "{how}: {lines}");
        assert!(self.entry.symlink_metadata().is_err(), "{how}: it is still there");
        if let Some(poison) = poison {
            std::fs::write(&self.entry, poison).unwrap();
        }
        let (works, lines) = self.works(compiler());
        assert!(works, "{how}: {lines}");
        assert_eq!(self.works(no_compiler()), (true, String::new()), "{how}");
        check_sound();
    }
}

#[test]
fn an_entry_that_was_changed_is_not_run() {
    let cached = Cached::new();
    let whole = std::fs::read(&cached.entry).unwrap();
    for at in [0, 20, 45, whole.len() / 2, whole.len() - 1] {
        let mut poisoned = whole.clone();
        poisoned[at] ^= 0x40;
        std::fs::write(&cached.entry, &poisoned).unwrap();
        cached.check(&format!("byte {at} was changed"), "it is not as it was written");
    }
    for length in [0, 39, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cached.entry, &whole[..length]).unwrap();
        cached.check(&format!("cut at {length}"), "it is not as it was written");
    }
}

#[test]
fn an_entry_that_is_no_file_of_our_own_is_not_run() {
    let cached = Cached::new();
    let elsewhere = cached.cache.with_file_name("elsewhere");
    std::fs::copy(&cached.entry, &elsewhere).unwrap();
    // The very same bytes, but whoever owns the link's end could change them.
    std::fs::remove_file(&cached.entry).unwrap();
    symlink(&elsewhere, &cached.entry).unwrap();
    let (works, lines) = cached.works(no_compiler());
    assert!(!works && lines.contains("WARN") && lines.contains("is a link"), "{lines}");
    assert!(cached.entry.symlink_metadata().is_err());
    assert!(elsewhere.exists());
    assert!(cached.works(compiler()).0);

    // Open to others.
    for mode in [0o620, 0o602, 0o666] {
        std::fs::set_permissions(&cached.entry, std::fs::Permissions::from_mode(mode)).unwrap();
        let (works, lines) = cached.works(no_compiler());
        let warning = format!("open to other users (mode {mode:o})");
        assert!(!works && lines.contains("WARN") && lines.contains(&warning), "{lines}");
        assert!(cached.works(compiler()).0);
    }

    // A pipe, which would be waited for for ever.
    std::fs::remove_file(&cached.entry).unwrap();
    let path = std::ffi::CString::new(cached.entry.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in a zero and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let (works, lines) = cached.works(no_compiler());
    assert!(!works && lines.contains("WARN") && lines.contains("is not a file"), "{lines}");
    assert!(cached.works(compiler()).0);
    assert_eq!(cached.works(no_compiler()), (true, String::new()));
    check_sound();
}

#[test]
fn entries_of_two_plugins_cannot_stand_in_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("plugins");
    let keeps = Source::bytes("keeps.wasm", MODULE.bytes());
    let loops = Module { filter: "(loop $again (br $again)) unreachable", ..MODULE };
    let loops = Source::bytes("loops.wasm", loops.bytes());
    let name = |source: &Source, compiler| {
        let runtime = runtime(compiler, Cache::Folder(cache.clone()));
        let mut setup = Setup::new(Kind::Filter);
        setup.limits.fuel = 1_000_000;
        let plugin = runtime.load(source, setup)?;
        plugin.filter(&PLACE, &records(["p-1"]), &mut NoAnswers)
    };
    name(&keeps, compiler()).unwrap();
    let [first] = &entries(&cache)[..] else { panic!("one entry is expected") };
    assert!(name(&loops, compiler()).is_err());
    let both = entries(&cache);
    let second = both.iter().find(|entry| *entry != first).expect("there are two");
    let (a, b) = (std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    std::fs::write(first, b).unwrap();
    std::fs::write(second, a).unwrap();

    let (result, lines) = logged(|| name(&keeps, no_compiler()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("plugin `keeps.wasm` could not be compiled"), "{error}");
    assert!(lines.contains("it is not as it was written"), "{lines}");
    let (result, lines) = logged(|| name(&loops, compiler()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("used up its budget of 1M fuel"), "{error}");
    assert!(lines.contains("it is not as it was written"), "{lines}");
    name(&keeps, compiler()).unwrap();
    name(&keeps, no_compiler()).unwrap();
    check_sound();
}

#[test]
fn a_folder_that_others_can_write_to_is_not_used() {
    let cached = Cached::new();
    for mode in [0o775, 0o777, 0o702] {
        std::fs::set_permissions(&cached.cache, std::fs::Permissions::from_mode(mode)).unwrap();
        let warning = format!("open to other users (mode {mode:o})");
        for (compiler, expected) in [(no_compiler(), false), (compiler(), true)] {
            let (works, lines) = cached.works(compiler);
            assert_eq!(works, expected);
            assert!(
                lines.contains("going on without a cache") && lines.contains(&warning),
                "{lines}"
            );
        }
    }
    std::fs::set_permissions(&cached.cache, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(cached.works(no_compiler()).0);
}

#[test]
fn a_cache_that_cannot_be_made_is_done_without() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = runtime(compiler(), Cache::Folder(file.path().join("plugins")));
    runtime.load(&guests::hostile(), Setup::new(Kind::Filter)).unwrap();
}
