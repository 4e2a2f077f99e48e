//! How a run ends: what the best round made in `final/`, with a card, and the journal's last line.

use super::Prepared;
use super::card::card;
use super::directory::Directory;
use crate::model::export;
use crate::report::{self, Report};
use crate::round::stage::{Notebook, folder};
use crate::round::{RunError, result_name};

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
    let train = prepared.set.train(report.best_round);
    let Some(train) = train.filter(|_| report.best_round > 0) else { return Ok(()) };
    let name = result_name(train);
    let (result, card_file) = (format!("final/{name}"), format!("final/{name}/README.md"));
    if directory.has(&card_file) {
        return Ok(());
    }
    directory.copy_folder(&format!("{}/{name}", folder(report.best_round)), &result)?;
    if train.lora.is_some() {
        // Trainers and servers take the folder by itself, with what the base reads and writes.
        for (name, bytes) in export::text_files(&prepared.models["policy"].model)? {
            directory.write(&format!("{result}/{name}"), &bytes)?;
        }
    }
    directory.write(&card_file, card(prepared, report, train).as_bytes())?;
    Ok(())
}
