//! `aligner --plugins SET`: runs a method.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;

use super::ranks::{self, Lobby, Role};
use super::{CliError, Device, ProgressArgs, cancel, exit, host, log, memory, output, reuse};
use crate::{
    memory::{Budget, Estimate},
    model::{backend::AnyDevice, peft},
    plugin_set::{self, Embedded, EmbeddedWork, Loaded, Override, PluginSet},
    progress::Progress,
    report::{self, Report},
    round::{Models, RunError},
    run::{self, Existing, Opened, Prepared, directory::Directory, earlier::Earlier, plan},
};

/// Arguments of a run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Plugin set: a TOML file, or the name of an embedded one
    #[arg(long, value_name = "SET", required = true)]
    pub plugins: PathBuf,
    /// Model to align, in place of `models.policy`: an alias, a folder, FILE.gguf, hf:owner/name@revision
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// OpenAI-compatible server that answers for the policy, whose tokenizer and chat template are the model's
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Prompts, in place of `data.prompts`: a JSONL file or builtin:NAME
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<String>,
    /// Preference pairs to learn from in the place of completions of the model's own: a JSONL file in TRL's columns
    #[arg(long, value_name = "FILE", conflicts_with = "prompts")]
    pub from_data: Option<String>,
    /// Run directory [default: runs/METHOD-DATE-KEY]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the unfinished run in the run directory
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Begin anew, and throw away the run in the run directory
    #[arg(long)]
    pub fresh: bool,
    /// Take over what another run has done: every stage, completion and answer that stands on the same
    #[arg(long, value_name = "DIR")]
    pub reuse: Option<PathBuf>,
    /// Rounds, in place of `run.rounds`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rounds: Option<i64>,
    /// Seed of every random draw, in place of `run.seed`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Any key of the plugin set, for example generate.temperature=0.5 or filter.0.config.min=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Print the plan, check everything, and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs a plugin set to its end, or prints the plan where `--dry-run` asks for it.
pub fn main(args: &RunArgs, shown: &ProgressArgs) -> Result<(), CliError> {
    let loaded = args.plugin_set(&host::embedded())?;
    let told = format!("{:?} {:?}", args.command(), args.out);
    let Role::Run(mut lobby) = ranks::role(&loaded.set, args.device, &told)? else {
        return Ok(());
    };
    cancel::listen()?;
    let device = args.device.resolve(loaded.set.run.dtype)?;
    let progress = shown.open();
    let mut prepared = prepare(loaded.set, device, &progress)?;
    prepared.manifest.command = args.command();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => run::default_directory(&prepared.manifest, &today()),
    };
    let (estimate, available) =
        (run::memory::estimate(&prepared)?, memory::available(&prepared.device)?);
    let plan = plan::plan(&prepared, &loaded.name, &out, &estimate, available)?.render();
    if args.dry_run {
        output::print(&plan)?;
        let previews = run::preview::previews(&prepared)?;
        output::print(&report::preview::render(&previews, output::is_coloured()))?;
    }
    // What has ended needs no memory any more; the rest is refused before anything is written.
    if args.fresh || !run::has_ended(&out) {
        memory::check(&estimate, available, |part| run::memory::way_out(&prepared.set, part))?;
    }
    let earlier = match &args.reuse {
        Some(path) => Some(reuse::open(path, &prepared, &out)?),
        None => None,
    };
    if args.dry_run {
        return match &args.reuse {
            Some(path) => {
                let models = models(&prepared, &progress)?;
                reuse::look(&prepared, &models, path, estimate, &progress)
            }
            None => Ok(()),
        };
    }
    let existing = match (args.resume, args.fresh) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Fresh,
        _ => Existing::Refuse,
    };
    // What is thrown away is thrown away for a run that can begin; and a server is looked at, and ranks are waited
    // for, before a folder is made for it.
    let others = !prepared.set.models.servers.is_empty() || lobby.is_some();
    let loaded = match args.fresh || (others && !run::has_ended(&out)) {
        true => Some(models_tried(&prepared, lobby.take(), &progress)?),
        false => None,
    };
    match run::open(&out, &prepared.manifest, existing)? {
        Opened::Finished(directory) => finished(&prepared, &directory, &progress),
        Opened::Open(directory) => {
            progress.note(&plan);
            let models = match loaded {
                Some(models) => models,
                None => models_tried(&prepared, lobby.take(), &progress)?,
            };
            work(&prepared, &models, directory, earlier, estimate, &progress)
        }
    }
}

