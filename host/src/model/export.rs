//! Models as folders that other tools read: transformers, vLLM, SGLang, llama.cpp's converter.
//!
//! Tensors come from any [`Checkpoint`] by name, one at a time, and go to wherever a [`Folder`] puts
//! files, so that a merged model, a fully trained one, and a plain copy are written by the same
//! code, into a run directory or anywhere else. The memory is that of the largest tensor.

mod files;
mod place;
mod weights;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

pub use place::{NewFolder, PlaceError};
pub(super) use weights::header;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::error::ModelError;
use super::text::Model;
use super::tokenizer::optional_json;

/// Creates the files of a folder.
pub trait Folder {
    /// Begins a file of this name, which has no folder in it and is not there yet.
    ///
    /// The file need not last through a crash before whoever gave the folder has synced it.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Write + '_>>;
}

/// A folder that exists, and that nobody reads yet.
impl Folder for PathBuf {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Write + '_>> {
        Ok(Box::new(io::BufWriter::new(std::fs::File::create_new(self.join(name))?)))
    }
}

/// The type of the numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, the exponent of f32 and 8 bits of precision.
    Bf16,
    /// 16 bits, 11 bits of precision and numbers up to 65504.
    F16,
}

impl Dtype {
    /// Returns the name that `config.json` has for it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }

    /// Returns the type that a model's own `config.json` names; f32 where there is none, as the
    /// numbers of a quantised file fit no smaller one.
    pub fn of(model: &Model) -> Dtype {
        let config = optional_json(&model.path.join("config.json")).ok().flatten();
        let name = config.as_ref().and_then(|config| {
            let named = [&config["torch_dtype"], &config["dtype"]];
            named.into_iter().find_map(|name| name.as_str().map(str::to_owned))
        });
        match name.as_deref() {
            Some("bfloat16") => Dtype::Bf16,
            Some("float16") => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    /// Returns a number as this type holds it.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Dtype::F32 => value,
            Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
            Dtype::F16 => half::f16::from_f32(value).to_f32(),
        }
    }

    /// Returns how many bytes a number takes.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of every tensor.
    pub dtype: Dtype,
    /// Most bytes of tensors in one file; a larger tensor has a file of its own.
    pub max_shard_size: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { dtype: Dtype::F32, max_shard_size: 5_000_000_000 }
    }
}

/// Writes a model: configuration, weights, tokenizer and chat template. A card is the caller's to
/// add ([`put`]), who may have more to say once the weights are there.
///
/// - `model`: the model that `weights` are a version of; what stands beside its own weights is taken
///   over, or written anew where it comes from a GGUF file.
/// - `weights`: every tensor of [`layout::tensors`](super::layout::tensors); the head is left out
///   where it is the embedding.
/// - `progress`: is called with how many tensors are written, and of how many; may break off.
///
/// After an error the folder holds part of the files.
pub fn write(
    folder: &mut dyn Folder,
    model: &Model,
    weights: &dyn Checkpoint,
    settings: &Settings,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<(), ExportError> {
    for (name, bytes) in files::of_model(model, settings.dtype)? {
        put(folder, name, &bytes)?;
    }
    weights::write(folder, weights, settings, progress)
}

/// Returns the files that say how a model reads and writes text, by name: `tokenizer.json`,
/// `tokenizer_config.json`, `special_tokens_map.json`, and where there is one `chat_template.jinja`.
/// An adapter folder with these is complete for trainers.
pub fn text_files(model: &Model) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
    files::of_text(model)
}

/// Writes one file.
pub fn put(folder: &mut dyn Folder, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
    let write = |folder: &mut dyn Folder| {
        let mut file = folder.create(name)?;
        file.write_all(bytes)?;
        file.flush()
    };
    write(folder).map_err(|source| ExportError::Write { name: name.to_owned(), source })
}

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What stands beside the weights could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A number is too large for the type it should have.
    #[error(
        "`{tensor}` holds {value} at position {position}, more than {} can hold", dtype.torch_name()
    )]
    Overflow {
        /// Name of the tensor.
        tensor: String,
        /// Index of the number in it, row-major.
        position: usize,
        /// The number.
        value: f32,
        /// The type.
        dtype: Dtype,
    },
    /// The file system said no.
    #[error("cannot write `{name}`: {source}")]
    Write {
        /// Name of the file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The new folder cannot be put where it belongs.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The caller broke off.
    #[error("interrupted")]
    Interrupted,
}

impl ExportError {
    /// Returns the way out, where there is one to tell.
    pub fn hint(&self) -> Option<String> {
        match self {
            ExportError::Model(error) => error.hint(),
            ExportError::Overflow { dtype, value, .. } => match dtype {
                _ if !value.is_finite() => None,
                Dtype::F16 => {
                    Some("write the model as bf16 or f32, which hold larger numbers".to_owned())
                }
                _ => Some("write the model as f32, which holds larger numbers".to_owned()),
            },
            ExportError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room, or name a folder on another disk".to_owned())
            }
            ExportError::Place(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
