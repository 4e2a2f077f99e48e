//! Training between two steps, as bytes: what a killed run goes on from.

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::startup::Startup;
use crate::model::adapter::{
    Adapter, LoraConfig, LoraPair, Matrix, PairConfig, SCORE, tensor_name,
};

/// Version of the format; a newer one is refused.
const FORMAT: u32 = 2;
/// The only key of the file's metadata: the order of several is that of a hash map.
const KEY: &str = "aligner_train_state";

/// Everything that a trainer knows besides the model, the examples and the settings.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// Steps that are done.
    pub step: u64,
    /// The adapter after them.
    pub adapter: Adapter,
    /// First moments, in the adapter's shape.
    pub(super) first: Adapter,
    /// Second moments, in the adapter's shape.
    pub(super) second: Adapter,
    pub(super) startup: Startup,
    /// Digest of the model's shape, the examples, the settings and the adapter's hyper-parameters.
    pub(super) task: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    step: u64,
    task: String,
    startup: Startup,
    lora: LoraConfig,
    layers: usize,
}

const PARTS: [&str; 3] = ["", "exp_avg.", "exp_avg_sq."];

impl TrainState {
    /// Returns how many numbers making a state and its bytes takes at its height, for an adapter of
    /// `values` numbers: each part as it is, as bytes of its own, and in the file.
    pub(super) fn saving_len(values: usize) -> usize {
        3 * PARTS.len() * values
    }

    /// Returns the state as a safetensors file; equal states give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            format: FORMAT,
            step: self.step,
            task: self.task.clone(),
            startup: self.startup.clone(),
            lora: self.adapter.config.clone(),
            layers: self.adapter.pairs.keys().next_back().map_or(0, |(layer, _)| layer + 1),
        };
        let header = serde_json::to_string(&header).expect("a header of plain fields is JSON");
        let mut tensors = Vec::new();
        for (prefix, adapter) in PARTS.into_iter().zip([&self.adapter, &self.first, &self.second]) {
            for tensor in adapter.tensors() {
                let bytes: Vec<u8> = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.push((format!("{prefix}{}", tensor.name), tensor.shape, bytes));
            }
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            (name.as_str(), view.expect("a tensor has as many numbers as its shape says"))
        });
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), header)])))
            .expect("names and shapes that fit in memory fit in a header")
    }

    /// Reads what [`to_bytes`](TrainState::to_bytes) wrote, to the last bit.
    pub fn from_bytes(bytes: &[u8]) -> Result<TrainState, StateError> {
        let broken = |message: String| StateError::Broken { message };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| broken(e.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let header = header.ok_or_else(|| broken(format!("its metadata has no `{KEY}`")))?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let parse = |e: serde_json::Error| broken(format!("`{KEY}`: {e}"));
        let Version { format } = serde_json::from_str(header).map_err(parse)?;
        if format > FORMAT {
            return Err(StateError::Newer { format });
        }
        let header: Header = serde_json::from_str(header).map_err(parse)?;
        let pairs = header.lora.pairs(header.layers).map_err(|e| broken(e.to_string()))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| broken(e.to_string()))?;
        let tensor = |name: String| -> Result<Vec<f32>, StateError> {
            let view = file.tensor(&name).map_err(|e| broken(e.to_string()))?;
            if view.dtype() != Dtype::F32 {
                return Err(broken(format!("`{name}` is {:?}, expected f32", view.dtype())));
            }
            let numbers = view.data().chunks_exact(4);
            Ok(numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let part = |prefix: &str| -> Result<Adapter, StateError> {
            let mut adapter =
                Adapter { config: header.lora.clone(), pairs: Default::default(), score: None };
            for (&(layer, linear), &PairConfig { r, scale }) in &pairs {
                let name = |matrix| format!("{prefix}{}", tensor_name(layer, linear, matrix));
                let (a, b) = (tensor(name(Matrix::A))?, tensor(name(Matrix::B))?);
                adapter.pairs.insert((layer, linear), LoraPair { r, scale, a, b });
            }
            // Only a reward model has one, and then all three parts have.
            if file.tensor(SCORE).is_ok() {
                adapter.score = Some(tensor(format!("{prefix}{SCORE}"))?);
            }
            Ok(adapter)
        };
        Ok(TrainState {
            step: header.step,
            adapter: part(PARTS[0])?,
            first: part(PARTS[1])?,
            second: part(PARTS[2])?,
            startup: header.startup,
            task: header.task,
        })
    }
}

/// Why a saved state cannot be gone on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A later aligner wrote it.
    #[error(
        "the saved training has format {format}, this aligner reads up to {FORMAT}; upgrade aligner to resume it"
    )]
    Newer {
        /// Its format.
        format: u32,
    },
    /// The file is truncated, or something else.
    #[error("the saved training cannot be read: {message}")]
    Broken {
        /// What is wrong.
        message: String,
    },
    /// It belongs to other examples, settings, or another model.
    #[error("the saved training belongs to other examples, other settings or another model")]
    OtherTask,
}
