//! How a job is started, asked after and ended: here, by Slurm or by Ray.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::TrainerError;
use super::follow::Record;
use super::process::{self, Said};
use crate::plugin_set::{Launch, Trl};
use crate::shown::one_line;

/// Modules that the program imports.
const MODULES: [&str; 6] = ["torch", "transformers", "trl", "peft", "datasets", "accelerate"];

/// What has become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It stands in a queue, of which this is said.
    Waiting(String),
    /// It is at work.
    Running,
    /// It is over, and how.
    Ended(String),
    /// Nobody could say, and why.
    Unknown(String),
}

/// An attempt, at work or in a queue.
pub(super) struct Job {
    /// Its folder.
    folder: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A child of this process.
    Child(Child),
    /// A process of this machine that an earlier aligner started; it holds the lock as long as it lives.
    Orphan { lock: PathBuf },
    /// A batch job of Slurm, by its number; by its name until that is known.
    Slurm { id: Option<String>, name: String },
    /// A job of Ray, by its name.
    Ray { name: String, address: Vec<String> },
}

impl Job {
    /// Starts an attempt in the folder of a job. A process of this machine holds `lock` as long as any part of it
    /// lives.
    pub(super) fn start(
        trl: &Trl,
        job: &Path,
        record: &Record,
        lock: &File,
    ) -> Result<Job, TrainerError> {
        let (attempt, name) = (record.attempt, record.job_name());
        let folder = job.join(attempt.to_string());
        let said = |program: &str, arguments: &[String]| {
            process::ask(program, arguments)
                .map_err(|source| TrainerError::Start { program: program.to_owned(), source })
        };
        let refused = |program: &str, said: &Said| TrainerError::Refused {
            program: program.to_owned(),
            said: said.shown(),
        };
        let script = job.join("launch.sh").display().to_string();
        let kind = match record.launch {
            Launch::Local | Launch::Torchrun => Kind::Child(child(job, attempt, lock)?),
            Launch::Slurm => {
                let fixed = ["--parsable".to_owned(), format!("--job-name={name}")];
                let places = [
                    format!("--chdir={}", job.display()),
                    format!("--output={}", folder.join("slurm.txt").display()),
                ];
                let script = [script, attempt.to_string()];
                let arguments = [&fixed[..], &places, &trl.arguments, &script].concat();
                let answer = said("sbatch", &arguments)?;
                match job_number(&answer.stdout).filter(|_| answer.well) {
                    Some(id) => Kind::Slurm { id: Some(id), name },
                    None => return Err(refused("sbatch", &answer)),
                }
            }
            Launch::Ray => {
                let fixed = ["job", "submit", "--no-wait", "--submission-id", name.as_str()];
                let script = ["--", "sh", &script, &attempt.to_string()];
                let own = trl.arguments.iter().map(String::as_str);
                let all = fixed.into_iter().chain(own).chain(script);
                let answer = said("ray", &all.map(str::to_owned).collect::<Vec<_>>())?;
                if !answer.well {
                    return Err(refused("ray job submit", &answer));
                }
                Kind::Ray { name, address: record.address.clone() }
            }
        };
        Ok(Job { folder, kind })
    }

    /// Returns an attempt of an earlier process; none where there is nothing to follow. `lock` is that of a
    /// process of this machine, where it is held.
    pub(super) fn found(record: &Record, job: &Path, lock: Option<PathBuf>) -> Option<Job> {
        let kind = match (record.launch, &record.id) {
            (Launch::Local | Launch::Torchrun, _) => Kind::Orphan { lock: lock? },
            // Without a number, aligner was killed between submitting and noting it.
            (Launch::Slurm, id) => Kind::Slurm { id: id.clone(), name: record.job_name() },
            (Launch::Ray, _) => {
                Kind::Ray { name: record.job_name(), address: record.address.clone() }
            }
        };
        Some(Job { folder: job.join(record.attempt.to_string()), kind })
    }

    /// Returns the number that the scheduler gave it.
    pub(super) fn id(&self) -> Option<&str> {
        match &self.kind {
            Kind::Slurm { id, .. } => id.as_deref(),
            Kind::Ray { name, .. } => Some(name),
            Kind::Child(_) | Kind::Orphan { .. } => None,
        }
    }

