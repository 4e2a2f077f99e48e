//! Folders that are written, as other tools would check them, and what goes wrong on the way.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::model::adapter::{Adapter, LoraConfig};
use crate::model::backend::{AnyDevice, WeightType};
use crate::model::merge::{Difference, Merged, logits};
use crate::model::spec::Linear;
use crate::model::template::ChatSettings;
use crate::model::tiny;
use crate::progress::{Progress, Style};
use crate::round::{Loaded, Opened};

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    folder.display().to_string()
}

fn open(name: &str) -> Opened {
    Opened::open(name, ChatSettings::default(), &mut |_| ()).unwrap()
}

/// An adapter whose effect can be seen, on some layers, with ranks by pattern.
fn adapter(spec: &crate::model::spec::Spec) -> Adapter {
    let config = LoraConfig {
        use_rslora: true,
        rank_pattern: vec![("layers.0.*".to_owned(), 3)],
        alpha_pattern: vec![("q_proj".to_owned(), 2.0)],
        ..LoraConfig::new(2, 1.0, &[Linear::Q, Linear::K, Linear::O, Linear::Down])
    };
    let mut adapter = Adapter::init(spec, config, 5).unwrap();
    for (i, pair) in adapter.pairs.values_mut().enumerate() {
        pair.b = tiny::normal(i as u64, pair.b.len(), 0.3);
    }
    adapter
}

fn write_merged(folder: &Path, from: &Opened, adapter: &Adapter, settings: Settings) {
    let merged = Merged::new(&*from.checkpoint, adapter, Path::new("adapter")).unwrap();
    let mut to = folder.to_owned();
    write(&mut to, &from.model, &merged, &settings, &mut |_, _| ControlFlow::Continue(())).unwrap();
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// What transformers, vLLM and llama.cpp's converter ask of a model folder.
fn check_conformance(folder: &Path, dtype: &str) {
    let config = json(folder, "config.json");
    assert!(config["architectures"][0].is_string() && config["model_type"].is_string());
    let named: Vec<_> = ["torch_dtype", "dtype"].map(|key| &config[key]).into_iter().collect();
    assert!(named.iter().any(|name| !name.is_null()));
    assert!(named.iter().all(|name| name.is_null() || *name == dtype), "{config}");
    let stops = &json(folder, "generation_config.json")["eos_token_id"];
    assert!(stops.is_u64() || stops.as_array().is_some_and(|stops| stops.len() > 1), "{stops}");

    let mut names = std::collections::BTreeSet::new();
    let mut total = 0;
    let index = folder.join("model.safetensors.index.json").exists();
    let index = index.then(|| json(folder, "model.safetensors.index.json"));
    let files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    assert_eq!(index.is_some(), files.len() > 1);
    for name in &files {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (tensor, view) in file.iter() {
            assert!(names.insert(tensor.to_owned()), "{tensor} twice");
            total += view.data().len();
            if let Some(index) = &index {
                assert_eq!(index["weight_map"][tensor], json!(name));
            }
        }
    }
    if let Some(index) = &index {
        assert_eq!(index["metadata"]["total_size"], json!(total));
        assert_eq!(index["weight_map"].as_object().unwrap().len(), names.len());
    }
    let tied = config["tie_word_embeddings"] == json!(true);
    assert_eq!(names.contains("lm_head.weight"), !tied);

    let tokenizer = json(folder, "tokenizer_config.json");
    let template = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
    assert_eq!(tokenizer["chat_template"], json!(template));
    assert!(json(folder, "special_tokens_map.json").is_object());
    assert!(json(folder, "tokenizer.json")["model"].is_object());
}

/// Logits of a folder as it is opened, against those of model and adapter apart.
fn difference(from: &Opened, adapter: &Adapter, folder: &Path) -> Difference {
    let merged = open(folder.to_str().unwrap());
    let tokens = vec![(0..40u32).map(|i| i * 7 % 200).collect::<Vec<_>>(), vec![5]];
    let load = |opened: &Opened| {
        Loaded::load(opened, &AnyDevice::cpu(), WeightType::F32, &Progress::new(Style::Silent))
            .unwrap()
    };
    let (apart, together) = (load(from), load(&merged));
    let beside = apart.engine.load_adapter(adapter, 1.0).unwrap();
    let plain = logits(&apart.engine, None, &tokens).unwrap();
    let before = logits(&apart.engine, Some(&beside), &tokens).unwrap();
    let after = logits(&together.engine, None, &tokens).unwrap();
    let effect = Difference::of(&before, &plain, from.model.spec.vocab);
    assert!(effect.largest > 0.1, "{effect:?}");
    Difference::of(&before, &after, from.model.spec.vocab)
}

#[test]
fn a_merged_folder_is_the_model_with_its_adapter() {
    let from = open(&fixture("tiny-llama"));
    let adapter = adapter(&from.model.spec);
    for (dtype, share) in [(Dtype::F32, 2e-6), (Dtype::F16, 4e-3), (Dtype::Bf16, 4e-2)] {
        for max_shard_size in [5_000_000_000, 20_000] {
            let folder = tempfile::tempdir().unwrap();
            write_merged(folder.path(), &from, &adapter, Settings { dtype, max_shard_size });
            check_conformance(folder.path(), dtype.torch_name());
            let found = difference(&from, &adapter, folder.path());
            println!("{dtype:?}: {found:?}");
            assert!(found.largest <= share * found.magnitude, "{dtype:?} {found:?}");
        }
    }
}

#[test]
fn without_an_effect_the_weights_come_back_bit_by_bit() {
    let from = open(&fixture("tiny-llama"));
    let config = LoraConfig::new(2, 1.0, &Linear::ALL);
    let nothing = Adapter::init(&from.model.spec, config, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_merged(
        folder.path(),
        &from,
        &nothing,
        Settings { max_shard_size: 9_999, ..Settings::default() },
    );
    let back = open(folder.path().to_str().unwrap());
    assert_eq!(back.model.spec, from.model.spec);
    for (name, shape) in crate::model::layout::tensors(&from.model.spec) {
        let bits = |opened: &Opened| -> Vec<u32> {
            let values = opened.checkpoint.tensor(&name, &shape).unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&back), bits(&from), "{name}");
    }
    // The same again gives the same bytes.
    let again = tempfile::tempdir().unwrap();
    write_merged(
        again.path(),
        &back,
        &nothing,
        Settings { max_shard_size: 9_999, ..Settings::default() },
    );
    let files = |folder: &Path| -> BTreeMap<_, _> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name(), std::fs::read(e.path()).unwrap())).collect()
    };
    assert_eq!(files(again.path()), files(folder.path()));
}

