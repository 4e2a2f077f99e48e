//! Where log lines go: to stderr, and to `log.txt` of a run.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{progress::LOG_TARGET, run::directory::Directory};

/// Most bytes of lines that wait for a run directory; later ones go to stderr alone.
const WAITING: usize = 64 << 10;

static FILE: Mutex<Sink> = Mutex::new(Sink::Waiting(Vec::new()));

/// Where the lines of the file go.
enum Sink {
    /// No run directory is there yet.
    Waiting(Vec<u8>),
    Open(File),
    /// It could not be opened.
    Closed,
}

/// Sends log lines to stderr, warnings or what `RUST_LOG` asks for, and to the file of a run: what
/// `RUST_LOG` asks for, or what is worth knowing, and each stage that has ended.
pub fn start() {
    let filter =
        || EnvFilter::builder().with_default_directive(Level::WARN.into()).from_env_lossy();
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).is_ok_and(|asked| !asked.is_empty());
    let more: &[&str] = if asked { &[] } else { &["aligner=info", "plugin=info"] };
    let more = more.iter().copied().chain(["progress=info"]);
    let fuller = more.fold(filter(), |filter, directive| {
        filter.add_directive(directive.parse().expect("directives of our own parse"))
    });
    let stderr = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .with_filter(filter())
        .with_filter(filter_fn(|metadata| metadata.target() != LOG_TARGET));
    let file = fmt::layer()
        .with_writer(Lines)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_filter(fuller);
    tracing_subscriber::registry().with(stderr).with(file).init();
}

/// Opens the log of a run, and writes down what was said before. A run goes on without one where it
/// cannot be written.
pub fn open(directory: &Directory) {
    let opened = directory.log();
    let mut sink = sink();
    let waited = match std::mem::replace(&mut *sink, Sink::Closed) {
        Sink::Waiting(lines) => lines,
        Sink::Open(_) | Sink::Closed => Vec::new(),
    };
    match opened {
        Ok(mut file) => {
            let _ = file.write_all(&waited);
            *sink = Sink::Open(file);
        }
        Err(error) => {
            // The warning itself wants the sink.
            drop(sink);
            tracing::warn!("the run goes on without a log: {error}");
        }
    }
}

fn sink() -> MutexGuard<'static, Sink> {
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes whole lines to the file.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *sink() {
            Sink::Waiting(lines) if lines.len() + line.len() <= WAITING => lines.extend(line),
            // A disk that is full is told of by what the run itself writes.
            Sink::Open(file) => drop(file.write_all(line)),
            Sink::Waiting(_) | Sink::Closed => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        Lines
    }
}