    /// Returns whether asking after it is a question to a scheduler, who is not to be asked too often.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Slurm { .. } | Kind::Ray { .. })
    }

    /// Returns what has become of it.
    pub(super) fn state(&mut self) -> State {
        match &mut self.kind {
            Kind::Child(child) => match child.try_wait() {
                Ok(None) => State::Running,
                Ok(Some(status)) => State::Ended(how(status)),
                Err(error) => State::Unknown(error.to_string()),
            },
            Kind::Orphan { lock } => match is_held(lock) {
                Ok(true) => State::Running,
                Ok(false) => State::Ended(exit_of(&self.folder)),
                Err(error) => State::Unknown(error.to_string()),
            },
            Kind::Slurm { id: Some(id), .. } => slurm_state(id),
            Kind::Slurm { id, name } => match number_of(name) {
                Ok(Some(number)) => slurm_state(id.insert(number)),
                Ok(None) => State::Ended("it is in no queue of Slurm".to_owned()),
                Err(unknown) => unknown,
            },
            Kind::Ray { name, address } => ray_state(name, address),
        }
    }

    /// Ends it, and returns when it is ended or the scheduler was told.
    pub(super) fn end(&mut self) -> Result<(), TrainerError> {
        let told = |program: &str, arguments: &[String]| {
            let said = process::ask(program, arguments);
            let said =
                said.map_err(|source| TrainerError::Start { program: program.to_owned(), source })?;
            match said.well {
                true => Ok(()),
                false => {
                    Err(TrainerError::Refused { program: program.to_owned(), said: said.shown() })
                }
            }
        };
        let failed = |source| TrainerError::Start { program: "kill".to_owned(), source };
        match &mut self.kind {
            Kind::Child(child) => process::end_child(child).map_err(failed),
            Kind::Orphan { lock } => {
                if !is_held(lock).map_err(failed)? {
                    return Ok(());
                }
                let unknown = || TrainerError::Unknown { path: self.folder.clone() };
                let pid = small_file(&self.folder.join("pid")).ok_or_else(unknown)?;
                let pid: u32 = pid.trim().parse().map_err(|_| unknown())?;
                process::end(pid).map_err(failed)
            }
            Kind::Slurm { id: Some(id), .. } => told("scancel", std::slice::from_ref(id)),
            Kind::Slurm { id: None, name } => told("scancel", &[format!("--name={name}")]),
            Kind::Ray { name, address } => {
                let arguments = ["job", "stop", "--no-wait"].map(str::to_owned);
                told("ray", &[&arguments[..], address, std::slice::from_ref(name)].concat())
            }
        }
    }
}

/// Starts the script as a process of this machine.
fn child(job: &Path, attempt: u32, lock: &File) -> Result<Child, TrainerError> {
    let held = lock.as_raw_fd();
    let mut command = Command::new("sh");
    command
        .args(["launch.sh", &attempt.to_string()])
        .current_dir(job)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only a system call is made, with a number that was copied before.
    unsafe {
        command.pre_exec(move || match libc::fcntl(held, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let started = process::group(&mut command).spawn();
    started.map_err(|source| TrainerError::Start { program: "sh".to_owned(), source })
}

/// Returns whether a living process holds a lock.
fn is_held(lock: &Path) -> io::Result<bool> {
    let file = File::options().write(true).open(lock)?;
    // SAFETY: the descriptor belongs to `file`, which lives through the call; closing it lets the lock go.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(false),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            error => Err(error),
        },
    }
}

/// Says how a process ended.
fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "it is gone".to_owned(),
    }
}

/// Says how an attempt ended that was nobody's child any more.
fn exit_of(folder: &Path) -> String {
    let code = small_file(&folder.join("exit")).and_then(|text| text.trim().parse::<u8>().ok());
    code.map_or("it is gone".to_owned(), |code| format!("exit code {code}"))
}

/// Reads a file of a few letters that a job wrote.
fn small_file(path: &Path) -> Option<String> {
    let metadata = fs::symlink_metadata(path).ok()?;
    (metadata.is_file() && metadata.len() < 64).then(|| fs::read_to_string(path).ok()).flatten()
}

