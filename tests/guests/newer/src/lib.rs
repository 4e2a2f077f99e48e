//! A difficulty plugin that the tests make one of a release still to come: they rename `pluton` to
//! `plugin` and count the version up, so that it exports an interface which the contract does not have.

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package aligner:pluton@0.1.1;
        interface later {
            use aligner:plugin/types@0.1.1.{turn};
            later: func(batch: list<turn>) -> list<u32>;
        }
        world newer {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/difficulty@0.1.1;
            export later;
        }
    ",
    world: "aligner:pluton/newer",
    generate_all,
});

use aligner::plugin::types::{Context, Error, Turn};
use exports::aligner::plugin::difficulty::{self, Reply};
use exports::aligner::plugin::meta;
use exports::aligner::pluton::later;

struct Difficulty;

impl meta::Guest for Difficulty {
    fn describe() -> meta::Description {
        meta::Description {
            name: "newer".into(),
            version: "1.0.0".into(),
            summary: "Counts the bytes of an id.".into(),
            config_schema: String::new(),
            needs: vec!["entropy(plain)".into()],
        }
    }

    fn configure(_config: String) -> Result<(), Error> {
        Ok(())
    }
}

impl difficulty::Guest for Difficulty {
    fn score(_context: Context, batch: Vec<Turn>) -> Result<Vec<Reply>, Error> {
        Ok(batch.iter().map(|turn| Reply::Done(turn.record.prompt.id.len() as f64)).collect())
    }
}

impl later::Guest for Difficulty {
    fn later(batch: Vec<Turn>) -> Vec<u32> {
        batch.iter().map(|turn| turn.answers.len() as u32).collect()
    }
}

export!(Difficulty);
