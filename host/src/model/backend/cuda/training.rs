//! Backward passes and the optimiser on the GPU.

use std::collections::BTreeMap;

use super::argument::Argument;
use super::buffer::{Rows, read_rows, stamp};
use super::driver::Memory;
use super::grid::narrow;
use super::head::HEAD_ROWS;
use super::product::{Kind, Number, Product};
use super::{Buffer, Cuda, Matrix, Place, Plan, arguments, narrowed};
use crate::model::backend::training::{
    AdamWFactors, AdamWStep, AdamWTensor, AttentionGradients, AttentionSaved, Draw, Layer,
    TrainingBackend,
};
use crate::model::backend::{AttentionShape, Backend, BackendError, TokenLogprob, Write};

/// Rows that one block adds up in a sum over rows.
const RUN: usize = 64;
/// Numbers of a tensor that one block of `squared_norm` and `adamw` takes.
const PIECE: usize = 16384;

impl Cuda {
    /// `y` += the sum of rows of `dy`, times `x` and a factor for each row where they are given.
    fn sum_of_rows(&self, dy: Place, x: Option<(u64, u64)>, rows: usize, width: usize, y: u64) {
        let runs = rows.div_ceil(RUN);
        let Some(parts) = self.room(size_of::<f32>() * runs * width) else { return };
        let (x, factors) = x.unwrap_or((0, 0));
        let blocks = width.div_ceil(128);
        let arguments = arguments![dy.address, x, factors, rows, width, parts.address()];
        let name = dy.pick("sum_of_rows", "sum_of_rows_bf16");
        self.device.launch(name, [blocks, runs, 1], 128, 0, arguments);
        let arguments = arguments![parts.address(), runs, width, y];
        self.device.launch("add_parts", [blocks, 1, 1], 128, 0, arguments);
    }

    /// Cuts tensors into pieces, and brings their table to the device.
    fn tensors<const EACH: usize>(
        &self,
        tensors: &[(usize, [u64; EACH])],
    ) -> Option<(Tensors, Memory)> {
        let tensors = Tensors::new(tensors);
        let memory = Memory::of(&self.device, &tensors.table);
        Some((tensors, Memory::or_remember(&self.device, memory)?))
    }

    /// Launches a kernel over tensors, which needs them alone.
    fn over_tensors<const EACH: usize>(
        &self,
        name: &'static str,
        tensors: &[(usize, [u64; EACH])],
    ) {
        let Some((tensors, memory)) = self.tensors(tensors) else { return };
        let arguments = arguments![tensors.argument(&memory)];
        self.device.launch(name, [tensors.pieces, 1, 1], 256, 0, arguments);
    }

