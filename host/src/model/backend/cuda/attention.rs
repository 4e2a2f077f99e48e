//! Attention over a cache; [`training`] has that of training passes.

mod training;

use super::argument::Argument;
use super::plan::Cut;
use super::product::Number;
use super::{Buffer, CHUNK, Cache, Cuda, Plan, TILE, arguments};
use crate::model::backend::{AttentionShape, Backend};

/// Rows, with each query head of one key and value head, that a block takes.
const VECTORS: usize = 64;
/// Tiles of keys or values that a block keeps in shared memory.
const SLOTS: usize = 12;

/// A kernel.
struct Kernel {
    name: &'static str,
    /// Bytes that it keeps in shared memory.
    room: usize,
}

impl Cuda {
    /// Returns the kernel for a shape and a cache of such numbers, where it may round.
    fn cached_kernel(&self, shape: AttentionShape, cache: Number) -> Option<Kernel> {
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
    fn attend_rounded(
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

    /// Attends over the cache of a layer, by the kernel that there is for it.
    pub(super) fn attend_over(
        &self,
        queries: &Buffer,
        shape: AttentionShape,
        layer: usize,
        plan: &Plan,
        cache: &Cache,
        y: &mut Buffer,
    ) {
        match self.cached_kernel(shape, cache.number) {
            Some(kernel) => {
                self.attend_rounded(kernel, queries, shape, cache.layer(layer), plan, y);
            }
            None => self.attend_exactly(queries, shape, layer, plan, cache, y),
        }
    }

    /// Attends over the cache of a layer in f32, whatever its numbers and widths.
    fn attend_exactly(
        &self,
        queries: &Buffer,
        shape: AttentionShape,
        layer: usize,
        plan: &Plan,
        cache: &Cache,
        y: &mut Buffer,
    ) {
        let AttentionShape { heads, head_dim, .. } = shape;
        let (each, vectors) = task_rows(shape);
        let Some(tasks) = plan.tasks(Cut::Cached(each)) else { return };
        let chunks = plan.longest.div_ceil(CHUNK);
        let len = plan.rows * heads * head_dim;
        let bytes = self.attention_bytes(shape, plan.rows, plan.longest);
        let Some(parts) = self.room(bytes) else { return };
        let (queries, y) = (queries.read(len), y.written_place(len));
        let (rounds, y, parts) = (y.number == Number::Bf16, y.address, parts.address());
        let name = match cache.number {
            Number::F32 => "attend_f32",
            Number::Bf16 => "attend_bf16",
        };
        let (cache, at, pages) = (cache.layer(layer), tasks.memory.address(), plan.pages());
        let shape_at = shape_argument(shape);
        let arguments =
            arguments![queries, cache, at, pages, shape_at, plan.rows, parts, y, rounds];
        let room = forward_room(vectors, head_dim);
        self.over_heads(name, shape, tasks.count, chunks, room, arguments);
        if chunks > 1 {
            let rows = plan.rows * heads;
            let arguments = arguments![parts, chunks, rows, head_dim, y, rounds];
            self.device.launch("join_chunks", [rows, 1, 1], 64, 0, arguments);
        }
    }

    /// Runs attention over the rows of a plan, cut into tasks; `chunks` blocks share a row's positions.
    pub(super) fn over_heads(
        &self,
        name: &'static str,
        shape: AttentionShape,
        tasks: usize,
        chunks: usize,
        room: usize,
        arguments: &mut [Argument],
    ) {
        let grid = [tasks, shape.kv_heads, chunks];
        self.device.launch(name, grid, 128, size_of::<f32>() * room, arguments);
    }
}

/// Returns how many rows a task of attention has, and how many rows and heads that is.
pub(super) fn task_rows(shape: AttentionShape) -> (usize, usize) {
    let group = shape.heads / shape.kv_heads;
    let rows = (32 / group).max(1);
    (rows, rows * group)
}

/// Returns `Shape` of the attention kernels.
pub(super) fn shape_argument(shape: AttentionShape) -> Argument {
    let AttentionShape { heads, kv_heads, head_dim, window } = shape;
    // Wider than any position is no window.
    let window = window.map_or(0, |window| window.min(1 << 30));
    let whole = [heads, kv_heads, head_dim, window].map(|n| n as i32);
    Argument::from((whole, 1.0 / (head_dim as f32).sqrt()))
}

/// Returns the numbers that the forward kernels keep in shared memory.
pub(super) fn forward_room(vectors: usize, head_dim: usize) -> usize {
    vectors * (2 * head_dim + TILE + 3) + TILE * (2 * head_dim + 1)
}
