//! The model that plugins ask, through the same engine as in a run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::{
    cli::{CliError, Device, cancel, host},
    model::backend::WeightType,
    plugin::{Answerer, Ask, Grant, NoAnswers},
    progress::Progress,
    record::{Answer, Decoding, Record, Request},
    round::{Job, ModelKind, Models, Need, Policy, RunError, ScoreJob, scored},
    run::journal,
};

/// The longest answer where a request does not say one, in tokens.
pub const MAX_NEW_TOKENS: u32 = 256;

/// Names under which the model is asked. There is one: whichever name a judge uses in a run.
pub const NAMES: [&str; 4] = ["policy", "initial", "previous", "reward"];

/// Tokens of the answers to one chunk, at most, where the user says no number.
const TOKENS: u64 = 50_000_000;

/// Returns the right to ask the model, under each of its names, up to a number of tokens.
pub fn grant(tokens: Option<u64>) -> Grant {
    Grant::new(NAMES.map(str::to_owned), tokens.unwrap_or(TOKENS), MAX_NEW_TOKENS)
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Answers what plugins ask.
pub struct Oracle {
    name: String,
    models: Models,
    policy: Policy,
    /// Answers of the chunk at hand: to ask again costs nothing.
    known: HashMap<String, Answer>,
    spent: Duration,
    /// Tokens that answers may have from here on; absent: any number.
    left: Option<u64>,
}

/// Which model is asked: arguments of the verbs that call plugins by themselves.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// What plugins may ask, and what measures what they need: alias, folder, FILE.gguf or hf:owner/name@revision
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter folder beside the model; a reward model is asked for rewards
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// How weights are kept: f32 (exact), bf16 (half the memory) or int8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: WeightType,
    /// Where the model runs: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
}

impl ModelArgs {
    /// Returns whether there is a model: an adapter names its own.
    pub fn is_named(&self) -> bool {
        self.model.is_some() || self.adapter.is_some()
    }
}

impl Oracle {
    /// Loads the model that the command line names.
    pub fn load(args: &ModelArgs, progress: &Progress) -> Result<Oracle, CliError> {
        let device = args.device.resolve(args.dtype)?;
        let name = host::model_name(args.model.as_deref(), args.adapter.as_deref())?;
        let opened = host::open(&name, progress)?;
        let adapter = args.adapter.as_deref().map(|it| host::adapter(it, &opened)).transpose()?;
        let (loaded, _) = host::load_adapted(&opened, None, &device, args.dtype, progress)?;
        let models = Models::new(&opened, loaded, BTreeMap::new(), Progress::new(SILENT));
        let policy = match adapter {
            Some(adapter) => models.adapted(adapter)?,
            None => models.initial(),
        };
        Ok(Oracle {
            name,
            models,
            policy,
            known: HashMap::new(),
            spent: Duration::ZERO,
            left: None,
        })
    }

    /// Returns the model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Forgets what was answered.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Returns how long the model has worked in all.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// Returns whether the model writes: one that gives rewards measures nothing.
    pub fn writes(&self) -> bool {
        self.models.kind("policy", &self.policy) == ModelKind::Writes
    }

    /// Gives records the measurements that they lack. A completion that the model cannot read is left
    /// without.
    fn measure(&mut self, needs: &[Need], records: &mut [Record]) -> Result<(), RunError> {
        let begun = Instant::now();
        for need in needs {
            scored(need, records, |model, jobs| {
                let (models, policy) = (&self.models, &self.policy);
                let mut answers = vec![Answer::Unanswered(String::new()); jobs.len()];
                models.score(
                    model,
                    policy,
                    jobs,
                    cancel::flag(),
                    &mut |_| {},
                    &mut |at, score| {
                        answers[at] = match score {
                            Ok(made) => Answer::Score(made.it),
                            Err(why) => Answer::Unanswered(why.to_string()),
                        };
                        Ok(())
                    },
                )?;
                Ok::<_, RunError>(answers)
            })?;
        }
        self.spent += begun.elapsed();
        Ok(())
    }

    /// Fails where the answers to these requests could have more tokens than are left.
    fn check_left(&self, asks: &[Ask<'_>]) -> Result<(), Failure> {
        let most = |ask: &Ask<'_>| match ask.request {
            Request::Generate { decoding, .. } => decoding.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
            // What is read is known only once it is.
            Request::Score { .. } | Request::Reward { .. } => 1,
        };
        let wanted: u64 = asks.iter().map(|ask| u64::from(most(ask))).sum();
        match self.left {
            Some(left) if wanted > left => Err(format!(
                "its requests may take {wanted} tokens, and {left} are left\n\nhint: `--ask-tokens` says how \
                 many the answers to one plugin may have"
            )
            .into()),
            _ => Ok(()),
        }
    }

