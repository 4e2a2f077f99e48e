//! `aligner ablate DIR --swap PLACE=PLUGIN`: what would have been, had one plugin been another. This file holds
//! its arguments.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use super::{
    CliError, Device, ProgressArgs, cancel, exit, host, memory, output, reuse, run as run_verb,
};
use crate::plugin_set::{self, PluginSet, Source};
use crate::report::{Report, changes};
use crate::round::RunError;
use crate::run::directory::DirectoryError;
use crate::run::{self, Existing, Opened};

/// Arguments of `ablate`.
#[derive(Clone, Debug, Args)]
pub struct AblateArgs {
    /// Run directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Another plugin in a place of the set: principle, sampler, filter-1 and so on, judge, difficulty
    #[arg(long, value_name = "PLACE=PLUGIN")]
    pub swap: Vec<Change>,
    /// Another configuration for the plugin in a place, as a JSON object
    #[arg(long, value_name = "PLACE=JSON")]
    pub config: Vec<Change>,
    /// No such filter: filter-1 and so on
    #[arg(long, value_name = "PLACE")]
    pub without: Vec<String>,
    /// Run directory of the other run [default: DIR-KEY, beside it]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print every record that went another way, as JSON
    #[arg(long)]
    pub json: bool,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// A place of the plugin set with what comes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    place: String,
    what: String,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        match text.split_once('=') {
            Some((place, what)) if !place.is_empty() && !what.is_empty() => {
                Ok(Change { place: place.to_owned(), what: what.to_owned() })
            }
            _ => Err("it is `PLACE=…`, for example `judge=other.wasm`".to_owned()),
        }
    }
}

