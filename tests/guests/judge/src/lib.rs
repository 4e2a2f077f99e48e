//! A judge that rewards length, and nothing else: what it exports is what a single world exports.

wit_bindgen::generate!({ path: "../../../wit", world: "judge-plugin" });

use aligner::plugin::types::{Context, Error, Reward, Turn};
use exports::aligner::plugin::judge::{self, Opinion, Reply};
use exports::aligner::plugin::meta;

struct Judge;

impl meta::Guest for Judge {
    fn describe() -> meta::Description {
        meta::Description {
            name: "length-judge".into(),
            version: "1.2.3".into(),
            summary: "Rewards length.".into(),
            config_schema: String::new(),
            needs: vec!["perplexity(a)".into()],
        }
    }

    fn configure(_config: String) -> Result<(), Error> {
        Ok(())
    }
}

impl judge::Guest for Judge {
    fn judge(_context: Context, batch: Vec<Turn>) -> Result<Vec<Reply>, Error> {
        let reward = |turn: &Turn| {
            let rewards = turn.record.variants.iter().filter_map(|variant| {
                Some(Reward {
                    variant: variant.name.clone(),
                    name: "length".into(),
                    value: variant.completion.as_ref()?.text.len() as f64,
                })
            });
            Reply::Done(Opinion::Rewards(rewards.collect()))
        };
        Ok(batch.iter().map(reward).collect())
    }
}

export!(Judge);
