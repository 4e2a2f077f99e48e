//! Arbitrary bytes as data: each target hands them to one of the readers of `tests/bad_input`, and counts what
//! memory that takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[path = "../../bad_input/inputs.rs"]
mod inputs;

/// What reading may take beside twice the input, in bytes.
const ROOM: usize = 64_000_000;

/// The system's allocator, which counts.
struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTED: Counted = Counted;

fn add(bytes: usize) {
    MOST.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all is left to the system's allocator; beside it numbers are added up.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a while.
        add(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Reads bytes as the input of this name, within the memory that it may take.
pub fn read(name: &str, bytes: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        // Templates render in a process of their own, as they do in runs.
        let program = std::env::var_os("ALIGNER").expect("`make fuzz` names the program");
        aligner::model::template::isolate(program.into());
        std::env::temp_dir().join("aligner-fuzz")
    });
    let input = inputs::INPUTS.iter().find(|input| input.name == name).expect("there is one");
    let folder = FOLDER.join(name);
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    (input.read)(&folder, bytes);
    let taken = MOST.load(Relaxed).saturating_sub(before);
    assert!(
        taken <= 2 * bytes.len() + ROOM,
        "{taken} bytes of memory for {} of input",
        bytes.len()
    );
}
