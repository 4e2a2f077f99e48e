//! What this machine and this build can do, tried out: for `aligner doctor`.
//!
//! Each check comes to one [`Finding`]. Nothing here is part of a run; models are random ones of a few
//! megabytes, made in memory.

mod cuda;
mod machine;
mod model;
mod speed;
mod wasm;

use serde::Serialize;

use crate::plugin::{PluginError, Runtime, Source};
use crate::shown::one_line;

pub use cuda::{Wish, cuda, kernels};
pub use machine::{cache, cores, cpu, disk, memory};
pub use model::{determinism, gradient};
pub use speed::{decode, product};
pub use wasm::wasm;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// Runs work, and not as well as they could.
    Warning,
    /// Some or all runs do not work.
    Failed,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// For example `memory`.
    pub check: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found, on one line.
    pub found: String,
    /// The same in numbers, by name with unit; empty where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_object")]
    pub numbers: Vec<(&'static str, f64)>,
    /// The way out, where all is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        let (found, status) = (found.into(), Status::Ok);
        Finding { check, status, found, numbers: Vec::new(), hint: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Finding {
        let hint = Some(hint.into());
        Finding { status: Status::Warning, hint, ..Finding::ok(check, found) }
    }

    /// Returns a check that failed, with the way out.
    pub fn failed(
        check: &'static str,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        Finding { status: Status::Failed, ..Finding::warning(check, found, hint) }
    }

    fn with(mut self, name: &'static str, number: f64) -> Finding {
        self.numbers.push((name, number));
        self
    }
}

fn as_object<S: serde::Serializer>(
    numbers: &[(&'static str, f64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(numbers.iter().copied())
}

/// The plugin runtime, and the component that it is tried on.
pub struct Tried<'a> {
    /// As for runs.
    pub runtime: &'a Runtime,
    /// `builtin:length`.
    pub component: &'a Source,
}

/// Returns findings as lines, each with its way out under it, and how many failed at the end.
pub fn table(findings: &[Finding]) -> String {
    let widest = findings.iter().map(|it| it.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, status, found, hint, .. } in findings {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
        };
        text.push_str(&format!("{status:<9}{check:<widest$}  {}\n", one_line(found, 600)));
        if let Some(hint) = hint {
            let blank = "";
            text.push_str(&format!("{blank:<9}{blank:<widest$}  hint: {}\n", one_line(hint, 600)));
        }
    }
    text
}

/// Returns how many checks failed.
pub fn failures(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.status == Status::Failed).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_with_their_way_out() {
        let findings = [
            Finding::ok("cores", "2"),
            Finding::warning("memory", "0.5 GB", "close something"),
            Finding::failed("determinism", "two\nlines", "report it").with("bits", 1.0),
        ];
        assert_eq!(
            table(&findings),
            "\
ok       cores        2
warning  memory       0.5 GB
                      hint: close something
failed   determinism  two lines
                      hint: report it
"
        );
        assert_eq!(failures(&findings), 1);
        assert_eq!(
            serde_json::to_string(&findings[2]).unwrap(),
            r#"{"check":"determinism","status":"failed","found":"two\nlines","numbers":{"bits":1.0},"hint":"report it"}"#
        );
        assert_eq!(
            serde_json::to_string(&findings[0]).unwrap(),
            r#"{"check":"cores","status":"ok","found":"2"}"#
        );
    }
}
