//! Compiles plugins in a child process with limits of its own.
//!
//! A file of some hundred kilobytes can keep a compiler busy for minutes, and compilers have bugs
//! that end the process. So this program starts itself again with [`ARGUMENT`]; the child reads the
//! plugin from its standard input, writes machine code to its standard output, and whatever becomes
//! of it, the host reads on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::engine;
use super::error::LoadFault;
use super::inspect::{Form, MAX_FILE_BYTES};
use crate::child;
use crate::shown::one_line;

/// The hidden first argument under which the program is a compiler: see [`child_main`].
pub const ARGUMENT: &str = "__compile-plugin";

/// How plugins are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In a child process.
    Child(CompileCommand),
    /// In this process, without limits: for components that come with the program, and for tests.
    InProcess,
}

/// The command line of the child, and what it may use.
#[derive(Clone, Debug)]
pub struct CompileCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments; what to do, and within which limits, comes after them.
    pub args: Vec<OsString>,
    /// What it may use.
    pub limits: CompileLimits,
}

/// What the compiler may use for one plugin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompileLimits {
    /// Processor time, over all threads. CPython's component takes 13 s.
    pub cpu_seconds: u64,
    /// Wall-clock time.
    pub wall_seconds: f64,
    /// Address space.
    pub memory_bytes: u64,
    /// The machine code.
    pub output_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> CompileLimits {
        CompileLimits {
            cpu_seconds: 120,
            wall_seconds: 180.0,
            memory_bytes: 4 << 30,
            output_bytes: 1 << 30,
        }
    }
}

impl CompileLimits {
    /// Returns what the child is told.
    fn arguments(&self) -> [String; 3] {
        [self.cpu_seconds, self.memory_bytes, self.output_bytes].map(|limit| limit.to_string())
    }

    /// Reads what the child was told. The time by the clock is its parent's to keep.
    fn parse([cpu, memory, output]: [&str; 3]) -> Option<CompileLimits> {
        Some(CompileLimits {
            cpu_seconds: cpu.parse().ok()?,
            memory_bytes: memory.parse().ok()?,
            output_bytes: output.parse().ok()?,
            ..CompileLimits::default()
        })
    }
}

impl CompileCommand {
    /// Returns the command that starts this very program as a compiler. Its `main` must call
    /// [`child_main`] where the first argument is [`ARGUMENT`].
    pub fn this_program() -> io::Result<CompileCommand> {
        // Machine code of another build would not fit.
        let program = child::this_program()?;
        Ok(CompileCommand {
            program,
            args: vec![ARGUMENT.into()],
            limits: CompileLimits::default(),
        })
    }
}

/// What the child is to do; the argument before its limits.
#[derive(Clone, Copy)]
enum Task {
    Encode,
    Compile,
}

impl Task {
    fn as_str(self) -> &'static str {
        match self {
            Task::Encode => "encode",
            Task::Compile => "compile",
        }
    }
}

/// Makes a component of a core module; a component is returned as it is.
pub(super) fn encode(
    compiler: &Compiler,
    form: Form,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, LoadFault> {
    match form {
        Form::Component => Ok(None),
        Form::Core => perform(compiler, Task::Encode, bytes).map(Some),
    }
}

/// Compiles a component to machine code for `engine`.
pub(super) fn compile(
    compiler: &Compiler,
    engine: &Engine,
    component: &[u8],
) -> Result<Vec<u8>, LoadFault> {
    match compiler {
        Compiler::InProcess => engine
            .precompile_component(component)
            .map_err(|error| LoadFault::Compile(one_line(&format!("{error:#}"), 500))),
        Compiler::Child(_) => perform(compiler, Task::Compile, component),
    }
}

fn perform(compiler: &Compiler, task: Task, bytes: &[u8]) -> Result<Vec<u8>, LoadFault> {
    match compiler {
        Compiler::InProcess => work(task, bytes).map_err(LoadFault::Compile),
        Compiler::Child(command) => in_child(command, task, bytes),
    }
}

/// Does the task in this process.
fn work(task: Task, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let result = match task {
        Task::Encode => wit_component::ComponentEncoder::default()
            .validate(true)
            .module(bytes)
            .and_then(|encoder| encoder.encode())
            .map_err(|error| format!("{error:#}")),
        Task::Compile => engine::engine()
            .and_then(|engine| engine.precompile_component(bytes))
            .map_err(|error| format!("{error:#}")),
    };
    result.map_err(|text| one_line(&text, 500))
}

/// Starts the child and waits for what it makes.
///
/// All three streams are nameless files rather than pipes: nothing can block, and nobody else can
/// reach them.
fn in_child(command: &CompileCommand, task: Task, bytes: &[u8]) -> Result<Vec<u8>, LoadFault> {
    let deadline =
        Duration::try_from_secs_f64(command.limits.wall_seconds).unwrap_or(Duration::MAX);
    let start = || -> io::Result<(Child, File, File)> {
        let (mut input, output, errors) =
            (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
        input.write_all(bytes)?;
        input.rewind()?;
        let child = child::without_environment(&mut Command::new(&command.program))
            .args(&command.args)
            .arg(task.as_str())
            .args(command.limits.arguments())
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(errors.try_clone()?))
            .spawn()?;
        Ok((child, output, errors))
    };
    let fault = |what: &str, error: io::Error| LoadFault::Compile(format!("{what}: {error}"));
    let (mut child, mut output, mut errors) =
        start().map_err(|error| fault("the compiler process did not start", error))?;
    let status = match wait(&mut child, deadline) {
        Ok(Some(status)) => status,
        Ok(None) => {
            return Err(LoadFault::Compile(format!(
                "it took over {} s",
                command.limits.wall_seconds
            )));
        }
        Err(error) => return Err(fault("the compiler process was lost", error)),
    };
    if !status.success() {
        let mut text = Vec::new();
        // The cause of death is what matters; a stream that cannot be read adds nothing to it.
        let _ = errors.rewind().and_then(|()| (&mut errors).take(8192).read_to_end(&mut text));
        return Err(LoadFault::Compile(death(
            status,
            &String::from_utf8_lossy(&text),
            &command.limits,
        )));
    }
    let mut artifact = Vec::new();
    output
        .rewind()
        .and_then(|()| output.read_to_end(&mut artifact))
        .map_err(|error| fault("its machine code could not be read", error))?;
    Ok(artifact)
}

/// Waits until the child ends; kills it at the deadline and returns `None`.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Says how the child ended.
fn death(status: ExitStatus, stderr: &str, limits: &CompileLimits) -> String {
    use std::os::unix::process::ExitStatusExt;
    let text = one_line(stderr, 500);
    match (status.code(), status.signal()) {
        (Some(1), _) if !text.is_empty() => text,
        (Some(101), _) => format!("the compiler panicked: {text}"),
        (Some(code), _) => format!("the compiler ended with code {code}: {text}"),
        (None, Some(libc::SIGXCPU)) => {
            format!("it took over {} s of processor time", limits.cpu_seconds)
        }
        (None, Some(libc::SIGXFSZ)) => {
            format!("its machine code has more than {} bytes", limits.output_bytes)
        }
        // What Rust says where it gets no memory.
        (None, Some(libc::SIGABRT)) if text.contains("memory allocation of") => {
            format!("it took more than {} MiB of memory", limits.memory_bytes >> 20)
        }
        (None, Some(libc::SIGKILL)) => "the compiler was killed".into(),
        (None, Some(signal)) => format!("the compiler died of signal {signal}: {text}"),
        (None, None) => "the compiler vanished".into(),
    }
}

/// What the program does where its first argument is [`ARGUMENT`]: takes limits on itself, reads a
/// plugin from standard input, and writes the component (`encode`) or its machine code (`compile`)
/// to standard output. On failure one line on standard error, and code 1.
pub fn child_main() -> ExitCode {
    match compiler() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(1)
        }
    }
}

