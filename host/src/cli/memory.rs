//! Whether there is enough memory, asked before weights load.

use super::{CliError, exit, model::size};
use crate::{
    memory::{self, Estimate, ModelMemory, Part, Stage},
    model::{
        adapter::Adapter,
        backend::{WeightType, cpu::Cpu},
        trainable::TrainableAdapter,
    },
    round::Opened,
};

/// The variable of the environment that stands for what the machine says.
const VARIABLE: &str = "ALIGNER_MEMORY";

/// Returns how many bytes this process may hold: what `ALIGNER_MEMORY` says, else the machine; none where
/// nobody says.
pub fn available() -> Result<Option<u64>, CliError> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => size(&text)
            .map(Some)
            .map_err(|expected| CliError::usage(format!("`{VARIABLE}` is `{text}`, {expected}"))),
        _ => Ok(memory::available()),
    }
}

/// Fails where a stage needs more than there is; `way_out` says what can be done about a part.
pub fn check(
    estimate: &Estimate,
    available: Option<u64>,
    way_out: impl Fn(Part) -> Option<String>,
) -> Result<(), CliError> {
    for Stage { name, parts } in &estimate.stages {
        tracing::debug!(stage = name, "memory in bytes: {parts:?}");
    }
    let Some(available) = available else { return Ok(()) };
    estimate.check(available).map_err(|shortage| {
        let mut ways: Vec<String> = Vec::new();
        for way in shortage.parts().into_iter().filter_map(|(part, _)| way_out(part)) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways.truncate(2);
        let enough = memory::shown(shortage.stage.needed()).replace(' ', "");
        ways.push(format!("`{VARIABLE}={enough}` in the environment begins all the same"));
        CliError::new(exit::MODEL_OR_DATA, shortage.to_string()).hint(ways.join("; "))
    })
}

/// Fails where a model's weights and an adapter are more than there is. What is read and written with
/// them, a conversation or a few rows, is little beside them.
pub fn check_model(
    opened: &Opened,
    adapter: Option<&Adapter>,
    weight_type: WeightType,
) -> Result<(), CliError> {
    let (backend, spec) = (Cpu::new(), &opened.model.spec);
    let model = ModelMemory::predict(&*opened.checkpoint, weight_type);
    let adapter = adapter.map_or(0, |adapter| {
        let pairs = adapter.pairs.iter().map(|(&key, pair)| (key, pair.config())).collect();
        let len = TrainableAdapter::len(&backend, spec, &pairs);
        size_of::<f32>() * (len.values + len.packed)
    });
    let stage = model.to(Stage::new("the model").with(Part::Program, memory::program()));
    let stage = stage.with(Part::Reading, model.reading).with(Part::Adapters, adapter);
    let way_out = |part| match part {
        Part::Weights if weight_type == WeightType::F32 => {
            Some("`--dtype bf16` halves the weights of `model chat` and `model score`".to_owned())
        }
        _ => None,
    };
    check(&Estimate { stages: vec![stage] }, available()?, way_out)
}
