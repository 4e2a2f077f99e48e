//! SOFT's sampling strategy: prompts in bins over the rounds, and in-context examples drawn from a
//! pool for each prompt (Wang et al., 2024, <https://arxiv.org/abs/2402.07610>).
//!
//! How the pool of prompts is cut and how many examples a prompt gets could not be read in the
//! paper: both are settings.

use std::collections::BTreeSet;

use aligner_sdk::{
    Candidate, Card, Context, Decoding, Equipment, Error, Plugin, Rng, Sampler, Slot,
    export_sampler,
};
use serde::Deserialize;

/// What stands under `[sampler.config]`; it is the whole plugin.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exemplars {
    /// How many examples a prompt gets.
    per_prompt: usize,
    /// Whether each prompt gets a draw of its own, in random order. Otherwise all get the first
    /// `per_prompt` of the pool, as single-round SELF-ALIGN does.
    redraw: bool,
    /// How many of the catalogue are in the pool, from the first. Absent: all.
    pool: Option<usize>,
    /// The ids of the pool, in this order, in place of the catalogue's own. Empty: all.
    only: Vec<String>,
    /// How the rounds share the prompts.
    partition: Partition,
}

impl Default for Exemplars {
    fn default() -> Self {
        Exemplars {
            per_prompt: 2,
            redraw: true,
            pool: None,
            only: Vec::new(),
            partition: Partition::Split,
        }
    }
}

/// How the rounds share the prompts.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Partition {
    /// The ordered pool is cut into as many consecutive bins as there are rounds; their sizes
    /// differ by one at most. Ordered from easy to hard, this is SOFT+.
    Split,
    /// Every round works on the whole pool.
    Full,
}

impl Plugin for Exemplars {
    type Config = Exemplars;
    const NAME: &'static str = "exemplars";
    const SUMMARY: &'static str =
        "Bins of prompts over the rounds, in-context examples drawn for each prompt.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"per_prompt": {"type": "integer", "minimum": 0, "default": 2},
"redraw": {"type": "boolean", "default": true},
"pool": {"type": "integer", "minimum": 1},
"only": {"type": "array", "items": {"type": "string"}, "default": []},
"partition": {"enum": ["split", "full"], "default": "split"}}}"#;

    fn new(config: Exemplars) -> Result<Self, Error> {
        let unique: BTreeSet<_> = config.only.iter().collect();
        if unique.len() < config.only.len() {
            return Err(Error::Config("`only` names an example twice".into()));
        }
        Ok(config)
    }
}

impl Sampler for Exemplars {
    fn select(&self, context: &Context, pool: &[Candidate], _: u64) -> Result<Vec<String>, Error> {
        let bin = match self.partition {
            Partition::Split => bin(pool, context.round, context.rounds),
            Partition::Full => pool,
        };
        Ok(bin.iter().map(|candidate| candidate.id.clone()).collect())
    }

    fn equip(&self, _: &Context, slot: &Slot, catalogue: &[Card]) -> Result<Equipment, Error> {
        let pool = self.pool(catalogue)?;
        if self.per_prompt > pool.len() {
            return Err(Error::Config(format!(
                "`per_prompt` is {}, but the pool of in-context examples has {}",
                self.per_prompt,
                pool.len()
            )));
        }
        let drawn = match self.redraw {
            true => Rng::new(slot.seed).choose(self.per_prompt, pool.len()),
            false => (0..self.per_prompt).collect(),
        };
        let exemplars = drawn.into_iter().map(|i| pool[i].to_owned()).collect();
        Ok(Equipment { exemplars, decoding: Decoding::default() })
    }
}

export_sampler!(Exemplars);

impl Exemplars {
    /// Returns the ids that are drawn from.
    fn pool<'a>(&'a self, catalogue: &'a [Card]) -> Result<Vec<&'a str>, Error> {
        let mut pool: Vec<&str> = catalogue.iter().map(|card| card.id.as_str()).collect();
        if !self.only.is_empty() {
            if let Some(unknown) = self.only.iter().find(|id| !pool.contains(&id.as_str())) {
                return Err(Error::Config(format!(
                    "`only` names `{unknown}`, which the principle plugin does not have"
                )));
            }
            pool = self.only.iter().map(String::as_str).collect();
        }
        pool.truncate(self.pool.unwrap_or(usize::MAX));
        Ok(pool)
    }
}