/// Loads the weights of a run's models, but for those that a server answers for.
pub fn models(prepared: &Prepared, progress: &Progress) -> Result<Models, CliError> {
    let (servers, dtype) = (&prepared.set.models.servers, prepared.set.run.dtype);
    let is_here = |name: &String| match servers.get(name) {
        None => true,
        Some(server) => name != "policy" && server.leaves(EmbeddedWork::Scores),
    };
    let mut loaded = BTreeMap::new();
    for (name, opened) in prepared.models.iter().filter(|(name, _)| is_here(name)) {
        loaded.insert(name.clone(), host::load(opened, &prepared.device, dtype, progress)?);
    }
    let opened = &prepared.models["policy"];
    let mut models = match loaded.remove("policy") {
        Some(policy) => Models::new(opened, policy, loaded, *progress),
        None => Models::unloaded(opened, &prepared.device, dtype, loaded, *progress),
    };
    host::serve(&mut models, servers, |name| &prepared.models[name]);
    for (name, adapter) in &prepared.adapters {
        models.save(name, &models.adapted(adapter.clone())?);
    }
    Ok(models)
}

/// The same with the ranks of `lobby`, and tries whether servers are the models that they should be.
pub fn models_tried(
    prepared: &Prepared,
    lobby: Option<Lobby>,
    progress: &Progress,
) -> Result<Models, CliError> {
    let ranks = lobby.map(|lobby| lobby.meet(prepared, progress)).transpose()?;
    let mut models = models(prepared, progress)?;
    if let Some(mut ranks) = ranks {
        ranks::loaded(&mut ranks, models.device(), progress)?;
        models.train_with(ranks);
    }
    host::try_servers(&models, &prepared.device, progress)?;
    Ok(models)
}

/// Reads and checks all that a run on a device needs before its weights.
pub fn prepare(
    set: PluginSet,
    device: AnyDevice,
    progress: &Progress,
) -> Result<Prepared, CliError> {
    let mut downloads = host::Downloads::new(progress);
    let prepared = run::prepare(
        set,
        device,
        host::runtime()?,
        &mut |state| downloads.note(state),
        progress,
        cancel::flag(),
    );
    downloads.finish();
    let prepared = prepared?;
    let models = &prepared.set.models;
    for folder in models.named.values().chain(&models.aligned).map(Path::new) {
        if peft::is_adapter(folder) {
            host::note_another_base(folder, &prepared.models["policy"]);
        }
    }
    Ok(prepared)
}

/// Does what is left of a run, and prints its table. `earlier` has done some of it.
pub fn work(
    prepared: &Prepared,
    models: &Models,
    directory: Directory,
    earlier: Option<Arc<Earlier>>,
    estimate: Estimate,
    progress: &Progress,
) -> Result<(), CliError> {
    let path = directory.path().to_owned();
    let report = go(prepared, models, directory, earlier, estimate, progress)?;
    result(prepared, &path, &report)
}

/// Does what is left of a run, and says what of it an earlier run had done.
pub fn go(
    prepared: &Prepared,
    models: &Models,
    directory: Directory,
    earlier: Option<Arc<Earlier>>,
    estimate: Estimate,
    progress: &Progress,
) -> Result<Report, RunError> {
    log::open(&directory);
    // What the environment says has been read before.
    let available = &|| memory::available(&prepared.device).ok().flatten();
    let budget = Budget { estimate, available };
    let cancel = cancel::flag();
    let known = earlier.clone();
    let report = run::execute(prepared, models, directory, known, &budget, progress, cancel)?;
    if let Some(earlier) = earlier {
        reuse::tell(&earlier, progress);
    }
    Ok(report)
}

/// Prints the table of a run that has ended before; a result that is gone is put back.
pub fn finished(
    prepared: &Prepared,
    directory: &Directory,
    progress: &Progress,
) -> Result<(), CliError> {
    let report: Report = directory.read_json(report::FILE)?;
    run::put_result(prepared, directory, &report)?;
    progress.note(&format!("`{}` is finished; nothing to do", directory.path().display()));
    result(prepared, directory.path(), &report)
}

