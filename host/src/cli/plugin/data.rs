//! The records of a file that plugins are called with here.

use std::path::Path;

use super::AfterArg;
use crate::{
    cli::CliError,
    data::{RecordFile, Upto},
    record::Record,
};

/// Reads the first records of a file.
pub fn some(path: &Path, most: usize) -> Result<Vec<Record>, CliError> {
    let mut file = RecordFile::open(path, Upto::Pairs)?;
    let mut records = Vec::new();
    while records.len() < most {
        let rows = file.chunk(most - records.len())?;
        if rows.is_empty() {
            break;
        }
        records.extend(rows.into_iter().map(|row| row.record));
    }
    Ok(records)
}

/// Returns what records carry at a place.
pub fn upto(after: Option<AfterArg>) -> Upto {
    match after {
        Some(AfterArg::Sample) => Upto::Prompts,
        Some(AfterArg::Generate | AfterArg::Judge) | None => Upto::Completions,
        Some(AfterArg::Pair) => Upto::Pairs,
    }
}

/// Returns how large a file is, for progress; 0 where that is not known before its end.
pub fn kib(path: &Path) -> u64 {
    let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if is_gzip { 0 } else { bytes >> 10 }
}
