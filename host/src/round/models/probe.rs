//! Whether a server is the model that its base says: the same texts, there and by the embedded engine.
//!
//! Where the weights are not here, or there is no room for them, prompts are counted in tokens and no more. What the
//! server says of some of the texts is remembered in any case: one that was away has to say the same afterwards.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::{Loaded, Models, Served};
use crate::generate::{Sampling, Settings};
use crate::logprob::{self, Row};
use crate::memory::ModelMemory;
use crate::model::backend::AnyDevice;
use crate::model::forward::Engine;
use crate::plugin_set::EmbeddedWork;
use crate::progress::go_on;
use crate::record::Text;
use crate::round::RunError;
use crate::server::{self, Flight, Gap, PROBES, Reply, Request, Server, ServerError, gap};
use crate::shown::printable;

/// How a server was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// The model's name in `[models]`.
    pub name: String,
    /// Where the server is.
    pub server: String,
    /// Its kind.
    pub dialect: &'static str,
    /// What it calls the model.
    pub model: String,
    /// How many prompts it was asked.
    pub prompts: usize,
    /// How far what it says of raw texts is from the embedded engine; absent where nothing was compared.
    pub raw: Option<Distance>,
    /// The same of chats.
    pub chat: Option<Distance>,
}

/// How far two are apart of what they say of some tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Mean over the tokens, in nats.
    pub mean: f64,
    /// The largest, in nats.
    pub largest: f64,
    /// How many tokens were compared.
    pub tokens: usize,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { name, server, dialect, model, prompts, .. } = self;
        let model = printable(model);
        write!(f, "`{name}` is `{model}` on {server} ({dialect}): {prompts} prompts tried")?;
        let far = |what: &str, distance: &Option<Distance>| {
            distance
                .map(|it| format!("{what} {:.4} nats a token from the embedded engine", it.mean))
        };
        for far in [far("raw texts", &self.raw), far("chats", &self.chat)].into_iter().flatten() {
            write!(f, ", {far}")?;
        }
        Ok(())
    }
}

/// What both are asked.
struct Question {
    chat: bool,
    tokens: Vec<u32>,
}

impl Models {
    /// Tries every server, and fails where one is not the model that it should be. `room` is how much memory there
    /// is for weights to compare with, in bytes.
    pub fn probe_servers(
        &self,
        room: Option<u64>,
        cancel: &AtomicBool,
    ) -> Result<Vec<Probe>, RunError> {
        let probe = |served: &Served| self.probe(served, room, cancel);
        let probes = self.served.values().map(probe).collect::<Result<Vec<_>, _>>()?;
        *self.probes.lock().expect("nothing panics while it is held") = probes.clone();
        Ok(probes)
    }

    /// Returns how servers were found when they were tried.
    pub fn probes(&self) -> Vec<Probe> {
        self.probes.lock().expect("nothing panics while it is held").clone()
    }

    fn probe(
        &self,
        served: &Served,
        room: Option<u64>,
        cancel: &AtomicBool,
    ) -> Result<Probe, RunError> {
        let (server, bound) = (served.server()?, served.settings().probe_bound);
        let scores = !served.settings().leaves(EmbeddedWork::Scores);
        if scores && !server.dialect().scores() {
            let source = ServerError::Model {
                server: served.settings().server.clone(),
                what: format!("is {}, which gives no logprobs of prompts", server.dialect().name()),
                hint: format!(
                    "`models.{}.embedded = [\"scores\"]` has the embedded engine score",
                    served.name()
                ),
            };
            return Err(served.error(source));
        }
        let questions = questions(served, server);
        let (requests, theirs) = match scores {
            true => score(served, server, &questions, cancel)?,
            false => complete(served, server, &questions, cancel)?,
        };
        if scores {
            server.remember(&requests, &theirs);
        }
        let [mut raw, mut chat] = [None, None];
        if let Some(engine) = self.engine_to_compare(served, room)? {
            let mut ours = ours(&engine, &requests, cancel)?;
            if !scores {
                // Of completions their mean is known.
                ours.iter_mut().for_each(|tokens| *tokens = mean(tokens));
            }
            for (of_chats, place) in [(false, &mut raw), (true, &mut chat)] {
                let rows = questions.iter().zip(ours.iter().zip(&theirs));
                let rows = rows.filter(|(question, _)| question.chat == of_chats);
                let gap = gap(rows.map(|(_, (ours, theirs))| (ours.as_slice(), theirs.as_slice())));
                *place = (gap.tokens > 0).then_some(gap);
            }
            check(served, raw, chat, bound)?;
        }
        let distance =
            |gap: Gap| Distance { mean: gap.mean, largest: gap.largest, tokens: gap.tokens };
        Ok(Probe {
            name: served.name().to_owned(),
            server: served.settings().server.clone(),
            dialect: server.dialect().name(),
            model: server.model().to_owned(),
            prompts: questions.len(),
            raw: raw.map(distance),
            chat: chat.map(distance),
        })
    }

