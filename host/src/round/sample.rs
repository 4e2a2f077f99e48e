//! The sample stage: which prompts, with which exemplars and decoding.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::rows::Sampled;
use super::stage::{Made, Notebook, Output, Place};
use super::{Flow, Pool, RunError, Workshop};
use crate::plugin::{Candidate, Outcome, PLUGIN_ERROR};
use crate::record::{Decoding, Exemplar, Prompt};

/// Selects and equips the prompts of a round. `written` stands for those that the sampler plugin has
/// written, where it writes any.
pub fn select(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    pool: &mut Pool,
    written: Option<&str>,
) -> Result<Flow, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round, stage: "sample" };
    let depends = match written {
        None => depends(shop, pool),
        Some(written) => json!([depends(shop, pool), written]),
    };
    let output = book.stage(place, depends, |_| {
        let prompts: Vec<&Prompt> = match &shop.plugins.sampler {
            None => pool.iter().collect(),
            Some(sampler) => {
                let candidates: Vec<Candidate> =
                    pool.iter().map(|prompt| candidate(pool, prompt)).collect();
                let (indices, _) = sampler.select(&shop.plugin_place(place, 0), &candidates)?;
                let prompts: Vec<&Prompt> = pool.iter().collect();
                indices.into_iter().map(|index| prompts[index]).collect()
            }
        };
        equip(shop, place, &prompts)
    })?;
    pool.note_selected(output.rows.iter().map(|row| row.id.as_str()));
    Ok(flow(shop, pool, output))
}

/// Equips every prompt of the pool, as round 1 would.
pub fn everything(shop: &Workshop<'_>, book: &mut Notebook, pool: &Pool) -> Result<Flow, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round: 0, stage: "sample" };
    let depends = depends(shop, pool);
    let output =
        book.stage(place, depends, |_| equip(shop, place, &pool.iter().collect::<Vec<_>>()))?;
    Ok(flow(shop, pool, output))
}

/// Returns what the stage's key holds: the plugins that give to it, and all that a sampler sees.
fn depends(shop: &Workshop<'_>, pool: &Pool) -> serde_json::Value {
    let candidates: Vec<_> = pool
        .iter()
        .map(|prompt| (&prompt.id, pool.difficulty(&prompt.id), pool.selected(&prompt.id)))
        .collect();
    json!([shop.plugins.sampler_key(shop.set), shop.plugins.principle_key(shop.set), candidates])
}

fn candidate(pool: &Pool, prompt: &Prompt) -> Candidate {
    Candidate {
        id: prompt.id.clone(),
        tags: prompt.tags.clone(),
        difficulty: pool.difficulty(&prompt.id),
        selected: pool.selected(&prompt.id),
    }
}

/// Draws exemplars and decoding for each prompt. The draw depends on the prompt's id and not on the
/// others, so the pool and round 1 draw the same.
fn equip(
    shop: &Workshop<'_>,
    place: Place<'_>,
    prompts: &[&Prompt],
) -> Result<Made<Sampled>, RunError> {
    let bare = |prompt: &&Prompt| Sampled {
        id: prompt.id.clone(),
        exemplars: Vec::new(),
        decoding: Decoding::default(),
        dropped: None,
    };
    let rows: Vec<Sampled> = match &shop.plugins.sampler {
        None => prompts.iter().map(bare).collect(),
        Some(sampler) => {
            let at = shop.plugin_place(place, 0);
            let owned: Vec<Prompt> = prompts.iter().map(|&prompt| prompt.clone()).collect();
            let outcomes = sampler.equip(&at, &owned, shop.catalogue)?.outcomes;
            let mut rows = Vec::with_capacity(outcomes.len());
            for (prompt, outcome) in prompts.iter().zip(outcomes) {
                match outcome {
                    Outcome::Done(equipment) => {
                        let ids = equipment.exemplars.iter().map(|&i| shop.catalogue[i].id.clone());
                        rows.push(Sampled {
                            id: prompt.id.clone(),
                            exemplars: ids.collect(),
                            decoding: equipment.decoding,
                            dropped: None,
                        });
                    }
                    Outcome::Failed(why) => {
                        tracing::warn!(record = prompt.id, "{why}");
                        rows.push(Sampled { dropped: Some(PLUGIN_ERROR.into()), ..bare(prompt) });
                    }
                }
            }
            rows
        }
    };
    let count = rows.len() as u64;
    Ok(Made::rows(rows).count("selected", count))
}

/// Puts the records together from the pool, the catalogue and the stage's rows.
fn flow(shop: &Workshop<'_>, pool: &Pool, output: Output<Sampled>) -> Flow {
    let catalogue: HashMap<&str, &Exemplar> =
        shop.catalogue.iter().map(|exemplar| (exemplar.id.as_str(), exemplar)).collect();
    let mut flow = Flow {
        records: Vec::with_capacity(output.rows.len()),
        drops: BTreeMap::new(),
        decoding: BTreeMap::new(),
        digest: output.digest,
    };
    for row in output.rows {
        if let Some(reason) = &row.dropped {
            flow.note_drop(reason);
            continue;
        }
        let Some(mut record) = pool.record(&row.id) else { continue };
        let exemplars = row.exemplars.iter().filter_map(|id| catalogue.get(id.as_str()));
        record.exemplars = exemplars.map(|&exemplar| exemplar.clone()).collect();
        flow.decoding.insert(row.id, row.decoding);
        flow.records.push(record);
    }
    flow
}
