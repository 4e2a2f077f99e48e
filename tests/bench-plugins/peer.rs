//! Extism's worker: a process of its own, loaded once, that works when it is told to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use aligner::record::Record;
use anyhow::{Context, Result};

/// A worker that waits for work.
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts it with the records that it shall judge.
    pub fn start(built: &Path, folder: &Path, records: &[Record]) -> Result<Worker> {
        let path = folder.join("extism-records.json");
        std::fs::write(&path, serde_json::to_vec(records)?)?;
        let program = built.join("release/extism-host");
        let mut child = Command::new(&program)
            .arg(built.join("wasm32-unknown-unknown/release/extism_guest.wasm"))
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{}` does not start", program.display()))?;
        let orders = child.stdin.take().context("the worker has an input")?;
        let answers = BufReader::new(child.stdout.take().context("the worker has an output")?);
        Ok(Worker { child, orders, answers })
    }

    /// Has it do one piece of work, and returns the seconds that it took.
    pub fn run(&mut self, work: &str) -> Result<f64> {
        writeln!(self.orders, "{work}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let nanoseconds: f64 = line.trim().parse().context("Extism's worker ended")?;
        Ok(nanoseconds / 1e9)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
