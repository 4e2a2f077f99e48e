//! The typed calls, one for each function of the contract.

use std::ops::Range;

use bumpalo::Bump;

use super::bindings::aligner::plugin::types as wit;
use super::bindings::exports::aligner::plugin as exports;
use super::converse::{
    self, Answerer, Blame, Items, NoAnswers, Place, Reply, Spent, Stage, Todo, same_length,
};
use super::error::{CallError, Fault, PluginError};
use super::inspect::Interface;
use super::load::Plugin;
use super::session::{Session, reported};
use super::{check, convert, set};
use crate::record::{Decoding, Exemplar, Opinion, Prompt, Record, Variant, Verdict};
use crate::run::seed;

/// A prompt of the pool, as a sampler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The prompt's id.
    pub id: String,
    /// The prompt's tags.
    pub tags: Vec<String>,
    /// Higher is harder; present where the pool was scored.
    pub difficulty: Option<f64>,
    /// In how many earlier rounds it was selected.
    pub selected: u32,
}

/// What a sampler equips a prompt with.
#[derive(Clone, Debug, PartialEq)]
pub struct Equipment {
    /// Positions in the catalogue, in the order of appearance; none twice.
    pub exemplars: Vec<usize>,
    /// What is absent is taken from `[generate]`.
    pub decoding: Decoding,
}

/// The contract's turns for the records of a call.
fn turns<'a>(arena: &'a Bump, records: &'a [Record], todos: &'a [Todo<'a>]) -> &'a [wit::Turn<'a>] {
    convert::list(arena, todos, |arena, todo| wit::Turn {
        record: convert::record(arena, &records[todo.index]),
        seed: todo.seed,
        answers: convert::list(arena, todo.answers, convert::answer),
    })
}

fn items(records: &[Record]) -> Items<'_> {
    Items {
        ids: records.iter().map(Record::id).collect(),
        bytes: records.iter().map(convert::record_bytes).collect(),
    }
}

/// Converts a list of requests.
fn asked<T>(requests: Vec<wit::Request>) -> Reply<T> {
    Reply::Ask(requests.into_iter().map(convert::request_back).collect())
}

/// Turns the contract's replies into the host's, checking each result against its record.
fn replies<R, T>(
    returned: Vec<R>,
    todos: &[Todo],
    (results, what): (&'static str, &'static str),
    mut convert: impl FnMut(R, usize) -> Result<Reply<T>, String>,
) -> Result<Vec<Reply<T>>, Blame> {
    same_length(returned.len(), results, todos.len(), what)?;
    returned
        .into_iter()
        .zip(todos)
        .enumerate()
        .map(|(number, (reply, todo))| {
            convert(reply, todo.index).map_err(|message| Blame::value(number, message))
        })
        .collect()
}

impl Plugin {
    /// Returns the fault of a caller that uses a plugin as what it is not.
    fn lacks(&self, interface: Interface) -> PluginError {
        PluginError::Host(format!("{} has no interface `{}`", self.identity(), interface.as_str()))
    }

    /// Turns a fault of a call that is about no record into an error.
    fn fail(&self, round: Option<u32>, stage: &str, fault: Fault) -> PluginError {
        PluginError::Call(Box::new(CallError {
            identity: self.identity().clone(),
            fault,
            round,
            stage: stage.to_owned(),
            records: Vec::new(),
        }))
    }

