//! Backward passes and the optimiser on the GPU.

use std::collections::BTreeMap;

use super::driver::{Argument, Memory};
use super::head::HEAD_ROWS;
use super::plan::Cut;
use super::product::{Kind, Number, Product};
use super::{
    Buffer, Cuda, Matrix, Plan, TILE, arguments, forward_room, narrow, narrowed, shape_argument,
    task_rows,
};
use crate::model::backend::training::{
    AdamWFactors, AdamWStep, AdamWTensor, AttentionGradients, AttentionSaved, Draw, TrainingBackend,
};
use crate::model::backend::{AttentionShape, Backend, BackendError, TokenLogprob, Write};

/// Rows that one block adds up in a sum over rows.
const RUN: usize = 64;
/// Numbers of a tensor that one block of `squared_norm` and `adamw` takes.
const PIECE: usize = 16384;

/// The kernels of attention in a training pass, each with the numbers that it keeps in shared memory.
struct Kernels {
    forward: (&'static str, usize),
    queries: (&'static str, usize),
    keys: (&'static str, usize),
    /// Rows of a task.
    rows: usize,
    /// Keys of a tile.
    tile: usize,
}

impl Cuda {
    /// Returns the kernels for a shape: those of the tensor cores where they may round and have this
    /// width of head.
    fn kernels(&self, shape: AttentionShape) -> Kernels {
        /// Vectors and keys that a block of the tensor cores takes, and vectors of a part.
        const BLOCK: usize = 64;
        const PART: usize = 32;
        let (head_dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let names = match head_dim {
            64 => ["attention_bf16_64", "attention_dqueries_bf16_64", "attention_dkeys_bf16_64"],
            128 => {
                ["attention_bf16_128", "attention_dqueries_bf16_128", "attention_dkeys_bf16_128"]
            }
            _ => [""; 3],
        };
        if self.rounds && group <= BLOCK && !names[0].is_empty() {
            // Two numbers in bf16 are one in f32, and rows are padded by 16 bytes.
            let rows = |count: usize| count * (head_dim + 8) / 2;
            return Kernels {
                forward: (names[0], rows(3 * BLOCK)),
                queries: (names[1], rows(4 * BLOCK)),
                keys: (names[2], rows(2 * BLOCK + 2 * PART) + 3 * PART),
                rows: BLOCK / group,
                tile: BLOCK,
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
        }
    }

    /// `y` += the sum of rows of `dy`, times `x` and a factor for each row where they are given.
    fn sum_of_rows(&self, dy: u64, x: Option<(u64, u64)>, rows: usize, width: usize, y: u64) {
        let runs = rows.div_ceil(RUN);
        let Some(parts) = self.room(size_of::<f32>() * runs * width) else { return };
        let (x, factors) = x.unwrap_or((0, 0));
        let blocks = width.div_ceil(128);
        let arguments = arguments![dy, x, factors, rows, width, parts.address()];
        self.device.launch("sum_of_rows", [blocks, runs, 1], 128, 0, arguments);
        let arguments = arguments![parts.address(), runs, width, y];
        self.device.launch("add_parts", [blocks, 1, 1], 128, 0, arguments);
    }

    fn step(&self, tensors: &[(usize, [u64; 4])], step: &AdamWStep) {
        let tensors = Tensors::new(tensors);
        let memory = Memory::of(&self.device, &tensors.table);
        let Some(memory) = Memory::or_remember(&self.device, memory) else { return };
        let AdamWFactors { scale, rest1, beta2, rest2, decay, size, root, eps } = step.factors();
        let arguments = arguments![
            tensors.argument(&memory),
            scale,
            rest1,
            beta2,
            rest2,
            decay,
            size,
            root,
            eps
        ];
        self.device.launch("adamw", [tensors.pieces, 1, 1], 256, 0, arguments);
    }
}

/// Tensors of one launch, cut into pieces: `Tensors` of the kernels.
struct Tensors {
    /// Where the pieces of each begin, then how long each is, then the addresses of each.
    table: Vec<u64>,
    count: usize,
    /// How many addresses each has.
    each: usize,
    pieces: usize,
}

impl Tensors {
    fn new<const EACH: usize>(tensors: &[(usize, [u64; EACH])]) -> Tensors {
        // No piece belongs to what is empty.
        let tensors = || tensors.iter().filter(|(len, _)| *len > 0);
        let (mut table, mut pieces) = (Vec::new(), 0);
        for (len, _) in tensors() {
            table.push(pieces as u64);
            pieces += len.div_ceil(PIECE);
        }
        let count = table.len();
        table.extend(tensors().map(|(len, _)| *len as u64));
        table.extend(tensors().flat_map(|(_, addresses)| addresses));
        Tensors { table, count, each: EACH, pieces }
    }

    /// Returns `Tensors` of the kernels, with the table where it was brought to.
    fn argument(&self, memory: &Memory) -> Argument {
        let part = |number: usize| memory.address() + (size_of::<u64>() * number) as u64;
        let numbers = [self.count, self.each].map(|number| number as i32);
        Argument::from(([part(0), part(self.count), part(2 * self.count)], numbers))
    }
}

impl TrainingBackend for Cuda {
    fn clear(&self, buffer: &mut Buffer) {
        buffer.written(0);
        buffer.memory.clear(size_of::<f32>() * buffer.len);
    }

    fn add_scaled(&self, x: &Buffer, scale: f32, len: usize, y: &mut Buffer, write: Write) {
        let (x, y) = (x.read(len), y.written(len));
        self.device.each("add_scaled", len, arguments![x, scale, len, y, write == Write::Add]);
    }

    fn dropout(
        &self,
        x: &Buffer,
        width: usize,
        draws: &[Draw],
        rate: f64,
        y: &mut Buffer,
        write: Write,
    ) {
        let mut starts = vec![0u64];
        for draw in draws {
            starts.push(starts[starts.len() - 1] + (draw.rows * width) as u64);
        }
        let len = starts[draws.len()] as usize;
        let (x, y) = (x.read(len), y.written(len));
        starts.extend(draws.iter().map(|draw| draw.seed));
        let Some(memory) = self.bring(&starts) else { return };
        let seeds = memory.address() + (size_of::<u64>() * (draws.len() + 1)) as u64;
        let keep = (1.0 / (1.0 - rate)) as f32;
        let (count, add) = (draws.len(), write == Write::Add);
        let arguments = arguments![x, memory.address(), seeds, count, rate, keep, len, y, add];
        self.device.each("dropout", len, arguments);
    }

    fn scatter(&self, x: &Buffer, width: usize, rows: &[usize], total: usize, y: &mut Buffer) {
        let len = rows.len() * width;
        let (x, to) = (x.read(len), y.written(total * width));
        y.memory.clear(size_of::<f32>() * total * width);
        let Some(rows) = self.bring(&narrowed(rows)) else { return };
        self.device.each("scatter", len, arguments![x, width, rows.address(), len, to]);
    }

    fn weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        outputs: usize,
        inputs: usize,
        scale: f32,
        dw: &mut Buffer,
    ) {
        self.products.run(Product {
            kind: Kind::Gradient,
            number: Number::F32,
            rows,
            outputs,
            inputs,
            left: dy.read(rows * outputs),
            right: x.read(rows * inputs),
            result: dw.written(outputs * inputs),
            scale,
            before: 1.0,
        });
    }

    fn packed_len(&self, outputs: usize, inputs: usize) -> usize {
        outputs * inputs
    }

    fn packed_weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        weight: &Matrix,
        dw: &mut Buffer,
    ) {
        self.weight_gradient(dy, x, rows, weight.outputs, weight.inputs, 1.0, dw);
    }

    fn unpack(&self, weight: &Matrix) -> Result<Vec<f32>, BackendError> {
        let len = weight.outputs * weight.inputs;
        match weight.number {
            Number::F32 => weight.memory.read(0, len),
            Number::Bf16 => {
                let values: Vec<u16> = weight.memory.read(0, len)?;
                Ok(values.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect())
            }
        }
    }

    fn unpack_buffer(
        &self,
        packed: &Buffer,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<f32>, BackendError> {
        Ok(self.view(packed, 0..outputs * inputs)?.into_owned())
    }

    fn pack_buffer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<Buffer, BackendError> {
        self.upload(&values[..outputs * inputs])
    }

    fn embed_backward(&self, dy: &Buffer, tokens: &[u32], embedding: &Matrix, dw: &mut Buffer) {
        let width = embedding.inputs;
        let (dy, dw) =
            (dy.read(tokens.len() * width), dw.written(embedding.outputs * embedding.inputs));
        let mut places: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, &token) in tokens.iter().enumerate() {
            places.entry(token).or_default().push(row as u32);
        }
        let count = places.len();
        let mut lists: Vec<u32> = places.keys().copied().collect();
        let mut start = 0;
        lists.push(start);
        for rows in places.values() {
            start += rows.len() as u32;
            lists.push(start);
        }
        lists.extend(places.values().flatten());
        let Some(lists) = self.bring(&lists) else { return };
        let part = |first: usize| lists.address() + (size_of::<u32>() * first) as u64;
        let arguments = arguments![dy, part(0), part(count), part(2 * count + 1), width, dw];
        self.device.launch("add_rows", [count, 1, 1], 256, 0, arguments);
    }

    fn bias_gradient(&self, dy: &Buffer, rows: usize, width: usize, db: &mut Buffer) {
        self.sum_of_rows(dy.read(rows * width), None, rows, width, db.written(width));
    }

    fn rms_norm_weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        width: usize,
        eps: f32,
        dw: &mut Buffer,
    ) {
        let (dy, x, dw) = (dy.read(rows * width), x.read(rows * width), dw.written(width));
        let Some(factors) = self.room(size_of::<f32>() * rows) else { return };
        let arguments = arguments![x, rows, width, eps, factors.address(), narrow(width)];
        self.rows("inverse_rms_of_rows", rows, width, arguments);
        self.sum_of_rows(dy, Some((x, factors.address())), rows, width, dw);
    }

    fn rms_norm_backward(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        weight: &Buffer,
        eps: f32,
        dx: &mut Buffer,
        write: Write,
    ) {
        let (width, len) = (weight.len, rows * weight.len);
        let (dy, x, weight) = (dy.read(len), x.read(len), weight.read(width));
        let (dx, add) = (dx.written(len), write == Write::Add);
        let arguments = arguments![dy, x, rows, width, weight, eps, dx, add, narrow(width)];
        self.rows("rms_norm_backward", rows, width, arguments);
    }

    fn swiglu_backward(
        &self,
        dy: &Buffer,
        gate: &Buffer,
        up: &Buffer,
        len: usize,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        let (dy, gate, up) = (dy.read(len), gate.read(len), up.read(len));
        let (dgate, dup) = (dgate.written(len), dup.written(len));
        self.device.each("swiglu_backward", len, arguments![dy, gate, up, len, dgate, dup]);
    }

    fn attention(
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
        let Kernels { forward: (name, room), rows: each, .. } = self.kernels(shape);
        let Some(tasks) = plan.tasks(Cut::Training(each)) else { return };
        let (wide, narrow) = (plan.rows * heads * head_dim, plan.rows * kv_heads * head_dim);
        let (queries, keys, values) = (queries.read(wide), keys.read(narrow), values.read(narrow));
        let (y, log_sums) = (y.written(wide), log_sums.written(plan.rows * heads));
        let tasks_at = tasks.memory.address();
        let arguments =
            arguments![queries, keys, values, tasks_at, shape_argument(shape), y, log_sums];
        self.over_heads(name, shape, tasks.count, 1, room, arguments);
    }

    fn attention_backward(
        &self,
        dy: &Buffer,
        saved: AttentionSaved<'_, Buffer>,
        shape: AttentionShape,
        plan: &Plan,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let kernels = self.kernels(shape);
        let rows = plan.rows * heads;
        let (wide, narrow) = (rows * head_dim, plan.rows * kv_heads * head_dim);
        let Some(tasks) = plan.tasks(Cut::Training(kernels.rows)) else { return };
        let Some(tiles) = plan.tasks(Cut::Keys(kernels.tile)) else { return };
        let Some(deltas) = self.room(size_of::<f32>() * rows) else { return };
        let (dy, deltas) = (dy.read(wide), deltas.address());
        let arguments = arguments![dy, saved.y.read(wide), rows, head_dim, deltas];
        self.device.launch("attention_deltas", [rows.div_ceil(4), 1, 1], 128, 0, arguments);

        let saved = || {
            let (keys, values) = (saved.keys.read(narrow), saved.values.read(narrow));
            let log_sums = saved.log_sums.read(rows);
            Argument::from([dy, saved.queries.read(wide), keys, values, log_sums, deltas])
        };
        let dqueries = gradients.dqueries.written(wide);
        let arguments =
            arguments![saved(), tasks.memory.address(), shape_argument(shape), dqueries];
        let (name, room) = kernels.queries;
        self.over_heads(name, shape, tasks.count, 1, room, arguments);

        let (dkeys, dvalues) = (gradients.dkeys.written(narrow), gradients.dvalues.written(narrow));
        let arguments =
            arguments![saved(), tiles.memory.address(), shape_argument(shape), dkeys, dvalues];
        let (name, room) = kernels.keys;
        self.over_heads(name, shape, tiles.count, 1, room, arguments);
    }

    fn logprobs_backward(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
        dhidden: &mut Buffer,
        dhead: Option<&mut Buffer>,
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        self.device.check()?;
        self.logprobs_and_gradients(hidden, head, targets, weights, dhidden, dhead)
    }

    fn scale_rows(&self, x: &mut Buffer, width: usize, factors: &[f32]) {
        let len = factors.len() * width;
        let x = x.written(len);
        let Some(factors) = self.bring(factors) else { return };
        self.device.each("scale_rows", len, arguments![x, width, factors.address(), len]);
    }

    fn held_logits(&self, targets: usize, vocab: usize) -> usize {
        targets.min(HEAD_ROWS) * vocab
    }

    fn squared_norm(&self, buffers: &[&Buffer]) -> Result<f64, BackendError> {
        self.device.check()?;
        let tensors: Vec<_> = buffers.iter().map(|x| (x.len, [x.read(x.len)])).collect();
        let tensors = Tensors::new(&tensors);
        let memory = Memory::of(&self.device, &tensors.table)?;
        let parts = Memory::new(&self.device, size_of::<f64>() * tensors.pieces)?;
        let arguments = arguments![tensors.argument(&memory), parts.address()];
        self.device.launch("squared_norm", [tensors.pieces, 1, 1], 256, 0, arguments);
        let parts: Vec<f64> = parts.read(0, tensors.pieces)?;
        Ok(parts.iter().sum())
    }

    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Buffer>], step: &AdamWStep) {
        let addresses = |tensor: &mut AdamWTensor<'_, Buffer>| {
            let AdamWTensor { parameters, gradient, first, second } = tensor;
            let len = parameters.len;
            let (parameters, gradient) = (parameters.written(len), gradient.read(len));
            (len, [parameters, gradient, first.written(len), second.written(len)])
        };
        self.step(&tensors.iter_mut().map(addresses).collect::<Vec<_>>(), step);
    }

    fn adamw_packed(
        &self,
        weight: &mut Matrix,
        gradient: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
        step: &AdamWStep,
    ) {
        assert!(weight.number == Number::F32, "a weight that is trained itself is f32");
        let len = weight.outputs * weight.inputs;
        let (first, second) = (first.written(len), second.written(len));
        let addresses = [weight.memory.address(), gradient.read(len), first, second];
        self.step(&[(len, addresses)], step);
    }
}
