//! Passes of which many are alike, such as those that decode: noted first, and replayed as a graph.
//!
//! From token to token such a pass asks for the same launches with the same arguments; what changes lies in memory. So of
//! one that is asked for a second time a graph is made, while the device is at work on it, and from then on one call of the
//! driver stands for all of it. Whether a pass is a graph's is seen from what it asks for itself, so nothing has to say when
//! a graph is out of date: as long as it asks for what a graph begins with, nothing is asked of the driver and nothing
//! written down. Where it first asks for something else, all before is asked for, and the rest as it comes.
//!
//! Addresses must be the same for that: what a pass brings to the device, and what it works in, lies in memory that is kept
//! from pass to pass. Whatever is not noted (copies to where something may lie, waiting) first asks for all that was, so the
//! order of the stream is kept; and nothing is freed before what was noted is asked for.
//!
//! Notes are of one thread, and one thread at a time has them. The others, and passes that are not alike, ask for their
//! launches as they come.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::Cuda;
use super::argument::Argument;
use super::card::describe;
use super::driver::{Device, Memory};
use super::product::{Product, Products, Rounded};
use crate::model::backend::BackendError;

/// Graphs that are kept, the last used first.
const GRAPHS: usize = 8;
/// Passes that are kept to see whether they come again, the last first.
const SEEN: usize = 4;

/// What begins in memory for what is brought begins at a multiple of this.
const PLACE: usize = 4096;

/// A kernel that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launch<'a> {
    pub(super) name: &'static str,
    pub(super) grid: [u32; 3],
    pub(super) block: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
    pub(super) arguments: Cow<'a, [Argument]>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked<'a> {
    Launch(Launch<'a>),
    Product(Product),
}

impl Asked<'_> {
    /// Returns the same with arguments of its own.
    fn kept(&self) -> Asked<'static> {
        match self {
            Asked::Launch(launch) => {
                let Launch { name, grid, block, shared, arguments } = launch;
                let arguments = Cow::Owned(arguments.to_vec());
                let (grid, block, shared) = (*grid, *block, *shared);
                Asked::Launch(Launch { name, grid, block, shared, arguments })
            }
            Asked::Product(product) => Asked::Product(*product),
        }
    }
}

/// What is kept from pass to pass.
#[derive(Default)]
pub(super) struct Passes {
    /// What the last passes asked for that were no graph's.
    seen: Vec<Vec<Asked<'static>>>,
    graphs: Vec<Graph>,
    /// Whether the driver makes no graphs.
    refused: bool,
    /// Where what a pass brings lies.
    brought: Option<Memory>,
    /// What kernels of a pass work in, one after the other.
    scratch: Option<Memory>,
    pub(super) rounded: Rounded,
}

/// A pass as the driver has it.
struct Graph {
    asked: Vec<Asked<'static>>,
    executable: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.enter();
        // SAFETY: it is launched no more; one that still runs is freed after it.
        let _ = unsafe { result::graph::exec_destroy(self.executable) };
    }
}

/// The pass that this thread notes.
struct Notes {
    device: Arc<Device>,
    products: Arc<Products>,
    passes: Passes,
    /// A bit for each graph that begins with what was asked for so far; none once the pass is no graph's.
    alike: u32,
    /// How much was asked for, and waits, as long as the pass may be a graph's.
    waiting: usize,
    /// What was asked for, once it is no graph's.
    asked: Vec<Asked<'static>>,
    /// Whether something that is not noted came in between.
    broken: bool,
    /// Bytes of `passes.brought` that are taken, and that would be if there were more.
    taken: usize,
    wanted: usize,
    /// Freed once what was noted is asked for.
    freed: Vec<u64>,
}

impl Notes {
    /// Returns whether a graph begins with what was asked for so far.
    fn may_be(&self, graph: usize) -> bool {
        (self.alike >> graph) & 1 == 1
    }

    /// Notes what is asked for; returns whether it waits for the end of the pass.
    fn note(&mut self, asked: &Asked<'_>) -> bool {
        if self.alike != 0 {
            let goes_on = |graph: &Graph| graph.asked.get(self.waiting) == Some(asked);
            let alike = (0..self.passes.graphs.len())
                .filter(|&at| self.may_be(at) && goes_on(&self.passes.graphs[at]))
                .fold(0, |alike, at| alike | (1 << at));
            if alike != 0 {
                (self.alike, self.waiting) = (alike, self.waiting + 1);
                return true;
            }
            self.catch_up();
        }
        if !self.broken && !self.passes.refused {
            self.asked.push(asked.kept());
        }
        false
    }

