//! How a run ends: what the best round made in `final/`, with a card, and the journal's last line.

use super::Prepared;
use super::card::card;
use super::directory::Directory;
use super::export::{self, Cost};
use super::journal;
use super::manifest::Manifest;
use crate::model::export as model_export;
use crate::report::{self, Report};
use crate::round::stage::{Notebook, folder};
use crate::round::{
    ADAPTER, Aligned, EXTRAPOLATED, MODEL, RunError, STATEMENT, Statement, result_name,
};

/// Writes the result and the report, ends the journal, and returns the report. Every step can be done
/// again, so a kill in between does no harm.
pub fn finish(
    prepared: &Prepared,
    book: &mut Notebook,
    mut report: Report,
    reason: &str,
) -> Result<Report, RunError> {
    report.ended = Some(reason.to_owned());
    put_result(prepared, &book.directory, &report)?;
    let digest = book.directory.write_json(report::FILE, &report)?;
    report::run::put(&book.directory, &prepared.manifest, &report)?;
    book.journal.end(reason, report.best_round, [(report::FILE.to_owned(), digest)].into())?;
    Ok(report)
}

/// Puts the best round's adapter into `final/adapter`, or its model into `final/model`, with a model
/// card, unless it is there. A run without a round that trained has none.
///
/// Fails where the round's own is gone.
pub fn put_result(
    prepared: &Prepared,
    directory: &Directory,
    report: &Report,
) -> Result<(), RunError> {
    let Some((from, name)) = made_by(prepared, report.best_round) else { return Ok(()) };
    let (result, card_file) = (format!("final/{name}"), format!("final/{name}/README.md"));
    if directory.has(&card_file) {
        // Each of the two may be gone by itself.
        return export::data(prepared, directory, report);
    }
    directory.copy_folder(&from, &result)?;
    if name == ADAPTER {
        // Trainers and servers take the folder by itself, with what the base reads and writes.
        for (name, bytes) in model_export::text_files(&prepared.models["policy"].model)? {
            directory.write(&format!("{result}/{name}"), &bytes)?;
        }
    }
    export::trainer_state(prepared, directory, report, &result)?;
    export::data(prepared, directory, report)?;
    let cost = Cost::of(directory, &journal::read(directory.path())?)?;
    let command = Manifest::read(directory.path())?.map(|begun| begun.command).unwrap_or_default();
    let statement = format!("{}/{STATEMENT}", folder(report.best_round));
    let trainer: Option<Statement> =
        directory.has(&statement).then(|| directory.read_json(&statement)).transpose()?;
    let card = card(prepared, report, &cost, &command, trainer.as_ref());
    directory.write(&card_file, card.as_bytes())?;
    Ok(())
}

/// Returns the folder that holds what a round made, and what it is called in `final/`. None of a round
/// that made nothing.
fn made_by(prepared: &Prepared, round: u32) -> Option<(String, &'static str)> {
    let name = match (&prepared.aligned, prepared.set.train(round)) {
        _ if round == 0 => return None,
        (Some(Aligned::Adapter(_)), _) => ADAPTER,
        (Some(Aligned::Model(_)), _) => MODEL,
        (None, train) => result_name(train?),
    };
    let folder = folder(round);
    Some(match prepared.set.extrapolate(round) {
        Some(_) => (format!("{folder}/{EXTRAPOLATED}/{name}"), name),
        None => (format!("{folder}/{name}"), name),
    })
}
