//! Answers what plugins ask: the models behind it, and the ledger before it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::models::{Job, Kind, Made, ScoreJob, Spent, Undone, Work};
use super::rows::Asked;
use super::stage::{self, Notebook, Place, RECORDED, label};
use super::{Policy, RunError, Workshop};
use crate::plugin::{Answerer, Ask};
use crate::record::{Answer, Request, Score};
use crate::run::directory::{Directory, Ledger};
use crate::run::journal;

/// A line of the ledger: an answer that is there, whatever becomes of the others.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    key: String,
    answer: Answer,
    /// What a server has done for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<Spent>,
}

impl Answered {
    /// Returns the line for an answer, or for why there is none.
    ///
    /// Fails where a budget is used up: it may leave out a prompt, but neither an answer that a plugin needs nor a row
    /// of what is measured.
    fn of(
        place: Place<'_>,
        key: &str,
        answer: Result<Made<Answer>, Undone>,
    ) -> Result<Answered, RunError> {
        if let Err(Undone::Budget) = &answer {
            return Err(RunError::Budget { who: label(place) });
        }
        let (answer, spent) = match answer {
            Ok(made) => (made.it, made.spent),
            Err(error) => (Answer::Unanswered(error.to_string()), None),
        };
        Ok(Answered { key: key.to_owned(), answer, spent })
    }
}

/// Answers the asks of one stage.
pub struct Asker<'a> {
    shop: &'a Workshop<'a>,
    place: Place<'a>,
    policy: &'a Policy,
    run: std::path::PathBuf,
    ledger: Ledger,
    known: HashMap<String, Answer>,
    log: Vec<Asked>,
    /// How many answers were given that cannot be made again.
    recorded: u64,
}

fn recorded(answers: &[Answer]) -> u64 {
    answers.iter().filter(|answer| !answer.is_exact()).count() as u64
}

