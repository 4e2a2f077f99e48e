//! The collapse watch: which signals of `[watch]` have gone beyond their limits, and whose policy is to blame.

use crate::plugin_set::{Bounds, OnAlarm, PluginSet, Signal, Watch};
use crate::report::alarm::edge;
use crate::report::{Alarm, Diverged, Report};
use crate::round::RunError;
use crate::train::TrainError;

/// Returns the alarms of a run so far, one for each signal that went beyond a limit, where it first did; the
/// signal that moved first comes first.
pub fn alarms(set: &PluginSet, watch: &Watch, report: &Report) -> Vec<Alarm> {
    let own = watch.limits.iter();
    let mut found: Vec<Alarm> =
        own.filter_map(|(&signal, bounds)| alarm(set, signal, bounds, report)).collect();
    // Equal ones stay in the order in which a round comes to know them.
    found.sort_by_key(|alarm| (alarm.moved, alarm.blamed));
    found
}

/// Returns the round whose policy is to blame for the first alarm, where the result has to be from before it: a
/// policy whose numbers are not finite is none, whatever an alarm does.
pub fn blamed(watch: &Watch, report: &Report) -> Option<u32> {
    let rolls_back = watch.on_alarm == OnAlarm::RollBack;
    let alarms = report.alarms.iter().filter(|_| rolls_back).map(|alarm| alarm.blamed);
    alarms.chain(report.diverged.iter().map(|diverged| diverged.blamed)).min()
}

/// Returns what a round ended with whose policy's numbers are not finite any more, where an alarm ends a run. The
/// same settings come there again, so this is how the run ends.
pub fn diverged(watch: Option<&Watch>, round: u32, error: &RunError) -> Option<Diverged> {
    let RunError::Diverged { blamed, source } = error else { return None };
    watch.filter(|watch| watch.on_alarm.ends())?;
    tracing::warn!("round {round} ends the run: {source}");
    let what = match &**source {
        RunError::Train(TrainError::NotFinite { what, value, step, steps, .. }) => {
            format!("{what} is {value} in step {step} of {steps} of its training")
        }
        // Which record shows it first depends on what else is in a pass, and so on where a run was stopped.
        RunError::Sequence { .. } => {
            format!("what the policy of round {blamed} says is not finite")
        }
        source => source.to_string(),
    };
    Some(Diverged { round, blamed: *blamed, what })
}

/// Returns whether a run ends because of its alarms.
pub fn ends(watch: &Watch, alarms: &[Alarm]) -> bool {
    !alarms.is_empty() && watch.on_alarm.ends()
}

/// Returns what is beyond a limit before the first round, so that every round would raise an alarm: the signal, its
/// value, and the limit.
pub fn beyond_before(watch: &Watch, report: &Report) -> Option<(&'static str, f64, String)> {
    watch.limits.iter().find_map(|(&signal, bounds)| {
        let value = report.at_start(signal.as_str())?;
        let (limit, bound) = broken(bounds, value, value)?;
        Some((signal.as_str(), value, format!("{limit} = {bound}")))
    })
}

fn alarm(set: &PluginSet, signal: Signal, bounds: &Bounds, report: &Report) -> Option<Alarm> {
    let name = signal.as_str();
    let seen = report.signal(name);
    let measured = matches!(signal, Signal::Measured(_));
    let first = report.at_start(name).or(seen.first().map(|(_, value)| *value))?;
    let (round, value, (limit, bound)) = seen
        .iter()
        .find_map(|&(round, value)| Some((round, value, broken(bounds, first, value)?)))?;
    let half = seen.iter().find(|(_, value)| way(limit, bound, first, *value) >= 0.5);
    Some(Alarm {
        signal: name.to_owned(),
        round,
        // What a round generates, and what its judge says, is of the policy that enters it.
        blamed: if measured { round } else { set.entering(round) },
        value,
        first,
        limit: limit.to_owned(),
        bound,
        moved: half.map_or(round, |(half, _)| round.min(*half)),
    })
}

/// Returns the limit that a value is beyond.
fn broken(bounds: &Bounds, first: f64, value: f64) -> Option<(&'static str, f64)> {
    bounds.given().find(|&(limit, bound)| {
        let edge = edge(limit, bound, first);
        if is_least(limit) { value < edge } else { value > edge }
    })
}

