//! Attention over a cache on the tensor cores; [`training`] has that of training passes.

mod training;

use super::plan::Cut;
use super::product::Number;
use super::{Argument, Buffer, CHUNK, Cuda, Plan, TILE, arguments, shape_argument};
use crate::model::backend::{AttentionShape, Backend};

/// Rows, with each query head of one key and value head, that a block takes.
const VECTORS: usize = 64;
/// Tiles of keys or values that a block keeps in shared memory.
const SLOTS: usize = 12;

/// A kernel.
pub(super) struct Kernel {
    name: &'static str,
    /// Bytes that it keeps in shared memory.
    room: usize,
}

impl Cuda {
    /// Returns the kernel for a shape and a cache of such numbers, where it may round.
    pub(super) fn cached_kernel(&self, shape: AttentionShape, cache: Number) -> Option<Kernel> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let name = match head_dim {
            64 => "attend_cached_64",
            128 => "attend_cached_128",
            _ => return None,
        };
        // Rows are padded by 16 bytes.
        let room = SLOTS * TILE * size_of::<half::bf16>() * (head_dim + 8);
        let fits = self.rounds
            && cache == Number::Bf16
            && heads / kv_heads <= VECTORS
            && self.device.has_room_for(room);
        fits.then_some(Kernel { name, room })
    }

    /// Attends over a layer's cache.
    pub(super) fn attend_rounded(
        &self,
        Kernel { name, room }: Kernel,
        queries: &Buffer,
        shape: AttentionShape,
        cache: u64,
        plan: &Plan,
        y: &mut Buffer,
    ) {
        let AttentionShape { heads, kv_heads, head_dim, window } = shape;
        let each = VECTORS / (heads / kv_heads);
        let Some(tasks) = plan.tasks(Cut::Chunks(each, window)) else { return };
        let bytes = self.attention_bytes(shape, plan.rows, plan.longest);
        let Some(parts) = self.room(bytes) else { return };
        let len = plan.rows * heads * head_dim;
        let (queries, y, parts) = (queries.read(len), y.written_place(len), parts.address());
        assert!(y.number == Number::Bf16, "what attention comes to is an operand");
        let y = y.address;
        let (positions, pages, shape) = (plan.positions(), plan.pages(), shape_argument(shape));
        let at = tasks.memory.address();
        let arguments =
            arguments![queries, cache, at, positions, pages, shape, plan.rows, parts, y];
        self.device.launch(name, [tasks.count, kv_heads, 1], 128, room, arguments);
        if plan.longest > CHUNK {
            let arguments = arguments![parts, positions, shape, plan.rows, y];
            self.device.each("join_cached", len / 2, arguments);
        }
    }
}
