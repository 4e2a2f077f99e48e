//! The evaluate stage: native measures on held-out prompts, the same for every method.

use serde_json::json;

use super::anchors::agreement;
use super::ask::Asker;
use super::diversity::{distinct_2, mean};
use super::stage::{Made, Notebook, Place};
use super::{Policy, RunError, Workshop};
use crate::data::HeldOut;
use crate::plugin::Ask;
use crate::plugin_set::Measure;
use crate::record::{Answer, Completion, Decoding, Request};
use crate::report::Measured;
use crate::run::seed;

/// Measures a policy, in the order of `evaluate.measures`. Round 0 is the initial model. Without `[evaluate]` there
/// is nothing to do, and a reward model, which is no policy, has no measures.
pub fn held_out(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    policy: &Policy,
) -> Result<Vec<Measured>, RunError> {
    let Some(evaluate) = &shop.set.evaluate else { return Ok(Vec::new()) };
    if policy.is_reward_model() {
        return Ok(Vec::new());
    }
    let of_prompts: Vec<Measure> =
        evaluate.measures.iter().copied().filter(|measure| measure.is_held_out()).collect();
    let mut rows = match of_prompts[..] {
        [] => Vec::new(),
        _ => on_prompts(shop, book, round, policy, &of_prompts)?,
    };
    if let Some(at) = evaluate.measures.iter().position(|measure| *measure == Measure::Agreement) {
        let value = agreement(shop, book, round, policy)?;
        rows.insert(at, Measured { measure: Measure::Agreement.as_str().into(), value });
    }
    Ok(rows)
}

/// Measures a policy on the held-out prompts.
fn on_prompts(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    policy: &Policy,
    measures: &[Measure],
) -> Result<Vec<Measured>, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round, stage: "evaluate" };
    let answers = answer_decoding(shop);
    let depends = json!([policy.digest, shop.held_out_digest, measures, answers]);
    let output = book.stage(place, depends, |book| {
        let own = measures.iter().any(|measure| measure.is_of_answers());
        let mut asker = Asker::open(shop, book, place, policy)?;
        let answers = if own { own_answers(shop, place, &mut asker)? } else { Vec::new() };
        let of_answers =
            |of: fn(&Completion) -> Option<f64>| mean(answers.iter().filter_map(of)).unwrap_or(0.0);
        let mut rows = Vec::new();
        for &measure in measures {
            let value = match measure {
                Measure::Perplexity => perplexity(shop, place, &mut asker)
                    .map_err(RunError::of_policy(policy.round))?,
                Measure::Distinct2 => distinct_2(answers.iter().map(|c| c.text.as_str())),
                Measure::Length => of_answers(|completion| Some(f64::from(completion.tokens))),
                Measure::Entropy => of_answers(|completion| completion.entropy),
                // Not of prompts.
                Measure::Agreement => continue,
            };
            rows.push(Measured { measure: measure.as_str().into(), value });
        }
        asker.close(book, Made::rows(rows))
    })?;
    Ok(output.rows)
}

/// Returns the perplexity of the trusted answers over all their tokens (`exp` of the mean negative
/// log-likelihood of a token, so long answers weigh more).
fn perplexity(
    shop: &Workshop<'_>,
    place: Place<'_>,
    asker: &mut Asker<'_>,
) -> Result<f64, RunError> {
    let request = |row: &HeldOut| Request::Score {
        model: "policy".into(),
        prompt: row.prompt.text.clone(),
        completion: row.answer.clone(),
    };
    let (mut logprob, mut tokens) = (0.0, 0u64);
    for answer in ask(shop, place, asker, 0, request)? {
        if let Answer::Score(score) = answer {
            logprob += score.logprob;
            tokens += u64::from(score.tokens);
        }
    }
    if tokens == 0 {
        return Err(RunError::Settings {
            what: "none of the held-out answers fits the model's context".into(),
            hint: "shorten them, or leave `perplexity` out of `evaluate.measures`".into(),
        });
    }
    let value = (-logprob / tokens as f64).exp();
    if !value.is_finite() {
        return Err(RunError::Perplexity { round: place.round });
    }
    Ok(value)
}

/// Greedy answers of the policy to the held-out prompts, without principles or exemplars.
fn own_answers(
    shop: &Workshop<'_>,
    place: Place<'_>,
    asker: &mut Asker<'_>,
) -> Result<Vec<Completion>, RunError> {
    let request = |row: &HeldOut| Request::Generate {
        model: "policy".into(),
        prompt: row.prompt.text.clone(),
        decoding: answer_decoding(shop),
        seed: 0,
    };
    let answers = ask(shop, place, asker, 1, request)?;
    let completions = answers.into_iter().filter_map(|answer| match answer {
        Answer::Completion(completion) => Some(completion),
        _ => None,
    });
    Ok(completions.collect())
}

/// Asks about every held-out row, as a plugin would: the answers have a ledger and a file.
fn ask(
    shop: &Workshop<'_>,
    place: Place<'_>,
    asker: &mut Asker<'_>,
    index: usize,
    request: impl Fn(&HeldOut) -> Request,
) -> Result<Vec<Answer>, RunError> {
    let requests: Vec<Request> = shop.held_out.iter().map(request).collect();
    let asks: Vec<Ask<'_>> = shop
        .held_out
        .iter()
        .zip(&requests)
        .map(|(row, request)| {
            let id = row.prompt.id.as_str();
            let seed = seed::of([shop.seed(place).into(), id.into()]);
            Ask { record: id, index, seed, request }
        })
        .collect();
    let answers = asker.answer_all(&asks)?;
    for (ask, answer) in asks.iter().zip(&answers) {
        if let Answer::Unanswered(why) = answer {
            tracing::warn!(record = ask.record, "not measured: {why}");
        }
    }
    Ok(answers)
}

fn answer_decoding(shop: &Workshop<'_>) -> Decoding {
    Decoding::greedy(shop.set.generate.max_new_tokens)
}
