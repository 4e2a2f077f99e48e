//! Memory that ends while sequences run: what is not done begins again, fewer at a time, with the same results.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::tests::{engine, jobs, run, settings};
use super::{Hooks, Output, SequenceError, generate};
use crate::embedding::embed;
use crate::logprob::{Row, score};
use crate::model::backend::cpu::{Cpu, Room};
use crate::model::backend::{Backend, BackendError};
use crate::model::forward::Engine;
use crate::model::tiny;
use crate::reward::{RewardModel, rewards};

/// An engine over the same weights whose memory ends.
fn within(engine: &Engine<Cpu>, most: usize, failing: usize) -> (Engine<Cpu>, &'static Room) {
    let room: &'static Room = Box::leak(Box::new(Room::new(most, failing)));
    let backend = Arc::new(engine.backend.within(room));
    (Engine { backend, weights: engine.weights.clone() }, room)
}

/// Does work with each of its allocations failing once; returns how many there are.
fn with_each_failure<T: PartialEq + std::fmt::Debug>(
    engine: &Engine<Cpu>,
    work: impl Fn(&Engine<Cpu>) -> T,
) -> usize {
    let expected = work(engine);
    for failure in 1.. {
        let (within, room) = within(engine, usize::MAX, failure);
        assert_eq!(work(&within), expected, "allocation {failure} fails");
        if room.refused() == 0 {
            return failure - 1;
        }
    }
    unreachable!("work comes to an end")
}

#[test]
fn whichever_allocation_fails_the_results_are_the_same() {
    let engine = engine(tiny::spec(16, true));
    let jobs = jobs();
    let allocations = with_each_failure(&engine, |engine| -> Vec<Output> {
        run(engine, None, &jobs, &settings(8, 64))
    });
    assert!(allocations > 3, "{allocations}");

    let row = |job: &super::Job| Row { tokens: job.prompt.clone(), from: job.prompt.len() / 2 };
    let rows: Vec<Row> = jobs.iter().filter(|job| job.prompt.len() > 1).map(row).collect();
    let go_on = |_| ControlFlow::Continue(());
    let scored = with_each_failure(&engine, |engine| {
        score(engine, None, &rows, &settings(8, 20), &mut { go_on }).unwrap()
    });
    let embedded = with_each_failure(&engine, |engine| {
        embed(engine, None, &rows, &settings(8, 20), &mut { go_on }).unwrap()
    });
    let adapter = tiny::adapter(&engine.weights.spec, 2).with_score(&engine.weights.spec, 3);
    let sequences: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens.clone()).collect();
    let loaded = engine.load_adapter(&adapter, 1.0).unwrap();
    let model = RewardModel::of(&loaded).unwrap();
    let rewarded = with_each_failure(&engine, |engine| {
        rewards(engine, &model, &sequences, &settings(8, 20), &mut { go_on }).unwrap()
    });
    assert!(scored > 3 && embedded > 3 && rewarded > 3, "{scored} {embedded} {rewarded}");
}

#[test]
fn fewer_run_at_a_time_until_they_fit() {
    let engine = engine(tiny::spec(16, true));
    let jobs = jobs();
    let all = run(&engine, None, &jobs, &settings(8, 64));
    let page = engine.backend.cache_bytes(engine.cache_shape(1));
    // The longest job has 14 pages to itself.
    let (cut, room) = within(&engine, 20 * page, usize::MAX);
    assert_eq!(run(&cut, None, &jobs, &settings(8, 64)), all);
    assert!(room.refused() > 0);

    // Where not even one fits, what was done is done, and the error says so of the rest.
    let (cut, _) = within(&engine, 8 * page, usize::MAX);
    let mut done = 0;
    let hooks = Hooks {
        stop: &|_, _| false,
        on_done: &mut |_, _| {
            done += 1;
            ControlFlow::Continue(())
        },
        progress: &mut |state| {
            assert_eq!(state.total, jobs.len());
            ControlFlow::Continue(())
        },
    };
    let error = generate(&cut, None, &jobs, &settings(8, 64), hooks).unwrap_err();
    assert!(
        matches!(error, SequenceError::Backend(BackendError::OutOfMemory { .. })),
        "{error} after {done}"
    );
}
