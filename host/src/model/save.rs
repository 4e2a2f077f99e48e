//! Writes weights as a safetensors file, one tensor in memory at a time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::backend::{BackendError, TrainingBackend};
use super::export::{self, Dtype};
use super::spec::Spec;
use super::weights::{WeightName, Weights};

/// Writes the weights of a model in f32, under their Hugging Face names; equal weights give equal
/// bytes. The file is not synced.
pub fn write_weights<B: TrainingBackend>(
    path: &Path,
    backend: &B,
    weights: &Weights<B>,
) -> Result<(), SaveError> {
    write(path, spec_tensors(&weights.spec), &mut |name| weights.values(backend, name))
}

/// Returns the weights of a model with their shapes.
pub(crate) fn spec_tensors(spec: &Spec) -> Vec<(WeightName, Vec<usize>)> {
    WeightName::all(spec).into_iter().map(|name| (name, name.shape(spec))).collect()
}

/// Writes tensors in f32; `values` returns the numbers of each, row-major.
pub(crate) fn write(
    path: &Path,
    tensors: Vec<(WeightName, Vec<usize>)>,
    values: &mut dyn FnMut(WeightName) -> Result<Vec<f32>, BackendError>,
) -> Result<(), SaveError> {
    let error = |source| SaveError::Io { path: path.to_owned(), source };
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(error)?);
    let named = tensors.iter().map(|(name, shape)| (name.to_string(), &shape[..]));
    file.write_all(&export::header(named, Dtype::F32)).map_err(error)?;
    for (name, _) in tensors {
        for value in values(name)? {
            file.write_all(&value.to_le_bytes()).map_err(error)?;
        }
    }
    file.flush().map_err(error)
}

/// Why weights could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The operating system said no.
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use crate::model::checkpoint::Checkpoint;
    use crate::model::safetensors::Safetensors;
    use crate::model::tiny;

    #[test]
    fn weights_come_back_bit_for_bit() {
        let whole = Spec { attention_bias: true, qk_norm: true, ..tiny::spec(16, true) };
        for spec in [tiny::spec(16, true), tiny::spec(16, false), whole] {
            let checkpoint = tiny::checkpoint(spec, 1);
            let weights = Weights::load(&Cpu::new(), &checkpoint, &mut |_, _| {}).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.safetensors");
            write_weights(&path, &Cpu::new(), &weights).unwrap();
            let read = Safetensors::open(checkpoint.spec.clone(), &[path]).unwrap();
            for (name, shape) in spec_tensors(&checkpoint.spec) {
                let name = name.to_string();
                assert!(read.tensor(&name, &shape).unwrap() == checkpoint.tensors[&name], "{name}");
            }
        }
    }
}
