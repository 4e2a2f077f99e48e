//! Models that servers answer for: what is asked of them, and what only the embedded engine does.
//!
//! A server completes and scores. What is trained, what a reward model says and where hidden rows lie comes from
//! the weights of its base, which are read when somebody asks for them.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::{
    Done, Job, Made, Models, Opened, Policy, Read, ScoreJob, Spent, Undone, prepare, row, sampling,
};
use crate::digest::sha256;
use crate::generate;
use crate::logprob::Row;
use crate::model::ModelError;
use crate::model::adapter::Adapter;
use crate::model::peft;
use crate::model::text::Model;
use crate::plugin_set::{EmbeddedWork, Server as Settings};
use crate::record::{Completion, Repro, Score};
use crate::round::RunError;
use crate::run::directory::{Directory, DirectoryError};
use crate::server::{self, Completed, Flight, Refusal, Reply, Request, Server, ServerError};

/// Where adapters lie in the run directory for servers to load: no part of what the run is.
pub const EXCHANGE: &str = "exchange";

/// What a model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Completions.
    Complete,
    /// How likely completions are.
    Score,
}

/// A model that a server answers for.
pub struct Served {
    /// Its name in `[models]`.
    name: String,
    settings: Settings,
    /// What the environment says of keys.
    keys: Option<String>,
    /// Tokens that the server has read and written for the run.
    spent: Arc<AtomicU64>,
    /// Reached when it is first asked: what is journalled needs no server.
    server: OnceLock<Server>,
    /// Tokenizer, template and sizes of it, and perhaps its weights.
    pub(super) base: Opened,
    /// The run directory, in which the server finds adapters.
    exchange: Mutex<Option<Directory>>,
}

/// A model on a server, as it is asked now.
pub(super) struct Remote<'a> {
    served: &'a Served,
    adapter: Option<Arc<Adapter>>,
}

impl Served {
    /// Returns the model that `name` stands for in `[models]`, on a server. `keys` is what [`server::KEYS`] says.
    pub fn new(name: &str, settings: &Settings, keys: Option<String>, base: &Opened) -> Served {
        Served {
            name: name.to_owned(),
            settings: settings.clone(),
            keys,
            spent: Arc::default(),
            server: OnceLock::new(),
            base: base.clone(),
            exchange: Mutex::default(),
        }
    }

    /// Returns its name in `[models]`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what was set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the server, which is reached where it has not been.
    pub fn server(&self) -> Result<&Server, RunError> {
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let opened = Server::open(&self.settings, self.keys.as_deref(), self.spent.clone());
        let opened = opened.map_err(|error| self.error(error))?;
        Ok(self.server.get_or_init(|| opened))
    }

    /// Returns the count of tokens that the server has read and written for the run.
    pub fn meter(&self) -> Arc<AtomicU64> {
        self.spent.clone()
    }

    /// Returns how its base reads and writes text.
    pub fn model(&self) -> &Model {
        &self.base.model
    }

    /// Returns a digest of the model as it stands, of whose weights and adapter there is one: what a server says
    /// is told apart from what the embedded engine says.
    pub(super) fn state(&self, digest: &str) -> String {
        let model = self.settings.model.as_deref().unwrap_or_default();
        sha256(format!("{digest} served as {model}").as_bytes())
    }

    /// Returns the error of the server, as one of the run.
    pub fn error(&self, error: ServerError) -> RunError {
        RunError::Server { model: self.name.clone(), source: error }
    }

    /// Returns a request for some tokens; the server may take them as text alone.
    pub fn request(
        &self,
        server: &Server,
        tokens: Vec<u32>,
        work: server::Work,
    ) -> Result<Request, ModelError> {
        let text = match server.dialect().takes_tokens() {
            true => None,
            false => {
                let text = self.model().tokenizer.text_of(&tokens)?;
                Some(text.ok_or_else(|| ModelError::NotAsText {
                    tokens: tokens.len(),
                    model: self.model().name.clone(),
                })?)
            }
        };
        Ok(Request { tokens, text, work })
    }

