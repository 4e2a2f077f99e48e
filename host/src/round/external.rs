//! Training by TRL: a round's lessons become a job, and what the job leaves becomes the round's adapter.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::lessons::Lessons;
use super::rows::Step;
use super::stage::{Notebook, Place, label};
use super::{Policy, RunError, Workshop, method};
use crate::digest::sha256;
use crate::logprob::Row;
use crate::model::adapter::Adapter;
use crate::model::backend::WeightType;
use crate::model::peft;
use crate::model::text::Model;
use crate::plugin_set::{self, LrScheduler, PluginSet, Start, Train, Trl};
use crate::progress::LOG_TARGET;
use crate::run::directory::{Directory, DirectoryError};
use crate::train::{Sequence, TrainError, check_examples, order};
use crate::trainer::{
    self, Config, Desk, Done, Lines, MOST_APART, Probe, Record, Reference, TRAIN_PY, TrainerError,
    TrainingArguments, Update,
};

/// What a round's trainer said of itself, in the round's folder.
pub const STATEMENT: &str = "trainer.json";

/// The job's folder in the round's.
const JOB: &str = "trl";

/// The job's files that say what was trained on, and how.
const JOB_FILES: [&str; 5] = ["config.json", "data.jsonl", "launch.sh", "order.jsonl", "train.py"];

/// `trainer.json`: who trained a round, and what shows that it was this model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// `trl`.
    pub backend: String,
    /// What started it.
    pub launch: plugin_set::Launch,
    /// How often it was started.
    pub attempts: u32,
    /// How many processes trained.
    pub processes: u32,
    /// What they ran on, as they say.
    pub device: String,
    /// Of Python and its libraries, as they say.
    pub versions: BTreeMap<String, String>,
    /// SHA-256 of the adapter's files as they were left; aligner writes them again in its own words.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of what the job read.
    pub job: BTreeMap<String, String>,
    /// The most that the mean logprob of a row under the trained policy is apart here and there, in nats a
    /// token.
    pub apart: f64,
}

/// What came of a job.
pub struct Made {
    /// The trained adapter.
    pub adapter: Adapter,
    /// One for each update that was told of.
    pub steps: Vec<Step>,
    /// How many updates there were.
    pub updates: u64,
    /// Who made it.
    pub statement: Statement,
}

/// What is trained, and from where.
pub struct Task<'a> {
    /// `[train]` of the round.
    pub settings: &'a Train,
    /// How TRL trains.
    pub trl: &'a Trl,
    /// The policy that enters the round.
    pub entering: &'a Policy,
    /// What the policy is held to.
    pub reference: Option<&'a Policy>,
    /// What is learnt from.
    pub lessons: Lessons,
    /// What shuffles it in each epoch; none keeps its order.
    pub shuffle: Option<u64>,
    /// Stands for all of this.
    pub key: String,
}

/// Has TRL train a round.
pub fn train(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    task: &Task<'_>,
) -> Result<Made, RunError> {
    if book.verifies() {
        let what = format!("{} was left to TRL, and is not done again here", label(place));
        return Err(DirectoryError::Differs { what }.into());
    }
    let directory = &book.directory;
    let job = Job::of(shop, place, task)?;
    let folder = format!("{}/{JOB}", place.folder());
    if !is_written(directory, &folder, &task.key)? {
        job.write(shop, directory, &folder)?;
    }
    // The job may want the device's memory.
    shop.models.release();
    crate::memory::give_back();

    let rounds = job.rounds(task.trl.processes);
    let bar = shop.progress.stage(&label(place), rounds.steps, "steps");
    let mut shown = 0;
    let mut on_update = |update: &Update| {
        let new = update.step.min(rounds.steps).saturating_sub(shown);
        shown += new;
        bar.note_tokens(rounds.tokens_of(update.step));
        bar.inc(new);
    };
    let mut on_word = |word: &str| {
        let line = format!("{}: {word}", label(place));
        shop.progress.note(&line);
        tracing::info!(target: LOG_TARGET, "{line}");
    };
    let cancelled = || shop.cancel.load(Ordering::Relaxed);
    let mut desk = Desk {
        directory,
        folder: &folder,
        trl: task.trl,
        cancelled: &cancelled,
        on_update: &mut on_update,
        on_word: &mut on_word,
    };
    let ended = trainer::train(&mut desk, &mut |attempt, done: &Done| {
        job.accept(shop, directory, &format!("{folder}/{attempt}"), (attempt, done))
    });
    let made = ended.map_err(|error| match error {
        Failure::Run(error) => error,
        Failure::Trainer(source) => {
            RunError::Trainer { path: directory.path().to_owned(), place: label(place), source }
        }
    })?;
    match made {
        Some(made) => {
            bar.finish();
            Ok(made)
        }
        None => Err(RunError::Interrupted { path: directory.path().to_owned() }),
    }
}