    /// Asks for what waits; the rest of the pass does not.
    fn catch_up(&mut self) {
        if self.alike != 0 {
            let graph = &self.passes.graphs[self.alike.trailing_zeros() as usize];
            let waiting = &graph.asked[..self.waiting];
            ask_each(&self.device, &self.products, waiting);
            self.asked = waiting.to_vec();
            (self.alike, self.waiting) = (0, 0);
        }
    }

    /// Returns which graph the pass is, where it is one.
    fn graph(&self) -> Option<usize> {
        let whole = |graph: &Graph| graph.asked.len() == self.waiting;
        let graphs = &self.passes.graphs;
        (0..graphs.len()).find(|&at| self.may_be(at) && whole(&graphs[at]))
    }
}

thread_local! {
    static NOTES: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// Does something with this thread's notes, where it has some of this device.
fn noted<R>(device: &Device, act: impl FnOnce(&mut Notes) -> R) -> Option<R> {
    NOTES.with_borrow_mut(|notes| {
        let notes = notes.as_mut().filter(|notes| std::ptr::eq(&*notes.device, device));
        notes.map(act)
    })
}

/// Notes what is asked for; returns it where it is to be asked for at once.
pub(super) fn defer<'a>(device: &Device, asked: Asked<'a>) -> Option<Asked<'a>> {
    let waits = noted(device, |notes| notes.note(&asked)).unwrap_or(false);
    (!waits).then_some(asked)
}

/// Notes what is to be freed; false where it is to be freed at once, as nothing that waits may be at work in it.
pub(super) fn defer_free(device: &Device, address: u64) -> bool {
    let defer = |notes: &mut Notes| {
        let waits = notes.waiting > 0;
        notes.freed.extend(waits.then_some(address));
        waits
    };
    noted(device, defer).unwrap_or(false)
}

/// Asks for what was noted so far, before something that is not.
pub(super) fn flush(device: &Device) {
    noted(device, |notes| {
        if notes.waiting > 0 {
            notes.catch_up();
        }
        notes.broken |= !notes.asked.is_empty();
    });
}

/// Takes what the pass that is noted has rounded last.
pub(super) fn take_rounded(device: &Device) -> Option<Rounded> {
    noted(device, |notes| std::mem::take(&mut notes.passes.rounded))
}

/// Gives it back.
pub(super) fn keep_rounded(device: &Device, rounded: Rounded) {
    noted(device, |notes| notes.passes.rounded = rounded);
}

/// Asks the driver or the library.
fn ask(
    device: &Device,
    products: &Products,
    asked: &Asked<'_>,
    stream: sys::CUstream,
) -> Result<(), String> {
    match asked {
        Asked::Launch(launch) => device.issue(launch, stream),
        Asked::Product(product) => products.issue(product, stream),
    }
}

