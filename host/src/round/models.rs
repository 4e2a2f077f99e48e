//! The models of a run: text in, text out. The one place where text and token ids meet.

mod job;
mod probe;
mod rewards;
mod rows;
mod served;
mod tokens;
mod versions;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

pub use job::{Done, Job, Made, Read, ScoreJob, Spent, Undone};
pub use probe::Probe;
pub use rewards::Kind;
pub use served::{EXCHANGE, Served, Work};
pub use tokens::{row, row_ending};
pub use versions::Aligned;

use rayon::prelude::*;

use super::RunError;
use crate::digest::sha256;
use crate::generate::{self, Hooks, SequenceError};
use crate::logprob;
use crate::model::adapter::Adapter;
use crate::model::backend::{AnyDevice, WeightType};
use crate::model::checkpoint::{Checkpoint, CheckpointError};
use crate::model::forward::Engine;
use crate::model::safetensors::Safetensors;
use crate::model::spec::Spec;
use crate::model::template::ChatSettings;
use crate::model::text::Model;
use crate::model::weights::{LoadedAdapter, Weights, WeightsError};
use crate::model::{ModelError, source};
use crate::progress::{Progress, go_on};
use crate::record::{Repro, Score};
use crate::train::Ranks;
use tokens::{completion, ends_with_stop, prepare, sampling};

/// Completions that are read at once: a kill loses no more.
const GROUP: usize = 64;

/// The policy at some point of the run: a version of the weights, and perhaps an adapter.
#[derive(Clone)]
pub struct Policy {
    /// Those of the initial model, until a round has trained them.
    weights: Version,
    /// The adapter, where a round has trained one.
    pub adapter: Option<Arc<Adapter>>,
    /// The same, ready for the engine.
    loaded: Option<Arc<LoadedAdapter<AnyDevice>>>,
    /// Digest of weights and adapter.
    pub digest: String,
    /// The round that made it; 0 is what the run began with, or was given.
    pub round: u32,
}

/// A version of the policy's weights, in memory or not.
#[derive(Clone)]
struct Version {
    /// Of the model with these weights.
    digest: String,
    checkpoint: Arc<dyn Checkpoint>,
}

/// A model whose files are found and checked, without its weights.
#[derive(Clone)]
pub struct Opened {
    /// Tokenizer, template, shape.
    pub model: Arc<Model>,
    /// Where the weights are.
    pub checkpoint: Arc<dyn Checkpoint>,
}

impl Opened {
    /// Opens a model by its name, and fetches it where it is not there yet; `chat` is what its
    /// chat template is told.
    pub fn open(
        name: &str,
        chat: ChatSettings,
        progress: &mut dyn FnMut(source::Progress),
    ) -> Result<Opened, ModelError> {
        let (mut model, checkpoint) = source::open(name, progress)?;
        model.set_chat(chat);
        Ok(Opened { model: Arc::new(model), checkpoint: checkpoint.into() })
    }

    /// The same for what a server serves, whose weights need not be here.
    pub fn open_base(
        name: &str,
        chat: ChatSettings,
        progress: &mut dyn FnMut(source::Progress),
    ) -> Result<Opened, ModelError> {
        let (mut model, checkpoint) = source::open_base(name, progress)?;
        model.set_chat(chat);
        Ok(Opened { model: Arc::new(model), checkpoint: checkpoint.into() })
    }
}

/// A model with its weights.
pub struct Loaded {
    /// Tokenizer, template, shape.
    pub model: Arc<Model>,
    /// Weights.
    pub engine: Engine<AnyDevice>,
}

/// The models of a run.
///
/// Of the policy's weights one version is in memory at a time; another one is read from its files
/// when it is asked for. Rounds ask for one and the same most of the time, and where every weight is
/// trained, a second copy would be as large as the model.
pub struct Models {
    model: Arc<Model>,
    initial: Version,
    weight_type: WeightType,
    device: AnyDevice,
    /// The version that is in memory, if any, by its digest.
    held: Mutex<Option<(String, Engine<AnyDevice>)>>,
    named: BTreeMap<String, Loaded>,
    /// Those that servers answer for, by name; `policy` is the policy's.
    served: BTreeMap<String, Served>,
    /// How these were found when they were tried.
    probes: Mutex<Vec<Probe>>,
    /// Policies that rounds have left under a name.
    saved: Mutex<BTreeMap<String, Policy>>,
    /// Who trains with this process.
    ranks: Option<Arc<Mutex<Ranks>>>,
    progress: Progress,
}