/// Does the run with the change, takes over all that does not depend on it, and prints what went another way.
pub fn main(args: &AblateArgs) -> Result<(), CliError> {
    cancel::listen()?;
    let path = &args.directory;
    let begun = reuse::manifest(path)?;
    let set = changed(begun.clone().pinned_set(), args)?;
    let progress = args.shown.open();
    let device = args.device.resolve(set.run.dtype)?;
    let mut prepared = run_verb::prepare(set, device, &progress)?;
    prepared.manifest.command = args.command();
    if prepared.manifest.digest() == begun.digest() {
        let message = format!("with this, the run would be `{}` itself", path.display());
        return Err(CliError::usage(message).hint(
            "`--swap`, `--config` and `--without` say what is to be otherwise: `--swap judge=other.wasm`",
        ));
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => beside(path, &prepared.manifest.digest()),
    };
    let earlier = reuse::open(path, &prepared, &out)?;
    let first: Report = report_of(path)?;
    let estimate = run::memory::estimate(&prepared)?;
    let way_out = |part| run::memory::way_out(&prepared.set, part);
    if !run::has_ended(&out) {
        memory::check(&estimate, memory::available(&prepared.device)?, way_out)?;
    }
    let opened = run::open(&out, &prepared.manifest, Existing::Resume);
    let opened = opened.map_err(|error| match error {
        DirectoryError::Occupied { path, what, .. } => {
            let hint = "name another folder with `--out`, or remove this one".to_owned();
            DirectoryError::Occupied { path, what, hint }
        }
        error => error,
    });
    match opened? {
        Opened::Finished(_) => {}
        Opened::Open(directory) => {
            let models = run_verb::models(&prepared, &progress)?;
            match run_verb::go(&prepared, &models, directory, Some(earlier), estimate, &progress) {
                Ok(_) | Err(RunError::NothingKept { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let second: Report = report_of(&out)?;
    let found = changes::changes(path, &out)?;
    if args.json {
        let document = json!({
            "first": path,
            "second": out,
            "changes": found,
            "reports": [first, second],
        });
        return output::print(&format!("{document}\n"));
    }
    output::print(&format!(
        "{} against {}\n{}",
        out.display(),
        path.display(),
        changes::text(&found, &first, &second)
    ))
}

impl AblateArgs {
    /// Returns the command that makes the same run.
    fn command(&self) -> Vec<String> {
        let given = |flag: &str, values: Vec<String>| -> Vec<String> {
            values.into_iter().flat_map(|value| [flag.to_owned(), value]).collect()
        };
        let changes = |changes: &[Change]| -> Vec<String> {
            changes.iter().map(|it| format!("{}={}", it.place, it.what)).collect()
        };
        let begin =
            ["aligner".to_owned(), "ablate".to_owned(), self.directory.display().to_string()];
        begin
            .into_iter()
            .chain(given("--swap", changes(&self.swap)))
            .chain(given("--config", changes(&self.config)))
            .chain(given("--without", self.without.clone()))
            .collect()
    }
}

/// Returns the folder beside a run for one that differs from it.
fn beside(path: &Path, digest: &str) -> PathBuf {
    let name = path.canonicalize().ok();
    let name =
        name.as_deref().and_then(Path::file_name).map(|it| it.to_string_lossy().into_owned());
    let name = format!("{}-{}", name.unwrap_or_else(|| "run".into()), &digest[..4]);
    match path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)) {
        Some(parent) => parent.join(name),
        None => PathBuf::from(name),
    }
}

fn report_of(path: &Path) -> Result<Report, CliError> {
    if !run::has_ended(path) {
        let shown = path.display();
        let message = format!("`{shown}` is not finished");
        return Err(CliError::new(exit::RUN_DIRECTORY, message)
            .hint(format!("`aligner resume {shown}` goes on with it")));
    }
    super::report::read(path)
}

/// Puts the changes into a plugin set.
fn changed(mut set: PluginSet, args: &AblateArgs) -> Result<PluginSet, CliError> {
    contradictions(args)?;
    for Change { place, what } in &args.swap {
        // From wherever it is gone on with.
        let source = match host::source(what)? {
            Source::File(path) => Source::File(std::path::absolute(&path).unwrap_or(path)),
            source => source,
        };
        let plugin = at(&mut set, place)?;
        (plugin.source, plugin.pin) = (source, None);
    }
    for Change { place, what } in &args.config {
        let config: Value = serde_json::from_str(what).map_err(|error| {
            CliError::usage(format!("`--config {place}` has no JSON: {error}"))
                .hint(format!("for example `--config '{place}={{\"key\": 3}}'`"))
        })?;
        if !config.is_object() {
            let message = format!("`--config {place}` is no JSON object");
            return Err(CliError::usage(message)
                .hint(format!("for example `--config '{place}={{\"key\": 3}}'`")));
        }
        at(&mut set, place)?.config = config;
    }
    // From the back, so that numbers stay what the user means.
    let mut gone = Vec::new();
    for place in &args.without {
        at(&mut set, place)?;
        match filter(place) {
            Some(index) => gone.push(index),
            None => {
                let message = format!("`--without {place}` would leave a hole in the method");
                return Err(CliError::usage(message).hint(
                    "filters can be left out, `filter-1` and so on; other plugins can be swapped",
                ));
            }
        }
    }
    gone.sort_unstable();
    gone.dedup();
    for index in gone.into_iter().rev() {
        set.filters.remove(index);
    }
    Ok(set)
}

/// Fails where a place is changed twice in one way, or left out and changed.
fn contradictions(args: &AblateArgs) -> Result<(), CliError> {
    let name = |place: &str| if place == "filter" { "filter-1".into() } else { place.to_owned() };
    let places = |changes: &[Change]| changes.iter().map(|it| name(&it.place)).collect::<Vec<_>>();
    let without: Vec<String> = args.without.iter().map(|place| name(place)).collect();
    let ways = [
        ("--swap", places(&args.swap)),
        ("--config", places(&args.config)),
        ("--without", without),
    ];
    for (flag, places) in &ways {
        let twice = places.iter().enumerate().find(|(at, place)| places[..*at].contains(place));
        if let Some((_, place)) = twice {
            return Err(CliError::usage(format!("`{flag}` names `{place}` twice")));
        }
    }
    let [(_, swapped), (_, configured), (_, without)] = &ways;
    match without.iter().find(|place| swapped.contains(place) || configured.contains(place)) {
        Some(place) => Err(CliError::usage(format!("`{place}` is left out, and changed as well"))),
        None => Ok(()),
    }
}

/// Returns the position of a filter that is called `filter-1` and so on; of the only one, `filter`.
fn filter(place: &str) -> Option<usize> {
    if place == "filter" {
        return Some(0);
    }
    place.strip_prefix("filter-")?.parse::<usize>().ok()?.checked_sub(1)
}

/// Returns the plugin in a place of the set.
fn at<'a>(set: &'a mut PluginSet, place: &str) -> Result<&'a mut plugin_set::Plugin, CliError> {
    let mut places: Vec<String> = Vec::new();
    let mut filters = 0;
    for (kind, _) in set.plugins() {
        let name = match kind {
            "filter" => {
                filters += 1;
                format!("filter-{filters}")
            }
            kind => kind.to_owned(),
        };
        places.push(name);
    }
    // One filter needs no number.
    let wanted = if place == "filter" && filters == 1 { "filter-1" } else { place };
    match places.iter().position(|name| name == wanted) {
        Some(index) => Ok(set.plugins_mut().swap_remove(index)),
        None => {
            let message = format!("the plugin set has no `{place}`");
            Err(CliError::usage(message).hint(format!("it has {}", places.join(", "))))
        }
    }
}
