//! `[watch]`.

use std::collections::BTreeMap;

use super::Checked;
use crate::plugin_set::{
    Bounds, Measure, OnAlarm, PluginSet, Signal, Watch,
    keys::{BOUNDS, WATCH},
    problem::Problem,
    section::Section,
};

/// Reads what is watched; all else of the set is known.
pub(super) fn watch(root: &Section<'_>, set: &PluginSet) -> Checked<Option<Watch>> {
    let Some(table) = root.table("watch", &WATCH)? else { return Ok(None) };
    let on_alarm = table.choice("on_alarm", &OnAlarm::ALL)?.unwrap_or_default();
    let mut limits = BTreeMap::new();
    for signal in Signal::ALL {
        let name = signal.as_str();
        if let Some(own) = table.table(name, &BOUNDS)? {
            can_be_seen(signal, set).map_err(|label| {
                let message = format!("`watch.{name}` can never be seen");
                Problem::new(message, own.place()).label(label)
            })?;
            limits.insert(signal, bounds_of(&own, signal)?);
        }
    }
    if limits.is_empty() {
        return Err(Problem::new("`[watch]` watches nothing", table.place()).label(
            "expected a signal with a limit, for example `perplexity = { max_rise = 0.1 }`",
        ));
    }
    Ok(Some(Watch { on_alarm, limits }))
}

/// Fails with what is expected where no round has a number for a signal.
fn can_be_seen(signal: Signal, set: &PluginSet) -> Result<(), String> {
    let mut rounds = 1..=set.run.rounds;
    let writes = set.data.pairs.is_none() && set.models.aligned.is_none();
    match signal {
        Signal::Measured(measure) => {
            let measured = set.evaluate.as_ref().is_some_and(|it| it.measures.contains(&measure));
            let expected = || format!("expected `{}` in `evaluate.measures`", measure.as_str());
            if measured { Ok(()) } else { Err(expected()) }
        }
        Signal::Unparsable if set.judge.is_none() => Err("expected a `[judge]`".into()),
        Signal::Unparsable => match rounds.any(|round| set.judge(round).is_some()) {
            true => Ok(()),
            false => Err("expected a round that calls the judge".into()),
        },
        _ => match writes && rounds.any(|round| set.generate(round).model == "policy") {
            true => Ok(()),
            false => Err("expected a round in which the policy writes".into()),
        },
    }
}

fn bounds_of(table: &Section<'_>, signal: Signal) -> Checked<Bounds> {
    let bound = |key| match signal.is_share() {
        true => table.number(key, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x)),
        false => table.number(key, "a number, 0 or more", |x| x >= 0.0),
    };
    let limits = Bounds {
        min: bound("min")?,
        max: bound("max")?,
        max_fall: table.number("max_fall", "a number over 0, under 1", |x| x > 0.0 && x < 1.0)?,
        max_rise: table.number("max_rise", "a number over 0", |x| x > 0.0)?,
    };
    let from_0 = [Signal::Unparsable, Signal::Measured(Measure::Agreement)].contains(&signal);
    if let (true, Some(_)) = (from_0, limits.max_rise) {
        return Err(table
            .wrong("max_rise", "is a share of what it was first, which may be 0")
            .label("expected `min` or `max`"));
    }
    if limits == Bounds::default() {
        return Err(Problem::new(
            format!("`watch.{}` has no limit", signal.as_str()),
            table.place(),
        )
        .label("expected `min`, `max`, `max_fall` or `max_rise`"));
    }
    match (limits.min, limits.max) {
        (Some(min), Some(max)) if min > max => {
            Err(table.wrong("min", &format!("is {min}, and `max` is {max}")))
        }
        _ => Ok(limits),
    }
}

/// Fails where the agreement of the judge with anchors is measured, and something is missing for it.
pub(super) fn anchors(root: &Section<'_>, set: &PluginSet) -> Checked<()> {
    let measured = |measures: &[Measure]| measures.contains(&Measure::Agreement);
    let measured = set.evaluate.as_ref().is_some_and(|evaluate| measured(&evaluate.measures));
    let place = root.place_of("evaluate");
    match (&set.data.anchors, &set.judge) {
        (None, _) if measured => Err(Problem::new(
            "`agreement` is measured, and there are no anchors",
            place,
        )
        .label("expected `anchors` in `[data]`")
        .hint(
            "add `anchors = \"FILE.jsonl\"` to `[data]`, with rows of prompt, chosen and rejected",
        )),
        (Some(_), None) if measured => {
            Err(Problem::new("`agreement` is measured, and there is no judge", place)
                .label("expected a `[judge]`"))
        }
        (Some(_), Some(judge)) if measured => {
            let asked = judge.ask.as_ref().map_or(&[][..], |ask| &ask.models);
            match asked.iter().find(|name| set.models.saved.contains_key(*name)) {
                None => Ok(()),
                Some(name) => Err(Problem::new(
                    format!("`agreement` is measured before round 1, and the judge asks `{name}`, which a later round saves"),
                    place,
                )
                .label("expected a judge that asks models that are there from the start")),
            }
        }
        (Some(_), _) => Err(Problem::new(
            "`anchors` are given, and nothing asks the judge about them",
            root.place_of("data"),
        )
        .label("expected `agreement` in `evaluate.measures`")),
        (None, _) => Ok(()),
    }
}