/// Ends the jobs of a run that is about to be thrown away.
pub fn abandon(directory: &Directory, rounds: u32) -> Result<(), DirectoryError> {
    let folder = |round| format!("{}/{JOB}", super::stage::folder(round));
    (1..=rounds).try_for_each(|round| trainer::abandon(directory, &folder(round)))
}

/// Removes what a finished job has no more use for: checkpoints, and its adapter, which the round has.
pub fn tidy(directory: &Directory, place: Place<'_>) -> Result<(), DirectoryError> {
    let folder = format!("{}/{JOB}", place.folder());
    let record = format!("{folder}/{}", trainer::RECORD);
    if !directory.has(&record) {
        return Ok(());
    }
    let Record { attempt, .. } = directory.read_json(&record)?;
    for attempt in 1..=attempt {
        for part in ["adapter", "checkpoints"] {
            directory.remove(&format!("{folder}/{attempt}/{part}"))?;
        }
    }
    directory.remove(&format!("{folder}/{}", trainer::LOCK))
}

/// Fails where TRL is to train a policy that transformers cannot load.
pub fn check_base(set: &PluginSet, model: &Model) -> Result<(), RunError> {
    let trains = (1..=set.run.rounds).filter_map(|round| set.train(round)?.trl.as_ref());
    for trl in trains {
        if trl.model.is_none() && base(trl, model).is_none() {
            return Err(RunError::Settings {
                what: format!("transformers cannot train on `{}`, a GGUF file", model.name),
                hint: "`train.trl.model` names a folder in Hugging Face layout, or \
                       \"hf:owner/name@revision\", with the same weights"
                    .into(),
            });
        }
    }
    Ok(())
}

/// Fails where a round is to be trained by what is not there.
pub fn check_trainers(set: &PluginSet, book: &Notebook) -> Result<(), RunError> {
    let mut checked: Vec<&Trl> = Vec::new();
    for round in 1..=set.run.rounds {
        let Some(trl) = set.train(round).and_then(|train| train.trl.as_ref()) else { continue };
        if book.verifies() || book.journal.has_finished(round, "train") || checked.contains(&trl) {
            continue;
        }
        if let Some(missing) = trainer::missing(trl) {
            return Err(RunError::Settings {
                what: format!("TRL cannot train round {round}: {missing}"),
                hint:
                    "`train.trl.python` names a Python that has `trl` and `peft` (`pip install trl \
                       peft`), `train.trl.launch` what starts it"
                        .into(),
            });
        }
        checked.push(trl);
    }
    Ok(())
}

/// Returns what transformers loads as the base, and its revision; none of a GGUF file that nobody knows by a
/// name.
fn base(trl: &Trl, model: &Model) -> Option<(String, Option<String>)> {
    let of_hub = |name: &str| match name.split_once('@') {
        Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
        None => (name.to_owned(), None),
    };
    if let Some(named) = &trl.model {
        return Some(match named.strip_prefix("hf:") {
            Some(name) => of_hub(name),
            None => (named.clone(), None),
        });
    }
    if model.path.is_dir() {
        let path = model.path.canonicalize().unwrap_or_else(|_| model.path.clone());
        return Some((path.display().to_string(), None));
    }
    let (name, revision) = model.base_name();
    (name != model.path.display().to_string()).then_some((name, revision))
}

