//! The filter of `make bench-plugins` as an Extism plugin: a list of records comes in as JSON, a list of
//! verdicts goes out.

#[path = "../../../light.rs"]
mod light;
#[path = "../../record.rs"]
#[allow(
    dead_code,
    reason = "a filter reads the completion; the rest is parsed, as a plugin has to"
)]
mod record;

use extism_pdk::{FnResult, Json, plugin_fn};
use record::Record;
use serde::Serialize;

#[derive(Serialize)]
struct Verdict {
    keep: bool,
    reason: Option<&'static str>,
}

/// Does nothing.
#[plugin_fn]
pub fn empty() -> FnResult<()> {
    Ok(())
}

/// Judges each record.
#[plugin_fn]
pub fn filter(Json(records): Json<Vec<Record>>) -> FnResult<Json<Vec<Verdict>>> {
    let verdict = |record: &Record| {
        let completions = record.variants.iter().filter_map(|it| it.completion.as_ref());
        let reason = completions.map(|it| light::fault(&it.text)).find_map(|it| it);
        Verdict { keep: reason.is_none(), reason }
    };
    Ok(Json(records.iter().map(verdict).collect()))
}
