//! What became of the records of a round: what enters each stage, and what leaves it for which reason.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

/// Records on their way through the stages of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Funnel {
    /// In order; what enters one is what entered the one before, less what left there.
    pub stages: Vec<FunnelStage>,
    /// Those that stay to the end.
    pub stays: u64,
    /// Whether all stages of the round are done.
    pub complete: bool,
}

/// A stage of a funnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunnelStage {
    /// For example `filter-generate`.
    pub stage: String,
    /// Records that it worked on.
    pub enters: u64,
    /// The most frequent first.
    pub leaves: Vec<Leave>,
}

/// Records that left a stage for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leave {
    /// For example `too-long`.
    pub reason: String,
    /// The plugin with its version, or `aligner`.
    pub by: String,
    /// How many.
    pub count: u64,
}

/// A record that leaves.
pub struct Drop {
    /// The record's id.
    pub id: String,
    /// Why.
    pub reason: String,
    /// The plugin with its version, or `aligner`.
    pub by: String,
}

/// Finds out a funnel, stage by stage.
#[derive(Debug, Default)]
pub struct Sieve {
    alive: HashSet<String>,
    stages: Vec<FunnelStage>,
}

impl Sieve {
    /// Begins with the ids of all records.
    pub fn new(ids: impl IntoIterator<Item = String>) -> Sieve {
        Sieve { alive: ids.into_iter().collect(), stages: Vec::new() }
    }

    /// Adds a stage. A record leaves once, whatever is said of it later.
    pub fn stage(&mut self, stage: &str, drops: impl IntoIterator<Item = Drop>) {
        let enters = self.alive.len() as u64;
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for Drop { id, reason, by } in drops {
            if self.alive.remove(&id) {
                *counts.entry((reason, by)).or_default() += 1;
            }
        }
        let leave = |((reason, by), count)| Leave { reason, by, count };
        let mut leaves: Vec<Leave> = counts.into_iter().map(leave).collect();
        leaves.sort_by_key(|leave| std::cmp::Reverse(leave.count));
        self.stages.push(FunnelStage { stage: stage.to_owned(), enters, leaves });
    }

    /// Returns whether a record is still there.
    pub fn holds(&self, id: &str) -> bool {
        self.alive.contains(id)
    }

    /// Returns what was found.
    pub fn funnel(&self, complete: bool) -> Funnel {
        Funnel { stages: self.stages.clone(), stays: self.alive.len() as u64, complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(id: &str, reason: &str) -> Drop {
        Drop { id: id.into(), reason: reason.into(), by: "aligner".into() }
    }

    #[test]
    fn what_enters_is_what_stays_and_what_leaves() {
        let mut sieve = Sieve::new(["a", "b", "c", "d", "e", "f"].map(String::from));
        sieve.stage("sample", []);
        sieve.stage("generate", [drop("a", "too-long"), drop("z", "too-long")]);
        // One that has left already is not counted again.
        sieve.stage("filter", [drop("a", "x"), drop("b", "x"), drop("c", "y"), drop("d", "y")]);
        let funnel = sieve.funnel(true);
        let enters: Vec<u64> = funnel.stages.iter().map(|stage| stage.enters).collect();
        assert_eq!((enters, funnel.stays), (vec![6, 6, 5], 2));
        let leaves: Vec<(&str, u64)> = funnel.stages[2]
            .leaves
            .iter()
            .map(|leave| (leave.reason.as_str(), leave.count))
            .collect();
        assert_eq!(leaves, [("y", 2), ("x", 1)]);
        let left: u64 =
            funnel.stages.iter().flat_map(|stage| &stage.leaves).map(|it| it.count).sum();
        assert_eq!(funnel.stages[0].enters, funnel.stays + left);
        assert!(sieve.holds("e") && !sieve.holds("a"));
    }

    #[test]
    fn nothing_goes_through_nothing() {
        let mut sieve = Sieve::new([]);
        sieve.stage("sample", [drop("a", "x")]);
        let funnel = sieve.funnel(false);
        assert_eq!((funnel.stages[0].enters, funnel.stays, funnel.complete), (0, 0, false));
        assert!(funnel.stages[0].leaves.is_empty());
    }
}