/// Returns whether all that a job reads is there.
fn is_written(directory: &Directory, folder: &str, key: &str) -> Result<bool, DirectoryError> {
    let record = format!("{folder}/{}", trainer::RECORD);
    if !directory.has(&record) {
        return Ok(false);
    }
    let Record { task, .. } = directory.read_json(&record)?;
    Ok(task == key)
}

/// A job, before it is written.
struct Job<'a> {
    place: Place<'a>,
    task: &'a Task<'a>,
    start: Adapter,
    lines: Lines,
    orders: Vec<Vec<usize>>,
}

impl<'a> Job<'a> {
    /// Returns what both sides say of the first rows: the mean logprob of each one's completion, in nats a token.
    fn mean_logprobs(&self, shop: &Workshop<'_>, policy: &Policy) -> Result<Vec<f64>, RunError> {
        let row = |sequence: &Sequence| Row {
            tokens: sequence.tokens.clone(),
            from: trainer::Halves::of(sequence).prompt_ids.len(),
        };
        let rows: Vec<Row> = self.lines.probe.iter().map(row).collect();
        shop.models.mean_logprobs(policy, &rows, shop.cancel)
    }

    fn of(shop: &Workshop<'_>, place: Place<'a>, task: &'a Task<'a>) -> Result<Job<'a>, RunError> {
        let Task { settings, entering, .. } = task;
        let spec = &shop.models.policy().spec;
        let (count, lines) = match &task.lessons {
            Lessons::Examples(examples) => {
                check_examples(examples, spec).map_err(TrainError::from)?;
                (examples.len(), Lines::of_examples(examples))
            }
            Lessons::Items(preference, items) => {
                for item in items {
                    let problem = item.check(preference, spec);
                    problem.map_err(|problem| {
                        let id = item.id.clone();
                        TrainError::from(crate::train::SettingsError::Item { id, problem })
                    })?;
                }
                (items.len(), Lines::of_items(items))
            }
        };
        let from = match settings.start {
            Start::Previous => (*entering).clone(),
            Start::Initial => shop.models.initial(),
        };
        let start =
            method::starting_adapter(shop.models, place.round, settings, &from, shop.seed(place))?;
        let epochs = settings.num_train_epochs.ceil() as u64;
        let orders = (0..epochs).map(|epoch| order(count, task.shuffle, epoch)).collect();
        Ok(Job { place, task, start, lines, orders })
    }

    /// Writes all that the job reads, and at last that it is there.
    fn write(
        &self,
        shop: &Workshop<'_>,
        directory: &Directory,
        folder: &str,
    ) -> Result<(), RunError> {
        let model = shop.models.policy();
        trainer::abandon(directory, folder)?;
        directory.remove(folder)?;
        let adapter = |name: &str, adapter: &Adapter| {
            directory.write_folder(&format!("{folder}/{name}"), |folder| {
                method::leave_adapter(model, adapter, folder)
            })
        };
        adapter("start", &self.start)?;
        let reference = match self.task.reference {
            None => None,
            Some(policy) if !shop.models.has_initial_weights(policy) => {
                return Err(RunError::Settings {
                    what: format!(
                        "round {} has a whole model as its reference, and TRL holds an adapter to the base \
                         or to another adapter",
                        self.place.round
                    ),
                    hint: "set `reference = \"initial\"`, or `backend = \"native\"`".into(),
                });
            }
            Some(policy) => match &policy.adapter {
                Some(of_policy) => {
                    adapter("reference", of_policy)?;
                    Some(Reference::Adapter)
                }
                None => Some(Reference::Initial),
            },
        };
        let policy = shop.models.adapted(self.start.clone())?;
        let probe = Probe {
            rows: self.lines.probe.iter().map(trainer::Halves::of).collect(),
            mean_logprobs: self.mean_logprobs(shop, &policy)?,
            bound: most_apart(shop),
        };
        let config = self.config(shop, reference, probe);
        let file = |name: &str| format!("{folder}/{name}");
        directory.write_lines(&file("data.jsonl"), &self.lines.lines)?;
        directory.write_lines(&file("order.jsonl"), &self.orders)?;
        directory.write_json(&file("config.json"), &config)?;
        directory.write(&file("train.py"), TRAIN_PY.as_bytes())?;
        directory.write(&file("launch.sh"), trainer::launch_script(self.task.trl).as_bytes())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos());
        let unique = sha256(format!("{} {now}", directory.path().display()).as_bytes());
        let record = Record::new(&self.task.key, self.task.trl, &unique[..12]);
        directory.write_json(&file(trainer::RECORD), &record)?;
        Ok(())
    }

    fn config(&self, shop: &Workshop<'_>, reference: Option<Reference>, probe: Probe) -> Config {
        let Task { settings, trl, .. } = self.task;
        let (model, revision) = base(trl, shop.models.policy()).unwrap_or_default();
        let loss = settings.preference().map_or(json!({}), |preference| match json!(preference) {
            Value::Object(mut loss) => {
                loss.remove("objective");
                Value::Object(loss)
            }
            other => other,
        });
        let scheduler = match settings.lr_scheduler_type {
            LrScheduler::Constant => "constant",
            LrScheduler::ConstantWithWarmup => "constant_with_warmup",
            LrScheduler::Linear => "linear",
            LrScheduler::Cosine => "cosine",
        };
        Config {
            objective: settings.objective.name().to_owned(),
            loss,
            model,
            revision,
            dtype: match trl.dtype.unwrap_or(shop.set.run.dtype) {
                WeightType::F32 => "float32",
                WeightType::Bf16 | WeightType::Int8 => "bfloat16",
            },
            reference,
            training_arguments: TrainingArguments {
                learning_rate: settings.learning_rate,
                num_train_epochs: settings.num_train_epochs,
                per_device_train_batch_size: settings.per_device_train_batch_size,
                gradient_accumulation_steps: settings.gradient_accumulation_steps,
                warmup_ratio: match settings.lr_scheduler_type {
                    LrScheduler::Constant => 0.0,
                    _ => settings.warmup_ratio,
                },
                lr_scheduler_type: scheduler.to_owned(),
                weight_decay: settings.weight_decay,
                adam_beta1: settings.adam_beta1,
                adam_beta2: settings.adam_beta2,
                adam_epsilon: settings.adam_epsilon,
                max_grad_norm: settings.max_grad_norm,
                save_steps: settings.save_steps,
                gradient_checkpointing: settings.gradient_checkpointing,
                // NumPy's seeds have 32 bits.
                seed: (shop.seed(self.place) & u64::from(u32::MAX)) as u32,
            },
            options: trl.options.clone(),
            probe,
        }
    }

    /// Returns how the rows are cut into updates by so many processes.
    fn rounds(&self, processes: u32) -> Updates<'_> {
        let settings = self.task.settings;
        let (batch, accumulated) =
            (settings.per_device_train_batch_size, settings.gradient_accumulation_steps);
        let per_pass = (batch as usize).saturating_mul(processes.max(1) as usize);
        let per_epoch =
            self.lines.rows.len().div_ceil(per_pass).div_ceil(accumulated as usize).max(1) as u64;
        let steps = (settings.num_train_epochs * per_epoch as f64).ceil() as u64;
        let per_update = per_pass.saturating_mul(accumulated as usize);
        Updates { rows: &self.lines.rows, orders: &self.orders, per_update, per_epoch, steps }
    }

    /// Takes what an attempt left, or says why it cannot be used.
    fn accept(
        &self,
        shop: &Workshop<'_>,
        directory: &Directory,
        folder: &str,
        (attempt, done): (u32, &Done),
    ) -> Result<Result<Made, TrainerError>, Failure> {
        let updates = self.rounds(done.processes);
        if let Some(diverged) = &done.diverged {
            return Err(Failure::Run(self.diverged(diverged, &updates)));
        }
        let path = directory.join(&format!("{folder}/adapter"));
        let unusable =
            |problem: String| Ok(Err(TrainerError::Unusable { path: path.clone(), problem }));
        for name in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
            let file = format!("{folder}/adapter/{name}");
            let found = match directory.has(&file) {
                true => directory.digest(&file)?,
                false => return unusable(format!("there is no `{name}`")),
            };
            if done.files.get(name) != Some(&found) {
                return unusable(format!("`{name}` is not what the job says that it wrote"));
            }
        }
        let (model, layers) = (shop.models.policy(), shop.models.policy().spec.layers);
        let read = match peft::read(&path, &model.spec) {
            Ok(read) => read,
            Err(error) => return unusable(error.to_string()),
        };
        let Some(adapter) = read.under(self.start.config.clone(), layers) else {
            let (found, wanted) = (read.rank(), self.start.rank());
            return unusable(format!(
                "it has other pairs, ranks or scales than it began with (rank {found}, expected {wanted})"
            ));
        };
        if adapter.digest() == self.start.digest() {
            return unusable("training has changed nothing of it".to_owned());
        }
        let policy = shop.models.adapted(adapter.clone())?;
        let ours =
            self.mean_logprobs(shop, &policy).map_err(RunError::of_policy(self.place.round))?;
        let apart = apart(&ours, &done.probe);
        let most = most_apart(shop);
        if apart.is_none_or(|apart| apart > most) {
            return unusable(format!(
                "with it a token of the first rows has a mean logprob of {ours:.3?} here and of {:.3?} there, \
                 and {most} apart is the most that rounding explains",
                done.probe
            ));
        }
        // The job read what was there when it was written.
        let digest = |name: &str| {
            let file = format!("{}/{JOB}/{name}", self.place.folder());
            directory.digest(&file).map(|digest| (name.to_owned(), digest))
        };
        let statement = Statement {
            backend: "trl".into(),
            launch: self.task.trl.launch,
            attempts: attempt,
            processes: done.processes,
            device: done.device.clone(),
            versions: done.versions.clone(),
            files: done.files.clone(),
            job: JOB_FILES.iter().map(|name| digest(name)).collect::<Result<_, _>>()?,
            apart: apart.unwrap_or_default(),
        };
        let steps = self.steps(directory, folder, attempt, done)?;
        Ok(Ok(Made { adapter, steps, updates: done.steps, statement }))
    }

    /// Returns the error of a training that has diverged, as the native trainer's.
    fn diverged(&self, diverged: &trainer::Diverged, updates: &Updates<'_>) -> RunError {
        let what = if diverged.what == "loss" { "loss" } else { "gradient norm" };
        let ids = updates.rows_of(diverged.step).map(|(id, _)| id.clone()).collect();
        let value = diverged.value.parse().unwrap_or(f64::NAN);
        let (step, steps) = (diverged.step, updates.steps);
        let maker = match self.task.settings.start {
            Start::Previous => self.task.entering.round,
            Start::Initial => 0,
        };
        let blamed = if what == "loss" && step == 1 { maker } else { self.place.round };
        RunError::of_policy(blamed)(TrainError::NotFinite { what, value, step, steps, ids }.into())
    }

    /// Returns the updates as the journal's files have them.
    fn steps(
        &self,
        directory: &Directory,
        folder: &str,
        attempt: u32,
        done: &Done,
    ) -> Result<Vec<Step>, RunError> {
        let path = directory.join(&format!("{folder}/progress.jsonl"));
        let said = trainer::updates(&path, attempt);
        let (said, garbage) = said.unwrap_or_else(|error| {
            tracing::warn!("cannot read `{}`: {error}", path.display());
            (Vec::new(), 0)
        });
        let updates = self.rounds(done.processes);
        if garbage > 0 || said.len() as u64 != done.steps {
            tracing::warn!(
                "of {} updates, `{}` tells {}, and has {garbage} lines that nobody can read: the curves of \
                 the round have gaps",
                done.steps,
                path.display(),
                said.len()
            );
        }
        let step = |update: Update| {
            Some(Step {
                step: update.step,
                max_steps: update.max_steps,
                epoch: update.epoch,
                loss: update.loss?,
                grad_norm: update.grad_norm?,
                learning_rate: update.learning_rate?,
                num_tokens: updates.tokens_of(update.step),
                preference: update.preference,
            })
        };
        Ok(said.into_iter().filter_map(step).collect())
    }
}

