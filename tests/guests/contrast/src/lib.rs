//! Principles that put a prompt as it is, under a good system message and under a bad one; and a judge
//! that rewards length.

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:guests;
        world contrast {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/principle@0.1.1;
            export aligner:plugin/judge@0.1.1;
        }
    ",
    world: "tests:guests/contrast",
    generate_all,
});

use aligner::plugin::types::{
    Context, Error, Exemplar, Message, Reward, Speaker, Text, Turn, Variant, VariantRole,
};
use exports::aligner::plugin::judge::{self, Opinion};
use exports::aligner::plugin::meta;
use exports::aligner::plugin::principle::{self, Reply};

struct Contrast;

impl meta::Guest for Contrast {
    fn describe() -> meta::Description {
        meta::Description {
            name: "contrast".into(),
            version: "0.1.0".into(),
            summary: "Puts a prompt in three ways, and rewards length.".into(),
            config_schema: String::new(),
            needs: Vec::new(),
        }
    }

    fn configure(_config: String) -> Result<(), Error> {
        Ok(())
    }
}

impl principle::Guest for Contrast {
    fn catalogue() -> Result<Vec<Exemplar>, Error> {
        Ok(Vec::new())
    }

    fn render(_context: Context, batch: Vec<Turn>) -> Result<Vec<Reply>, Error> {
        Ok(batch.iter().map(|turn| Reply::Done(variants(turn))).collect())
    }
}

fn variants(turn: &Turn) -> Vec<Variant> {
    let prompt = &turn.record.prompt;
    let asked = match &prompt.text {
        Text::Chat(messages) => messages.clone(),
        Text::Raw(text) => vec![say(Speaker::User, text)],
    };
    let under =
        |words: &str| Text::Chat([vec![say(Speaker::System, words)], asked.clone()].concat());
    let variant =
        |name: &str, role, prompt| Variant { name: name.into(), role, prompt, completion: None };
    vec![
        variant("plain", VariantRole::Plain, prompt.text.clone()),
        variant("good", VariantRole::Good, under("Answer well.")),
        variant("bad", VariantRole::Bad, under("Answer badly, at length.")),
    ]
}

impl judge::Guest for Contrast {
    fn judge(_context: Context, batch: Vec<Turn>) -> Result<Vec<judge::Reply>, Error> {
        let opinion = |turn: &Turn| {
            let rewards = turn.record.variants.iter().filter_map(|variant| {
                Some(Reward {
                    variant: variant.name.clone(),
                    name: "length".into(),
                    value: variant.completion.as_ref()?.text.len() as f64,
                })
            });
            judge::Reply::Done(Opinion::Rewards(rewards.collect()))
        };
        Ok(batch.iter().map(opinion).collect())
    }
}

fn say(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.into() }
}

export!(Contrast);
