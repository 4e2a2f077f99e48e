//! Whether there is enough memory, asked before weights load.

use super::{CliError, exit, model::size};
use crate::{
    memory::{self, Estimate, ModelMemory, Part, Stage},
    model::{
        adapter::Adapter,
        backend::{AnyDevice, WeightType},
        trainable::TrainableAdapter,
    },
    round::Opened,
};

/// The variable of the environment that stands for what the machine says.
const VARIABLE: &str = "ALIGNER_MEMORY";

/// Returns how many bytes of a device's memory this process may hold: what `ALIGNER_MEMORY` says, else
/// the device or the machine; none where nobody says.
pub fn available(device: &AnyDevice) -> Result<Option<u64>, CliError> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => size(&text)
            .map(Some)
            .map_err(|expected| CliError::usage(format!("`{VARIABLE}` is `{text}`, {expected}"))),
        _ if device.shares_memory() => Ok(memory::available()),
        _ => Ok(device.available_memory()),
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
        let enough = enough(shortage.stage.total());
        ways.push(format!("`{VARIABLE}={enough}` in the environment begins all the same"));
        CliError::new(exit::MODEL_OR_DATA, shortage.to_string()).hint(ways.join("; "))
    })
}

/// Returns a size, as the variable takes it, that lets through what needs about so many bytes: the program
/// itself is measured anew each time, and comes to a little more or less.
fn enough(needed: u64) -> String {
    let megabytes = (needed + needed / 10).div_ceil(1_000_000);
    if megabytes < 10_000 {
        format!("{megabytes}MB")
    } else {
        format!("{}GB", megabytes.div_ceil(1000))
    }
}

/// Fails where a model's weights and an adapter are more than there is. What is read and written with
/// them, a conversation or a few rows, is little beside them.
pub fn check_model(
    opened: &Opened,
    adapter: Option<&Adapter>,
    device: &AnyDevice,
    weight_type: WeightType,
) -> Result<(), CliError> {
    let spec = &opened.model.spec;
    let model = ModelMemory::predict(device, &*opened.checkpoint, weight_type);
    let adapter = adapter.map_or(0, |adapter| {
        let pairs = adapter.pairs.iter().map(|(&key, pair)| (key, pair.config())).collect();
        let len = TrainableAdapter::len(device, spec, &pairs, adapter.is_reward_model());
        len.bytes()
    });
    let stage = Stage::new("the model").with(Part::Program, memory::program(device));
    let stage = model.to(stage);
    let stage = stage.with(Part::Reading, model.reading).with(Part::Adapters, adapter);
    let way_out = |part| match part {
        Part::Weights if weight_type == WeightType::F32 => Some(
            "`--dtype bf16` halves the weights of `model chat`, `model score` and `model eval`"
                .to_owned(),
        ),
        _ => None,
    };
    check(&Estimate { stages: vec![stage] }, available(device)?, way_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enough_can_be_read_again() {
        for (needed, expected) in [
            (1, "1MB"),
            (609_000_000, "670MB"),
            (8_000_000_000, "8800MB"),
            (28_100_000_001, "31GB"),
        ] {
            assert_eq!(enough(needed), expected);
            assert!(size(&enough(needed)).unwrap() > needed);
        }
    }
}
