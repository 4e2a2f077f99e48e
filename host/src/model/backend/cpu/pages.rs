//! Memory for weights and for what passes work in, in large pages where the system has them.
//!
//! A product walks over megabytes of weights, and with pages of 4 KiB the processor spends a good
//! part of its time on looking up where they are: the same kernels ran 1.2 to 1.4 times as fast over
//! weights in pages of 2 MiB. Weights are therefore put one after the other into chunks that ask for
//! such pages. A chunk lives as long as something in it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Size of a chunk; a larger weight has one of its own.
const CHUNK: usize = 32 << 20;
/// Size and alignment of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// What is smaller has memory of its own: it would keep a whole chunk alive.
const SMALL: usize = 256 << 10;
/// Alignment of everything: a line of the cache.
const ALIGN: usize = 64;

/// The chunk that is being filled, and how much of it is taken.
static FILLING: Mutex<Option<(Arc<Chunk>, usize)>> = Mutex::new(None);

/// A plain number, of which all-zero bytes are a value.
///
/// # Safety
///
/// The type has no padding, needs no more alignment than 64 bytes and may be all zeros.
pub(super) unsafe trait Plain: Copy + Send + Sync {}

// SAFETY: as the trait asks.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}

/// An array that does not grow, zero at first.
pub(super) struct Pages<T> {
    first: NonNull<T>,
    len: usize,
    /// Keeps the memory alive.
    _chunk: Arc<Chunk>,
}

// SAFETY: a `Pages` is the only one to reach its part of the chunk, as a `Vec` is.
unsafe impl<T: Plain> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Pages<T> {}

impl<T: Plain> Pages<T> {
    /// Returns `len` zeros.
    pub(super) fn zeros(len: usize) -> Pages<T> {
        assert!(align_of::<T>() <= ALIGN);
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN).max(ALIGN);
        Pages::within(take(bytes), len)
    }

    /// The same in memory of its own, which the system has back as soon as it is dropped.
    pub(super) fn apart(len: usize) -> Pages<T> {
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN).max(ALIGN);
        Pages::within((Arc::new(Chunk::new(bytes)), 0), len)
    }

    fn within((chunk, offset): (Arc<Chunk>, usize), len: usize) -> Pages<T> {
        // SAFETY: `take` gives `bytes` zeroed bytes from `offset` on to nobody else.
        let first = unsafe { chunk.first.add(offset) }.cast();
        Pages { first, len, _chunk: chunk }
    }
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values, zeroed or written, that live as long as the chunk.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has this part of the chunk.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

/// Returns a chunk and where in it so many bytes are free.
fn take(bytes: usize) -> (Arc<Chunk>, usize) {
    if !(SMALL..=CHUNK).contains(&bytes) {
        return (Arc::new(Chunk::new(bytes)), 0);
    }
    let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *filling {
        Some((chunk, taken)) if *taken + bytes <= CHUNK => {
            let offset = *taken;
            *taken += bytes;
            (chunk.clone(), offset)
        }
        _ => {
            let chunk = Arc::new(Chunk::new(CHUNK));
            *filling = Some((chunk.clone(), bytes));
            (chunk, 0)
        }
    }
}

/// Some memory, zero at first.
struct Chunk {
    first: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk is only an address; `Pages` reach disjoint parts of it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(bytes: usize) -> Chunk {
        let align = if bytes < LARGE_PAGE { ALIGN } else { LARGE_PAGE };
        let layout = Layout::from_size_align(bytes, align).expect("memory that can be addressed");
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            return Chunk { first: map(layout), layout };
        }
        // SAFETY: the layout is not empty.
        let first = unsafe { alloc_zeroed(layout) };
        let Some(first) = NonNull::new(first) else { handle_alloc_error(layout) };
        Chunk { first, layout }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: both ends were made by `new`, and nothing in the chunk is alive any more.
        unsafe {
            #[cfg(target_os = "linux")]
            if self.layout.size() >= LARGE_PAGE {
                libc::munmap(self.first.as_ptr().cast(), self.layout.size());
                return;
            }
            dealloc(self.first.as_ptr(), self.layout);
        }
    }
}

/// Maps memory at a multiple of the large page, so that all of it can be in large pages. It is
/// taken from the system as it is first written.
#[cfg(target_os = "linux")]
fn map(layout: Layout) -> NonNull<u8> {
    let (bytes, page) = (layout.size(), layout.align());
    // SAFETY: a fresh mapping, of which the ends beyond the aligned part are given back.
    unsafe {
        let (read_write, private) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let mapped = libc::mmap(std::ptr::null_mut(), bytes + page, read_write, private, -1, 0);
        if mapped == libc::MAP_FAILED {
            handle_alloc_error(layout);
        }
        let mapped = mapped.cast::<u8>();
        let before = mapped.align_offset(page);
        let first = mapped.add(before);
        // The mapping ends on a small page, wherever `bytes` does.
        let small = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096).max(1);
        let end = first.add(bytes.next_multiple_of(small));
        if before > 0 {
            libc::munmap(mapped.cast(), before);
        }
        let after = mapped.add((bytes + page).next_multiple_of(small)).offset_from(end);
        if after > 0 {
            libc::munmap(end.cast(), after as usize);
        }
        // Advice only: where there are no large pages, small ones do.
        libc::madvise(first.cast(), bytes, libc::MADV_HUGEPAGE);
        NonNull::new_unchecked(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_zero_and_apart() {
        // Small ones, ones that share chunks, and ones with a chunk of their own.
        let sizes = [0, 1, 1000, SMALL / 4, 3 << 20, 3 << 20, 3 << 20, 1, CHUNK / 4 + 1, SMALL];
        let mut arrays: Vec<Pages<u32>> = sizes.iter().map(|&len| Pages::zeros(len)).collect();
        for (i, array) in arrays.iter_mut().enumerate() {
            assert!(array.iter().all(|&x| x == 0), "array {i}");
            assert_eq!(array.as_ptr() as usize % ALIGN, 0);
            array.fill(i as u32 + 1);
        }
        // Dropping some leaves the others as they are.
        let mut i = 0;
        arrays.retain(|_| {
            i += 1;
            i % 3 != 0
        });
        for array in &arrays {
            assert!(array.iter().all(|&x| x == array[0]));
        }
    }
}
