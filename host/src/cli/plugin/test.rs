//! `aligner plugin test`: whether a component keeps the contract, tried out in the real runtime.

use serde_json::json;

use super::TestArgs;
use crate::{
    cli::{CliError, exit, host, output},
    conformance::{self, Report, Tested, Verdict},
    plugin::Limits,
};

/// Runs the suite and prints what it found; fails where a check did.
pub fn main(args: &TestArgs) -> Result<(), CliError> {
    let progress = args.shown.open();
    let source = super::named(&args.file, &progress)?;
    let data = match &args.data {
        Some(path) => super::data::some(path, conformance::MOST_DATA)?,
        None => Vec::new(),
    };
    let runtime = host::runtime()?;
    let opened = runtime.open(&source, &Limits::default());
    let report = match &opened {
        Ok(loaded) => {
            let config = args.config.as_deref().unwrap_or("{}");
            let bar = progress.stage("test", conformance::parts(loaded), "parts");
            let report =
                conformance::test(&Tested { loaded, config, data: &data, hear: &|| bar.inc(1) });
            bar.finish();
            report
        }
        Err(error) => {
            let mut report = Report::default();
            report.fail(None, "describes itself", format!("it cannot be loaded\n{error}"));
            report
        }
    };
    let failed = report.of(Verdict::Fail).count();
    let notes = report.of(Verdict::Note).count();
    let checks = report.lines.len() - notes;
    match args.json {
        true => {
            let found = json!({
                "aligner": env!("CARGO_PKG_VERSION"),
                "plugin": args.file,
                "failed": failed,
                "checks": report.lines,
            });
            output::print(&format!("{found:#}\n"))?;
        }
        false => {
            output::print(&format!("{report}{} of {checks} checks passed\n", checks - failed))?
        }
    }
    match report.of(Verdict::Fail).next() {
        None => Ok(()),
        Some(first) => {
            let check = first.interface.map_or_else(
                || first.check.clone(),
                |interface| format!("{interface}, {}", first.check),
            );
            let message = format!("{failed} of {checks} checks failed; the first: {check}");
            Err(CliError::new(exit::PLUGIN, message))
        }
    }
}
