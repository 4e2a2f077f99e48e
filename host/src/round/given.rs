//! Completions that are given, in the place of generated ones: the pairs of `[data] pairs`.

use serde_json::json;

use super::generate::apply;
use super::models::row;
use super::rows::Generated;
use super::stage::{Made, Notebook, Place, label};
use super::{Flow, Policy, RunError, Workshop};
use crate::data::{GivenPair, GivenSteered};
use crate::generate::{SequenceError, Settings};
use crate::logprob::{Row, score};
use crate::model::ModelError;
use crate::progress::go_on;
use crate::record::{Completion, Finish, Message, Speaker, Text, Variant, VariantRole};

/// Records that are scored before they are written down.
const AT_ONCE: usize = 64;

/// Gives each record the completions of its pair: `chosen` as the good variant, `rejected` as the bad
/// one, and where the pair has principles the plain one between. What a plugin may know of a
/// completion, its logprob under the policy above all, is measured here.
pub fn complete(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    flow: Flow,
    policy: &Policy,
) -> Result<Flow, RunError> {
    shop.check_cancel(book)?;
    let place = Place { round, stage: "given" };
    let output = book.stage(place, json!([flow.digest, policy.digest]), |book| {
        let (mut rows, mut ledger) =
            book.directory.ledger_of_answers::<Generated>(&place.ledger())?;
        let bar = shop.progress.stage(&label(place), flow.records.len() as u64, "records");
        bar.inc(rows.len() as u64);
        while rows.len() < flow.records.len() {
            let batch = &flow.records[rows.len()..flow.records.len().min(rows.len() + AT_ONCE)];
            let bare = batch.iter().map(|record| Generated {
                id: record.id().to_owned(),
                variants: shop.given.get(record.id()).map(variants).unwrap_or_default(),
                keys: Vec::new(),
                dropped: None,
            });
            for row in measured(shop, book, policy, bare.collect())? {
                ledger.append_soon(&row)?;
                rows.push(row);
            }
            bar.inc(batch.len() as u64);
        }
        bar.finish();
        Ok::<_, RunError>(Made::rows(rows))
    })?;
    Ok(apply(flow, output))
}

/// Returns the variants of a pair, with what is not measured yet at its least.
pub fn variants(pair: &GivenPair) -> Vec<Variant> {
    let GivenPair { prompt, chosen, rejected, steered } = pair;
    let variant = |name: &str, role, prompt: Text, text: &str| {
        let completion = Completion::unmeasured_of(text, 1, Finish::Stop);
        Variant { name: name.to_owned(), role, prompt, completion: Some(completion) }
    };
    let under = |system: &str| match &prompt.text {
        Text::Raw(text) => Text::Raw(text.clone()),
        Text::Chat(messages) => {
            let system = Message { speaker: Speaker::System, content: system.to_owned() };
            Text::Chat([vec![system], messages.clone()].concat())
        }
    };
    let [good, bad] = [VariantRole::Good, VariantRole::Bad];
    match steered {
        None => vec![
            variant("chosen", good, prompt.text.clone(), chosen),
            variant("rejected", bad, prompt.text.clone(), rejected),
        ],
        Some(GivenSteered { raw, p_system, n_system }) => vec![
            variant("raw", VariantRole::Plain, prompt.text.clone(), raw),
            variant("chosen", good, under(p_system), chosen),
            variant("rejected", bad, under(n_system), rejected),
        ],
    }
}

/// Measures the completions of some records; one that the model cannot read is marked as dropped.
fn measured(
    shop: &Workshop<'_>,
    book: &Notebook,
    policy: &Policy,
    mut records: Vec<Generated>,
) -> Result<Vec<Generated>, RunError> {
    // The rows, and whose each is.
    let (mut rows, mut owners): (Vec<Row>, Vec<usize>) = (Vec::new(), Vec::new());
    for (i, record) in records.iter_mut().enumerate() {
        let encode = |variant: &Variant| {
            let text = variant.completion.as_ref().map_or("", |completion| &completion.text);
            row(shop.models.policy(), &variant.prompt, text)
        };
        match record.variants.iter().map(encode).collect::<Result<Vec<Row>, _>>() {
            Ok(own) => {
                owners.extend(own.iter().map(|_| i));
                rows.extend(own);
            }
            Err(ModelError::TooLong { .. }) => record.dropped = Some("too-long".into()),
            Err(error) => return Err(RunError::of_record(&record.id)(error)),
        }
    }
    let (engine, adapter) = shop.models.scorer(policy)?;
    let mut go_on = |_| go_on(shop.cancel);
    let settings = Settings::on(shop.models.device());
    let scores = score(&engine, adapter, &rows, &settings, &mut go_on);
    if let Err(SequenceError::Cancelled) = scores {
        shop.check_cancel(book)?;
    }
    let scores = scores.map_err(|error| RunError::of_engine(error, |row| &records[owners[row]].id));
    let mut scores = scores.map_err(RunError::of_policy(policy.round))?.into_iter();
    for record in &mut records {
        for variant in &mut record.variants {
            if record.dropped.is_some() {
                variant.completion = None;
            } else if let (Some(completion), Some(score)) = (&mut variant.completion, scores.next())
            {
                let tokens = score.token_logprobs.len();
                completion.tokens = tokens as u32;
                completion.logprob = score.logprob.min(0.0);
                completion.entropy = Some(score.entropy / tokens.max(1) as f64);
            }
        }
    }
    Ok(records)
}
