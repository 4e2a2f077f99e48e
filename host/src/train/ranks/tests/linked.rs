//! Ranks whose devices are linked, by a way between threads.

use std::time::Instant;

use super::*;
use crate::model::backend::cpu::way::{self, Plan};

const WAY: Plan = Plan { exists: true, is_broken: false, fails_at: None };

/// Starts ranks 1 to `plans.len() - 1`, each with its plan, joins and links them, and returns why they are not linked.
fn linked(plans: &[Plan]) -> (Arc<Mutex<Ranks>>, Threads, Option<String>) {
    let size = plans.len();
    let (own, theirs) = pairs(size - 1);
    let work = |(i, (stream, &plan)): (usize, (UnixStream, &Plan))| {
        thread::spawn(move || {
            way::plan(plan);
            let mut worker = Worker::join(stream, i + 1, size)?;
            worker.wait()?;
            worker.work(&Tiny::new(true).engine())
        })
    };
    let threads = theirs.into_iter().zip(&plans[1..]).enumerate().map(work).collect();
    way::plan(plans[0]);
    let mut ranks = loaded(own);
    let why = ranks.link(&Cpu::new(), PATIENCE, &NEVER).unwrap();
    (Arc::new(Mutex::new(ranks)), threads, why)
}

/// Takes a step that fails, and returns why, after all ranks have ended.
fn fails(ranks: Arc<Mutex<Ranks>>, threads: Threads) -> (String, Vec<Result<(), WorkerError>>) {
    let begun = Instant::now();
    let mut trainer = trainer(&adapter(), examples().into(), &sft());
    trainer.share_with(ranks.clone()).unwrap();
    let mut step = || trainer.step().map(|_| ());
    let error = step().and_then(|()| step()).unwrap_err().to_string();
    // As where the run ends.
    drop((trainer, ranks));
    let ended = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(begun.elapsed() < PATIENCE, "{error}");
    (error, ended)
}

#[test]
fn what_is_trained_over_a_link_is_the_same_bit_for_bit() {
    let (ranks, threads, why) = linked(&[WAY; 3]);
    assert_eq!(why, None);
    for (name, start, data, settings) in trainings() {
        let alone = run(trainer(&start, data(), &settings));
        let before = way::transfers();
        let mut shared = trainer(&start, data(), &settings);
        shared.share_with(ranks.clone()).unwrap();
        let shared = run(shared);
        assert_eq!(shared.0, alone.0, "{name}");
        assert!(shared.1 == alone.1, "{name}");
        // Values once a step, and gradients.
        assert!(way::transfers() - before > alone.0.len(), "{name}");
    }
    drop(ranks);
    end(threads);
}

#[test]
fn without_a_link_between_all_there_is_none() {
    let broken = Plan { is_broken: true, ..WAY };
    let settings = sft();
    let alone = run(trainer(&adapter(), examples().into(), &settings));
    for (plans, expected) in [
        ([WAY, broken, WAY], "rank 1: cpu failed: there is no way from here"),
        ([broken, WAY, WAY], "cpu failed: there is no way from here"),
    ] {
        let (ranks, threads, why) = linked(&plans);
        // Whoever waits for those that cannot says so as well; what is said first is the reason.
        let why = why.unwrap();
        assert!(why == expected || plans[0].is_broken && why.starts_with("rank "), "{why}");
        let mut shared = trainer(&adapter(), examples().into(), &settings);
        shared.share_with(ranks.clone()).unwrap();
        assert!(run(shared).1 == alone.1);
        assert_eq!(way::transfers(), 0);
        drop(ranks);
        end(threads);
    }
}

