//! The generate stage: prompts become variants, variants get completions.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ask::Asker;
use super::models::{Job, Spent, Undone, Work};
use super::rows::{Generated, Rendered};
use super::stage::{Made, Notebook, Output, Place, RECORDED, label};
use super::{Flow, Policy, RunError, Workshop};
use crate::plugin::{Outcome, PLUGIN_ERROR};
use crate::record::{Completion, Decoding, Record, Text, Variant, VariantRole};
use crate::run::{journal, seed};

/// A line of the stage's ledger: a completion that is done, whatever becomes of the others.
#[derive(Debug, Serialize, Deserialize)]
struct Finished {
    key: String,
    completion: Completion,
    /// What a server has done for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<Spent>,
}

/// Renders and completes records. Those whose prompt is too long are dropped.
pub fn complete(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    let rendered = render(shop, book, round, &flow, policy)?;
    shop.check_cancel(book)?;
    let place = Place { round, stage: "generate" };
    let settings = shop.set.generate(place.seed_round());
    let state = shop.models.state(&settings.model, policy);
    let depends = json!([rendered.digest, state, settings.decoding()]);
    let jobs = jobs(shop, place, &rendered.rows, &flow.decoding, &state);

    let output = book.stage(place, depends, |book| {
        let (rows, mut ledger) = book.directory.ledger_of_answers::<Finished>(&place.ledger())?;
        shop.models.add_spent(rows.iter().filter_map(|row| row.spent.as_ref()));
        let mut done: HashMap<String, Completion> =
            rows.into_iter().map(|row| (row.key, row.completion)).collect();
        let mut reused = 0;
        for job in &jobs {
            if let Some(completion) = book.completions.get(&job.key) {
                done.insert(job.key.clone(), completion.clone());
                reused += 1;
            } else if let Some(completion) = book.known_completion(&job.key) {
                done.insert(job.key.clone(), completion.clone());
            }
        }
        let open: Vec<&Job> = jobs.iter().filter(|job| !done.contains_key(&job.key)).collect();
        if !open.is_empty() {
            shop.models.make_ready(&settings.model, policy, Work::Complete)?;
        }

        let bar = shop.progress.stage(&label(place), open.len() as u64, "completions");
        let batch = settings.batch;
        let mut undone: HashMap<String, &'static str> = HashMap::new();
        shop.models.complete(
            &settings.model,
            policy,
            &open,
            batch,
            shop.cancel,
            &mut |job, result| {
                match result {
                    Ok(made) => {
                        let (completion, spent) = (made.it, made.spent);
                        let row = Finished { key: job.key.clone(), completion, spent };
                        ledger.append_soon(&row)?;
                        bar.note_tokens(u64::from(row.completion.tokens));
                        done.insert(row.key, row.completion);
                    }
                    Err(why) => match (why.reason(), why) {
                        (Some(reason), why) => {
                            tracing::info!(record = job.record, "{why}");
                            undone.insert(job.key.clone(), reason);
                        }
                        (None, Undone::Unreadable(error)) => {
                            return Err(RunError::of_record(&job.record)(error));
                        }
                        (None, Undone::Budget) => unreachable!("it has a reason"),
                    },
                }
                bar.inc(1);
                Ok(())
            },
        )?;
        shop.check_cancel(book)?;
        bar.finish();
        Ok::<_, RunError>(gather(&rendered.rows, &jobs, &done, &undone).count("reused", reused))
    })?;

    for row in &output.rows {
        let completions = row.variants.iter().filter_map(|variant| variant.completion.clone());
        book.completions.extend(row.keys.iter().cloned().zip(completions));
    }
    Ok(apply(flow, output))
}

