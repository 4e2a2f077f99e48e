//! Keeps a record where every reward and measurement named is beyond its bound, as I-SHEEP keeps
//! what scores over 8 for both its criteria (Liang et al., 2024,
//! <https://arxiv.org/abs/2408.08072>). For `after = "judge"`.
//!
//! ```toml
//! [filter.config]
//! rewards = { quality = 8, following = 8 }                   # over 8: 9 or 10
//! measurements = { "perplexity(plain)" = { under = 50 } }    # and under 50
//! ```
//!
//! The host makes a measurement where a plugin of the set declares that it needs it. This one learns
//! the names from its configuration, too late to declare them, so another plugin must.

use std::collections::BTreeMap;

use aligner_sdk::{Ask, Context, Error, Filter, Plugin, Record, Verdict, export_filter};
use serde::Deserialize;

/// What stands under `config` of the filter; it is the whole plugin.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threshold {
    /// For each reward's name what it must be over, for every completion that has it.
    rewards: BTreeMap<String, f64>,
    /// For each measurement's name where it must lie.
    measurements: BTreeMap<String, Range>,
}

/// Where a number must lie; the bounds themselves are outside.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Range {
    /// Reason `below-threshold` for what is not.
    over: Option<f64>,
    /// Reason `above-threshold` for what is not.
    under: Option<f64>,
}

impl Plugin for Threshold {
    type Config = Threshold;
    const NAME: &'static str = "threshold";
    const SUMMARY: &'static str =
        "Drops records whose rewards or measurements are not beyond their bounds.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"rewards": {"type": "object", "additionalProperties": {"type": "number"}, "default": {}},
"measurements": {"type": "object", "default": {}, "additionalProperties": {"type": "object", "additionalProperties": false, "minProperties": 1, "properties": {
"over": {"type": "number"}, "under": {"type": "number"}}}}}}"#;

    fn new(config: Threshold) -> Result<Self, Error> {
        if config.rewards.is_empty() && config.measurements.is_empty() {
            return Err(Error::Config(
                "it names no bound, for example `rewards = { quality = 8 }`".into(),
            ));
        }
        for (name, range) in &config.measurements {
            if range.over.is_none() && range.under.is_none() {
                return Err(Error::Config(format!(
                    "`measurements` has `{name}` without `over` and `under`"
                )));
            }
        }
        Ok(config)
    }
}

impl Filter for Threshold {
    fn filter(&self, _: &Context, record: &Record, _: &mut Ask) -> Result<Verdict, Error> {
        let mut reason = None;
        for (name, &over) in &self.rewards {
            let mut values = record.rewards.iter().filter(|it| it.name == *name).peekable();
            if values.peek().is_none() {
                let there = record.rewards.iter().map(|it| &it.name);
                let way =
                    "a reward comes from the judge, so it is there at `after = \"judge\"` alone";
                return Err(missing("reward", name, there, way));
            }
            let range = Range { over: Some(over), under: None };
            let broken = values.find_map(|reward| range.broken_by(reward.value));
            reason = reason.or(broken);
        }
        for (name, range) in &self.measurements {
            let value = record.measurement(name).ok_or_else(|| {
                let there = record.measurements.iter().map(|it| &it.name);
                let way = "a measurement is made where another plugin, there or before, declares that \
                           it needs it";
                missing("measurement", name, there, way)
            })?;
            reason = reason.or(range.broken_by(value));
        }
        Ok(reason.map_or(Verdict::Keep, |reason| Verdict::Drop(reason.into())))
    }
}

export_filter!(Threshold);

impl Range {
    /// Returns why a record is dropped whose number is `value`.
    fn broken_by(self, value: f64) -> Option<&'static str> {
        if self.over.is_some_and(|over| value <= over) {
            return Some("below-threshold");
        }
        self.under.is_some_and(|under| value >= under).then_some("above-threshold")
    }
}

