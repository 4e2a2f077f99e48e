//! Several ranks as threads of one process. `tests/runs/ranks.rs` has them as processes.

mod linked;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::*;
use crate::model::adapter::Adapter;
use crate::model::backend::cpu::Cpu;
use crate::train::preference_tests::objectives;
use crate::train::tests::{Tiny, adapter, examples};
use crate::train::{
    Data, StepMetrics, Trainer, preference_tests, reward_tests, tests as sft_tests,
};

static NEVER: AtomicBool = AtomicBool::new(false);
const PATIENCE: Duration = Duration::from_secs(60);

type Threads = Vec<JoinHandle<Result<(), WorkerError>>>;

fn pairs(count: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
    (0..count).map(|_| UnixStream::pair().unwrap()).unzip()
}

fn base() -> Base {
    let [model, digest, class] = ["m", "d", "cpu"].map(str::to_owned);
    Base { model, digest, chat: ChatSettings::default(), weight_type: WeightType::F32, class }
}

/// Admits all ranks.
fn joined(streams: Vec<UnixStream>) -> Ranks {
    let mut ranks = Ranks::new(streams.len() + 1);
    for stream in streams {
        assert!(ranks.admit(stream, PATIENCE, &NEVER).unwrap());
    }
    ranks
}

/// Admits all ranks and has them load the model.
fn loaded(streams: Vec<UnixStream>) -> Ranks {
    let mut ranks = joined(streams);
    ranks.load(&base(), PATIENCE).unwrap();
    let mut heard = 0;
    ranks.loaded(&mut || heard += 1).unwrap();
    assert_eq!(heard, ranks.size() - 1);
    ranks
}

/// What cuts a step of examples into several micro-batches.
fn sft() -> TrainSettings {
    TrainSettings { micro_batch_tokens: 20, ..sft_tests::settings() }
}

/// Starts ranks 1 to `size` - 1 and joins them.
fn ranks(size: usize) -> (Arc<Mutex<Ranks>>, Threads) {
    let (own, theirs) = pairs(size - 1);
    let work = |(i, stream)| {
        thread::spawn(move || {
            let mut worker = Worker::join(stream, i + 1, size)?;
            assert!(matches!(worker.wait()?, Work::Load(given) if given == base()));
            worker.work(&Tiny::new(true).engine())
        })
    };
    let threads = theirs.into_iter().enumerate().map(work).collect();
    let ranks = loaded(own);
    assert_eq!(ranks.size(), size);
    (Arc::new(Mutex::new(ranks)), threads)
}

fn end(threads: Threads) {
    threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
}

/// Takes all steps that are left, and returns what they came to and the state after them.
fn run(mut trainer: Trainer<Cpu>) -> (Vec<StepMetrics>, Vec<u8>) {
    let mut steps = Vec::new();
    while let Some(step) = trainer.step().unwrap() {
        steps.push(step);
    }
    (steps, trainer.state().unwrap().to_bytes())
}

fn trainer(start: &Adapter, data: Data, settings: &TrainSettings) -> Trainer<Cpu> {
    Trainer::new(Tiny::new(true).engine(), start, data, settings.clone()).unwrap()
}

type Training = (String, Adapter, Box<dyn Fn() -> Data>, TrainSettings);

/// Every kind of training: its name, where it starts, its data, and settings that cut a step into several
/// micro-batches.
fn trainings() -> Vec<Training> {
    let sft = sft();
    let preferences = TrainSettings { micro_batch_tokens: 60, ..preference_tests::settings() };
    let mut dropout = adapter();
    dropout.config.dropout = 0.3;
    let mut all: Vec<Training> = vec![
        ("sft".into(), adapter(), Box::new(|| examples().into()), sft.clone()),
        ("sft with dropout".into(), dropout, Box::new(|| examples().into()), sft),
    ];
    for (name, data) in objectives() {
        all.push((name, adapter(), Box::new(data), preferences.clone()));
    }
    let reward = Box::new(|| reward_tests::data(0.1));
    all.push(("reward".into(), reward_tests::start(), reward, preferences));
    all
}

#[test]
fn what_is_trained_is_the_same_bit_for_bit_over_any_number_of_ranks() {
    let (two, of_two) = ranks(2);
    let (five, of_five) = ranks(5);
    let trainings = trainings();
    assert_eq!(trainings.len(), 12);
    for (name, start, data, settings) in trainings {
        let alone = trainer(&start, data(), &settings);
        let most = (0..alone.steps())
            .map(|step| alone.learner.cut(step, &alone.learner.batches.of_step(step)).learnt.len());
        // Else there is nothing to share.
        assert!(most.max().unwrap() > 1, "{name}");
        let alone = run(alone);
        for ranks in [&two, &five] {
            let mut shared = trainer(&start, data(), &settings);
            shared.share_with(ranks.clone()).unwrap();
            let shared = run(shared);
            assert_eq!(shared.0, alone.0, "{name}");
            assert!(shared.1 == alone.1, "{name}");
        }
    }
    drop((two, five));
    end(of_two);
    end(of_five);
}

