//! A filter built against the contract as 0.1.0 was released, which asks and revises: it must run for as
//! long as the contract is 0.1.

wit_bindgen::generate!({
    path: "../../fixtures/contract/0.1.0",
    world: "filter-plugin",
    generate_all,
});

use aligner::plugin::log::{self, Level};
use aligner::plugin::types::{
    Answer, Context, Error, Finish, Request, RewardRequest, ScoreRequest, Turn,
};
use aligner::plugin::verdicts::{Revision, Verdict};
use exports::aligner::plugin::filter::{self, Reply};
use exports::aligner::plugin::meta;

struct Filter;

impl meta::Guest for Filter {
    fn describe() -> meta::Description {
        meta::Description {
            name: "older".into(),
            version: "1.0.0".into(),
            summary: "Asks, then revises.".into(),
            config_schema: String::new(),
            needs: vec![],
        }
    }

    fn configure(_config: String) -> Result<(), Error> {
        Ok(())
    }
}

impl filter::Guest for Filter {
    fn filter(context: Context, batch: Vec<Turn>) -> Result<Vec<Reply>, Error> {
        log::write(Level::Info, &format!("round {}", context.round));
        batch.into_iter().map(reply).collect()
    }
}

export!(Filter);

fn reply(turn: Turn) -> Result<Reply, Error> {
    let [first, ..] = &turn.record.variants[..] else {
        return Err(Error::Input(format!("record `{}` has no variants", turn.record.prompt.id)));
    };
    let [score, reward] = &turn.answers[..] else {
        let (prompt, completion) = (first.prompt.clone(), "yes".to_owned());
        let score = ScoreRequest { model: "policy".into(), prompt, completion };
        let ScoreRequest { model, prompt, completion } = score.clone();
        let reward = RewardRequest { model, prompt, completion };
        return Ok(Reply::Ask(vec![Request::Score(score), Request::Reward(reward)]));
    };
    Ok(Reply::Done(match (score, reward) {
        (Answer::Score(score), Answer::Reward(reward)) => Verdict::Revise(vec![Revision {
            variant: first.name.clone(),
            text: format!("{} of {} tokens, {reward}", score.logprob, score.tokens),
            finish: Finish::Stop,
        }]),
        _ => Verdict::Drop("unanswered".into()),
    }))
}