impl<'a> Asker<'a> {
    /// Opens the ledger of a stage, with what a killed process answered already.
    pub fn open(
        shop: &'a Workshop<'a>,
        book: &Notebook,
        place: Place<'a>,
        policy: &'a Policy,
    ) -> Result<Asker<'a>, RunError> {
        Asker::knowing(book.known_answers(), shop, &book.directory, place, policy)
    }

    /// The same in any directory, with answers that are known already.
    pub fn knowing(
        mut known: HashMap<String, Answer>,
        shop: &'a Workshop<'a>,
        directory: &Directory,
        place: Place<'a>,
        policy: &'a Policy,
    ) -> Result<Asker<'a>, RunError> {
        let (rows, ledger) = directory.ledger_of_answers::<Answered>(&place.ledger())?;
        shop.models.add_spent(rows.iter().filter_map(|row| row.spent.as_ref()));
        known.extend(rows.into_iter().map(|row| (row.key, row.answer)));
        let run = directory.path().to_owned();
        Ok(Asker { shop, place, policy, run, ledger, known, log: Vec::new(), recorded: 0 })
    }

    /// Returns what it is asked for.
    pub(super) fn shop(&self) -> &'a Workshop<'a> {
        self.shop
    }

    /// Returns what was asked, and forgets the answers.
    pub fn asked(self) -> Vec<Asked> {
        self.log
    }

    /// Returns the policy that is asked.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// Writes down what was asked, where anything was, and adds it to what the stage made.
    pub fn close<T>(
        self,
        book: &Notebook,
        mut made: stage::Made<T>,
    ) -> Result<stage::Made<T>, RunError> {
        if !self.log.is_empty() {
            let file = format!("{}/{}-asks.jsonl", self.place.folder(), self.place.stage);
            let digest = book.directory.write_lines(&file, &self.log)?;
            made.files.insert(file, digest);
            made.counts.insert("asks".into(), self.log.len() as u64);
        }
        if self.recorded > 0 {
            made.counts.insert(RECORDED.into(), self.recorded);
        }
        Ok(made)
    }

    /// Scores completions, from the ledger where they are there: for what the host itself wants to
    /// know, so nothing of it is written down as asked. One answer for each, in the same order.
    pub fn scores(&mut self, model: &str, jobs: &[ScoreJob]) -> Result<Vec<Answer>, RunError> {
        let state = self.shop.models.state(model, self.policy);
        let key = |job: &ScoreJob| journal::key(&json!([state, job.prompt, job.completion]));
        let keys: Vec<String> = jobs.iter().map(key).collect();
        let mut queued = HashSet::new();
        let open: Vec<(String, ScoreJob)> = keys
            .iter()
            .zip(jobs)
            .filter(|(key, _)| !self.known.contains_key(*key) && queued.insert(key.as_str()))
            .map(|(key, job)| (key.clone(), job.clone()))
            .collect();
        if !open.is_empty() {
            self.read(model, Kind::Writes, open)?;
        }
        self.check_cancel()?;
        let answers: Vec<Answer> = keys.iter().map(|key| self.known[key].clone()).collect();
        self.recorded += recorded(&answers);
        Ok(answers)
    }

    /// Answers requests, from the ledger where they are there.
    pub fn answer_all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, RunError> {
        let defaults = self.shop.set.generate(self.place.seed_round()).decoding();
        let mut jobs: BTreeMap<&str, Vec<Job>> = BTreeMap::new();
        let mut read: BTreeMap<(&str, Kind), Vec<(String, ScoreJob)>> = BTreeMap::new();
        let mut keys = Vec::with_capacity(asks.len());
        // Equal requests are answered once.
        let mut queued = HashSet::new();
        for ask in asks {
            self.check_saved(ask)?;
            self.check_kind(ask)?;
            let state = self.shop.models.state(ask.request.model(), self.policy);
            let key = match ask.request {
                Request::Generate { model, prompt, decoding, .. } => {
                    let decoding = decoding.or(&defaults);
                    let key = journal::key(&json!([state, prompt, decoding, ask.seed]));
                    if !self.known.contains_key(&key) && queued.insert(key.clone()) {
                        let job = Job {
                            key: key.clone(),
                            record: ask.record.to_owned(),
                            prompt: prompt.clone(),
                            decoding,
                            seed: ask.seed,
                        };
                        jobs.entry(model).or_default().push(job);
                    }
                    key
                }
                Request::Score { model, prompt, completion }
                | Request::Reward { model, prompt, completion } => {
                    // A model does one of the two, so its state tells them apart.
                    let key = journal::key(&json!([state, prompt, completion]));
                    if !self.known.contains_key(&key) && queued.insert(key.clone()) {
                        let job = ScoreJob {
                            record: ask.record.to_owned(),
                            prompt: prompt.clone(),
                            completion: completion.clone(),
                        };
                        let kind = Kind::of(ask.request);
                        read.entry((model, kind)).or_default().push((key.clone(), job));
                    }
                    key
                }
            };
            keys.push(key);
        }
        for (model, jobs) in jobs {
            self.generate(model, &jobs)?;
        }
        for ((model, kind), jobs) in read {
            self.read(model, kind, jobs)?;
        }
        self.check_cancel()?;
        let answers: Vec<Answer> = keys.iter().map(|key| self.known[key].clone()).collect();
        self.recorded += recorded(&answers);
        self.log.extend(asks.iter().zip(keys).zip(&answers).map(|((ask, key), answer)| Asked {
            record: ask.record.to_owned(),
            index: ask.index as u64,
            key,
            request: ask.request.clone(),
            answer: answer.clone(),
        }));
        Ok(answers)
    }

    /// Fails where a plugin asks for what a round saves before that round is done.
    fn check_saved(&self, ask: &Ask<'_>) -> Result<(), RunError> {
        let model = ask.request.model();
        let Some(&saving) = self.shop.set.models.saved.get(model) else { return Ok(()) };
        match self.place.round > saving {
            true => Ok(()),
            false => Err(RunError::Settings {
                what: format!(
                    "a plugin asks `{model}` in {} about `{}`, and round {saving} saves it once it is \
                     done",
                    label(self.place),
                    ask.record
                ),
                hint: "the plugin is for rounds after that one: another model can be asked before, and a \
                       `[[rounds]]` entry with `judge = false` goes without the judge"
                    .into(),
            }),
        }
    }

    /// Fails where a plugin asks a reward model for text or logprobs, or another model for rewards.
    fn check_kind(&self, ask: &Ask<'_>) -> Result<(), RunError> {
        let model = ask.request.model();
        let (kind, wanted) = (self.shop.models.kind(model, self.policy), Kind::of(ask.request));
        if kind == wanted {
            return Ok(());
        }
        let (what, hint) = match wanted {
            Kind::Rewards => (
                "a reward, and it is no reward model",
                "a round with `objective = \"reward\"` makes one; name its adapter folder in `[models]`",
            ),
            Kind::Writes => (
                "text or a logprob, and it is a reward model",
                "a judge such as `builtin:reward-model` asks it for rewards",
            ),
        };
        Err(RunError::Settings {
            what: format!(
                "a plugin asks `{model}` in {} about `{}` for {what}",
                label(self.place),
                ask.record
            ),
            hint: hint.into(),
        })
    }

    fn generate(&mut self, model: &str, jobs: &[Job]) -> Result<(), RunError> {
        let open: Vec<&Job> = jobs.iter().collect();
        self.shop.models.make_ready(model, self.policy, Work::Complete)?;
        let bar = self.shop.progress.stage(&label(self.place), open.len() as u64, "answers");
        let (ledger, known) = (&mut self.ledger, &mut self.known);
        let (cancel, at) = (self.shop.cancel, self.place);
        self.shop.models.complete(
            model,
            self.policy,
            &open,
            None,
            cancel,
            &mut |job, result| {
                let result = result.map(|made| {
                    bar.note_tokens(u64::from(made.it.tokens));
                    Made { it: Answer::Completion(made.it), spent: made.spent }
                });
                let row = Answered::of(at, &job.key, result)?;
                ledger.append_soon(&row)?;
                known.insert(row.key, row.answer);
                bar.inc(1);
                Ok(())
            },
        )?;
        bar.finish();
        Ok(())
    }

    /// Reads completions that are there.
    fn read(
        &mut self,
        model: &str,
        kind: Kind,
        jobs: Vec<(String, ScoreJob)>,
    ) -> Result<(), RunError> {
        self.shop.models.make_ready(model, self.policy, Work::Score)?;
        let what = match kind {
            Kind::Writes => "scores",
            Kind::Rewards => "rewards",
        };
        let bar = self.shop.progress.stage(&label(self.place), jobs.len() as u64, what);
        let (keys, jobs): (Vec<String>, Vec<ScoreJob>) = jobs.into_iter().unzip();
        let (shop, policy) = (self.shop, self.policy);
        let (models, cancel, at) = (shop.models, shop.cancel, self.place);
        let (ledger, known) = (&mut self.ledger, &mut self.known);
        let mut keep = |place: usize, answer: Result<Made<Answer>, Undone>| {
            let row = Answered::of(at, &keys[place], answer)?;
            ledger.append_soon(&row)?;
            known.insert(row.key, row.answer);
            Ok(())
        };
        let mut follow = bar.follow();
        match kind {
            Kind::Writes => {
                let mut keep = |place: usize, score: Result<Made<Score>, Undone>| {
                    let answer =
                        |made: Made<Score>| Made { it: Answer::Score(made.it), spent: made.spent };
                    keep(place, score.map(answer))
                };
                models.score(model, policy, &jobs, cancel, &mut follow, &mut keep)?;
            }
            Kind::Rewards => {
                models.reward(model, policy, &jobs, cancel, &mut follow, &mut keep)?;
            }
        }
        drop(follow);
        self.check_cancel()?;
        bar.finish();
        Ok(())
    }

    /// Fails where the user has asked to stop.
    pub fn check_cancel(&self) -> Result<(), RunError> {
        if self.shop.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(RunError::Interrupted { path: self.run.clone() });
        }
        Ok(())
    }
}

impl Answerer for Asker<'_> {
    fn answer(
        &mut self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Answer>, Box<dyn std::error::Error + Send + Sync>> {
        self.answer_all(asks).map_err(Into::into)
    }
}
