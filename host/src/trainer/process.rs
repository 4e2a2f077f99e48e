//! Programs that are started, asked and ended.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::server::KEYS;
use crate::shown::one_line;

/// How long a scheduler may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read; nobody says more in earnest.
const MOST_SAID: u64 = 64 << 10;

/// Time between two looks at a process.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a process has to end by itself once it is asked to.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What a program said, and whether it ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) well: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Said {
    /// Returns the end of it on one line, where programs say what went wrong.
    pub(super) fn shown(&self) -> String {
        const MOST: usize = 300;
        let both = one_line(&format!("{} {}", self.stdout.trim(), self.stderr.trim()), usize::MAX);
        match both.char_indices().rev().map(|(at, _)| at).nth(MOST) {
            _ if both.is_empty() => "it said nothing".to_owned(),
            None => both,
            Some(at) => format!("…{}", &both[at..]),
        }
    }
}

/// Runs a program that answers and ends; one that does neither is ended.
pub(super) fn ask(program: &str, arguments: &[String]) -> io::Result<Said> {
    ask_within(program, arguments, ANSWER_WITHIN)
}

fn ask_within(program: &str, arguments: &[String], within: Duration) -> io::Result<Said> {
    let mut child = group(Command::new(program).args(arguments))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = read(child.stdout.take());
    let stderr = read(child.stderr.take());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > within {
            end_child(&mut child)?;
            let message = format!("no answer within {} s", within.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        thread::sleep(Duration::from_millis(10));
    };
    // What it left behind may hold the pipes open.
    let text = |said: mpsc::Receiver<String>| said.recv_timeout(END_WITHIN).unwrap_or_default();
    Ok(Said { well: status.success(), stdout: text(stdout), stderr: text(stderr) })
}

/// Reads a pipe to its end, so that who writes into it never waits; what is too much is thrown away.
fn read(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut bytes = Vec::new();
        let _ = pipe.by_ref().take(MOST_SAID).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// Starts a command as the head of a group of its own, so that all of it can be ended, and Ctrl-C at the
/// terminal does not. Keys of servers are none of its business.
pub(super) fn group(command: &mut Command) -> &mut Command {
    command.env_remove(KEYS);
    std::os::unix::process::CommandExt::process_group(command, 0)
}

/// Ends a group of processes: they are asked to, then they have no choice.
pub(super) fn end(group: u32) -> io::Result<()> {
    signal(group, libc::SIGTERM)?;
    let begun = Instant::now();
    while begun.elapsed() < END_WITHIN {
        if signal(group, 0).is_err() {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    signal(group, libc::SIGKILL)
}

/// Ends a group whose head is this process's child, which has to be waited for to be gone.
pub(super) fn end_child(child: &mut Child) -> io::Result<()> {
    let begun = Instant::now();
    let group = child.id();
    signal(group, libc::SIGTERM)?;
    while begun.elapsed() < END_WITHIN {
        let head = child.try_wait()?.is_some();
        if head && signal(group, 0).is_err() {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    signal(group, libc::SIGKILL)?;
    child.wait().map(|_| ())
}

/// Sends a signal to a group; 0 only looks whether it is there.
fn signal(group: u32, signal: libc::c_int) -> io::Result<()> {
    let Some(group) = libc::pid_t::try_from(group).ok().filter(|&group| group > 1) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no group of processes"));
    };
    // SAFETY: `kill` takes two numbers and touches no memory.
    match unsafe { libc::kill(-group, signal) } {
        0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            // What is gone need not be ended.
            match error.raw_os_error() {
                Some(libc::ESRCH) if signal != 0 => Ok(()),
                _ => Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, within: f64) -> io::Result<Said> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        ask_within("sh", &arguments, Duration::from_secs_f64(within))
    }

    #[test]
    fn an_answer_has_an_end() {
        let said = sh("echo 12; echo oops >&2; exit 3", 5.0).unwrap();
        assert_eq!(said, Said { well: false, stdout: "12\n".into(), stderr: "oops\n".into() });
        assert_eq!(said.shown(), "12 oops");
        let long = sh("seq 200; echo the reason >&2", 5.0).unwrap().shown();
        assert!(long.starts_with('…') && long.ends_with(" 199 200 the reason"), "{long}");
        assert_eq!(sh("true", 5.0).unwrap().shown(), "it said nothing");
        let begun = Instant::now();
        let late = sh("sleep 60", 0.3).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(8));
        let much = sh("head -c 9000000 /dev/zero | tr '\\0' x", 20.0).unwrap();
        assert_eq!(much.stdout.len() as u64, MOST_SAID);
        assert!(ask("no-such-program-of-aligner", &[]).is_err());
    }
}
