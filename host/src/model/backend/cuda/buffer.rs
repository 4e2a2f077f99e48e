//! Numbers on the device: activations, and keys and values.

use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::Memory;
use super::product::Number;
use crate::model::backend::{BackendError, CacheShape, PAGE};

/// Numbers beside each row of what layers with an adapter read, and rows and columns beside such a layer's weight: the
/// largest rank whose products go together with the weight's (`product/beside.rs`).
pub(super) const MARGIN: usize = 64;

/// Returns the margin of rows, or of a weight with such sides: what lies in it has to begin where 16 bytes do.
pub(super) fn margin(sides: &[usize]) -> usize {
    if sides.iter().all(|side| side.is_multiple_of(8)) { MARGIN } else { 0 }
}

/// Numbers on the device: in f32, but for operands of a training pass.
pub struct Buffer {
    pub(super) memory: Memory,
    pub(super) len: usize,
    pub(super) number: Number,
    /// Numbers of a row, where there is a margin beside each.
    pub(super) width: Option<usize>,
    /// Changes with its contents, and no two buffers ever have the same.
    pub(super) stamp: u64,
}

impl Buffer {
    pub(super) fn new(memory: Memory, len: usize, number: Number) -> Buffer {
        Buffer { memory, len, number, width: None, stamp: stamp() }
    }

    /// Returns the same with a margin beside each row.
    pub(super) fn with_margin(self, width: usize) -> Buffer {
        Buffer { width: Some(width), ..self }
    }

    /// Returns the address, for reading `len` numbers in f32.
    pub(super) fn read(&self, len: usize) -> u64 {
        assert!(self.number == Number::F32, "a buffer in bf16 where f32 is wanted");
        self.place(len).address
    }

    /// Returns the address, for writing `len` numbers in f32.
    pub(super) fn written(&mut self, len: usize) -> u64 {
        self.stamp = stamp();
        self.read(len)
    }

    /// Returns where it lies, for reading `len` numbers of its type.
    pub(super) fn place(&self, len: usize) -> Place {
        assert!(len <= self.len, "{len} numbers of {}", self.len);
        assert!(self.width.is_none(), "rows with a margin where there is to be none");
        Place { address: self.memory.address(), number: self.number }
    }

    /// Returns where it lies, for writing `len` numbers of its type.
    pub(super) fn written_place(&mut self, len: usize) -> Place {
        self.stamp = stamp();
        self.place(len)
    }

    /// Returns where its rows lie, for reading so many, each of `width` numbers.
    pub(super) fn rows(&self, rows: usize, width: usize) -> Rows {
        let len = rows * width;
        assert!(len <= self.len, "{len} numbers of {}", self.len);
        assert!(self.width.is_none_or(|own| own == width), "rows of {:?} numbers", self.width);
        Rows { address: self.memory.address(), number: self.number, width, margin: self.margin() }
    }

    /// Returns how many numbers lie beside each row.
    pub(super) fn margin(&self) -> usize {
        if self.width.is_some() { MARGIN } else { 0 }
    }

    /// Returns where its rows lie, for writing so many.
    pub(super) fn written_rows(&mut self, rows: usize, width: usize) -> Rows {
        self.stamp = stamp();
        self.rows(rows, width)
    }

    /// Returns where its rows lie, for writing `len` numbers; all are one row where it has no margin.
    pub(super) fn written_whole(&mut self, len: usize) -> Rows {
        let width = self.width.unwrap_or(len);
        assert!(len.is_multiple_of(width), "whole rows");
        self.written_rows(len.checked_div(width).unwrap_or(0), width)
    }
}

/// Where rows lie, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    pub(super) address: u64,
    pub(super) number: Number,
    pub(super) width: usize,
    /// Numbers beside each.
    pub(super) margin: usize,
}

impl Rows {
    /// Returns how many numbers lie from where a row begins to the next.
    pub(super) fn pitch(self) -> usize {
        self.width + self.margin
    }

    /// Returns width and pitch where they have a margin, and two zeros where all is one row.
    pub(super) fn apart(self) -> [usize; 2] {
        if self.margin == 0 { [0; 2] } else { [self.width, self.pitch()] }
    }

    /// Returns where row `first` begins.
    pub(super) fn after(self, first: usize) -> Rows {
        Rows { address: self.address + (self.number.bytes() * first * self.pitch()) as u64, ..self }
    }

    /// Returns the rows as an operand.
    pub(super) fn operand(self) -> Operand {
        Operand { address: self.address, pitch: self.pitch() }
    }
}

/// Rows that a product reads: where they begin, and how many numbers lie from one to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operand {
    pub(super) address: u64,
    pub(super) pitch: usize,
}

impl Operand {
    /// Returns the same from number `first` on, in bf16.
    pub(super) fn after(self, first: usize) -> Operand {
        Operand { address: self.address + (Number::Bf16.bytes() * first) as u64, ..self }
    }
}

/// Where numbers lie, and their type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) number: Number,
}

impl Place {
    pub(super) fn f32(address: u64) -> Place {
        Place { address, number: Number::F32 }
    }

    /// Returns where number `first` lies.
    pub(super) fn after(self, first: usize) -> Place {
        Place { address: self.address + (self.number.bytes() * first) as u64, ..self }
    }

    /// Returns the first name where the numbers are f32, the other where they are bf16.
    pub(super) fn pick(self, wide: &'static str, narrow: &'static str) -> &'static str {
        match self.number {
            Number::F32 => wide,
            Number::Bf16 => narrow,
        }
    }
}

/// Returns a number that was not returned before.
pub(super) fn stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Keys and values on the device: `[layers, pages, 2, kv_heads, PAGE, head_dim]`, in bf16 where weights are.
pub struct Cache {
    pub(super) memory: Memory,
    pub(super) shape: CacheShape,
    pub(super) number: Number,
}

impl Cache {
    /// Returns where a layer begins.
    pub(super) fn layer(&self, layer: usize) -> u64 {
        let CacheShape { layers, kv_heads, head_dim, pages, .. } = self.shape;
        assert!(layer < layers, "layer {layer} of {layers}");
        let numbers = layer * pages * 2 * kv_heads * PAGE * head_dim;
        self.memory.address() + (self.number.bytes() * numbers) as u64
    }
}

/// Reads the first rows of some width and margin, without the margins.
pub(super) fn read_rows(
    memory: &Memory,
    number: Number,
    [width, margin]: [usize; 2],
    count: usize,
) -> Result<Vec<f32>, BackendError> {
    let all = read_as(memory, number, 0, count * (width + margin))?;
    if margin == 0 {
        return Ok(all);
    }
    Ok(all.chunks(width + margin).flat_map(|row| &row[..width]).copied().collect())
}

/// Reads numbers of a type from some byte on.
pub(super) fn read_as(
    memory: &Memory,
    number: Number,
    at: usize,
    len: usize,
) -> Result<Vec<f32>, BackendError> {
    match number {
        Number::F32 => memory.read(at, len),
        Number::Bf16 => {
            let values: Vec<u16> = memory.read(at, len)?;
            Ok(values.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect())
        }
    }
}