/// Names what a record lacks, what it has, and where such a thing comes from.
fn missing<'a>(
    what: &str,
    name: &str,
    there: impl Iterator<Item = &'a String>,
    way: &str,
) -> Error {
    let mut there: Vec<&str> = there.map(String::as_str).collect();
    there.sort_unstable();
    there.dedup();
    let there = if there.is_empty() { "none".into() } else { there.join(", ") };
    Error::Input(format!("it has no {what} `{name}`; it has: {there} ({way})"))
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Measurement, Reward, testing};

    use super::*;

    /// Returns a record with rewards and with measurements.
    fn record(rewards: &[(&str, f64)], measurements: &[(&str, f64)]) -> Record {
        let mut record = testing::answered("p-1", "Why?", "Because.");
        record.rewards = rewards
            .iter()
            .map(|&(name, value)| Reward { variant: "plain".into(), name: name.into(), value })
            .collect();
        record.measurements = measurements
            .iter()
            .map(|&(name, value)| Measurement { name: name.into(), value })
            .collect();
        record
    }

    fn filter(config: &str, record: &Record) -> Result<Verdict, Error> {
        testing::filter(&testing::plugin::<Threshold>(config)?, record, testing::no_model)
    }

    fn check(config: &str, record: &Record, expected: Option<&str>) {
        let expected = expected.map_or(Verdict::Keep, |reason| Verdict::Drop(reason.into()));
        assert_eq!(filter(config, record), Ok(expected), "{config}");
    }

    #[test]
    fn every_reward_is_strictly_over_its_bound() {
        let both = r#"{"rewards": {"quality": 8, "following": 8}}"#;
        check(both, &record(&[("quality", 9.0), ("following", 9.0)], &[]), None);
        let below = Some("below-threshold");
        check(both, &record(&[("quality", 8.0), ("following", 10.0)], &[]), below);
        check(both, &record(&[("quality", 10.0), ("following", 8.0)], &[]), below);
        check(both, &record(&[("quality", 9.0), ("following", 9.0), ("quality", 1.0)], &[]), below);
        check(r#"{"rewards": {"margin": -1.5}}"#, &record(&[("margin", -1.0)], &[]), None);
    }

    #[test]
    fn measurements_lie_strictly_within_their_bounds() {
        let check = |bounds: &str, value: f64, expected| {
            let config = format!(r#"{{"measurements": {{"perplexity(plain)": {bounds}}}}}"#);
            check(&config, &record(&[], &[("perplexity(plain)", value)]), expected);
        };
        check(r#"{"under": 50}"#, 49.9, None);
        check(r#"{"under": 50}"#, 50.0, Some("above-threshold"));
        check(r#"{"over": 2}"#, 2.0, Some("below-threshold"));
        check(r#"{"over": 2, "under": 50}"#, 2.5, None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let record = record(&[("quality", 1.0), ("quality", 9.0)], &[]);
        let check = |config: &str, expected: &str| {
            assert_eq!(filter(config, &record), Err(Error::Input(expected.into())));
        };
        check(
            r#"{"rewards": {"quality": 8, "truth": 8}}"#,
            "it has no reward `truth`; it has: quality (a reward comes from the judge, so it is there at \
             `after = \"judge\"` alone)",
        );
        check(
            r#"{"measurements": {"cluster(plain)": {"over": 1}}}"#,
            "it has no measurement `cluster(plain)`; it has: none (a measurement is made where another plugin, \
             there or before, declares that it needs it)",
        );
    }

    #[test]
    fn bounds_that_say_nothing_are_refused() {
        let check = |config: &str, expected: &str| match filter(config, &record(&[], &[])) {
            Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("{config}: {other:?}"),
        };
        check("{}", "names no bound");
        check(r#"{"measurements": {"a": {}}}"#, "`a` without `over` and `under`");
        check(r#"{"measurements": {"a": {"ovr": 1}}}"#, "ovr");
        check(r#"{"rewards": {"quality": "8"}}"#, "key `rewards`");
        check(r#"{"quality": 8}"#, "unknown key `quality`, expected one of `rewards`");
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let plugin: Threshold = testing::plugin(r#"{"rewards": {"quality": 8}}"#).unwrap();
        for mut record in testing::awkward() {
            record.rewards.push(Reward { variant: "a".into(), name: "quality".into(), value: 9.0 });
            let verdict = testing::filter(&plugin, &record, testing::no_model);
            assert_eq!(verdict, Ok(Verdict::Keep));
        }
    }
}
