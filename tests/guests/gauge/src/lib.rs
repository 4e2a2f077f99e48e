//! A filter that compares what is measured with what the model says when it is asked, and drops a record
//! where the two differ. With `revise` in the configuration it puts another text in the place of the plain
//! completion. As a judge and as a difficulty scorer it hands on what is measured.

use std::cell::RefCell;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package tests:guests;
        world gauge {
            import aligner:plugin/log@0.1.1;
            export aligner:plugin/meta@0.1.1;
            export aligner:plugin/filter@0.1.1;
            export aligner:plugin/judge@0.1.1;
            export aligner:plugin/difficulty@0.1.1;
        }
    ",
    world: "tests:guests/gauge",
    generate_all,
});

use aligner::plugin::types::{
    Answer, Context, Error, Finish, Record, Request, Reward, ScoreRequest, Turn, Variant,
};
use aligner::plugin::verdicts::{Revision, Verdict};
use exports::aligner::plugin::filter::{self, Reply};
use exports::aligner::plugin::judge::Opinion;
use exports::aligner::plugin::{difficulty, judge, meta};

thread_local! {
    static CONFIG: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Gauge;

impl meta::Guest for Gauge {
    fn describe() -> meta::Description {
        let needs = [
            "perplexity(plain)",
            "alogp(good | plain)",
            "alogp(plain | plain; initial)",
            "entropy(plain)",
            "cluster(plain)",
            "perplexity(nobody)",
        ];
        meta::Description {
            name: "gauge".into(),
            version: "0.1.0".into(),
            summary: "Compares what is measured with what the model says.".into(),
            config_schema: String::new(),
            needs: needs.map(String::from).to_vec(),
        }
    }

    fn configure(config: String) -> Result<(), Error> {
        CONFIG.set(config);
        Ok(())
    }
}

impl filter::Guest for Gauge {
    fn filter(_context: Context, batch: Vec<Turn>) -> Result<Vec<Reply>, Error> {
        Ok(batch.iter().map(reply).collect())
    }
}

impl judge::Guest for Gauge {
    fn judge(_context: Context, batch: Vec<Turn>) -> Result<Vec<judge::Reply>, Error> {
        let opinion = |turn: &Turn| {
            let (variant, name) = ("plain".into(), "perplexity".into());
            let value = perplexity(&turn.record)?;
            Ok(judge::Reply::Done(Opinion::Rewards(vec![Reward { variant, name, value }])))
        };
        batch.iter().map(opinion).collect()
    }
}

impl difficulty::Guest for Gauge {
    fn score(_context: Context, batch: Vec<Turn>) -> Result<Vec<difficulty::Reply>, Error> {
        batch.iter().map(|turn| perplexity(&turn.record).map(difficulty::Reply::Done)).collect()
    }
}

fn perplexity(record: &Record) -> Result<f64, Error> {
    let missing = || Error::Input(format!("record {} is not measured", record.prompt.id));
    measured(record, "perplexity(plain)").ok_or_else(missing)
}

fn reply(turn: &Turn) -> Reply {
    let record = &turn.record;
    let (Some(plain), Some(good)) = (variant(record, "plain"), variant(record, "good")) else {
        return Reply::Done(Verdict::Drop("no-variants".into()));
    };
    let [Answer::Score(own), Answer::Score(other)] = &turn.answers[..] else {
        let score = |prompt: &Variant, completion: &Variant| {
            Request::Score(ScoreRequest {
                model: "policy".into(),
                prompt: prompt.prompt.clone(),
                completion: completion
                    .completion
                    .as_ref()
                    .map_or(String::new(), |it| it.text.clone()),
            })
        };
        return Reply::Ask(vec![score(plain, plain), score(plain, good)]);
    };
    let own = (-own.logprob / f64::from(own.tokens)).exp();
    let other = other.logprob / f64::from(other.tokens);
    let agrees = |name: &str, value: f64| {
        measured(record, name).is_some_and(|found| (found - value).abs() <= 1e-9 * value.abs())
    };
    let clustered = measured(record, "cluster(plain)").is_some_and(|number| number.fract() == 0.0);
    let sound = agrees("perplexity(plain)", own)
        && agrees("alogp(good | plain)", other)
        && measured(record, "alogp(plain | plain; initial)").is_some()
        && measured(record, "entropy(plain)").is_some_and(|entropy| entropy > 0.0)
        && clustered
        && measured(record, "perplexity(nobody)").is_none();
    Reply::Done(match sound {
        false => Verdict::Drop("mismatch".into()),
        true if CONFIG.with_borrow(|config| config.contains("revise")) => {
            let (variant, text) = ("plain".into(), format!("Of {}.", record.prompt.id));
            Verdict::Revise(vec![Revision { variant, text, finish: Finish::Stop }])
        }
        true => Verdict::Keep,
    })
}

fn variant<'a>(record: &'a Record, name: &str) -> Option<&'a Variant> {
    record.variants.iter().find(|variant| variant.name == name)
}

fn measured(record: &Record, name: &str) -> Option<f64> {
    record.measurements.iter().find(|it| it.name == name).map(|it| it.value)
}

export!(Gauge);
