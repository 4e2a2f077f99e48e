//! Adapter folders: written, read back, and refused.

use std::fs;

use super::*;
use crate::model::spec::{Rope, RopeScaling};

fn spec() -> Spec {
    Spec {
        layers: 2,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        intermediate: 12,
        vocab: 16,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        attention_bias: false,
        qk_norm: false,
        sliding_windows: Vec::new(),
        tied_embeddings: true,
        context_length: 16,
    }
}

fn config() -> LoraConfig {
    LoraConfig { dropout: 0.05, ..LoraConfig::new(2, 16.0, &[Linear::Q, Linear::V, Linear::Down]) }
}

fn adapter() -> Adapter {
    filled(config())
}

fn filled(config: LoraConfig) -> Adapter {
    let mut adapter = Adapter::init(&spec(), config, 7).unwrap();
    for (i, pair) in adapter.pairs.values_mut().enumerate() {
        pair.b.iter_mut().enumerate().for_each(|(j, b)| *b = (i * 100 + j) as f32 / 7.0);
    }
    adapter
}

const BASE: Base<'_> = Base { name_or_path: "owner/name", revision: Some("main") };

#[test]
fn an_adapter_comes_back_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &adapter(), BASE).unwrap();
    let back = read(folder.path(), &spec()).unwrap();
    assert_eq!(back, adapter());
    assert_eq!(back.digest(), adapter().digest());
    // Written again, the bytes are the same.
    let bytes = |name| fs::read(folder.path().join(name)).unwrap();
    let before = (bytes(CONFIG_FILE), bytes(WEIGHTS_FILE));
    write(folder.path(), &back, BASE).unwrap();
    assert_eq!((bytes(CONFIG_FILE), bytes(WEIGHTS_FILE)), before);
    let weights = bytes(WEIGHTS_FILE);
    let file = SafeTensors::deserialize(&weights).unwrap();
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
    assert_eq!(file.tensor(name).unwrap().shape(), [8, 2]);
    assert_eq!(file.len(), 12);
}

#[test]
fn a_reward_model_comes_back_as_a_sequence_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = adapter().with_score(&spec(), 3);
    write(folder.path(), &adapter, BASE).unwrap();
    let back = read(folder.path(), &spec()).unwrap();
    assert_eq!((&back, back.digest()), (&adapter, adapter.digest()));
    let path = folder.path().join(CONFIG_FILE);
    let config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["score"]));
    let weights = fs::read(folder.path().join(WEIGHTS_FILE)).unwrap();
    let file = SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(file.tensor("base_model.model.score.weight").unwrap().shape(), [1, 8]);

    // As PEFT 0.21 writes it, and without the head.
    let with = |modules: Value| {
        let mut config = config.clone();
        config["modules_to_save"] = modules;
        fs::write(&path, config.to_string()).unwrap();
        read(folder.path(), &spec())
    };
    assert_eq!(with(json!(["score", "classifier", "score"])).unwrap(), adapter);
    let error = with(Value::Null).unwrap_err().to_string();
    assert!(error.contains("`base_model.model.score.weight`"), "{error}");
    assert!(error.contains("belongs to no target module"), "{error}");
    write(folder.path(), &Adapter { score: None, ..adapter }, BASE).unwrap();
    let error = with(json!(["score"])).unwrap_err().to_string();
    assert!(error.contains("is missing; expected [1, 8]"), "{error}");
}

#[test]
fn patterns_come_back_and_expressions_are_written_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = LoraConfig {
        target_modules: TargetModules::Regex(r".*1\.(self_attn\.q|mlp\.up)_proj".to_owned()),
        use_rslora: true,
        // Not in the order of the alphabet: the first that matches counts.
        rank_pattern: vec![("up_proj".to_owned(), 3), (".*_proj".to_owned(), 1)],
        alpha_pattern: vec![("q_proj".to_owned(), 0.1)],
        ..config()
    };
    let adapter = filled(config);
    write(folder.path(), &adapter, BASE).unwrap();
    let back = read(folder.path(), &spec()).unwrap();
    assert_eq!((&back.pairs, back.digest()), (&adapter.pairs, adapter.digest()));
    assert_eq!(
        back.pairs[&(1, Linear::Up)].config(),
        PairConfig { r: 3, scale: 16.0 / 3f64.sqrt() }
    );
    assert_eq!(back.pairs[&(1, Linear::Q)].config(), PairConfig { r: 1, scale: 0.1 });
    assert_eq!(
        back.config.target_modules,
        TargetModules::Names(vec![
            "model.layers.1.self_attn.q_proj".to_owned(),
            "model.layers.1.mlp.up_proj".to_owned()
        ])
    );
    assert!(adapter.under(back.config, 2).is_some());
}

#[test]
fn what_other_readers_leave_out_is_known() {
    let check = |change: fn(&mut LoraConfig), vllm, llama_cpp| {
        let mut config = config();
        change(&mut config);
        let rank = config.r;
        let [first, second] = readers(&config, rank);
        assert_eq!((first.ignores, second.ignores), (vllm, llama_cpp));
        first.option
    };
    assert_eq!(check(|_| (), None, None), None);
    assert_eq!(check(|c| c.r = 17, None, None).as_deref(), Some("--max-lora-rank 32"));
    check(|c| c.r = 1000, Some("ranks over 512"), None);
    check(|c| c.use_rslora = true, None, Some("`use_rslora`"));
    let alpha = Some("`alpha_pattern`");
    check(|c| c.alpha_pattern = vec![("q_proj".to_owned(), 1.0)], alpha, alpha);
    check(|c| c.rank_pattern = vec![("q_proj".to_owned(), 1)], Some("`rank_pattern`"), None);
}

