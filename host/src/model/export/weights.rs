//! Weights in safetensors files: which tensor goes into which, and the files themselves.

use std::io::{self, Write};
use std::ops::ControlFlow;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::{Dtype, ExportError, Folder, Settings, put};
use crate::model::checkpoint::Checkpoint;
use crate::model::layout;

/// A tensor to write.
struct Item {
    name: String,
    shape: Vec<usize>,
    bytes: u64,
}

/// Writes every tensor, in checkpoint order, and the index where there are several files.
pub(super) fn write(
    folder: &mut dyn Folder,
    weights: &dyn Checkpoint,
    settings: &Settings,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<(), ExportError> {
    let dtype = settings.dtype;
    let items: Vec<Item> = layout::tensors(weights.spec())
        .into_iter()
        .map(|(name, shape)| {
            let bytes = shape.iter().product::<usize>() as u64 * dtype.size() as u64;
            Item { name, shape, bytes }
        })
        .collect();
    let shards = shards(&items, settings.max_shard_size);
    let (mut done, mut map) = (0, Map::new());
    for (index, shard) in shards.iter().enumerate() {
        let file_name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let failed = |source| ExportError::Write { name: file_name.clone(), source };
        let mut file = folder.create(&file_name).map_err(failed)?;
        let tensors = shard.iter().map(|item| (item.name.clone(), &item.shape[..]));
        file.write_all(&header(tensors, dtype)).map_err(failed)?;
        for Item { name, shape, .. } in *shard {
            let values = weights.tensor(name, shape)?;
            write_values(&mut *file, &values, dtype).map_err(|error| match error {
                Unwritten::Io(source) => failed(source),
                Unwritten::Overflow { position } => {
                    let (tensor, value) = (name.clone(), values[position]);
                    ExportError::Overflow { tensor, position, value, dtype }
                }
            })?;
            map.insert(name.clone(), json!(file_name));
            done += 1;
            if progress(done, items.len()).is_break() {
                return Err(ExportError::Interrupted);
            }
        }
        file.flush().map_err(failed)?;
    }
    if shards.len() > 1 {
        let total: u64 = items.iter().map(|item| item.bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        put(folder, "model.safetensors.index.json", &super::files::pretty(&index))?;
    }
    Ok(())
}

/// Cuts the list where the next tensor would make a file too large.
fn shards(items: &[Item], most: u64) -> Vec<&[Item]> {
    let mut shards = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (i, item) in items.iter().enumerate() {
        if i > from && size + item.bytes > most {
            shards.push(&items[from..i]);
            (from, size) = (i, 0);
        }
        size += item.bytes;
    }
    shards.push(&items[from..]);
    shards
}

/// Returns what stands before the tensors of a safetensors file, given their names and shapes.
pub(in crate::model) fn header<'a>(
    tensors: impl Iterator<Item = (String, &'a [usize])>,
    dtype: Dtype,
) -> Vec<u8> {
    let size = dtype.size();
    let dtype = match dtype {
        Dtype::F32 => "F32",
        Dtype::Bf16 => "BF16",
        Dtype::F16 => "F16",
    };
    // transformers refuses a file that does not say so.
    let mut fields = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut from = 0;
    for (name, shape) in tensors {
        let to = from + size * shape.iter().product::<usize>();
        let value = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, to] });
        fields.insert(name, value);
        from = to;
    }
    let mut text = Value::Object(fields).to_string().into_bytes();
    // The tensors begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}

enum Unwritten {
    Io(io::Error),
    Overflow { position: usize },
}

fn write_values(file: &mut dyn Write, values: &[f32], dtype: Dtype) -> Result<(), Unwritten> {
    const CHUNK: usize = 1 << 16;
    let mut bytes = Vec::with_capacity(CHUNK * dtype.size());
    for (chunk, values) in values.chunks(CHUNK).enumerate() {
        bytes.clear();
        let mut worst = None;
        for (i, &value) in values.iter().enumerate() {
            let holds = match dtype {
                Dtype::F32 => {
                    bytes.extend(value.to_le_bytes());
                    value.is_finite()
                }
                Dtype::Bf16 => {
                    let value = bf16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    value.is_finite()
                }
                Dtype::F16 => {
                    let value = f16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    value.is_finite()
                }
            };
            if !holds {
                worst.get_or_insert(i);
            }
        }
        if let Some(i) = worst {
            return Err(Unwritten::Overflow { position: chunk * CHUNK + i });
        }
        file.write_all(&bytes).map_err(Unwritten::Io)?;
    }
    Ok(())
}
