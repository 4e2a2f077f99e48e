//! How a run ends: the best round's adapter in `final/`, with a card, and the journal's last line.

use super::Prepared;
use super::card::card;
use crate::report::Report;
use crate::round::RunError;
use crate::round::stage::{Notebook, folder};

/// Puts the best round's adapter into `final/adapter` with its model card, writes the report, and
/// ends the journal. Every step can be done again, so a kill in between does no harm.
pub fn finish(
    prepared: &Prepared,
    book: &mut Notebook,
    report: &Report,
    reason: &str,
) -> Result<(), RunError> {
    let adapter = format!("{}/adapter", folder(report.best_round));
    if book.directory.has(&adapter) {
        book.directory.copy_folder(&adapter, "final/adapter")?;
        book.directory.write("final/adapter/README.md", card(prepared, report).as_bytes())?;
    }
    book.directory.write_json("report.json", report)?;
    book.journal.end(reason, report.best_round)?;
    Ok(())
}
