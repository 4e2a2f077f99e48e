//! I-SHEEP's filter by density, in place of a judge: one answer of each cluster of like ones (Liang
//! et al., 2024, <https://arxiv.org/abs/2408.08072>, section 4.3). For `after = "generate"`.
//!
//! The host finds the clusters, `[measure] clusters` many, among the mean hidden states of the
//! answers of variant `plain`. Deviation: the paper's second form keeps the lowest perplexity of
//! prompt and answer as one text; here it is that of the answer under its prompt, which the record
//! holds.

use std::collections::BTreeMap;

use aligner_sdk::{Context, Error, Plugin, Record, Rng, SetFilter, Verdict, export_set_filter};
use serde::Deserialize;

/// The number of a record's cluster.
const CLUSTER: &str = "cluster(plain)";

/// What stands under `config` of the filter.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which answer of a cluster is kept.
    keep: Keep,
    /// For `keep = "random"`: another number keeps others.
    seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { keep: Keep::Random, seed: 0 }
    }
}

/// Which answer of a cluster is kept.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Keep {
    /// Any one, each equally likely, drawn from the seed, the round and the ids.
    Random,
    /// The one that surprises the model least; of equal ones the first.
    LowestPerplexity,
}

/// The plugin.
pub struct Density {
    config: Config,
    /// For each cluster the record to keep, and what it was chosen by: lower is better.
    kept: BTreeMap<i64, (f64, String)>,
}

impl Plugin for Density {
    type Config = Config;
    const NAME: &'static str = "density";
    const SUMMARY: &'static str = "Keeps one answer of each cluster of like ones.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"keep": {"enum": ["random", "lowest-perplexity"], "default": "random"},
"seed": {"type": "integer", "minimum": 0, "default": 0}}}"#;
    const NEEDS: &'static [&'static str] = &[CLUSTER];

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Density { config, kept: BTreeMap::new() })
    }
}

impl SetFilter for Density {
    fn observe(&mut self, context: &Context, record: &Record) -> Result<(), Error> {
        let cluster = cluster(record)?;
        let by = match self.config.keep {
            Keep::Random => {
                // A record's number does not depend on which others there are.
                let seed = record.prompt.id.bytes().fold(self.config.seed, mixed);
                Rng::new(mixed(seed, context.round)).uniform()
            }
            Keep::LowestPerplexity => surprise(record)?,
        };
        let id = &record.prompt.id;
        let kept = self.kept.entry(cluster).or_insert_with(|| (by, id.clone()));
        if by < kept.0 {
            *kept = (by, id.clone());
        }
        Ok(())
    }

    fn decide(&mut self, _: &Context, record: &Record) -> Result<Verdict, Error> {
        let kept = self.kept.get(&cluster(record)?);
        Ok(match kept.is_some_and(|(_, id)| *id == record.prompt.id) {
            true => Verdict::Keep,
            false => Verdict::Drop("same-cluster".into()),
        })
    }
}

export_set_filter!(Density);

fn cluster(record: &Record) -> Result<i64, Error> {
    let number = record
        .measurement(CLUSTER)
        .ok_or_else(|| Error::Input(format!("it has no measurement `{CLUSTER}`")))?;
    Ok(number as i64)
}

/// Returns the nats per token of the plain answer, which order answers as perplexities do.
fn surprise(record: &Record) -> Result<f64, Error> {
    let completion = record.variant("plain").and_then(|variant| variant.completion.as_ref());
    let completion =
        completion.ok_or_else(|| Error::Input("variant `plain` has not been completed".into()))?;
    Ok(-completion.logprob / f64::from(completion.tokens.max(1)))
}

fn mixed(seed: u64, with: impl Into<u64>) -> u64 {
    Rng::new(seed ^ with.into()).bits()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aligner_sdk::{Measurement, VariantRole, testing};

    use super::*;

    fn record(id: &str, cluster: usize, nats_per_token: f64) -> Record {
        let mut record = testing::record(id, "Why?");
        let mut variant = testing::variant("plain", VariantRole::Plain, "Why?", "Because.");
        let completion = variant.completion.as_mut().unwrap();
        completion.logprob = -nats_per_token * f64::from(completion.tokens);
        record.variants.push(variant);
        record.measurements.push(Measurement { name: CLUSTER.into(), value: cluster as f64 });
        record
    }

    fn kept(config: &str, records: &[Record]) -> Vec<String> {
        let mut plugin: Density = testing::plugin(config).unwrap();
        let verdicts = testing::decide(&mut plugin, &[], records).unwrap();
        let kept = records.iter().zip(verdicts).filter(|(_, it)| *it == Verdict::Keep);
        kept.map(|(record, _)| record.prompt.id.clone()).collect()
    }

    #[test]
    fn the_least_surprising_of_each_cluster_is_kept() {
        let records = [
            record("p-1", 0, 2.0),
            record("p-2", 1, 3.0),
            record("p-3", 0, 1.0),
            record("p-4", 1, 3.0),
            record("p-5", 2, 9.0),
        ];
        let kept = kept(r#"{"keep": "lowest-perplexity"}"#, &records);
        assert_eq!(kept, ["p-2", "p-3", "p-5"]);
    }

    #[test]
    fn one_of_each_cluster_is_drawn() {
        let records: Vec<_> = (0..60).map(|i| record(&format!("p-{i}"), i % 4, 1.0)).collect();
        let draw = |seed: usize| kept(&format!(r#"{{"seed": {seed}}}"#), &records);
        assert_eq!(draw(1), draw(1));
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let kept = draw(seed);
            assert_eq!(kept.len(), 4);
            seen.extend(kept);
        }
        assert_eq!(seen.len(), 60);
    }

    #[test]
    fn rounds_draw_apart() {
        let records: Vec<_> = (0..60).map(|i| record(&format!("p-{i}"), 0, 1.0)).collect();
        let drawn: BTreeSet<_> = (1..=8)
            .map(|round| {
                let context = Context { round, rounds: 8 };
                let mut plugin: Density = testing::plugin("{}").unwrap();
                records.iter().for_each(|it| plugin.observe(&context, it).unwrap());
                plugin.kept[&0].1.clone()
            })
            .collect();
        assert!(drawn.len() > 4, "{drawn:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut plugin: Density = testing::plugin("{}").unwrap();
        for record in testing::awkward() {
            let failed = plugin.observe(&testing::context(), &record);
            let expected = "it has no measurement `cluster(plain)`";
            assert_eq!(failed, Err(Error::Input(expected.into())));
        }
        let mut open = record("p-1", 0, 1.0);
        open.variants.clear();
        let mut plugin: Density = testing::plugin(r#"{"keep": "lowest-perplexity"}"#).unwrap();
        let failed = plugin.observe(&testing::context(), &open);
        assert_eq!(failed, Err(Error::Input("variant `plain` has not been completed".into())));
    }

    #[test]
    fn awkward_records_get_a_verdict() {
        let mut records = testing::awkward();
        for (i, record) in records.iter_mut().enumerate() {
            record.measurements.push(Measurement { name: CLUSTER.into(), value: (i / 2) as f64 });
        }
        assert_eq!(kept("{}", &records).len(), records.len().div_ceil(2));
    }
}
