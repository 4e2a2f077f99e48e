//! A model on a server that TRL trains: no weights are here.

use super::fake::{Fake, Kind};
use super::{GREEDY, counted, without_weights};
use crate::runs::{Place, tests};

#[test]
fn what_trl_trains_and_a_server_serves_needs_no_weights_here() {
    let place = Place::new();
    let base = without_weights(&place).display().to_string();
    let python = format!("train.trl.python='{}'", tests().join("runs/fake_trainer.py").display());
    let trl = ["--set", "train.backend='trl'", "--set", &python, "--set", GREEDY];
    place.tiny("here", &trl).expect(0);
    let fake = Fake::start(Kind::Vllm);
    let url = fake.url();
    let served = [&trl[..], &["--server", &url, "--model", &base]].concat();
    place.tiny("served", &served).expect(0);
    let (here, there) = (place.files("here"), place.files("served"));
    for round in ["01", "02"] {
        let adapter = format!("rounds/{round}/adapter/adapter_model.safetensors");
        assert_eq!(here[&adapter], there[&adapter], "{round}");
        // Both sides score the same rows.
        let probe = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
            let name = format!("rounds/{round}/trl/config.json");
            let config: serde_json::Value = serde_json::from_slice(&files[&name]).unwrap();
            let numbers = config["probe"]["mean_logprobs"].as_array().unwrap();
            numbers.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>()
        };
        let (ours, theirs) = (probe(&here), probe(&there));
        assert!(!ours.is_empty() && ours.len() == theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
    }
    assert!(counted(&there, "server.policy.tokens") > 0);
    // The server finds an adapter that is not what the job says.
    let other = place.command(&[&["--plugins", &set(), "--out", "other"], &served[..]].concat());
    let mut other = other;
    let said = crate::runs::Said::of(other.env("FAKE", "other-model").output().unwrap());
    said.expect(4).says(&["mean logprob of", "here and of"]);
    // What is trained here needs them.
    let native = ["--set", GREEDY, "--server", &url, "--model", &base];
    place.tiny("native", &native).expect(2).says(&["`[train]` needs the embedded engine"]);
    assert!(!place.path("native").exists());
}

fn set() -> String {
    tests().join("sets/tiny.toml").display().to_string()
}