#[test]
fn the_configuration_is_what_other_tools_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &adapter(), BASE).unwrap();
    let text = fs::read_to_string(folder.path().join(CONFIG_FILE)).unwrap();
    assert_eq!(
        text,
        r#"{
  "alpha_pattern": {},
  "base_model_name_or_path": "owner/name",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_to_transform": null,
  "lora_alpha": 16,
  "lora_dropout": 0.05,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {},
  "revision": "main",
  "target_modules": [
    "q_proj",
    "v_proj",
    "down_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
}
"#
    );
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    let check = |change: Value, expected: &str| {
        let mut config = config_json(&adapter(), BASE);
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        match parse_config(&config.to_string()) {
            Ok(_) => assert_eq!(expected, ""),
            Err(message) => {
                assert!(message.starts_with(expected) && !expected.is_empty(), "{message}")
            }
        }
    };
    check(json!({}), "");
    check(json!({"target_modules": "all-linear"}), "");
    check(json!({"target_modules": ["self_attn.q_proj", "up_proj"], "lora_alpha": 0.5}), "");
    check(json!({"target_modules": ["model.layers.12.mlp.up_proj"]}), "");
    check(
        json!({"target_modules": ["model.layers.x.mlp.up_proj"]}),
        "`target_modules` holds \"model.layers.x.mlp.up_proj\"",
    );
    check(json!({"megatron_config": null, "peft_version": "0.21"}), "");
    check(json!({"use_dora": true}), "`use_dora` is true, which cannot be used");
    check(json!({"bias": "all"}), "`bias` is \"all\"");
    check(json!({"modules_to_save": ["lm_head"]}), "`modules_to_save` is [\"lm_head\"]");
    check(json!({"modules_to_save": ["score", "lm_head"]}), "`modules_to_save` is [\"score\",");
    check(json!({"modules_to_save": ["classifier"]}), "`modules_to_save` is [\"classifier\"]");
    check(json!({"modules_to_save": "score"}), "`modules_to_save` is \"score\", expected a list");
    check(json!({"modules_to_save": ["classifier", "score"]}), "");
    check(json!({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 0.5}}), "");
    check(json!({"rank_pattern": {"q_proj": -4}}), "`rank_pattern` gives `q_proj` -4");
    check(json!({"alpha_pattern": {"q_proj": "4"}}), "`alpha_pattern` gives `q_proj` \"4\"");
    check(json!({"alpha_pattern": [4]}), "invalid type");
    check(json!({"init_lora_weights": "gaussian"}), "");
    check(json!({"init_lora_weights": "pissa_niter_4"}), "`init_lora_weights` is \"pissa_nit");
    check(json!({"of_a_later_version": null, "and_this": false}), "");
    check(json!({"of_a_later_version": 1}), "`of_a_later_version` is 1, which cannot be used");
    check(json!({"layers_to_transform": [0]}), "`layers_to_transform` is [0]");
    check(json!({"target_modules": ["lm_head"]}), "`target_modules` holds \"lm_head\"");
    check(json!({"target_modules": ".*proj"}), "");
    check(json!({"target_modules": 3}), "`target_modules` is 3");
    check(json!({"peft_type": "IA3"}), "`peft_type` is `IA3`");
    check(json!({"r": "many"}), "invalid type");
}

#[test]
fn broken_folders_are_named() {
    let check = |change: &dyn Fn(&Path), spec: Spec, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter(), BASE).unwrap();
        change(folder.path());
        let error = read(folder.path(), &spec).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let same = |_: &Path| ();
    check(&|f| fs::remove_file(f.join(CONFIG_FILE)).unwrap(), spec(), "cannot access `");
    check(&|f| fs::write(f.join(CONFIG_FILE), "{").unwrap(), spec(), "is not a usable adapter");
    let truncate = |f: &Path| {
        let path = f.join(WEIGHTS_FILE);
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 8]).unwrap();
    };
    check(&truncate, spec(), "is not a whole safetensors file");
    check(
        &same,
        Spec { intermediate: 16, ..spec() },
        "has shape [2, 12], the model and rank need [2, 16]",
    );
    check(&same, Spec { layers: 3, ..spec() }, "is missing; expected [2, 8]");
    check(&same, Spec { layers: 1, ..spec() }, "belongs to no target module");
    let rank = |f: &Path| {
        let path = f.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"r\": 2", "\"r\": 0")).unwrap();
    };
    check(&rank, spec(), "rank 0 and alpha 16 for `model.layers.0.self_attn.q_proj` give no scale");
    let huge = |f: &Path| {
        let path = f.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"r\": 2", "\"r\": 9000000000000000000")).unwrap();
    };
    check(&huge, spec(), "has shape [2, 8], the model and rank need [9000000000000000000, 8]");
    let poison = |f: &Path| {
        let mut poisoned = adapter();
        poisoned.pairs.get_mut(&(0, Linear::Q)).unwrap().a[3] = f32::NAN;
        write(f, &poisoned, BASE).unwrap();
    };
    check(&poison, spec(), "holds NaN at number 3, expected finite numbers");
}

#[test]
fn half_precision_is_read() {
    // 1.5, -2 and 0.25 in bf16 and in f16.
    for (dtype, bits) in
        [(Dtype::BF16, [0x3fc0u16, 0xc000, 0x3e80]), (Dtype::F16, [0x3e00, 0xc000, 0x3400])]
    {
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let view = TensorView::new(dtype, vec![1, 3], &bytes).unwrap();
        assert_eq!(numbers(&view, [1, 3]).unwrap(), [1.5, -2.0, 0.25]);
    }
}
