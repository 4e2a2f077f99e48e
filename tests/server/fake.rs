//! A server that answers as vLLM does, or as `llama-cpp-python`: with the tiny model, by the embedded engine. So what
//! a run on it does can be held against a run without.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aligner::generate::{self, Hooks, Sampling, Settings};
use aligner::logprob::{self, Row};
use aligner::model::backend::{AnyDevice, WeightType};
use aligner::model::peft;
use aligner::model::template::ChatSettings;
use aligner::model::weights::LoadedAdapter;
use aligner::progress::{Progress, Style};
use aligner::round::{Loaded, Opened};
use serde_json::{Value, json};

use crate::runs::tests;
use crate::sharing::server::{Request, Server, respond};

/// What goes wrong with one request for completions.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// Another status, with further headers and this as its body.
    Status(&'static str, &'static str, String),
    /// The answer's first half.
    Half,
    /// The connection ends without an answer.
    HangUp,
    /// The answer comes late.
    Late(Duration),
    /// The answer, changed.
    Changed(fn(&mut Value)),
}

/// What the server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Vllm,
    LlamaCppPython,
}

type Faults = dyn Fn(usize, &Value) -> Fault + Send + Sync;

/// A server with the tiny model.
pub struct Fake {
    pub server: Server,
    state: Arc<State>,
}

struct State {
    kind: Kind,
    opened: Opened,
    loaded: Loaded,
    adapters: Mutex<BTreeMap<String, LoadedAdapter<AnyDevice>>>,
    calls: Mutex<Vec<(String, Value)>>,
    keys: Mutex<Vec<Option<String>>>,
    count: AtomicUsize,
    faults: Box<Faults>,
}

/// What the server calls the model.
pub const MODEL: &str = "tiny";

impl Fake {
    /// Starts one that does everything right.
    pub fn start(kind: Kind) -> Fake {
        Fake::failing(kind, |_, _| Fault::None)
    }

    /// Starts one that fails as it is told by the number of the request, from 0, and its body.
    pub fn failing(
        kind: Kind,
        faults: impl Fn(usize, &Value) -> Fault + Send + Sync + 'static,
    ) -> Fake {
        Fake::at(([127, 0, 0, 1], 0).into(), kind, "tiny-llama", faults)
    }

