//! The write stage: the sampler plugin lets the model write new prompts, which join the pool.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::ask::Asker;
use super::assess::{Sifted, filter_keys, filter_stage};
use super::rows::{Filtered, Written};
use super::stage::{Made, Notebook, Place};
use super::{Policy, Pool, RunError, Workshop};
use crate::plugin::{Outcome, Plugin, Spent};
use crate::plugin_set::{After, Write};
use crate::progress::counted;
use crate::record::{Prompt, Record, Verdict};
use crate::report::NothingKept;

/// Why a prompt that passed the filters is left out: the round had enough before it.
pub const SURPLUS: &str = "surplus";

/// Slots that are called at once, at most: the pool is copied for each call, and models answer many
/// requests in little more time than one, but what is found is only seen by the slots after it.
const MOST_AT_ONCE: u32 = 64;
/// And at least, so that the last few prompts are not written one by one.
const LEAST_AT_ONCE: u32 = 4;

/// What the stage did.
pub struct WrittenPrompts {
    /// Prompts that were found.
    pub found: u64,
    /// How many of them did not come into the pool, for which reason.
    pub drops: BTreeMap<String, u64>,
    /// Stands for what came into it, in the keys of later stages.
    pub digest: String,
}

/// Lets the sampler plugin write prompts until enough of them have passed the filters at
/// `after = "sample"`, and adds these to the pool. Does nothing where the plugin set has no `write`.
///
/// Fails with [`RunError::NothingKept`] where none passed.
pub fn write(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    pool: &mut Pool,
    policy: &Policy,
) -> Result<Option<WrittenPrompts>, RunError> {
    let (Some(wanted), Some(plugin)) = (shop.set.write(), &shop.plugins.sampler) else {
        return Ok(None);
    };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "write" };
    let depends = json!([
        shop.plugins.sampler_key(shop.set),
        wanted,
        filter_keys(shop, After::Sample),
        pool.iter().collect::<Vec<_>>(),
        policy.digest,
        shop.asking_key(place)
    ]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let made = collect(shop, book, place, (plugin, wanted), pool, &mut asker)?;
        asker.close(book, made)
    })?;

    let mut drops: BTreeMap<String, u64> = BTreeMap::new();
    for reason in output.rows.iter().filter_map(|row| row.dropped.as_ref()) {
        *drops.entry(reason.clone()).or_default() += 1;
    }
    let found = output.rows.len() as u64;
    let accepted = found - drops.values().sum::<u64>();
    if accepted == 0 {
        let signals = BTreeMap::new();
        let nothing = NothingKept { round, records: found, dropped: drops, signals };
        return Err(RunError::NothingKept { path: book.directory.path().to_owned(), nothing });
    }
    if accepted < u64::from(wanted.prompts) {
        tracing::warn!(
            "round {round} goes on with {}, of {} that `[sampler] write` wants: its {} are used up",
            counted(accepted, "written prompts"),
            wanted.prompts,
            counted(wanted.slots.into(), "slots")
        );
    }
    pool.join(output.rows.into_iter().filter(|row| row.dropped.is_none()).map(prompt));
    Ok(Some(WrittenPrompts { found, drops, digest: output.digest }))
}

/// Calls slot after slot and filters what comes of it.
fn collect(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    (plugin, wanted): (&Plugin, Write),
    pool: &Pool,
    asker: &mut Asker<'_>,
) -> Result<Made<Written>, RunError> {
    let round = place.round;
    let at = shop.plugin_place(place, 0);
    let mut standing: Vec<Record> = pool.iter().cloned().map(Record::new).collect();
    let (mut rows, mut verdicts): (Vec<Written>, Vec<Filtered>) = (Vec::new(), Vec::new());
    let (mut used, mut accepted, mut failed) = (0, 0, 0);
    let (mut spent, mut fuel) = (Spent::default(), 0);
    while accepted < wanted.prompts && used < wanted.slots {
        shop.check_cancel(book)?;
        let slots = used..used + at_once(wanted, accepted, used);
        used = slots.end;
        let prompts: Vec<Prompt> = standing.iter().map(|record| record.prompt.clone()).collect();
        let stage = plugin.write(&at, &prompts, slots.clone(), spent, asker)?;
        spent = stage.spent;

        let first = rows.len();
        for (slot, outcome) in slots.zip(stage.outcomes) {
            let prompts = match outcome {
                Outcome::Done(prompts) => prompts,
                Outcome::Failed(why) => {
                    tracing::warn!(slot, "{why}");
                    failed += 1;
                    continue;
                }
            };
            for Prompt { text, tags, .. } in prompts {
                let id = format!("w{round:02}-{:04}", rows.len() + 1);
                rows.push(Written { id, slot, prompt: text, tags, dropped: None });
            }
        }

        let new = rows[first..].iter().cloned().map(prompt).map(Record::new).collect();
        let sifted = shop.assessors(round).sift(After::Sample, &standing, new, asker)?;
        let Sifted { kept, rows: said, fuel: burnt } = sifted;
        fuel += burnt;
        let mut reasons: HashMap<&str, &str> = HashMap::new();
        for row in &said {
            if let Verdict::Drop(reason) = &row.verdict {
                reasons.insert(&row.id, reason);
            }
        }
        for row in &mut rows[first..] {
            match reasons.get(row.id.as_str()) {
                Some(&reason) => row.dropped = Some(reason.to_owned()),
                None if accepted == wanted.prompts => row.dropped = Some(SURPLUS.to_owned()),
                None => accepted += 1,
            }
        }
        verdicts.extend(said);
        standing.extend(kept);
    }
    let mut made = Made::rows(rows)
        .count("slots", used.into())
        .count("accepted", accepted.into())
        .count("failed", failed)
        .count("fuel", spent.fuel + fuel);
    if !filter_keys(shop, After::Sample).is_empty() {
        let file = Place { stage: filter_stage(After::Sample), ..place }.file();
        let digest = book.directory.write_lines(&file, &verdicts)?;
        made.files.insert(file, digest);
    }
    Ok(made)
}

fn prompt(row: Written) -> Prompt {
    Prompt { id: row.id, text: row.prompt, tags: row.tags }
}

/// Returns how many slots to call next: as many as should be enough, judged by those before. Of the
/// first ones four prompts each are hoped for.
fn at_once(wanted: Write, accepted: u32, used: u32) -> u32 {
    let missing = u64::from(wanted.prompts - accepted);
    let enough = match (accepted, used) {
        (_, 0) => missing.div_ceil(4),
        (0, _) => MOST_AT_ONCE.into(),
        _ => (missing * u64::from(used)).div_ceil(accepted.into()),
    };
    let some = enough.clamp(LEAST_AT_ONCE.into(), MOST_AT_ONCE.into()) as u32;
    some.min(wanted.slots - used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_called_as_the_ones_before_gave() {
        let check = |accepted, used, expected| {
            let wanted = Write { prompts: 64, slots: 200 };
            assert_eq!(at_once(wanted, accepted, used), expected, "{accepted} of {used}");
        };
        check(0, 0, 16);
        // Four of each: what is missing, and a few at least.
        check(32, 8, 8);
        check(63, 16, 4);
        // One of four.
        check(4, 16, 64);
        check(0, 16, 64);
        // No more than there are.
        check(1, 190, 10);
        check(0, 199, 1);
    }
}
