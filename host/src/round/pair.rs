//! The pair stage: which of a record's completions is chosen, and which is rejected.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::rows::Paired;
use super::stage::{Made, Notebook, Place};
use super::{Flow, RunError, Workshop};
use crate::plugin_set::{PairBy, Pairing};
use crate::record::{Pair, Record, Variant, VariantRole};

/// Pairs the completions of each record, where the round's objective compares some. A record without
/// two that differ is dropped.
pub fn pair(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    mut flow: Flow,
) -> Result<Flow, RunError> {
    let preference = shop.set.train(round).and_then(|train| train.preference());
    let pairing = shop.set.pairing(round);
    let (Some(preference), Some(pairing)) = (preference, &pairing) else { return Ok(flow) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "pair" };
    let by_role = preference.tells_by_role();
    check_reward(&flow.records, pairing)?;
    let output = book.stage(place, json!([flow.digest, pairing, by_role]), |_| {
        let rows: Vec<Paired> =
            flow.records.iter().map(|record| paired(record, pairing, by_role)).collect();
        let pairs = rows.iter().filter(|row| row.pair.is_some()).count() as u64;
        let identical = rows.iter().filter(|row| row.dropped.as_deref() == Some(IDENTICAL)).count();
        let made = Made::rows(rows).count("pairs", pairs);
        Ok::<_, RunError>(made.count(IDENTICAL, identical as u64))
    })?;
    flow.digest = output.digest;
    for (mut record, row) in std::mem::take(&mut flow.records).into_iter().zip(output.rows) {
        record.pair = row.pair;
        match row.dropped {
            Some(reason) => flow.note_drop(&reason),
            None => flow.records.push(record),
        }
    }
    Ok(flow)
}

/// Fails where `[pair] reward` is a name that the judge gives to no reward.
pub fn check_reward(records: &[Record], pairing: &Pairing) -> Result<(), RunError> {
    let Some(reward) = &pairing.reward else { return Ok(()) };
    let rewards = records.iter().flat_map(|record| &record.rewards);
    let names: BTreeSet<&str> = rewards.map(|given| given.name.as_str()).collect();
    if names.is_empty() || names.contains(reward.as_str()) {
        return Ok(());
    }
    let names = names.into_iter().collect::<Vec<_>>().join("`, `");
    Err(RunError::Settings {
        what: format!(
            "`reward` of `[pair]` is `{reward}`, and the rewards that the judge gives are `{names}`"
        ),
        hint: "name one of these, or leave `pair.reward` out: then all are added up".into(),
    })
}

/// Why a record is dropped of which completions are compared that are the same.
pub const IDENTICAL: &str = "identical";
/// Why a record is dropped that has nothing to compare.
pub const NO_PAIR: &str = "no-pair";
/// Why a record is dropped of which no completion is better.
pub const TIE: &str = "tie";

/// Returns which completions of a record are compared, or why none are.
pub fn pair_of(record: &Record, pairing: &Pairing, by_role: bool) -> Result<Pair, &'static str> {
    let pair = match pairing.by {
        PairBy::Role => of_roles(record),
        PairBy::Judge => of_judge(record, pairing.reward.as_deref()),
    }?;
    match differ(record, &pair, by_role) {
        true => Ok(pair),
        false => Err(IDENTICAL),
    }
}

fn paired(record: &Record, pairing: &Pairing, by_role: bool) -> Paired {
    let id = record.id().to_owned();
    match pair_of(record, pairing, by_role) {
        Ok(pair) => Paired { id, pair: Some(pair), dropped: None },
        Err(reason) => Paired { id, pair: None, dropped: Some(reason.to_owned()) },
    }
}

/// Returns the first variant of a role that has a completion.
pub fn of_role(record: &Record, role: VariantRole) -> Option<&Variant> {
    record.variants.iter().find(|variant| variant.role == role && variant.completion.is_some())
}

fn of_roles(record: &Record) -> Result<Pair, &'static str> {
    let name = |role| of_role(record, role).map(|variant| variant.name.clone()).ok_or(NO_PAIR);
    Ok(Pair { chosen: name(VariantRole::Good)?, rejected: name(VariantRole::Bad)? })
}

/// Returns what the judge prefers; of rewards, the first of the greatest and the first of the least
/// sum.
fn of_judge(record: &Record, reward: Option<&str>) -> Result<Pair, &'static str> {
    if let (Some(pair), None) = (&record.pair, reward) {
        return Ok(pair.clone());
    }
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for given in record.rewards.iter().filter(|given| reward.is_none_or(|name| name == given.name))
    {
        *sums.entry(&given.variant).or_default() += given.value;
    }
    let rewarded: Vec<(&str, f64)> = record
        .variants
        .iter()
        .filter_map(|variant| Some((variant.name.as_str(), *sums.get(variant.name.as_str())?)))
        .collect();
    let [first, .., _] = rewarded[..] else {
        return Err(if record.rewards.is_empty() { TIE } else { NO_PAIR });
    };
    let (mut best, mut worst) = (first, first);
    for &one in &rewarded {
        best = if one.1 > best.1 { one } else { best };
        worst = if one.1 < worst.1 { one } else { worst };
    }
    match best.1 > worst.1 {
        true => Ok(Pair { chosen: best.0.to_owned(), rejected: worst.0.to_owned() }),
        false => Err(TIE),
    }
}