    /// The same at an address, with another model of the fixtures.
    pub fn at(
        address: SocketAddr,
        kind: Kind,
        model: &str,
        faults: impl Fn(usize, &Value) -> Fault + Send + Sync + 'static,
    ) -> Fake {
        let folder = tests().join("fixtures").join(model);
        let folder = folder.to_str().unwrap();
        let opened = Opened::open(folder, ChatSettings::default(), &mut |_| {}).unwrap();
        let silent = Progress::new(Style::Silent);
        let loaded = Loaded::load(&opened, &AnyDevice::cpu(), WeightType::F32, &silent).unwrap();
        let state = Arc::new(State {
            kind,
            opened,
            loaded,
            adapters: Mutex::default(),
            calls: Mutex::default(),
            keys: Mutex::default(),
            count: AtomicUsize::new(0),
            faults: Box::new(faults),
        });
        let own = state.clone();
        let server = Server::at(address, move |request, stream| own.answer(request, stream));
        Fake { server, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Returns the bodies that came to a path, in order.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        let calls = self.state.calls.lock().unwrap();
        calls.iter().filter(|(found, _)| found == path).map(|(_, body)| body.clone()).collect()
    }

    /// Returns what came as `authorization`, each once.
    pub fn keys(&self) -> Vec<Option<String>> {
        let mut keys = self.state.keys.lock().unwrap().clone();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Returns the names of the adapters that it holds.
    pub fn adapters(&self) -> Vec<String> {
        self.state.adapters.lock().unwrap().keys().cloned().collect()
    }
}

impl State {
    fn answer(&self, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        self.calls.lock().unwrap().push((request.path.clone(), body.clone()));
        self.keys.lock().unwrap().push(request.header("authorization").map(str::to_owned));
        let json = |stream: &mut TcpStream, status: &str, value: &Value| {
            respond(
                stream,
                status,
                "content-type: application/json\r\n",
                value.to_string().as_bytes(),
            )
        };
        match request.path.as_str() {
            "/v1/models" => json(stream, "200 OK", &self.models()),
            "/v1/completions" => {
                let number = self.count.fetch_add(1, Ordering::SeqCst);
                match (self.faults)(number, &body) {
                    Fault::None => json(stream, "200 OK", &self.complete(&body)),
                    Fault::Status(status, headers, text) => {
                        respond(stream, status, headers, text.as_bytes())
                    }
                    Fault::Half => {
                        let text = self.complete(&body).to_string();
                        respond(stream, "200 OK", "", &text.as_bytes()[..text.len() / 2])
                    }
                    Fault::HangUp => {
                        // Some of an answer, so that it is no idle connection that ends.
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                    }
                    Fault::Late(time) => {
                        std::thread::sleep(time);
                        json(stream, "200 OK", &self.complete(&body))
                    }
                    Fault::Changed(change) => {
                        let mut answer = self.complete(&body);
                        change(&mut answer);
                        json(stream, "200 OK", &answer)
                    }
                }
            }
            "/v1/load_lora_adapter" if self.kind == Kind::Vllm => {
                let name = body["lora_name"].as_str().unwrap().to_owned();
                let mut adapters = self.adapters.lock().unwrap();
                if adapters.contains_key(&name) {
                    let message = format!("The lora adapter '{name}' has already been loaded.");
                    return json(
                        stream,
                        "400 Bad Request",
                        &json!({ "error": { "message": message } }),
                    );
                }
                let folder = Path::new(body["lora_path"].as_str().unwrap());
                match peft::read(folder, &self.opened.model.spec) {
                    Ok(adapter) => {
                        adapters
                            .insert(name, self.loaded.engine.load_adapter(&adapter, 1.0).unwrap());
                        respond(stream, "200 OK", "", b"Success: LoRA adapter added successfully.")
                    }
                    Err(error) => {
                        let error = json!({ "error": { "message": error.to_string() } });
                        json(stream, "404 Not Found", &error)
                    }
                }
            }
            "/v1/unload_lora_adapter" if self.kind == Kind::Vllm => {
                self.adapters.lock().unwrap().remove(body["lora_name"].as_str().unwrap());
                respond(stream, "200 OK", "", b"Success: LoRA adapter removed successfully.")
            }
            _ => json(stream, "404 Not Found", &json!({ "detail": "Not Found" })),
        }
    }

    fn models(&self) -> Value {
        match self.kind {
            Kind::Vllm => {
                let adapters = self.adapters.lock().unwrap();
                let adapters = adapters
                    .keys()
                    .map(|name| json!({ "id": name, "owned_by": "vllm", "parent": MODEL }));
                let base = json!({ "id": MODEL, "owned_by": "vllm", "parent": null, "max_model_len": 512 });
                json!({ "object": "list", "data": std::iter::once(base).chain(adapters).collect::<Vec<_>>() })
            }
            Kind::LlamaCppPython => {
                json!({ "object": "list", "data": [{ "id": MODEL, "object": "model", "owned_by": "me", "permissions": [] }] })
            }
        }
    }

    fn complete(&self, body: &Value) -> Value {
        let model = body["model"].as_str().unwrap();
        let tokenizer = &self.opened.model.tokenizer;
        let prompt: Vec<u32> = match (&body["prompt"], self.kind) {
            (Value::Array(ids), Kind::Vllm) => {
                ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
            }
            (Value::String(text), Kind::LlamaCppPython) => tokenizer.encode(text).unwrap(),
            (other, kind) => panic!("{kind:?} takes no {other}"),
        };
        let adapters = self.adapters.lock().unwrap();
        let adapter =
            (model != MODEL).then(|| adapters.get(model).expect("an adapter that is loaded"));
        let engine = &self.loaded.engine;
        let scored = |row: Row| {
            let scored = logprob::score(engine, adapter, &[row], &Settings::default(), &mut |_| {
                ControlFlow::Continue(())
            });
            scored.unwrap().remove(0).token_logprobs
        };
        let echo = body["echo"].as_bool().unwrap();
        let sampling = Sampling {
            temperature: body["temperature"].as_f64().unwrap(),
            top_p: body["top_p"].as_f64().unwrap(),
            top_k: body["top_k"].as_i64().unwrap().max(0) as u32,
            repetition_penalty: ["repetition_penalty", "repeat_penalty"]
                .into_iter()
                .find_map(|key| body[key].as_f64())
                .unwrap(),
            max_new_tokens: body["max_tokens"].as_u64().unwrap() as usize,
        };
        let stops: Vec<&str> =
            body["stop"].as_array().unwrap().iter().map(|stop| stop.as_str().unwrap()).collect();
        let settings = Settings { end_tokens: tokenizer.stop_tokens(), ..Settings::default() };
        let job = generate::Job {
            prompt: prompt.clone(),
            sampling,
            seed: body["seed"].as_u64().unwrap(),
        };
        let mut output = None;
        let hooks = Hooks {
            stop: &|_, tokens| {
                let text = tokenizer.decode(tokens).unwrap();
                stops.iter().any(|stop| text.contains(stop))
            },
            on_done: &mut |_, done| {
                output = Some(done);
                ControlFlow::Continue(())
            },
            progress: &mut |_| ControlFlow::Continue(()),
        };
        generate::generate(engine, adapter, &[job], &settings, hooks).unwrap();
        let output = output.unwrap();
        let ends = output.tokens.last().is_some_and(|last| settings.end_tokens.contains(last));
        let mut row = prompt.clone();
        row.extend(&output.tokens);
        let written = scored(Row { tokens: row, from: prompt.len() });
        let mut logprobs: Vec<Value> = written.iter().map(|&logprob| json!(logprob)).collect();
        // This one counts no token that ends a turn.
        let silent = usize::from(ends && self.kind == Kind::LlamaCppPython);
        logprobs.truncate(logprobs.len() - silent);
        if echo {
            let prompt = scored(Row { tokens: prompt.clone(), from: 1 });
            let prompt = std::iter::once(Value::Null).chain(prompt.iter().map(|&it| json!(it)));
            logprobs = prompt.chain(logprobs).collect();
        }
        let mut text = tokenizer.decode(&output.tokens).unwrap();
        if let Some(cut) = stops.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(cut);
        }
        let mut choice = json!({
            "index": 0,
            "text": text,
            "finish_reason": if output.ended { "stop" } else { "length" },
            "logprobs": { "token_logprobs": logprobs, "tokens": [], "top_logprobs": [], "text_offset": [] },
        });
        if self.kind == Kind::Vllm {
            choice["token_ids"] = json!(output.tokens);
        }
        json!({
            "id": "cmpl-1",
            "object": "text_completion",
            "model": model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt.len(),
                "completion_tokens": output.tokens.len() - silent,
                "total_tokens": prompt.len() + output.tokens.len() - silent,
            },
        })
    }
}
