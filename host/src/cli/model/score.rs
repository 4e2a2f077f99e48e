//! `aligner model score`: JSONL in, JSONL with logprobs out.

use serde::Serialize;

use super::ScoreArgs;
use crate::{
    cli::{CliError, cancel, exit, host, output},
    data,
    generate::{SequenceError, Settings},
    logprob,
    plugin_set::Source,
    progress::{Progress, Style, go_on},
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

/// Scores every row of the file, in its order.
pub fn main(args: &ScoreArgs) -> Result<(), CliError> {
    let device = args.device.resolve(args.dtype)?;
    cancel::listen()?;
    let data = data::read_score_rows(&Source::File(args.data.clone()))?;
    let progress = Progress::new(Style::Fancy);
    let name = host::model_name(args.model.as_deref(), args.adapter.as_deref())?;
    let opened = host::open(&name, &progress)?;
    let adapter = host::adapter(args.adapter.as_deref(), &opened)?;
    let mut rows = Vec::with_capacity(data.len());
    for row in &data {
        rows.push(round::row(&opened.model, &row.prompt, &row.completion).map_err(|error| {
            let name = args.data.display();
            CliError::from(error).context(&format!("row `{}` of `{name}`", row.id))
        })?);
    }
    let (loaded, adapter) =
        host::load_adapted(&opened, adapter.as_ref(), &device, args.dtype, &progress)?;
    let bar = progress.stage("scoring", rows.len() as u64, "rows");
    let mut heard = bar.follow();
    let scores = logprob::score(
        &loaded.engine,
        adapter.as_ref(),
        &rows,
        &Settings::default(),
        &mut |state| {
            heard(state.done as u64);
            go_on(cancel::flag())
        },
    );
    drop(heard);
    bar.finish();
    let scores = scores.map_err(|error| match error {
        SequenceError::Cancelled => CliError::new(exit::INTERRUPTED, "interrupted"),
        error => RunError::of_engine(error, |index| &data[index].id).into(),
    })?;
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
        let line = serde_json::to_string(&scored).map_err(anyhow::Error::from)?;
        output::print(&format!("{line}\n"))?;
    }
    Ok(())
}
