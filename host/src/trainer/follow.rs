//! From a job's files to what it made: started, followed, started again, given up.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::launch::{Job, State};
use super::process::LOOK_EVERY;
use super::said::{self, Done, Reader, Update};
use super::{TrainerError, launch};
use crate::plugin_set::{Launch, Trl};
use crate::run::directory::{Directory, DirectoryError};

/// What is known of a job between two processes of aligner.
pub const RECORD: &str = "job.json";

/// Held by a job that runs on this machine, as long as any part of it lives.
pub const LOCK: &str = "job.lock";

/// How long what a job wrote may take to be seen after the scheduler says that it is over: files come late over
/// a network.
const FILES_WITHIN: Duration = Duration::from_secs(15);

/// How long a job may take to end after it has said what it made.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Silence that is first told of.
const SILENCE: Duration = Duration::from_secs(15);

/// `job.json`: what is known of a job. It is written after all that the job reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Stands for all that decides what is trained.
    pub task: String,
    /// What starts it.
    pub launch: Launch,
    /// Where the Ray cluster is, as `ray` is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// Begins the name of each attempt at the scheduler's; no other job has it.
    pub name: String,
    /// The newest attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Its number at the scheduler's.
    pub id: Option<String>,
    /// Whether it has come to nothing.
    pub failed: bool,
}

/// How a job is followed.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Between two questions to a scheduler.
    poll: Duration,
    /// Without an update; none waits for ever.
    timeout: Option<Duration>,
    /// How often it is started again.
    max_restarts: u32,
}

impl Rules {
    /// Returns the rules of a plugin set.
    fn of(trl: &Trl) -> Rules {
        let timeout = (trl.timeout_minutes > 0.0)
            .then(|| Duration::try_from_secs_f64(60.0 * trl.timeout_minutes).ok())
            .flatten();
        let poll = Duration::from_secs(trl.poll_seconds.into());
        Rules { poll, timeout, max_restarts: trl.max_restarts }
    }
}

/// Where a job lies, and who is to hear of it.
pub struct Desk<'a> {
    /// The run directory.
    pub directory: &'a Directory,
    /// The job's folder in it, for example `rounds/01/trl`.
    pub folder: &'a str,
    /// How it is started.
    pub trl: &'a Trl,
    /// Whether the user wants to stop.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Hears each update.
    pub on_update: &'a mut dyn FnMut(&Update),
    /// Hears of silence, and of what is odd.
    pub on_word: &'a mut dyn FnMut(&str),
}

/// What came of watching an attempt.
enum Watched {
    Done(Done),
    Cancelled,
    Failed(TrainerError),
}

/// Makes something of what an attempt, by its number, has left, or says why that is not to be had from it.
pub type Accept<'a, T, E> = dyn FnMut(u32, &Done) -> Result<Result<T, TrainerError>, E> + 'a;

/// Has a job done whose files are there, and returns what `accept` makes of what it left; none where the user
/// wants to stop, in which case it is ended.
///
/// An attempt that runs already is followed, whoever started it; one that has died, hangs or leaves what `accept`
/// refuses is started again as often as the rules say.
pub fn train<T, E>(desk: &mut Desk<'_>, accept: &mut Accept<'_, T, E>) -> Result<Option<T>, E>
where
    E: From<TrainerError> + From<DirectoryError>,
{
    let rules = Rules::of(desk.trl);
    let mut record: Record = desk.directory.read_json(&desk.name(RECORD))?;
    let mut job = desk.find(&record)?;
    let mut restarts = 0;
    loop {
        let mut at_work = match job.take() {
            Some(job) => job,
            None => match desk.start(&mut record) {
                Ok(job) => Some(job),
                Err(Failed::Directory(error)) => return Err(error.into()),
                Err(Failed::Job(error)) => return Err(error.into()),
            },
        };
        let failure = match desk.watch(&mut at_work, record.attempt, rules) {
            Watched::Cancelled => {
                if let Some(job) = &mut at_work {
                    job.end()?;
                }
                return Ok(None);
            }
            Watched::Done(done) => match accept(record.attempt, &done)? {
                Ok(made) => return Ok(Some(made)),
                Err(failure) => failure,
            },
            Watched::Failed(failure) => failure,
        };
        record.failed = true;
        desk.note(&record)?;
        if restarts >= rules.max_restarts {
            return Err(failure.into());
        }
        restarts += 1;
        (desk.on_word)(&format!(
            "{failure}\n  it is started again ({restarts} of {})",
            rules.max_restarts
        ));
    }
}

/// Why an attempt could not be started.
enum Failed {
    Directory(DirectoryError),
    Job(TrainerError),
}

