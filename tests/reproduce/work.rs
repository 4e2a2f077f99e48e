//! Doing a row under a seed: the program is run as a user would run it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::experiment::{Experiments, Extrapolate, Question, Row, With, digest, suite_digest};
use super::outcome::{FILE, Outcome, Spent, of_measures, of_run, write_whole};

/// Whether the user wants to stop.
pub static ASKED: AtomicBool = AtomicBool::new(false);

/// Exit code of a run that ended because a round kept nothing: a result like another.
const NOTHING_KEPT: i32 = 6;
/// Exit code of a run directory that cannot be gone on with.
const RUN_DIRECTORY: i32 = 5;
/// Exit code of an interrupted program.
pub const INTERRUPTED: i32 = 130;

/// What each call for the weights took: seconds on the clock and on processors.
const TRAINING: &str = "took-training.jsonl";
/// What each call for the measures took.
const MEASURING: &str = "took-measuring.jsonl";

/// What is run, and where results go.
pub struct Workshop<'a> {
    /// The program.
    pub aligner: PathBuf,
    /// The folder of all results.
    pub folder: PathBuf,
    /// The file.
    pub experiments: &'a Experiments,
    /// What stands outside the file.
    pub with: With,
}

impl<'a> Workshop<'a> {
    /// Asks the program for what a definition needs.
    pub fn open(
        aligner: PathBuf,
        folder: PathBuf,
        experiments: &'a Experiments,
    ) -> Result<Workshop<'a>> {
        let said = |arguments: &[&str]| -> Result<String> {
            let what = || format!("`{} {}`", aligner.display(), arguments.join(" "));
            let output = Command::new(&aligner)
                .args(arguments)
                .stderr(Stdio::inherit())
                .output()
                .with_context(what)?;
            if !output.status.success() {
                bail!("{} fails ({})", what(), output.status);
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let mut plugin_sets = BTreeMap::new();
        for question in &experiments.questions {
            let text = said(&["methods", &question.plugin_set])?;
            plugin_sets.insert(question.plugin_set.clone(), digest(&text));
        }
        let with = With {
            aligner: said(&["--version"])?.trim().to_owned(),
            suite: suite_digest(&experiments.suite)?,
            plugin_sets,
        };
        Ok(Workshop { aligner, folder, experiments, with })
    }

    /// The folder of a row and seed.
    pub fn place(&self, question: &Question, row: &Row, seed: u64) -> PathBuf {
        self.folder.join(&question.name).join(&row.name).join(format!("seed-{seed}"))
    }

    /// Returns the result of a row under a seed where it is finished and still its result.
    pub fn finished(&self, question: &Question, row: &Row, seed: u64) -> Option<Outcome> {
        let definition = self.experiments.definition(question, row, seed, &self.with);
        Outcome::read(&self.place(question, row, seed), &definition)
    }

    /// Returns the result of the initial model, where it is there.
    pub fn initial(&self) -> Option<Outcome> {
        Outcome::read(&self.folder.join("initial"), &self.experiments.measuring(&self.with))
    }

    /// Measures the initial model.
    pub fn measure_initial(&self) -> Result<()> {
        let bench = Bench::open(self.folder.join("initial"), &Value::Null)?;
        let definition = self.experiments.measuring(&self.with);
        self.measure(&bench, definition, Spent::default(), None, None)
    }

    /// Does a row under a seed, from where it was interrupted.
    pub fn work(&self, question: &Question, row: &Row, seed: u64) -> Result<()> {
        let training = self.experiments.training(question, row, seed, &self.with);
        let definition = self.experiments.definition(question, row, seed, &self.with);
        let bench = Bench::open(self.place(question, row, seed), &training)?;
        if let Some(Extrapolate { of, alpha }) = &row.extrapolate {
            let of = question.row(of).context("the row that it goes beyond")?;
            let trained = self.finished(question, of, seed);
            let trained = trained.context(format!("row `{}` is not finished", of.name))?;
            let adapter = trained.adapter.context(format!("row `{}` trained nothing", of.name))?;
            let out = bench.folder.join("adapter");
            // Whole, or of a call that was interrupted before it was measured; made in a moment.
            if out.exists() {
                std::fs::remove_dir_all(&out)?;
            }
            let mut command = Command::new(&self.aligner);
            command.args(["model", "extrapolate", "--aligned"]).arg(&adapter);
            command.arg(format!("--alpha={alpha}")).arg("--out").arg(&out);
            expect(bench.run(command, TRAINING)?, &[0])?;
            return self.measure(&bench, definition, trained.spent, trained.stopped, Some(out));
        }
        let run = bench.folder.join("run");
        let mut command = Command::new(&self.aligner);
        command.args(["--plugins", &question.plugin_set, "--model", &self.experiments.model]);
        command.arg(format!("--seed={seed}")).arg("--out").arg(&run).arg("--resume");
        for (key, value) in self.experiments.keys(question, row) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let status = bench.run(command, TRAINING)?;
        if status.code() == Some(RUN_DIRECTORY) {
            bail!(
                "the unfinished run cannot be gone on with; `rm -r {}` lets it begin anew",
                run.display()
            );
        }
        expect(status, &[0, NOTHING_KEPT])?;
        let (spent, stopped, adapter) = of_run(&run)?;
        self.measure(&bench, definition, spent, stopped, adapter)
    }

    /// Measures a model and writes the result.
    fn measure(
        &self,
        bench: &Bench,
        definition: Value,
        spent: Spent,
        stopped: Option<String>,
        adapter: Option<PathBuf>,
    ) -> Result<()> {
        let Experiments { model, dtype, suite, .. } = self.experiments;
        bench.forget_measures()?;
        let json = bench.folder.join("measures.json");
        let mut command = Command::new(&self.aligner);
        command.args(["model", "eval", "--model", model, "--dtype", dtype, "--suite"]).arg(suite);
        command.arg("--json").arg(&json);
        if let Some(adapter) = &adapter {
            command.arg("--adapter").arg(adapter);
        }
        expect(bench.run(command, MEASURING)?, &[0])?;
        let (figures, engine) = of_measures(&json)?;
        let (seconds, cpu_seconds) = bench.took();
        Outcome { definition, spent, stopped, adapter, figures, engine, seconds, cpu_seconds }
            .write(&bench.folder)
    }
}

/// Where a row is worked on.
struct Bench {
    folder: PathBuf,
}

impl Bench {
    /// Opens the folder. What is there of another training goes; where only measures have changed, the
    /// run stays and is measured again.
    fn open(folder: PathBuf, training: &Value) -> Result<Bench> {
        let file = folder.join("training.json");
        let text = serde_json::to_string_pretty(training)?;
        if std::fs::read_to_string(&file).ok().as_deref() != Some(&text) {
            if folder.exists() {
                std::fs::remove_dir_all(&folder).context(folder.display().to_string())?;
            }
            std::fs::create_dir_all(&folder).context(folder.display().to_string())?;
            write_whole(&file, &text)?;
        }
        Ok(Bench { folder })
    }

