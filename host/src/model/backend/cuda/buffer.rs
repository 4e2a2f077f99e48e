//! Numbers on the device: activations, weights, and keys and values.

use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::Memory;
use super::product::Number;
use crate::model::backend::{BackendError, CacheShape, PAGE};

/// Numbers on the device: in f32, but for operands of a training pass.
pub struct Buffer {
    pub(super) memory: Memory,
    pub(super) len: usize,
    pub(super) number: Number,
    /// Changes with its contents, and no two buffers ever have the same.
    pub(super) stamp: u64,
}

impl Buffer {
    pub(super) fn new(memory: Memory, len: usize, number: Number) -> Buffer {
        Buffer { memory, len, number, stamp: stamp() }
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
        Place { address: self.memory.address(), number: self.number }
    }

    /// Returns where it lies, for writing `len` numbers of its type.
    pub(super) fn written_place(&mut self, len: usize) -> Place {
        self.stamp = stamp();
        self.place(len)
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

fn stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A weight on the device, row-major.
pub struct Matrix {
    pub(super) memory: Memory,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) number: Number,
    /// The same in bf16 for products, where they round and the weight itself is f32.
    pub(super) rounded: Option<Memory>,
}

impl Matrix {
    /// Returns what products read.
    pub(super) fn operand(&self) -> Place {
        match &self.rounded {
            Some(rounded) => Place { address: rounded.address(), number: Number::Bf16 },
            None => Place { address: self.memory.address(), number: self.number },
        }
    }
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
