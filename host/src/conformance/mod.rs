//! Whether a plugin keeps the contract, tried out in the real runtime: `aligner plugin test`.
//!
//! The suite calls a component as rounds do, with records of every shape, batches cut in every way, texts
//! that programs stumble over, and a model that is a script. It needs no model and knows no file. What is
//! found is a list of lines, each with the plugin's own words where it fails.

mod answers;
mod config;
mod limits;
mod of_records;
mod of_samplers;
mod rebatch;
mod records;
mod report;
mod said;
pub mod texts;
mod workload;

pub use answers::{Asked, Script, Scripted};
pub use limits::fuel_of_a_call;
pub use rebatch::{Way, differing};
pub use records::{Maker, Shape, exemplars};
pub use report::{Line, Report, Verdict};
pub use said::{PLACE, Said, Subject};
pub use workload::Workload;

use std::collections::BTreeSet;

use crate::plugin::{Grant, Interface, Kind, Limits, Loaded, Plugin, PluginError, Setup};
use crate::record::Record;
use crate::round::{GRAMMAR, Need};

/// Models that a plugin may ask from the start; others are found out by what it asks.
const MODELS: [&str; 4] = ["policy", "initial", "previous", "reward"];
/// The most models that one plugin asks.
const MOST_MODELS: usize = 32;
/// Records of the user's that take part.
pub const MOST_DATA: usize = 256;
/// What a request without `max-new-tokens` counts as.
const MAX_NEW_TOKENS: u32 = 256;
/// Tokens that a stage may have: no plugin under test is to fail for want of them.
const TOKENS: u64 = 1 << 50;

/// What is under test.
pub struct Tested<'a> {
    /// The component.
    pub loaded: &'a Loaded,
    /// The text of a JSON object.
    pub config: &'a str,
    /// Records of the user's, for plugins over records; may be empty.
    pub data: &'a [Record],
    /// Called when each of the parts is done.
    pub hear: &'a dyn Fn(),
}

/// Runs the whole suite.
pub fn test(tested: &Tested<'_>) -> Report {
    let Tested { loaded, config, hear, .. } = tested;
    let kinds: Vec<String> = loaded.kinds().iter().map(ToString::to_string).collect();
    let mut report = Report::default();
    let about = format!("{} `{}` {}", kinds.join(" and "), loaded.name(), loaded.version());
    report.ok(None, "describes itself", about);
    needs(loaded, &mut report);
    let mut takes = true;
    for kind in loaded.kinds() {
        takes &= config::check(loaded, kind, config, &mut report);
    }
    if !takes {
        return report;
    }
    for &interface in loaded.interfaces() {
        match interface {
            Interface::Sampler => of_samplers::sampler(tested, &mut report),
            Interface::PromptWriter => of_samplers::writer(tested, &mut report),
            _ => of_records::check(tested, interface, &mut report),
        }
        hear();
    }
    report
}

/// Returns of how many parts [`test`] tells that they are done.
pub fn parts(loaded: &Loaded) -> u64 {
    let parts = |interface: &Interface| match interface {
        Interface::Sampler => 1,
        Interface::PromptWriter => 4,
        _ => 5,
    };
    loaded.interfaces().iter().map(parts).sum()
}

/// Says whether what the plugin needs measured can be.
fn needs(loaded: &Loaded, report: &mut Report) {
    let wrong: Vec<_> = loaded.needs().iter().filter(|name| Need::parse(name).is_none()).collect();
    match (wrong.first(), loaded.needs()) {
        (Some(wrong), _) => {
            report.fail(None, "needs", format!("`{wrong}` is no measurement; {GRAMMAR}"));
        }
        (None, []) => {}
        (None, needs) => report.ok(None, "needs", needs.join(", ")),
    }
}

/// Configures a plugin for one of its interfaces. `call` is made again with the right to ask each model
/// that it turns out to ask.
fn with_grants<T>(
    loaded: &Loaded,
    interface: Interface,
    config: &str,
    mut call: impl FnMut(&Plugin) -> Result<T, PluginError>,
) -> Result<(Plugin, T), PluginError> {
    let mut models: BTreeSet<String> = MODELS.map(str::to_owned).into();
    loop {
        let plugin = loaded.configure(setup(interface.kind(), config, models.clone()))?;
        match call(&plugin) {
            Ok(found) => return Ok((plugin, found)),
            Err(error) => match error.ungranted() {
                Some(model) if models.len() < MOST_MODELS && models.insert(model.to_owned()) => {}
                _ => return Err(error),
            },
        }
    }
}

/// Returns how a plugin is called that may ask these models.
pub fn setup(kind: Kind, config: &str, models: BTreeSet<String>) -> Setup {
    let grant = Grant::new(models, TOKENS, MAX_NEW_TOKENS);
    let limits = Limits::default();
    Setup { config: config.to_owned(), grant: Some(grant), limits, ..Setup::new(kind) }
}
