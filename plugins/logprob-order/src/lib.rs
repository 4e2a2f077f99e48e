//! Self-steering optimisation's offline filter: keeps pairs whose completions are likelier under the
//! principles they were drawn from than under the others (`preference_filter.py` of the first version
//! of <https://arxiv.org/abs/2410.17131>).
//!
//! With `a` for a mean logprob in nats a token under the policy, `x`, `x⁺`, `x⁻` for the plain, the good
//! and the bad prompt and `y⁺`, `y⁻` for the good and the bad completion, a record stays where
//!
//! 1. `order`: `a(y⁺|x⁺) > a(y⁺|x) > a(y⁺|x⁻)` and `a(y⁻|x⁻) > a(y⁻|x) > a(y⁻|x⁺)`;
//! 2. `on_policy`: `a(y⁺|x)` and `a(y⁻|x)` are both at their means or over them;
//! 3. `contrast`: `a(y⁺|x⁺) - a(y⁺|x⁻)` and `a(y⁻|x⁻) - a(y⁻|x⁺)` are both over their means.
//!
//! Each mean is over what the stages before have left. So a record that is left alone passes the second
//! stage and never the third, as nothing is over its own mean. Where the authors' code speaks of
//! perplexity, it means these logprobs.

use std::collections::BTreeMap;

use aligner_sdk::{Context, Error, Plugin, Record, SetFilter, Verdict, export_set_filter};
use serde::Deserialize;

/// What stands under `config` of the filter: which stages there are.
#[derive(Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Stage 1. Reason `order`.
    order: bool,
    /// Stage 2. Reason `off-policy`.
    on_policy: bool,
    /// Stage 3. Reason `low-contrast`.
    contrast: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { order: true, on_policy: true, contrast: true }
    }
}

/// The plugin.
pub struct LogprobOrder {
    config: Config,
    /// What was observed, in order, until the first decision.
    observed: Vec<(String, Logprobs)>,
    /// Why a record is dropped. Only where all have been observed.
    dropped: Option<BTreeMap<String, &'static str>>,
}

/// Mean logprobs of one completion: under the principles it was drawn from, under none, under the
/// others.
#[derive(Clone, Copy)]
struct Under {
    own: f64,
    none: f64,
    other: f64,
}

/// Those of the good completion and of the bad one.
type Logprobs = [Under; 2];

impl Plugin for LogprobOrder {
    type Config = Config;
    const NAME: &'static str = "logprob-order";
    const SUMMARY: &'static str =
        "Keeps pairs whose completions are likelier under the principles they were drawn from.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"order": {"type": "boolean", "default": true},
"on_policy": {"type": "boolean", "default": true},
"contrast": {"type": "boolean", "default": true}}}"#;
    const NEEDS: &'static [&'static str] = &[
        "alogp(good | good)",
        "alogp(good | plain)",
        "alogp(good | bad)",
        "alogp(bad | bad)",
        "alogp(bad | plain)",
        "alogp(bad | good)",
    ];

    fn new(config: Config) -> Result<Self, Error> {
        Ok(LogprobOrder { config, observed: Vec::new(), dropped: None })
    }
}

impl SetFilter for LogprobOrder {
    fn observe(&mut self, _: &Context, record: &Record) -> Result<(), Error> {
        let measured = |name: &str| {
            record.measurement(name).ok_or_else(|| {
                Error::Input(format!(
                    "no measurement `{name}`; the principle plugin has to give a completed variant \
                     of each of the roles `plain`, `good` and `bad`"
                ))
            })
        };
        let mut values = [0.0; 6];
        for (value, name) in values.iter_mut().zip(Self::NEEDS) {
            *value = measured(name)?;
        }
        let [a, b, c, d, e, f] = values;
        let logprobs = [Under { own: a, none: b, other: c }, Under { own: d, none: e, other: f }];
        self.observed.push((record.prompt.id.clone(), logprobs));
        Ok(())
    }

    fn decide(&mut self, _: &Context, record: &Record) -> Result<Verdict, Error> {
        let dropped = self.dropped.get_or_insert_with(|| dropped(&self.observed, self.config));
        Ok(match dropped.get(&record.prompt.id) {
            Some(&reason) => Verdict::Drop(reason.into()),
            None => Verdict::Keep,
        })
    }
}

export_set_filter!(LogprobOrder);

/// Returns why records are dropped, by id.
fn dropped(observed: &[(String, Logprobs)], config: Config) -> BTreeMap<String, &'static str> {
    let mut left: Vec<_> = observed.iter().collect();
    let mut dropped = BTreeMap::new();
    let mut sift = |reason, keeps: &dyn Fn(&Logprobs) -> bool, left: &mut Vec<_>| {
        left.retain(|(id, logprobs): &&(String, Logprobs)| {
            let keep = keeps(logprobs);
            if !keep {
                dropped.insert(id.clone(), reason);
            }
            keep
        });
    };
    let means = |left: &[&(String, Logprobs)], of: fn(&Under) -> f64| {
        [0, 1].map(|side| mean(left.iter().map(|(_, logprobs)| of(&logprobs[side]))))
    };
    if config.order {
        let ordered = |it: &Under| it.own > it.none && it.none > it.other;
        sift("order", &|logprobs| logprobs.iter().all(ordered), &mut left);
    }
    if config.on_policy {
        let of = |it: &Under| it.none;
        let means = means(&left, of);
        let likely = |logprobs: &Logprobs| logprobs.iter().zip(means).all(|(it, m)| of(it) >= m);
        sift("off-policy", &likely, &mut left);
    }
    if config.contrast {
        let of = |it: &Under| it.own - it.other;
        let means = means(&left, of);
        let apart = |logprobs: &Logprobs| logprobs.iter().zip(means).all(|(it, m)| of(it) > m);
        sift("low-contrast", &apart, &mut left);
    }
    dropped
}

