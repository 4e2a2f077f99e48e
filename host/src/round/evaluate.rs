//! The evaluate stage: native measures on held-out prompts, the same for every method.

use serde_json::json;

use super::diversity::{distinct_2, mean};
use super::models::{Job, ScoreJob, Unanswered};
use super::stage::{Made, Notebook, Place, label};
use super::{Policy, RunError, Workshop};
use crate::plugin_set::Measure;
use crate::record::{Completion, Decoding};
use crate::report::Measured;
use crate::run::seed;

/// Measures a policy. Round 0 is the initial model. Without `[evaluate]` there is nothing to do.
pub fn held_out(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    policy: &Policy,
) -> Result<Vec<Measured>, RunError> {
    let Some(evaluate) = &shop.set.evaluate else { return Ok(Vec::new()) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "evaluate" };
    let answers = answer_decoding(shop);
    let depends = json!([policy.digest, shop.held_out_digest, evaluate.measures, answers]);
    let output = book.stage(place, depends, |book| {
        let own = evaluate.measures.iter().any(|measure| *measure != Measure::Perplexity);
        let answers = if own { own_answers(shop, book, place, policy)? } else { Vec::new() };
        let mut rows = Vec::new();
        for &measure in &evaluate.measures {
            let value = match measure {
                Measure::Perplexity => perplexity(shop, book, place, policy)?,
                Measure::Distinct2 => distinct_2(answers.iter().map(|c| c.text.as_str())),
                Measure::Length => mean(answers.iter().map(|c| f64::from(c.tokens))).unwrap_or(0.0),
            };
            rows.push(Measured { measure: measure.as_str().into(), value });
        }
        Ok::<_, RunError>(Made::rows(rows))
    })?;
    Ok(output.rows)
}

/// Returns the perplexity of the trusted answers over all their tokens (`exp` of the mean negative
/// log-likelihood of a token, so long answers weigh more).
fn perplexity(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    policy: &Policy,
) -> Result<f64, RunError> {
    let jobs: Vec<ScoreJob> = shop
        .held_out
        .iter()
        .map(|row| ScoreJob {
            record: row.prompt.id.clone(),
            prompt: row.prompt.text.clone(),
            completion: row.answer.clone(),
        })
        .collect();
    let bar = shop.progress.stage(&label(place), jobs.len() as u64, "answers");
    let scores =
        shop.models.score("policy", policy, &jobs, shop.cancel, &mut |done| bar.inc(done))?;
    shop.check_cancel(book)?;
    bar.finish();
    let (mut logprob, mut tokens) = (0.0, 0u64);
    for (job, score) in jobs.iter().zip(scores) {
        match score {
            Ok(score) => {
                logprob += score.logprob;
                tokens += u64::from(score.tokens);
            }
            Err(Unanswered(why)) => {
                tracing::warn!(record = job.record, "held out of the measure: {why}")
            }
        }
    }
    if tokens == 0 {
        return Err(RunError::Settings {
            what: "none of the held-out answers fits the model's context".into(),
            hint: "shorten them, or leave `perplexity` out of `evaluate.measures`".into(),
        });
    }
    Ok((-logprob / tokens as f64).exp())
}

/// Greedy answers of the policy to the held-out prompts, without principles or exemplars.
fn own_answers(
    shop: &Workshop<'_>,
    book: &Notebook,
    place: Place<'_>,
    policy: &Policy,
) -> Result<Vec<Completion>, RunError> {
    let decoding = answer_decoding(shop);
    let jobs: Vec<Job> = shop
        .held_out
        .iter()
        .map(|row| {
            let id = &row.prompt.id;
            Job {
                key: id.clone(),
                record: id.clone(),
                prompt: row.prompt.text.clone(),
                decoding: decoding.clone(),
                seed: seed::of([shop.seed(place).into(), id.as_str().into()]),
            }
        })
        .collect();
    let open: Vec<&Job> = jobs.iter().collect();
    let bar = shop.progress.stage(&label(place), open.len() as u64, "completions");
    let mut answers: Vec<Option<Completion>> = vec![None; jobs.len()];
    let index: std::collections::HashMap<&str, usize> =
        jobs.iter().enumerate().map(|(i, job)| (job.key.as_str(), i)).collect();
    shop.models.complete("policy", policy, &open, None, shop.cancel, &mut |job, result| {
        if let Ok(completion) = result {
            bar.note_tokens(u64::from(completion.tokens));
            answers[index[job.key.as_str()]] = Some(completion);
        }
        bar.inc(1);
        Ok(())
    })?;
    shop.check_cancel(book)?;
    bar.finish();
    Ok(answers.into_iter().flatten().collect())
}

fn answer_decoding(shop: &Workshop<'_>) -> Decoding {
    Decoding {
        temperature: Some(0.0),
        top_p: Some(1.0),
        top_k: Some(0),
        repetition_penalty: Some(1.0),
        max_new_tokens: Some(shop.set.generate.max_new_tokens),
        stop: Some(Vec::new()),
    }
}
