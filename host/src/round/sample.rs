//! The sample stage: which prompts, with which exemplars and decoding.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::rows::Sampled;
use super::stage::{Made, Notebook, Output, Place};
use super::{Flow, Pool, RunError, Workshop};
use crate::plugin::{Candidate, Card, Slot};
use crate::record::{Decoding, Exemplar, Prompt};
use crate::run::seed;

/// Selects and equips the prompts of a round.
pub fn select(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    pool: &mut Pool,
) -> Result<Flow, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round, stage: "sample" };
    let ids: Vec<&str> = pool.iter().map(|prompt| prompt.id.as_str()).collect();
    let depends = json!([shop.plugins.sampler_key(), shop.plugins.principle_key(), ids]);
    let output = book.stage(place, depends, |_| {
        let prompts = match &shop.plugins.sampler {
            None => pool.iter().collect(),
            Some(sampler) => {
                let candidates: Vec<Candidate> = pool.iter().map(|prompt| candidate(pool, prompt)).collect();
                let ids = shop.plugins.runtime.select(
                    sampler,
                    &shop.plugin_place(place),
                    &candidates,
                    shop.seed(place),
                )?;
                let by_id: HashMap<&str, &Prompt> =
                    pool.iter().map(|prompt| (prompt.id.as_str(), prompt)).collect();
                ids.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect()
            }
        };
        equip(shop, place, &prompts)
    })?;
    pool.note_selected(output.rows.iter().map(|row| row.id.as_str()));
    Ok(flow(shop, pool, output))
}

/// Equips every prompt of the pool, as round 1 would.
pub fn everything(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    pool: &Pool,
) -> Result<Flow, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round: 0, stage: "sample" };
    let ids: Vec<&str> = pool.iter().map(|prompt| prompt.id.as_str()).collect();
    let depends = json!([shop.plugins.sampler_key(), shop.plugins.principle_key(), ids]);
    let output =
        book.stage(place, depends, |_| equip(shop, place, &pool.iter().collect::<Vec<_>>()))?;
    Ok(flow(shop, pool, output))
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
    };
    let rows: Vec<Sampled> = match &shop.plugins.sampler {
        None => prompts.iter().map(bare).collect(),
        Some(sampler) => {
            let slots: Vec<Slot> = prompts
                .iter()
                .map(|prompt| Slot {
                    id: prompt.id.clone(),
                    tags: prompt.tags.clone(),
                    seed: seed::of([shop.seed(place).into(), prompt.id.as_str().into()]),
                })
                .collect();
            let card = |exemplar: &Exemplar| Card {
                id: exemplar.id.clone(),
                tags: exemplar.tags.clone(),
            };
            let cards: Vec<Card> = shop.catalogue.iter().map(card).collect();
            let place = shop.plugin_place(place);
            let equipment = shop.plugins.runtime.equip(sampler, &place, &slots, &cards)?;
            slots
                .into_iter()
                .zip(equipment)
                .map(|(slot, equipment)| Sampled {
                    id: slot.id,
                    exemplars: equipment.exemplars,
                    decoding: equipment.decoding,
                })
                .collect()
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
        let Some(mut record) = pool.record(&row.id) else { continue };
        let exemplars = row.exemplars.iter().filter_map(|id| catalogue.get(id.as_str()));
        record.exemplars = exemplars.map(|&exemplar| exemplar.clone()).collect();
        flow.decoding.insert(row.id, row.decoding);
        flow.records.push(record);
    }
    flow
}