/// Reads what `sbatch --parsable` prints: a number, and a cluster behind a semicolon where there are several.
fn job_number(said: &str) -> Option<String> {
    let number = said.trim().lines().last()?.split(';').next()?.trim();
    let sound =
        !number.is_empty() && number.len() < 20 && number.bytes().all(|b| b.is_ascii_digit());
    sound.then(|| number.to_owned())
}

/// Returns the number of the job of a name, where Slurm has one; or that nobody could say.
fn number_of(name: &str) -> Result<Option<String>, State> {
    let arguments = ["-h", "-o", "%i"].map(str::to_owned);
    let said = process::ask("squeue", &[&arguments[..], &[format!("--name={name}")]].concat());
    match said {
        Ok(said) if said.well => Ok(job_number(&said.stdout)),
        Ok(said) => Err(State::Unknown(format!("squeue: {}", said.shown()))),
        Err(error) => Err(State::Unknown(format!("squeue: {error}"))),
    }
}

fn slurm_state(id: &str) -> State {
    let ask = |program: &str, arguments: &[&str]| {
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        process::ask(program, &arguments)
    };
    let word = |said: &Said| {
        let first = said.stdout.split_whitespace().next().unwrap_or_default();
        one_line(first.trim_end_matches('+'), 40)
    };
    match ask("squeue", &["-h", "-j", id, "-o", "%T"]) {
        Err(error) => return State::Unknown(format!("squeue: {error}")),
        Ok(said) if said.well && !word(&said).is_empty() => return of_slurm(&word(&said)),
        // It forgets what is over after some minutes, and says so.
        Ok(said) if said.well || said.stderr.contains("Invalid job id") => {}
        Ok(said) => return State::Unknown(format!("squeue: {}", said.shown())),
    }
    match ask("sacct", &["-n", "-X", "-P", "-j", id, "-o", "State"]) {
        Ok(said) if said.well && !word(&said).is_empty() => of_slurm(&word(&said)),
        // A cluster without accounts knows no more.
        _ => State::Ended("it is in no queue of Slurm any more".to_owned()),
    }
}

fn of_slurm(state: &str) -> State {
    match state {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD"
        | "SPECIAL_EXIT" | "SUSPENDED" | "STOPPED" => State::Waiting(state.to_owned()),
        "RUNNING" | "COMPLETING" | "STAGE_OUT" | "SIGNALING" | "RESIZING" => State::Running,
        other => State::Ended(format!("Slurm says {other}")),
    }
}

/// Returns where the Ray cluster is, as it is told when a job is submitted.
pub(super) fn address(arguments: &[String]) -> Vec<String> {
    let at = arguments.iter().position(|it| it == "--address" || it.starts_with("--address="));
    at.map_or(Vec::new(), |at| {
        let many = if arguments[at] == "--address" { 2 } else { 1 };
        arguments[at..].iter().take(many).cloned().collect()
    })
}

fn ray_state(name: &str, address: &[String]) -> State {
    let arguments =
        [&["job".to_owned(), "status".to_owned()], address, &[name.to_owned()]].concat();
    match process::ask("ray", &arguments) {
        Ok(said) => of_ray(name, &said),
        Err(error) => State::Unknown(format!("ray: {error}")),
    }
}

fn of_ray(name: &str, said: &Said) -> State {
    let text = format!("{}\n{}", said.stdout, said.stderr);
    let says = |words: &str| text.contains(words);
    let status = format!("Status for job '{name}': ");
    if says(&format!("{status}PENDING")) {
        State::Waiting("PENDING".to_owned())
    } else if says(&format!("{status}RUNNING")) {
        State::Running
    } else if says(&format!("Job '{name}' succeeded")) {
        State::Ended("Ray says that it succeeded".to_owned())
    } else if says(&format!("Job '{name}' failed")) {
        State::Ended("Ray says that it failed".to_owned())
    } else if says(&format!("Job '{name}' was stopped")) {
        State::Ended("Ray says that it was stopped".to_owned())
    } else if says(&format!("Job {name} does not exist")) {
        State::Ended("Ray knows no such job".to_owned())
    } else {
        State::Unknown(format!("ray job status: {}", said.shown()))
    }
}