    fn step(&self, tensors: &[(usize, [u64; 4])], step: &AdamWStep) {
        let Some((tensors, memory)) = self.tensors(tensors) else { return };
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

    fn clear_each(&self, buffers: &mut [&mut Buffer]) {
        let tensor = |buffer: &mut &mut Buffer| (buffer.len, [buffer.written(buffer.len)]);
        let tensors: Vec<_> = buffers.iter_mut().map(tensor).collect();
        self.over_tensors("clear_tensors", &tensors);
    }

    fn repack_each(&self, weights: &mut [(&Buffer, f32, &mut Matrix)]) {
        let plain = |weight: &Matrix| weight.number == Number::Bf16 && weight.margin == 0;
        if !weights.iter().all(|(_, _, weight)| plain(weight)) {
            for (values, scale, weight) in weights {
                self.repack(values, *scale, weight);
            }
            return;
        }
        let tensor = |(values, scale, weight): &mut (&Buffer, f32, &mut Matrix)| {
            let len = weight.outputs * weight.inputs;
            weight.stamp = stamp();
            (len, [values.read(len), weight.memory.address(), scale.to_bits().into()])
        };
        let tensors: Vec<_> = weights.iter_mut().map(tensor).collect();
        self.over_tensors("round_tensors", &tensors);
    }

    fn add_each(&self, pairs: &mut [(&Buffer, &mut Buffer)]) {
        let tensor =
            |(x, y): &mut (&Buffer, &mut Buffer)| (x.len, [x.read(x.len), y.written(x.len)]);
        let tensors: Vec<_> = pairs.iter_mut().map(tensor).collect();
        self.over_tensors("add_tensors", &tensors);
    }

    fn add_scaled(&self, x: &Buffer, scale: f32, len: usize, y: &mut Buffer, write: Write) {
        let (x, y, add) = (x.read(len), y.written_whole(len), write == Write::Add);
        match y.number {
            Number::F32 => {
                self.device.each("add_scaled", len, arguments![x, scale, len, y.address, add]);
            }
            Number::Bf16 => {
                assert!(!add, "nothing is added to an operand");
                self.round_rows(x, scale, len.checked_div(y.width).unwrap_or(0), y);
            }
        }
    }

    fn layer(
        &self,
        x: &Buffer,
        rows: usize,
        layer: &Layer<'_, Cuda>,
        before: Option<&Buffer>,
        y: &mut Buffer,
    ) {
        let Layer { weight, bias, beside } = *layer;
        let len = rows * weight.outputs;
        let (result, before) = (y.written_place(len), before.map(|before| before.place(len)));
        let together = self.layer_product(Kind::Forward, x, rows, weight, beside, before, result);
        if let Some(bias) = bias {
            self.add_bias(bias, rows, y);
        }
        if let Some((low, b)) = beside.filter(|_| !together) {
            let added = Some(result);
            self.layer_product(Kind::Forward, low, rows, b, None, added, result);
        }
    }

    fn layer_backward(
        &self,
        dy: &Buffer,
        rows: usize,
        weight: &Matrix,
        beside: Option<(&Buffer, &Matrix)>,
        dx: &mut Buffer,
        write: Write,
    ) {
        let result = dx.written_place(rows * weight.inputs);
        let before = (write == Write::Add).then_some(result);
        let together = self.layer_product(Kind::Backward, dy, rows, weight, beside, before, result);
        if let Some((dlow, a)) = beside.filter(|_| !together) {
            self.layer_product(Kind::Backward, dlow, rows, a, None, Some(result), result);
        }
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
        let (x, y) = (x.rows(len / width, width), y.written_place(len));
        starts.extend(draws.iter().map(|draw| draw.seed));
        let Some(memory) = self.bring(&starts) else { return };
        let seeds = memory.address() + (size_of::<u64>() * (draws.len() + 1)) as u64;
        let keep = (1.0 / (1.0 - rate)) as f32;
        let (count, add) = (draws.len(), write == Write::Add);
        let name = match (x.number, y.number) {
            (Number::F32, Number::F32) => "dropout",
            (Number::Bf16, Number::Bf16) => "dropout_bf16",
            (Number::Bf16, Number::F32) => "dropout_widened",
            (Number::F32, Number::Bf16) => unreachable!("what goes into a layer is an operand"),
        };
        let (pitch, y, table) = (x.pitch(), y.address, memory.address());
        let arguments =
            arguments![x.address, width, pitch, table, seeds, count, rate, keep, len, y, add];
        self.device.each(name, len, arguments);
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
        let number = if self.rounds { Number::Bf16 } else { Number::F32 };
        let result = Place::f32(dw.written(outputs * inputs));
        let kind = Kind::Gradient;
        let run = |left: Rows, right: Rows| {
            let (left, right) = (left.operand(), right.operand());
            let (added, alike, before) = (result.address, false, 1.0);
            self.products.run(Product {
                kind,
                number,
                rows,
                outputs,
                inputs,
                left,
                right,
                result,
                added,
                alike,
                scale,
                before,
            });
        };
        let of_x = x.rows(rows, inputs);
        if of_x.number == number {
            return self.with_operand(dy, 0..rows, outputs, number, true, |left| run(left, of_x));
        }
        // Both cannot be rounded into the one room that is kept.
        let Some(room) = self.room(number.bytes() * rows * inputs) else { return };
        let right = Rows { address: room.address(), number, ..of_x };
        self.round_rows(of_x.address, 1.0, rows, right);
        self.with_operand(dy, 0..rows, outputs, number, true, |left| run(left, right));
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
        let Matrix { memory, number, outputs, inputs, margin, .. } = weight;
        read_rows(memory, *number, [*inputs, *margin], *outputs)
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
        self.sum_of_rows(dy.place(rows * width), None, rows, width, db.written(width));
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
        let (dy, x, dw) = (dy.place(rows * width), x.place(rows * width), dw.written(width));
        assert!(dy.number == x.number, "both of one type");
        let Some(factors) = self.own(size_of::<f32>() * rows) else { return };
        let arguments = arguments![x.address, rows, width, eps, factors.address(), narrow(width)];
        let name = x.pick("inverse_rms_of_rows", "inverse_rms_of_rows_bf16");
        self.rows(name, rows, width, arguments);
        self.sum_of_rows(dy, Some((x.address, factors.address())), rows, width, dw);
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
        let (dy, x, weight) = (dy.place(len), x.place(len), weight.read(width));
        let (dx, add) = (dx.written_place(len), write == Write::Add);
        assert!(dy.number == dx.number && x.number == dx.number, "all of one type");
        let name = dx.pick("rms_norm_backward", "rms_norm_backward_bf16");
        let (dy, x, dx) = (dy.address, x.address, dx.address);
        let arguments = arguments![dy, x, rows, width, weight, eps, dx, add, narrow(width)];
        self.rows_by_four(name, rows, width, arguments);
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
        let read = [dy, gate, up].map(|buffer| buffer.place(len));
        let (dgate, dup) = (dgate.written_whole(len), dup.written_whole(len));
        let number = dgate.number;
        assert!(dup.number == number && read.iter().all(|it| it.number == number), "one type");
        assert!(dup.pitch() == dgate.pitch(), "rows as far apart");
        let [dy, gate, up] = read.map(|place| place.address);
        let (to, [width, pitch]) = (dgate, dgate.apart());
        let (dgate, dup) = (dgate.address, dup.address);
        if number == Number::F32 {
            let arguments = arguments![dy, gate, up, len, dgate, dup];
            return self.device.each("swiglu_backward", len, arguments);
        }
        let arguments = arguments![dy, gate, up, len, width, dgate, dup, pitch];
        self.over_rows("swiglu_backward_bf16", len, to, arguments);
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
        self.attention_of(queries, keys, values, shape, plan, y, log_sums);
    }

    fn attention_backward(
        &self,
        dy: &Buffer,
        saved: AttentionSaved<'_, Buffer>,
        shape: AttentionShape,
        plan: &Plan,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        self.attention_backward_of(dy, saved, shape, plan, gradients);
    }

    fn logprobs_in_training(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        self.device.check()?;
        self.logprobs_in_runs(hidden, head, targets, true)
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

    fn attention_gradient_bytes(&self, shape: AttentionShape, rows: usize) -> usize {
        self.gradient_bytes(shape, rows)
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
        self.round_weight(weight);
        weight.stamp = stamp();
    }
}
