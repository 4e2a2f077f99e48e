//! Attention within the segments of a training pass, and its gradients.

use super::super::argument::Argument;
use super::super::driver::Memory;
use super::super::plan::Cut;
use super::super::product::Number;
use super::super::{Buffer, Cuda, Place, Plan, TILE, arguments};
use super::{forward_room, shape_argument, task_rows};
use crate::model::backend::AttentionShape;
use crate::model::backend::training::{AttentionGradients, AttentionSaved};

/// The kernels of attention in a training pass, each with the numbers that it keeps in shared memory.
struct Kernels {
    forward: (&'static str, usize),
    queries: (&'static str, usize),
    keys: (&'static str, usize),
    /// Rows of a task.
    rows: usize,
    /// Keys of a tile.
    tile: usize,
    /// What they read and write.
    number: Number,
}

impl Cuda {
    /// Returns the kernels for operands of a type: those of the tensor cores where these are bf16, and for this
    /// width of head.
    fn kernels(&self, shape: AttentionShape, number: Number) -> Kernels {
        /// Keys that a block of the tensor cores takes together, and vectors that it has.
        const BLOCK: usize = 64;
        const VECTORS: usize = 2 * BLOCK;
        let (head_dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let names = match head_dim {
            64 => ["attention_bf16_64", "attention_dqueries_bf16_64", "attention_dkeys_bf16_64"],
            128 => {
                ["attention_bf16_128", "attention_dqueries_bf16_128", "attention_dkeys_bf16_128"]
            }
            _ => [""; 3],
        };
        // Two numbers in bf16 are one in f32, and rows are padded by 16 bytes.
        let rows = |count: usize| count * (head_dim + 8) / 2;
        let rooms = [
            rows(VECTORS + 4 * BLOCK),
            rows(2 * VECTORS + 2 * BLOCK),
            // With the weights of all keys and rows and their gradients, and two numbers for each row.
            rows(4 * BLOCK) + BLOCK * (BLOCK + 8) + 2 * BLOCK,
        ];
        let fits = rooms.iter().all(|room| self.device.has_room_for(size_of::<f32>() * room));
        if number == Number::Bf16 && group <= VECTORS && !names[0].is_empty() && fits {
            return Kernels {
                forward: (names[0], rooms[0]),
                queries: (names[1], rooms[1]),
                keys: (names[2], rooms[2]),
                rows: VECTORS / group,
                tile: BLOCK,
                number,
            };
        }
        let (rows, vectors) = task_rows(shape);
        let queries = vectors * (3 * head_dim + TILE) + 2 * TILE * (head_dim + 1);
        Kernels {
            forward: ("attention", forward_room(vectors, head_dim)),
            queries: ("attention_dqueries", queries),
            keys: ("attention_dkeys", TILE * (2 * (head_dim + 1) + 4 * head_dim + 2 * TILE)),
            rows,
            tile: TILE,
            number: Number::F32,
        }
    }

    /// Returns how many bytes the gradients work in: what kernels of f32 take of operands in bf16, or what each query
    /// head of a group comes to, and a number for each row and head.
    pub(in super::super) fn gradient_bytes(&self, shape: AttentionShape, rows: usize) -> usize {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let operands = if self.rounds { Number::Bf16 } else { Number::F32 };
        let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
        let numbers = match self.kernels(shape, operands).number {
            Number::F32 if self.rounds => 4 * wide + 4 * narrow,
            Number::Bf16 if heads > kv_heads => 2 * wide,
            _ => 0,
        };
        size_of::<f32>() * (numbers + rows * heads)
    }

    /// Returns numbers in the type that kernels take; the memory is held as long as they may read it.
    fn taken(&self, x: Place, len: usize, number: Number) -> Option<(u64, Option<Memory>)> {
        if x.number == number {
            return Some((x.address, None));
        }
        assert!(number == Number::F32, "kernels for bf16 are picked where operands are");
        let wide = self.own(size_of::<f32>() * len)?;
        self.device.each("from_bf16", len, arguments![x.address, len, wide.address()]);
        Some((wide.address(), Some(wide)))
    }

    /// Returns where kernels write numbers of their type that are for `y`; [`given`](Cuda::given) brings them there.
    fn giving(&self, y: Place, len: usize, number: Number) -> Option<(u64, Option<Memory>)> {
        if y.number == number {
            return Some((y.address, None));
        }
        let wide = self.own(size_of::<f32>() * len)?;
        Some((wide.address(), Some(wide)))
    }

    fn given(&self, y: Place, len: usize, (from, own): &(u64, Option<Memory>)) {
        if own.is_some() {
            self.device.each("to_bf16", len, arguments![*from, 1f32, len, y.address]);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what goes in, and what comes out")]
    pub(in super::super) fn attention_of(
        &self,
        queries: &Buffer,
        keys: &Buffer,
        values: &Buffer,
        shape: AttentionShape,
        plan: &Plan,
        y: &mut Buffer,
        log_sums: &mut Buffer,
    ) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let kernels = self.kernels(shape, y.number);
        let Kernels { forward: (name, room), rows: each, number, .. } = kernels;
        let Some(tasks) = plan.tasks(Cut::Training(each)) else { return };
        let (wide, narrow) = (plan.rows * heads * head_dim, plan.rows * kv_heads * head_dim);
        let take = |x: &Buffer, len| self.taken(x.place(len), len, number);
        let (Some(queries), Some(keys), Some(values)) =
            (take(queries, wide), take(keys, narrow), take(values, narrow))
        else {
            return;
        };
        let (y, log_sums) = (y.written_place(wide), log_sums.written(plan.rows * heads));
        let Some(to) = self.giving(y, wide, number) else { return };
        let tasks_at = tasks.memory.address();
        let shape_at = shape_argument(shape);
        let arguments = arguments![queries.0, keys.0, values.0, tasks_at, shape_at, to.0, log_sums];
        self.over_heads(name, shape, tasks.count, 1, room, arguments);
        self.given(y, wide, &to);
    }

    pub(in super::super) fn attention_backward_of(
        &self,
        dy: &Buffer,
        saved: AttentionSaved<'_, Buffer>,
        shape: AttentionShape,
        plan: &Plan,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let AttentionGradients { dqueries, dkeys, dvalues } = gradients;
        let kernels = self.kernels(shape, dqueries.number);
        let number = kernels.number;
        let rows = plan.rows * heads;
        let (wide, narrow) = (rows * head_dim, plan.rows * kv_heads * head_dim);
        let Some(tasks) = plan.tasks(Cut::Training(kernels.rows)) else { return };
        let Some(tiles) = plan.tasks(Cut::Keys(kernels.tile)) else { return };
        let Some(deltas) = self.own(size_of::<f32>() * rows) else { return };
        let deltas = deltas.address();
        let take = |x: &Buffer, len| self.taken(x.place(len), len, number);
        let (Some(dy), Some(y), Some(queries)) =
            (take(dy, wide), take(saved.y, wide), take(saved.queries, wide))
        else {
            return;
        };
        let (Some(keys), Some(values)) = (take(saved.keys, narrow), take(saved.values, narrow))
        else {
            return;
        };
        let name = match number {
            Number::F32 => "attention_deltas",
            Number::Bf16 => "attention_deltas_bf16",
        };
        let arguments = arguments![dy.0, y.0, rows, head_dim, deltas];
        self.device.launch(name, [rows.div_ceil(4), 1, 1], 128, 0, arguments);

        let log_sums = saved.log_sums.read(rows);
        let given = [dy.0, queries.0, keys.0, values.0, log_sums, deltas];
        let place = dqueries.written_place(wide);
        let Some(to) = self.giving(place, wide, number) else { return };
        let (given, shape_at) = (|| Argument::from(given), || shape_argument(shape));
        let arguments = arguments![given(), tasks.memory.address(), shape_at(), to.0];
        let (name, room) = kernels.queries;
        self.over_heads(name, shape, tasks.count, 1, room, arguments);
        self.given(place, wide, &to);

        let places = [dkeys.written_place(narrow), dvalues.written_place(narrow)];
        let (name, room) = kernels.keys;
        let tiles_at = tiles.memory.address();
        if number == Number::F32 {
            let [Some(of_keys), Some(of_values)] = places.map(|at| self.giving(at, narrow, number))
            else {
                return;
            };
            let arguments = arguments![given(), tiles_at, shape_at(), of_keys.0, of_values.0];
            self.over_heads(name, shape, tiles.count, 1, room, arguments);
            self.given(places[0], narrow, &of_keys);
            self.given(places[1], narrow, &of_values);
            return;
        }
        // A block has one query head of a group, so that there are enough of them.
        let group = heads / kv_heads;
        let len = if group > 1 { 2 * group * narrow } else { 0 };
        let Some(parts) = self.own(size_of::<f32>() * len) else { return };
        let (parts, [dkeys, dvalues]) = (parts.address(), places.map(|place| place.address));
        let arguments = arguments![given(), tiles_at, shape_at(), plan.rows, parts, dkeys, dvalues];
        self.over_heads(name, shape, tiles.count, group, room, arguments);
        if group > 1 {
            let arguments = arguments![parts, group, narrow, dkeys, dvalues];
            self.device.each("add_group", narrow / 2, arguments);
        }
    }
}