#[test]
fn a_link_that_takes_too_long_is_not_waited_for() {
    let (own, theirs) = pairs(1);
    let mut theirs = theirs.into_iter();
    let thread = thread::spawn(move || {
        let mut worker = Worker::join(theirs.next().unwrap(), 1, 2).unwrap();
        worker.wait().unwrap();
        worker.wire.send(&Answer::Ready).unwrap();
        assert!(matches!(worker.wire.receive().unwrap(), Order::Link(_)));
        // It links never, until it hears that nobody waits any more.
        assert!(matches!(worker.wire.receive().unwrap(), Order::Linked(false)));
        worker.fail("late", false).unwrap();
        let _: Order = worker.wire.receive().unwrap();
    });
    way::plan(WAY);
    let mut ranks = loaded(own);
    let why = ranks.link(&Cpu::new(), Duration::from_secs(1), &NEVER).unwrap();
    assert_eq!(why.as_deref(), Some("rank 1: late"));
    drop(ranks);
    thread.join().unwrap();
}

#[test]
fn after_a_step_that_failed_nobody_waits_for_gradients_to_be_taken() {
    let (ranks, threads, why) = linked(&[WAY; 3]);
    assert_eq!(why, None);
    for (name, start, data, settings) in trainings() {
        let alone = run(trainer(&start, data(), &settings));
        let mut failed = trainer(&start, data(), &settings);
        failed.share_with(ranks.clone()).unwrap();
        leave_first_step(&ranks, &mut failed);
        let mut again = trainer(&start, data(), &settings);
        again.share_with(ranks.clone()).unwrap();
        let again = run(again);
        assert!(again == alone, "{name}");
    }
    drop(ranks);
    end(threads);
}

#[test]
fn a_transfer_that_fails_ends_all_ranks() {
    // Of rank 0: values, the gradients of rank 1, those of rank 2, and values again.
    for number in 0..4 {
        let (ranks, threads, _) = linked(&[Plan { fails_at: Some(number), ..WAY }, WAY, WAY]);
        let (error, ended) = fails(ranks, threads);
        assert_eq!(error, "cpu failed: the way fails");
        for ended in ended {
            assert!(matches!(ended, Err(WorkerError(WireError::Gone))), "{ended:?}");
        }
    }
    // Of another rank: values, and gradients.
    for (rank, number) in [(1, 0), (2, 0), (1, 1), (2, 1)] {
        let mut plans = [WAY; 3];
        plans[rank].fails_at = Some(number);
        let (ranks, threads, _) = linked(&plans);
        let (error, ended) = fails(ranks, threads);
        assert_eq!(error, format!("rank {rank} cannot be worked with: its process has ended"));
        let own = ended[rank - 1].as_ref().unwrap_err().to_string();
        assert_eq!(own, "rank 0 cannot be worked for: cpu failed: the way fails");
    }
}

#[test]
fn a_rank_that_ends_before_a_step_ends_all() {
    for gone in [1, 2] {
        let (own, theirs) = pairs(2);
        let work = |(i, stream)| {
            thread::spawn(move || {
                way::plan(WAY);
                let mut worker = Worker::join(stream, i + 1, 3)?;
                worker.wait()?;
                if i + 1 != gone {
                    return worker.work(&Tiny::new(true).engine());
                }
                // Linked, ready for the first step, and gone before it.
                worker.wire.send(&Answer::Ready)?;
                let Order::Link(key) = worker.wire.receive()? else { panic!() };
                worker.link(&Cpu::new(), &key)?;
                assert!(matches!(worker.wire.receive()?, Order::Linked(true)));
                assert!(matches!(worker.wire.receive()?, Order::Begin { .. }));
                worker.wire.send(&Answer::Ready)?;
                Ok(())
            })
        };
        let threads: Threads = theirs.into_iter().enumerate().map(work).collect();
        way::plan(WAY);
        let mut ranks = loaded(own);
        assert_eq!(ranks.link(&Cpu::new(), PATIENCE, &NEVER).unwrap(), None);
        let (error, ended) = fails(Arc::new(Mutex::new(ranks)), threads);
        assert_eq!(error, format!("rank {gone} cannot be worked with: its process has ended"));
        assert!(matches!(ended[2 - gone], Err(WorkerError(WireError::Gone))), "{ended:?}");
    }
}
