//! `aligner verify DIR`: does the work of a finished run again and compares. This file holds its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use super::{CliError, Device, ProgressArgs, cancel, exit, memory, output, reuse, run as run_verb};
use crate::digest::sha256_of;
use crate::progress::counted;
use crate::report;
use crate::round::RunError;
use crate::round::stage::{Place, label};
use crate::run::directory::{self, DirectoryError};
use crate::run::earlier::{Earlier, Fate, Use};
use crate::run::journal;
use crate::run::{self, seed};

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Run directory of a finished run
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Make so many completions and answers again, drawn at random, and with them all but training
    #[arg(long, value_name = "N", default_value_t = 16, conflicts_with = "all")]
    pub sample: usize,
    /// Do everything again, training too: it takes as long as the run did
    #[arg(long)]
    pub all: bool,
    /// What draws the sample; by chance where it is not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print the stages as JSON
    #[arg(long)]
    pub json: bool,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Does the stages again in a folder that nobody keeps. Every file that they write has to have the bytes that
/// the run's journal names; so have the report and what is in `final/`.
///
/// Fails where something differs, with stage, file and record.
pub fn main(args: &VerifyArgs) -> Result<(), CliError> {
    cancel::listen()?;
    let path = &args.directory;
    let shown = path.display();
    let begun = reuse::manifest(path)?;
    let entries = journal::read(path)?;
    if !journal::has_ended(&entries) {
        let message = format!("`{shown}` is not finished");
        return Err(CliError::new(exit::RUN_DIRECTORY, message)
            .hint(format!("`aligner resume {shown}` goes on with it")));
    }
    let progress = args.shown.open();
    let device = args.device.resolve(begun.plugin_set.run.dtype)?;
    let mut prepared = run_verb::prepare(begun.clone().pinned_set(), device, &progress)?;
    // Who began it, and how, stands in cards; what it is does not depend on it.
    (prepared.manifest.command, prepared.manifest.aligner) =
        (begun.command.clone(), begun.aligner.clone());
    let differences = prepared.manifest.differences(&begun);
    if !differences.is_empty() {
        let message = format!(
            "`{shown}` cannot be done again here: this is not what it was: {}",
            differences.join(", ")
        );
        return Err(CliError::new(exit::RUN_DIRECTORY, message).hint(
            "bring files and models back as they were; bits are the same on the same class of processor, \
             or of card and cuBLASLt",
        ));
    }
    let estimate = run::memory::estimate(&prepared)?;
    let way_out = |part| run::memory::way_out(&prepared.set, part);
    memory::check(&estimate, memory::available(&prepared.device)?, way_out)?;
    // By chance: who alters a run must not know what is made again.
    let draw = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        seed::of([(now as u64).into(), u64::from(std::process::id()).into()]) % 1_000_000
    });
    let sample = (!args.all).then_some(args.sample);
    let earlier = Arc::new(Earlier::open(path, Use::Verify { sample }, draw)?);
    let models = run_verb::models(&prepared, &progress)?;
    let scratch = reuse::scratch()?;
    let again = (scratch.path(), earlier.clone());
    match reuse::rehearse(&prepared, &models, again, estimate, &progress) {
        Ok(_) | Err(RunError::NothingKept { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    earlier.check_all()?;
    results(args, scratch.path())?;
    output::print(&verdict(args, draw, &earlier))
}

/// Compares the report, and what is in `final/`, in both directions.
fn results(args: &VerifyArgs, scratch: &Path) -> Result<(), CliError> {
    let run = &args.directory;
    let files = |folder: &Path| -> Result<BTreeMap<String, String>, DirectoryError> {
        let result = directory::tree(&folder.join("final"))?.into_iter();
        let mut files: BTreeMap<String, String> =
            result.map(|(file, digest)| (format!("final/{file}"), digest)).collect();
        let report = File::open(folder.join(report::FILE)).and_then(sha256_of).ok();
        files.extend(report.map(|digest| (report::FILE.to_owned(), digest)));
        Ok(files)
    };
    let (ours, theirs) = (files(scratch)?, files(run)?);
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let shown = run.join(name);
        let shown = shown.display();
        let what = match (ours.get(name), theirs.get(name)) {
            (ours, theirs) if ours == theirs => continue,
            (Some(_), None) => format!("`{shown}` is gone"),
            (None, _) => format!("`{shown}` is nothing that the run made"),
            _ => format!("`{shown}` is not what the run made"),
        };
        return Err(DirectoryError::Differs { what }.into());
    }
    Ok(())
}

/// Says what was compared.
fn verdict(args: &VerifyArgs, draw: u64, earlier: &Earlier) -> String {
    let fates = earlier.fates();
    let name = |fate: &Fate| match fate {
        Fate::Done => "same",
        Fate::Taken => "not done again",
    };
    if args.json {
        let stages: Vec<_> = fates
            .iter()
            .map(|(round, stage, fate)| json!({ "round": round, "stage": stage, "found": name(fate) }))
            .collect();
        let report = json!({
            "run": args.directory,
            "all": args.all,
            "made_again": (!args.all).then_some(earlier.drawn()),
            "seed": (!args.all).then_some(draw),
            "stages": stages,
        });
        return format!("{report:#}\n");
    }
    let mut text = String::new();
    for (round, stage, fate) in &fates {
        let place = Place { round: *round, stage };
        text.push_str(&format!("  {:<14}  {}\n", name(fate), label(place)));
    }
    let done = fates.iter().filter(|(_, _, fate)| *fate == Fate::Done).count();
    let stages = counted(fates.len() as u64, "stages");
    text.push_str(&match args.all {
        true if done < fates.len() => format!(
            "{done} of {stages} done again: every byte of these is the same; what another program made \
             is taken from the run, as it was recorded\n"
        ),
        true => format!("{done} of {stages} done again: every byte is the same\n"),
        false => format!(
            "a sample: {done} of {stages} done again, {} made again (--seed {draw}), and every byte of \
             these is the same; `--all` does everything\n",
            counted(earlier.drawn() as u64, "completions and answers")
        ),
    });
    text
}