#[test]
fn a_file_larger_than_a_shard_stands_alone() {
    let from = open(&fixture("tiny-llama"));
    let nothing =
        Adapter::init(&from.model.spec, LoraConfig::new(1, 1.0, &[Linear::Q]), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_merged(
        folder.path(),
        &from,
        &nothing,
        Settings { max_shard_size: 1, ..Settings::default() },
    );
    let tensors = crate::model::layout::tensors(&from.model.spec).len();
    let last = format!("model-{tensors:05}-of-{tensors:05}.safetensors");
    assert!(folder.path().join(last).exists());
    check_conformance(folder.path(), "float32");
}

/// A checkpoint with one number changed.
struct Spoilt<'a>(&'a dyn Checkpoint, f32);

impl Checkpoint for Spoilt<'_> {
    fn spec(&self) -> &crate::model::spec::Spec {
        self.0.spec()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let mut values = self.0.tensor(name, shape)?;
        if name == "model.norm.weight" {
            values[3] = self.1;
        }
        Ok(values)
    }
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    let from = open(&fixture("tiny-llama"));
    let check = |value: f32, dtype: Dtype, expected: Option<&str>| {
        let mut folder = tempfile::tempdir().unwrap().keep();
        let weights = Spoilt(&*from.checkpoint, value);
        let settings = Settings { dtype, ..Settings::default() };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let result = write(&mut folder, &from.model, &weights, &settings, &mut go_on);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(result.err().map(|error| error.to_string()).as_deref(), expected);
    };
    check(65504.0, Dtype::F16, None);
    check(1e5, Dtype::Bf16, None);
    check(
        1e5,
        Dtype::F16,
        Some("`model.norm.weight` holds 100000 at position 3, more than float16 can hold"),
    );
    check(
        f32::INFINITY,
        Dtype::F32,
        Some("`model.norm.weight` holds inf at position 3, more than float32 can hold"),
    );
}

/// A disk with so much room.
struct Full {
    room: usize,
    created: Vec<String>,
}

impl Folder for Full {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Write + '_>> {
        self.created.push(name.to_owned());
        Ok(Box::new(Room(&mut self.room)))
    }
}

struct Room<'a>(&'a mut usize);

impl Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => *self.0 = left,
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_an_interruption_end_the_writing() {
    let from = open(&fixture("tiny-llama"));
    let mut messages = std::collections::BTreeSet::new();
    for room in (0..80_000).step_by(3_001) {
        let mut disk = Full { room, created: Vec::new() };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let settings = Settings { max_shard_size: 30_000, ..Settings::default() };
        let error = write(&mut disk, &from.model, &*from.checkpoint, &settings, &mut go_on)
            .expect_err("80 kB are too few");
        let last = disk.created.last().unwrap();
        assert_eq!(error.to_string(), format!("cannot write `{last}`: no storage space"));
        assert!(error.hint().unwrap().starts_with("make room"));
        messages.insert(error.to_string());
    }
    assert!(messages.len() > 3, "{messages:?}");

    let mut disk = Full { room: usize::MAX, created: Vec::new() };
    let mut stop = |done, _| match done {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let settings = Settings::default();
    let result = write(&mut disk, &from.model, &*from.checkpoint, &settings, &mut stop);
    assert!(matches!(result, Err(ExportError::Interrupted)));
}

#[test]
fn every_token_that_ends_a_completion_is_told() {
    let from = open(&fixture("tiny-llama"));
    let files: BTreeMap<_, _> =
        files::of_model(&from.model, Dtype::F32).unwrap().into_iter().collect();
    let config: Value = serde_json::from_slice(&files["generation_config.json"]).unwrap();
    let told: Vec<u64> = match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().map(|id| id.as_u64().unwrap()).collect(),
        id => vec![id.as_u64().unwrap()],
    };
    let stops: Vec<u64> = from.model.tokenizer.stop_tokens().into_iter().map(u64::from).collect();
    assert_eq!(told, stops);
    // What else the source says of decoding stays.
    let own: Value = json(Path::new(&fixture("tiny-llama")), "generation_config.json");
    for (key, value) in own.as_object().unwrap() {
        assert!(key == "eos_token_id" || config[key] == *value, "{key}");
    }
}
