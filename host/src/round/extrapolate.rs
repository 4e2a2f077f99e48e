//! The extrapolate stage: from what a round has trained, on along the line that leads to it
//! ([`crate::extrapolate`]), as far as the settings say or as a search finds best.

mod search;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::json;

use super::learn::digest_of_folder;
use super::method::{ADAPTER, MODEL};
use super::stage::{Made, Notebook, Place};
use super::{Aligned, Outcome, Policy, RunError, Workshop, evaluate, method, signals, summary};
use crate::model::peft;
use crate::plugin_set::{Alpha, Extrapolate, Origin, Start};
use crate::progress::go_on;
use crate::report::{Candidate, Extrapolation};
use crate::run::plugins;

/// The folder of a round in which the extrapolated adapter, or model, is.
pub const FOLDER: &str = "extrapolated";

/// The same of a whole model.
pub const EXTRAPOLATED_MODEL: &str = "extrapolated/model";

/// Goes beyond the policy that a round has trained. Where the round does not extrapolate, the policy
/// stays.
///
/// A search asks the judge as the round's judge stage does: its questions are answered by the policy that
/// enters the round, whichever candidate is judged.
pub fn extrapolate(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    entering: &Policy,
    trained: Policy,
) -> Result<(Policy, Option<Extrapolation>), RunError> {
    let Some(settings) = shop.set.extrapolate(round) else { return Ok((trained, None)) };
    shop.check_cancel(book)?;
    let place = Place { round, stage: "extrapolate" };
    let from = origin(shop, round, settings, entering);
    let mut depends = json!([trained.digest, from.digest, settings]);
    if settings.search().is_some() {
        let judge = plugins::key(shop.plugins.judge.as_ref(), shop.set.judge.as_ref());
        let asked = json!([judge, shop.asking_key(place), entering.digest, shop.held_out_digest]);
        depends = json!([depends, asked]);
    }

    let name = if trained.adapter.is_some() { ADAPTER } else { MODEL };
    let result = format!("{}/{FOLDER}/{name}", place.folder());
    let output = book.stage(place, depends, |book| {
        let line = Line { from: &from, to: &trained };
        let made = match &settings.alpha {
            Alpha::Fixed(alpha) => Made::rows(vec![Candidate {
                alpha: *alpha,
                found: None,
                refused: None,
                chosen: true,
            }]),
            Alpha::Search(wanted) => search::search(shop, book, place, wanted, &line, entering)?,
        };
        let policy = line.at(shop, chosen(&made.rows))?;
        leave(shop, book, &result, &policy)?;
        let files: BTreeMap<_, _> =
            made.files.into_iter().chain(book.directory.digests(&result)?).collect();
        Ok::<_, RunError>(Made { files, ..made })
    })?;

    let digest = digest_of_folder(&result, &output.files);
    let folder = book.directory.join(&result);
    let policy = match trained.adapter {
        Some(_) => shop.models.adapted(peft::read(&folder, &shop.models.policy().spec)?)?,
        None if book.journal.removed(&result) => shop.models.without_weights(&folder, &digest),
        None => shop.models.with_weights(&folder, &digest)?,
    };
    let policy = policy.of_round(round);
    let extrapolation = Extrapolation {
        alpha: chosen(&output.rows),
        from: match settings.from {
            Origin::Initial => "initial".into(),
            Origin::Previous => "previous".into(),
        },
        objective: settings.search().map(|search| search.objective.as_str().to_owned()),
        candidates: output.rows,
    };
    Ok((policy, Some(extrapolation)))
}

/// Does the round of a run whose aligned model is given: nothing but what comes after training.
pub fn given(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    round: u32,
    entering: &Policy,
    aligned: &Aligned,
) -> Result<Outcome, RunError> {
    let aligned = shop.models.aligned(aligned)?;
    let (policy, extrapolated) = extrapolate(shop, book, round, entering, aligned)?;
    let held_out = evaluate::held_out(shop, book, round, &policy)?;
    let signals = signals::after(shop, &held_out);
    let summary = summary::of_given(round, signals, extrapolated, held_out);
    Ok(Outcome { policy, summary, trained: Vec::new() })
}

/// The line from one policy through another.
struct Line<'a> {
    from: &'a Policy,
    to: &'a Policy,
}

impl Line<'_> {
    fn at(&self, shop: &Workshop<'_>, alpha: f64) -> Result<Policy, RunError> {
        shop.models.extrapolated(self.from, self.to, alpha)
    }
}

/// Returns what the line begins at: the initial model, or what training began with.
fn origin(shop: &Workshop<'_>, round: u32, settings: &Extrapolate, entering: &Policy) -> Policy {
    let start = shop.set.train(round).map_or(Start::Initial, |train| train.start);
    match (settings.from, start) {
        (Origin::Previous, Start::Previous) => entering.clone(),
        (Origin::Initial, _) | (_, Start::Initial) => shop.models.initial(),
    }
}

/// Returns the alpha that was chosen: one candidate always is.
fn chosen(candidates: &[Candidate]) -> f64 {
    candidates.iter().find(|candidate| candidate.chosen).map_or(0.0, |candidate| candidate.alpha)
}

/// Writes the chosen policy as a folder that other tools read.
fn leave(
    shop: &Workshop<'_>,
    book: &Notebook,
    name: &str,
    policy: &Policy,
) -> Result<(), RunError> {
    let own = shop.models.policy();
    let written = book.directory.write_folder(name, |folder| match &policy.adapter {
        Some(adapter) => method::leave_adapter(own, adapter, folder),
        None => {
            let model = shop.aligned.and_then(Aligned::model).unwrap_or(own);
            let mut count = shop.progress.counter("extrapolating", "tensors");
            let mut hear = |done: usize, total: usize| -> ControlFlow<()> {
                count(done, total);
                go_on(shop.cancel)
            };
            method::leave_model(model, policy.checkpoint(), folder, &mut hear)
        }
    });
    // What was broken off is no failure of the writing.
    shop.check_cancel(book)?;
    written
}
