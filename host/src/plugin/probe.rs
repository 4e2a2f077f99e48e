//! Calls that no run makes: an instance by itself, empty batches, and batches cut elsewhere. Tests and
//! timings of a plugin are made of them.

use std::ops::Range;

use super::converse::{Outcome, Place, Spent, Stage, failure, same_length};
use super::error::{Fault, PluginError};
use super::inspect::Interface;
use super::load::Plugin;
use super::session::reported;
use super::set;
use crate::record::{Record, Verdict};

impl Plugin {
    /// Makes an instance and configures it; returns what that took.
    pub fn start(&self, place: &Place) -> Result<Spent, PluginError> {
        let mut spent = Spent::default();
        let started = self.session(&mut spent).map(drop);
        started.map_err(|fault| failure(self, place, fault, Vec::new()))?;
        Ok(spent)
    }

    /// Calls every function of an interface that takes a batch with an empty one; nothing may come back.
    pub fn call_with_nothing(
        &self,
        interface: Interface,
        place: &Place,
    ) -> Result<(), PluginError> {
        let mut spent = Spent::default();
        let called = self.session(&mut spent).and_then(|mut session| {
            let exports = self.exports();
            macro_rules! count {
                ($name:ident, $call:ident $(, $argument:expr)*) => {{
                    let Some(guest) = &exports.$name else { return Ok(0) };
                    session
                        .call(|store, instance| {
                            let guest = guest.load(&mut *store, instance)?;
                            guest.$call(store, place.context() $(, $argument)*)
                        })?
                        .map_err(reported)?
                        .len()
                }};
            }
            let returned = match interface {
                Interface::Principle => count!(principle, call_render, &[]),
                Interface::Sampler => count!(sampler, call_equip, &[], &[]),
                Interface::PromptWriter => count!(prompt_writer, call_write, &[], &[]),
                Interface::Filter => count!(filter, call_filter, &[]),
                Interface::SetFilter => {
                    let Some(guest) = &exports.set_filter else { return Ok(0) };
                    session
                        .call(|store, instance| {
                            let guest = guest.load(&mut *store, instance)?;
                            guest.call_observe(store, place.context(), &[])
                        })?
                        .map_err(reported)?;
                    count!(set_filter, call_decide, &[])
                }
                Interface::Judge => count!(judge, call_judge, &[]),
                Interface::Difficulty => count!(difficulty, call_score, &[]),
            };
            Ok(returned)
        });
        called
            .and_then(|returned| same_length(returned, "results", 0, "items"))
            .map_err(|fault| failure(self, place, fault, Vec::new()))
    }

    /// Lets a set filter see and then judge records in these batches, which follow one another and hold
    /// every record.
    pub fn filter_set_in(
        &self,
        place: &Place,
        records: &[Record],
        batches: &[Range<usize>],
    ) -> Result<Stage<Verdict>, PluginError> {
        let Some(guest) = &self.exports().set_filter else {
            return Err(PluginError::Host(format!("{} is no set-filter", self.identity())));
        };
        let mut spent = Spent::default();
        let all: Vec<&Record> = records.iter().collect();
        let taking_part: Vec<usize> = (0..records.len()).collect();
        let verdicts =
            set::attempt(self, guest, place, (&all, 0), &taking_part, batches, &mut spent);
        let verdicts = verdicts.map_err(|(batch, blame)| {
            let concerned = match blame.record {
                Some(record) => &all[batches[batch].start + record..][..1],
                None => &all[batches[batch].clone()],
            };
            let ids = concerned.iter().map(|record| record.id()).collect();
            failure(self, place, blame.fault, ids)
        })?;
        Ok(Stage { outcomes: verdicts.into_iter().map(Outcome::Done).collect(), spent })
    }
}

impl PluginError {
    /// Returns the model that was asked without the right to, where that is what is wrong.
    pub fn ungranted(&self) -> Option<&str> {
        match self {
            PluginError::Call(error) => match &error.fault {
                Fault::NoGrant { model } => Some(model),
                _ => None,
            },
            _ => None,
        }
    }
}
