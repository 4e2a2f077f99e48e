//! The training pass: a forward pass that keeps what its backward pass needs, and that backward
//! pass, block by block, for the gradients of an adapter or of the weights themselves.
//!
//! With respect to frozen weights nothing is computed. What is cheap is not kept but computed again:
//! norms and the MLP's product; with gradient checkpointing ([`super::activations`]) all of a block
//! but its input. Attention weights are formed again from their log sums, and logits are held for a
//! few rows at a time.

mod beside;
mod reading;
mod rewards;
mod sequences;

use self::beside::AdapterBeside;
pub use self::reading::Reading;
pub use self::sequences::Sequences;
use super::activations::{Activations, Kept, LowScratch, Scratch};
use super::adapter::LoraConfig;
use super::backend::training::{AttentionGradients, AttentionSaved, Draw, Layer};
use super::backend::{BackendError, Segment, TokenLogprob, TrainingBackend, Write};
use super::spec::Linear;
use super::trainable::{Pair, Trained};
use super::weights::{BlockWeight, WeightName, Weights};
use crate::run::seed;

/// A model that is being trained.
pub struct Pass<'a, B: TrainingBackend> {
    /// The device.
    pub backend: &'a B,
    /// The model.
    pub weights: &'a Weights<B>,
    /// What of it learns.
    pub trained: Trained<'a, B>,
    /// Room for the pass.
    pub activations: &'a mut Activations<B::Buffer>,
}

impl<B: TrainingBackend> Pass<'_, B> {
    /// Runs sequences forward and keeps what [`backward`](Pass::backward) needs.
    ///
    /// There are at most as many tokens as the activations have room for, all below the
    /// vocabulary's size, and no sequence is longer than the context.
    pub fn forward(&mut self, sequences: &Sequences) -> Result<(), BackendError> {
        let Pass { backend, weights, trained, activations } = self;
        let plan = backend.plan(&sequences.segments)?;
        let run = Run { backend: *backend, weights, sequences, plan: &plan };
        run.forward(trained.adapter.as_deref().map(AdapterBeside::Trained), activations);
        Ok(())
    }

    /// Returns what the head says of each scored token after [`forward`](Pass::forward), for
    /// objectives whose gradient depends on it; [`backward_from`](Pass::backward_from) goes on from
    /// there. Where the head is frozen, the logits are not formed again.
    pub fn logprobs(&mut self, sequences: &Sequences) -> Result<Vec<TokenLogprob>, BackendError> {
        let trains_head = self.trains_head();
        let Pass { backend, weights, activations, .. } = self;
        let ([_, after, _, dafter], head) = (&mut activations.scored, weights.head());
        if trains_head {
            return backend.logprobs(after, head, &sequences.targets);
        }
        let ones = vec![1.0; sequences.targets.len()];
        backend.logprobs_backward(after, head, &sequences.targets, &ones, dafter, None)
    }

    /// Returns what the head says of each scored token after [`forward`](Pass::forward), where no
    /// backward pass follows.
    pub fn score(&mut self, sequences: &Sequences) -> Result<Vec<TokenLogprob>, BackendError> {
        let [_, after, ..] = &self.activations.scored;
        self.backend.logprobs_in_training(after, self.weights.head(), &sequences.targets)
    }

    /// Adds to the gradients of what is trained those of the sum of `weights[i] * logprob[i]` over
    /// the scored tokens, after [`logprobs`](Pass::logprobs) of the same sequences.
    pub fn backward_from(
        &mut self,
        sequences: &Sequences,
        weights_of_tokens: &[f32],
    ) -> Result<(), BackendError> {
        // The gradient of the head is a sum over rows, each with its own weight.
        if self.trains_head() {
            return self.backward(sequences, weights_of_tokens).map(drop);
        }
        let [.., dafter] = &mut self.activations.scored;
        self.backend.scale_rows(dafter, self.weights.spec.hidden, weights_of_tokens);
        self.backward_blocks(sequences)
    }

    /// Adds to the gradients of what is trained those of the sum of `weights[i] * logprob[i]` over
    /// the scored tokens, after [`forward`](Pass::forward) of the same sequences; returns their
    /// logprobs.
    pub fn backward(
        &mut self,
        sequences: &Sequences,
        weights_of_tokens: &[f32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let name = self.head();
        let Pass { backend, weights, trained, activations } = self;
        let ([_, after, _, dafter], head) = (&mut activations.scored, weights.head());
        let logprobs = backend.logprobs_backward(
            after,
            head,
            &sequences.targets,
            weights_of_tokens,
            dafter,
            trained.gradient(name),
        )?;
        self.backward_blocks(sequences)?;
        Ok(logprobs)
    }

    /// Returns the name of the weight that is the head.
    fn head(&self) -> WeightName {
        match self.weights.spec.tied_embeddings {
            true => WeightName::Embedding,
            false => WeightName::Head,
        }
    }

    fn trains_head(&mut self) -> bool {
        let head = self.head();
        self.trained.gradient(head).is_some()
    }

    /// Goes on from the gradients of the rows that the head read.
    fn backward_blocks(&mut self, sequences: &Sequences) -> Result<(), BackendError> {
        let Pass { backend, weights, trained, activations } = self;
        let (backend, spec) = (*backend, &weights.spec);
        let (rows, scored_rows) = (sequences.tokens.len(), sequences.rows.len());
        let plan = backend.plan(&sequences.segments)?;
        let run = Run { backend, weights, sequences, plan: &plan };
        let (eps, hidden) = (spec.rms_norm_eps, spec.hidden);
        let recompute = activations.checkpoints();

        let Activations { scored: [before, _, dbefore, dafter], stream: dstream, .. } =
            &mut **activations;
        if let Some(dw) = trained.gradient(WeightName::Norm) {
            backend.rms_norm_weight_gradient(dafter, before, scored_rows, hidden, eps, dw);
        }
        let norm = &weights.norm;
        backend.rms_norm_backward(dafter, before, scored_rows, norm, eps, dbefore, Write::Set);
        backend.scatter(dbefore, hidden, &sequences.rows, rows, dstream); // [rows, hidden]

        for layer in (0..spec.layers).rev() {
            let place = activations.place(layer);
            let Activations { inputs, kept, stream: dstream, scratch, .. } = &mut **activations;
            let (input, kept) = (&inputs[layer], &mut kept[place]);
            // What the forward pass left there is the last block's.
            if recompute && layer + 1 < spec.layers {
                let adapter = trained.adapter.as_deref().map(AdapterBeside::Trained);
                run.recompute_block(adapter, layer, input, kept, scratch);
            }
            run.leave_block(trained, layer, input, kept, scratch, dstream);
        }
        if let Some(dw) = trained.gradient(WeightName::Embedding) {
            let dstream = &activations.stream;
            backend.embed_backward(dstream, &sequences.tokens, &weights.embedding, dw);
        }
        Ok(())
    }
}

