//! What plugins have used in the whole run, kept in the journal: their budgets survive a kill.
//!
//! Only plugins that have such a budget are counted, so the journals of all other runs hold nothing of
//! it. What is done before the stages (trying plugins on samples) counts for nothing, and is the same
//! again after a kill.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Models;
use crate::plugin::{Plugin, Spent};
use crate::run::journal::Journal;
use crate::run::plugins::Plugins;

/// The plugins with a budget for the run, and servers, whose tokens are counted.
#[derive(Debug, Default)]
pub struct Budgets {
    plugins: Vec<(String, Plugin, Spent)>,
    /// Under what they are counted, their counts, and what these were when the stage began.
    servers: Vec<(String, Arc<AtomicU64>, u64)>,
}

impl Budgets {
    /// Takes what finished stages used from the journal.
    pub fn open(plugins: &Plugins, models: &Models, journal: &Journal) -> Budgets {
        let limited = plugins.by_place().filter(|(_, plugin)| plugin.has_run_budget());
        let plugins = limited.map(|(place, plugin)| {
            let mut spent = Spent::default();
            for counts in journal.counts() {
                spent += used(&place, counts);
            }
            (place, plugin.clone(), spent)
        });
        let servers = models.served().map(|served| {
            let name = format!("{SERVER}{}.{TOKENS}", served.name());
            let tokens = journal.counts().filter_map(|counts| counts.get(&name)).sum();
            let meter = served.meter();
            meter.store(tokens, Ordering::Relaxed);
            (name, meter, tokens)
        });
        Budgets { plugins: plugins.collect(), servers: servers.collect() }
    }

    /// Counts what a stage used that was taken over.
    pub fn add(&mut self, counts: &BTreeMap<String, u64>) {
        for (place, _, spent) in &mut self.plugins {
            *spent += used(place, counts);
        }
        for (name, meter, before) in &mut self.servers {
            let tokens = counts.get(name).copied().unwrap_or_default();
            meter.fetch_add(tokens, Ordering::Relaxed);
            *before += tokens;
        }
    }

    /// Begins a stage.
    pub fn begin(&self) {
        for (_, plugin, spent) in &self.plugins {
            plugin.set_used(*spent);
        }
    }

    /// Ends a stage; returns what it used, for its line in the journal.
    pub fn end(&mut self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (place, plugin, spent) in &mut self.plugins {
            let (before, now) = (*spent, plugin.used());
            *spent = now;
            let used = [
                (FUEL, now.fuel - before.fuel),
                (REQUESTS, now.requests - before.requests),
                (TOKENS, now.tokens - before.tokens),
                (LOG_BYTES, now.log_bytes - before.log_bytes),
            ];
            let used = used.into_iter().filter(|(_, number)| *number > 0);
            counts.extend(used.map(|(what, number)| (name(place, what), number)));
        }
        for (name, meter, before) in &mut self.servers {
            let now = meter.load(Ordering::Relaxed);
            if now > *before {
                counts.insert(name.clone(), now - *before);
            }
            *before = now;
        }
        counts
    }
}

/// Before the name of a model that a server answers for: what is counted of it.
pub const SERVER: &str = "server.";

const FUEL: &str = "fuel";
const REQUESTS: &str = "requests";
const TOKENS: &str = "tokens";
const LOG_BYTES: &str = "log-bytes";

fn name(place: &str, what: &str) -> String {
    format!("{place}.{what}")
}

/// Returns what the plugin at a place used of what a stage counted.
fn used(place: &str, counts: &BTreeMap<String, u64>) -> Spent {
    let count = |what| counts.get(&name(place, what)).copied().unwrap_or_default();
    of([count(FUEL), count(REQUESTS), count(TOKENS), count(LOG_BYTES)])
}

fn of([fuel, requests, tokens, log_bytes]: [u64; 4]) -> Spent {
    Spent { fuel, requests, tokens, log_bytes, ..Spent::default() }
}
