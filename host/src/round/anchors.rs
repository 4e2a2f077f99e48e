//! The anchors stage: how often the judge prefers the completion that is known to be better.

use std::collections::BTreeMap;

use serde_json::json;

use super::RunError;
use super::ask::Asker;
use super::assess::done;
use super::diversity::mean;
use super::measure::{meet, of_plugin};
use super::needs::Need;
use super::rows::Judged;
use super::stage::{Made, Notebook, Place, label};
use super::{Policy, Workshop};
use crate::data::GivenPair;
use crate::record::{Completion, Finish, Opinion, Prompt, Record, Variant, VariantRole};
use crate::run::{plugins, seed};

/// The variants of an anchor. Neither their names nor their places say which is better.
const VARIANTS: [(&str, VariantRole); 2] = [("good", VariantRole::Good), ("bad", VariantRole::Bad)];

/// Returns the judge's agreement with the anchors, in [0, 1], where `policy` is the policy that it asks.
///
/// It sees each in both orders. One that gives rewards agrees where the better completion has more of them on the mean
/// over the orders that could be read (of the one that `[pair] reward` names, where it names one), and one that gives
/// preferences in each order by itself; what is undecided or cannot be read is a half, and where it failed it is 0.
pub fn agreement(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    policy: &Policy,
) -> Result<f64, RunError> {
    let Some(plugin) = &shop.plugins.judge else { return Ok(0.0) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "anchors" };
    let key = plugins::key(Some(plugin), shop.set.judge.as_ref());
    let asking = shop.asking_key(place);
    let depends = json!([policy.digest, shop.anchors_digest, key, shop.set.measure, asking]);
    let output = book.stage(place, depends, |book| {
        let mut asker = Asker::open(shop, book, place, policy)?;
        let mut records: Vec<Record> = shop.anchors.iter().flat_map(both_orders).collect();
        let needs: Vec<Need> = of_plugin(plugin).collect();
        meet(shop, place, &needs, &mut records, &mut asker)?;
        let stage = plugin.judge(&shop.plugin_place(place, 0), &records, &mut asker)?;
        let rows = records.iter().zip(stage.outcomes).map(|(record, outcome)| Judged {
            id: record.id().into(),
            opinion: done(record, outcome),
        });
        asker.close(book, Made::rows(rows.collect()).count("fuel", stage.spent.fuel))
    })?;
    let unread = |row: &&Judged| matches!(row.opinion, None | Some(Opinion::Unparsable(_)));
    let unread = output.rows.iter().filter(unread).count();
    if unread > 0 {
        let shown = output.rows.len();
        tracing::warn!("{}: of {shown} opinions {unread} could not be read", label(place));
    }
    let reward = shop.set.pair.as_ref().and_then(|pairing| pairing.reward.as_deref());
    let credits = output.rows.chunks(2).zip(shop.anchors);
    Ok(mean(credits.map(|(rows, anchor)| credit(rows, is_turned(anchor), reward))).unwrap_or(0.0))
}

/// Returns whether an anchor is shown with the better completion second at first: its place must not say which it is.
fn is_turned(anchor: &GivenPair) -> bool {
    seed::of(["anchor".into(), anchor.prompt.id.as_str().into()]) % 2 == 1
}

/// Returns an anchor in both orders.
fn both_orders(anchor: &GivenPair) -> [Record; 2] {
    let (chosen, rejected) = (&anchor.chosen, &anchor.rejected);
    let mut orders = [("1", [chosen, rejected]), ("2", [rejected, chosen])];
    if is_turned(anchor) {
        orders.iter_mut().for_each(|(_, texts)| texts.reverse());
    }
    orders.map(|(order, texts)| {
        let variants = VARIANTS.iter().zip(texts).map(|(&(name, role), text)| Variant {
            name: name.to_owned(),
            role,
            prompt: anchor.prompt.text.clone(),
            completion: Some(Completion::unmeasured(text, Finish::Stop)),
        });
        let variants = variants.collect();
        let id = format!("{}#{order}", anchor.prompt.id);
        Record { variants, ..Record::new(Prompt { id, ..anchor.prompt.clone() }) }
    })
}

