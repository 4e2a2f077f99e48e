//! Work for several threads: as many as rayon's current pool has.
//!
//! A pass over a few rows is hundreds of products of some microseconds each. Waking a thread that
//! sleeps takes longer than that, so the helpers here stay awake for a moment after each piece of
//! work. Tasks are taken in ascending order, so whoever is slower does less: one by one, or many at
//! first and few at last, so that all end at about the same time.
//!
//! One caller at a time has the helpers. Others, such as tests that run side by side, and tasks that
//! have work for several threads themselves, do without.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rayon::prelude::*;

use super::simd::Shared;

/// Multiplications below which a task is not worth handing to another thread.
pub(super) const GRAIN: usize = 100_000;

/// How often a helper looks for new work before it sleeps: for some tenths of a millisecond.
const LOOKS: u32 = 4_000;
/// How often somebody looks for the end of the others' tasks before the processor goes to others.
const PATIENCE: u32 = 10_000;

/// Runs `task` for each tile of `work` numbers, several in a go.
pub(super) fn over_tiles(tiles: usize, work: usize, task: impl Fn(usize) + Sync) {
    over_ranges(tiles, GRAIN.div_ceil(work.max(1)), |range| range.for_each(&task));
}

/// Runs `task` for each part of `len` numbers, of which the last may be shorter.
pub(crate) fn over_parts<T: Send>(
    numbers: &mut [T],
    len: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let all = numbers.len();
    let numbers = Shared::new(numbers);
    parallel(all.div_ceil(len), |part| {
        // SAFETY: parts are disjoint and within `numbers`.
        task(part, unsafe { numbers.part(part * len..all.min((part + 1) * len)) });
    });
}

/// Runs tasks `0..count` one by one, on other threads too where there is more than one.
pub(super) fn parallel(count: usize, task: impl Fn(usize) + Sync) {
    run(count, Cut { least: 1, part: usize::MAX }, &|range| range.for_each(&task));
}

/// Runs `task` for ranges that make up `0..count`, on other threads too where that is more than
/// `least`. The first ranges are long, the last ones short, though not below `least`.
pub(super) fn over_ranges(count: usize, least: usize, task: impl Fn(Range<usize>) + Sync) {
    run(count, Cut { least, part: 2 * rayon::current_num_threads() }, &task);
}

fn run(count: usize, cut: Cut, task: &(dyn Fn(Range<usize>) + Sync)) {
    let threads = rayon::current_num_threads().min(count.div_ceil(cut.least));
    if count == 0 {
        // Nothing to do.
    } else if threads <= 1 || AT_WORK.get() {
        task(0..count);
    } else if let Ok(mut team) = TEAM.try_lock() {
        let panic = team.run(threads - 1, count, cut, task);
        drop(team);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    } else {
        let ranges = std::iter::successors(Some(cut.take(0, count)), |range| {
            (range.end < count).then(|| cut.take(range.end, count))
        });
        ranges.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(task);
    }
}

/// How many tasks are taken at a time.
#[derive(Clone, Copy)]
struct Cut {
    least: usize,
    /// The part of those left that is taken: one in so many.
    part: usize,
}

impl Cut {
    /// Returns the tasks that are taken when `next..count` are left.
    fn take(self, next: usize, count: usize) -> Range<usize> {
        let left = count - next;
        next..next + (left / self.part).max(self.least).min(left)
    }
}

thread_local! {
    /// Whether this thread is doing somebody's tasks.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

static TEAM: Mutex<Team> = Mutex::new(Team { helpers: 0, number: 0 });
static BOARD: Board = Board {
    state: AtomicU64::new(0),
    work: AtomicPtr::new(ptr::null_mut()),
    asleep: AtomicUsize::new(0),
    bed: Mutex::new(()),
    bell: Condvar::new(),
};

/// What a task panicked with.
type Panic = Box<dyn Any + Send>;

/// The helpers. They never end.
struct Team {
    helpers: usize,
    /// Of the last piece of work.
    number: u32,
}

/// Where helpers find work.
struct Board {
    /// See [`State`].
    state: AtomicU64,
    /// The work; on the stack of its owner, who does not leave while it is open or helpers are at it.
    work: AtomicPtr<Work<'static>>,
    /// Helpers that sleep, or are about to.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

/// What the board says: the number of the work in the high half, below it how many helpers may still
/// join and how many are at it, 16 bits each. Work is open while somebody may join.
#[derive(Clone, Copy)]
struct State(u64);

impl State {
    const MAY_JOIN: u64 = 1 << 16;
    const AT_IT: u64 = 1;

    fn open(number: u32, helpers: usize) -> State {
        State((u64::from(number) << 32) | (helpers.min(0xffff) as u64 * State::MAY_JOIN))
    }

    fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn is_open(self) -> bool {
        self.0 & (0xffff * State::MAY_JOIN) != 0
    }

    fn helpers(self) -> u64 {
        self.0 & 0xffff
    }
}

/// Some tasks.
struct Work<'a> {
    task: &'a (dyn Fn(Range<usize>) + Sync),
    count: usize,
    cut: Cut,
    /// The next task to take.
    next: AtomicUsize,
    /// What a task panicked with on a helper's thread.
    panic: Mutex<Option<Panic>>,
}

impl Work<'_> {
    /// Does tasks until none is left.
    fn take_part(&self) {
        AT_WORK.set(true);
        while let Some(range) = self.take() {
            (self.task)(range);
        }
        AT_WORK.set(false);
    }

    /// Takes the next tasks.
    fn take(&self) -> Option<Range<usize>> {
        let mut next = self.next.load(Ordering::Relaxed);
        while next < self.count {
            let range = self.cut.take(next, self.count);
            match self.next.compare_exchange_weak(
                next,
                range.end,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(range),
                Err(now) => next = now,
            }
        }
        None
    }

    /// The same; what a task panics with is kept, and no further task begins.
    fn take_part_and_survive(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_part())) {
            AT_WORK.set(false);
            self.next.store(self.count, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }
}

