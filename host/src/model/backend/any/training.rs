//! What only training needs, handed on to the device.

use std::ops::Range;

#[cfg(feature = "cuda")]
use super::Cuda;
use super::{AnyDevice, Buffer, Matrix, Plan, of, of_mut, on, part};
use crate::model::backend::training::{
    AdamWStep, AdamWTensor, AttentionGradients, AttentionSaved, Draw, Layer,
};
use crate::model::backend::{
    AttentionShape, BackendError, Linking, TokenLogprob, TrainingBackend, Write,
};

impl Linking for AnyDevice {
    fn link_key(&self) -> Result<Option<Vec<u8>>, BackendError> {
        on!(self, d => d.link_key())
    }

    fn link(
        &self,
        key: &[u8],
        rank: usize,
        size: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        on!(self, d => d.link(key, rank, size, still))
    }

    fn settle(&self) -> Result<(), BackendError> {
        on!(self, d => d.settle())
    }

    fn unlink(&self) {
        on!(self, d => d.unlink())
    }

    fn send(
        &self,
        buffers: &[&Buffer],
        to: Range<usize>,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        on!(self, d => {
            let own: Vec<_> = buffers.iter().map(|buffer| of(d, *buffer)).collect();
            d.send(&own, to, still)
        })
    }

    fn receive(
        &self,
        buffers: &mut [&mut Buffer],
        from: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        on!(self, d => {
            let mut own: Vec<_> = buffers.iter_mut().map(|buffer| of_mut(d, *buffer)).collect();
            d.receive(&mut own, from, still)
        })
    }
}

impl TrainingBackend for AnyDevice {
    fn clear(&self, buffer: &mut Buffer) {
        on!(self, d => d.clear(of_mut(d, buffer)))
    }

    fn clear_each(&self, buffers: &mut [&mut Buffer]) {
        on!(self, d => {
            let own = buffers.iter_mut().map(|buffer| of_mut(d, *buffer));
            d.clear_each(&mut own.collect::<Vec<_>>())
        })
    }

    fn repack_each(&self, weights: &mut [(&Buffer, f32, &mut Matrix)]) {
        on!(self, d => {
            let own = weights.iter_mut();
            let own = own.map(|(values, scale, weight)| (of(d, *values), *scale, of_mut(d, *weight)));
            d.repack_each(&mut own.collect::<Vec<_>>())
        })
    }

    fn add_each(&self, pairs: &mut [(&Buffer, &mut Buffer)]) {
        on!(self, d => {
            let own = pairs.iter_mut().map(|(x, y)| (of(d, *x), of_mut(d, *y)));
            d.add_each(&mut own.collect::<Vec<_>>())
        })
    }

    fn add_scaled(&self, x: &Buffer, scale: f32, len: usize, y: &mut Buffer, write: Write) {
        on!(self, d => d.add_scaled(of(d, x), scale, len, of_mut(d, y), write))
    }

    fn layer(
        &self,
        x: &Buffer,
        rows: usize,
        layer: &Layer<'_, AnyDevice>,
        before: Option<&Buffer>,
        y: &mut Buffer,
    ) {
        on!(self, d => {
            let layer = Layer {
                weight: of(d, layer.weight),
                bias: layer.bias.map(|bias| of(d, bias)),
                beside: layer.beside.map(|(low, b)| (of(d, low), of(d, b))),
            };
            d.layer(of(d, x), rows, &layer, before.map(|before| of(d, before)), of_mut(d, y))
        })
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
        on!(self, d => {
            let beside = beside.map(|(dlow, a)| (of(d, dlow), of(d, a)));
            d.layer_backward(of(d, dy), rows, of(d, weight), beside, of_mut(d, dx), write)
        })
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
        on!(self, d => d.dropout(of(d, x), width, draws, rate, of_mut(d, y), write))
    }

    fn scatter(&self, x: &Buffer, width: usize, rows: &[usize], total: usize, y: &mut Buffer) {
        on!(self, d => d.scatter(of(d, x), width, rows, total, of_mut(d, y)))
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
        on!(self, d => {
            let (dy, x, dw) = (of(d, dy), of(d, x), of_mut(d, dw));
            d.weight_gradient(dy, x, rows, outputs, inputs, scale, dw)
        })
    }

    fn packed_len(&self, outputs: usize, inputs: usize) -> usize {
        on!(self, d => d.packed_len(outputs, inputs))
    }

    fn packed_weight_gradient(
        &self,
        dy: &Buffer,
        x: &Buffer,
        rows: usize,
        weight: &Matrix,
        dw: &mut Buffer,
    ) {
        on!(self, d => {
            d.packed_weight_gradient(of(d, dy), of(d, x), rows, of(d, weight), of_mut(d, dw))
        })
    }