/// Returns how far the opinions of an anchor in both orders agree with it: 1, 0, or what is between. Of rewards, those of
/// the name `reward` count where one is given.
///
/// - `turned`: see [`is_turned`].
fn credit(opinions: &[Judged], turned: bool, reward: Option<&str>) -> f64 {
    let [(first, _), (second, _)] = VARIANTS;
    // The better completion is the first variant of the one order, and the second of the other.
    let better = if turned { [second, first] } else { [first, second] };
    let mut rewards: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
    for (row, better) in opinions.iter().zip(better) {
        if let Some(Opinion::Rewards(given)) = &row.opinion {
            for given in given.iter().filter(|it| reward.is_none_or(|name| name == it.name)) {
                rewards.entry(given.variant == better).or_default().push(given.value);
            }
        }
    }
    let of = |better: bool| mean(rewards.get(&better).into_iter().flatten().copied());
    if let (Some(good), Some(bad)) = (of(true), of(false)) {
        return f64::from(u8::from(good > bad) + u8::from(good >= bad)) / 2.0;
    }
    let one = |(row, better): (&Judged, &str)| match &row.opinion {
        Some(Opinion::Preference(pair)) => f64::from(u8::from(pair.chosen == better)),
        Some(Opinion::Rewards(_) | Opinion::Tie | Opinion::Unparsable(_)) => 0.5,
        None => 0.0,
    };
    mean(opinions.iter().zip(better).map(one)).unwrap_or(0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Pair, Reward, Text};

    fn anchor(id: &str) -> GivenPair {
        let prompt = Prompt { id: id.into(), text: Text::user("?"), tags: vec![] };
        GivenPair { prompt, chosen: "yes".into(), rejected: "no".into(), steered: None }
    }

    #[test]
    fn each_anchor_is_shown_in_both_orders() {
        let straight =
            ["p", "q", "r", "s"].map(anchor).into_iter().find(|it| !is_turned(it)).unwrap();
        let turned =
            ["p", "q", "r", "s", "t", "u"].map(anchor).into_iter().find(is_turned).unwrap();
        let [front, back] = both_orders(&straight);
        let texts = |record: &Record| -> Vec<String> {
            let completions = record.variants.iter().filter_map(|it| it.completion.as_ref());
            completions.map(|completion| completion.text.clone()).collect()
        };
        assert_eq!(texts(&front), ["yes", "no"]);
        assert_eq!(texts(&back), ["no", "yes"]);
        assert!(front.id().ends_with("#1") && back.id().ends_with("#2"));
        let names =
            |record: &Record| record.variants.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&front), names(&back));
        // Others are shown the other way round first.
        let [front, back] = both_orders(&turned);
        assert_eq!(
            (texts(&front), texts(&back)),
            (vec!["no".into(), "yes".into()], vec!["yes".into(), "no".into()])
        );
    }

    #[test]
    fn credit_is_of_both_orders() {
        let check = |opinions: [Option<Opinion>; 2], expected: f64| {
            let said = format!("{opinions:?}");
            let rows = opinions.map(|opinion| Judged { id: "p".into(), opinion });
            assert_eq!(credit(&rows, false, None), expected, "{said}");
            assert_eq!(credit(&rows, false, Some("r")), expected, "{said}");
            let [front, back] = rows;
            assert_eq!(credit(&[back, front], true, None), expected, "{said}");
        };
        let rewards = |values: [(&str, f64); 2]| {
            let reward = |(variant, value): (&str, f64)| Reward {
                variant: variant.to_owned(),
                name: "r".to_owned(),
                value,
            };
            Some(Opinion::Rewards(values.into_iter().map(reward).collect()))
        };
        let one = |variant: &str, value: f64| {
            let reward = Reward { variant: variant.to_owned(), name: "r".to_owned(), value };
            Some(Opinion::Rewards(vec![reward]))
        };
        let prefers = |chosen: &str, rejected: &str| {
            let pair = Pair { chosen: chosen.to_owned(), rejected: rejected.to_owned() };
            Some(Opinion::Preference(pair))
        };
        let unread = || Some(Opinion::Unparsable("what?".into()));
        check(
            [rewards([("good", 2.0), ("bad", 1.0)]), rewards([("good", 1.0), ("bad", 2.0)])],
            1.0,
        );
        check(
            [rewards([("good", 1.0), ("bad", 2.0)]), rewards([("good", 2.0), ("bad", 1.0)])],
            0.0,
        );
        // What always likes the first one has no opinion.
        check(
            [rewards([("good", 2.0), ("bad", 1.0)]), rewards([("good", 2.0), ("bad", 1.0)])],
            0.5,
        );
        check([prefers("good", "bad"), prefers("good", "bad")], 0.5);
        check([prefers("good", "bad"), prefers("bad", "good")], 1.0);
        check([prefers("bad", "good"), Some(Opinion::Tie)], 0.25);
        // One that sees a completion by itself is asked about each.
        check([one("good", 3.0), one("good", 1.0)], 1.0);
        check([one("good", 1.0), one("good", 3.0)], 0.0);
        check([one("good", 1.0), one("good", 1.0)], 0.5);
        check([one("good", 1.0), unread()], 0.5);
        check([unread(), unread()], 0.5);
        check([None, None], 0.0);
    }
}
