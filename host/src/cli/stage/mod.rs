//! `aligner stage`: one stage of a plugin set over one part of some data. Each row is answered for by
//! itself, so many workers give what one would, however the data is cut.

mod call;
mod models;
mod rows;
mod take;
mod task;
mod work;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{CliError, Device, ProgressArgs, cancel, exit, host, output, place, plugin::AfterArg};
use crate::{
    data::DataError,
    digest::sha256_of,
    plugin_set::{self, After, Override, PluginSet},
    progress::counted,
    run::directory::DirectoryError,
    shown::printable,
};
use models::Wanted;
use take::Shard;
use task::{Stage, Task};
use work::{Begun, Done, Opened, Work};

/// The stages that are of opinions: what they say of a row depends on no other row.
#[derive(Clone, Debug, Subcommand)]
pub enum StageCommand {
    /// Keep, drop or revise each record, by the filters of one place
    Filter(FilterArgs),
    /// Let the judge give rewards, or a preference
    Judge(ShardArgs),
    /// Let the difficulty plugin say how hard each record is
    Score(ShardArgs),
}

/// Arguments of `stage filter`.
#[derive(Clone, Debug, Args)]
pub struct FilterArgs {
    /// Which filters [default: those of the set, where all stand at one place]
    #[arg(long, value_enum, value_name = "PLACE")]
    pub after: Option<AfterArg>,
    /// What every stage takes
    #[command(flatten)]
    pub shard: ShardArgs,
}

/// Arguments of every stage.
#[derive(Clone, Debug, Args)]
pub struct ShardArgs {
    /// Plugin set: a TOML file, a pack, or the name of an embedded one
    #[arg(long, value_name = "SET")]
    pub plugins: PathBuf,
    /// Rows, each with an id: JSONL as a stage before has written it, or prompts with completions, or pairs; .gz too
    #[arg(long = "in", value_name = "FILE")]
    pub input: PathBuf,
    /// Where they go, a line each, in the same order
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The round of the plugin set that this is a stage of
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub round: u32,
    /// The file is the whole stage, and no part: for plugins that decide over all rows
    #[arg(long)]
    pub whole: bool,
    /// Leave dropped rows out
    #[arg(long)]
    pub kept_only: bool,
    /// Throw away what stands at `--out`
    #[arg(long)]
    pub fresh: bool,
    /// Model that plugins ask and that measures, in place of `models.policy`
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder that makes the policy of it: what the round before has trained
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Seed of every random draw, in place of `run.seed`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Any key of the plugin set, for example filter.0.config.min=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Runs a stage over a shard, and prints what became of its rows.
pub fn main(command: &StageCommand) -> Result<(), CliError> {
    let (args, after) = match command {
        StageCommand::Filter(args) => (&args.shard, args.after.map(AfterArg::after)),
        StageCommand::Judge(args) | StageCommand::Score(args) => (args, None),
    };
    check_files(args)?;
    let set = plugin_set::load(&args.plugins, &args.overrides()?, &host::embedded())?.set;
    let name = printable(&args.plugins.display().to_string());
    let stage = match command {
        StageCommand::Filter(_) => Stage::Filter(place_of(&set, after, &name)?),
        StageCommand::Judge(_) => Stage::Judge,
        StageCommand::Score(_) => Stage::Score,
    };
    check_round(&set, stage, args.round, &name)?;
    cancel::listen()?;
    let progress = args.shown.open();
    let task = Task::load(set, (stage, args.round), (args.whole, args.kept_only), &progress)?;
    let device = |dtype| args.device.resolve(dtype);
    let models = Wanted::find(&task, args.adapter.as_deref(), device, &progress)?;
    let engine = models.as_ref().map(Wanted::engine);
    let begun = Begun::new(task.depends(&digest(&args.input)?, models.as_ref()), engine);
    let mut note = |text: &str| progress.note(text);
    let explain = |error| explain(error, args);
    let done = match Work::open(&args.out, begun, args.fresh, &mut note).map_err(explain)? {
        Opened::Finished(done) => {
            progress.note(&format!("`{}` is finished; nothing to do", args.out.display()));
            *done
        }
        Opened::Open(mut work) => {
            if work.totals.rows > 0 {
                let rows = counted(work.totals.rows, "rows");
                progress.note(&format!("goes on after {rows} that are done"));
            }
            Shard::new(&task, models.as_ref(), &args.input, &progress)
                .take(&mut work)
                .map_err(on_disk)?;
            work.finish().map_err(explain)?
        }
    };
    if done.totals.rows == 0 {
        tracing::warn!("`{}` holds no row", args.input.display());
    }
    output::print(&summary(&done, &args.out))
}

/// Fails where the files cannot be those of a shard.
fn check_files(args: &ShardArgs) -> Result<(), CliError> {
    let inputs = [args.input.as_path(), args.plugins.as_path()];
    place::check("--out", &args.out, &inputs)?;
    let shown = args.out.display();
    if args.out.exists() && !args.out.is_file() {
        let error = CliError::usage(format!("`--out {shown}` is no file"));
        return Err(error.hint("a result gets its name once it is whole: name a file"));
    }
    if args.out.extension().is_some_and(|extension| extension == "gz") {
        let error = CliError::usage(format!("`--out {shown}` would hold plain lines"));
        return Err(error.hint("leave `.gz` off; `gzip` packs the result"));
    }
    match args.input.metadata() {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            let message = format!("`--in {}` is no file", args.input.display());
            Err(CliError::new(exit::MODEL_OR_DATA, message)
                .hint("write the rows to a file: a worker that is killed reads them again"))
        }
        _ => Ok(()),
    }
}

