//! The reference stage: what the reference says of all that a round's objective compares. It is
//! computed once, and kept in a file of its own.

use serde_json::Value;

use super::rows::Referred;
use super::stage::{Made, Notebook, Place, label};
use super::{Policy, RunError, Workshop};
use crate::generate::SequenceError;
use crate::progress::go_on;
use crate::train::{Item, TrainSettings, reference_logprobs};

/// Items that are scored before their logprobs are written down.
const AT_ONCE: usize = 64;

/// Returns the summed logprob of each sequence of each item under `reference`, by passes like those of training
/// with `settings`.
///
/// `depends` holds all that the items depend on; `items` makes them.
pub fn logprobs(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    reference: &Policy,
    depends: Value,
    settings: &TrainSettings,
    items: impl FnOnce() -> Result<Vec<Item>, RunError>,
) -> Result<Vec<Vec<f64>>, RunError> {
    let place = Place { round, stage: "reference" };
    let depends = serde_json::json!([depends, reference.digest]);
    let output = book.stage(place, depends, |book| {
        let items = items()?;
        let (mut rows, mut ledger) =
            book.directory.ledger_of_answers::<Referred>(&place.ledger())?;
        let bar = shop.progress.stage(&label(place), items.len() as u64, "items");
        bar.inc(rows.len() as u64);
        while rows.len() < items.len() {
            let (engine, adapter) = shop.models.scorer(reference)?;
            // Always the same ones together, wherever a run was killed, so that they share their passes.
            let first = rows.len() / AT_ONCE * AT_ONCE;
            let batch = &items[first..items.len().min(first + AT_ONCE)];
            let mut go_on = |_| go_on(shop.cancel);
            let scored = reference_logprobs(&engine, adapter, batch, settings, &mut go_on);
            if let Err(SequenceError::Cancelled) = scored {
                shop.check_cancel(book)?;
            }
            let per_item = batch[0].sequences.len().max(1);
            let scored =
                scored.map_err(|error| RunError::of_engine(error, |i| &batch[i / per_item].id));
            let scored = scored.map_err(RunError::of_policy(reference.round))?;
            for (item, logprobs) in batch.iter().zip(scored).skip(rows.len() - first) {
                let row = Referred { id: item.id.clone(), logprobs };
                ledger.append_soon(&row)?;
                rows.push(row);
                bar.inc(1);
            }
        }
        bar.finish();
        Ok::<_, RunError>(Made::rows(rows))
    })?;
    Ok(output.rows.into_iter().map(|row| row.logprobs).collect())
}
