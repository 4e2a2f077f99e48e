//! Bodies and answers. Flights and faults are tried with whole runs, in `tests/server`.

use std::path::Path;

use serde_json::{Value, json};

use super::protocol::Misfit;
use super::*;
use crate::generate::Sampling;
use crate::record::Finish;

fn sampling() -> Sampling {
    Sampling { temperature: 0.7, top_p: 0.9, top_k: 0, repetition_penalty: 1.1, max_new_tokens: 8 }
}

fn completing() -> Request {
    let (stop, end_tokens) = (vec!["\n\n".to_owned()], vec![151_645]);
    let work = Work::Complete { sampling: sampling(), stop, end_tokens, seed: u64::MAX };
    Request { tokens: vec![785, 6722, 315, 9625, 374], text: None, work }
}

fn scoring(from: usize) -> Request {
    Request { work: Work::Score { from }, ..completing() }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/server");
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn the_answers_of_each_kind_of_server_are_read() {
    let check = |name: &str, ids: Option<Vec<u32>>, tokens: u32, logprob: f64| {
        let (reply, usage) = completing().expected().read("qwen", &fixture(name)).unwrap();
        let Reply::Completed(found) = reply else { panic!("{name}: {reply:?}") };
        assert!((found.logprob - logprob).abs() < 1e-9, "{name}: {}", found.logprob);
        let (text, finish) = (" Paris.".to_owned(), Finish::Stop);
        let expected = Completed { text, token_ids: ids, tokens, logprob: found.logprob, finish };
        assert_eq!(found, expected, "{name}");
        assert!(usage.tokens() >= 7, "{name}");
    };
    check("vllm.json", Some(vec![12_095, 13, 151_645]), 3, -0.38);
    check("sglang.json", None, 3, -0.38);
    check("llama-server.json", None, 3, -0.36);
    check("llama-cpp-python.json", None, 2, -0.36);
    let scored = scoring(2).expected().read("qwen", &fixture("vllm-echo.json"));
    assert_eq!(scored.unwrap().0, Reply::Scored(vec![-0.9, -2.2, -0.4]));
    assert!(scoring(1).expected().read("qwen", &fixture("vllm.json")).is_err(), "no echo");
}

#[test]
fn every_field_of_sampling_is_sent_as_each_kind_names_it() {
    let body = |dialect| completing().body(dialect, "m");
    let ids = json!([785, 6722, 315, 9625, 374]);
    for dialect in [Dialect::Vllm, Dialect::Sglang, Dialect::LlamaServer, Dialect::Other] {
        let body = body(dialect);
        assert_eq!((&body["prompt"], &body["max_tokens"]), (&ids, &json!(8)), "{dialect:?}");
        assert_eq!((&body["temperature"], &body["top_p"]), (&json!(0.7), &json!(0.9)));
        // 31 bits are what all of them take.
        assert_eq!((&body["stop"], &body["seed"]), (&json!(["\n\n"]), &json!(0x7fff_ffff)));
    }
    let vllm = body(Dialect::Vllm);
    assert_eq!((&vllm["top_k"], &vllm["repetition_penalty"]), (&json!(-1), &json!(1.1)));
    assert_eq!(
        (&vllm["stop_token_ids"], &vllm["add_special_tokens"]),
        (&json!([151_645]), &json!(false))
    );
    let llama = body(Dialect::LlamaServer);
    assert_eq!((&llama["top_k"], &llama["min_p"]), (&json!(0), &json!(0.0)));
    assert_eq!((&llama["repeat_penalty"], &llama["repeat_last_n"]), (&json!(1.1), &json!(-1)));
    // What it does not know it is not sent.
    assert_eq!(body(Dialect::Other)["top_k"], Value::Null);
    let text = Request { text: Some("The capital".into()), ..completing() };
    assert_eq!(text.body(Dialect::LlamaCppPython, "m")["prompt"], json!("The capital"));
    let score = scoring(1).body(Dialect::Vllm, "m");
    assert_eq!((&score["echo"], &score["max_tokens"]), (&json!(true), &json!(1)));
    assert_eq!(score["temperature"], json!(0.0));
}

#[test]
fn what_a_kind_cannot_do_is_known() {
    let plain = Sampling { repetition_penalty: 1.0, ..sampling() };
    assert_eq!(Dialect::Other.lacks(&plain, 1), None);
    assert_eq!(Dialect::Other.lacks(&sampling(), 1), Some("repetition_penalty"));
    assert_eq!(Dialect::Other.lacks(&Sampling { top_k: 5, ..plain }, 1), Some("top_k"));
    assert_eq!(Dialect::Other.lacks(&plain, 5), Some("more than four stop strings"));
    assert_eq!(Dialect::Vllm.lacks(&sampling(), 9), None);
    let kinds = ["vllm", "sglang", "llamacpp", "me", "openai"].map(Dialect::of);
    use Dialect::{LlamaCppPython, LlamaServer, Other, Sglang, Vllm};
    assert_eq!(kinds, [Vllm, Sglang, LlamaServer, LlamaCppPython, Other]);
}

#[test]
fn half_an_answer_is_broken_and_an_impossible_one_wrong() {
    let whole = fixture("vllm.json");
    for cut in [0, 1, 20, whole.len() / 2, whole.len() - 3] {
        let found = completing().expected().read("qwen", &whole[..cut]);
        assert!(matches!(found, Err(Misfit::Broken(_))), "{cut}: {found:?}");
    }
    let check = |change: fn(&mut Value), expected: &str| {
        let mut answer: Value = serde_json::from_slice(&whole).unwrap();
        change(&mut answer);
        let found = completing().expected().read("qwen", answer.to_string().as_bytes());
        let (Err(Misfit::Broken(why)) | Err(Misfit::Wrong(why))) = found else {
            panic!("{found:?}")
        };
        assert!(why.contains(expected), "{why}");
    };
    check(|it| it["choices"][0]["finish_reason"] = json!("abort"), "it ends for `abort`");
    check(|it| it["choices"][0]["finish_reason"] = Value::Null, "it ends for `nothing`");
    check(|it| it["choices"][0]["finish_reason"] = json!("length"), "after 3 of 8 tokens");
    check(|it| it["choices"][0]["logprobs"]["token_logprobs"][1] = json!(3.0), "3 is no logprob");
    check(|it| it["choices"][0]["logprobs"]["token_logprobs"][1] = Value::Null, "has no logprob");
    check(|it| it["choices"][0]["text"] = json!(7), "no answer");
    check(|it| it["usage"]["prompt_tokens"] = json!(6), "6 tokens in a prompt of 5");
    check(|it| it["usage"]["completion_tokens"] = json!(7), "7 tokens and the ids of 3");
    check(|it| it["usage"]["completion_tokens"] = json!(12), "12 tokens, and 8 were allowed");
    check(|it| it["choices"][0]["token_ids"] = json!([1]), "3 tokens and the ids of 1");
    check(|it| it["model"] = json!("a\u{202e}b"), "it is of model `a b`");
}

#[test]
fn a_key_is_found_by_its_origin_alone() {
    let keys = "https://api.example.org=sk-1, http://10.0.0.7:8000=sk-2=x";
    let check = |server: &str, expected: Option<&str>| {
        assert_eq!(key(Some(keys), server).unwrap().as_deref(), expected, "{server}");
    };
    check("https://api.example.org/v1", Some("sk-1"));
    check("https://api.example.org:443", Some("sk-1"));
    check("http://10.0.0.7:8000", Some("sk-2=x"));
    for other in [
        "http://api.example.org",
        "https://api.example.org.evil.com",
        "http://10.0.0.7:8001",
        "https://example.org",
    ] {
        check(other, None);
    }
    assert_eq!(key(None, "https://api.example.org"), Ok(None));
    for wrong in ["sk-1", "127.0.0.1:8000=sk", "https://a.org=", "https://a.org=x,garbage"] {
        let said = key(Some(wrong), "https://b.org").unwrap_err();
        assert!(said.contains("is no `ORIGIN=KEY`"), "{said}");
        assert!(!said.contains("sk-1"), "it says no key");
    }
}

#[test]
fn gaps_are_means_over_tokens() {
    let found = gap([(&[-1.0, -2.0][..], &[-1.5, -2.0][..]), (&[-90.0], &[-1000.0])]);
    assert_eq!((found.mean, found.largest, found.tokens), (0.5 / 3.0, 0.5, 3));
    assert_eq!(gap([]).mean, 0.0);
}
