//! The filter of `make bench-plugins` as an Extism plugin: a list of records comes in as JSON, a list of
//! verdicts goes out.

#[path = "../../../light.rs"]
mod light;

use extism_pdk::{FnResult, Json, plugin_fn};
use serde::{Deserialize, Serialize};

/// As much of a record as this filter reads.
#[derive(Deserialize)]
struct Row {
    #[allow(dead_code, reason = "a verdict is about a prompt, which comes along")]
    prompt: String,
    completion: String,
}

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

/// Judges each row.
#[plugin_fn]
pub fn filter(Json(rows): Json<Vec<Row>>) -> FnResult<Json<Vec<Verdict>>> {
    let verdict = |row: &Row| {
        let reason = light::fault(&row.completion);
        Verdict { keep: reason.is_none(), reason }
    };
    Ok(Json(rows.iter().map(verdict).collect()))
}