/// Returns whether completions that are compared differ. Under bad principles the completion of the
/// prompt as it is stands against the chosen one.
fn differ(record: &Record, pair: &Pair, by_role: bool) -> bool {
    let text = |name: &str| {
        let variant = record.variants.iter().find(|variant| variant.name == name)?;
        Some(variant.completion.as_ref()?.text.as_str())
    };
    let plain = || of_role(record, VariantRole::Plain).map(|variant| variant.name.as_str());
    let (chosen, rejected) = (text(&pair.chosen), text(&pair.rejected));
    chosen != rejected && !(by_role && plain().is_some_and(|plain| text(plain) == chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Completion, Finish, Prompt, Repro, Reward, Text};

    fn variant(name: &str, role: VariantRole, text: &str) -> Variant {
        let completion = Completion {
            text: text.into(),
            tokens: 1,
            logprob: -1.0,
            entropy: Some(0.0),
            finish: Finish::Stop,
            repro: Repro::Exact,
        };
        let completion = (!text.is_empty()).then_some(completion);
        Variant { name: name.into(), role, prompt: Text::user("?"), completion }
    }

    fn record(texts: [&str; 3]) -> Record {
        let prompt = Prompt { id: "p".into(), text: Text::user("?"), tags: vec![] };
        let [plain, good, bad] = texts;
        let variants = vec![
            variant("plain", VariantRole::Plain, plain),
            variant("good", VariantRole::Good, good),
            variant("bad", VariantRole::Bad, bad),
        ];
        Record { variants, ..Record::new(prompt) }
    }

    fn shown(row: Paired) -> String {
        match (row.pair, row.dropped) {
            (Some(Pair { chosen, rejected }), None) => format!("{chosen} over {rejected}"),
            (None, Some(reason)) => reason,
            both => panic!("{both:?}"),
        }
    }

    #[test]
    fn roles_decide() {
        let check = |texts: [&str; 3], by_role: bool, expected: &str| {
            let pairing = Pairing { by: PairBy::Role, reward: None };
            assert_eq!(shown(paired(&record(texts), &pairing, by_role)), expected, "{texts:?}");
        };
        check(["x", "y", "z"], false, "good over bad");
        check(["y", "y", "z"], false, "good over bad");
        check(["y", "y", "z"], true, "identical");
        check(["z", "y", "z"], true, "good over bad");
        check(["x", "y", "y"], false, "identical");
        check(["x", "", "y"], false, "no-pair");
        check(["x", "y", ""], false, "no-pair");
    }

    #[test]
    fn a_judge_decides() {
        let check = |rewards: &[(&str, &str, f64)], reward: Option<&str>, expected: &str| {
            let mut record = record(["x", "y", "z"]);
            let given = rewards.iter().map(|&(variant, name, value)| Reward {
                variant: variant.into(),
                name: name.into(),
                value,
            });
            record.rewards = given.collect();
            let pairing = Pairing { by: PairBy::Judge, reward: reward.map(str::to_owned) };
            assert_eq!(shown(paired(&record, &pairing, false)), expected, "{rewards:?}");
        };
        check(&[("good", "q", 1.0), ("bad", "q", 3.0)], None, "bad over good");
        check(&[("plain", "q", 2.0), ("good", "q", 1.0), ("bad", "q", 3.0)], None, "bad over good");
        check(&[("bad", "q", 1.0), ("bad", "r", 5.0), ("good", "q", 2.0)], None, "bad over good");
        check(
            &[("bad", "q", 1.0), ("bad", "r", 5.0), ("good", "q", 2.0)],
            Some("q"),
            "good over bad",
        );
        check(&[("good", "q", 2.0), ("bad", "q", 2.0)], None, "tie");
        check(&[], None, "tie");
        check(&[("good", "q", 2.0)], None, "no-pair");
        check(&[("good", "q", 2.0), ("bad", "r", 1.0)], Some("q"), "no-pair");

        let mut record = record(["x", "y", "z"]);
        record.pair = Some(Pair { chosen: "plain".into(), rejected: "good".into() });
        let pairing = Pairing { by: PairBy::Judge, reward: None };
        assert_eq!(shown(paired(&record, &pairing, false)), "plain over good");
    }
}