    /// Runs a command, whose progress the user sees, and notes what it took.
    fn run(&self, mut command: Command, file: &str) -> Result<ExitStatus> {
        let (start, before) = (Instant::now(), cpu_of_children());
        // Tables of runs are progress here: what this program prints is the page.
        let stdout = std::io::stderr().as_fd().try_clone_to_owned()?;
        command.stdin(Stdio::null()).stdout(stdout);
        let mut child = command.spawn().context(format!("{:?}", command.get_program()))?;
        let mut asked: Option<Instant> = None;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(50));
            if ASKED.load(Ordering::SeqCst) {
                // Ctrl-C reaches the child by itself, a signal to this program alone does not.
                let since = asked.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_secs(2) {
                    *since = Instant::now() + Duration::from_secs(3600);
                    // SAFETY: the child has not been waited for, so the number is its own.
                    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
                }
            }
        };
        let took = (start.elapsed().as_secs_f64(), cpu_of_children() - before);
        let path = self.folder.join(file);
        let mut file = std::fs::File::options().create(true).append(true).open(path)?;
        writeln!(file, "[{:.3},{:.3}]", took.0, took.1)?;
        Ok(status)
    }

    /// Removes a result that is no longer this row's, and what measuring for it took. Without a result,
    /// what measuring took belongs to the one to come.
    fn forget_measures(&self) -> Result<()> {
        let [result, took] = [FILE, MEASURING].map(|name| self.folder.join(name));
        if result.exists() {
            // In this order, so that a kill in between leaves a number that is too large at most.
            std::fs::remove_file(&result).with_context(|| result.display().to_string())?;
            std::fs::remove_file(&took).with_context(|| took.display().to_string())?;
        }
        Ok(())
    }

    /// Seconds on the clock and on processors that the calls took, interrupted ones included.
    fn took(&self) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for file in [TRAINING, MEASURING] {
            let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            for line in text.lines() {
                // A line that a kill left half written is of a call whose time is not known.
                let (wall, cpu) = serde_json::from_str(line).unwrap_or((0.0, 0.0));
                sum = (sum.0 + wall, sum.1 + cpu);
            }
        }
        sum
    }
}

/// Refuses an exit code that is none of these.
fn expect(status: ExitStatus, codes: &[i32]) -> Result<()> {
    match status.code() {
        Some(code) if codes.contains(&code) => Ok(()),
        Some(code) => bail!("aligner ended with exit code {code}"),
        None => bail!("aligner was ended ({status})"),
    }
}

/// Processor time of all children that have ended, in seconds.
fn cpu_of_children() -> f64 {
    // SAFETY: the struct is plain numbers, and `getrusage` fills it or leaves the zeros.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Waits for the folder's lock, so that two calls do not work on one folder. It lasts as long as the file.
pub fn lock(folder: &Path) -> Result<std::fs::File> {
    std::fs::create_dir_all(folder).context(folder.display().to_string())?;
    let file = std::fs::File::create(folder.join(".lock"))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another call that works in `{}`", folder.display());
        file.lock()?;
    }
    Ok(file)
}
