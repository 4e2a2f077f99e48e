//! How a run ends: the best round's adapter in `final/`, with a card, and the journal's last line.

use super::Prepared;
use super::card::card;
use super::directory::Directory;
use crate::model::export;
use crate::report::Report;
use crate::round::RunError;
use crate::round::stage::{Notebook, folder};

/// Writes the result and the report, and ends the journal. Every step can be done again, so a kill in
/// between does no harm.
pub fn finish(
    prepared: &Prepared,
    book: &mut Notebook,
    report: &Report,
    reason: &str,
) -> Result<(), RunError> {
    put_result(prepared, &book.directory, report)?;
    book.directory.write_json("report.json", report)?;
    book.journal.end(reason, report.best_round)?;
    Ok(())
}

/// Puts the best round's adapter into `final/adapter`, with its model card, unless it is there.
///
/// Fails where the round's own adapter is gone.
pub fn put_result(
    prepared: &Prepared,
    directory: &Directory,
    report: &Report,
) -> Result<(), RunError> {
    let trains = prepared.set.train(report.best_round).is_some();
    let card_file = "final/adapter/README.md";
    if !trains || directory.has(card_file) {
        return Ok(());
    }
    directory.copy_folder(&format!("{}/adapter", folder(report.best_round)), "final/adapter")?;
    // Trainers and servers take the folder by itself, with what the base reads and writes.
    let model = &prepared.models["policy"].model;
    for (name, bytes) in export::text_files(model)? {
        directory.write(&format!("final/adapter/{name}"), &bytes)?;
    }
    directory.write(card_file, card(prepared, report).as_bytes())?;
    Ok(())
}