    /// Returns the weights of a server's base, where they are here and there is room for them.
    fn engine_to_compare(
        &self,
        served: &Served,
        room: Option<u64>,
    ) -> Result<Option<Engine<AnyDevice>>, RunError> {
        let opened = &served.base;
        if !opened.checkpoint.has_weights() {
            return Ok(None);
        }
        if served.name() != "policy"
            && let Some(named) = self.named.get(served.name())
        {
            return Ok(Some(named.engine.clone()));
        }
        let memory = ModelMemory::predict(&self.device, &*opened.checkpoint, self.weight_type);
        let needed = (memory.files + memory.weights + memory.reading) as u64;
        if room.is_some_and(|room| needed > room) {
            tracing::warn!(
                "server `{}` is not compared with the embedded engine: there is no room for the weights",
                served.settings().server
            );
            return Ok(None);
        }
        match served.name() {
            "policy" => self.hold(&self.initial).map(Some),
            _ => {
                let loaded = Loaded::load(opened, &self.device, self.weight_type, &self.progress)?;
                Ok(Some(loaded.engine))
            }
        }
    }
}

/// Returns what a server is tried with: each text as it is, and as a user's message where there is a template.
fn questions(served: &Served, server: &Server) -> Vec<Question> {
    let (model, limit) = (served.model(), server.context().unwrap_or(usize::MAX));
    let put = |text: &str, chat: bool| {
        let prompt = match chat {
            true => Text::user(text),
            false => Text::Raw(text.to_owned()),
        };
        let tokens = model.encode_prompt(&prompt).ok()?;
        let fits = tokens.len() < limit.min(model.spec.context_length);
        (tokens.len() > 1 && fits).then_some(Question { chat, tokens })
    };
    let all = [false, true].into_iter().flat_map(|chat| PROBES.map(|text| put(text, chat)));
    all.flatten().collect()
}

/// Has the server score the questions. A token that begins a text is no part of it.
fn score(
    served: &Served,
    server: &Server,
    questions: &[Question],
    cancel: &AtomicBool,
) -> Result<(Vec<Request>, Vec<Vec<f64>>), RunError> {
    let request = |question: &Question| {
        // What a template begins with some servers do not score.
        let from = if question.chat { question.tokens.len() / 2 } else { 1 };
        served.request(server, question.tokens.clone(), server::Work::Score { from })
    };
    let requests = questions.iter().map(request).collect::<Result<Vec<_>, _>>()?;
    let said = server.probe(server.model(), &requests, cancel);
    let said = said.map_err(|error| served.error(error))?;
    Ok((requests, said))
}