/// Returns the mean; that of equal numbers is exactly theirs. 0 where there are none.
fn mean(mut values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    match values.next() {
        Some(first) => first + values.map(|value| value - first).sum::<f64>() / count,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use aligner_sdk::{Measurement, testing};

    use super::*;

    /// Makes a record of the measurements, in the order of `NEEDS`.
    fn record(id: usize, values: [f64; 6]) -> Record {
        let mut record = testing::record(&format!("p-{id}"), "Why?");
        let named = LogprobOrder::NEEDS.iter().zip(values);
        record.measurements =
            named.map(|(&name, value)| Measurement { name: name.into(), value }).collect();
        record
    }

    /// Checks what becomes of records; "" is kept.
    fn check(config: &str, records: &[[f64; 6]], expected: &[&str]) {
        let mut plugin: LogprobOrder = testing::plugin(config).unwrap();
        let records: Vec<_> =
            records.iter().enumerate().map(|(i, &values)| record(i, values)).collect();
        let context = testing::context();
        for record in &records {
            plugin.observe(&context, record).unwrap();
        }
        let verdict = |record| match plugin.decide(&context, record).unwrap() {
            Verdict::Drop(reason) => reason,
            Verdict::Keep => String::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(records.iter().map(verdict).collect::<Vec<_>>(), expected, "{config}");
    }

    const ORDER: &str = r#"{"on_policy": false, "contrast": false}"#;
    const ON_POLICY: &str = r#"{"order": false, "contrast": false}"#;
    const CONTRAST: &str = r#"{"order": false, "on_policy": false}"#;

    #[test]
    fn completions_are_likelier_under_their_own_principles() {
        check(
            ORDER,
            &[
                [-1.0, -2.0, -3.0, -1.0, -2.0, -3.0],
                [-2.0, -1.0, -3.0, -1.0, -2.0, -3.0],
                [-1.0, -2.0, -3.0, -1.0, -3.0, -2.0],
                [-1.0, -1.0, -3.0, -1.0, -2.0, -3.0],
                [-1.0, -2.0, -2.0, -1.0, -2.0, -3.0],
            ],
            &["", "order", "order", "order", "order"],
        );
    }

    #[test]
    fn both_completions_are_likely_of_themselves() {
        let of = |good, bad| [0.0, good, 0.0, 0.0, bad, 0.0];
        // The means are -2 and -3.
        let records = [of(-2.0, -3.0), of(-1.0, -2.0), of(-3.0, -2.0), of(-2.0, -5.0)];
        check(ON_POLICY, &records, &["", "", "off-policy", "off-policy"]);
    }

    #[test]
    fn principles_make_a_difference_over_the_mean() {
        let of = |good: f64, bad: f64| [good, 0.0, 0.0, bad, 0.0, 0.0];
        // The means are 2 and 1.
        let records = [of(3.0, 1.5), of(3.0, 1.0), of(1.0, 0.0), of(1.0, 1.5)];
        let low = "low-contrast";
        check(CONTRAST, &records, &["", low, low, low]);
    }

    #[test]
    fn each_mean_is_over_what_is_left() {
        let of = |none: f64, apart: f64| {
            let half = apart / 2.0;
            [none + half, none, none - half, none + half, none, none - half]
        };
        let records = [
            of(-1.0, -50.0), // not in order, and would raise the mean of stage 2
            of(-3.0, 1.0),
            of(-3.0, 2.0),
            of(-2.0, 4.0),
            of(-9.0, 90.0), // unlikely, and would raise the mean of stage 3
        ];
        // Left of stage 1: means of -4.25; left of stage 2: means of 7/3.
        let (off, low) = ("off-policy", "low-contrast");
        check("{}", &records, &["order", low, low, "", off]);
        check(ON_POLICY, &records, &["", "", "", "", off]);
        check(CONTRAST, &records, &[low, low, low, low, ""]);
    }

    #[test]
    fn equal_records_are_at_their_mean() {
        let same = [[-0.1, -0.3, -0.7, -0.1, -0.3, -0.7]; 3];
        check(r#"{"contrast": false}"#, &same, &["", "", ""]);
        check("{}", &same, &["low-contrast"; 3]);
        check("{}", &same[..1], &["low-contrast"]);
        check("{}", &[], &[]);
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let mut plugin: LogprobOrder = testing::plugin("{}").unwrap();
        let mut record = record(1, [-1.0; 6]);
        record.measurements.retain(|it| it.name != "alogp(good | plain)");
        let failed = plugin.observe(&testing::context(), &record);
        assert!(
            matches!(failed, Err(Error::Input(text)) if text.contains("`alogp(good | plain)`"))
        );
        for record in testing::awkward() {
            let failed = plugin.observe(&testing::context(), &record);
            assert!(matches!(failed, Err(Error::Input(_))), "{}", record.prompt.id);
        }
    }

    #[test]
    fn extreme_numbers_get_a_verdict() {
        let records = [[-1e308, 0.0, -1e308, f64::MIN, -0.0, f64::MIN], [0.0; 6]];
        for config in ["{}", ORDER, ON_POLICY, CONTRAST] {
            let mut plugin: LogprobOrder = testing::plugin(config).unwrap();
            for (i, values) in records.into_iter().enumerate() {
                plugin.observe(&testing::context(), &record(i, values)).unwrap();
            }
            for (i, values) in records.into_iter().enumerate() {
                plugin.decide(&testing::context(), &record(i, values)).unwrap();
            }
        }
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value = serde_json::from_str(LogprobOrder::CONFIG_SCHEMA).unwrap();
        assert_eq!(schema["properties"].as_object().unwrap().len(), 3);
    }
}
