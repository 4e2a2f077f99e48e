//! The sample stage: which prompts, with which exemplars and decoding.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::rows::Sampled;
use super::stage::{Made, Output, Place};
use super::{Flow, Pool, RunError, Workshop};
use crate::plugin::{Candidate, Card, Slot};
use crate::record::{Decoding, Exemplar, Prompt};
use crate::run::seed;

/// The records of a round with what the sampler gave them.
pub struct Selection {
    /// The records, exemplars drawn.
    pub flow: Flow,
    /// What each prompt's decoding changes of `[generate]`, by id.
    pub decoding: BTreeMap<String, Decoding>,
}

/// Selects and equips the prompts of a round.
pub fn select(
    shop: &mut Workshop<'_>,
    round: u32,
    pool: &mut Pool,
) -> Result<Flow, RunError> {
    shop.check_cancel()?;
    let place = Place { round, stage: "sample" };
    let order: Vec<&str> = pool.iter().map(|prompt| prompt.id.as_str()).collect();
    let depends = json!([shop.plugins.sampler_key(), shop.plugins.principle_key(), order]);
    let (set, plugins, catalogue) = (shop.set, shop.plugins, shop.catalogue);
    let round_seed = shop.seed(place);
    let output = shop.notebook.stage(place, depends, |_| {
        let candidates: Vec<Candidate> = pool
            .iter()
            .map(|prompt| Candidate {
                id: prompt.id.clone(),
                tags: prompt.tags.clone(),
                difficulty: pool.difficulty(&prompt.id),
                selected: pool.selected(&prompt.id),
            })
            .collect();
        let ids = plugins.select(round, &candidates, round_seed)?;
        let prompts: Vec<&Prompt> =
            ids.iter().filter_map(|id| pool.iter().find(|prompt| prompt.id == *id)).collect();
        let rows = equip(set.run.seed, plugins, catalogue, place, &prompts)?;
        let count = rows.len() as u64;
        Ok::<_, RunError>(Made::rows(rows).count("selected", count))
    })?;
    pool.note_selected(output.rows.iter().map(|row| row.id.as_str()));
    flow(shop, pool, output)
}

/// Equips every prompt of the pool, as round 1 would.
pub fn everything(shop: &mut Workshop<'_>, pool: &Pool) -> Result<Flow, RunError> {
    shop.check_cancel()?;
    let place = Place { round: 0, stage: "sample" };
    let ids: Vec<&str> = pool.iter().map(|prompt| prompt.id.as_str()).collect();
    let depends = json!([shop.plugins.sampler_key(), shop.plugins.principle_key(), ids]);
    let (set, plugins, catalogue) = (shop.set, shop.plugins, shop.catalogue);
    let output = shop.notebook.stage(place, depends, |_| {
        let prompts: Vec<&Prompt> = pool.iter().collect();
        let rows = equip(set.run.seed, plugins, catalogue, place, &prompts)?;
        Ok::<_, RunError>(Made::rows(rows))
    })?;
    flow(shop, pool, output)
}
