//! An adapter folder with another strength.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::{CONFIG_FILE, PeftError, WEIGHTS_FILE, file_of, floats, io, parse_config};
use crate::file;
use crate::model::adapter::{AdapterError, scale};

/// What may stand beside an adapter and goes with it.
const BESIDE: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// Returns the files of an adapter whose effect is `factor` times that of the one in a folder, by name:
/// every `B` is multiplied in f64 and rounded to f32 once, and all else is as it was. With a factor of 1
/// every file is the same, byte for byte; otherwise matrices in f16 or bf16 become f32.
///
/// The model under the adapter is not needed, and not known.
pub fn files(folder: &Path, factor: f64) -> Result<Vec<(&'static str, Vec<u8>)>, PeftError> {
    let read = |name: &str| {
        let path = folder.join(name);
        file::read(&path).map_err(io(&path))
    };
    let (config, weights) = (read(CONFIG_FILE)?, read(WEIGHTS_FILE)?);
    let path = folder.join(CONFIG_FILE);
    let text = std::str::from_utf8(&config).map_err(|error| error.to_string());
    let parsed = text.and_then(parse_config);
    let parsed = parsed.and_then(|parsed| match parsed.score {
        true => Err(AdapterError::Scaled.to_string()),
        false => Ok(parsed),
    });
    parsed.map_err(|message| PeftError::Config { path, message })?;
    let scaled = matrices(&folder.join(WEIGHTS_FILE), &weights, factor)?;
    let weights = if factor == 1.0 { weights } else { scaled };
    let mut files = vec![(CONFIG_FILE, config), (WEIGHTS_FILE, weights)];
    for name in BESIDE {
        if folder.join(name).exists() {
            files.push((name, read(name)?));
        }
    }
    Ok(files)
}

fn matrices(path: &Path, bytes: &[u8], factor: f64) -> Result<Vec<u8>, PeftError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|source| PeftError::Safetensors { path: path.to_owned(), source })?;
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let refuse = |message: String| {
            let (path, name) = (path.to_owned(), name.to_owned());
            PeftError::Tensor { path, name, message }
        };
        let mut values = floats(&view).map_err(refuse)?;
        if name.ends_with(".lora_B.weight") {
            if let Some(at) = scale(&mut values, factor) {
                let message = format!(
                    "times {factor:?} holds {} at number {at}, expected finite numbers",
                    values[at]
                );
                return Err(refuse(message));
            }
        } else if !name.ends_with(".lora_A.weight") {
            return Err(refuse("is no matrix of LoRA, expected `lora_A` and `lora_B`".to_owned()));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name, view.shape().to_vec(), bytes));
    }
    if !tensors.iter().any(|(name, _, _)| name.ends_with(".lora_B.weight")) {
        let (path, name) = (path.to_owned(), "lora_B".to_owned());
        let message = "is missing; expected matrices of LoRA".to_owned();
        return Err(PeftError::Tensor { path, name, message });
    }
    Ok(file_of(tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (*name, view.expect("a tensor has as many numbers as its shape says"))
    })))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::peft::{self, Base};
    use crate::model::tiny;

    fn written() -> (tempfile::TempDir, crate::model::spec::Spec, crate::model::adapter::Adapter) {
        let folder = tempfile::tempdir().unwrap();
        let spec = tiny::spec(8, true);
        let adapter = tiny::adapter(&spec, 3);
        let base = Base { name_or_path: "owner/name", revision: Some("main") };
        peft::write(folder.path(), &adapter, base).unwrap();
        (folder, spec, adapter)
    }

    fn put(files: Vec<(&'static str, Vec<u8>)>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn a_scaled_folder_is_the_scaled_adapter() {
        let (folder, spec, adapter) = written();
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        for factor in [1.3, 0.5, -2.0, 0.0, 1.0] {
            let to = put(files(folder.path(), factor).unwrap());
            let read = peft::read(to.path(), &spec).unwrap();
            assert_eq!(read, adapter.scaled(factor).unwrap(), "{factor}");
            assert_eq!(peft::base_of(to.path()).unwrap(), "owner/name");
            assert!(to.path().join("tokenizer.json").exists());
        }
        for (name, bytes) in files(folder.path(), 1.0).unwrap() {
            assert!(bytes == fs::read(folder.path().join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_scaled_is_named() {
        let (folder, spec, mut adapter) = written();
        let check = |factor: f64, parts: &[&str]| {
            let error = files(folder.path(), factor).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "no {part:?} in {error}");
            }
        };
        check(1e300, &["lora_B.weight` of `", "times 1e300 holds", "expected finite numbers"]);
        adapter.pairs.values_mut().for_each(|pair| pair.b[1] = f32::NAN);
        peft::write(folder.path(), &adapter, Base { name_or_path: "x", revision: None }).unwrap();
        check(1.0, &["lora_B.weight` of `", "holds NaN at number 1, expected finite numbers"]);
        let head = adapter.clone().with_score(&spec, 1);
        peft::write(folder.path(), &head, Base { name_or_path: "x", revision: None }).unwrap();
        check(1.3, &["is not a usable adapter configuration", "the head of a reward model"]);
        peft::write(folder.path(), &adapter, Base { name_or_path: "x", revision: None }).unwrap();

        let with = |name: &str| {
            let bytes = 1f32.to_le_bytes();
            let view = TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
            fs::write(folder.path().join(WEIGHTS_FILE), file_of([(name, view)].into_iter()))
                .unwrap();
        };
        with("base_model.model.lm_head.weight");
        check(1.3, &["`base_model.model.lm_head.weight`", "is no matrix of LoRA"]);
        with("base_model.model.x.lora_A.weight");
        check(1.3, &["`lora_B`", "is missing"]);
        fs::write(folder.path().join(WEIGHTS_FILE), "{").unwrap();
        check(1.3, &["adapter_model.safetensors` is not a whole safetensors file"]);
        fs::write(folder.path().join(CONFIG_FILE), [0xff, 0xfe]).unwrap();
        check(1.3, &["adapter_config.json` is not a usable adapter configuration"]);
    }
}
