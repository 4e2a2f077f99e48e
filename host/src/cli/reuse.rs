//! `--reuse DIR`: a run that has done some of the work already.

use std::path::Path;
use std::sync::Arc;

use super::{CliError, exit, memory, output};
use crate::memory::{Budget, Estimate};
use crate::progress::{Progress, counted};
use crate::report::Report;
use crate::round::stage::{Place, label};
use crate::round::{Models, RunError};
use crate::run::directory::{Directory, DirectoryError};
use crate::run::earlier::{Earlier, Fate, Use};
use crate::run::manifest::Manifest;
use crate::run::{self, Prepared};

/// Opens the run whose work is taken over.
///
/// Fails where the folder holds no run, is the run directory itself, or where the two runs have nothing in
/// common: every stage stands on models, prompts, seed and the number of rounds.
pub fn open(path: &Path, prepared: &Prepared, out: &Path) -> Result<Arc<Earlier>, CliError> {
    let shown = path.display();
    let manifest = manifest(path)?;
    let same = |a: &Path, b: &Path| {
        a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a))
    };
    if same(path, out) {
        let message = format!("`--reuse` and `--out` both name `{shown}`");
        return Err(CliError::new(exit::USAGE, message)
            .hint("`--resume` goes on with a run; `--reuse` takes another run's work over"));
    }
    // What a run writes into another one would be taken for a part of that.
    let inside = |folder: &Path, run: &Path| {
        let run = run.canonicalize().ok();
        let folder = std::path::absolute(folder).ok();
        run.zip(folder).is_some_and(|(run, folder)| {
            folder.ancestors().any(|it| it.canonicalize().is_ok_and(|it| it == run))
        })
    };
    if inside(out, path) {
        let message = format!("`{}` is inside of `{shown}`, which is only read", out.display());
        return Err(CliError::new(exit::USAGE, message).hint("name another folder with `--out`"));
    }
    let differs = prepared.manifest.foundations(&manifest);
    if !differs.is_empty() {
        let message = format!(
            "nothing of `{shown}` can be taken over: every stage stands on {}, which differ",
            differs.join(", ")
        );
        return Err(CliError::new(exit::RUN_DIRECTORY, message)
            .hint("leave `--reuse` out, or make them the same"));
    }
    Ok(Arc::new(Earlier::open(path, Use::TakeOver, 0)?))
}

/// Reads what a run is, from a folder that has to hold one.
pub fn manifest(path: &Path) -> Result<Manifest, CliError> {
    Manifest::read(path)?.ok_or_else(|| {
        let message = format!("`{}` is no run directory", path.display());
        CliError::new(exit::RUN_DIRECTORY, message)
            .hint("a run directory holds `run.json`; `aligner --plugins SET --out DIR` makes one")
    })
}

/// Says which stages were taken over.
pub fn tell(earlier: &Earlier, progress: &Progress) {
    let fates = earlier.fates();
    let taken = fates.iter().filter(|(_, _, fate)| *fate == Fate::Taken).count();
    progress.note(&format!(
        "{taken} of {} taken over from `{}`\n",
        counted(fates.len() as u64, "stages"),
        earlier.path().display()
    ));
}

/// Prints how far an earlier run reaches: which stages would be taken over, and which is the first that
/// would be done. Nothing is done, and nothing is kept.
pub fn look(
    prepared: &Prepared,
    models: &Models,
    path: &Path,
    estimate: Estimate,
    progress: &Progress,
) -> Result<(), CliError> {
    let scratch = scratch()?;
    let earlier = Arc::new(Earlier::open(path, Use::Look, 0)?);
    let ended = rehearse(prepared, models, (scratch.path(), earlier.clone()), estimate, progress);
    let first = match ended {
        Ok(_) | Err(RunError::NothingKept { .. }) => None,
        Err(RunError::Directory(DirectoryError::ToDo { what })) => Some(what),
        Err(error) => return Err(error.into()),
    };
    let fates = earlier.fates();
    let names = fates.iter().map(|(round, stage, _)| label(Place { round: *round, stage }));
    let mut text = format!("\nfrom {}\n", path.display());
    for name in names {
        text.push_str(&format!("  taken over  {name}\n"));
    }
    text.push_str(&match first {
        Some(first) => format!("  done        {first}, and what follows from it\n"),
        None => "  nothing is left to do\n".to_owned(),
    });
    output::print(&text)
}

/// Makes a folder for a run that nobody keeps.
pub fn scratch() -> Result<tempfile::TempDir, CliError> {
    tempfile::Builder::new().prefix("aligner-").tempdir().map_err(|error| {
        CliError::new(exit::INTERNAL, format!("cannot make a folder to work in: {error}"))
            .hint("`TMPDIR` names another place")
    })
}

/// Does a run in a folder that nobody keeps, with the stages of another one.
pub fn rehearse(
    prepared: &Prepared,
    models: &Models,
    (scratch, earlier): (&Path, Arc<Earlier>),
    estimate: Estimate,
    progress: &Progress,
) -> Result<Report, RunError> {
    let directory = Directory::open(scratch)?;
    directory.write_json(run::manifest::FILE, &prepared.manifest)?;
    let available = &|| memory::available(&prepared.device).ok().flatten();
    let budget = Budget { estimate, available };
    let cancel = super::cancel::flag();
    let ended =
        run::execute(prepared, models, directory, Some(earlier.clone()), &budget, progress, cancel);
    ended.map_err(|error| match error {
        // Nothing is kept of it; the run that it stands for is as it was.
        RunError::Interrupted { .. } => RunError::Interrupted { path: earlier.path().to_owned() },
        error => error,
    })
}
