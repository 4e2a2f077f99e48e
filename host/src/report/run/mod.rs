//! The page of a run, `report.html`: what its report, its journal and its stages' files say, in pictures.
//!
//! `read` collects the numbers out of a run directory, `page` makes one file of them, and `compare` puts runs
//! beside each other. But for one block of times, equal runs have equal pages.

pub mod compare;
pub mod data;
pub mod funnel;
mod held_out;
mod page;
mod pictures;
pub mod read;

use std::path::Path;

use serde::Serialize;

use super::Report;
use crate::run::directory::{Directory, DirectoryError};
use crate::run::manifest::Manifest;
use data::Details;

pub use page::page;

/// The page's file in a run directory.
pub const FILE: &str = "report.html";

/// What is known of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// What the run is; absent where that cannot be read.
    pub manifest: Option<Manifest>,
    /// What it did so far.
    pub report: Report,
    /// What else its files say.
    pub details: Details,
    /// All that may differ between equal runs.
    pub times: Vec<Time>,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Time {
    /// 0 is the pool.
    pub round: u32,
    /// For example `generate`.
    pub stage: String,
    /// Wall time of the work that one process did.
    pub seconds: f64,
    /// Largest resident memory of that process so far, in bytes.
    pub peak_memory_bytes: u64,
}

impl RunView {
    /// Reads the run in a directory of which the report is known. What cannot be read is named in
    /// [`Details::missing`].
    pub fn read(run: &Path, manifest: Option<Manifest>, report: Report) -> RunView {
        let set = manifest.as_ref().map(|manifest| &manifest.plugin_set);
        let details = read::details(run, &report, set);
        RunView { manifest, report, details, times: read::times(run) }
    }
}

/// Writes the page of a run into its directory. What cannot be read of the run is missing on the page, which
/// says so, and fails nothing.
pub fn put(
    directory: &Directory,
    manifest: &Manifest,
    report: &Report,
) -> Result<(), DirectoryError> {
    let view = RunView::read(directory.path(), Some(manifest.clone()), report.clone());
    for what in &view.details.missing {
        tracing::warn!("{FILE}: {what}");
    }
    directory.write(FILE, page(&view).as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests;
