//! Draws the prompts of a round from those selected least often.

use aligner_sdk::{
    Candidate, Card, Context, Decoding, Equipment, Error, Plugin, Rng, Sampler, Slot,
    export_sampler,
};
use serde::Deserialize;

/// What stands under `config`; it is the whole plugin.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MyPlugin {
    /// How many prompts a round has; 0 stands for all.
    prompts: usize,
    /// How many of the principle plugin's examples each prompt gets.
    examples: usize,
}

impl Plugin for MyPlugin {
    type Config = MyPlugin;
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "Draws the prompts of a round from those selected least often.";
    const CONFIG_SCHEMA: &'static str = r#"{"type": "object", "additionalProperties": false, "properties": {
"prompts": {"type": "integer", "minimum": 0, "default": 0},
"examples": {"type": "integer", "minimum": 0, "default": 0}}}"#;

    fn new(config: MyPlugin) -> Result<Self, Error> {
        Ok(config)
    }
}

impl Sampler for MyPlugin {
    fn select(&self, _: &Context, pool: &[Candidate], seed: u64) -> Result<Vec<String>, Error> {
        let mut drawn: Vec<&Candidate> = pool.iter().collect();
        Rng::new(seed).shuffle(&mut drawn);
        drawn.sort_by_key(|candidate| candidate.selected);
        let most = if self.prompts == 0 { drawn.len() } else { self.prompts };
        Ok(drawn.into_iter().take(most).map(|candidate| candidate.id.clone()).collect())
    }

    fn equip(&self, _: &Context, slot: &Slot, catalogue: &[Card]) -> Result<Equipment, Error> {
        let drawn = Rng::new(slot.seed).choose(self.examples, catalogue.len());
        let exemplars = drawn.into_iter().map(|i| catalogue[i].id.clone()).collect();
        Ok(Equipment { exemplars, decoding: Decoding::default() })
    }
}

export_sampler!(MyPlugin);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aligner_sdk::testing;

    use super::*;

    fn selected(config: &str, pool: &[Candidate]) -> Vec<String> {
        let plugin: MyPlugin = testing::plugin(config).unwrap();
        plugin.select(&testing::context(), pool, 5).unwrap()
    }

    fn candidate(number: u32, selected: u32) -> Candidate {
        Candidate { id: format!("p-{number}"), tags: vec![], difficulty: None, selected }
    }

    #[test]
    fn what_was_selected_least_comes_first() {
        let pool: Vec<_> = (0..20).map(|number| candidate(number, number % 2)).collect();
        let chosen = selected(r#"{"prompts": 10}"#, &pool);
        let even: BTreeSet<_> = (0..20).step_by(2).map(|number| format!("p-{number}")).collect();
        assert_eq!(chosen.iter().cloned().collect::<BTreeSet<_>>(), even);
        assert!(!chosen.is_sorted());
        assert_eq!(chosen, selected(r#"{"prompts": 10}"#, &pool));
    }

    #[test]
    fn zero_stands_for_all() {
        let pool: Vec<_> = (0..3).map(|number| candidate(number, 0)).collect();
        let mut chosen = selected("{}", &pool);
        chosen.sort();
        assert_eq!(chosen, ["p-0", "p-1", "p-2"]);
    }

    #[test]
    fn each_prompt_draws_its_own_examples() {
        let plugin: MyPlugin = testing::plugin(r#"{"examples": 2}"#).unwrap();
        let catalogue: Vec<_> =
            (0..9).map(|i| Card { id: format!("ex-{i}"), tags: vec![] }).collect();
        let drawn = |seed| {
            let slot = Slot { id: "p-1".into(), tags: vec![], seed };
            plugin.equip(&testing::context(), &slot, &catalogue).unwrap().exemplars
        };
        let all: BTreeSet<_> = (0..9).map(drawn).collect();
        assert!(all.iter().all(|it| it.len() == 2 && it[0] != it[1]));
        assert!(all.len() > 1);
    }
}
