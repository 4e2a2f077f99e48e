//! The train stage: what was kept becomes lessons, and the lessons move the policy.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::lessons::{self, Lessons};
use super::rows::{Step, Trained};
use super::stage::{Made, Notebook, Place, label};
use super::{Flow, Policy, RunError, Workshop, external, method, reference};
use crate::digest::sha256;
use crate::model::backend::AnyDevice;
use crate::plugin_set::{LrScheduler, Reference, Scope, Start, Train, TrainData};
use crate::report::NothingKept;
use crate::run::directory::DirectoryError;
use crate::run::{journal, seed};
use crate::train::{Data, LrSchedulerType, TrainError, TrainSettings, Trainer};

/// What a round's training made.
pub struct Learned {
    /// The policy after it.
    pub policy: Policy,
    /// What it was trained on: this round's rows alone.
    pub rows: Vec<Trained>,
    /// One for each update.
    pub steps: Vec<Step>,
}

/// Trains on what came through a round. Where the round does not train, the policy stays.
pub fn train(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    flow: &Flow,
    entering: &Policy,
    earlier: &[Trained],
) -> Result<Learned, RunError> {
    let Some(settings) = shop.set.train(round) else {
        return Ok(Learned { policy: entering.clone(), rows: Vec::new(), steps: Vec::new() });
    };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "train" };
    let mut rows: Vec<Trained> = Vec::new();
    if settings.data == TrainData::All {
        rows.extend(earlier.iter().cloned());
    }
    rows.extend(flow.records.iter().map(|record| lessons::row(round, record, settings.objective)));
    let before: Vec<_> = rows.iter().map(|row| (&row.record_id, row.round)).collect();
    let mut depends = json!([flow.digest, before, settings, entering.digest]);
    // How often a checkpoint is written changes nothing that is trained, and neither does what is
    // computed twice to save memory.
    if let Some(settings) = depends[2].as_object_mut() {
        settings.remove("save_steps");
        settings.remove("gradient_checkpointing");
        if let Some(trl) = settings.get_mut("trl").and_then(Value::as_object_mut) {
            for key in
                ["launch", "python", "arguments", "timeout_minutes", "poll_seconds", "max_restarts"]
            {
                trl.remove(key);
            }
        }
    }

    let folder = place.folder();
    let result = format!("{folder}/{}", method::result_name(settings));
    let metrics = format!("{folder}/metrics.jsonl");
    let order = order(shop, place);
    let reference = match settings.reference {
        Some(Reference::Initial) => Some(shop.models.initial()),
        Some(Reference::Previous) => Some(entering.clone()),
        None => None,
    };
    let logprobs = match &reference {
        // TRL asks the reference itself.
        _ if settings.trl.is_some() => None,
        None => None,
        Some(policy) => {
            let (rows, depends) = (rows.clone(), depends.clone());
            let items = || match lessons::encode(shop, settings, rows, order)? {
                (_, Lessons::Items(_, items)) => Ok(items),
                (_, Lessons::Examples(_)) => Ok(Vec::new()),
            };
            let settings = train_settings(shop, place, settings);
            Some(reference::logprobs(shop, book, round, policy, depends, &settings, items)?)
        }
    };
    let recorded = settings.trl.is_some();
    let key = journal::key(&depends);
    let output = book.stage_by(recorded, place, depends, |book| {
        let (rows, lessons) = lessons::encode(shop, settings, rows, order)?;
        if lessons.count() == 0 {
            let mut dropped = flow.drops.clone();
            for reason in rows.iter().filter_map(|row| row.dropped.clone()) {
                *dropped.entry(reason).or_default() += 1;
            }
            let (records, signals) = (dropped.values().sum(), BTreeMap::new());
            let nothing = NothingKept { round, records, dropped, signals };
            return Err(RunError::NothingKept { path: book.directory.path().to_owned(), nothing });
        }
        if let Some(trl) = &settings.trl {
            let (count, shuffle) = (lessons.count() as u64, shuffle(shop, place, settings));
            let reference = reference.as_ref();
            let task = external::Task { settings, trl, entering, reference, lessons, shuffle, key };
            let made = external::train(shop, book, place, &task)?;
            let updates = made.updates;
            let directory = &book.directory;
            let statement = format!("{folder}/{}", external::STATEMENT);
            let mut files = BTreeMap::new();
            files.insert(metrics.clone(), directory.write_lines(&metrics, &made.steps)?);
            files.insert(statement.clone(), directory.write_json(&statement, &made.statement)?);
            directory.write_folder(&result, |folder| {
                method::leave_adapter(shop.models.policy(), &made.adapter, folder)
            })?;
            files.extend(directory.digests(&result)?);
            let made = Made { files, ..Made::rows(rows) };
            return Ok(made.count("examples", count).count("steps", updates));
        }
        let again = || {
            let (_, lessons) = lessons::encode(shop, settings, rows.clone(), order)?;
            Ok(lessons.data(logprobs.clone()))
        };
        let (count, data) = (lessons.count() as u64, lessons.data(logprobs.clone()));
        let (trainer, steps) = steps(shop, book, place, settings, entering, data, &again)?;
        let mut files = BTreeMap::new();
        files.insert(metrics.clone(), book.directory.write_lines(&metrics, &steps)?);
        method::leave(shop.models, &book.directory, &result, settings, &trainer)?;
        files.extend(book.directory.digests(&result)?);
        let made = Made { files, ..Made::rows(rows) };
        Ok(made.count("examples", count).count("steps", steps.len() as u64))
    })?;
    book.directory.remove_folder(&state_name(&folder))?;
    book.directory.remove(&partial_metrics(&folder))?;
    external::tidy(&book.directory, place)?;

    let digest = digest_of_folder(&result, &output.files);
    let policy = match book.journal.removed(&result) {
        true => shop.models.without_weights(&book.directory.join(&result), &digest),
        false => method::policy(shop.models, &book.directory, &result, settings, &digest)?,
    };
    let steps = book.directory.read_lines(&metrics)?;
    let rows = output.rows.into_iter().filter(|row| row.round == round).collect();
    Ok(Learned { policy: policy.of_round(round), rows, steps })
}