fn is_least(limit: &str) -> bool {
    matches!(limit, "min" | "max_fall")
}

/// Returns how far a value is on the way from what it was first to a limit: 1 at the limit.
fn way(limit: &str, bound: f64, first: f64, value: f64) -> f64 {
    let edge = edge(limit, bound, first);
    let (gone, whole) = match is_least(limit) {
        true => (first - value, first - edge),
        false => (value - first, edge - first),
    };
    match whole > 0.0 {
        true => gone / whole,
        // It was at the limit, or beyond it, from the start.
        false => f64::from(u8::from(gone > whole)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::plugin_set::{Embedded, Measure, parse};
    use crate::report::Measured;

    /// A report of rounds with these signals, after a start with these measures.
    fn report(before: &[(&str, f64)], rounds: &[&[(&str, f64)]]) -> Report {
        let measured =
            |(measure, value): &(&str, f64)| Measured { measure: (*measure).into(), value: *value };
        let mut report = Report::new("m", "m", before.iter().map(measured).collect());
        for (number, signals) in (1u32..).zip(rounds) {
            let signals: BTreeMap<&str, f64> = signals.iter().copied().collect();
            let row = serde_json::json!({
                "round": number, "prompts": 1, "completions": 1, "kept": 1, "dropped": {},
                "difficulty": null, "mean_length": null, "distinct_2": null, "entropy": null,
                "loss_first": null, "loss_last": null, "signals": signals, "held_out": [],
            });
            report.rounds.push(serde_json::from_value(row).unwrap());
        }
        report
    }

    fn watch(on_alarm: OnAlarm, limits: &[(Signal, Bounds)]) -> Watch {
        Watch { on_alarm, limits: limits.iter().copied().collect() }
    }

    /// Three rounds that train.
    fn set() -> PluginSet {
        let text = "[method]\nname = 'm'\ncontract = '0.1'\n[models]\npolicy = 'p'\n\
                    [data]\nprompts = 'builtin:p'\n[run]\nrounds = 3\n[train]\n";
        let embedded = Embedded { plugin_sets: &[], plugins: &[], data: &["p"] };
        parse("m", text, Path::new("/"), Path::new("/"), &[], &embedded).unwrap()
    }

    const PERPLEXITY: Signal = Signal::Measured(Measure::Perplexity);

    #[test]
    fn limits_are_of_the_value_or_of_its_change() {
        let check = |bounds: Bounds, values: &[f64], expected: Option<(u32, &str)>| {
            let rounds: Vec<[(&str, f64); 1]> =
                values.iter().map(|value| [("perplexity", *value)]).collect();
            let rounds: Vec<&[(&str, f64)]> = rounds.iter().map(|round| &round[..]).collect();
            let report = report(&[("perplexity", 10.0)], &rounds);
            let found = alarms(&set(), &watch(OnAlarm::Stop, &[(PERPLEXITY, bounds)]), &report);
            let found = found.first().map(|alarm| (alarm.round, alarm.limit.as_str()));
            assert_eq!(found, expected, "{bounds:?} {values:?}");
        };
        let none = Bounds::default();
        let rise = Bounds { max_rise: Some(0.5), ..none };
        check(rise, &[9.0, 15.0, 14.0], None);
        check(rise, &[9.0, 15.1, 20.0], Some((2, "max_rise")));
        let fall = Bounds { max_fall: Some(0.5), ..none };
        check(fall, &[15.0, 5.0], None);
        check(fall, &[4.9], Some((1, "max_fall")));
        check(Bounds { min: Some(8.0), ..none }, &[8.0, 7.9], Some((2, "min")));
        check(Bounds { max: Some(8.0), ..none }, &[8.0], None);
        check(Bounds { max: Some(8.0), ..none }, &[8.1], Some((1, "max")));
        check(
            Bounds { min: Some(1.0), max_rise: Some(0.1), ..none },
            &[12.0],
            Some((1, "max_rise")),
        );
    }

    #[test]
    fn what_moved_first_comes_first_and_its_policy_is_blamed() {
        let rounds: [&[(&str, f64)]; 3] = [
            &[("generated-entropy", 2.0), ("unparsable", 0.0), ("perplexity", 10.5)],
            &[("generated-entropy", 1.4), ("unparsable", 0.0), ("perplexity", 10.6)],
            &[("generated-entropy", 0.9), ("unparsable", 0.7), ("perplexity", 12.5)],
        ];
        let report = report(&[("perplexity", 10.0), ("entropy", 7.0)], &rounds);
        let falls = Bounds { max_fall: Some(0.5), ..Bounds::default() };
        let most = Bounds { max: Some(0.5), ..Bounds::default() };
        let rises = Bounds { max_rise: Some(0.2), ..Bounds::default() };
        let limits =
            [(PERPLEXITY, rises), (Signal::GeneratedEntropy, falls), (Signal::Unparsable, most)];
        let watch = watch(OnAlarm::RollBack, &limits);
        let found = alarms(&set(), &watch, &report);
        let with = |alarms: &[Alarm]| Report { alarms: alarms.to_vec(), ..report.clone() };
        let facts: Vec<(&str, u32, u32, u32)> = found
            .iter()
            .map(|alarm| (alarm.signal.as_str(), alarm.round, alarm.blamed, alarm.moved))
            .collect();
        assert_eq!(
            facts,
            [("generated-entropy", 3, 2, 2), ("unparsable", 3, 2, 3), ("perplexity", 3, 3, 3)]
        );
        assert_eq!(blamed(&watch, &with(&found)), Some(2));
        assert!(ends(&watch, &found));
        assert_eq!(
            found[0].to_string(),
            "generated-entropy is 0.900 in round 3, was 2.00 at first (max_fall = 0.5; half of the way by \
             round 2)"
        );
        assert_eq!(
            found[1].to_string(),
            "unparsable is 0.700 in round 3, was 0.000 at first (max = 0.5)"
        );
        let warn = Watch { on_alarm: OnAlarm::Warn, ..watch.clone() };
        assert_eq!((blamed(&warn, &with(&found)), ends(&warn, &found)), (None, false));
        let stop = Watch { on_alarm: OnAlarm::Stop, ..watch };
        assert_eq!((blamed(&stop, &with(&found)), ends(&stop, &found)), (None, true));
    }

    #[test]
    fn numbers_that_are_not_finite_end_a_run_that_an_alarm_ends() {
        let nothing = |blamed| RunError::of_policy(blamed)(RunError::Perplexity { round: 2 });
        let [stop, back, warn] = [OnAlarm::Stop, OnAlarm::RollBack, OnAlarm::Warn]
            .map(|on_alarm| watch(on_alarm, &[(PERPLEXITY, Bounds::default())]));
        let found = diverged(Some(&back), 3, &nothing(2)).unwrap();
        assert_eq!(
            found.to_string(),
            "round 3 diverged: the perplexity of the trusted answers is not finite after round 2: the \
             model has collapsed"
        );
        let report = Report { diverged: Some(found), ..report(&[], &[]) };
        assert_eq!((blamed(&back, &report), blamed(&stop, &report)), (Some(2), Some(2)));
        assert!(diverged(Some(&stop), 3, &nothing(2)).is_some());
        // The initial model cannot have diverged, and an error that is none of this stays one.
        assert!(diverged(Some(&stop), 3, &nothing(0)).is_none());
        assert!(diverged(Some(&stop), 3, &RunError::of_policy(2)(RunError::NotBegun)).is_none());
        assert!(diverged(Some(&warn), 3, &nothing(2)).is_none());
        assert!(diverged(None, 3, &nothing(2)).is_none());
    }

    #[test]
    fn a_round_that_kept_nothing_is_seen_too() {
        let mut report = report(&[], &[&[("unparsable", 0.1)]]);
        let nothing = serde_json::json!({
            "round": 2, "records": 4, "dropped": {"unparsable": 4}, "signals": {"unparsable": 1.0},
        });
        report.nothing_kept = Some(serde_json::from_value(nothing).unwrap());
        let bounds = Bounds { max: Some(0.5), ..Bounds::default() };
        let watch = watch(OnAlarm::RollBack, &[(Signal::Unparsable, bounds)]);
        let found = alarms(&set(), &watch, &report);
        assert_eq!((found[0].round, found[0].blamed), (2, 1));
    }
}
