//! `aligner report DIR…`: prints the tables of runs, compares them, and makes a page of them.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{CliError, exit, output, place};
use crate::{
    plugin_set::Source,
    report::{
        FILE, Report,
        run::{
            self as run_page, RunView,
            compare::{self, Compared},
            page,
        },
    },
    round::RunError,
    run::{
        journal,
        manifest::{self, Manifest},
    },
};

/// Arguments of `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Run directories; several are compared, with the first
    #[arg(value_name = "DIR", required = true)]
    pub directories: Vec<PathBuf>,
    /// Write a page: of one run what is in its report.html, of several their curves over each other
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print JSON, one object a line, with what the pages show; or write it: --json=FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub json: Option<Option<PathBuf>>,
}

/// Prints the table of a run, or a table of several, in the order given; then fails where a file of one of
/// them is not what its journal says.
pub fn main(args: &ReportArgs) -> Result<(), CliError> {
    let json_file = args.json.as_ref().and_then(Option::as_ref);
    for (flag, path) in [("--html", args.html.as_ref()), ("--json", json_file)] {
        let Some(path) = path else { continue };
        let files: Vec<PathBuf> = args.directories.iter().flat_map(|run| stands_on(run)).collect();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        place::check(flag, path, &files)?;
        check_outside(flag, path, &args.directories)?;
    }
    if let (Some(html), Some(json)) = (&args.html, json_file) {
        place::check_apart(("--html", html), ("--json", json))?;
    }
    let single = args.directories.len() == 1;
    let mut damage = None;
    let mut runs: Vec<Compared> = Vec::new();
    for directory in &args.directories {
        // A run of a newer format is refused before its report is misread.
        manifest::check_format(directory)?;
        let report = read(directory)?;
        let whole =
            journal::read(directory).and_then(|entries| journal::check_files(directory, &entries));
        damage = damage.or(whole.err());
        if args.json != Some(None) {
            let table = if single { report.table() } else { String::new() };
            output::print(&format!("{}{table}", heading(directory, &report)))?;
        }
        if let Some(nothing) = report.nothing_kept.clone() {
            let path = directory.clone();
            let hint = RunError::NothingKept { path, nothing }.hint().unwrap_or_default();
            let _ = writeln!(io::stderr(), "\nhint: {hint}");
        }
        if !single || args.html.is_some() || args.json.is_some() {
            let manifest = Manifest::read(directory).ok().flatten();
            let view = RunView::read(directory, manifest, report);
            runs.push(Compared { name: directory.display().to_string(), view });
        }
    }
    if !single && args.json != Some(None) {
        output::print(&format!("\n{}", compare::text(&runs)))?;
    }
    if args.json.is_some() {
        let lines =
            compare::rows(&runs).iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let json = lines.map_err(anyhow::Error::from)?.join("\n") + "\n";
        match json_file {
            Some(path) => place::write(path, json.as_bytes())?,
            None => output::print(&json)?,
        }
    }
    if let Some(path) = &args.html {
        let html = match &runs[..] {
            [run] => page(&run.view),
            runs => compare::page(runs),
        };
        place::write(path, html.as_bytes())?;
    }
    damage.map_or(Ok(()), |error| Err(error.into()))
}

/// Returns what is read of a run, and the files that it was made of: its plugin set, data and plugins.
fn stands_on(run: &Path) -> Vec<PathBuf> {
    let read = [FILE, manifest::FILE, journal::FILE].map(|file| run.join(file));
    let Ok(Some(manifest)) = Manifest::read(run) else { return read.into() };
    let set = &manifest.plugin_set;
    let plugins = set.plugins().into_iter().map(|(_, plugin)| &plugin.source);
    let data = set.data.files().map(|(_, file)| file);
    let files = data.chain(plugins).filter_map(|source| match source {
        Source::File(path) => Some(path.clone()),
        _ => None,
    });
    // `aligner --plugins SET …`
    read.into_iter().chain(files).chain(manifest.command.get(2).map(PathBuf::from)).collect()
}

/// Fails where a result would stand among what a run wrote: only its page has a place there.
fn check_outside(flag: &str, path: &Path, runs: &[PathBuf]) -> Result<(), CliError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    // Behind a link it is the file that the link leads to.
    let target = path
        .canonicalize()
        .or_else(|_| folder.map(|it| it.join(path.file_name().unwrap_or_default())));
    let Ok(target) = target else { return Ok(()) };
    for run in runs.iter().filter_map(|run| run.canonicalize().ok()) {
        let page = flag == "--html" && target == run.join(run_page::FILE);
        if target.starts_with(&run) && !page {
            let message =
                format!("`{flag} {}` would stand among the files of a run", path.display());
            return Err(CliError::usage(message).hint("name a file in another folder"));
        }
    }
    Ok(())
}

/// Reads the report of a run.
pub fn read(directory: &Path) -> Result<Report, CliError> {
    let path = directory.join(FILE);
    let bytes = fs::read(&path).map_err(|error| unreadable(directory, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("`{}` is damaged: {error}", path.display());
        CliError::new(exit::RUN_DIRECTORY, message)
            .hint("the rounds themselves are in `rounds/`; `journal.jsonl` names every file with its digest")
    })
}

fn heading(directory: &Path, report: &Report) -> String {
    let state = match report.ended.as_deref() {
        Some("early-stop") => "stopped early",
        Some("alarm") => "ended by an alarm",
        Some("nothing-kept") => "ended without a record to train on",
        Some(_) => "finished",
        None => "unfinished",
    };
    let Report { method, model, .. } = report;
    format!("{}: {method} on {model}, {state}\n", directory.display())
}

fn unreadable(directory: &Path, error: &io::Error) -> CliError {
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
            let args = ReportArgs { directories: vec![directory], html: None, json: None };
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