/// Which rows an update takes.
struct Updates<'a> {
    rows: &'a [(String, usize)],
    orders: &'a [Vec<usize>],
    per_update: usize,
    per_epoch: u64,
    steps: u64,
}

impl Updates<'_> {
    /// Returns id and trained tokens of the rows of an update, counted from 1.
    fn rows_of(&self, step: u64) -> impl Iterator<Item = &(String, usize)> {
        let step = step.saturating_sub(1);
        let (epoch, place) = (step / self.per_epoch, (step % self.per_epoch) as usize);
        let order = self.orders.get(epoch as usize).map_or(&[][..], Vec::as_slice);
        let rows = order.iter().skip(place.saturating_mul(self.per_update)).take(self.per_update);
        rows.filter_map(|&row| self.rows.get(row))
    }

    fn tokens_of(&self, step: u64) -> u64 {
        self.rows_of(step).map(|&(_, tokens)| tokens as u64).sum()
    }
}

/// Returns the most that both sides may be apart: with a server whose weights are rounded, as far as it may be from the
/// embedded engine.
fn most_apart(shop: &Workshop<'_>) -> f64 {
    let server = shop.set.models.servers.get("policy");
    server.map_or(MOST_APART, |server| MOST_APART.max(server.probe_bound))
}

/// Returns the most that two lists of numbers are apart; none where they cannot be compared.
fn apart(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    if ours.len() != theirs.len() {
        return None;
    }
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    // One that is no number stays.
    let larger = |most: f64, apart: f64| if apart > most || apart.is_nan() { apart } else { most };
    let most = apart.fold(0.0, larger);
    most.is_finite().then_some(most)
}