    fn unpack(&self, weight: &Matrix) -> Result<Vec<f32>, BackendError> {
        on!(self, d => d.unpack(of(d, weight)))
    }

    fn unpack_buffer(
        &self,
        packed: &Buffer,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<f32>, BackendError> {
        on!(self, d => d.unpack_buffer(of(d, packed), outputs, inputs))
    }

    fn pack_buffer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<Buffer, BackendError> {
        on!(self, d => d.pack_buffer(values, outputs, inputs).map(|own| part(d, own)))
    }

    fn embed_backward(&self, dy: &Buffer, tokens: &[u32], embedding: &Matrix, dw: &mut Buffer) {
        on!(self, d => d.embed_backward(of(d, dy), tokens, of(d, embedding), of_mut(d, dw)))
    }

    fn bias_gradient(&self, dy: &Buffer, rows: usize, width: usize, db: &mut Buffer) {
        on!(self, d => d.bias_gradient(of(d, dy), rows, width, of_mut(d, db)))
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
        on!(self, d => {
            d.rms_norm_weight_gradient(of(d, dy), of(d, x), rows, width, eps, of_mut(d, dw))
        })
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
        on!(self, d => {
            let (dy, x, weight, dx) = (of(d, dy), of(d, x), of(d, weight), of_mut(d, dx));
            d.rms_norm_backward(dy, x, rows, weight, eps, dx, write)
        })
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
        on!(self, d => {
            let (dy, gate, up) = (of(d, dy), of(d, gate), of(d, up));
            d.swiglu_backward(dy, gate, up, len, of_mut(d, dgate), of_mut(d, dup))
        })
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
        on!(self, d => {
            let (queries, keys, values) = (of(d, queries), of(d, keys), of(d, values));
            let (y, log_sums) = (of_mut(d, y), of_mut(d, log_sums));
            d.attention(queries, keys, values, shape, of(d, plan), y, log_sums)
        })
    }

    fn attention_backward(
        &self,
        dy: &Buffer,
        saved: AttentionSaved<'_, Buffer>,
        shape: AttentionShape,
        plan: &Plan,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        on!(self, d => {
            let AttentionSaved { queries, keys, values, y, log_sums } = saved;
            let AttentionGradients { dqueries, dkeys, dvalues } = gradients;
            let saved = AttentionSaved {
                queries: of(d, queries),
                keys: of(d, keys),
                values: of(d, values),
                y: of(d, y),
                log_sums: of(d, log_sums),
            };
            let gradients = AttentionGradients {
                dqueries: of_mut(d, dqueries),
                dkeys: of_mut(d, dkeys),
                dvalues: of_mut(d, dvalues),
            };
            d.attention_backward(of(d, dy), saved, shape, of(d, plan), gradients)
        })
    }

    fn logprobs_in_training(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        on!(self, d => d.logprobs_in_training(of(d, hidden), of(d, head), targets))
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
        on!(self, d => {
            let (hidden, head, dhidden) = (of(d, hidden), of(d, head), of_mut(d, dhidden));
            let dhead = dhead.map(|dhead| of_mut(d, dhead));
            d.logprobs_backward(hidden, head, targets, weights, dhidden, dhead)
        })
    }

    fn scale_rows(&self, x: &mut Buffer, width: usize, factors: &[f32]) {
        on!(self, d => d.scale_rows(of_mut(d, x), width, factors))
    }

    fn attention_gradient_bytes(&self, shape: AttentionShape, rows: usize) -> usize {
        on!(self, d => d.attention_gradient_bytes(shape, rows))
    }

    fn held_logits(&self, targets: usize, vocab: usize) -> usize {
        on!(self, d => d.held_logits(targets, vocab))
    }

    fn squared_norm(&self, buffers: &[&Buffer]) -> Result<f64, BackendError> {
        on!(self, d => {
            let buffers: Vec<_> = buffers.iter().map(|buffer| of(d, *buffer)).collect();
            d.squared_norm(&buffers)
        })
    }

    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Buffer>], step: &AdamWStep) {
        on!(self, d => {
            let own = tensors.iter_mut().map(|tensor| AdamWTensor {
                parameters: of_mut(d, tensor.parameters),
                gradient: of(d, tensor.gradient),
                first: of_mut(d, tensor.first),
                second: of_mut(d, tensor.second),
            });
            d.adamw(&mut own.collect::<Vec<_>>(), step)
        })
    }

    fn adamw_packed(
        &self,
        weight: &mut Matrix,
        gradient: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
        step: &AdamWStep,
    ) {
        on!(self, d => {
            let (weight, gradient) = (of_mut(d, weight), of(d, gradient));
            d.adamw_packed(weight, gradient, of_mut(d, first), of_mut(d, second), step)
        })
    }
}