/// Returns what a job of these settings would not find on this machine; none where it is all there, as far as
/// this machine can know.
pub fn missing(trl: &Trl) -> Option<String> {
    match trl.launch {
        Launch::Slurm => not_found("sbatch"),
        Launch::Ray => not_found("ray"),
        Launch::Local | Launch::Torchrun => {
            let names = MODULES.map(|name| format!("'{name}'")).join(", ");
            let program = format!(
                "from importlib.util import find_spec\n\
                 print(*[name for name in ({names}) if find_spec(name) is None])"
            );
            match process::ask(&trl.python, &["-c".to_owned(), program]) {
                Err(error) => Some(format!("`{}` cannot be started: {error}", trl.python)),
                Ok(said) if !said.well => {
                    Some(format!("`{}` runs no Python: {}", trl.python, said.shown()))
                }
                Ok(said) => {
                    let lacks = said.stdout.split_whitespace().collect::<Vec<_>>().join("`, `");
                    (!lacks.is_empty())
                        .then(|| format!("`{}` has no `{}`", trl.python, one_line(&lacks, 200)))
                }
            }
        }
    }
}

fn not_found(program: &str) -> Option<String> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&search).any(|folder| folder.join(program).is_file());
    (!there).then(|| format!("there is no `{program}` on the search path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stdout: &str) -> Said {
        Said { well: true, stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn a_job_number_is_a_number() {
        let check = |said: &str, expected: Option<&str>| {
            assert_eq!(job_number(said).as_deref(), expected, "{said:?}");
        };
        check("4711\n", Some("4711"));
        check("4711;cluster\n", Some("4711"));
        check("sbatch: warning: x\n4711\n", Some("4711"));
        check("", None);
        check("Submitted batch job 4711\n", None);
        check("-1", None);
        check("99999999999999999999999", None);
        check("\u{1b}[31m4711", None);
    }

    #[test]
    fn states_of_slurm_are_understood() {
        assert_eq!(of_slurm("PENDING"), State::Waiting("PENDING".into()));
        assert_eq!(of_slurm("RUNNING"), State::Running);
        for over in ["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED"] {
            assert_eq!(of_slurm(over), State::Ended(format!("Slurm says {over}")));
        }
    }

    /// The words are those of Ray 2.60, colours and all.
    #[test]
    fn states_of_ray_are_understood() {
        let check = |text: &str, expected: State| assert_eq!(of_ray("a-1", &said(text)), expected);
        let line = "2026-11-27 17:21:03,428\tINFO cli.py:92 -- Status for job 'a-1': ";
        check(
            &format!("{line}PENDING\nStatus message: Job 'a-1' failed?\n"),
            State::Waiting("PENDING".into()),
        );
        check(&format!("{line}RUNNING\n"), State::Running);
        check(
            "SUCC cli.py:67 -- \u{1b}[32mJob 'a-1' succeeded\u{1b}[39m\n",
            State::Ended("Ray says that it succeeded".into()),
        );
        check("Job 'a-1' failed\n", State::Ended("Ray says that it failed".into()));
        check("Job 'a-1' was stopped", State::Ended("Ray says that it was stopped".into()));
        let gone = "RuntimeError: Request failed with status code 404: Job a-1 does not exist.";
        check(gone, State::Ended("Ray knows no such job".into()));
        check(
            "Job 'a-11' succeeded",
            State::Unknown("ray job status: Job 'a-11' succeeded".into()),
        );
        check("", State::Unknown("ray job status: it said nothing".into()));
    }

    #[test]
    fn an_address_is_told_again() {
        let check = |arguments: &[&str], expected: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
            assert_eq!(address(&arguments), expected);
        };
        check(&["--entrypoint-num-gpus", "1"], &[]);
        check(&["--address=http://h:8265", "--x"], &["--address=http://h:8265"]);
        check(&["--x", "--address", "http://h:8265", "--y"], &["--address", "http://h:8265"]);
        check(&["--address"], &["--address"]);
    }
}
