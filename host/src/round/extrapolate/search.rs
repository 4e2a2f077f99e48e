//! The search for alpha: candidates answer held-out prompts, the judge or the trusted answers say how
//! good each is, and guards say which may not be chosen (the paper's appendix B).
//!
//! Where this differs from the paper: alpha 0 takes part, so that the trained policy stays where nothing
//! beyond it is better; the grid is tried to its end; the judge of the plugin set stands for the reward
//! model; guards are ours.

use super::Line;
use crate::data::HeldOut;
use crate::plugin::Ask;
use crate::plugin_set::{Goal, Guard, Search};
use crate::record::{Answer, Completion, Finish, Opinion, Record, Request, Variant, VariantRole};
use crate::report::{Candidate, Found};
use crate::round::ask::Asker;
use crate::round::assess::done;
use crate::round::diversity::{mean, repeated};
use crate::round::stage::{Made, Notebook, Place};
use crate::round::{Policy, RunError, Workshop};
use crate::run::seed;

/// The name of the variant that a candidate's answer is.
const ANSWER: &str = "answer";

/// Tries alphas and returns them all, rising, one of them chosen. `judging` answers what the judge asks.
pub fn search(
    shop: &Workshop<'_>,
    book: &mut Notebook,
    place: Place<'_>,
    wanted: &Search,
    line: &Line<'_>,
    judging: &Policy,
) -> Result<Made<Candidate>, RunError> {
    let prompts = &shop.held_out[..shop.held_out.len().min(wanted.prompts as usize)];
    let asker = Asker::open(shop, book, place, judging)?;
    let mut trial = Trial { shop, place, wanted, prompts, asker, tried: 0 };
    let mut tried = vec![(0.0, trial.of(line, 0.0)?)];
    for &alpha in &wanted.grid {
        tried.push((alpha, trial.of(line, alpha)?));
    }
    if tried[0].1.objective.is_none() {
        return Err(unjudged(&wanted.objective, line.to.round));
    }
    for _ in 0..wanted.refine {
        let Some(alpha) = next(&candidates(&tried, wanted), &wanted.objective) else { break };
        tried.push((alpha, trial.of(line, alpha)?));
        tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let rows = candidates(&tried, wanted);
    let count = rows.len() as u64;
    trial.asker.close(book, Made::rows(rows).count("candidates", count))
}

/// Returns why nothing can be said of the trained policy, which `round` made.
fn unjudged(objective: &Goal, round: u32) -> RunError {
    let (what, hint) = match objective {
        Goal::Judge(Some(reward)) => (
            format!("the judge gives no reward `{reward}` for any answer of the trained policy"),
            "name one of its rewards in `extrapolate.reward`, or leave that out to take their sum",
        ),
        Goal::Judge(None) => (
            "the judge gives no reward for any answer of the trained policy".to_owned(),
            "a search needs rewards, and not preferences; or set `extrapolate.objective = \"perplexity\"`",
        ),
        Goal::Perplexity => {
            return RunError::of_policy(round)(RunError::Perplexity { round });
        }
    };
    RunError::Settings { what: format!("no alpha can be searched for: {what}"), hint: hint.into() }
}

/// What every candidate goes through.
struct Trial<'a> {
    shop: &'a Workshop<'a>,
    place: Place<'a>,
    wanted: &'a Search,
    prompts: &'a [HeldOut],
    asker: Asker<'a>,
    /// How many candidates were asked.
    tried: usize,
}