/// Prints what a run has come to, and fails where it ended with nothing to train on.
fn result(prepared: &Prepared, path: &Path, report: &Report) -> Result<(), CliError> {
    let model = &report.model;
    let made = prepared.set.train(report.best_round);
    let rewards = made.is_some_and(plugin_set::Train::makes_reward_model);
    let mut text = match report.rounds.is_empty() && report.warnings().is_empty() {
        true => String::new(),
        false => format!("\n{}", report.table()),
    };
    let [adapter, whole] = ["final/adapter", "final/model"].map(|name| path.join(name));
    if whole.is_dir() {
        let whole = whole.display();
        text.push_str(&format!(
            "\nmodel of round {}: {whole}\n\
             talk to it:   aligner model chat --model {whole}\n\
             elsewhere:    a whole model in Hugging Face layout, in f32; its README says who reads it\n",
            report.best_round
        ));
    } else if adapter.is_dir() && rewards {
        let adapter = adapter.display();
        text.push_str(&format!(
            "\nreward model of round {}: {adapter}\n\
             its rewards:  aligner model score --model {model} --adapter {adapter} --data FILE.jsonl\n\
             to judge:     name the folder in `[models]`, and let `builtin:reward-model` ask it\n\
             elsewhere:    a PEFT folder, its README says who reads it\n",
            report.best_round
        ));
    } else if adapter.is_dir() {
        let adapter = adapter.display();
        text.push_str(&format!(
            "\nadapter of round {}: {adapter}\n\
             talk to it:   aligner model chat --model {model} --adapter {adapter}\n\
             elsewhere:    a PEFT folder, its README says who reads it; `aligner model merge` writes a whole model\n",
            report.best_round
        ));
    }
    output::print(&text)?;
    if let (None, Some(_), 0) = (&report.nothing_kept, report.blamed, report.best_round) {
        let message = "an alarm leaves no round: there is no result";
        let hint = match report.diverged {
            Some(_) => "a lower `train.learning_rate` keeps a policy's numbers finite",
            None => "the lines above name what moved, and its limit in `[watch]`",
        };
        return Err(CliError::new(exit::NOTHING_KEPT, message).hint(hint));
    }
    match &report.nothing_kept {
        Some(nothing) => {
            let (path, nothing) = (path.to_owned(), nothing.clone());
            Err(RunError::NothingKept { path, nothing }.into())
        }
        None => Ok(()),
    }
}

/// Returns the day in UTC as `20261122`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    date(seconds / 86_400)
}

/// Returns the date of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(day: u64) -> String {
    let z = day + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

impl RunArgs {
    /// Reads and checks the plugin set, with everything the command line puts over it. Flags of their
    /// own win over `--set`.
    pub fn plugin_set(&self, embedded: &Embedded<'_>) -> Result<Loaded, CliError> {
        Ok(plugin_set::load(&self.plugins, &self.overrides()?, embedded)?)
    }

    /// Returns the command that makes the same run: what it is not decided by is left out.
    pub fn command(&self) -> Vec<String> {
        let mut command = vec!["aligner".to_owned(), "--plugins".to_owned()];
        command.push(self.plugins.display().to_string());
        let mut add = |flag: &str, value: Option<String>| {
            command.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        add("--model", self.model.clone());
        add("--server", self.server.clone());
        add("--prompts", self.prompts.clone());
        add("--from-data", self.from_data.clone());
        add("--rounds", self.rounds.map(|rounds| rounds.to_string()));
        add("--seed", self.seed.map(|seed| seed.to_string()));
        self.overrides.iter().for_each(|change| add("--set", Some(change.clone())));
        command
    }

    fn overrides(&self) -> Result<Vec<Override>, CliError> {
        let mut overrides =
            self.overrides.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
        if let Some(model) = &self.model {
            overrides.push(Override::string("--model", &["models", "policy"], model));
        }
        if let Some(server) = &self.server {
            overrides.push(Override::string("--server", &["models", "policy", "server"], server));
        }
        if let Some(prompts) = &self.prompts {
            overrides.push(Override::string("--prompts", &["data", "prompts"], prompts));
        }
        if let Some(pairs) = &self.from_data {
            overrides.push(Override::string("--from-data", &["data", "pairs"], pairs));
        }
        if let Some(rounds) = self.rounds {
            overrides.push(Override::integer("--rounds", &["run", "rounds"], rounds));
        }
        if let Some(seed) = self.seed {
            overrides.push(Override::integer("--seed", &["run", "seed"], seed));
        }
        Ok(overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let check = |day, expected: &str| assert_eq!(date(day), expected);
        check(0, "19700101");
        check(58, "19700228");
        check(59, "19700301");
        check(11_016, "20000229");
        check(20_779, "20261122");
    }
}