    fn answer_all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, Failure> {
        let defaults = Decoding::greedy(MAX_NEW_TOKENS);
        let mut keys = Vec::with_capacity(asks.len());
        let mut queued = HashSet::new();
        let mut writes: BTreeMap<&str, Vec<Job>> = BTreeMap::new();
        let mut reads: BTreeMap<(&str, ModelKind), Vec<(String, ScoreJob)>> = BTreeMap::new();
        for ask in asks {
            let (model, kind) = (ask.request.model(), ModelKind::of(ask.request));
            if self.models.kind(model, &self.policy) != kind {
                let what = match kind {
                    ModelKind::Rewards => "a reward, and it is no reward model",
                    ModelKind::Writes => "text or a logprob, and it is a reward model",
                };
                return Err(format!("the plugin asks `{model}` for {what}").into());
            }
            let state = self.models.state(model, &self.policy);
            let record = ask.record.to_owned();
            let key = match ask.request {
                Request::Generate { prompt, decoding, .. } => {
                    let decoding = decoding.or(&defaults);
                    let key = journal::key(&json!([state, prompt, decoding, ask.seed]));
                    if !self.known.contains_key(&key) && queued.insert(key.clone()) {
                        let (key, prompt) = (key.clone(), prompt.clone());
                        let job = Job { key, record, prompt, decoding, seed: ask.seed };
                        writes.entry(model).or_default().push(job);
                    }
                    key
                }
                Request::Score { prompt, completion, .. }
                | Request::Reward { prompt, completion, .. } => {
                    let key = journal::key(&json!([state, prompt, completion]));
                    if !self.known.contains_key(&key) && queued.insert(key.clone()) {
                        let (prompt, completion) = (prompt.clone(), completion.clone());
                        let job = ScoreJob { record, prompt, completion };
                        reads.entry((model, kind)).or_default().push((key.clone(), job));
                    }
                    key
                }
            };
            keys.push(key);
        }
        for (model, jobs) in &writes {
            self.write(model, jobs)?;
        }
        for ((model, kind), jobs) in reads {
            self.read(model, kind, jobs)?;
        }
        let known = |key: &String| self.known.get(key).cloned();
        keys.iter().map(known).collect::<Option<_>>().ok_or_else(|| "interrupted".into())
    }

    fn write(&mut self, model: &str, jobs: &[Job]) -> Result<(), RunError> {
        let Oracle { models, policy, known, .. } = self;
        let jobs: Vec<&Job> = jobs.iter().collect();
        models.complete(model, policy, &jobs, None, cancel::flag(), &mut |job, result| {
            let answer = match result {
                Ok(made) => Answer::Completion(made.it),
                Err(error) => Answer::Unanswered(error.to_string()),
            };
            known.insert(job.key.clone(), answer);
            Ok(())
        })
    }

    fn read(
        &mut self,
        model: &str,
        kind: ModelKind,
        jobs: Vec<(String, ScoreJob)>,
    ) -> Result<(), RunError> {
        let (keys, jobs): (Vec<String>, Vec<ScoreJob>) = jobs.into_iter().unzip();
        let (models, policy, cancel) = (&self.models, &self.policy, cancel::flag());
        let known = &mut self.known;
        let mut keep = |place: usize, answer: Result<Answer, String>| {
            let answer = answer.unwrap_or_else(Answer::Unanswered);
            known.insert(keys[place].clone(), answer);
            Ok(())
        };
        let progress = &mut |_| {};
        match kind {
            ModelKind::Writes => {
                models.score(model, policy, &jobs, cancel, progress, &mut |at, it| {
                    let answer = it.map(|made| Answer::Score(made.it));
                    keep(at, answer.map_err(|why| why.to_string()))
                })
            }
            ModelKind::Rewards => {
                models.reward(model, policy, &jobs, cancel, progress, &mut |at, it| {
                    keep(at, it.map(|made| made.it).map_err(|why| why.to_string()))
                })
            }
        }
    }
}

const SILENT: crate::progress::Style = crate::progress::Style::Silent;

impl Answerer for Oracle {
    fn answer(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, Failure> {
        self.check_left(asks)?;
        let begun = Instant::now();
        let answers = self.answer_all(asks);
        self.spent += begun.elapsed();
        answers
    }
}

/// Who answers: the model, where there is one.
pub enum Answers {
    Model(Box<Oracle>),
    Nobody(NoAnswers),
}

impl Answers {
    /// Returns who answers.
    pub fn new(oracle: Option<Oracle>) -> Answers {
        match oracle {
            Some(oracle) => Answers::Model(Box::new(oracle)),
            None => Answers::Nobody(NoAnswers),
        }
    }

    /// Returns how long the model has worked in all.
    pub fn spent(&self) -> Duration {
        match self {
            Answers::Model(oracle) => oracle.spent(),
            Answers::Nobody(_) => Duration::ZERO,
        }
    }

    /// Says how many tokens answers may have from here on.
    pub fn allow(&mut self, left: Option<u64>) {
        if let Answers::Model(oracle) = self {
            oracle.left = left;
        }
    }

    /// Gives records the measurements that they lack; without a model nothing is measured.
    pub fn measure(&mut self, needs: &[Need], records: &mut [Record]) -> Result<(), RunError> {
        match self {
            Answers::Model(oracle) => oracle.measure(needs, records),
            Answers::Nobody(_) => Ok(()),
        }
    }

    /// Forgets what was answered.
    pub fn forget(&mut self) {
        if let Answers::Model(oracle) = self {
            oracle.forget();
        }
    }
}

impl Answerer for Answers {
    fn answer(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, Failure> {
        match self {
            Answers::Model(oracle) => oracle.answer(asks),
            Answers::Nobody(nobody) => nobody.answer(asks),
        }
    }
}