#[test]
fn training_goes_on_over_another_number_of_ranks() {
    let settings = sft();
    let whole = run(trainer(&adapter(), examples().into(), &settings)).1;
    let (two, of_two) = ranks(2);
    let (three, of_three) = ranks(3);
    let mut begun = trainer(&adapter(), examples().into(), &settings);
    begun.share_with(two.clone()).unwrap();
    for _ in 0..4 {
        begun.step().unwrap().unwrap();
    }
    let state = begun.state().unwrap();
    let mut rest = Trainer::resume(Tiny::new(true).engine(), state, examples(), settings).unwrap();
    rest.share_with(three.clone()).unwrap();
    assert!(run(rest).1 == whole);
    drop((begun, two, three));
    end(of_two);
    end(of_three);
}

#[test]
fn a_rank_that_ends_is_named_and_does_not_hang_the_run() {
    let (own, theirs) = pairs(2);
    let of = |rank: usize, stream: UnixStream, stays: bool| {
        thread::spawn(move || {
            let mut worker = Worker::join(stream, rank, 3).unwrap();
            worker.wait().unwrap();
            worker.wire.send(&Answer::Ready).unwrap();
            assert!(matches!(worker.wire.receive().unwrap(), Order::Begin { .. }));
            worker.wire.send(&Answer::Ready).unwrap();
            assert!(matches!(worker.wire.receive().unwrap(), Order::Step(_)));
            while stays && let Ok(order) = worker.wire.receive() {
                if let Order::Point(_) = order {
                    worker.wire.send(&Answer::Done).unwrap();
                }
            }
        })
    };
    let mut theirs = theirs.into_iter();
    let threads = [of(2, theirs.next().unwrap(), true), of(1, theirs.next().unwrap(), false)];
    let ranks = loaded(own);
    let settings = sft();
    let mut trainer = trainer(&adapter(), examples().into(), &settings);
    trainer.share_with(Arc::new(Mutex::new(ranks))).unwrap();
    let error = trainer.step().unwrap_err().to_string();
    assert_eq!(error, "rank 1 cannot be worked with: its process has ended");
    drop(trainer);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_rank_that_says_nothing_is_given_up() {
    let (own, theirs) = pairs(1);
    let mut ranks = {
        let thread = thread::spawn(move || Worker::join(theirs.into_iter().next().unwrap(), 1, 2));
        let ranks = joined(own);
        // It says nothing more, and is there.
        std::mem::forget(thread.join().unwrap());
        ranks
    };
    let short = Duration::from_millis(300);
    let error = ranks.load(&base(), short).and_then(|()| ranks.loaded(&mut || ())).unwrap_err();
    assert!(
        matches!(error, RankError::Wire { rank: 1, source: WireError::Silent { .. } }),
        "{error}"
    );
    static STOP: AtomicBool = AtomicBool::new(true);
    ranks.peers[0].wire.cancel = Some(&STOP);
    ranks.peers[0].is_gone = false;
    let error = ranks.load(&base(), PATIENCE).and_then(|()| ranks.loaded(&mut || ())).unwrap_err();
    assert!(matches!(error, RankError::Wire { rank: 1, source: WireError::Cancelled }), "{error}");
}

/// Begins a step and leaves it, as where the device of rank 0 fails in the middle.
fn leave_first_step(ranks: &Mutex<Ranks>, trainer: &mut Trainer<Cpu>) {
    let mut ranks = ranks.lock().unwrap();
    let Learner { backend, subject, .. } = &mut trainer.learner;
    ranks.step(&**backend, subject, 0).unwrap();
    ranks.leave_step(&**backend, subject);
}

#[test]
fn after_a_step_that_failed_ranks_are_ready_for_the_next() {
    let (ranks, threads) = ranks(3);
    for (name, start, data, settings) in trainings() {
        let alone = run(trainer(&start, data(), &settings));
        let mut failed = trainer(&start, data(), &settings);
        failed.share_with(ranks.clone()).unwrap();
        leave_first_step(&ranks, &mut failed);
        {
            // As where another rank has ended while this one gave the values.
            let mut ranks = ranks.lock().unwrap();
            ranks.tell(&Order::Step(0)).unwrap();
            ranks.peers.iter_mut().for_each(|peer| peer.in_step = true);
            let Learner { backend, subject, .. } = &mut failed.learner;
            let first = subject.gradients()[0].len();
            ranks.peers[0].wire.send_numbers(&vec![0.0; first]).unwrap();
            ranks.leave_step(&**backend, subject);
        }
        let mut again = trainer(&start, data(), &settings);
        again.share_with(ranks.clone()).unwrap();
        let again = run(again);
        assert_eq!(again.0, alone.0, "{name}");
        assert!(again.1 == alone.1, "{name}");
    }
    drop(ranks);
    end(threads);
}

#[test]
fn what_a_rank_says_has_failed_is_said() {
    let (own, theirs) = pairs(1);
    let thread = thread::spawn(move || {
        let mut worker = Worker::join(theirs.into_iter().next().unwrap(), 1, 2).unwrap();
        worker.wait().unwrap();
        worker.refuse("model `m` is another one here").unwrap();
    });
    let mut ranks = joined(own);
    let error = ranks.load(&base(), PATIENCE).and_then(|()| ranks.loaded(&mut || ())).unwrap_err();
    assert_eq!(error.to_string(), "rank 1: model `m` is another one here");
    thread.join().unwrap();
}

#[test]
fn who_is_not_one_of_the_ranks_is_let_go() {
    let (own, theirs) = pairs(5);
    let mut kept = Vec::new();
    for (stream, (rank, size)) in theirs.into_iter().zip([(1, 4), (0, 3), (1, 3), (1, 3), (2, 3)]) {
        kept.push(Worker::join(stream, rank, size).unwrap());
    }
    let mut ranks = Ranks::new(3);
    let admitted = own.into_iter().map(|stream| ranks.admit(stream, PATIENCE, &NEVER).unwrap());
    assert_eq!(admitted.collect::<Vec<_>>(), [false, false, true, false, true]);
    assert_eq!(ranks.come(), 2);

    let (own, theirs) = pairs(3);
    (&theirs[0]).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(theirs.into_iter().nth(1));
    let short = Duration::from_millis(300);
    for stream in own {
        assert!(!ranks.admit(stream, short, &NEVER).unwrap());
    }
    let (own, theirs) = pairs(1);
    let mut wire = Wire::new(theirs.into_iter().next().unwrap()).unwrap();
    wire.send(&Hello { rank: 1, size: 3, version: "0.0.0".into() }).unwrap();
    let error = ranks.admit(own.into_iter().next().unwrap(), PATIENCE, &NEVER).unwrap_err();
    assert!(error.to_string().starts_with("rank 1 is of aligner 0.0.0, rank 0 of "), "{error}");
}

#[test]
fn a_rank_that_ends_between_two_steps_does_not_hang_the_run() {
    let (own, theirs) = pairs(3);
    let mut threads = Vec::new();
    for (i, stream) in theirs.into_iter().enumerate() {
        threads.push(thread::spawn(move || {
            let mut worker = Worker::join(stream, i + 1, 4).unwrap();
            worker.wait().unwrap();
            if i == 0 {
                // Ready for the first step, and gone before it.
                worker.wire.send(&Answer::Ready).unwrap();
                assert!(matches!(worker.wire.receive().unwrap(), Order::Begin { .. }));
                worker.wire.send(&Answer::Ready).unwrap();
                return;
            }
            worker.work(&Tiny::new(true).engine()).unwrap();
        }));
    }
    let ranks = loaded(own);
    let settings = sft();
    let mut trainer = trainer(&adapter(), examples().into(), &settings);
    trainer.share_with(Arc::new(Mutex::new(ranks))).unwrap();
    let first = threads.remove(0);
    first.join().unwrap();
    let begun = std::time::Instant::now();
    let error = trainer.step().unwrap_err().to_string();
    assert_eq!(error, "rank 1 cannot be worked with: its process has ended");
    drop(trainer);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn where_one_rank_has_too_little_memory_all_begin_again() {
    let (own, theirs) = pairs(2);
    let mut theirs = theirs.into_iter();
    let (short, other) = (theirs.next().unwrap(), theirs.next().unwrap());
    let short = thread::spawn(move || {
        let mut worker = Worker::join(short, 1, 3).unwrap();
        worker.wait().unwrap();
        worker.wire.send(&Answer::Ready).unwrap();
        assert!(matches!(worker.wire.receive().unwrap(), Order::Begin { .. }));
        worker.fail("no room", true).unwrap();
        // As `work` goes on: its first answer is that it is ready.
        worker.work_on(&Tiny::new(true).engine())
    });
    let other = thread::spawn(move || {
        let mut worker = Worker::join(other, 2, 3).unwrap();
        worker.wait().unwrap();
        worker.work(&Tiny::new(true).engine())
    });
    let ranks = loaded(own);
    let ranks = Arc::new(Mutex::new(ranks));
    let settings = sft();
    let alone = run(trainer(&adapter(), examples().into(), &settings));
    let mut shared = trainer(&adapter(), examples().into(), &settings);
    let error = shared.share_with(ranks.clone()).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    shared.share_with(ranks.clone()).unwrap();
    assert!(run(shared).1 == alone.1);
    drop(ranks);
    short.join().unwrap().unwrap();
    other.join().unwrap().unwrap();
}

#[test]
fn whole_weights_are_not_trained_over_ranks() {
    let (ranks, threads) = ranks(2);
    let engine = Tiny::new(true).engine();
    let weights = Arc::into_inner(engine.weights).unwrap();
    let mut full =
        Trainer::full(engine.backend, weights, examples(), sft_tests::settings()).unwrap();
    assert!(matches!(full.share_with(ranks.clone()), Err(TrainError::NoAdapter)));
    drop((full, ranks));
    end(threads);
}