impl From<DirectoryError> for Failed {
    fn from(error: DirectoryError) -> Failed {
        Failed::Directory(error)
    }
}

impl From<TrainerError> for Failed {
    fn from(error: TrainerError) -> Failed {
        Failed::Job(error)
    }
}

impl Record {
    /// Returns the record of a job that has not been started. `unique` is in no other job's name.
    pub fn new(task: &str, trl: &Trl, unique: &str) -> Record {
        Record {
            task: task.to_owned(),
            launch: trl.launch,
            address: launch::address(&trl.arguments),
            name: format!("aligner-{unique}"),
            attempt: 0,
            id: None,
            failed: false,
        }
    }

    /// Returns what the scheduler calls the newest attempt.
    pub(super) fn job_name(&self) -> String {
        format!("{}-{}", self.name, self.attempt)
    }

    pub(super) fn is_remote(&self) -> bool {
        matches!(self.launch, Launch::Slurm | Launch::Ray)
    }

    /// Returns the newest attempt, where there may be something to follow.
    fn found(&self, directory: &Directory, folder: &str) -> Result<Option<Job>, DirectoryError> {
        let lock_name = format!("{folder}/{LOCK}");
        let lock = directory.lock(&lock_name)?;
        let held = lock.is_none().then(|| directory.join(&lock_name));
        Ok(Job::found(self, &directory.join(folder), held))
    }
}

/// Ends a job that a run is about to throw away; one that cannot be ended is told of.
pub fn abandon(directory: &Directory, folder: &str) -> Result<(), DirectoryError> {
    let file = format!("{folder}/{RECORD}");
    if !directory.has(&file) {
        return Ok(());
    }
    let Ok(record) = directory.read_json::<Record>(&file) else { return Ok(()) };
    if record.attempt == 0 || record.failed {
        return Ok(());
    }
    if let Some(mut job) = record.found(directory, folder)?
        && !matches!(job.state(), State::Ended(_))
        && let Err(error) = job.end()
    {
        tracing::warn!("a job of the run may still be at work: {error}");
    }
    Ok(())
}