fn compiler() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    let [.., task, cpu, memory, output] = &arguments[..] else {
        return Err("a task and its limits are expected".into());
    };
    let limits = CompileLimits::parse([cpu, memory, output])
        .ok_or("limits are numbers: seconds, bytes of memory, bytes of output")?;
    take_limits(&limits).map_err(|error| format!("no limits on the compiler process: {error}"))?;
    let task = match task.as_str() {
        "encode" => Task::Encode,
        "compile" => Task::Compile,
        _ => return Err("`encode` or `compile` is expected".into()),
    };
    let mut bytes = Vec::new();
    io::stdin()
        .take(2 * MAX_FILE_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("the plugin could not be read: {error}"))?;
    let artifact = work(task, &bytes)?;
    io::stdout()
        .write_all(&artifact)
        .map_err(|error| format!("the machine code could not be written: {error}"))
}

fn take_limits(limits: &CompileLimits) -> io::Result<()> {
    child::take_limits(&[
        // A second more before it is killed: the signal at the first tells what it died of.
        (libc::RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds.saturating_add(1)),
        (libc::RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (libc::RLIMIT_FSIZE, limits.output_bytes, limits.output_bytes),
    ])?;
    #[cfg(target_os = "linux")]
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe {
        // A compiler whose host is gone works for nobody.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> CompileCommand {
        let limits = CompileLimits { wall_seconds: 1.5, ..CompileLimits::default() };
        CompileCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()], limits }
    }

    fn check(script: &str, expected: Result<&str, &str>) {
        let result = in_child(&shell(script), Task::Compile, b"input");
        match (result, expected) {
            (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected.as_bytes()),
            (Err(LoadFault::Compile(text)), Err(expected)) => {
                assert!(text.contains(expected), "{text}\n  lacks\n{expected}");
            }
            (result, expected) => panic!("{script}: {result:?} is not {expected:?}"),
        }
    }

    #[test]
    fn whatever_becomes_of_the_child_the_host_reads_on() {
        check("cat", Ok("input"));
        check("echo the reason >&2; exit 1", Err("the reason"));
        check("echo thread main panicked >&2; exit 101", Err("the compiler panicked: thread main"));
        check("exit 3", Err("code 3"));
        check("kill -ABRT $$", Err("signal 6"));
        check("kill -XCPU $$", Err("it took over 120 s of processor time"));
        check("kill -XFSZ $$", Err("its machine code has more than 1073741824 bytes"));
        check("kill -KILL $$", Err("the compiler was killed"));
        check(
            "echo memory allocation of 9 bytes failed >&2; kill -ABRT $$",
            Err("it took more than 4096 MiB of memory"),
        );
        check("exec sleep 60", Err("it took over 1.5 s"));
        let missing = CompileCommand { program: "/nonexistent/aligner".into(), ..shell("") };
        let error = in_child(&missing, Task::Compile, b"").unwrap_err();
        assert!(error.to_string().contains("did not start"), "{error}");
    }

    #[test]
    fn the_environment_does_not_reach_the_child() {
        check("printf %s \"$HOME$CARGO_HOME\"", Ok(""));
    }
}
