//! Why a job came to no adapter.

use std::io;
use std::path::PathBuf;

/// Why a job came to no adapter.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A program is not there, or cannot be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// As it was called.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The scheduler took no job.
    #[error("`{program}` took no job: {said}")]
    Refused {
        /// For example `sbatch`.
        program: String,
        /// What it said, on one line.
        said: String,
    },
    /// The job ended without a word.
    #[error("the job ended without an adapter: {how}{}", tail(log, last))]
    Died {
        /// For example `exit code 1`.
        how: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        last: Vec<String>,
    },
    /// The job runs and makes no update.
    #[error("the job made no update for {minutes} min and was ended{}", tail(log, last))]
    Hung {
        /// `timeout_minutes`.
        minutes: f64,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        last: Vec<String>,
    },
    /// What the job left cannot be used.
    #[error("what the job left in `{}` cannot be used: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A job of an earlier process runs here, and nothing says under which number.
    #[error("a job runs in `{}`, and its `pid` names no process", path.display())]
    Unknown {
        /// The folder of the attempt.
        path: PathBuf,
    },
}

impl TrainerError {
    /// Returns the way out, where there is one to tell besides starting the job again.
    pub fn hint(&self) -> Option<String> {
        match self {
            TrainerError::Start { .. } => {
                Some("`train.trl.python` names the Python that has TRL, `train.trl.launch` what starts it".into())
            }
            TrainerError::Refused { .. } => {
                Some("`train.trl.arguments` is what it is told besides; `launch.sh` in the folder is what it gets".into())
            }
            TrainerError::Unknown { .. } => Some("end it by hand, then `aligner resume`".into()),
            TrainerError::Died { .. } | TrainerError::Hung { .. } | TrainerError::Unusable { .. } => None,
        }
    }
}

/// Shows the end of a log.
fn tail(log: &std::path::Path, last: &[String]) -> String {
    let mut text = format!("\n  its log is `{}`", log.display());
    if !last.is_empty() {
        text.push_str(", which ends with");
    }
    for line in last {
        text.push_str(&format!("\n  | {line}"));
    }
    text
}
