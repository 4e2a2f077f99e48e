//! One instance of a component, and calls into it under the plugin's limits.

use std::time::Instant;

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::budget::Clock;
use super::converse::Spent;
use super::engine;
use super::error::{Fault, Reported};
use super::limits::{Account, Limits, MAX_HANDLES};
use crate::shown::one_line;

/// A fresh instance. It is thrown away after its batch, and after any fault at once.
pub(super) struct Session<'a> {
    store: Store<Account>,
    instance: Instance,
    limits: &'a Limits,
    clock: &'a Clock,
    spent: &'a mut Spent,
}

impl<'a> Session<'a> {
    /// Makes an instance; its start code runs under the limits already.
    pub fn open(
        component: &InstancePre<Account>,
        name: &str,
        limits: &'a Limits,
        clock: &'a Clock,
        spent: &'a mut Spent,
    ) -> Result<Session<'a>, Fault> {
        let account = Account::new(name.to_owned(), limits);
        let mut store = Store::new(component.engine(), account);
        store.limiter(|account| account);
        store.set_hostcall_fuel(limits.copied_bytes);
        store.set_max_component_handles(MAX_HANDLES);
        spent.instances += 1;
        let instance =
            guarded(&mut store, limits, clock, spent, |store| component.instantiate(store))?;
        Ok(Session { store, instance, limits, clock, spent })
    }

    /// Calls into the instance with a full budget.
    pub fn call<T>(
        &mut self,
        function: impl FnOnce(&mut Store<Account>, &Instance) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.spent.calls += 1;
        let instance = self.instance;
        let Session { store, limits, clock, spent, .. } = self;
        guarded(store, limits, clock, spent, |store| function(store, &instance))
    }
}

/// Runs guest code with a full budget and counts what it used.
fn guarded<T>(
    store: &mut Store<Account>,
    limits: &Limits,
    clock: &Clock,
    spent: &mut Spent,
    run: impl FnOnce(&mut Store<Account>) -> wasmtime::Result<T>,
) -> Result<T, Fault> {
    let host = |error: wasmtime::Error| Fault::Trap(one_line(&error.to_string(), 500));
    // What is left for the run may be less than a call has.
    let left = clock.left(limits)?;
    let deadline = left.map_or(limits.deadline, |left| left.min(limits.deadline));
    store.data_mut().begin_call();
    // An engine that does not count refuses fuel: one for benchmarks alone.
    let metered = store.set_fuel(limits.fuel).is_ok();
    // Anew before each call: a deadline counts from where the epoch stands.
    store.set_epoch_deadline(engine::ticks(deadline));
    let begun = Instant::now();
    let result = run(store);
    clock.add(begun.elapsed());
    if metered {
        let left = store.get_fuel().map_err(host)?;
        spent.fuel += limits.fuel.saturating_sub(left);
    }
    spent.memory_bytes = spent.memory_bytes.max(store.data().memory_bytes() as u64);
    spent.log_bytes += store.data().logged_bytes() as u64;
    result.map_err(|error| match Fault::of(&error, limits, store.data_mut().last_error.take()) {
        Fault::Deadline { .. } if deadline < limits.deadline => clock.over(limits),
        fault => fault,
    })
}

/// Turns the contract's error into a fault.
pub(super) fn reported(error: super::bindings::aligner::plugin::types::Error) -> Fault {
    use super::bindings::aligner::plugin::types::Error;
    let (kind, message) = match error {
        Error::Config(message) => (Reported::Config, message),
        Error::Input(message) => (Reported::Input, message),
        Error::Internal(message) => (Reported::Internal, message),
    };
    Fault::Reported { kind, message: one_line(&message, 1000) }
}