/// Asks for one after the other; a failure is remembered.
fn ask_each(device: &Device, products: &Products, asked: &[Asked<'_>]) {
    for asked in asked {
        device.hear(ask(device, products, asked, device.stream()));
    }
}

impl Cuda {
    /// Does `work`, which asks for a pass that may be like others.
    pub(super) fn noting<R>(&self, work: impl FnOnce() -> R) -> R {
        let passes = self.passes.lock().expect("nothing panics while it is held").take();
        let Some(mut passes) = passes else { return work() };
        passes.rounded.forget();
        NOTES.set(Some(Notes {
            device: self.device.clone(),
            products: self.products.clone(),
            alike: (1 << passes.graphs.len()) - 1,
            passes,
            waiting: 0,
            asked: Vec::new(),
            broken: false,
            taken: 0,
            wanted: 0,
            freed: Vec::new(),
        }));
        let ended = Ended(self);
        let result = work();
        drop(ended);
        result
    }

    fn end(&self, mut notes: Notes) {
        match notes.graph() {
            Some(at) => self.replay(&mut notes.passes, at),
            None => notes.catch_up(),
        }
        let Notes { device, mut passes, asked, broken, wanted, freed, .. } = notes;
        for address in freed {
            device.free(address);
        }
        if !broken && !passes.refused && !asked.is_empty() {
            self.keep(&mut passes, asked);
        }
        // The next pass that brings as much finds room for all of it.
        if passes.brought.as_ref().map_or(0, Memory::bytes) < wanted {
            passes.brought = None;
            let memory = Memory::new(&device, wanted.next_power_of_two());
            // Without it, each pass has its own.
            passes.brought = memory.ok();
        }
        *self.passes.lock().expect("nothing panics while it is held") = Some(passes);
    }

    /// Asks for a whole pass by its graph.
    fn replay(&self, passes: &mut Passes, at: usize) {
        let graph = passes.graphs.remove(at);
        self.device.enter();
        // SAFETY: the graph is whole, and what it works on is what was just asked for.
        let said = unsafe { result::graph::launch(graph.executable, self.device.stream()) };
        self.device.note(said);
        #[cfg(test)]
        self.graphs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        passes.graphs.insert(0, graph);
    }

    /// Keeps what a pass asked for; makes a graph of it where it was asked for before.
    fn keep(&self, passes: &mut Passes, asked: Vec<Asked<'static>>) {
        let Some(before) = passes.seen.iter().position(|seen| *seen == asked) else {
            passes.seen.truncate(SEEN - 1);
            return passes.seen.insert(0, asked);
        };
        passes.seen.remove(before);
        match self.graph(&asked) {
            Ok(executable) => {
                let device = self.device.clone();
                passes.graphs.truncate(GRAPHS - 1);
                passes.graphs.insert(0, Graph { asked, executable, device });
            }
            Err(error) => {
                tracing::warn!("decodes without graphs, as the driver makes none: {error}");
                passes.refused = true;
            }
        }
    }

    /// Makes a graph of what was asked for, which asks for none of it. It was asked for before: so nothing is allocated,
    /// copied or looked up now, such as cuBLASLt's algorithm for a product, which a stream that is captured may not take.
    fn graph(&self, asked: &[Asked<'_>]) -> Result<sys::CUgraphExec, String> {
        self.device.enter();
        // On a stream of its own, as everything on it becomes the graph's, another thread's launches too.
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(describe)?;
        let made = self.captured(asked, stream);
        // SAFETY: the stream is alive, and nothing runs on it.
        let _ = unsafe { result::stream::destroy(stream) };
        let graph = made?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        let executable = unsafe { result::graph::instantiate(graph, flags) };
        // SAFETY: what is executed is a copy.
        let _ = unsafe { result::graph::destroy(graph) };
        executable.map_err(describe)
    }

    fn captured(&self, asked: &[Asked<'_>], stream: sys::CUstream) -> Result<sys::CUgraph, String> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and new.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(describe)?;
        let mut each = asked.iter();
        let said = each.try_for_each(|it| ask(&self.device, &self.products, it, stream));
        // SAFETY: the capture began above.
        let graph = unsafe { result::stream::end_capture(stream) }.map_err(describe)?;
        if said.is_err() {
            // SAFETY: the graph was just made.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        said.map(|()| graph)
    }

    /// Gives back what is kept of passes, unless a thread notes one.
    pub(super) fn forget(&self) {
        let mut passes = self.passes.lock().expect("nothing panics while it is held");
        if let Some(passes) = &mut *passes {
            let refused = passes.refused;
            *passes = Passes { refused, ..Passes::default() };
        }
    }
}

/// Ends a thread's notes, also where the pass panics.
struct Ended<'a>(&'a Cuda);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(notes) = NOTES.take() {
            self.0.end(notes);
        }
    }
}

/// Brings values to the device: in a pass that is noted to a place that the next one has too.
pub(super) fn bring<T: Copy>(device: &Arc<Device>, values: &[T]) -> Result<Memory, BackendError> {
    let bytes = size_of_val(values);
    let place = noted(device, |notes| {
        // Where a little more is brought the next time, what follows lies where it lay.
        let room = bytes.next_power_of_two().next_multiple_of(PLACE);
        notes.wanted += room;
        let brought = notes.passes.brought.as_ref()?;
        let at = notes.taken;
        notes.taken += room;
        (notes.taken <= brought.bytes()).then(|| brought.part(at, bytes))
    });
    let memory = place.flatten().map_or_else(|| Memory::new(device, bytes), Ok)?;
    memory.bring(values, 0);
    Ok(memory)
}

/// Returns memory to work in until the next is asked for, as long as a pass is noted; its own where none is.
pub(super) fn scratch(device: &Arc<Device>, bytes: usize) -> Result<Memory, BackendError> {
    let kept = noted(device, |notes| {
        let scratch = notes.passes.scratch.as_ref().filter(|scratch| scratch.bytes() >= bytes);
        scratch.map(|scratch| scratch.part(0, bytes))
    });
    match kept {
        Some(Some(memory)) => Ok(memory),
        None => Memory::new(device, bytes),
        Some(None) => {
            let memory = Memory::new(device, bytes)?;
            let part = memory.part(0, bytes);
            // What is noted may still work in the one before, which is freed after it.
            let before = noted(device, |notes| notes.passes.scratch.replace(memory));
            drop(before);
            Ok(part)
        }
    }
}
