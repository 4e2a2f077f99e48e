//! `aligner model score`: JSONL in, JSONL with logprobs or rewards out.

use serde::Serialize;

use super::ScoreArgs;
use crate::{
    cli::{CliError, cancel, exit, host, output},
    data,
    generate::{self, SequenceError, Settings},
    logprob,
    model::adapter::Adapter,
    plugin_set::Source,
    progress::go_on,
    reward::{self, RewardModel},
    round::{self, RunError},
};

/// A row of the output.
#[derive(Serialize)]
struct Scored<'a> {
    id: &'a str,
    /// Sum over the completion's tokens, in nats.
    logprob: f64,
    tokens: usize,
    perplexity: f64,
    /// Prompt and completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a [u32]>,
    /// Index in `token_ids` of the first token that is scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_scored: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_logprobs: Option<&'a [f32]>,
}

/// The same of a reward model.
#[derive(Serialize)]
struct Rewarded<'a> {
    id: &'a str,
    reward: f64,
}

/// What a model says of all rows.
enum Said {
    Scores(Vec<logprob::Score>),
    Rewards(Vec<f64>),
}

/// Scores every row of the file, in its order: with logprobs, or with the rewards of a reward model.
pub fn main(args: &ScoreArgs) -> Result<(), CliError> {
    let device = args.device.resolve(args.dtype)?;
    cancel::listen()?;
    let data = data::read_score_rows(&Source::File(args.data.clone()))?;
    let progress = args.shown.open();
    let name = host::model_name(args.model.as_deref(), args.adapter.as_deref())?;
    let opened = host::open(&name, &progress)?;
    let adapter = args.adapter.as_deref().map(|it| host::adapter(it, &opened)).transpose()?;
    let rewards = adapter.as_ref().is_some_and(Adapter::is_reward_model);
    if args.per_token && rewards {
        let message = "a reward model gives one reward, and nothing for each token";
        return Err(CliError::usage(message).hint("leave `--per-token` out"));
    }
    let mut rows = Vec::with_capacity(data.len());
    for row in &data {
        let read = match rewards {
            true => opened.model.encode_judged(&row.prompt, &row.completion).map(|read| {
                let from = read.trained.iter().position(|&trained| trained);
                logprob::Row { from: from.unwrap_or(read.tokens.len()), tokens: read.tokens }
            }),
            false => round::row(&opened.model, &row.prompt, &row.completion),
        };
        rows.push(read.map_err(|error| {
            let name = args.data.display();
            CliError::from(error).context(&format!("row `{}` of `{name}`", row.id))
        })?);
    }
    let (loaded, adapter) =
        host::load_adapted(&opened, adapter.as_ref(), &device, args.dtype, &progress)?;
    let judge = adapter.as_ref().and_then(RewardModel::of);
    let bar = progress.stage("scoring", rows.len() as u64, "rows");
    let mut follow = bar.follow();
    let mut heard = |state: generate::Progress| {
        follow(state.done as u64);
        go_on(cancel::flag())
    };
    let (engine, settings) = (&loaded.engine, Settings::on(&loaded.engine.backend));
    let said = match &judge {
        Some(judge) => {
            let sequences: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens.clone()).collect();
            reward::rewards(engine, judge, &sequences, &settings, &mut heard).map(Said::Rewards)
        }
        None => {
            logprob::score(engine, adapter.as_ref(), &rows, &settings, &mut heard).map(Said::Scores)
        }
    };
    drop(follow);
    bar.finish();
    let said = said.map_err(|error| match error {
        SequenceError::Cancelled => CliError::new(exit::INTERRUPTED, "interrupted"),
        error => RunError::of_engine(error, |index| &data[index].id).into(),
    })?;
    let scores = match said {
        Said::Scores(scores) => scores,
        Said::Rewards(rewards) => {
            let mut rewards = data.iter().zip(rewards);
            return rewards
                .try_for_each(|(data, reward)| print(&Rewarded { id: &data.id, reward }));
        }
    };
    for ((data, row), score) in data.iter().zip(&rows).zip(&scores) {
        let scored = Scored {
            id: &data.id,
            logprob: score.logprob,
            tokens: score.token_logprobs.len(),
            perplexity: score.perplexity(),
            token_ids: args.per_token.then_some(&row.tokens),
            first_scored: args.per_token.then_some(row.from),
            token_logprobs: args.per_token.then_some(&score.token_logprobs),
        };
        print(&scored)?;
    }
    Ok(())
}

fn print(row: &impl Serialize) -> Result<(), CliError> {
    let line = serde_json::to_string(row).map_err(anyhow::Error::from)?;
    output::print(&format!("{line}\n"))
}
