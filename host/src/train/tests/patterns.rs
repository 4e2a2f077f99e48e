//! An adapter with ranks and scales by pattern, against PEFT (`tests/fixtures/make_patterns.py`).

use super::*;
use crate::generate;
use crate::logprob::{self, Row};

#[derive(Deserialize)]
struct Patterns {
    pairs: BTreeMap<String, (usize, f64)>,
    logprobs: Vec<Vec<f64>>,
}

#[test]
fn ranks_scales_logprobs_and_gradients_by_pattern_are_those_of_peft() {
    let folder = folder().join("../patterns");
    let tiny = Tiny::new(true);
    let adapter = peft::read(&folder.join("adapter"), &tiny.spec).unwrap();
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let want: Patterns = serde_json::from_slice(&text).unwrap();
    let pairs = adapter.pairs.iter().map(|(&(layer, linear), pair)| {
        (crate::model::adapter::module_path(layer, linear), (pair.r, pair.scale))
    });
    assert_eq!(pairs.collect::<BTreeMap<_, _>>(), want.pairs);

    // As it answers: packed beside the weights.
    let engine = tiny.engine();
    let loaded = engine.load_adapter(&adapter, 1.0).unwrap();
    assert_eq!(loaded.rank, 4);
    let rows: Vec<Row> = examples()
        .into_iter()
        .map(|Example { tokens, trained, .. }| {
            let from = trained.iter().position(|&trained| trained).unwrap();
            Row { tokens, from }
        })
        .collect();
    let settings_of_scoring = generate::Settings::default();
    let scores =
        logprob::score(&engine, Some(&loaded), &rows, &settings_of_scoring, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    for (score, want) in scores.iter().zip(&want.logprobs) {
        assert_eq!(score.token_logprobs.len(), want.len());
        for (&got, want) in score.token_logprobs.iter().zip(want) {
            assert!((f64::from(got) - want).abs() < 5e-5, "{got} {want}");
        }
    }

    // As it learns.
    let mut trainer = trainer(&tiny, &adapter, settings());
    let (loss, gradients) = gradients(&mut trainer);
    let tokens: Vec<f64> = want.logprobs.concat();
    assert!((loss + tokens.iter().sum::<f64>() / tokens.len() as f64).abs() < 1e-5, "{loss}");
    let bytes = std::fs::read(folder.join("gradients.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(gradients.len(), file.len());
    let scale = gradients.iter().map(|(_, g)| largest(g)).fold(0.0, f32::max);
    for (name, gradient) in &gradients {
        let view = file.tensor(&format!("base_model.model.{name}")).unwrap();
        let want = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        let distance = furthest(gradient, &want.collect::<Vec<_>>()) / scale;
        assert!(distance < 1e-5, "{name} {distance:e}");
    }

    // A saved state brings it back to the last bit, and so does its folder.
    trainer.step().unwrap();
    let state = trainer.state().unwrap();
    assert_eq!(TrainState::from_bytes(&state.to_bytes()).unwrap(), state);
    let written = tempfile::tempdir().unwrap();
    let base = peft::Base { name_or_path: "tiny", revision: None };
    peft::write(written.path(), &state.adapter, base).unwrap();
    let back = peft::read(written.path(), &tiny.spec).unwrap();
    assert_eq!((&back.pairs, back.digest()), (&state.adapter.pairs, state.adapter.digest()));
}
