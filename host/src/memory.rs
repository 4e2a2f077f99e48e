//! How much memory a program takes, stage by stage and part by part, and how much there is.
//!
//! Parts come from the code that allocates them ([`TrainMemory`], [`DecodeMemory`],
//! [`Weights::bytes`]); here they are put together and compared.

mod available;

use std::fmt;

pub use available::{available, give_back, resident};

use crate::generate::DecodeMemory;
use crate::model::backend::{AnyDevice, WeightType};
use crate::model::checkpoint::Checkpoint;
use crate::model::weights::Weights;
use crate::train::TrainMemory;

/// What memory is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The program itself: code, tokenizer, plugins, texts.
    Program,
    /// Mapped files of models, which the system takes back when it needs the room.
    Files,
    /// Weights as the kernels want them.
    Weights,
    /// A tensor that is being read.
    Reading,
    /// Adapters, in training and in use.
    Adapters,
    /// Gradients and moments.
    Gradients,
    /// What a training pass keeps.
    Activations,
    /// Keys and values.
    Cache,
    /// What passes work in.
    Passes,
    /// Logits that are held at a time.
    Logits,
    /// Copies of what is trained, for a saved state.
    Copies,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Program => "the program",
            Part::Files => "mapped files",
            Part::Weights => "weights",
            Part::Reading => "the tensor that is read",
            Part::Adapters => "adapters",
            Part::Gradients => "gradients and moments",
            Part::Activations => "activations",
            Part::Cache => "keys and values",
            Part::Passes => "working memory",
            Part::Logits => "logits",
            Part::Copies => "a saved state",
        })
    }
}

/// The stage of a run that trains.
pub const TRAINING: &str = "training";

/// What a stage holds at its height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// For example `training`.
    pub name: &'static str,
    /// In bytes, each part once.
    pub parts: Vec<(Part, u64)>,
}

impl Stage {
    /// Returns a stage in which nothing is held yet.
    pub fn new(name: &'static str) -> Stage {
        Stage { name, parts: Vec::new() }
    }

    /// Adds bytes to a part.
    pub fn with(mut self, part: Part, bytes: usize) -> Stage {
        match self.parts.iter_mut().find(|(known, _)| *known == part) {
            Some((_, sum)) => *sum += bytes as u64,
            None => self.parts.push((part, bytes as u64)),
        }
        self
    }

    /// Adds what decoding or scoring holds.
    pub fn decoding(self, memory: &DecodeMemory) -> Stage {
        let DecodeMemory { cache, pass, logits } = *memory;
        self.with(Part::Cache, cache).with(Part::Passes, pass).with(Part::Logits, logits)
    }

    /// Adds what training holds, but for weights beside an adapter, which are there anyway.
    pub fn training(self, memory: &TrainMemory) -> Stage {
        let TrainMemory { adapter, gradients, moments, activations, .. } = *memory;
        let TrainMemory { products, logits, copies, .. } = *memory;
        self.with(Part::Adapters, adapter)
            .with(Part::Gradients, gradients + moments)
            .with(Part::Activations, activations)
            .with(Part::Passes, products)
            .with(Part::Logits, logits)
            .with(Part::Copies, copies)
    }

    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Returns what cannot be taken back.
    pub fn needed(&self) -> u64 {
        self.parts.iter().filter(|(part, _)| *part != Part::Files).map(|(_, bytes)| bytes).sum()
    }

    /// Fails where the stage needs more than there is.
    pub fn check(&self, available: u64) -> Result<(), Shortage> {
        match self.needed() > available {
            true => Err(Shortage { stage: self.clone(), available }),
            false => Ok(()),
        }
    }
}

/// What the stages of a program hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// At least one.
    pub stages: Vec<Stage>,
}

impl Estimate {
    /// Returns the most that is held at a time: what a process monitor shows at the height.
    pub fn total(&self) -> u64 {
        self.stages.iter().map(Stage::total).max().unwrap_or(0)
    }

    /// Fails where a stage needs more than there is; the first of those that need most.
    pub fn check(&self, available: u64) -> Result<(), Shortage> {
        let most = self.stages.iter().rev().max_by_key(|stage| stage.needed());
        most.map_or(Ok(()), |stage| stage.check(available))
    }
}

/// What the stages of a program are said to hold, and how much there is for them at any time.
pub struct Budget<'a> {
    /// Said before anything loads.
    pub estimate: Estimate,
    /// Returns how many bytes this process may come to hold, what it holds now included; none where
    /// nobody says.
    pub available: &'a dyn Fn() -> Option<u64>,
}

impl Budget<'_> {
    /// Fails where there is less now than the stage of this name needs.
    pub fn check(&self, name: &str) -> Result<(), Shortage> {
        let stage = self.estimate.stages.iter().find(|stage| stage.name == name);
        match (stage, (self.available)()) {
            (Some(stage), Some(available)) => stage.check(available),
            _ => Ok(()),
        }
    }
}

