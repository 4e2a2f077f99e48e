//! Products of bf16 in the tile registers of AMX: blocks of up to 32 rows by two panels, 32 terms at
//! a time.
//!
//! A panel of a weight in bf16 lies in memory as a tile register wants it; the rows of the other
//! operand are bf16 too, row-major. A sum is kept in one register from its first term to its last.
//!
//! The instructions have no stable intrinsics yet, so a block is one piece of assembly. Linux gives
//! the registers to processes that ask for them.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::LazyLock;

use super::tile::{PANEL, Sums};
use super::trial;

pub(super) mod attention;

/// Rows of a block, at most: those of two tile registers.
pub(super) const ROWS: usize = 2 * TILE;
/// Terms of a step.
pub(super) const TERMS: usize = 32;
/// Rows of a tile register, at most.
const TILE: usize = 16;
/// Bytes in a row of a tile register, and from one pair of terms to the next in a panel.
const LINE: usize = 64;

/// Says whether this process can use the tile registers, and they compute what they should.
pub(super) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let of_attention = || [1, 9, attention::VECTORS].into_iter().all(attention::computes);
        is_announced()
            && is_permitted()
            && [5, 16, 20, 32].into_iter().all(computes)
            && of_attention()
    });
    *AVAILABLE
}

/// Asks the processor for AMX-TILE and AMX-BF16.
fn is_announced() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILE_AND_BF16: u32 = (1 << 24) | (1 << 22);
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILE_AND_BF16 == TILE_AND_BF16
}

/// Asks the system for the registers, whose contents it has to save when threads change places.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call changes nothing but what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// How the tile registers are cut; the layout is the processor's.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

/// This thread's tile registers, once they are cut for so many rows of the left operand. They are given
/// back at the end, as they would slow down every change of threads.
#[derive(Default)]
struct Registers {
    /// 0 before they are cut.
    rows: usize,
    /// The registers belong to one thread.
    thread: PhantomData<*const ()>,
}