/// Lets the principle plugin put each prompt; without one each is its own only variant.
fn render(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    flow: &Flow,
    policy: &Policy,
) -> Result<Output<Rendered>, RunError> {
    let place = Place { round, stage: "render" };
    let depends = json!([
        flow.digest,
        shop.plugins.principle_key(shop.set),
        policy.digest,
        shop.asking_key(place)
    ]);
    book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let variants: Vec<Vec<Variant>> = match &shop.plugins.principle {
            None => flow.records.iter().map(|record| vec![plain(record)]).collect(),
            Some(principle) => {
                let at = shop.plugin_place(place, 0);
                let stage = principle.render(&at, &flow.records, &mut asker)?;
                let variants = stage.outcomes.into_iter().map(|outcome| match outcome {
                    Outcome::Done(variants) => variants,
                    Outcome::Failed(why) => {
                        tracing::warn!("{why}");
                        Vec::new()
                    }
                });
                variants.collect()
            }
        };
        let rows = flow
            .records
            .iter()
            .zip(variants)
            .map(|(record, variants)| Rendered { id: record.id().to_owned(), variants })
            .collect();
        asker.close(book, Made::rows(rows))
    })
}

fn plain(record: &Record) -> Variant {
    let prompt: Text = record.prompt.text.clone();
    Variant { name: "plain".into(), role: VariantRole::Plain, prompt, completion: None }
}

/// Returns one job for each variant, in order.
fn jobs(
    shop: &Workshop<'_>,
    place: Place<'_>,
    rows: &[Rendered],
    changes: &BTreeMap<String, Decoding>,
    state: &str,
) -> Vec<Job> {
    let defaults = shop.set.generate(place.seed_round()).decoding();
    let variants = rows.iter().flat_map(|row| row.variants.iter().map(move |v| (&row.id, v)));
    variants
        .map(|(id, variant)| {
            let decoding =
                changes.get(id).map_or_else(|| defaults.clone(), |change| change.or(&defaults));
            let seed = seed::of([
                shop.seed(place).into(),
                id.as_str().into(),
                variant.name.as_str().into(),
            ]);
            let key = journal::key(&json!([state, variant.prompt, decoding, seed]));
            Job { key, record: id.clone(), prompt: variant.prompt.clone(), decoding, seed }
        })
        .collect()
}

/// Puts the completions to their variants; a record with one missing is marked as dropped.
fn gather(
    rows: &[Rendered],
    jobs: &[Job],
    done: &HashMap<String, Completion>,
    undone: &HashMap<String, &'static str>,
) -> Made<Generated> {
    let mut jobs = jobs.iter();
    let (mut tokens, mut recorded, mut made) = (0u64, 0u64, Vec::with_capacity(rows.len()));
    for row in rows {
        let mut generated =
            Generated { id: row.id.clone(), variants: vec![], keys: vec![], dropped: None };
        if row.variants.is_empty() {
            generated.dropped = Some(PLUGIN_ERROR.into());
        }
        for (variant, job) in row.variants.iter().zip(&mut jobs) {
            let completion = done.get(&job.key).cloned();
            match &completion {
                Some(completion) => {
                    tokens += u64::from(completion.tokens);
                    recorded += u64::from(!completion.repro.is_exact());
                }
                None => {
                    let reason = undone.get(&job.key).copied().unwrap_or("too-long");
                    generated.dropped = Some(reason.into());
                }
            }
            generated.variants.push(Variant { completion, ..variant.clone() });
            generated.keys.push(job.key.clone());
        }
        if generated.dropped.is_some() {
            generated.variants.iter_mut().for_each(|variant| variant.completion = None);
        }
        made.push(generated);
    }
    let made = Made::rows(made).count("tokens", tokens);
    match recorded {
        0 => made,
        recorded => made.count(RECORDED, recorded),
    }
}

/// Gives the records what the stage made, and counts those that are dropped.
pub(super) fn apply(flow: Flow, output: Output<Generated>) -> Flow {
    let mut next = Flow { records: Vec::new(), digest: output.digest, ..flow };
    for (mut record, row) in flow.records.into_iter().zip(output.rows) {
        match row.dropped {
            Some(reason) => *next.drops.entry(reason).or_default() += 1,
            None => {
                record.variants = row.variants;
                next.records.push(record);
            }
        }
    }
    next
}