/// Returns a digest of the files of a folder, whatever the folder is called.
pub(super) fn digest_of_folder(folder: &str, files: &BTreeMap<String, String>) -> String {
    let name = |file: &str| Some(file.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
    let lines =
        files.iter().filter_map(|(file, digest)| Some(format!("{} {digest}\n", name(file)?)));
    sha256(lines.collect::<String>().as_bytes())
}

/// Does the updates, from the last checkpoint where there is one. Where the device's memory does not suffice,
/// blocks are computed twice, which takes less and changes no bit; `again` makes the data once more for that, as a
/// copy of it would lie there all the time.
fn steps(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    settings: &Train,
    entering: &Policy,
    data: Data,
    again: &dyn Fn() -> Result<Data, RunError>,
) -> Result<(Trainer<AnyDevice>, Vec<Step>), RunError> {
    shop.check_memory(book, place.round)?;
    let mut wanted = train_settings(shop, place, settings);
    match updates(shop, book, place, settings, entering, data, wanted.clone()) {
        Err(RunError::Train(error))
            if error.is_out_of_memory() && !wanted.gradient_checkpointing =>
        {
            tracing::warn!("{error}: training goes on with `train.gradient_checkpointing`");
            wanted.gradient_checkpointing = true;
            updates(shop, book, place, settings, entering, again()?, wanted)
        }
        done => done,
    }
}

/// Does the updates under these settings.
fn updates(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    settings: &Train,
    entering: &Policy,
    data: Data,
    wanted: TrainSettings,
) -> Result<(Trainer<AnyDevice>, Vec<Step>), RunError> {
    let folder = place.folder();
    let (mut done, mut ledger) = book.directory.ledger::<Step>(&partial_metrics(&folder))?;
    let (models, directory) = (shop.models, &book.directory);
    let state = state_name(&folder);
    let mut trainer = match directory.restore_folder(&state)? {
        true => method::resume(models, directory, &state, settings, data, wanted)?,
        false => {
            let (round, seed) = (place.round, shop.seed(place));
            method::begin(models, round, settings, entering, data, wanted, seed)?
        }
    };

    if let Some(ranks) = models.ranks() {
        trainer.share_with(ranks.clone())?;
    }

    // Updates after the checkpoint are done again; their rows too.
    if done.len() as u64 > trainer.steps_done() {
        done.truncate(trainer.steps_done() as usize);
        ledger = directory.rewrite_ledger(&partial_metrics(&folder), &done)?;
    }
    let bar = shop.progress.stage(&label(place), trainer.steps(), "steps");
    bar.inc(trainer.steps_done());
    let every = u64::from(settings.save_steps);
    let maker = match settings.start {
        Start::Previous => entering.round,
        Start::Initial => 0,
    };
    loop {
        shop.check_cancel(book)?;
        let Some(metrics) = trainer.step().map_err(|error| diverged(error, place, maker))? else {
            break;
        };
        bar.note_tokens(metrics.tokens as u64);
        let step = Step {
            step: metrics.step,
            max_steps: metrics.steps,
            epoch: metrics.epoch,
            loss: metrics.loss,
            grad_norm: metrics.grad_norm,
            learning_rate: metrics.learning_rate,
            num_tokens: metrics.trained_tokens as u64,
            preference: metrics.preference,
        };
        ledger.append(&step)?;
        done.push(step);
        bar.inc(1);
        if every > 0 && metrics.step % every == 0 && metrics.step < metrics.steps {
            method::save(directory, &state, settings, &trainer)?;
        }
    }
    bar.finish();
    Ok((trainer, done))
}

/// Returns the error of a step. A loss that is not finite before the first update is that of the policy that
/// training begins with, which round `maker` made; whatever is not finite later, training has made.
fn diverged(error: TrainError, place: Place<'_>, maker: u32) -> RunError {
    let blamed = match error {
        TrainError::NotFinite { what: "loss", step: 1, .. } => maker,
        _ => place.round,
    };
    RunError::of_policy(blamed)(error.into())
}

/// Removes the checkpoint of a round whose training has diverged: nothing will go on with it.
pub fn forget(book: &Notebook, round: u32) -> Result<(), DirectoryError> {
    book.directory.remove_folder(&state_name(&Place { round, stage: "train" }.folder()))
}

fn state_name(folder: &str) -> String {
    format!("{folder}/train.state")
}

fn partial_metrics(folder: &str) -> String {
    format!("{folder}/metrics.partial.jsonl")
}

/// Returns the seed that shuffles what a round learns. Where its records are put into order, that
/// order is the curriculum; otherwise their order within a round is random (SOFT+ sorts the bins, not
/// what is in them).
fn order(shop: &Workshop<'_>, place: Place<'_>) -> Option<u64> {
    let curriculum = matches!(&shop.set.difficulty, Some(d) if d.scope == Scope::Round);
    (!curriculum).then(|| seed::of([shop.seed(place).into(), "order".into()]))
}

/// Returns how many tokens training lets through the model at once.
pub fn tokens_at_once(settings: &Train, device: &AnyDevice) -> usize {
    let asked = settings.micro_batch_tokens.map(|tokens| tokens as usize);
    asked.unwrap_or_else(|| TrainSettings::micro_batch_tokens_on(device))
}

/// Returns what shuffles the lessons in each epoch; none where their order is kept. What has no pairs is in its
/// order already, the same in every epoch.
fn shuffle(shop: &Workshop<'_>, place: Place<'_>, settings: &Train) -> Option<u64> {
    let paired = settings.preference().is_none_or(|preference| preference.is_paired());
    (paired && order(shop, place).is_some()).then(|| shop.seed(place))
}

fn train_settings(shop: &Workshop<'_>, place: Place<'_>, settings: &Train) -> TrainSettings {
    TrainSettings {
        learning_rate: settings.learning_rate,
        num_train_epochs: settings.num_train_epochs,
        per_device_train_batch_size: settings.per_device_train_batch_size as usize,
        gradient_accumulation_steps: settings.gradient_accumulation_steps as usize,
        warmup_ratio: match settings.lr_scheduler_type {
            LrScheduler::Constant => 0.0,
            _ => settings.warmup_ratio,
        },
        lr_scheduler_type: match settings.lr_scheduler_type {
            LrScheduler::Constant | LrScheduler::ConstantWithWarmup => LrSchedulerType::Constant,
            LrScheduler::Linear => LrSchedulerType::Linear,
            LrScheduler::Cosine => LrSchedulerType::Cosine,
        },
        weight_decay: settings.weight_decay,
        adam_beta1: settings.adam_beta1,
        adam_beta2: settings.adam_beta2,
        adam_epsilon: settings.adam_epsilon,
        max_grad_norm: settings.max_grad_norm,
        micro_batch_tokens: tokens_at_once(settings, shop.models.device()),
        gradient_checkpointing: settings.gradient_checkpointing,
        shuffle: shuffle(shop, place, settings).is_some(),
        seed: shop.seed(place),
    }
}