impl Desk<'_> {
    fn name(&self, file: &str) -> String {
        format!("{}/{file}", self.folder)
    }

    /// Returns the folder of an attempt.
    fn attempt(&self, attempt: u32) -> PathBuf {
        self.directory.join(&self.name(&attempt.to_string()))
    }

    fn note(&self, record: &Record) -> Result<(), DirectoryError> {
        self.directory.write_json(&self.name(RECORD), record).map(|_| ())
    }

    /// Returns the attempt that an earlier process of aligner left at work, or that has ended since with a
    /// word: then there is no job any more. None where one has to be started.
    fn find(&mut self, record: &Record) -> Result<Option<Option<Job>>, DirectoryError> {
        if record.attempt == 0 || record.failed {
            return Ok(None);
        }
        let mut job = record.found(self.directory, self.folder)?;
        if self.attempt(record.attempt).join("done.json").exists() {
            return Ok(Some(job));
        }
        let over = match job.as_mut().map(Job::state) {
            None | Some(State::Ended(_)) => true,
            Some(State::Waiting(_) | State::Running | State::Unknown(_)) => false,
        };
        if over {
            // What it wrote last may be on its way.
            let late = record.is_remote() && job.is_some() && self.comes_late(record.attempt);
            return Ok(late.then_some(None));
        }
        (self.on_word)(&format!(
            "attempt {} is followed, which an earlier process started",
            record.attempt
        ));
        Ok(Some(job))
    }

    /// Returns whether an attempt that is over says what it made within some seconds.
    fn comes_late(&self, attempt: u32) -> bool {
        let begun = Instant::now();
        let folder = self.attempt(attempt);
        loop {
            // Listing a folder makes a network's file system look again.
            let _ = fs::read_dir(&folder).map(Iterator::count);
            if folder.join("done.json").exists() {
                return true;
            }
            if begun.elapsed() > FILES_WITHIN || (self.cancelled)() {
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Starts the next attempt. It is noted before and after, so that one that was started is found again.
    fn start(&mut self, record: &mut Record) -> Result<Job, Failed> {
        let lock_name = self.name(LOCK);
        let Some(lock) = self.directory.lock(&lock_name)? else {
            return Err(TrainerError::Unknown { path: self.attempt(record.attempt) }.into());
        };
        (record.attempt, record.id, record.failed) = (record.attempt + 1, None, false);
        self.directory.make_folder(&self.name(&record.attempt.to_string()))?;
        self.note(record)?;
        // Whoever runs it is in another folder.
        let folder = self.directory.join(self.folder);
        let folder = folder.canonicalize().unwrap_or(folder);
        let job = Job::start(self.trl, &folder, record, &lock)?;
        record.id = job.id().map(str::to_owned);
        self.note(record)?;
        Ok(job)
    }

    /// Watches an attempt until it is over. Without a job it has been over before.
    fn watch(&mut self, job: &mut Option<Job>, attempt: u32, rules: Rules) -> Watched {
        let folder = self.attempt(attempt);
        let (progress, log) = (folder.join("progress.jsonl"), folder.join("log.txt"));
        let mut reader = Reader::new(attempt);
        let mut unreadable = false;
        let (mut news, mut asked): (Instant, Option<Instant>) = (Instant::now(), None);
        let mut told = SILENCE;
        let mut state = State::Running;
        loop {
            if (self.cancelled)() {
                return Watched::Cancelled;
            }
            match reader.read(&progress) {
                Ok(updates) => {
                    for update in &updates {
                        (self.on_update)(update);
                    }
                    if !updates.is_empty() {
                        (news, told) = (Instant::now(), SILENCE);
                    }
                }
                Err(error) if !unreadable => {
                    unreadable = true;
                    (self.on_word)(&format!("cannot read `{}`: {error}", progress.display()));
                }
                Err(_) => {}
            }
            match Done::read(&folder, attempt) {
                Ok(Some(done)) => {
                    if let Some(job) = job {
                        self.let_end(job, rules);
                    }
                    return Watched::Done(done);
                }
                Ok(None) => {}
                Err(failure) => return self.give_up(job, failure),
            }
            let Some(at_work) = job.as_mut() else {
                return Watched::Failed(died("it is gone".to_owned(), log));
            };
            let due = !at_work.is_remote() || asked.is_none_or(|at| at.elapsed() >= rules.poll);
            if due {
                asked = Some(Instant::now());
                let before = std::mem::replace(&mut state, at_work.state());
                match &state {
                    // Whoever waits in a queue does not hang.
                    State::Waiting(_) => news = Instant::now(),
                    State::Ended(how) => {
                        let how = how.clone();
                        let remote = at_work.is_remote();
                        if folder.join("done.json").exists() || remote && self.comes_late(attempt) {
                            *job = None;
                            continue;
                        }
                        return Watched::Failed(died(how, log));
                    }
                    State::Unknown(why) if !matches!(before, State::Unknown(_)) => {
                        (self.on_word)(&format!("nobody says what has become of the job: {why}"));
                    }
                    State::Running | State::Unknown(_) => {}
                }
                if matches!(state, State::Waiting(_)) && before != state {
                    (self.on_word)(&told_of(&state, Duration::ZERO));
                }
            }
            let silence = news.elapsed();
            if rules.timeout.is_some_and(|timeout| silence > timeout) {
                let last = said::last_lines(&log);
                let minutes = self.trl.timeout_minutes;
                return self.give_up(job, TrainerError::Hung { minutes, log, last });
            }
            if silence >= told {
                (self.on_word)(&told_of(&state, silence));
                told *= 2;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends an attempt that comes to nothing.
    fn give_up(&mut self, job: &mut Option<Job>, failure: TrainerError) -> Watched {
        match job.as_mut().map(Job::end) {
            None | Some(Ok(())) => Watched::Failed(failure),
            Some(Err(error)) => {
                (self.on_word)(&format!("the job could not be ended: {error}"));
                Watched::Failed(failure)
            }
        }
    }

    /// Gives a job that has said what it made some time to end by itself.
    fn let_end(&mut self, job: &mut Job, rules: Rules) {
        let begun = Instant::now();
        let every = if job.is_remote() { rules.poll } else { LOOK_EVERY };
        loop {
            if matches!(job.state(), State::Ended(_)) {
                return;
            }
            if begun.elapsed() > END_WITHIN {
                break;
            }
            thread::sleep(every.min(END_WITHIN));
        }
        if let Err(error) = job.end() {
            (self.on_word)(&format!("the job is done and does not end: {error}"));
        }
    }
}

fn died(how: String, log: PathBuf) -> TrainerError {
    let last = said::last_lines(&log);
    TrainerError::Died { how, log, last }
}

/// Says what a job is about that makes no update.
fn told_of(state: &State, silence: Duration) -> String {
    match state {
        State::Waiting(queue) => format!("the job waits in a queue ({queue})"),
        State::Unknown(_) => format!("no update for {} s, and no word", silence.as_secs()),
        State::Running | State::Ended(_) => {
            format!("no update for {} s; the job runs", silence.as_secs())
        }
    }
}