    /// Returns a job as the server gets it.
    fn completing(&self, server: &Server, job: &Job) -> Result<Request, ModelError> {
        let generate::Job { prompt, sampling, seed } = prepare(self.model(), job)?;
        let limit = server.context().unwrap_or(usize::MAX);
        let tokens = prompt.len() + sampling.max_new_tokens;
        if tokens > limit {
            let what = "the prompt with its new tokens";
            return Err(ModelError::TooLong { what, model: server.model().into(), tokens, limit });
        }
        let (stop, end_tokens) =
            (job.decoding.stop.clone().unwrap_or_default(), self.model().tokenizer.stop_tokens());
        self.request(server, prompt, server::Work::Complete { sampling, stop, end_tokens, seed })
    }

    /// Fails where a job is to be decoded in a way that the server does not know.
    fn check_settings(&self, server: &Server, jobs: &[&Job]) -> Result<(), RunError> {
        let lacks = |job: &&Job| {
            let stops = job.decoding.stop.as_ref().map_or(0, Vec::len);
            server.dialect().lacks(&sampling(&job.decoding), stops)
        };
        match jobs.iter().find_map(lacks) {
            None => Ok(()),
            Some(setting) => Err(self.error(ServerError::Model {
                server: self.settings.server.clone(),
                what: format!("does not say that it is one which takes `{setting}`"),
                hint: "vLLM, SGLang and llama.cpp's servers take all settings; else leave it at its default in \
                       `[generate]`"
                    .into(),
            })),
        }
    }

    /// Returns what a server wrote as the engine would give it.
    fn completion(&self, job: &Job, said: Completed) -> Result<Completion, RunError> {
        let vocab = self.model().spec.vocab;
        let unknown = said.token_ids.iter().flatten().find(|&&id| id as usize >= vocab);
        if let Some(id) = unknown {
            let source = ServerError::Wrong {
                server: self.settings.server.clone(),
                what: format!("record `{}`", job.record),
                why: format!("token {id} is none of the model's {vocab}"),
            };
            return Err(self.error(source));
        }
        let mut text = match said.token_ids {
            Some(mut tokens) => {
                let ends = self.model().tokenizer.stop_tokens();
                if tokens.last().is_some_and(|last| ends.contains(last)) {
                    tokens.pop();
                }
                self.model().tokenizer.decode(&tokens)?
            }
            None => said.text,
        };
        let stops = job.decoding.stop.as_deref().unwrap_or(&[]);
        if let Some(cut) = stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(cut);
        }
        Ok(Completion {
            text,
            tokens: said.tokens,
            logprob: said.logprob,
            entropy: None,
            finish: said.finish,
            repro: Repro::Recorded,
        })
    }

    /// Returns what the server calls the model with an adapter, which it loads where it has not; none where the user
    /// wants to stop.
    fn model_with(
        &self,
        adapter: Option<&Adapter>,
        cancel: &AtomicBool,
    ) -> Result<Option<String>, RunError> {
        let server = self.server()?;
        let Some(adapter) = adapter else { return Ok(Some(server.model().to_owned())) };
        let exchange = self.exchange.lock().expect("nothing panics while it is held");
        let Some(directory) = &*exchange else {
            unreachable!("a run says where adapters lie before it asks anything")
        };
        let name = format!("{}{}", server::ADAPTER, &adapter.digest()[..16]);
        let folder = format!("{EXCHANGE}/{name}");
        if !directory.restore_folder(&folder)? {
            let (base, revision) = self.model().base_name();
            let base = peft::Base { name_or_path: &base, revision: revision.as_deref() };
            directory.write_folder(&folder, |folder| {
                peft::write(folder, adapter, base).map_err(RunError::from)
            })?;
        }
        let folder = directory.join(&folder);
        let folder = folder.canonicalize().unwrap_or(folder);
        match server.load_adapter(&name, &folder, cancel) {
            Ok(model) => Ok(Some(model)),
            Err(ServerError::Cancelled) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }
}

impl Models {
    /// Has a server answer for a model: that of the policy, or a further one.
    pub fn serve(&mut self, served: Served) {
        self.served.insert(served.name.clone(), served);
    }

    /// Returns the models that servers answer for.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }

    /// Lets servers find adapters in a run directory, which they have to see under the same path.
    pub fn exchange_in(&self, directory: &Directory) {
        for served in self.served.values() {
            *served.exchange.lock().expect("nothing panics while it is held") =
                Some(directory.clone());
        }
    }

    /// Has servers drop what they have loaded for the run, and removes it where it lay for them.
    pub fn end_exchange(&self) -> Result<(), DirectoryError> {
        for served in self.served.values() {
            let exchange = served.exchange.lock().expect("nothing panics while it is held").take();
            let Some(directory) = exchange else { continue };
            if let Some(server) = served.server.get() {
                // Those too that were loaded before the run was gone on with.
                let lies = std::fs::read_dir(directory.join(EXCHANGE)).into_iter().flatten();
                let names = lies.filter_map(|it| it.ok()?.file_name().into_string().ok());
                server.drop_adapters(names);
            }
            directory.remove(EXCHANGE)?;
        }
        Ok(())
    }

    /// Counts tokens that servers have spent on answers which are there.
    pub fn add_spent<'a>(&self, spent: impl Iterator<Item = &'a Spent>) {
        for spent in spent {
            if let Some(served) = self.served.get(&spent.model) {
                served.spent.fetch_add(spent.tokens, Ordering::Relaxed);
            }
        }
    }

    /// Returns who answers for a model where that is a server: the policy's answers for all its states.
    pub(super) fn server_of(&self, name: &str) -> Option<&Served> {
        match self.named.contains_key(name) && !self.served.contains_key(name) {
            true => None,
            false => self.served.get(name).or_else(|| self.served.get("policy")),
        }
    }

    /// Returns the server that does some work for a model; none where the embedded engine does.
    pub(super) fn remote(&self, name: &str, policy: &Policy, work: Work) -> Option<Remote<'_>> {
        let served = self.server_of(name)?;
        let settings = &served.settings;
        if work == Work::Score && settings.leaves(EmbeddedWork::Scores) {
            return None;
        }
        let adapter = match name {
            "initial" => None,
            _ if self.is_named(name) => None,
            _ => self.saved(name).map_or_else(|| policy.adapter.clone(), |saved| saved.adapter),
        };
        let stays = adapter.is_some() && settings.leaves(EmbeddedWork::Adapters);
        (!stays).then_some(Remote { served, adapter })
    }

    /// Has a server complete jobs.
    pub(super) fn complete_there(
        &self,
        remote: &Remote<'_>,
        jobs: &[&Job],
        cancel: &AtomicBool,
        done: &mut Done<'_>,
    ) -> Result<(), RunError> {
        let (served, server) = (remote.served, remote.served.server()?);
        served.check_settings(server, jobs)?;
        let asked = Asked {
            count: jobs.len(),
            name: &|index| format!("record `{}`", jobs[index].record),
            counted: true,
            request: &|index| served.completing(server, jobs[index]),
        };
        remote.ask(&asked, cancel, &mut |index, said| {
            let made = match said {
                Ok((Reply::Completed(said), spent)) => {
                    let it = served.completion(jobs[index], said)?;
                    Ok(Made { it, spent: Some(spent) })
                }
                Ok((Reply::Scored(_), _)) => unreachable!("a completion was asked for"),
                Err(why) => Err(why),
            };
            done(jobs[index], made)
        })
    }

    /// Has a server score jobs.
    pub(super) fn score_there(
        &self,
        remote: &Remote<'_>,
        jobs: &[ScoreJob],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(u64),
        done: &mut Read<'_, Score>,
    ) -> Result<(), RunError> {
        let (served, server) = (remote.served, remote.served.server()?);
        let asked = Asked {
            count: jobs.len(),
            name: &|index| format!("record `{}`", jobs[index].record),
            counted: true,
            request: &|index| {
                let row = row(served.model(), &jobs[index].prompt, &jobs[index].completion)?;
                served.request(server, row.tokens, server::Work::Score { from: row.from.max(1) })
            },
        };
        let mut count = 0;
        remote.ask(&asked, cancel, &mut |index, said| {
            let made = match said {
                Ok((Reply::Scored(logprobs), spent)) => {
                    let it = Score {
                        logprob: logprobs.iter().sum(),
                        tokens: logprobs.len() as u32,
                        entropy: None,
                        repro: Repro::Recorded,
                    };
                    Ok(Made { it, spent: Some(spent) })
                }
                Ok((Reply::Completed(_), _)) => unreachable!("a score was asked for"),
                Err(why) => Err(why),
            };
            count += 1;
            progress(count);
            done(index, made)
        })
    }
}