impl Models {
    /// Returns the models of a run: the policy, opened and loaded, and further ones by name.
    pub fn new(
        policy: &Opened,
        loaded: Loaded,
        named: BTreeMap<String, Loaded>,
        progress: Progress,
    ) -> Models {
        let engine = loaded.engine;
        let (device, weight_type) = ((*engine.backend).clone(), engine.weights.weight_type);
        let models = Models::unloaded(policy, &device, weight_type, named, progress);
        *models.held() = Some((policy.model.digest.clone(), engine));
        models
    }

    /// The same with the policy's weights where they are until somebody asks for them.
    pub fn unloaded(
        policy: &Opened,
        device: &AnyDevice,
        weight_type: WeightType,
        named: BTreeMap<String, Loaded>,
        progress: Progress,
    ) -> Models {
        let (model, checkpoint) = (policy.model.clone(), policy.checkpoint.clone());
        Models {
            initial: Version { digest: model.digest.clone(), checkpoint },
            weight_type,
            device: device.clone(),
            held: Mutex::default(),
            model,
            named,
            served: BTreeMap::new(),
            probes: Mutex::default(),
            saved: Mutex::default(),
            ranks: None,
            progress,
        }
    }

    /// Has other ranks take part in training adapters.
    pub fn train_with(&mut self, ranks: Ranks) {
        self.ranks = Some(Arc::new(Mutex::new(ranks)));
    }

    /// Returns who takes part in training adapters.
    pub fn ranks(&self) -> Option<&Arc<Mutex<Ranks>>> {
        self.ranks.as_ref()
    }

    /// Returns the device that the models are on.
    pub fn device(&self) -> &AnyDevice {
        &self.device
    }

    /// Returns tokenizer, template and shape of the policy, which no round changes.
    pub fn policy(&self) -> &Model {
        &self.model
    }

    /// Returns the policy before the first round.
    pub fn initial(&self) -> Policy {
        let (weights, digest) = (self.initial.clone(), self.initial.digest.clone());
        Policy { weights, adapter: None, loaded: None, digest, round: 0 }
    }

    /// Returns the policy that is the initial model with an adapter.
    pub fn adapted(&self, adapter: Adapter) -> Result<Policy, RunError> {
        let loaded = LoadedAdapter::load(&self.device, &self.model.spec, &adapter, 1.0)?;
        let digest = sha256(format!("{} {}", self.model.digest, adapter.digest()).as_bytes());
        let (adapter, loaded) = (Some(Arc::new(adapter)), Some(Arc::new(loaded)));
        Ok(Policy { weights: self.initial.clone(), adapter, loaded, digest, round: 0 })
    }

    /// Returns the policy whose weights are those of a folder; `digest` stands for its files.
    pub fn with_weights(&self, folder: &Path, digest: &str) -> Result<Policy, RunError> {
        let weights = Safetensors::open_folder(self.model.spec.clone(), folder);
        Ok(self.with_checkpoint(Arc::new(weights.map_err(WeightsError::from)?), digest))
    }

    /// Returns the policy whose weights were in a folder that is removed: a resumed run passes by it, and
    /// fails where it is asked for them.
    pub fn without_weights(&self, folder: &Path, digest: &str) -> Policy {
        let gone = Gone { spec: self.model.spec.clone(), folder: folder.to_owned() };
        self.with_checkpoint(Arc::new(gone), digest)
    }

    fn with_checkpoint(&self, checkpoint: Arc<dyn Checkpoint>, digest: &str) -> Policy {
        let digest = sha256(format!("{} {digest}", self.model.digest).as_bytes());
        let weights = Version { digest: digest.clone(), checkpoint };
        Policy { weights, adapter: None, loaded: None, digest, round: 0 }
    }