/// Returns the bin of a round, counted from 1.
fn bin<T>(pool: &[T], round: u32, rounds: u32) -> &[T] {
    let edge = |bins: u32| {
        let bins = u64::from(bins.min(rounds));
        (bins * pool.len() as u64 / u64::from(rounds.max(1))) as usize
    };
    &pool[edge(round.saturating_sub(1))..edge(round)]
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    fn plugin(config: &str) -> Exemplars {
        testing::plugin(config).unwrap()
    }

    fn pool(n: usize) -> Vec<Candidate> {
        let candidate = |i: usize| Candidate {
            id: format!("p-{i}"),
            tags: vec![],
            difficulty: Some(i as f64),
            selected: 0,
        };
        (0..n).map(candidate).collect()
    }

    fn cards(n: usize) -> Vec<Card> {
        (0..n).map(|i| Card { id: format!("ex-{i}"), tags: vec![] }).collect()
    }

    fn drawn(plugin: &Exemplars, seed: u64, catalogue: &[Card]) -> Result<Vec<String>, Error> {
        let slot = Slot { id: "p-1".into(), tags: vec![], seed };
        Ok(plugin.equip(&testing::context(), &slot, catalogue)?.exemplars)
    }

    /// Checks the bins' sizes, and that together they are the pool in its order.
    fn check_bins(prompts: usize, rounds: u32, sizes: &[usize]) {
        let plugin = plugin("{}");
        let pool = pool(prompts);
        let select = |round| plugin.select(&Context { round, rounds }, &pool, 1).unwrap();
        let bins: Vec<_> = (1..=rounds).map(select).collect();
        assert_eq!(bins.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        let ids: Vec<_> = pool.into_iter().map(|candidate| candidate.id).collect();
        assert_eq!(bins.concat(), ids);
    }

    #[test]
    fn bins_are_consecutive_and_differ_by_one_at_most() {
        check_bins(96, 3, &[32, 32, 32]);
        check_bins(10, 3, &[3, 3, 4]);
        check_bins(2, 3, &[0, 1, 1]);
        check_bins(0, 2, &[0, 0]);
        check_bins(5, 1, &[5]);
    }

    #[test]
    fn a_full_partition_repeats_the_pool() {
        let plugin = plugin(r#"{"partition": "full"}"#);
        for round in 1..=3 {
            let selected = plugin.select(&Context { round, rounds: 3 }, &pool(7), round.into());
            assert_eq!(selected.unwrap().len(), 7);
        }
    }

    #[test]
    fn each_prompt_has_a_draw_of_its_own() {
        let plugin = plugin(r#"{"per_prompt": 5}"#);
        let draw = |seed| drawn(&plugin, seed, &cards(48)).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let seen: BTreeSet<_> = (0..200).flat_map(draw).collect();
        assert_eq!(seen.len(), 48);
        for seed in 0..50 {
            assert_eq!(draw(seed).into_iter().collect::<BTreeSet<_>>().len(), 5);
        }
    }

    #[test]
    fn without_redraw_all_prompts_share_the_first() {
        let plugin = plugin(r#"{"per_prompt": 3, "redraw": false}"#);
        for seed in 0..20 {
            assert_eq!(drawn(&plugin, seed, &cards(48)).unwrap(), ["ex-0", "ex-1", "ex-2"]);
        }
    }

    #[test]
    fn the_pool_can_be_narrowed() {
        let first = plugin(r#"{"pool": 5}"#);
        let named = plugin(r#"{"only": ["ex-30", "ex-2"], "redraw": false}"#);
        let from_first: BTreeSet<_> =
            (0..100).flat_map(|seed| drawn(&first, seed, &cards(48)).unwrap()).collect();
        assert_eq!(from_first, cards(5).into_iter().map(|card| card.id).collect());
        assert_eq!(drawn(&named, 1, &cards(48)).unwrap(), ["ex-30", "ex-2"]);
    }

    #[test]
    fn a_prompt_may_get_no_examples() {
        let plugin = plugin(r#"{"per_prompt": 0}"#);
        assert!(drawn(&plugin, 1, &[]).unwrap().is_empty());
    }

    #[test]
    fn wrong_configurations_say_what_is_wrong() {
        let check = |config: &str, catalogue: usize, expected: &str| {
            let outcome =
                testing::plugin(config).and_then(|plugin| drawn(&plugin, 1, &cards(catalogue)));
            match outcome {
                Err(Error::Config(text)) => assert!(text.contains(expected), "{text}"),
                other => panic!("{config}: {other:?}"),
            }
        };
        check(r#"{"per_prompt": 6}"#, 5, "`per_prompt` is 6, but the pool");
        check("{}", 0, "has 0");
        check(r#"{"pool": 1}"#, 48, "has 1");
        check(r#"{"only": ["ex-99", "ex-1"]}"#, 48, "`only` names `ex-99`");
        check(r#"{"only": ["ex-1", "ex-1"]}"#, 48, "twice");
        check(r#"{"per_promt": 2}"#, 48, "unknown key `per_promt`, expected one of `per_prompt`");
        check(r#"{"partition": "bins"}"#, 48, "key `partition`");
    }
}