/// What is asked of a server, by numbers from 0.
struct Asked<'a> {
    count: usize,
    /// What it is, for messages.
    name: &'a dyn Fn(usize) -> String,
    /// Whether it is taken from the run's budget of tokens.
    counted: bool,
    /// What is sent, or why that cannot be put to the model.
    request: &'a dyn Fn(usize) -> Result<Request, ModelError>,
}

/// Takes what a server said, with what that cost, or why it said nothing.
type Said<'a> = dyn FnMut(usize, Result<(Reply, Spent), Undone>) -> Result<(), RunError> + 'a;

impl Remote<'_> {
    /// Returns the mean logprob of the completion of each row, in nats a token; none where the user wants to stop.
    pub(super) fn score_rows(
        &self,
        rows: &[Row],
        cancel: &AtomicBool,
    ) -> Result<Option<Vec<f64>>, RunError> {
        let (served, server) = (self.served, self.served.server()?);
        let mut means = vec![None; rows.len()];
        let asked = Asked {
            count: rows.len(),
            name: &|index| format!("row {} of the probe", index + 1),
            // No ledger has what it costs.
            counted: false,
            request: &|index| {
                let Row { tokens, from } = &rows[index];
                served.request(server, tokens.clone(), server::Work::Score { from: *from })
            },
        };
        self.ask(&asked, cancel, &mut |index, said| match said {
            Ok((Reply::Scored(logprobs), _)) => {
                means[index] = Some(logprobs.iter().sum::<f64>() / logprobs.len() as f64);
                Ok(())
            }
            Ok((Reply::Completed(_), _)) => unreachable!("a score was asked for"),
            Err(Undone::Unreadable(error)) => Err(error.into()),
            Err(Undone::Budget) => unreachable!("no budget is asked"),
        })?;
        Ok(means.into_iter().collect())
    }

    /// Has the server answer, and hands each answer over as soon as it is there. Returns early where `cancel` is set.
    fn ask(
        &self,
        asked: &Asked<'_>,
        cancel: &AtomicBool,
        take: &mut Said<'_>,
    ) -> Result<(), RunError> {
        let served = self.served;
        let Some(model) = served.model_with(self.adapter.as_deref(), cancel)? else {
            return Ok(());
        };
        let (mut failed, mut unreadable) = (None, Vec::new());
        let flown = served.server()?.fly(Flight {
            model: &model,
            count: asked.count,
            make: &mut |index| match (asked.request)(index) {
                Ok(request) => Some(((asked.name)(index), request)),
                Err(why) => {
                    unreadable.push((index, why));
                    None
                }
            },
            said: &mut |index, said| {
                let spent = |usage: server::Usage| Spent {
                    model: served.name.clone(),
                    tokens: usage.tokens(),
                };
                let said = match said {
                    Ok((reply, usage)) => Ok((reply, spent(usage))),
                    Err(Refusal::Budget) => Err(Undone::Budget),
                };
                stop_at(&mut failed, take(index, said))
            },
            counted: asked.counted,
            cancel,
        });
        for (index, why) in unreadable {
            take(index, Err(why.into()))?;
        }
        landed(served, failed, flown)
    }
}

/// Keeps an error, and says whether the flight goes on.
fn stop_at(failed: &mut Option<RunError>, done: Result<(), RunError>) -> ControlFlow<()> {
    match done {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

/// Returns how a flight ended. Where the user wants to stop, whoever asked sees that too.
fn landed(
    served: &Served,
    failed: Option<RunError>,
    flown: Result<(), ServerError>,
) -> Result<(), RunError> {
    match (failed, flown) {
        (Some(error), _) => Err(error),
        (None, Ok(()) | Err(ServerError::Cancelled)) => Ok(()),
        (None, Err(error)) => Err(served.error(error)),
    }
}