impl Trial<'_> {
    /// Lets the policy at `alpha` answer, and says what its answers are like.
    fn of(&mut self, line: &Line<'_>, alpha: f64) -> Result<Found, RunError> {
        let name = format!("alpha {alpha}");
        self.shop.models.save(&name, &line.at(self.shop, alpha)?);
        let found = self.found(&name);
        // One at a time is in memory.
        self.shop.models.forget(&name);
        self.tried += 1;
        found
    }

    fn found(&mut self, model: &str) -> Result<Found, RunError> {
        let decoding = self.wanted.decoding.clone();
        let answers = self.ask(|row| Request::Generate {
            model: model.to_owned(),
            prompt: row.prompt.text.clone(),
            decoding: decoding.clone(),
            seed: 0,
        })?;
        let prompts = self.prompts;
        let answers: Vec<(&HeldOut, Completion)> = prompts
            .iter()
            .zip(answers)
            .filter_map(|(row, answer)| match answer {
                Answer::Completion(completion) => Some((row, completion)),
                _ => None,
            })
            .collect();
        if answers.is_empty() {
            return Err(RunError::Settings {
                what: "none of the held-out prompts can be answered: alpha cannot be searched for"
                    .into(),
                hint: "shorten them, or lower `max_new_tokens` in `decoding` of `[extrapolate]`"
                    .into(),
            });
        }
        let objective = match &self.wanted.objective {
            Goal::Judge(reward) => self.reward(&answers, reward.as_deref())?,
            Goal::Perplexity => self.perplexity(model)?,
        };
        let completions = || answers.iter().map(|(_, completion)| completion);
        let of = |number: fn(&Completion) -> f64| mean(completions().map(number)).unwrap_or(0.0);
        Ok(Found {
            objective: objective.filter(|value| value.is_finite()),
            answers: answers.len() as u64,
            length: of(|completion| f64::from(completion.tokens)),
            ended: of(|completion| f64::from(u8::from(completion.finish == Finish::Stop))),
            repeated: repeated(4, completions().map(|completion| completion.text.as_str())),
        })
    }

    /// Asks about every prompt; the answers have a ledger and a file, as those to plugins have.
    fn ask(&mut self, request: impl Fn(&HeldOut) -> Request) -> Result<Vec<Answer>, RunError> {
        let requests: Vec<Request> = self.prompts.iter().map(request).collect();
        let seed = self.shop.seed(self.place);
        let asks: Vec<Ask<'_>> = self
            .prompts
            .iter()
            .zip(&requests)
            .map(|(row, request)| {
                let id = row.prompt.id.as_str();
                let seed = seed::of([seed.into(), id.into()]);
                Ask { record: id, index: self.tried, seed, request }
            })
            .collect();
        self.asker.answer_all(&asks)
    }

    /// Returns the mean over the answers of what the judge rewards them with: the reward of a name, or
    /// the sum of all. None where it rewards none.
    fn reward(
        &mut self,
        answers: &[(&HeldOut, Completion)],
        named: Option<&str>,
    ) -> Result<Option<f64>, RunError> {
        let Some(judge) = &self.shop.plugins.judge else { return Ok(None) };
        let record = |(row, completion): &(&HeldOut, Completion)| Record {
            variants: vec![Variant {
                name: ANSWER.into(),
                role: VariantRole::Plain,
                prompt: row.prompt.text.clone(),
                completion: Some(completion.clone()),
            }],
            ..Record::new(row.prompt.clone())
        };
        let records: Vec<Record> = answers.iter().map(record).collect();
        let at = self.shop.plugin_place(self.place, 0);
        let opinions = judge.judge(&at, &records, &mut self.asker)?.outcomes;
        let rewards = records.iter().zip(opinions).filter_map(|(record, outcome)| {
            let Some(Opinion::Rewards(rewards)) = done(record, outcome) else { return None };
            let counts = |name: &str| named.is_none_or(|named| named == name);
            let own = rewards.iter().filter(|reward| reward.variant == ANSWER);
            own.filter(|reward| counts(&reward.name))
                .map(|reward| reward.value)
                .reduce(|a, b| a + b)
        });
        Ok(mean(rewards))
    }

    /// Returns the perplexity of the trusted answers over all their tokens.
    fn perplexity(&mut self, model: &str) -> Result<Option<f64>, RunError> {
        let scores = self.ask(|row| Request::Score {
            model: model.to_owned(),
            prompt: row.prompt.text.clone(),
            completion: row.answer.clone(),
        })?;
        let (mut logprob, mut tokens) = (0.0, 0u64);
        for score in scores {
            if let Answer::Score(score) = score {
                logprob += score.logprob;
                tokens += u64::from(score.tokens);
            }
        }
        Ok((tokens > 0).then(|| (-logprob / tokens as f64).exp()))
    }
}

/// Returns what was tried as rows, with why each cannot be chosen, and the choice: the best, and of
/// equals the one with the least alpha.
fn candidates(tried: &[(f64, Found)], wanted: &Search) -> Vec<Candidate> {
    let Some(base) = tried.iter().find(|(alpha, _)| *alpha == 0.0).map(|(_, found)| *found) else {
        return Vec::new();
    };
    let candidate = |&(alpha, found): &(f64, Found)| {
        let refused = (alpha != 0.0).then(|| refused(&found, &base, &wanted.guard)).flatten();
        let refused = refused.map(str::to_owned);
        Candidate { alpha, found: Some(found), refused, chosen: false }
    };
    let mut rows: Vec<Candidate> = tried.iter().map(candidate).collect();
    let mut best = 0;
    for index in 0..rows.len() {
        if ahead(&rows[index], &rows[best], &wanted.objective) {
            best = index;
        }
    }
    rows[best].chosen = true;
    rows
}

/// Returns the guard that a candidate does not pass.
fn refused(found: &Found, base: &Found, guard: &Guard) -> Option<&'static str> {
    match found {
        Found { objective: None, .. } => Some("not-judged"),
        _ if found.length > guard.length * base.length => Some("too-long"),
        _ if found.ended < base.ended - guard.ended => Some("not-ended"),
        _ if found.repeated > base.repeated + guard.repetition => Some("repetition"),
        _ => None,
    }
}

/// Returns whether a candidate is better than another; one that is refused is better than none.
fn ahead(candidate: &Candidate, other: &Candidate, goal: &Goal) -> bool {
    let value = |candidate: &Candidate| match &candidate.refused {
        None => candidate.found.and_then(|found| found.objective),
        Some(_) => None,
    };
    match (value(candidate), value(other)) {
        (Some(new), Some(old)) => goal.better(new, old),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Returns the alpha halfway between the best and the better of its neighbours.
fn next(rows: &[Candidate], goal: &Goal) -> Option<f64> {
    let best = rows.iter().position(|candidate| candidate.chosen)?;
    let before = best.checked_sub(1).map(|index| &rows[index]);
    let side = match (before, rows.get(best + 1)) {
        (Some(before), Some(after)) if ahead(after, before, goal) => after,
        (Some(before), _) => before,
        (None, after) => after?,
    };
    Some((rows[best].alpha + side.alpha) / 2.0)
}

#[cfg(test)]
mod tests;