    /// Calls one function in an instance of its own.
    fn once<T>(
        &self,
        spent: &mut Spent,
        call: impl FnOnce(&mut Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        call(&mut self.session(spent)?)
    }

    /// Returns the exemplars that a principle plugin publishes: ids are unique, texts not empty.
    pub fn catalogue(&self) -> Result<Vec<Exemplar>, PluginError> {
        let principle =
            self.exports().principle.as_ref().ok_or_else(|| self.lacks(Interface::Principle))?;
        let exemplars = self.once(&mut Spent::default(), |session| {
            let exemplars = session
                .call(|store, instance| {
                    principle.load(&mut *store, instance)?.call_catalogue(store)
                })?
                .map_err(reported)?;
            let exemplars: Vec<_> = exemplars.into_iter().map(convert::exemplar_back).collect();
            check::catalogue(&exemplars).map_err(Fault::Value)?;
            Ok(exemplars)
        });
        exemplars.map_err(|fault| self.fail(None, "catalogue", fault))
    }

    /// Lets a principle plugin put each record's prompt into its variants: at least one for each
    /// record, names unique, completions absent.
    pub fn render(
        &self,
        place: &Place,
        records: &[Record],
        answerer: &mut dyn Answerer,
    ) -> Result<Stage<Vec<Variant>>, PluginError> {
        use exports::principle::Reply as Wit;
        let principle =
            self.exports().principle.as_ref().ok_or_else(|| self.lacks(Interface::Principle))?;
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let batch = turns(&arena, records, todos);
            let returned = session
                .call(|store, instance| {
                    let guest = principle.load(&mut *store, instance)?;
                    guest.call_render(store, place.context(), batch)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("renderings", "records"), |reply, _| match reply {
                Wit::Ask(requests) => Ok(asked(requests)),
                Wit::Done(variants) => {
                    check::variants(&variants)?;
                    Ok(Reply::Done(variants.into_iter().map(convert::variant_back).collect()))
                }
            })
        };
        converse::converse(self, place, &items(records), answerer, &call)
    }

    /// Lets a sampler select the prompts of a round. Returns positions in `pool`, none twice, in
    /// working order, and what it took.
    pub fn select(
        &self,
        place: &Place,
        pool: &[Candidate],
    ) -> Result<(Vec<usize>, Spent), PluginError> {
        let sampler =
            self.exports().sampler.as_ref().ok_or_else(|| self.lacks(Interface::Sampler))?;
        let arena = Bump::new();
        let candidates =
            convert::list(&arena, pool, |arena, candidate| exports::sampler::Candidate {
                id: &candidate.id,
                tags: convert::strings(arena, &candidate.tags),
                difficulty: candidate.difficulty,
                selected: candidate.selected,
            });
        let seed = seed::of([place.run_seed.into(), place.round.into(), "select".into()]);
        let mut spent = Spent::default();
        let chosen = self.once(&mut spent, |session| {
            let ids = session
                .call(|store, instance| {
                    let guest = sampler.load(&mut *store, instance)?;
                    guest.call_select(store, place.context(), candidates, seed)
                })?
                .map_err(reported)?;
            check::positions("prompt", &ids, pool.iter().map(|candidate| candidate.id.as_str()))
                .map_err(Fault::Value)
        });
        let fail = |fault| self.fail(Some(place.round), place.stage, fault);
        let chosen = chosen.map_err(fail)?;
        self.check_run(&spent).map_err(fail)?;
        self.note_used(spent);
        Ok((chosen, spent))
    }

    /// Lets a sampler equip prompts with exemplars of the catalogue and with decoding settings, all
    /// in their ranges.
    pub fn equip(
        &self,
        place: &Place,
        prompts: &[Prompt],
        catalogue: &[Exemplar],
    ) -> Result<Stage<Equipment>, PluginError> {
        let sampler =
            self.exports().sampler.as_ref().ok_or_else(|| self.lacks(Interface::Sampler))?;
        let arena = Bump::new();
        let cards = convert::list(&arena, catalogue, |arena, exemplar| exports::sampler::Card {
            id: &exemplar.id,
            tags: convert::strings(arena, &exemplar.tags),
        });
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let slots = convert::list(&arena, todos, |arena, todo| exports::sampler::Slot {
                id: &prompts[todo.index].id,
                tags: convert::strings(arena, &prompts[todo.index].tags),
                seed: todo.seed,
            });
            let returned = session
                .call(|store, instance| {
                    let guest = sampler.load(&mut *store, instance)?;
                    guest.call_equip(store, place.context(), slots, cards)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("equipments", "prompts"), |equipment, _| {
                let ids = catalogue.iter().map(|exemplar| exemplar.id.as_str());
                let decoding = convert::decoding_back(equipment.decoding);
                check::decoding(&decoding)?;
                let exemplars = check::positions("exemplar", &equipment.exemplars, ids)?;
                Ok(Reply::Done(Equipment { exemplars, decoding }))
            })
        };
        let items = Items {
            ids: prompts.iter().map(|prompt| prompt.id.as_str()).collect(),
            bytes: prompts
                .iter()
                .map(|prompt| 64 + prompt.tags.iter().map(|tag| tag.len() + 8).sum::<usize>())
                .collect(),
        };
        converse::converse(self, place, &items, &mut NoAnswers, &call)
    }

    /// Lets a sampler write new prompts: a list, perhaps empty, for each of the slots. `pool` holds
    /// the seed prompts and, after them, those accepted so far. The ids are the caller's to give.
    ///
    /// `before` is what the stage has spent on earlier slots, and counts into the budget of tokens and
    /// into what is returned.
    pub fn write(
        &self,
        place: &Place,
        pool: &[Prompt],
        slots: Range<u32>,
        before: Spent,
        answerer: &mut dyn Answerer,
    ) -> Result<Stage<Vec<Prompt>>, PluginError> {
        use exports::prompt_writer::{Reply as Wit, Slot};
        let writer = self
            .exports()
            .prompt_writer
            .as_ref()
            .ok_or_else(|| self.lacks(Interface::PromptWriter))?;
        let arena = Bump::new();
        let pool = convert::list(&arena, pool, convert::prompt);
        let indices: Vec<u32> = slots.collect();
        let ids: Vec<String> = indices.iter().map(|index| format!("slot-{index}")).collect();
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let batch = convert::list(&arena, todos, |arena, todo| Slot {
                index: indices[todo.index],
                seed: todo.seed,
                answers: convert::list(arena, todo.answers, convert::answer),
            });
            let returned = session
                .call(|store, instance| {
                    let guest = writer.load(&mut *store, instance)?;
                    guest.call_write(store, place.context(), pool, batch)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("lists of prompts", "slots"), |reply, _| match reply {
                Wit::Ask(requests) => Ok(asked(requests)),
                Wit::Done(prompts) => {
                    let prompts: Vec<_> = prompts.into_iter().map(convert::prompt_back).collect();
                    check::prompts(&prompts)?;
                    Ok(Reply::Done(prompts))
                }
            })
        };
        let items =
            Items { ids: ids.iter().map(String::as_str).collect(), bytes: vec![32; ids.len()] };
        converse::converse_on(self, place, &items, before, answerer, &call)
    }

    /// Lets a filter judge each record by itself.
    pub fn filter(
        &self,
        place: &Place,
        records: &[Record],
        answerer: &mut dyn Answerer,
    ) -> Result<Stage<Verdict>, PluginError> {
        use exports::filter::Reply as Wit;
        let filter = self.exports().filter.as_ref().ok_or_else(|| self.lacks(Interface::Filter))?;
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let batch = turns(&arena, records, todos);
            let returned = session
                .call(|store, instance| {
                    let guest = filter.load(&mut *store, instance)?;
                    guest.call_filter(store, place.context(), batch)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("verdicts", "records"), |reply, index| match reply {
                Wit::Ask(requests) => Ok(asked(requests)),
                Wit::Done(verdict) => {
                    let verdict = convert::verdict_back(verdict);
                    check::verdict(&verdict, &records[index])?;
                    Ok(Reply::Done(verdict))
                }
            })
        };
        converse::converse(self, place, &items(records), answerer, &call)
    }

    /// Lets a set filter see all records of the stage and then judge them: one instance, batches in
    /// record order. It sees `standing` first, the records that are there already, and judges none of
    /// those.
    pub fn filter_set(
        &self,
        place: &Place,
        standing: &[Record],
        records: &[Record],
    ) -> Result<Stage<Verdict>, PluginError> {
        let guest =
            self.exports().set_filter.as_ref().ok_or_else(|| self.lacks(Interface::SetFilter))?;
        set::filter(self, guest, place, standing, records)
    }

    /// Begins a stage of a set filter over more records than are in memory at once; `spent` is what it
    /// takes.
    pub fn sit<'a>(
        &'a self,
        place: Place<'a>,
        spent: &'a mut Spent,
    ) -> Result<set::Sitting<'a>, PluginError> {
        let guest =
            self.exports().set_filter.as_ref().ok_or_else(|| self.lacks(Interface::SetFilter))?;
        set::Sitting::open(self, guest, place, spent)
    }

    /// Lets a judge give its opinion on each record.
    pub fn judge(
        &self,
        place: &Place,
        records: &[Record],
        answerer: &mut dyn Answerer,
    ) -> Result<Stage<Opinion>, PluginError> {
        use exports::judge::{Opinion as WitOpinion, Reply as Wit};
        let judge = self.exports().judge.as_ref().ok_or_else(|| self.lacks(Interface::Judge))?;
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let batch = turns(&arena, records, todos);
            let returned = session
                .call(|store, instance| {
                    let guest = judge.load(&mut *store, instance)?;
                    guest.call_judge(store, place.context(), batch)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("opinions", "records"), |reply, index| {
                let opinion = match reply {
                    Wit::Ask(requests) => return Ok(asked(requests)),
                    Wit::Done(WitOpinion::Rewards(rewards)) => {
                        Opinion::Rewards(rewards.into_iter().map(convert::reward_back).collect())
                    }
                    Wit::Done(WitOpinion::Preference(pair)) => {
                        Opinion::Preference(convert::pair_back(pair))
                    }
                    Wit::Done(WitOpinion::Tie) => Opinion::Tie,
                    Wit::Done(WitOpinion::Unparsable(text)) => Opinion::Unparsable(text),
                };
                check::opinion(&opinion, &records[index])?;
                Ok(Reply::Done(opinion))
            })
        };
        converse::converse(self, place, &items(records), answerer, &call)
    }

    /// Lets a difficulty plugin score each record: finite numbers, higher is harder.
    pub fn score(
        &self,
        place: &Place,
        records: &[Record],
        answerer: &mut dyn Answerer,
    ) -> Result<Stage<f64>, PluginError> {
        use exports::difficulty::Reply as Wit;
        let difficulty =
            self.exports().difficulty.as_ref().ok_or_else(|| self.lacks(Interface::Difficulty))?;
        let call = |session: &mut Session, todos: &[Todo]| {
            let arena = Bump::new();
            let batch = turns(&arena, records, todos);
            let returned = session
                .call(|store, instance| {
                    let guest = difficulty.load(&mut *store, instance)?;
                    guest.call_score(store, place.context(), batch)
                })?
                .map_err(reported)?;
            replies(returned, todos, ("difficulties", "records"), |reply, _| match reply {
                Wit::Ask(requests) => Ok(asked(requests)),
                Wit::Done(value) => {
                    check::difficulty(value)?;
                    Ok(Reply::Done(value))
                }
            })
        };
        converse::converse(self, place, &items(records), answerer, &call)
    }
}