/// What stays the same throughout a pass.
struct Run<'a, B: TrainingBackend> {
    backend: &'a B,
    weights: &'a Weights<B>,
    sequences: &'a Sequences,
    plan: &'a B::Plan,
}

/// What goes on beside the linear layers of a block in the forward pass.
struct Beside<'a, B: TrainingBackend> {
    adapter: Option<AdapterBeside<'a, B>>,
    low: &'a mut [Option<B::Buffer>; 7],
    scratch: &'a mut LowScratch<B::Buffer>,
}

impl<B: TrainingBackend> Run<'_, B> {
    fn rows(&self) -> usize {
        self.sequences.tokens.len()
    }

    /// Runs all blocks, and the last norm over the rows that are scored.
    fn forward(
        &self,
        adapter: Option<AdapterBeside<'_, B>>,
        activations: &mut Activations<B::Buffer>,
    ) {
        let Run { backend, weights, sequences, .. } = *self;
        let (spec, rows) = (&weights.spec, self.rows());
        for layer in 0..spec.layers {
            let place = activations.place(layer);
            let Activations { inputs, kept, stream, scratch, .. } = &mut *activations;
            let kept = &mut kept[place];
            if layer == 0 {
                backend.embed(&weights.embedding, &sequences.tokens, &mut inputs[0]); // [rows, hidden]
            }
            // All inputs are kept, or two take turns.
            let (own, next) = (layer % inputs.len(), (layer + 1) % inputs.len());
            let (input, output) = match layer + 1 < spec.layers {
                true => {
                    let [own, next] = inputs
                        .get_disjoint_mut([own, next])
                        .expect("there are two, and they differ");
                    (own, next)
                }
                false => (&mut inputs[own], stream),
            };
            self.enter_block(adapter, layer, input, kept, scratch);
            let Kept { middle, gate, up, low, .. } = kept;
            let Scratch { active, low: low_scratch, .. } = scratch;
            backend.swiglu(gate, up, rows * spec.intermediate, active);
            let beside = Beside { adapter, low, scratch: low_scratch };
            self.linear(layer, Linear::Down, active, beside, Some(middle), output); // [rows, hidden]
        }
        let Activations { stream, scored: [before, after, ..], .. } = activations;
        backend.gather(stream, spec.hidden, &sequences.rows, before); // [scored, hidden]
        backend.rms_norm(before, sequences.rows.len(), &weights.norm, spec.rms_norm_eps, after);
    }

    /// Runs a block from its input to the projections of its MLP.
    fn enter_block(
        &self,
        adapter: Option<AdapterBeside<'_, B>>,
        layer: usize,
        input: &B::Buffer,
        kept: &mut Kept<B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
    ) {
        let Run { backend, weights, plan, .. } = *self;
        let (spec, block, rows) = (&weights.spec, &weights.blocks[layer], self.rows());
        let eps = spec.rms_norm_eps;
        let Kept { before_norms, queries, keys, values, attended, log_sums, .. } = kept;
        let Kept { middle, gate, up, low, .. } = kept;
        let Scratch { normed, low: low_scratch, .. } = scratch;
        let mut linear = |linear, x: &B::Buffer, before: Option<&B::Buffer>, y: &mut B::Buffer| {
            let beside = Beside { adapter, low: &mut *low, scratch: &mut *low_scratch };
            self.linear(layer, linear, x, beside, before, y);
        };
        backend.rms_norm(input, rows, &block.input_norm, eps, normed);
        match block.query_key_norms.as_ref().zip(before_norms.as_mut()) {
            None => {
                linear(Linear::Q, normed, None, queries); // [rows, heads, head_dim]
                linear(Linear::K, normed, None, keys); // [rows, kv_heads, head_dim]
            }
            Some(([query_norm, key_norm], [before_queries, before_keys])) => {
                linear(Linear::Q, normed, None, before_queries);
                backend.rms_norm(before_queries, rows * spec.heads, query_norm, eps, queries);
                linear(Linear::K, normed, None, before_keys);
                backend.rms_norm(before_keys, rows * spec.kv_heads, key_norm, eps, keys);
            }
        }
        linear(Linear::V, normed, None, values); // [rows, kv_heads, head_dim]
        backend.rope(queries, spec.heads, weights.rotary.as_ref(), plan, false);
        backend.rope(keys, spec.kv_heads, weights.rotary.as_ref(), plan, false);
        let shape = spec.attention(layer);
        backend.attention(queries, keys, values, shape, plan, attended, log_sums);
        linear(Linear::O, attended, Some(input), middle); // [rows, hidden]
        backend.rms_norm(middle, rows, &block.post_attention_norm, eps, normed);
        linear(Linear::Gate, normed, None, gate); // [rows, intermediate]
        linear(Linear::Up, normed, None, up); // [rows, intermediate]
    }

    /// Fills again what the forward pass kept of a block.
    fn recompute_block(
        &self,
        adapter: Option<AdapterBeside<'_, B>>,
        layer: usize,
        input: &B::Buffer,
        kept: &mut Kept<B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
    ) {
        self.enter_block(adapter, layer, input, kept, scratch);
        // The last product has gone into the next block's input; beside it only `A·x` is needed.
        if adapter.is_some_and(|adapter| adapter.pair(layer, Linear::Down).is_some()) {
            let Scratch { active, low: scratch, .. } = scratch;
            let len = self.rows() * self.weights.spec.intermediate;
            self.backend.swiglu(&kept.gate, &kept.up, len, active);
            let mut beside = Beside { adapter, low: &mut kept.low, scratch };
            self.low(layer, Linear::Down, active, &mut beside);
        }
    }

    /// `y` = `before + W·x + bias + scale · B·A·dropout(x)`.
    fn linear(
        &self,
        layer: usize,
        linear: Linear,
        x: &B::Buffer,
        mut beside: Beside<'_, B>,
        before: Option<&B::Buffer>,
        y: &mut B::Buffer,
    ) {
        let block = &self.weights.blocks[layer];
        let (weight, bias) = (block.linear(linear), block.bias(linear));
        let low = self.low(layer, linear, x, &mut beside);
        self.backend.layer(x, self.rows(), &Layer { weight, bias, beside: low }, before, y);
    }

    /// Sets `A·dropout(x)`, where there is a pair, and returns it and `B`.
    fn low<'a>(
        &self,
        layer: usize,
        linear: Linear,
        x: &B::Buffer,
        beside: &'a mut Beside<'_, B>,
    ) -> Option<(&'a B::Buffer, &'a B::Matrix)> {
        let (backend, rows) = (self.backend, self.rows());
        let Beside { adapter, low, scratch } = beside;
        let adapter = (*adapter)?;
        let [a, b] = adapter.pair(layer, linear)?;
        let low = low[linear as usize].as_mut()?;
        match adapter.dropout(self.sequences, layer, linear) {
            Some(dropout) => {
                let ((_, inputs), dropped) = (backend.shape(a), &mut scratch.dropped);
                dropout.apply(backend, x, inputs, dropped, Write::Set);
                backend.linear(dropped, rows, a, low, Write::Set); // [rows, r]
            }
            None => backend.linear(x, rows, a, low, Write::Set), // [rows, r]
        }
        Some((low, b))
    }

    /// Runs a block backwards: `dstream` holds the gradient of its output, then that of its input,
    /// where anything before it learns.
    fn leave_block(
        &self,
        trained: &mut Trained<'_, B>,
        layer: usize,
        input: &B::Buffer,
        kept: &Kept<B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
        dstream: &mut B::Buffer,
    ) {
        let Run { backend, weights, plan, .. } = *self;
        let (spec, block, rows) = (&weights.spec, &weights.blocks[layer], self.rows());
        let eps = spec.rms_norm_eps;
        let name = |weight| WeightName::Block(layer, weight);
        let Kept { before_norms, queries, keys, values, attended, log_sums, .. } = kept;
        let Kept { middle, gate, up, low, .. } = kept;
        let Scratch { normed, dnormed, active, dactive, dgate, dup, .. } = scratch;
        let Scratch { dattended, dqueries, dkeys, dvalues, low: low_scratch, .. } = scratch;
        let mut linear = |trained: &mut Trained<'_, B>,
                          linear: Linear,
                          dy: &B::Buffer,
                          x: &B::Buffer,
                          dx: Option<&mut B::Buffer>,
                          write| {
            let low = low[linear as usize].as_ref();
            self.linear_backward(trained, layer, linear, dy, x, low, low_scratch, dx, write);
        };

        let len = rows * spec.intermediate;
        backend.swiglu(gate, up, len, active);
        linear(trained, Linear::Down, dstream, active, Some(&mut *dactive), Write::Set);
        backend.swiglu_backward(dactive, gate, up, len, dgate, dup);
        let weight = &block.post_attention_norm;
        backend.rms_norm(middle, rows, weight, eps, normed);
        linear(trained, Linear::Gate, dgate, normed, Some(&mut *dnormed), Write::Set);
        linear(trained, Linear::Up, dup, normed, Some(&mut *dnormed), Write::Add);
        if let Some(dw) = trained.gradient(name(BlockWeight::PostAttentionNorm)) {
            backend.rms_norm_weight_gradient(dnormed, middle, rows, spec.hidden, eps, dw);
        }
        backend.rms_norm_backward(dnormed, middle, rows, weight, eps, dstream, Write::Add);

        linear(trained, Linear::O, dstream, attended, Some(&mut *dattended), Write::Set);
        let given = AttentionSaved { queries, keys, values, y: attended, log_sums };
        let gradients = AttentionGradients {
            dqueries: &mut *dqueries,
            dkeys: &mut *dkeys,
            dvalues: &mut *dvalues,
        };
        backend.attention_backward(dattended, given, spec.attention(layer), plan, gradients);
        backend.rope(dqueries, spec.heads, weights.rotary.as_ref(), plan, true);
        backend.rope(dkeys, spec.kv_heads, weights.rotary.as_ref(), plan, true);
        let (mut dqueries, mut dkeys) = (dqueries, dkeys);
        if let Some(([query_norm, key_norm], [queries, keys])) =
            block.query_key_norms.as_ref().zip(before_norms.as_ref())
        {
            let (heads, kv_heads) = (rows * spec.heads, rows * spec.kv_heads);
            let mut gradient = |weight, dy: &B::Buffer, x: &B::Buffer, heads| {
                if let Some(dw) = trained.gradient(name(weight)) {
                    backend.rms_norm_weight_gradient(dy, x, heads, spec.head_dim, eps, dw);
                }
            };
            gradient(BlockWeight::QueryNorm, dqueries, queries, heads);
            gradient(BlockWeight::KeyNorm, dkeys, keys, kv_heads);
            // Attention is done with `dattended`, and then the norm with `dqueries`.
            let mut to = dattended;
            backend.rms_norm_backward(dqueries, queries, heads, query_norm, eps, to, Write::Set);
            (dqueries, to) = (to, dqueries);
            backend.rms_norm_backward(dkeys, keys, kv_heads, key_norm, eps, to, Write::Set);
            dkeys = to;
        }
        let weight = &block.input_norm;
        backend.rms_norm(input, rows, weight, eps, normed);
        let further = trained.learns_before(layer);
        linear(trained, Linear::Q, dqueries, normed, further.then_some(&mut *dnormed), Write::Set);
        linear(trained, Linear::K, dkeys, normed, further.then_some(&mut *dnormed), Write::Add);
        linear(trained, Linear::V, dvalues, normed, further.then_some(&mut *dnormed), Write::Add);
        if let Some(dw) = trained.gradient(name(BlockWeight::InputNorm)) {
            backend.rms_norm_weight_gradient(dnormed, input, rows, spec.hidden, eps, dw);
        }
        if further {
            backend.rms_norm_backward(dnormed, input, rows, weight, eps, dstream, Write::Add);
        }
    }

    /// The backward pass of [`linear`](Run::linear): `dx` = or += the gradient with respect to `x`,
    /// where it is asked for.
    #[expect(clippy::too_many_arguments, reason = "a layer, its pair, and both sides' gradients")]
    fn linear_backward(
        &self,
        trained: &mut Trained<'_, B>,
        layer: usize,
        linear: Linear,
        dy: &B::Buffer,
        x: &B::Buffer,
        low: Option<&B::Buffer>,
        scratch: &mut LowScratch<B::Buffer>,
        mut dx: Option<&mut B::Buffer>,
        write: Write,
    ) {
        let (backend, rows) = (self.backend, self.rows());
        let weight = self.weights.blocks[layer].linear(linear);
        if let Some(dw) = trained.gradient(WeightName::Block(layer, BlockWeight::Linear(linear))) {
            backend.packed_weight_gradient(dy, x, rows, weight, dw);
        }
        if let Some(db) = trained.gradient(WeightName::Block(layer, BlockWeight::Bias(linear))) {
            let (outputs, _) = backend.shape(weight);
            backend.bias_gradient(dy, rows, outputs, db);
        }
        let back = |dx: Option<&mut B::Buffer>, beside: Option<(&B::Buffer, &B::Matrix)>| {
            if let Some(dx) = dx {
                backend.layer_backward(dy, rows, weight, beside, dx, write);
            }
        };
        let Some(adapter) = trained.adapter.as_deref_mut() else { return back(dx, None) };
        let dropout = Dropout::new(adapter.config(), self.sequences, layer, linear);
        let Some((pair, low)) = adapter.pair_mut(layer, linear).zip(low) else {
            return back(dx, None);
        };
        let Pair { a, b, packed_a, packed_b, scale } = pair;
        let LowScratch { dlow, dropped, ddropped } = scratch;
        let ([r, inputs], outputs) = (a.shape, b.shape[0]);
        backend.weight_gradient(dy, low, rows, outputs, r, *scale as f32, &mut b.gradient);
        backend.linear_backward(dy, rows, packed_b, dlow, Write::Set); // [rows, r]
        match dropout {
            None => {
                backend.weight_gradient(dlow, x, rows, r, inputs, 1.0, &mut a.gradient);
                back(dx, Some((dlow, packed_a)));
            }
            Some(dropout) => {
                dropout.apply(backend, x, inputs, dropped, Write::Set);
                backend.weight_gradient(dlow, dropped, rows, r, inputs, 1.0, &mut a.gradient);
                back(dx.as_deref_mut(), None);
                if let Some(dx) = dx {
                    backend.linear_backward(dlow, rows, packed_a, ddropped, Write::Set);
                    dropout.apply(backend, ddropped, inputs, dx, Write::Add);
                }
            }
        }
    }
}

/// The dropout before one pair.
struct Dropout {
    rate: f64,
    draws: Vec<Draw>,
}

impl Dropout {
    /// Returns none where nothing is dropped. Each layer draws for itself, as in PEFT.
    fn new(
        config: &LoraConfig,
        sequences: &Sequences,
        layer: usize,
        linear: Linear,
    ) -> Option<Self> {
        if config.dropout == 0.0 {
            return None;
        }
        let place = [(layer as u64).into(), linear.path().into()];
        let place = seed::of(place);
        let draw = |(segment, &sequence): (&Segment, &u64)| Draw {
            rows: segment.rows,
            seed: seed::of([sequence.into(), place.into()]),
        };
        let draws = sequences.segments.iter().zip(&sequences.seeds).map(draw).collect();
        Some(Dropout { rate: config.dropout, draws })
    }

    fn apply<B: TrainingBackend>(
        &self,
        backend: &B,
        x: &B::Buffer,
        width: usize,
        y: &mut B::Buffer,
        write: Write,
    ) {
        backend.dropout(x, width, &self.draws, self.rate, y, write);
    }
}
