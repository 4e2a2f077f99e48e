//! `aligner report DIR…`: prints the tables of runs.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use super::{CliError, exit, output};
use crate::{
    report::{FILE, Report},
    round::RunError,
    run::{journal, manifest},
};

/// Arguments of `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Run directories
    #[arg(value_name = "DIR", required = true)]
    pub directories: Vec<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Prints the table of each run, in the order given, then fails where a file of one of them is not what
/// its journal says.
pub fn main(args: &ReportArgs) -> Result<(), CliError> {
    let mut damage = None;
    for (index, directory) in args.directories.iter().enumerate() {
        // A run of a newer format is refused before its report is misread.
        manifest::check_format(directory)?;
        let path = directory.join(FILE);
        let bytes = fs::read(&path).map_err(|error| unreadable(directory, &error))?;
        let report: Report = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("`{}` is damaged: {error}", path.display());
            CliError::new(exit::RUN_DIRECTORY, message)
                .hint("the rounds themselves are in `rounds/`; `journal.jsonl` names every file with its digest")
        })?;
        let whole =
            journal::read(directory).and_then(|entries| journal::check_files(directory, &entries));
        damage = damage.or(whole.err());
        if args.json {
            let json = serde_json::to_string(&report).map_err(anyhow::Error::from)?;
            output::print(&format!("{json}\n"))?;
            continue;
        }
        let gap = if index > 0 { "\n" } else { "" };
        let state = match report.ended.as_deref() {
            Some("early-stop") => "stopped early",
            Some("nothing-kept") => "ended without a record to train on",
            Some(_) => "finished",
            None => "unfinished",
        };
        let Report { method, model, .. } = &report;
        let heading = format!("{}: {method} on {model}, {state}\n", directory.display());
        output::print(&format!("{gap}{heading}{}", report.table()))?;
        if let Some(nothing) = report.nothing_kept {
            let path = directory.clone();
            let hint = RunError::NothingKept { path, nothing }.hint().unwrap_or_default();
            let _ = writeln!(io::stderr(), "\nhint: {hint}");
        }
    }
    damage.map_or(Ok(()), |error| Err(error.into()))
}

fn unreadable(directory: &std::path::Path, error: &io::Error) -> CliError {
    let shown = directory.display();
    if error.kind() != io::ErrorKind::NotFound {
        return CliError::new(
            exit::RUN_DIRECTORY,
            format!("cannot read `{shown}/{FILE}`: {error}"),
        );
    }
    if !directory.exists() {
        return CliError::new(exit::RUN_DIRECTORY, format!("run directory `{shown}` is not there"));
    }
    match directory.join("run.json").exists() {
        true => {
            CliError::new(exit::RUN_DIRECTORY, format!("run `{shown}` has not done a round yet"))
                .hint(format!("`aligner resume {shown}` goes on with it"))
        }
        false => CliError::new(exit::RUN_DIRECTORY, format!("`{shown}` is no run directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |directory: PathBuf, expected: &str| {
            let args = ReportArgs { directories: vec![directory], json: false };
            let error = main(&args).unwrap_err();
            assert_eq!(error.code, exit::RUN_DIRECTORY);
            let shown = error.message.replace(&folder.path().display().to_string(), "F");
            assert!(shown.starts_with(expected), "{shown}");
        };
        check(folder.path().join("x"), "run directory `F/x` is not there");
        check(folder.path().to_owned(), "`F` is no run directory");
        fs::write(folder.path().join("run.json"), "{\"format\": 1}").unwrap();
        check(folder.path().to_owned(), "run `F` has not done a round yet");
        fs::write(folder.path().join(FILE), "{\"method\": 3").unwrap();
        check(folder.path().to_owned(), "`F/report.json` is damaged: ");
    }
}