    /// Returns whether the policy's weights are those of the initial model.
    pub fn has_initial_weights(&self, policy: &Policy) -> bool {
        policy.weights.digest == self.initial.digest
    }

    /// Returns an engine over the weights of a policy, its adapter left out. Whoever keeps it keeps
    /// the weights in memory.
    pub fn engine_of(&self, policy: &Policy) -> Result<Engine<AnyDevice>, RunError> {
        self.hold(&policy.weights)
    }

    /// Returns the weights of a policy for whoever will change them. Here they are gone then.
    pub fn take(&self, policy: &Policy) -> Result<(Arc<AnyDevice>, Weights<AnyDevice>), RunError> {
        let Engine { backend, weights } = self.hold(&policy.weights)?;
        self.release();
        let Some(weights) = Arc::into_inner(weights) else {
            unreachable!("between two stages nobody else has the weights")
        };
        Ok((backend, weights))
    }

    /// Frees the memory of the policy's weights until somebody asks for them.
    pub fn release(&self) {
        *self.held() = None;
    }

    /// Returns an engine over a version of the policy's weights, which takes the place of another one
    /// in memory.
    fn hold(&self, version: &Version) -> Result<Engine<AnyDevice>, RunError> {
        let mut held = self.held();
        match &*held {
            Some((digest, engine)) if *digest == version.digest => return Ok(engine.clone()),
            _ => *held = None,
        }
        let name = format!("loading {}", self.model.name);
        let mut hear = self.progress.counter(&name, "tensors");
        let engine = load(&self.device, &*version.checkpoint, self.weight_type, &mut hear)?;
        *held = Some((version.digest.clone(), engine.clone()));
        Ok(engine)
    }

