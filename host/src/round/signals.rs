//! What of a round is watched: numbers that tell of a collapse.

use std::collections::BTreeMap;

use super::Workshop;
use super::diversity::{distinct_2, mean};
use crate::plugin_set::Signal;
use crate::record::Completion;
use crate::report::Measured;

/// Returns what is watched of what a round generates and judges, by the signals' names. What another model than the
/// policy has written tells nothing of the policy.
///
/// - `judged`: how many opinions of the judge could not be read, and of how many records.
pub fn during(
    shop: &Workshop<'_>,
    round: u32,
    completions: &[Completion],
    judged: (u64, usize),
) -> BTreeMap<String, f64> {
    let Some(watch) = &shop.set.watch else { return BTreeMap::new() };
    let writes = shop.given.is_empty() && shop.set.generate(round).model == "policy";
    let own = if writes { completions } else { &[] };
    let value = |signal: Signal| match signal {
        Signal::GeneratedDistinct2 if own.is_empty() => None,
        Signal::GeneratedDistinct2 => Some(distinct_2(own.iter().map(|it| it.text.as_str()))),
        Signal::GeneratedLength => mean(own.iter().map(|it| f64::from(it.tokens))),
        Signal::GeneratedEntropy => mean(own.iter().filter_map(|it| it.entropy)),
        Signal::Unparsable if judged.1 == 0 || shop.set.judge(round).is_none() => None,
        Signal::Unparsable => Some(judged.0 as f64 / judged.1 as f64),
        Signal::Measured(_) => None,
    };
    let signals = watch.limits.keys();
    signals.filter_map(|&signal| Some((signal.as_str().to_owned(), value(signal)?))).collect()
}

/// Returns what is watched of what a round measures once it is done.
pub fn after(shop: &Workshop<'_>, measured: &[Measured]) -> BTreeMap<String, f64> {
    let Some(watch) = &shop.set.watch else { return BTreeMap::new() };
    let watched = watch.limits.keys().map(|signal| signal.as_str());
    let row = |name| measured.iter().find(|row| row.measure == name);
    watched.filter_map(row).map(|row| (row.measure.clone(), row.value)).collect()
}
