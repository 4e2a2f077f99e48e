//! Whole processes: `aligner plugin check`, `aligner evaluate`, and a round.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::table::Table;
use super::{BYTES, texts};

const ALIGNER: &str = env!("CARGO_BIN_EXE_aligner");
/// Stages in which nothing works but plugins, and what carries records to them and files from them.
const OF_PLUGINS: [&str; 5] = ["sample", "render", "filter", "judge", "difficulty"];

/// Runs the program to its end; returns seconds and its peak memory in bytes.
fn run(arguments: &[&str]) -> Result<(f64, f64)> {
    let begun = Instant::now();
    // `wait4` waits for it below, and says what it used.
    let child = Command::new(ALIGNER)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("the program does not start")?;
    let (mut status, pid) = (0, i32::try_from(child.id())?);
    // SAFETY: plain numbers, all of which `wait4` fills; the child is ours and nobody else waits for it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        ensure!(libc::wait4(pid, &raw mut status, 0, &raw mut usage) == pid, "the child is gone");
        usage
    };
    let seconds = begun.elapsed().as_secs_f64();
    if status != 0 {
        bail!("`aligner {}` failed", arguments.join(" "));
    }
    Ok((seconds, usage.ru_maxrss as f64 * 1024.0))
}

fn runs(repeat: usize, arguments: &[&str]) -> Result<(Vec<f64>, Vec<f64>)> {
    run(arguments)?;
    Ok((0..repeat).map(|_| run(arguments)).collect::<Result<Vec<_>>>()?.into_iter().unzip())
}

/// `aligner plugin check` on an embedded plugin that was compiled before.
pub fn check(repeat: usize, table: &mut Table) -> Result<()> {
    let (seconds, _) = runs(repeat, &["plugin", "check", "builtin:length"])?;
    let millis = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    table.time("`aligner plugin check builtin:length`, the process", &seconds, millis, 60e-3);
    Ok(())
}

/// `aligner evaluate` with a light filter over many rows.
pub fn evaluate(folder: &Path, rows: usize, repeat: usize, table: &mut Table) -> Result<()> {
    let path = folder.join("labelled.jsonl");
    let mut file = BufWriter::new(File::create(&path)?);
    for (number, text) in texts(1000, BYTES).iter().cycle().take(rows).enumerate() {
        let label = u8::from(number % 10 != 9);
        let row = json!({ "prompt": "Why?", "completion": text, "label": label });
        writeln!(file, "{row}")?;
    }
    file.flush()?;
    let data = path.display().to_string();
    let (seconds, bytes) = runs(repeat, &["evaluate", "builtin:length", "--data", &data])?;
    let what = format!("`aligner evaluate builtin:length`, {rows} records of 1 KB");
    table.time(&what, &seconds, |seconds| format!("{seconds:.2} s"), 2.0);
    let mb = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
    table.time(&format!("{what}: memory"), &bytes, mb, 200e6);
    std::fs::remove_file(path)?;
    Ok(())
}

/// One round of the demo, on few prompts: how much of it is spent where nothing but plugins works.
pub fn round(folder: &Path, table: &mut Table) -> Result<()> {
    let out = folder.join("round").display().to_string();
    let set = "data.limit=12";
    run(&["--plugins", "soft-plus.toml", "--out", &out, "--fresh", "--rounds", "1", "--set", set])?;
    let timings = std::fs::read_to_string(folder.join("round/timings.jsonl"))?;
    let (mut all, mut plugins) = (0.0, 0.0);
    for line in timings.lines() {
        let row: Value = serde_json::from_str(line)?;
        let seconds = row["seconds"].as_f64().unwrap_or(0.0);
        let stage = row["stage"].as_str().unwrap_or("");
        all += seconds;
        if OF_PLUGINS.iter().any(|name| stage.starts_with(name)) {
            plugins += seconds;
        }
    }
    let share = plugins / all;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    table.time("share of a `soft-plus` round in plugin stages", &[share], percent, 0.01);
    Ok(())
}
