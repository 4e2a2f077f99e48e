//! Full training between two steps, as a folder: what a killed run goes on from.
//!
//! The weights and their moments are three safetensors files with the same Hugging Face names, in f32
//! and row-major, so that nothing depends on how kernels want them. They are written and read one
//! tensor at a time.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::items::Objective;
use super::learner::Learner;
use super::startup::Startup;
use super::subject::Moments;
use super::{StateError, TrainError, Trainer};
use crate::model::backend::TrainingBackend;
use crate::model::checkpoint::Checkpoint;
use crate::model::safetensors::Safetensors;
use crate::model::save;
use crate::model::spec::Spec;
use crate::model::trainable::Gradients;
use crate::model::weights::Weights;

/// Version of the format; a newer one is refused.
const FORMAT: u32 = 1;
const HEADER: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg.safetensors", "exp_avg_sq.safetensors"];

/// An open state of full training.
pub struct WeightsState {
    pub(super) header: Header,
    pub(super) weights: Safetensors,
    moments: [Safetensors; 2],
}

/// What a trainer knows besides weights, moments, data and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) step: u64,
    pub(super) task: String,
    pub(super) startup: Startup,
    /// The logprobs of the reference, as bits of f64, so that every one comes back as it was: the
    /// model that it was is gone.
    reference: Option<Vec<Vec<u64>>>,
}

impl Header {
    pub(super) fn new<B: TrainingBackend>(trainer: &Trainer<B>) -> Header {
        let Trainer { step, task, startup, learner: Learner { objective, .. }, .. } = trainer;
        let bits = |of: &Vec<f64>| of.iter().map(|x| x.to_bits()).collect();
        let reference = match objective {
            Objective::Sft => None,
            Objective::Preference { reference, .. } => Some(reference.iter().map(bits).collect()),
        };
        let (task, startup) = (task.clone(), startup.clone());
        Header { format: FORMAT, step: *step, task, startup, reference }
    }

    /// Returns the logprobs of the reference, where there was one.
    pub(super) fn reference(&self) -> Option<Vec<Vec<f64>>> {
        let numbers = |of: &Vec<u64>| of.iter().map(|&x| f64::from_bits(x)).collect();
        Some(self.reference.as_ref()?.iter().map(numbers).collect())
    }
}

/// Writes a state into a folder; equal states give equal bytes. Nothing is synced.
pub(super) fn write<B: TrainingBackend>(
    folder: &Path,
    backend: &B,
    header: &Header,
    weights: &Weights<B>,
    gradients: &Gradients<B>,
    moments: &[Moments<B>],
) -> Result<(), TrainError> {
    save::write_weights(&folder.join(WEIGHTS), backend, weights)?;
    for (which, file) in MOMENTS.into_iter().enumerate() {
        let mut buffers = gradients.iter().zip(moments);
        save::write(&folder.join(file), save::spec_tensors(&weights.spec), &mut |name| {
            let ((of, _), pair) = buffers.next().expect("a moment for each weight");
            debug_assert!(of == name);
            match name.shape(&weights.spec)[..] {
                [outputs, inputs] => backend.unpack_buffer(&pair[which], outputs, inputs),
                _ => {
                    let len = name.len(backend, &weights.spec);
                    Ok(backend.view(&pair[which], 0..len)?.into_owned())
                }
            }
        })?;
    }
    let path = folder.join(HEADER);
    let text = serde_json::to_vec(header).expect("a header of plain fields is JSON");
    std::fs::write(&path, text)
        .map_err(|source| TrainError::Save(save::SaveError::Io { path, source }))
}

impl WeightsState {
    /// Opens the folder that [`Trainer::save`](super::Trainer::save) wrote, for a model of this shape.
    pub fn open(folder: &Path, spec: &Spec) -> Result<WeightsState, StateError> {
        let broken = |message: String| StateError::Broken { message };
        let path = folder.join(HEADER);
        let text = std::fs::read(&path)
            .map_err(|e| broken(format!("`{}` cannot be read: {e}", path.display())))?;
        let parse = |e| broken(format!("`{}`: {e}", path.display()));
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(&text).map_err(parse)?;
        if format > FORMAT {
            return Err(StateError::Newer { format });
        }
        let header = serde_json::from_slice(&text).map_err(parse)?;
        let open = |file: &str| {
            let opened = Safetensors::open(spec.clone(), &[folder.join(file)]);
            opened.map_err(|e| broken(e.message))
        };
        let moments = [open(MOMENTS[0])?, open(MOMENTS[1])?];
        Ok(WeightsState { header, weights: open(WEIGHTS)?, moments })
    }

    /// Returns how many steps are done.
    pub fn steps_done(&self) -> u64 {
        self.header.step
    }

    /// Reads the moments into buffers, in the order of the gradients.
    pub(super) fn read_moments<B: TrainingBackend>(
        &self,
        backend: &B,
        moments: &mut [Moments<B>],
    ) -> Result<(), TrainError> {
        let spec = self.weights.spec();
        for ((name, shape), pair) in save::spec_tensors(spec).into_iter().zip(moments) {
            for (file, moment) in self.moments.iter().zip(pair) {
                let values = file
                    .tensor(&name.to_string(), &shape)
                    .map_err(|e| StateError::Broken { message: e.message })?;
                *moment = match shape[..] {
                    [outputs, inputs] => backend.pack_buffer(&values, outputs, inputs)?,
                    _ => backend.upload(&values)?,
                };
            }
        }
        Ok(())
    }
}
