//! The train stage: what was kept becomes examples, and the examples move the adapter.

use std::collections::BTreeMap;

use serde_json::json;

use super::rows::{Column, Step, Trained};
use super::stage::{Made, Notebook, Place, label};
use super::{Flow, Policy, RunError, Workshop};
use crate::model::adapter::Adapter;
use crate::model::peft;
use crate::plugin_set::{LrScheduler, Scope, Start, Train, TrainData};
use crate::record::{Completion, Record, VariantRole};
use crate::run::seed;
use crate::train::{Example, LrSchedulerType, TrainError, TrainSettings, TrainState, Trainer};

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
    rows.extend(flow.records.iter().map(|record| row(round, record)));
    let before: Vec<_> = rows.iter().map(|row| (&row.record_id, row.round)).collect();
    let mut depends = json!([flow.digest, before, settings, entering.digest]);
    // How often a checkpoint is written changes nothing that is trained, and neither does what is
    // computed twice to save memory.
    if let Some(settings) = depends[2].as_object_mut() {
        settings.remove("save_steps");
        settings.remove("gradient_checkpointing");
    }

    let folder = place.folder();
    let (adapter, metrics) = (format!("{folder}/adapter"), format!("{folder}/metrics.jsonl"));
    let output = book.stage(place, depends, |book| {
        let (rows, examples) = examples(shop, settings, rows)?;
        if examples.is_empty() {
            let mut drops = flow.drops.clone();
            for reason in rows.iter().filter_map(|row| row.dropped.clone()) {
                *drops.entry(reason).or_default() += 1;
            }
            let records = drops.values().sum();
            return Err(RunError::NothingKept { round, records, drops });
        }
        let (trained, steps) = steps(shop, book, place, settings, entering, &examples)?;
        let mut files = BTreeMap::new();
        files.insert(metrics.clone(), book.directory.write_lines(&metrics, &steps)?);
        let (name, revision) = shop.models.policy().model.base_name();
        let base = peft::Base { name_or_path: &name, revision: revision.as_deref() };
        book.directory.write_folder(&adapter, |folder| {
            peft::write(folder, &trained, base).map_err(RunError::from)
        })?;
        for name in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
            let name = format!("{adapter}/{name}");
            files.insert(name.clone(), book.directory.digest(&name)?);
        }
        let count = examples.len() as u64;
        let made = Made { files, ..Made::rows(rows) };
        Ok(made.count("examples", count).count("steps", steps.len() as u64))
    })?;
    for leftover in [state_file(&folder), partial_metrics(&folder)] {
        book.directory.remove(&leftover)?;
    }

    let loaded = peft::read(&book.directory.join(&adapter), &shop.models.policy().model.spec)?;
    let policy = shop.models.adapted(loaded)?;
    let steps = book.directory.read_lines(&metrics)?;
    let rows = output.rows.into_iter().filter(|row| row.round == round).collect();
    Ok(Learned { policy, rows, steps })
}

/// Returns what a record teaches: its prompt without principles or exemplars, and the completion of
/// the chosen variant, else of the good one, else of the first.
fn row(round: u32, record: &Record) -> Trained {
    let completion = taught(record);
    let (text, finish) = completion
        .map_or((String::new(), crate::record::Finish::Length), |c| (c.text.clone(), c.finish));
    let (prompt, completion) = Column::pair(&record.prompt.text, &text);
    Trained {
        record_id: record.id().to_owned(),
        round,
        prompt,
        completion,
        finish,
        difficulty: record.difficulty,
        dropped: None,
    }
}

/// Returns the completion that a record teaches.
pub fn taught(record: &Record) -> Option<&Completion> {
    let chosen = record.pair.as_ref().map(|pair| pair.chosen.as_str());
    let with = |role: VariantRole| {
        record.variants.iter().find(|v| v.role == role && v.completion.is_some())
    };
    let variant = match chosen {
        Some(name) => record.variants.iter().find(|variant| variant.name == name),
        None => with(VariantRole::Good).or_else(|| with(VariantRole::Plain)),
    };
    variant?.completion.as_ref()
}