/// Why a job came to nothing: its own doing, or that of the run.
enum Failure {
    Run(RunError),
    Trainer(TrainerError),
}

impl From<TrainerError> for Failure {
    fn from(error: TrainerError) -> Failure {
        Failure::Trainer(error)
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Failure {
        Failure::Run(error.into())
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        Failure::Run(error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::template::ChatSettings;
    use crate::round::Opened;

    fn model(name: &str) -> std::sync::Arc<Model> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
        let name = path.to_str().unwrap();
        Opened::open(name, ChatSettings::default(), &mut |_| ()).unwrap().model
    }

    #[test]
    fn the_base_is_what_transformers_loads() {
        let named = |name: &str| Trl { model: Some(name.into()), ..Trl::default() };
        let (folder, gguf) = (model("tiny-llama"), model("sentencepiece.gguf"));
        let (path, revision) = base(&Trl::default(), &folder).unwrap();
        assert!(path.ends_with("tests/fixtures/tiny-llama") && path.starts_with('/'), "{path}");
        assert!(!path.contains("..") && revision.is_none(), "{path}");
        assert_eq!(base(&Trl::default(), &gguf), None);
        assert_eq!(base(&named("/x/y"), &gguf), Some(("/x/y".into(), None)));
        let of_hub = Some(("a/b".to_owned(), Some("1f2e".to_owned())));
        assert_eq!(base(&named("hf:a/b@1f2e"), &gguf), of_hub);
        assert_eq!(base(&named("hf:a/b"), &folder), Some(("a/b".into(), None)));
    }

    #[test]
    fn numbers_are_apart_or_cannot_be_compared() {
        assert_eq!(apart(&[-1.0, -2.0], &[-1.5, -2.25]), Some(0.5));
        assert_eq!(apart(&[], &[]), Some(0.0));
        assert_eq!(apart(&[-1.0], &[]), None);
        assert_eq!(apart(&[-1.0, -1.0], &[f64::NAN, -1.0]), None);
        assert_eq!(apart(&[-1.0], &[f64::NEG_INFINITY]), None);
    }

    #[test]
    fn updates_take_rows_in_the_order_of_their_epoch() {
        let rows: Vec<(String, usize)> = (0..5).map(|i| (i.to_string(), 10 + i)).collect();
        let orders = vec![vec![0, 1, 2, 3, 4], vec![4, 3, 2, 1, 0]];
        let updates =
            Updates { rows: &rows, orders: &orders, per_update: 2, per_epoch: 3, steps: 6 };
        let tokens: Vec<u64> = (1..=7).map(|step| updates.tokens_of(step)).collect();
        assert_eq!(tokens, [21, 25, 14, 27, 23, 10, 0]);
        assert_eq!(updates.tokens_of(0), 21);
        assert_eq!(updates.tokens_of(u64::MAX), 0);
    }
}
