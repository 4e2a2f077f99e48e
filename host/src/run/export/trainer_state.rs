//! `trainer_state.json` as transformers' `Trainer` writes it into a checkpoint: the training of the round
//! that made the result. Readers refuse fields that they do not know, so there are no others.

use serde_json::{Map, Value, json};

use crate::plugin_set::Train;
use crate::report::Measured;
use crate::round::rows::Step;

/// The file.
pub const FILE: &str = "trainer_state.json";

/// Returns the state after these updates, each of which was logged, and the measures taken then.
pub fn of(settings: &Train, steps: &[Step], held_out: &[Measured]) -> Value {
    let (done, max_steps, epoch) =
        steps.last().map_or((0, 0, 0.0), |step| (step.step, step.max_steps, step.epoch));
    let mut log: Vec<Value> = steps.iter().map(logged).collect();
    if !held_out.is_empty() {
        let mut row: Map<String, Value> = held_out
            .iter()
            .map(|row| (format!("eval_{}", row.measure.replace('-', "_")), row.value.into()))
            .collect();
        row.insert("epoch".into(), epoch.into());
        row.insert("step".into(), done.into());
        log.push(row.into());
    }
    json!({
        "best_global_step": null,
        "best_metric": null,
        "best_model_checkpoint": null,
        "epoch": epoch,
        "eval_steps": max_steps,
        "global_step": done,
        "is_hyper_param_search": false,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": log,
        "logging_steps": 1,
        "max_steps": max_steps,
        "num_input_tokens_seen": steps.iter().map(|step| step.num_tokens).sum::<u64>(),
        // Whole there, where a part of an epoch counts as one.
        "num_train_epochs": settings.num_train_epochs.ceil() as u64,
        "save_steps": settings.save_steps,
        "stateful_callbacks": {},
        "total_flos": 0.0,
        "train_batch_size": settings.per_device_train_batch_size,
        "trial_name": null,
        "trial_params": null,
    })
}

/// Returns an update as transformers logs it.
fn logged(step: &Step) -> Value {
    let mut row = serde_json::to_value(step).expect("our own types serialise");
    if let Some(row) = row.as_object_mut() {
        row.remove("max_steps");
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::PreferenceMetrics;

    #[test]
    fn each_update_is_logged_with_the_measures_behind_them() {
        let step = |step| Step {
            step,
            max_steps: 2,
            epoch: step as f64 / 2.0,
            loss: 1.5,
            grad_norm: 0.25,
            learning_rate: 1e-4,
            num_tokens: 10,
            preference: PreferenceMetrics { kl: Some(0.5), ..PreferenceMetrics::default() },
        };
        let settings = Train { num_train_epochs: 0.5, ..Train::default() };
        let held_out = [Measured { measure: "distinct-2".into(), value: 0.75 }];
        let state = of(&settings, &[step(1), step(2)], &held_out);
        assert_eq!(
            state["log_history"],
            json!([
                {"step": 1, "epoch": 0.5, "loss": 1.5, "grad_norm": 0.25, "learning_rate": 1e-4, "num_tokens": 10, "kl": 0.5},
                {"step": 2, "epoch": 1.0, "loss": 1.5, "grad_norm": 0.25, "learning_rate": 1e-4, "num_tokens": 10, "kl": 0.5},
                {"eval_distinct_2": 0.75, "epoch": 1.0, "step": 2},
            ])
        );
        let number = |name: &str| state[name].as_f64();
        assert_eq!(number("global_step"), Some(2.0));
        assert_eq!(number("max_steps"), Some(2.0));
        assert_eq!(number("num_train_epochs"), Some(1.0));
        assert_eq!(number("num_input_tokens_seen"), Some(20.0));
        let nothing = of(&settings, &[], &[]);
        assert_eq!((&nothing["global_step"], &nothing["log_history"]), (&json!(0), &json!([])));
    }
}
