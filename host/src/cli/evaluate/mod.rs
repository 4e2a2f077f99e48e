//! `aligner evaluate`: filters and judges, measured on labelled data, side by side.

mod batch;
mod checks;
mod contestant;
mod load;
mod opinions;
pub(super) mod oracle;
mod plugins;
mod take;

use std::path::PathBuf;

use clap::Args;

use super::{CliError, ProgressArgs, cancel, exit, host, output, place};
use crate::{
    data::{Columns, LABELLED_ROLES},
    evaluate::summary::Evaluation,
    plugin_set::Source,
    report,
    shown::printable,
};
use contestant::Contestant;
use load::Terms;
use oracle::{ModelArgs, Oracle};
use plugins::Wanted;

/// Arguments of `evaluate`.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// Component or builtin:NAME, or NAME=SOURCE to call it NAME
    #[arg(value_name = "PLUGIN")]
    pub plugins: Vec<String>,
    /// More plugins, with their configurations, as [[plugin]] tables
    #[arg(long = "plugins", value_name = "FILE.toml")]
    pub file: Option<PathBuf>,
    /// Labelled completions or pairs: JSONL, or a JSON list; .gz too
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Configuration of a plugin, as a JSON object
    #[arg(long, value_name = "NAME=JSON")]
    pub config: Vec<String>,
    /// Let this plugin ask the model
    #[arg(long, value_name = "NAME")]
    pub ask: Vec<String>,
    /// Show this judge each completion of a pair by itself
    #[arg(long, value_name = "NAME")]
    pub each: Vec<String>,
    /// What a column is called: prompt, completion, label, score, chosen or rejected
    #[arg(long = "column", value_name = "ROLE=NAME", value_parser = column)]
    pub columns: Vec<(String, String)>,
    /// Completions with this score or more are good
    #[arg(long, value_name = "SCORE", default_value_t = 0.5, allow_negative_numbers = true, value_parser = finite)]
    pub threshold: f64,
    /// Column by which rows are told apart [default: source, subset, category, language]
    #[arg(long = "slice", value_name = "COLUMN")]
    pub slices: Vec<String>,
    /// Read this many rows, from the top
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Tokens that the answers to one plugin may have, in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub ask_tokens: Option<u64>,
    /// Which model is asked
    #[command(flatten)]
    pub asked: ModelArgs,
    /// Write a page with every table and plot
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write every number
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Reads a number that is one.
fn finite(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| number.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

/// Reads `ROLE=NAME`.
fn column(text: &str) -> Result<(String, String), String> {
    let roles = || LABELLED_ROLES.map(|role| format!("`{role}`")).join(", ");
    match text.split_once('=') {
        Some((role, name)) if LABELLED_ROLES.contains(&role) && !name.is_empty() => {
            Ok((role.to_owned(), name.to_owned()))
        }
        _ => Err(format!("expected ROLE=NAME, where ROLE is one of {}", roles())),
    }
}

/// Measures every plugin and prints the tables. A plugin that fails is shown as failing, the others go
/// on, and the exit code says so.
pub fn main(args: &EvaluateArgs) -> Result<(), CliError> {
    let wanted = plugins::wanted(args)?;
    check_asks(args, &wanted)?;
    let mut read = vec![args.data.as_path()];
    read.extend(args.file.as_deref());
    read.extend(wanted.iter().filter_map(|wanted| match &wanted.source {
        Source::File(path) => Some(path.as_path()),
        _ => None,
    }));
    for (flag, path) in [("--json", &args.json), ("--report", &args.report)] {
        path.as_deref().map(|path| place::check(flag, path, &read)).transpose()?;
    }
    if let (Some(json), Some(report)) = (&args.json, &args.report) {
        place::check_apart(("--json", json), ("--report", report))?;
    }
    cancel::listen()?;
    let columns = Columns {
        names: args.columns.iter().cloned().collect(),
        threshold: args.threshold,
        slices: args.slices.clone(),
    };
    let progress = args.shown.open();
    let names_model = args.asked.is_named();
    let mut source = take::Source::open(&args.data, columns, args.limit, names_model)?;
    let runtime = host::runtime()?;
    let terms =
        Terms { pairs: source.is_pairs(), measures: names_model, ask_tokens: args.ask_tokens };
    let mut contestants: Vec<Contestant> = wanted
        .into_iter()
        .map(|wanted| Contestant::load(&runtime, wanted, terms, &progress))
        .collect();
    check_use(names_model, &contestants)?;
    let asks = contestants.iter().any(Contestant::uses_model);
    let oracle = if asks { Some(Oracle::load(&args.asked, &progress)?) } else { None };
    if oracle.as_ref().is_some_and(|oracle| !oracle.writes()) {
        contestants.iter_mut().for_each(Contestant::fail_without_measurements);
    }
    let model = oracle.as_ref().map(|oracle| printable(oracle.name()));
    let mut evaluation = take::take(&mut source, &mut contestants, oracle, &progress)?;
    evaluation.model = model;

    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&evaluation).map_err(anyhow::Error::from)?;
        place::write(path, (json + "\n").as_bytes())?;
    }
    if let Some(path) = &args.report {
        place::write(path, report::evaluation::page(&evaluation).as_bytes())?;
    }
    output::print(&report::evaluation::text(&evaluation))?;
    failures(&evaluation)
}

/// Fails where a plugin did.
fn failures(evaluation: &Evaluation) -> Result<(), CliError> {
    let failed: Vec<_> = evaluation.plugins.iter().filter(|it| it.failed.is_some()).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let (count, all) = (failed.len(), evaluation.plugins.len());
    let why = first.failed.as_deref().unwrap_or_default();
    let (why, hint) = match why.split_once("\n\nhint: ") {
        Some((why, hint)) => (why, Some(hint)),
        None => (why, None),
    };
    let message = format!("{count} of {all} plugins failed\n  `{}`: {why}", first.name);
    let error = CliError::new(exit::PLUGIN, message);
    Err(match hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

/// Fails where plugins may ask and there is no model.
fn check_asks(args: &EvaluateArgs, wanted: &[Wanted]) -> Result<(), CliError> {
    let asking = wanted.iter().find(|wanted| wanted.ask);
    match asking.filter(|_| !args.asked.is_named()) {
        Some(wanted) => {
            let message = format!("`{}` may ask a model, and none is named", wanted.name);
            Err(CliError::usage(message).hint("name it with `--model`"))
        }
        None => Ok(()),
    }
}

/// Fails where there is a model that nobody has a use for.
fn check_use(names_model: bool, contestants: &[Contestant]) -> Result<(), CliError> {
    if !names_model || contestants.iter().any(Contestant::wants_model) {
        return Ok(());
    }
    let error =
        CliError::usage("a model is named, and no plugin may ask it or needs it to measure");
    Err(error.hint("`--ask NAME` lets a plugin ask; a plugin that does not ask needs no model"))
}
