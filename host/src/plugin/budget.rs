//! What a plugin has used in the run so far, and what it may use over all of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::converse::Spent;
use super::error::{Fault, Span};
use super::limits::Limits;
use super::load::Plugin;

/// What a plugin has used in the run so far.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// The same on every machine, and handed over when a run is resumed.
    spent: Mutex<Spent>,
    /// The time of calls of this process.
    pub clock: Clock,
}

/// Adds up the time of calls.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// Counts a call.
    pub fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Returns how much time is left for the run, where that is limited; a fault where none is.
    pub fn left(&self, limits: &Limits) -> Result<Option<Duration>, Fault> {
        let Some(most) = limits.run.deadline else { return Ok(None) };
        let used = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        match most.checked_sub(used).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Some(left)),
            None => Err(self.over(limits)),
        }
    }

    /// Returns the fault of a plugin that has used up the run's time.
    pub fn over(&self, limits: &Limits) -> Fault {
        let most = limits.run.deadline.unwrap_or(limits.deadline);
        Fault::RunDeadline { seconds: most.as_secs_f64() }
    }
}

impl Plugin {
    /// Returns what it has used in the run so far.
    pub fn used(&self) -> Spent {
        *self.run_account().spent.lock().expect("nothing panics while it is held")
    }

    /// Sets what it has used in the run so far: what earlier processes used where a run is resumed.
    pub fn set_used(&self, spent: Spent) {
        *self.run_account().spent.lock().expect("nothing panics while it is held") = spent;
    }

    /// Returns it for a stage whose records come in several calls: all that it has used is of this stage, and
    /// counts into what the stage may use.
    pub fn in_parts(mut self) -> Plugin {
        self.in_parts = true;
        self
    }

    /// Returns what it has spent on other records of the stage at hand.
    pub(super) fn spent_before(&self) -> Spent {
        if self.in_parts { self.used() } else { Spent::default() }
    }

    /// Returns whether anything of it is limited over the whole run that is counted on when the run is
    /// resumed.
    pub fn has_run_budget(&self) -> bool {
        let run = &self.setup().limits.run;
        let asks = self.setup().grant.as_ref();
        run.fuel.is_some()
            || run.log_bytes.is_some()
            || asks.is_some_and(|grant| grant.run_tokens.is_some() || grant.run_requests.is_some())
    }

    /// Adds calls to what it has used in the run.
    pub(super) fn note_used(&self, own: Spent) {
        *self.run_account().spent.lock().expect("nothing panics while it is held") += own;
    }

    /// Fails where fuel or log lines of the whole run are used up, with `own` on top of what it has
    /// used before.
    pub(super) fn check_run(&self, own: &Spent) -> Result<(), Fault> {
        let (before, run) = (self.used(), &self.setup().limits.run);
        match run.fuel {
            Some(limit) if before.fuel + own.fuel > limit => {
                return Err(Fault::Fuel { limit, span: Span::Run });
            }
            _ => {}
        }
        match run.log_bytes {
            Some(limit) if before.log_bytes + own.log_bytes > limit => {
                Err(Fault::Log { limit, span: Span::Run })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::RunLimits;

    #[test]
    fn time_is_counted_over_calls() {
        let limits = |seconds| Limits {
            run: RunLimits { deadline: Some(Duration::from_secs(seconds)), ..RunLimits::default() },
            ..Limits::default()
        };
        let clock = Clock::default();
        assert_eq!(clock.left(&Limits::default()), Ok(None));
        clock.add(Duration::from_secs(2));
        clock.add(Duration::from_secs(3));
        assert_eq!(clock.left(&limits(7)), Ok(Some(Duration::from_secs(2))));
        assert_eq!(clock.left(&limits(5)), Err(Fault::RunDeadline { seconds: 5.0 }));
        assert_eq!(clock.left(&limits(4)), Err(Fault::RunDeadline { seconds: 4.0 }));
    }
}