/// A stage that needs more memory than there is. What it takes is said as in a plan, with mapped files,
/// though these alone would keep nothing from running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} would take about {} of memory, and {} is available\n  most of it for {}",
    stage.name, shown(stage.total()), shown(*available), self.largest()
)]
pub struct Shortage {
    /// The stage.
    pub stage: Stage,
    /// What there is, in bytes.
    pub available: u64,
}

impl Shortage {
    /// Returns the parts that can be made smaller, the largest first.
    pub fn parts(&self) -> Vec<(Part, u64)> {
        let fixed = |part: Part| matches!(part, Part::Program | Part::Files);
        let mut parts: Vec<_> =
            self.stage.parts.iter().copied().filter(|&(part, _)| !fixed(part)).collect();
        parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        parts
    }

    fn largest(&self) -> String {
        let parts = self.parts();
        let shown = |&(part, bytes): &(Part, u64)| format!("{part} ({})", shown(bytes));
        let (first, others) = parts.split_at(parts.len().min(1));
        let notable = |&&(_, bytes): &&(Part, u64)| bytes > self.stage.needed() / 10;
        let second = others.iter().take(1).filter(notable);
        first.iter().chain(second).map(shown).collect::<Vec<_>>().join(" and ")
    }
}

/// What a model takes once it is loaded, and while it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Mapped files.
    pub files: usize,
    /// Weights.
    pub weights: usize,
    /// What more is held for a moment while they are read.
    pub reading: usize,
}

impl ModelMemory {
    /// Predicts what a checkpoint takes of a device's memory whose weights are kept as `weight_type`
    /// says. Files are mapped into the machine's.
    pub fn predict(
        device: &AnyDevice,
        checkpoint: &dyn Checkpoint,
        weight_type: WeightType,
    ) -> ModelMemory {
        let weights = Weights::bytes(device, checkpoint.spec(), weight_type);
        let most = Weights::loading_bytes(device, checkpoint, weight_type);
        let files = if device.shares_memory() { checkpoint.mapped_bytes() } else { 0 };
        ModelMemory { files, weights, reading: most - weights }
    }

    /// Adds the model to a stage.
    pub fn to(&self, stage: Stage) -> Stage {
        stage.with(Part::Files, self.files).with(Part::Weights, self.weights)
    }
}

/// What the program itself comes to beyond what it holds before models load: code that runs for the
/// first time, stacks, instances of plugins, texts, and what the allocator keeps for later.
const GROWTH: usize = 24 << 20;

/// What the program itself takes where the system does not say.
const PROGRAM: usize = 64 << 20;

/// Returns what the program itself will come to of a device's memory, from what it holds now: call it
/// when all is there but the weights.
pub fn program(device: &AnyDevice) -> usize {
    match device.shares_memory() {
        true => resident().map_or(PROGRAM, |bytes| bytes as usize) + GROWTH,
        false => device.held_memory().map_or(0, |bytes| bytes as usize),
    }
}

/// Returns a size in decimal units, as download pages give it.
pub fn shown(bytes: u64) -> String {
    crate::report::bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, parts: &[(Part, u64)]) -> Stage {
        Stage { name, parts: parts.to_vec() }
    }

    #[test]
    fn the_stage_that_needs_most_is_named_with_its_largest_parts() {
        let parts = [
            (Part::Program, 700_000_000),
            (Part::Files, 900_000_000),
            (Part::Weights, 540_000_000),
            (Part::Activations, 1_200_000_000),
            (Part::Copies, 30_000_000),
        ];
        let stages = vec![stage("loading", &parts[..3]), stage("training", &parts)];
        let estimate = Estimate { stages };
        assert_eq!(estimate.total(), 3_370_000_000);
        // Mapped files are given back when there is need.
        assert_eq!(estimate.check(2_470_000_000), Ok(()));
        let shortage = estimate.check(2_469_999_999).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "training would take about 3.4 GB of memory, and 2.5 GB is available\n  most of it for \
             activations (1.2 GB) and weights (540 MB)"
        );
        let shortage = Estimate { stages: vec![stage("it", &parts[3..])] }.check(1).unwrap_err();
        assert!(shortage.to_string().ends_with("most of it for activations (1.2 GB)"));
    }

    #[test]
    fn a_stage_is_compared_with_what_there_is_when_it_begins() {
        let parts = [(Part::Files, 50), (Part::Weights, 100)];
        let estimate =
            Estimate { stages: vec![stage("loading", &parts[..1]), stage("training", &parts)] };
        let budget = |available: &dyn Fn() -> Option<u64>| {
            let budget = Budget { estimate: estimate.clone(), available };
            ["loading", "training", "something else"].map(|name| budget.check(name).is_ok())
        };
        assert_eq!(budget(&|| Some(100)), [true, true, true]);
        assert_eq!(budget(&|| Some(99)), [true, false, true]);
        assert_eq!(budget(&|| None), [true, true, true]);
    }
}