/// Turns rows into tokens; a row that is too long or empty is marked as dropped.
fn examples(
    shop: &Workshop<'_>,
    settings: &Train,
    mut rows: Vec<Trained>,
) -> Result<(Vec<Trained>, Vec<Example>), RunError> {
    let model = &shop.models.policy().model;
    let mut examples = Vec::with_capacity(rows.len());
    for row in &mut rows {
        row.dropped = None;
        match model.encode_example(&row.prompt.prompt(), row.completion.words(), row.finish) {
            Ok(example) if example.tokens.len() <= settings.max_length as usize => {
                examples.push(Example {
                    id: row.record_id.clone(),
                    tokens: example.tokens,
                    trained: example.trained,
                });
            }
            Ok(_) | Err(crate::model::ModelError::TooLong { .. }) => {
                row.dropped = Some("too-long".into());
            }
            Err(crate::model::ModelError::NothingToTrain) => row.dropped = Some("empty".into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((rows, examples))
}

/// Does the updates, from the last checkpoint where there is one.
fn steps(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    settings: &Train,
    entering: &Policy,
    examples: &[Example],
) -> Result<(Adapter, Vec<Step>), RunError> {
    let folder = place.folder();
    let (mut done, mut ledger) = book.directory.ledger::<Step>(&partial_metrics(&folder))?;
    let loaded = shop.models.policy();
    let wanted = train_settings(shop, place, settings);
    let checkpoint = state_file(&folder);
    let mut trainer = if book.directory.has(&checkpoint) {
        let state = TrainState::from_bytes(&book.directory.read(&checkpoint)?)
            .map_err(|error| book.directory.damaged(&checkpoint, error))?;
        Trainer::resume(loaded.engine.clone(), state, examples.to_vec(), wanted)?
    } else {
        let fresh = || {
            let seed = seed::of([shop.seed(place).into(), "lora".into()]);
            Adapter::init(&loaded.model.spec, settings.lora.config(), seed)
                .map_err(TrainError::from)
        };
        let start = match (settings.start, &entering.adapter) {
            (Start::Previous, Some(adapter)) => {
                let layers = loaded.model.spec.layers;
                adapter.under(settings.lora.config(), layers).ok_or_else(|| RunError::Settings {
                    what: format!(
                        "round {} cannot train on from an adapter of rank {}: its settings differ",
                        place.round,
                        adapter.rank()
                    ),
                    hint: "keep `train.lora` the same in all rounds, or set `start = \"initial\"`"
                        .into(),
                })?
            }
            _ => fresh()?,
        };
        Trainer::new(loaded.engine.clone(), &start, examples.to_vec(), wanted)?
    };

    // Updates after the checkpoint are done again; their rows too.
    if done.len() as u64 > trainer.steps_done() {
        done.truncate(trainer.steps_done() as usize);
        ledger = book.directory.rewrite_ledger(&partial_metrics(&folder), &done)?;
    }
    let bar = shop.progress.stage(&label(place), trainer.steps(), "steps");
    bar.inc(trainer.steps_done());
    let every = u64::from(settings.save_steps);
    loop {
        shop.check_cancel(book)?;
        let Some(metrics) = trainer.step()? else { break };
        bar.note_tokens(metrics.tokens as u64);
        let step = Step {
            step: metrics.step,
            max_steps: metrics.steps,
            epoch: metrics.epoch,
            loss: metrics.loss,
            grad_norm: metrics.grad_norm,
            learning_rate: metrics.learning_rate,
            num_tokens: metrics.trained_tokens as u64,
        };
        ledger.append(&step)?;
        done.push(step);
        bar.inc(1);
        if every > 0 && metrics.step % every == 0 && metrics.step < metrics.steps {
            book.directory.write(&checkpoint, &trainer.state()?.to_bytes())?;
        }
    }
    bar.finish();
    Ok((trainer.adapter()?, done))
}

fn state_file(folder: &str) -> String {
    format!("{folder}/train.state")
}

fn partial_metrics(folder: &str) -> String {
    format!("{folder}/metrics.partial.jsonl")
}

fn train_settings(shop: &Workshop<'_>, place: Place<'_>, settings: &Train) -> TrainSettings {
    // Where the records of a round are put into order, that order is the curriculum; otherwise their
    // order within a round is random (SOFT+ sorts the bins, not what is in them).
    let curriculum = matches!(&shop.set.difficulty, Some(d) if d.scope == Scope::Round);
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
        gradient_checkpointing: settings.gradient_checkpointing,
        shuffle: !curriculum,
        seed: shop.seed(place),
        ..TrainSettings::default()
    }
}
