//! Servers that say what cannot be right, or are another model.

use serde_json::{Value, json};

use super::fake::{Fake, Fault, Kind};
use crate::runs::Place;

/// Runs on a server that changes every answer behind the probe, and expects the end of the run.
#[track_caller]
fn check(change: fn(&mut Value), expected: &[&str]) {
    let place = Place::new();
    let fake = Fake::failing(Kind::Vllm, move |number, _| match number {
        0..40 => Fault::None,
        _ => Fault::Changed(change),
    });
    let said = place.served(&fake, "run", &[]).expect(4).says(expected);
    assert!(said.stderr.contains("record `"), "{}", said.stderr);
    assert!(said.stderr.contains("\nhint: "), "{}", said.stderr);
}

#[test]
fn an_answer_that_cannot_be_right_ends_the_run_with_the_record() {
    check(|it| it["usage"]["prompt_tokens"] = json!(3), &["counts 3 tokens in a prompt of"]);
    check(
        |it| it["usage"]["completion_tokens"] = json!(99),
        &["it has 99 tokens, and 12 were allowed"],
    );
    check(|it| it["model"] = json!("gpt-4"), &["it is of model `gpt-4`, and `tiny` was asked"]);
    check(|it| it["choices"][0]["logprobs"] = Value::Null, &["it has no logprobs"]);
    check(
        |it| it["choices"][0]["logprobs"]["token_logprobs"] = json!([-1.0, 7.5]),
        &["tokens and logprobs of 2"],
    );
    check(|it| it["choices"] = json!([]), &["it has not one choice"]);
    check(|it| it["usage"] = Value::Null, &["does not say how many tokens were read"]);
    check(
        |it| {
            it["choices"][0]["finish_reason"] = json!("length");
            it["usage"]["completion_tokens"] = json!(2);
        },
        &["it ends for its length after 2 of 12 tokens: its context is shorter"],
    );
}

#[test]
fn a_server_with_another_model_is_refused_before_a_folder_is_made() {
    let place = Place::new();
    // Other weights with the same tokenizer.
    let fake = Fake::failing(Kind::Vllm, |_, _| {
        Fault::Changed(|it| {
            let logprobs = it["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
            logprobs
                .iter_mut()
                .filter(|it| !it.is_null())
                .for_each(|it| *it = json!(it.as_f64().unwrap() - 0.5));
        })
    });
    place.served(&fake, "run", &[]).expect(4).says(&[
        "is not the model that it should be: its logprobs are 0.500 nats over",
        "of raw texts and 0.500 nats over",
        "and 0.1 is allowed",
        "hint: `models.policy.base` has to be the very model",
    ]);
    assert!(!place.path("run").exists());
    place.served(&fake, "run", &["--set", "models.policy.probe_bound=0.6"]).expect(0);
}

#[test]
fn a_server_that_cannot_score_leaves_it_to_the_embedded_engine() {
    let place = Place::new();
    // What llama-cpp-python does with prompts that do not begin with a begin-of-text token.
    let fake = Fake::failing(Kind::LlamaCppPython, |_, body| {
        match body["echo"] == json!(true)
            && !body["prompt"].as_str().unwrap().starts_with("<|im_start|>")
        {
            true => Fault::Changed(|it| {
                let logprobs =
                    it["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
                logprobs.iter_mut().for_each(|it| *it = json!(-9.0));
            }),
            false => Fault::None,
        }
    });
    let adapters = "models.policy.embedded=[\"adapters\"]";
    place.served(&fake, "run", &["--set", adapters]).expect(4).says(&[
        "hint: it has the model, and scores raw texts otherwise: `models.policy.embedded = [\"scores\"]`",
    ]);
    let both = "models.policy.embedded=[\"adapters\", \"scores\"]";
    place.served(&fake, "run", &["--set", both]).expect(0);
}

#[test]
fn a_model_that_the_server_has_not_is_named() {
    let (place, fake) = (Place::new(), Fake::start(Kind::Vllm));
    place.served(&fake, "run", &["--set", "models.policy.model=large"]).expect(4).says(&[
        "does not serve `large`: it serves `tiny`",
        "hint: `model` of the model's table in `[models]`",
    ]);
    drop(fake);
    assert!(!place.path("run").exists());
}