impl Team {
    /// Runs tasks `0..count` on this thread and up to `helpers` others, and returns what one of them
    /// panicked with.
    fn run(
        &mut self,
        helpers: usize,
        count: usize,
        cut: Cut,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) -> Option<Panic> {
        self.hire(helpers);
        let work = Work { task, count, cut, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        self.number = self.number.wrapping_add(1);
        BOARD.work.store(ptr::from_ref(&work).cast_mut().cast(), Ordering::Relaxed);
        BOARD.state.store(State::open(self.number, helpers).0, Ordering::SeqCst);
        if BOARD.asleep.load(Ordering::SeqCst) > 0 {
            drop(BOARD.bed.lock());
            BOARD.bell.notify_all();
        }
        work.take_part_and_survive();
        // Nobody joins any more. Helpers that did are waited for, as `work` is theirs too.
        let closed = !(0xffff * State::MAY_JOIN);
        let mut state = State(BOARD.state.fetch_and(closed, Ordering::AcqRel));
        let mut looks = 0;
        while state.helpers() > 0 {
            pause(&mut looks);
            state = State(BOARD.state.load(Ordering::Acquire));
        }
        work.panic.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts helpers up to a number. Where the system has no more threads, there are fewer.
    fn hire(&mut self, helpers: usize) {
        while self.helpers < helpers {
            let thread = std::thread::Builder::new().name(format!("kernels-{}", self.helpers + 1));
            if thread.spawn(help).is_err() {
                return;
            }
            self.helpers += 1;
        }
    }
}

fn pause(looks: &mut u32) {
    *looks += 1;
    match *looks < PATIENCE {
        true => std::hint::spin_loop(),
        false => std::thread::yield_now(),
    }
}

/// What a helper does for all its life.
fn help() {
    let mut done = 0;
    loop {
        let state = next_work(done);
        done = state.number();
        let joined = State(state.0 - State::MAY_JOIN + State::AT_IT);
        let exchange =
            BOARD.state.compare_exchange(state.0, joined.0, Ordering::AcqRel, Ordering::Relaxed);
        if exchange.is_err() {
            // Another helper joined, or the work is over; in the first case there may be room left.
            done = done.wrapping_sub(1);
            continue;
        }
        // SAFETY: the owner of the work waits until all who joined have left.
        let work = unsafe { &*BOARD.work.load(Ordering::Relaxed) };
        work.take_part_and_survive();
        BOARD.state.fetch_sub(State::AT_IT, Ordering::Release);
    }
}

/// Waits for open work other than number `done`.
fn next_work(done: u32) -> State {
    let look = || {
        let state = State(BOARD.state.load(Ordering::SeqCst));
        (state.is_open() && state.number() != done).then_some(state)
    };
    loop {
        for _ in 0..LOOKS {
            if let Some(state) = look() {
                return state;
            }
            std::hint::spin_loop();
        }
        // Whoever opens work after this look sees that somebody sleeps.
        let mut bed = BOARD.bed.lock().unwrap_or_else(PoisonError::into_inner);
        BOARD.asleep.fetch_add(1, Ordering::SeqCst);
        while look().is_none() {
            bed = BOARD.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        BOARD.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
    }

    #[test]
    fn every_task_is_done_once() {
        for threads in [1, 2, 5] {
            on(threads, || {
                for round in 0..2000 {
                    let count = round % 23;
                    let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    parallel(count, |i| {
                        done[i].fetch_add(1, Ordering::Relaxed);
                        // Work within work stays on its thread.
                        parallel(3, |_| ());
                    });
                    assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
                }
            });
        }
    }

    #[test]
    fn callers_side_by_side_all_get_their_work_done() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    on(3, || {
                        for _ in 0..500 {
                            let sum = AtomicUsize::new(0);
                            parallel(10, |i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                            assert_eq!(sum.into_inner(), 45);
                        }
                    });
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_helpers_go_on() {
        for bad in [0, 7, 40] {
            let run = || on(3, || parallel(41, |i| assert!(i != bad, "task {i}")));
            let panic = catch_unwind(run).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert_eq!(*message, format!("task {bad}"));
        }
        let sum = AtomicUsize::new(0);
        on(3, || {
            parallel(100, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}