impl Registers {
    /// Cuts the eight registers for `rows`, each with `shapes`' lines and bytes in a line.
    ///
    /// # Safety
    ///
    /// The machine has the instructions ([`is_available`]), no other `Registers` of the thread are cut,
    /// and no register has more than 16 lines of 64 bytes. `rows` is not 0 and says what the shapes are.
    #[inline]
    unsafe fn cut(&mut self, rows: usize, shapes: impl FnOnce() -> [(u8, u16); 8]) {
        if self.rows == rows {
            return;
        }
        self.rows = rows;
        let (mut lines, mut line_bytes) = ([0; 16], [0; 16]);
        for (i, shape) in shapes().into_iter().enumerate() {
            (lines[i], line_bytes[i]) = shape;
        }
        let configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines };
        // SAFETY: the configuration is valid: palette 1 has 8 registers of 16 lines of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly));
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        if self.rows > 0 {
            // SAFETY: they were cut, so the machine has the instruction.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// The registers cut for blocks.
#[derive(Default)]
pub(super) struct Tiles(Registers);

impl Tiles {
    /// Cuts the registers for blocks of `rows` rows, from 1 to [`ROWS`].
    ///
    /// # Safety
    ///
    /// The machine has the instructions ([`is_available`]), and no others of the thread are cut.
    #[inline]
    pub(super) unsafe fn cut(&mut self, rows: usize) {
        assert!((1..=ROWS).contains(&rows), "{rows} rows in a block");
        let shapes = || {
            let (first, second) = (rows.min(TILE) as u8, rows.saturating_sub(TILE).max(1) as u8);
            // Sums of both tiles of rows by both panels, the two tiles of rows, the two panels.
            [first, first, second, second, first, second, 16, 16].map(|lines| (lines, LINE as u16))
        };
        // SAFETY: as the caller promises; no register is too large.
        unsafe { self.0.cut(rows, shapes) };
    }

    /// Sums `steps` times 32 terms of the rows by two panels.
    ///
    /// # Safety
    ///
    /// The registers are cut. `left` has the rows, `stride` numbers apart, and each panel `16 * steps` lines. `sums` is the
    /// place of both panels' columns and has room for the rows.
    #[inline]
    pub(super) unsafe fn block(
        &self,
        left: *const u16,
        stride: usize,
        panels: [*const u32; 2],
        steps: usize,
        sums: Sums,
    ) {
        debug_assert!(steps > 0);
        if sums.columns == 2 * PANEL {
            // SAFETY: as the caller promises.
            return unsafe { self.whole_block(left, stride, panels, steps, sums) };
        }
        // Through a buffer with all columns, so that terms are added to the same numbers.
        let mut buffer = Buffer([0.0; ROWS * 2 * PANEL]);
        let rows = buffer.0.chunks_exact_mut(2 * PANEL).take(self.0.rows);
        // SAFETY: as the caller promises; the buffer has room for two panels of all rows.
        unsafe {
            if sums.add {
                for (row, buffer) in rows.enumerate() {
                    let y = sums.y.add(row * sums.stride);
                    buffer.as_mut_ptr().copy_from_nonoverlapping(y, sums.columns);
                }
            }
            let from = buffer.0.as_mut_ptr();
            let whole = Sums { y: from, stride: 2 * PANEL, columns: 2 * PANEL, ..sums };
            self.whole_block(left, stride, panels, steps, whole);
            for row in 0..self.0.rows {
                let y = sums.y.add(row * sums.stride);
                y.copy_from_nonoverlapping(from.add(row * 2 * PANEL), sums.columns);
            }
        }
    }

    /// # Safety
    ///
    /// As for [`block`](Tiles::block), and all columns of both panels are written.
    #[inline]
    unsafe fn whole_block(
        &self,
        left: *const u16,
        stride: usize,
        panels: [*const u32; 2],
        steps: usize,
        sums: Sums,
    ) {
        let [near, far] = panels;
        let second = left.wrapping_add(TILE * stride);
        let y_second = sums.y.wrapping_add(TILE * sums.stride);
        // SAFETY: as the caller promises; the compiler uses no tile registers of its own.
        unsafe {
            if self.0.rows <= TILE {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "test {add:e}, {add:e}",
                    "jz 2f",
                    "tileloadd tmm0, [{y} + {y_stride}]",
                    "tileloadd tmm1, [{y} + {y_stride} + 64]",
                    "2:",
                    "tileloadd tmm4, [{left} + {stride}]",
                    "tileloadd tmm6, [{near} + {line}]",
                    "tileloadd tmm7, [{far} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {left}, 64",
                    "add {near}, 1024",
                    "add {far}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{y} + {y_stride}], tmm0",
                    "tilestored [{y} + {y_stride} + 64], tmm1",
                    left = inout(reg) left => _,
                    near = inout(reg) near => _,
                    far = inout(reg) far => _,
                    steps = inout(reg) steps => _,
                    stride = in(reg) 2 * stride,
                    line = in(reg) LINE,
                    y = in(reg) sums.y,
                    y_stride = in(reg) 4 * sums.stride,
                    add = in(reg) u32::from(sums.add),
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "test {add:e}, {add:e}",
                    "jz 2f",
                    "tileloadd tmm0, [{y} + {y_stride}]",
                    "tileloadd tmm1, [{y} + {y_stride} + 64]",
                    "tileloadd tmm2, [{y_second} + {y_stride}]",
                    "tileloadd tmm3, [{y_second} + {y_stride} + 64]",
                    "2:",
                    "tileloadd tmm4, [{left} + {stride}]",
                    "tileloadd tmm6, [{near} + {line}]",
                    "tileloadd tmm7, [{far} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{second} + {stride}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {left}, 64",
                    "add {second}, 64",
                    "add {near}, 1024",
                    "add {far}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{y} + {y_stride}], tmm0",
                    "tilestored [{y} + {y_stride} + 64], tmm1",
                    "tilestored [{y_second} + {y_stride}], tmm2",
                    "tilestored [{y_second} + {y_stride} + 64], tmm3",
                    left = inout(reg) left => _,
                    second = inout(reg) second => _,
                    near = inout(reg) near => _,
                    far = inout(reg) far => _,
                    steps = inout(reg) steps => _,
                    stride = in(reg) 2 * stride,
                    line = in(reg) LINE,
                    y = in(reg) sums.y,
                    y_second = in(reg) y_second,
                    y_stride = in(reg) 4 * sums.stride,
                    add = in(reg) u32::from(sums.add),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

/// Sums of a block that is cut off.
#[repr(align(64))]
struct Buffer([f32; ROWS * 2 * PANEL]);

/// Returns a panel of so many terms of the trial's right operand, from this column on.
fn trial_panel(first: usize, terms: usize) -> Vec<u32> {
    let word =
        |term, column| trial::word(trial::right(term, column), trial::right(term + 1, column));
    (0..terms / 2 * PANEL).map(|i| word(i / PANEL * 2, first + i % PANEL)).collect()
}

/// Computes a small product of so many rows.
fn computes(rows: usize) -> bool {
    let pair = |row, term| match term < trial::DEPTH {
        true => trial::word(trial::left(row, term), trial::left(row, term + 1)),
        false => 0,
    };
    let x: Vec<u32> =
        (0..rows * TERMS / 2).map(|i| pair(i / (TERMS / 2), i % (TERMS / 2) * 2)).collect();
    let (near, far) = (trial_panel(0, TERMS), trial_panel(PANEL, TERMS));
    trial::is_right(rows, |sums| {
        // SAFETY: the arrays are as long as the block asks for, and the registers may be used.
        unsafe {
            let mut tiles = Tiles::default();
            tiles.cut(rows);
            tiles.block(x.as_ptr().cast(), TERMS, [near.as_ptr(), far.as_ptr()], 1, sums);
        }
    })
}