/// Has the server complete the questions, and returns each with its completion, to be scored here, and the mean
/// logprob of the completion. What cannot be told by its tokens is left out.
fn complete(
    served: &Served,
    server: &Server,
    questions: &[Question],
    cancel: &AtomicBool,
) -> Result<(Vec<Request>, Vec<Vec<f64>>), RunError> {
    const NEW: usize = 4;
    let model = served.model();
    let sampling = Sampling::greedy(NEW);
    let request = |question: &Question| {
        let end_tokens = model.tokenizer.stop_tokens();
        let work = server::Work::Complete { sampling, stop: Vec::new(), end_tokens, seed: 0 };
        served.request(server, question.tokens.clone(), work)
    };
    let requests = questions.iter().map(request).collect::<Result<Vec<_>, _>>()?;
    let mut said = vec![Vec::new(); questions.len()];
    let mut whole = requests.clone();
    let flown = server.fly(Flight {
        model: server.model(),
        count: requests.len(),
        make: &mut |index| Some((format!("probe {}", index + 1), requests[index].clone())),
        said: &mut |index, reply| {
            if let Ok((Reply::Completed(completed), _)) = reply {
                let ids = match completed.token_ids {
                    Some(ids) => Some(ids),
                    None => model.tokenizer.encode_plain(&completed.text).ok(),
                };
                let ids =
                    ids.filter(|ids| ids.len() == completed.tokens as usize && !ids.is_empty());
                if let Some(ids) = ids {
                    said[index] = vec![completed.logprob / ids.len() as f64];
                    whole[index].tokens.extend(ids);
                    whole[index].work = server::Work::Score { from: requests[index].tokens.len() };
                }
            }
            ControlFlow::Continue(())
        },
        counted: false,
        cancel,
    });
    flown.map_err(|error| served.error(error))?;
    Ok((whole, said))
}

/// Returns what the embedded engine says of what was asked: of each token, or their mean.
fn ours(
    engine: &Engine<AnyDevice>,
    requests: &[Request],
    cancel: &AtomicBool,
) -> Result<Vec<Vec<f64>>, RunError> {
    let row = |request: &Request| {
        let from = match request.work {
            server::Work::Score { from } => from,
            server::Work::Complete { .. } => request.tokens.len(),
        };
        Row { tokens: request.tokens.clone(), from }
    };
    let rows: Vec<Row> = requests.iter().map(row).collect();
    let scorable: Vec<usize> =
        (0..rows.len()).filter(|&row| rows[row].from < rows[row].tokens.len()).collect();
    let asked: Vec<Row> = scorable.iter().map(|&row| rows[row].clone()).collect();
    let settings = Settings::on(&engine.backend);
    let said = logprob::score(engine, None, &asked, &settings, &mut |_| go_on(cancel));
    let said = said.map_err(|error| RunError::of_engine(error, |_| "a probe"))?;
    let mut found = vec![Vec::new(); rows.len()];
    for (row, score) in scorable.into_iter().zip(said) {
        found[row] = score.token_logprobs.iter().map(|&logprob| f64::from(logprob)).collect();
    }
    Ok(found)
}

fn mean(tokens: &[f64]) -> Vec<f64> {
    match tokens.len() {
        0 => Vec::new(),
        len => vec![tokens.iter().sum::<f64>() / len as f64],
    }
}

/// Fails where what a server says is too far from what the embedded engine says.
fn check(served: &Served, raw: Option<Gap>, chat: Option<Gap>, bound: f64) -> Result<(), RunError> {
    let far = |gap: &Option<Gap>| gap.is_some_and(|gap| gap.mean.is_nan() || gap.mean > bound);
    let (raw_far, chat_far) = (far(&raw), far(&chat));
    if !raw_far && !chat_far {
        return Ok(());
    }
    let say = |what: &str, gap: Option<Gap>| {
        gap.map(|gap| format!("{:.3} nats over {} tokens of {what}", gap.mean, gap.tokens))
    };
    let said: Vec<String> =
        [say("raw texts", raw), say("chats", chat)].into_iter().flatten().collect();
    let name = served.name();
    let hint = match (raw_far, chat_far) {
        (true, false) => format!(
            "it has the model, and scores raw texts otherwise: `models.{name}.embedded = [\"scores\"]` has the \
             embedded engine score"
        ),
        _ => format!(
            "`models.{name}.base` has to be the very model; where the server holds it in fewer bits on purpose, a \
             larger `models.{name}.probe_bound` allows for that"
        ),
    };
    Err(served.error(ServerError::Differs {
        server: served.settings().server.clone(),
        why: format!(
            "its logprobs are {} from those of `{}` here on average, and {bound} is allowed",
            said.join(" and "),
            served.model().name
        ),
        hint,
    }))
}