/// Returns the place of the filters: the one that the user named, or the only one that the set has.
fn place_of(set: &PluginSet, named: Option<After>, name: &str) -> Result<After, CliError> {
    const ALL: [After; 4] = [After::Sample, After::Generate, After::Judge, After::Pair];
    let has = |after: &After| set.filters.iter().any(|filter| filter.after == *after);
    let there: Vec<After> = ALL.into_iter().filter(has).collect();
    let word = |after: &After| task::word(*after);
    let words = there.iter().map(word).collect::<Vec<_>>().join("`, `");
    match (named, &there[..]) {
        (_, []) => Err(CliError::usage(format!("`{name}` has no filter"))),
        (Some(named), there) if there.contains(&named) => Ok(named),
        (Some(named), _) => {
            let message = format!("`{name}` has no filter after `{}`", task::word(named));
            Err(CliError::usage(message).hint(format!("it has some after `{words}`")))
        }
        (None, [only]) => Ok(*only),
        (None, _) => {
            let message = format!("`{name}` has filters at several places");
            Err(CliError::usage(message).hint(format!("`--after` says which: `{words}`")))
        }
    }
}

/// Fails where the plugin set has no such round, or the round has no such stage.
fn check_round(set: &PluginSet, stage: Stage, round: u32, name: &str) -> Result<(), CliError> {
    let rounds = set.run.rounds;
    if round > rounds {
        let message = format!(
            "`--round {round}` is over what `{name}` has, {}",
            counted(rounds.into(), "rounds")
        );
        return Err(CliError::usage(message).hint("`--set run.rounds=N` gives it more"));
    }
    match stage {
        Stage::Judge if set.judge.is_none() => {
            Err(CliError::usage(format!("`{name}` has no judge")))
        }
        Stage::Judge if set.judge(round).is_none() => {
            Err(CliError::usage(format!("round {round} of `{name}` goes without the judge"))
                .hint("`--round` names another one"))
        }
        Stage::Score if set.difficulty.is_none() => {
            Err(CliError::usage(format!("`{name}` has no difficulty plugin")))
        }
        _ => Ok(()),
    }
}

/// Returns the SHA-256 of the rows as they lie on the disk.
fn digest(path: &Path) -> Result<String, CliError> {
    let failed = |error| DataError::Read { name: path.display().to_string(), error };
    Ok(File::open(path).and_then(sha256_of).map_err(failed)?)
}

/// Returns an error of the files that a result is made in, with the way out that there is here.
fn explain(error: DirectoryError, args: &ShardArgs) -> CliError {
    let hint = match &error {
        DirectoryError::InUse { .. } => Some("give each worker its own `--out`".to_owned()),
        DirectoryError::Damaged { .. } => {
            Some(format!("`--fresh` throws away what is left of `{}`", args.out.display()))
        }
        _ => None,
    };
    let error = on_disk(CliError::from(error));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Gives an error of a disk that is full the way out that there is here.
fn on_disk(mut error: CliError) -> CliError {
    if error.hint.as_deref().is_some_and(|hint| hint.starts_with("make room")) {
        error.hint = Some(
            "make room; then the same command goes on from the last rows that are done".into(),
        );
    }
    error
}

/// Says what became of the rows.
fn summary(done: &Done, out: &Path) -> String {
    let totals = &done.totals;
    let dropped =
        totals.dropped.iter().map(|(reason, count)| (format!("dropped: {reason}"), *count));
    let counts = totals.counts.iter().map(|(what, count)| (what.clone(), *count));
    let some = [("dropped before".to_owned(), totals.dropped_before)].into_iter().chain(counts);
    let some = some.chain(dropped).chain([("asked".to_owned(), totals.asks)]);
    let first = [("rows".to_owned(), totals.rows)].into_iter();
    let lines = first.chain(some.filter(|(_, count)| *count > 0));
    let lines: Vec<_> = lines.chain([("kept".to_owned(), totals.kept)]).collect();
    let wide = lines.iter().map(|(what, _)| printable(what).chars().count()).max().unwrap_or(0);
    let line = |(what, count): &(String, u64)| format!("{:<wide$}  {count:>9}\n", printable(what));
    let lines: String = lines.iter().map(line).collect();
    format!("{lines}written to {}\n", printable(&out.display().to_string()))
}

impl ShardArgs {
    fn overrides(&self) -> Result<Vec<Override>, CliError> {
        let mut overrides =
            self.overrides.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
        if let Some(model) = &self.model {
            overrides.push(Override::string("--model", &["models", "policy"], model));
        }
        if let Some(seed) = self.seed {
            overrides.push(Override::integer("--seed", &["run", "seed"], seed));
        }
        Ok(overrides)
    }
}