    fn held(&self) -> MutexGuard<'_, Option<(String, Engine<AnyDevice>)>> {
        self.held.lock().expect("nothing panics while it is held")
    }

    /// Returns a digest of a model as it stands: equal digests give equal answers.
    pub fn state(&self, name: &str, policy: &Policy) -> String {
        let digest = match name {
            "initial" => self.model.digest.clone(),
            _ if self.is_named(name) => self.text(name).digest.clone(),
            _ => self.saved(name).map_or_else(|| policy.digest.clone(), |saved| saved.digest),
        };
        match self.server_of(name) {
            Some(served) => served.state(&digest),
            None => digest,
        }
    }

    /// Returns whether a name is that of a model of `[models]` besides the policy.
    fn is_named(&self, name: &str) -> bool {
        self.named.contains_key(name) || (name != "policy" && self.served.contains_key(name))
    }

    /// Brings a model's weights into memory where they are not, so that what follows can show its own
    /// progress.
    pub fn make_ready(&self, name: &str, policy: &Policy, work: Work) -> Result<(), RunError> {
        match self.remote(name, policy, work) {
            Some(_) => Ok(()),
            None => self.find(name, policy).map(|_| ()),
        }
    }

    /// Returns how a model reads and writes text.
    fn text(&self, name: &str) -> &Model {
        match (self.named.get(name), self.served.get(name)) {
            (Some(named), _) => &named.model,
            (None, Some(served)) => served.model(),
            (None, None) => &self.model,
        }
    }

    /// Returns the round that made a model; 0 where the run did not.
    fn maker(&self, name: &str, policy: &Policy) -> u32 {
        match name {
            "initial" => 0,
            _ if self.is_named(name) => 0,
            _ => self.saved(name).map_or(policy.round, |saved| saved.round),
        }
    }

    /// Returns a model's weights, and the adapter beside them.
    fn find(&self, name: &str, policy: &Policy) -> Result<WithAdapter, RunError> {
        Ok(match (name, self.named.get(name)) {
            ("initial", _) => (self.hold(&self.initial)?, None),
            (_, Some(named)) => (named.engine.clone(), None),
            _ => {
                // `policy` and `previous` are the same until the round has trained.
                let policy = self.saved(name).unwrap_or_else(|| policy.clone());
                (self.hold(&policy.weights)?, policy.loaded)
            }
        })
    }

    /// Returns the weights of a policy and the adapter beside them. Whoever keeps the engine keeps the
    /// weights in memory.
    pub fn scorer<'a>(
        &self,
        policy: &'a Policy,
    ) -> Result<(Engine<AnyDevice>, Option<&'a LoadedAdapter<AnyDevice>>), RunError> {
        Ok((self.hold(&policy.weights)?, policy.loaded.as_deref()))
    }

    /// Completes jobs and hands each over as soon as it is done, in no particular order. A job whose
    /// prompt cannot be put to the model is handed over with the reason. Returns early where `cancel` is
    /// set.
    pub fn complete(
        &self,
        name: &str,
        policy: &Policy,
        jobs: &[&Job],
        batch: Option<u32>,
        cancel: &AtomicBool,
        done: &mut Done<'_>,
    ) -> Result<(), RunError> {
        // What is to be done may be done already, and its model not be in memory, or its server gone.
        if jobs.is_empty() {
            return Ok(());
        }
        if let Some(remote) = self.remote(name, policy, Work::Complete) {
            return self.complete_there(&remote, jobs, cancel, done);
        }
        let model = self.text(name);
        let (mut open, mut texts) = (Vec::new(), Vec::new());
        // Thousands of long prompts take seconds on one core.
        let prepared: Vec<_> = jobs.par_iter().map(|job| prepare(model, job)).collect();
        for (&job, prepared) in jobs.iter().zip(prepared) {
            match prepared {
                Ok(ready) => {
                    open.push(job);
                    texts.push(ready);
                }
                Err(why) => done(job, Err(why.into()))?,
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let (engine, adapter) = self.find(name, policy)?;
        let stops: Vec<&[String]> =
            open.iter().map(|job| job.decoding.stop.as_deref().unwrap_or(&[])).collect();
        let mut settings = generate::Settings {
            end_tokens: model.tokenizer.stop_tokens(),
            ..generate::Settings::on(&self.device)
        };
        if let Some(batch) = batch {
            settings.set_batch(&self.device, batch as usize);
        }
        let mut failed: Option<RunError> = None;
        let hooks = Hooks {
            stop: &|index, tokens| ends_with_stop(model, tokens, stops[index]),
            on_done: &mut |index, output| {
                let completion = completion(model, output, stops[index], &settings.end_tokens);
                let made = completion.map(|it| Made { it, spent: None });
                match made.and_then(|made| done(open[index], Ok(made))) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            },
            progress: &mut |_| go_on(cancel),
        };
        let result = generate::generate(&engine, adapter.as_deref(), &texts, &settings, hooks);
        match (failed, result) {
            (Some(error), _) => Err(error),
            (None, Ok(()) | Err(SequenceError::Cancelled)) => Ok(()),
            (None, Err(error)) => {
                let error = RunError::of_engine(error, |index| &open[index].record);
                Err(RunError::of_policy(self.maker(name, policy))(error))
            }
        }
    }

    /// Scores jobs and hands each over as soon as it is done. Returns early where `cancel` is set. `progress`
    /// hears how many are done.
    pub fn score(
        &self,
        name: &str,
        policy: &Policy,
        jobs: &[ScoreJob],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(u64),
        done: &mut Read<'_, Score>,
    ) -> Result<(), RunError> {
        if jobs.is_empty() {
            return Ok(());
        }
        if let Some(remote) = self.remote(name, policy, Work::Score) {
            return self.score_there(&remote, jobs, cancel, progress, done);
        }
        let model = self.text(name);
        let encode = |job: &ScoreJob| row(model, &job.prompt, &job.completion);
        read_jobs(jobs, encode, cancel, progress, done, |rows, heard| {
            let (engine, adapter) = self.find(name, policy)?;
            let settings = generate::Settings::on(&self.device);
            let said = logprob::score(&engine, adapter.as_deref(), rows, &settings, heard);
            Ok(said.map(|scores| {
                let score = |score: logprob::Score| {
                    let tokens = score.token_logprobs.len();
                    let entropy = (tokens > 0).then(|| score.entropy / tokens as f64);
                    let (logprob, tokens) = (score.logprob, tokens as u32);
                    Score { logprob, tokens, entropy, repro: Repro::Exact }
                };
                scores.into_iter().map(score).collect()
            }))
        })
        .map_err(RunError::of_policy(self.maker(name, policy)))
    }
}

/// Hears how far reading has come, and says whether it goes on.
type Heard<'a> = dyn FnMut(generate::Progress) -> ControlFlow<()> + 'a;

/// Has jobs read, some at a time: `encode` puts each to the model or says why it cannot, and `read` gives
/// one value for each that it could put; it is not called where there is none. Returns early where
/// `cancel` is set. `progress` hears how many are done, and `done` gets each.
fn read_jobs<T: Send, A>(
    jobs: &[ScoreJob],
    encode: impl Fn(&ScoreJob) -> Result<T, ModelError> + Sync,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64),
    done: &mut Read<'_, A>,
    read: impl Fn(&[T], &mut Heard<'_>) -> Result<Result<Vec<A>, SequenceError>, RunError>,
) -> Result<(), RunError> {
    for (group, jobs) in jobs.chunks(GROUP).enumerate() {
        let before = group * GROUP;
        let (mut encoded, mut places) = (Vec::new(), Vec::new());
        let all: Vec<_> = jobs.par_iter().map(&encode).collect();
        for (place, one) in all.into_iter().enumerate() {
            match one {
                Ok(one) => {
                    encoded.push(one);
                    places.push(place);
                }
                Err(error) => done(before + place, Err(error.into()))?,
            }
        }
        let said = match encoded.is_empty() {
            true => Ok(Vec::new()),
            false => read(&encoded, &mut |state| {
                progress((before + state.done) as u64);
                go_on(cancel)
            })?,
        };
        match said {
            Ok(said) => {
                for (&place, it) in places.iter().zip(said) {
                    done(before + place, Ok(Made { it, spent: None }))?;
                }
            }
            Err(SequenceError::Cancelled) => return Ok(()),
            Err(error) => {
                return Err(RunError::of_engine(error, |index| &jobs[places[index]].record));
            }
        }
        progress((before + jobs.len()) as u64);
    }
    Ok(())
}

/// A model's weights, and the adapter beside them.
type WithAdapter = (Engine<AnyDevice>, Option<Arc<LoadedAdapter<AnyDevice>>>);

/// Weights that `run.keep` did not keep.
struct Gone {
    spec: Spec,
    folder: PathBuf,
}

impl Checkpoint for Gone {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let folder = self.folder.display();
        let message = format!("`{name}` was in `{folder}`, which `run.keep` has removed");
        Err(CheckpointError { message })
    }
}

impl Loaded {
    /// Loads the weights of an opened model onto a device.
    pub fn load(
        opened: &Opened,
        device: &AnyDevice,
        weight_type: WeightType,
        progress: &Progress,
    ) -> Result<Loaded, RunError> {
        Loaded::with(opened, &*opened.checkpoint, device, weight_type, progress)
    }

    /// The same with other weights than those of its files.
    pub fn with(
        opened: &Opened,
        weights: &dyn Checkpoint,
        device: &AnyDevice,
        weight_type: WeightType,
        progress: &Progress,
    ) -> Result<Loaded, RunError> {
        let name = format!("loading {}", opened.model.name);
        let mut hear = progress.counter(&name, "tensors");
        let engine = load(device, weights, weight_type, &mut hear)?;
        Ok(Loaded { model: opened.model.clone(), engine })
    }
}

fn load(
    device: &AnyDevice,
    checkpoint: &dyn Checkpoint,
    weight_type: WeightType,
    hear: &mut dyn FnMut(usize, usize),
) -> Result<Engine<AnyDevice>, RunError> {
    let weights = Weights::load_as(device, checkpoint, weight_type, hear)?;
    Ok(Engine::new(device.clone(), weights))
}
