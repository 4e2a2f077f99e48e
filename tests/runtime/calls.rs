//! The Rust guest in each of its modes: calls that end badly, and results that break the contract.

use std::time::Duration;

use aligner::plugin::{OnError, RunLimits};

use super::table::{self, Case};

/// Guests that use up what they have.
fn exhausting() -> Vec<Case> {
    let rust = |mode: &str| Case::rust(mode, mode);
    vec![
        rust("loop").limits(|limits| limits.fuel = 20_000_000),
        Case::rust("loop-in-configure", "configure-loop").limits(|limits| limits.fuel = 5_000_000),
        // Time never decides what is in the data: it stops the run whatever `on_error` says.
        Case::rust("loop-against-the-clock", "loop").with(|setup| {
            setup.limits.fuel = u64::MAX >> 1;
            setup.limits.deadline = Duration::from_millis(100);
            setup.on_error = OnError::Drop;
        }),
        Case::rust("loop-against-the-runs-clock", "loop").with(|setup| {
            setup.limits.fuel = u64::MAX >> 1;
            setup.limits.run.deadline = Some(Duration::from_millis(100));
            setup.on_error = OnError::Drop;
        }),
        // Halving down to single records costs a call each; the run's budget ends that.
        Case::rust("loop-against-the-runs-fuel", "loop").with(|setup| {
            setup.limits.fuel = 1_000_000;
            setup.limits.run = RunLimits { fuel: Some(3_000_000), ..RunLimits::default() };
            setup.on_error = OnError::Drop;
        }),
        rust("recurse"),
        rust("recurse-arrays"),
        rust("memory"),
        rust("grow"),
        Case::rust("memory-of-four-mebibytes", "memory")
            .limits(|limits| limits.memory_bytes = 4 << 20),
        // Whatever the plugin set says, no more than this.
        Case::rust("memory-of-everything", "grow").limits(|limits| {
            limits.memory_bytes = usize::MAX;
            limits.fuel = 100_000_000_000;
        }),
        rust("log-flood"),
        Case::rust("log-flood-of-the-run", "log-flood").with(|setup| {
            setup.limits.run.log_bytes = Some(100_000);
            setup.on_error = OnError::Drop;
        }),
        rust("log-gigabyte"),
        rust("aliases"),
        Case::rust("aliases-of-100-kib", "aliases")
            .limits(|limits| limits.copied_bytes = 100 << 10),
        rust("many"),
    ]
}

/// Guests that crash, or say that they failed.
fn crashing() -> Vec<Case> {
    let rust = |mode: &str| Case::rust(mode, mode);
    vec![
        rust("panic"),
        rust("unreachable"),
        rust("out-of-bounds"),
        // In the middle of a batch: nothing of it is used.
        Case::rust("trap-mid-batch", "unreachable-on").over(&["p-1", "poison-2", "p-3"]),
        Case::rust("panic-mid-batch", "panic-on").over(&["p-1", "poison-2", "p-3"]),
        Case::rust("configuration-refused", "")
            .with(|setup| setup.config = r#"{"mood":"x"}"#.into()),
        rust("error-config"),
        rust("error-input"),
        rust("error-internal"),
        Case::rust("panic-in-catalogue", "panic").catalogue(),
        Case::rust("panic-in-decide", "decide-panic").set_filter(),
        Case::rust("loop-in-observe", "loop")
            .set_filter()
            .limits(|limits| limits.fuel = 20_000_000),
    ]
}

/// Guests that give back what the contract does not allow.
fn lying() -> Vec<Case> {
    let rust = |mode: &str| Case::rust(mode, mode);
    vec![
        rust("too-few"),
        rust("too-many"),
        Case::rust("too-few-decided", "too-few").set_filter(),
        rust("utf8"),
        rust("long-reason"),
        rust("two-lines"),
        rust("unknown-variant"),
        rust("empty-revision"),
        Case::rust("unknown-variant-decided", "unknown-variant").set_filter(),
        Case::rust("difficulty-nan", "nan").difficulty(),
        Case::rust("difficulty-infinite", "infinite").difficulty(),
        Case::rust("reward-nan", "nan").judge(),
        Case::rust("reward-unknown-variant", "unknown-variant").judge(),
        Case::rust("reward-none", "no-rewards").judge(),
        Case::rust("preference-itself", "itself").judge(),
        Case::rust("variants-none", "none").render(),
        Case::rust("variants-twice", "twice").render(),
        Case::rust("variants-completed", "completed").render(),
        Case::rust("exemplar-twice", "twice").catalogue(),
        Case::rust("prompt-twice", "twice").select(),
        Case::rust("prompt-unknown", "unknown").select(),
        Case::rust("temperature-11", "hot").equip(),
        Case::rust("exemplar-chosen-twice", "twice").equip(),
        Case::rust("exemplar-unknown", "unknown").equip(),
        Case::rust("prompt-empty", "empty").write().asking(),
    ]
}

pub fn cases() -> Vec<Case> {
    [exhausting(), crashing(), lying()].into_iter().flatten().collect()
}

#[test]
fn guests_that_use_up_what_they_have() {
    table::check(exhausting());
}

#[test]
fn guests_that_crash() {
    table::check(crashing());
}

#[test]
fn guests_that_lie() {
    table::check(lying());
}
