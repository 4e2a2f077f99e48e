//! A template that is read and rendered in a child process.
//!
//! Templates come with models, and who writes one can make it take all memory, any time or any depth: steps are limited,
//! and not what a step does. So the program starts itself again with [`ARGUMENT`] for each template; the child takes
//! limits on itself, and answers one request after the other until its standard input ends.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::engine::{Cause, Engine, Fault, Setup};
use crate::child;
use crate::record::Message;

/// The hidden first argument under which the program renders: see [`child_main`].
pub const ARGUMENT: &str = "__render-template";

/// Seconds by the clock that a request may take; what is usual takes milliseconds.
const SECONDS: u32 = 10;

/// Address space of the child, the stack of its thread among it.
const MEMORY: u64 = 1 << 30;

/// The longest request or answer, in bytes.
const MOST_BYTES: u32 = 256 << 20;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Makes every template from here on render in a child process: this program, or one whose `main` calls
/// [`child_main`] where the first argument is [`ARGUMENT`]. Without it they render in this process.
pub fn isolate(program: PathBuf) {
    // Whoever comes second is content with the first.
    let _ = PROGRAM.set(program);
}

/// Returns the program that templates render in, where it is not this process.
pub(super) fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

#[derive(Serialize, Deserialize)]
struct Request {
    messages: Vec<Message>,
    start: bool,
}

/// A child that has read a template.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Process {
    /// Starts a child and lets it read a template.
    pub(super) fn start(program: &Path, setup: &Setup) -> Result<Process, Fault> {
        let spawned = child::without_environment(&mut Command::new(program))
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = spawned.map_err(|error| broken(format!("no process for it: {error}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(broken("no process for it".to_owned()));
        };
        let mut process = Process { child, input, output };
        process.ask::<_, ()>(setup)?;
        Ok(process)
    }

    /// Renders as [`Engine::render`] does.
    pub(super) fn render(&mut self, messages: &[Message], start: bool) -> Result<String, Fault> {
        self.ask(&Request { messages: messages.to_vec(), start })
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, question: &Q) -> Result<A, Fault> {
        let asked = write(&mut self.input, question).and_then(|()| read(&mut self.output));
        match asked {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Err(self.death()),
        }
    }

    /// Says how the child ended.
    fn death(&mut self) -> Fault {
        // It has closed its output, or said what makes no sense.
        let _ = self.child.kill();
        let signal = self.child.wait().ok().and_then(|status| status.signal());
        broken(match signal {
            Some(libc::SIGALRM) => format!("it takes over {SECONDS} s"),
            Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS) => {
                "it takes too much memory, or nests too deeply".to_owned()
            }
            Some(signal) => format!("the process that renders it died of signal {signal}"),
            None => "the process that renders it came to an end".to_owned(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn broken(said: String) -> Fault {
    Fault { cause: Cause::Broken, line: None, said }
}

/// Writes a value as JSON, with its length before it.
fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MOST_BYTES);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads such a value; `None` at the end.
fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length);
    if length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    from.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// What the program does where its first argument is [`ARGUMENT`]: takes limits on itself, reads a template from
/// standard input, and renders what comes after it. What takes too long ends the process by `SIGALRM`.
pub fn child_main() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads on.
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer() -> io::Result<()> {
    child::take_limits(&[(libc::RLIMIT_AS, MEMORY, MEMORY)])?;
    // A terminal sends these to every process of a run. The parent stops as it will, and then the input ends.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal touches nothing of this process's state.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Some(setup) = read::<Setup>(&mut input)? else { return Ok(()) };
    let engine = timed(|| Engine::new(&setup));
    write(&mut output, &engine.as_ref().map(|_| ()))?;
    let Ok(engine) = engine else { return Ok(()) };
    while let Some(Request { messages, start }) = read(&mut input)? {
        write(&mut output, &timed(|| engine.render(&messages, start)))?;
    }
    Ok(())
}

/// Does work within [`SECONDS`], or ends the process.
fn timed<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: `alarm` takes and returns a number; the default action of its signal ends the process.
    unsafe { libc::alarm(SECONDS) };
    let done = work();
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    done
}
