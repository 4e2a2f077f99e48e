//! What a job says: a line for each update, a log, and at the end what it made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::TrainerError;
use crate::shown::one_line;
use crate::train::PreferenceMetrics;

/// Bytes of a line of `progress.jsonl`; a longer one is garbage.
const MOST_IN_A_LINE: u64 = 64 << 10;

/// Bytes of `done.json`.
const MOST_DONE: u64 = 1 << 20;

/// How much of the end of a log is read, and how many lines of it are shown.
const LOG_END: u64 = 16 << 10;
const LOG_LINES: usize = 12;

/// A line of `progress.jsonl`: one update, with what the trainer logs of it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Update {
    /// From 1.
    pub step: u64,
    /// How many there are.
    pub max_steps: u64,
    /// In epochs.
    pub epoch: f64,
    /// Absent where it is not finite.
    pub loss: Option<f64>,
    /// Before clipping.
    pub grad_norm: Option<f64>,
    /// Of this update.
    pub learning_rate: Option<f64>,
    /// What only an objective that compares completions has.
    #[serde(flatten)]
    pub preference: PreferenceMetrics,
}

/// The same with the attempt that made it.
#[derive(Deserialize)]
struct Line {
    attempt: String,
    #[serde(flatten)]
    update: Update,
}

impl Update {
    /// Reads a line of an attempt; none of garbage.
    fn parse(line: &[u8], attempt: u32) -> Option<Update> {
        let Line { attempt: of, update } = serde_json::from_slice(line).ok()?;
        let sound = of == attempt.to_string() && (1..=update.max_steps).contains(&update.step);
        sound.then_some(update)
    }
}

/// Returns the updates of an attempt in order, each once, and how many lines were garbage.
pub fn updates(path: &Path, attempt: u32) -> io::Result<(Vec<Update>, u64)> {
    let mut reader = Reader::new(attempt);
    let mut updates = BTreeMap::new();
    for update in reader.read(path)? {
        updates.insert(update.step, update);
    }
    Ok((updates.into_values().collect(), reader.garbage))
}

/// Reads the lines that a file has grown by.
pub(super) struct Reader {
    attempt: u32,
    offset: u64,
    pub(super) garbage: u64,
}

impl Reader {
    pub(super) fn new(attempt: u32) -> Reader {
        Reader { attempt, offset: 0, garbage: 0 }
    }

    /// Returns the new updates; none where there is no file. A last line without an end is read when it has
    /// one.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<Update>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        if metadata.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let (mut reader, mut line, mut updates) = (BufReader::new(file), Vec::new(), Vec::new());
        loop {
            line.clear();
            let mut read =
                reader.by_ref().take(MOST_IN_A_LINE).read_until(b'\n', &mut line)? as u64;
            let long = read == MOST_IN_A_LINE && line.last() != Some(&b'\n');
            if long {
                let (skipped, ended) = skip_line(&mut reader)?;
                if !ended {
                    return Ok(updates);
                }
                read += skipped;
            } else if line.last() != Some(&b'\n') {
                return Ok(updates);
            }
            self.offset += read;
            match Update::parse(&line, self.attempt).filter(|_| !long) {
                Some(update) => updates.push(update),
                None => self.garbage += 1,
            }
        }
    }
}

/// Reads to the end of a line and keeps nothing; returns how many bytes that were, and whether it has an end.
fn skip_line(reader: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((skipped, false));
        }
        match memchr::memchr(b'\n', buffer) {
            Some(at) => {
                reader.consume(at + 1);
                return Ok((skipped + at as u64 + 1, true));
            }
            None => {
                let len = buffer.len();
                reader.consume(len);
                skipped += len as u64;
            }
        }
    }
}

/// `done.json`: what an attempt made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Done {
    attempt: String,
    /// Updates.
    pub steps: u64,
    /// SHA-256 of the adapter's files, by name.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What the trained model says of the rows of the probe.
    #[serde(default)]
    pub probe: Vec<f64>,
    /// Where training has diverged; it made no adapter then.
    pub diverged: Option<Diverged>,
    /// How many processes trained.
    pub processes: u32,
    /// What they ran on.
    pub device: String,
    /// Of Python and its libraries.
    pub versions: BTreeMap<String, String>,
}

/// Where training has diverged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Diverged {
    /// `loss` or `grad_norm`.
    pub what: String,
    /// `nan`, `inf` or `-inf`.
    pub value: String,
    /// From 1.
    pub step: u64,
}

impl Done {
    /// Reads what an attempt says at its end; none where it has not said it.
    pub fn read(folder: &Path, attempt: u32) -> Result<Option<Done>, TrainerError> {
        let path = folder.join("done.json");
        let unusable = |problem: String| TrainerError::Unusable { path: path.clone(), problem };
        let mut text = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(error.to_string())),
            Ok(file) => file.take(MOST_DONE).read_to_end(&mut text),
        }
        .map_err(|error| unusable(error.to_string()))?;
        let mut done: Done =
            serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        if done.attempt != attempt.to_string() {
            return Err(unusable(format!("it is of attempt `{}`", one_line(&done.attempt, 40))));
        }
        // They go into cards and pages.
        let words = |text: &String| one_line(text, 80);
        done.versions = done.versions.iter().map(|(name, it)| (words(name), words(it))).collect();
        done.device = words(&done.device);
        Ok(Some(done))
    }
}

/// Returns the last lines of a log, without what the environment keeps secret.
pub(super) fn last_lines(path: &Path) -> Vec<String> {
    let end = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_END)))?;
        let mut bytes = Vec::new();
        file.take(LOG_END).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = end().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let secrets = secrets();
    let lines = text.split(['\n', '\r']).map(|line| {
        let open = secrets.iter().fold(line.to_owned(), |line, secret| line.replace(secret, "…"));
        one_line(&open, 240)
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
}

/// Returns the values of the environment that are keys by their names.
fn secrets() -> Vec<String> {
    let is_secret = |name: &str| {
        ["TOKEN", "KEY", "SECRET", "PASSWORD"].iter().any(|part| name.to_uppercase().contains(part))
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables
        .filter(|(name, value)| is_secret(name) && value.len() >= 8)
        .map(|(_, it)| it)
        .collect()
}
