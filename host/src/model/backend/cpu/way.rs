//! A way between processors for tests whose ranks are threads, as NCCL is one between GPUs: who sends waits until all is
//! received, and who waits for a rank that never comes waits for ever.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Buffer, Cpu};
use crate::model::backend::linking::unlinked;
use crate::model::backend::{BackendError, Linking};

/// What this thread's rank is to do with the way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Whether there is a way.
    pub(crate) exists: bool,
    /// Whether this rank's part of it is broken.
    pub(crate) is_broken: bool,
    /// The number of this rank's transfer, from 0, that fails.
    pub(crate) fails_at: Option<usize>,
}

/// All that ranks of one link have in common.
#[derive(Default)]
struct Way {
    come: usize,
    /// What lies ready, by who sends and who receives.
    sent: HashMap<(usize, usize), Vec<Vec<f32>>>,
}

struct Own {
    way: Arc<Mutex<Way>>,
    rank: usize,
    transfers: usize,
}

thread_local! {
    static PLAN: RefCell<Plan> = const { RefCell::new(Plan { exists: false, is_broken: false, fails_at: None }) };
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

static WAYS: Mutex<Vec<Arc<Mutex<Way>>>> = Mutex::new(Vec::new());

/// Says what this thread's rank is to do.
pub(crate) fn plan(plan: Plan) {
    PLAN.set(plan);
}

/// Returns how many transfers this thread's rank has made over the link that it has.
pub(crate) fn transfers() -> usize {
    OWN.with_borrow(|own| own.as_ref().map_or(0, |own| own.transfers))
}

fn failed(message: &str) -> BackendError {
    BackendError::Device { device: "cpu".to_owned(), message: message.to_owned() }
}

/// Waits until something is there.
fn wait<T>(
    still: &mut dyn FnMut() -> bool,
    mut there: impl FnMut() -> Option<T>,
) -> Result<T, BackendError> {
    loop {
        if let Some(it) = there() {
            return Ok(it);
        }
        if !still() {
            return Err(failed("another rank is not waited for any more"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a transfer, unless it is the one that fails.
fn transfer(
    act: impl FnOnce(&Mutex<Way>, usize) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    let own = OWN.with_borrow_mut(|own| {
        let own = own.as_mut()?;
        own.transfers += 1;
        Some((own.way.clone(), own.rank, own.transfers - 1))
    });
    let (way, rank, number) = own.ok_or_else(unlinked)?;
    let done = match PLAN.with_borrow(|plan| plan.fails_at == Some(number)) {
        true => Err(failed("the way fails")),
        false => act(&way, rank),
    };
    if done.is_err() {
        OWN.set(None);
    }
    done
}

impl Linking for Cpu {
    fn link_key(&self) -> Result<Option<Vec<u8>>, BackendError> {
        if !PLAN.with_borrow(|plan| plan.exists) {
            return Ok(None);
        }
        let mut ways = WAYS.lock().unwrap();
        ways.push(Arc::default());
        Ok(Some((ways.len() as u64 - 1).to_le_bytes().to_vec()))
    }

    fn link(
        &self,
        key: &[u8],
        rank: usize,
        size: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        if PLAN.with_borrow(|plan| plan.is_broken) {
            return Err(failed("there is no way from here"));
        }
        let number = u64::from_le_bytes(key.try_into().unwrap());
        let way = WAYS.lock().unwrap()[number as usize].clone();
        way.lock().unwrap().come += 1;
        wait(still, || (way.lock().unwrap().come == size).then_some(()))?;
        OWN.set(Some(Own { way, rank, transfers: 0 }));
        Ok(())
    }

    fn unlink(&self) {
        OWN.set(None);
    }

    fn send(
        &self,
        buffers: &[&Buffer],
        to: Range<usize>,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        transfer(|way, rank| {
            let sent: Vec<Vec<f32>> = buffers.iter().map(|buffer| buffer.to_vec()).collect();
            for to in to.clone() {
                way.lock().unwrap().sent.insert((rank, to), sent.clone());
            }
            let left = || to.clone().any(|to| way.lock().unwrap().sent.contains_key(&(rank, to)));
            wait(still, || (!left()).then_some(()))
        })
    }

    fn receive(
        &self,
        buffers: &mut [&mut Buffer],
        from: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        transfer(|way, rank| {
            let sent = wait(still, || way.lock().unwrap().sent.remove(&(from, rank)))?;
            assert_eq!(sent.len(), buffers.len());
            for (buffer, sent) in buffers.iter_mut().zip(sent) {
                buffer.copy_from_slice(&sent);
            }
            Ok(())
        })
    }
}
