//! Checkpoints in safetensors files, one or many, memory-mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::layout;
use super::spec::Spec;

/// The safetensors files of a folder in Hugging Face layout.
pub struct Safetensors {
    spec: Spec,
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    places: HashMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where the tensors begin within the file.
    start: usize,
}

impl Safetensors {
    /// Opens files and checks that together they hold the tensors of `spec`, each once. Reads no
    /// weight yet.
    pub fn open(spec: Spec, paths: &[PathBuf]) -> Result<Safetensors, CheckpointError> {
        let shards = paths.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut places = HashMap::new();
        let mut shapes = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for (name, info) in shard.metadata.tensors() {
                if let Some(other) = places.insert(name.clone(), index) {
                    return Err(shard.error(format!(
                        "holds `{name}`, and so does `{}`",
                        shards[other].path.display()
                    )));
                }
                shapes.insert(name, info.shape.clone());
            }
        }
        let whole = match paths {
            [only] => only.clone(),
            _ => paths.first().and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned(),
        };
        layout::check(&whole, &spec, &shapes)?;
        for (name, _) in layout::tensors(&spec) {
            let shard = &shards[places[&name]];
            match shard.metadata.info(&name).map(|info| info.dtype) {
                Some(Dtype::F32 | Dtype::F16 | Dtype::BF16) | None => {}
                Some(other) => return Err(shard.unread(&name, other)),
            }
        }
        let opened = Safetensors { spec, shards, places };
        opened.check_tied_head()?;
        Ok(opened)
    }

    /// Fails where the head is the embedding, says the configuration, and the file holds another one.
    fn check_tied_head(&self) -> Result<(), CheckpointError> {
        let bytes = |name: &str| {
            let shard = &self.shards[*self.places.get(name)?];
            let info = shard.metadata.info(name)?;
            let (from, to) = info.data_offsets;
            Some((shard, info.dtype, &shard.map[shard.start + from..shard.start + to]))
        };
        let (Some((shard, dtype, head)), true) = (bytes(HEAD), self.spec.tied_embeddings) else {
            return Ok(());
        };
        match bytes(EMBEDDING) {
            Some((_, same, embedding)) if same == dtype && embedding == head => Ok(()),
            _ => Err(shard.error(format!(
                "holds a `{HEAD}` that is not `{EMBEDDING}`, and the configuration says \
                 `tie_word_embeddings = true`; say false to use it, or take it out of the file"
            ))),
        }
    }

    /// Opens the weights of a folder in Hugging Face layout for a model of a known shape.
    pub fn open_folder(spec: Spec, folder: &Path) -> Result<Safetensors, CheckpointError> {
        Safetensors::open(spec, &files(folder)?)
    }
}

/// The head, where a file has one.
const HEAD: &str = "lm_head.weight";
/// The embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Returns the weight files of a folder: `model.safetensors`, or those that the index names. Where both
/// are there the single file counts, as in transformers.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let index = folder.join("model.safetensors.index.json");
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
            .iter()
            .any(|name| folder.join(name).exists());
        return Err(CheckpointError {
            message: if pickled {
                format!(
                    "`{}` holds pickled weights only, which can run code when they are read; \
                     convert them to safetensors",
                    folder.display()
                )
            } else {
                format!("`{}` has no `model.safetensors`", folder.display())
            },
        });
    }
    let error = |what: &str| CheckpointError { message: format!("`{}` {what}", index.display()) };
    let text = crate::file::read(&index).map_err(|e| error(&format!("cannot be read: {e}")))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| error(&format!("is not JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| error("has no `weight_map`"))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A name of the folder itself: an index must not reach for files elsewhere.
            Some(name) if Path::new(name).file_name() == Some(name.as_ref()) => {
                names.insert(name);
            }
            _ => return Err(error(&format!("puts `{tensor}` into {file}, expected a file name"))),
        }
    }
    if names.is_empty() {
        return Err(error("names no files"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

impl Shard {
    fn open(path: &Path) -> Result<Shard, CheckpointError> {
        let error =
            |what: String| CheckpointError { message: format!("`{}` {what}", path.display()) };
        let file = crate::file::open(path).map_err(|e| error(format!("cannot be read: {e}")))?;
        // SAFETY: the map is only read. A file that another program shortens while it is mapped
        // would end the process; checkpoints are written once and not changed in place.
        let map =
            unsafe { Mmap::map(&file) }.map_err(|e| error(format!("cannot be mapped: {e}")))?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| error(format!("is truncated or not a safetensors file: {e}")))?;
        // Eight bytes before the header give its length.
        let start = header + 8;
        if start.checked_add(metadata.data_len()) != Some(map.len()) {
            return Err(error(format!(
                "is truncated: its header promises {} bytes of tensors, and {} follow",
                metadata.data_len(),
                map.len().saturating_sub(start)
            )));
        }
        Ok(Shard { path: path.to_owned(), map, metadata, start })
    }

    /// Returns that a tensor is of a type that is not read.
    fn unread(&self, name: &str, dtype: Dtype) -> CheckpointError {
        self.error(format!("holds `{name}` as {dtype:?}, expected F32, F16 or BF16"))
    }

    fn error(&self, what: String) -> CheckpointError {
        CheckpointError { message: format!("`{}` {what}", self.path.display()) }
    }
}

impl Checkpoint for Safetensors {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn mapped_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.map.len()).sum()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let Some(shard) = self.places.get(name).map(|&index| &self.shards[index]) else {
            let path = self.shards.first().map_or(Path::new(""), |shard| &shard.path);
            return Err(layout::mismatch(path, name, None, shape));
        };
        let info = match shard.metadata.info(name) {
            Some(info) if info.shape == shape => info,
            other => {
                let found = other.map(|info| &info.shape[..]);
                return Err(layout::mismatch(&shard.path, name, found, shape));
            }
        };
        let (from, to) = info.data_offsets;
        let bytes = &shard.map[shard.start + from..shard.start + to];
        let data: Vec<f32> = match info.dtype {
            Dtype::F32 => words(bytes).map(f32::from_le_bytes).collect(),
            Dtype::F16 => words(bytes).map(|word| f16::from_le_bytes(word).to_f32()).collect(),
            Dtype::BF16 => words(bytes).map(|word| bf16::from_le_bytes(word).to_f32()).collect(),
            other => return Err(shard.unread(name, other)),
        };
        layout::check_finite(&shard.path, name, &data)?;
        Ok(data)
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
