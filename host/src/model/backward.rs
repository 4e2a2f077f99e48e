//! The training pass: a forward pass that keeps what its backward pass needs, and that backward
//! pass, block by block, for the gradients of an adapter.
//!
//! With respect to weights under the adapter nothing is computed. What is cheap is not kept but
//! computed again: norms and the MLP's product. Attention weights are formed again from their log
//! sums, and logits are held for a few rows at a time.

use super::adapter::{Adapter, LoraConfig, LoraPair, Matrix, tensor_name};
use super::backend::WeightType::F32;
use super::backend::training::{AttentionGradients, AttentionSaved, Draw};
use super::backend::{BackendError, Segment, TokenLogprob, TrainingBackend, Write};
use super::spec::{Linear, Spec};
use super::weights::Weights;
use crate::run::seed;

/// Sequences that go through the model together, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    /// Of all sequences, one after the other.
    pub tokens: Vec<u32>,
    /// Number of tokens in each sequence.
    pub lengths: Vec<usize>,
    /// Rows whose next token is scored, ascending.
    pub rows: Vec<usize>,
    /// That next token, for each of `rows`.
    pub targets: Vec<u32>,
    /// Each sequence's seed for dropout.
    pub seeds: Vec<u64>,
}

impl Sequences {
    /// Adds a sequence; token `t` is scored where `scored[t]`, which position 0 never is.
    pub fn push(&mut self, tokens: &[u32], scored: &[bool], seed: u64) {
        let first = self.tokens.len();
        for (t, _) in scored.iter().enumerate().skip(1).filter(|&(_, &scored)| scored) {
            self.rows.push(first + t - 1);
            self.targets.push(tokens[t]);
        }
        self.tokens.extend_from_slice(tokens);
        self.lengths.push(tokens.len());
        self.seeds.push(seed);
    }

    fn segments(&self) -> Vec<Segment> {
        let segment = |&rows| Segment { rows, position: 0, pages: Vec::new() };
        self.lengths.iter().map(segment).collect()
    }
}

/// A matrix of the adapter on the device, with its gradient.
pub struct Parameter<B: TrainingBackend> {
    /// For example `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// `[r, in]` or `[out, r]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: B::Buffer,
    /// Of the same shape; passes add to it.
    pub gradient: B::Buffer,
}

impl<B: TrainingBackend> Parameter<B> {
    fn new(
        backend: &B,
        name: String,
        shape: [usize; 2],
        values: &[f32],
    ) -> Result<Self, BackendError> {
        let gradient = backend.zeros(values.len())?;
        Ok(Parameter { name, shape, values: backend.upload(values)?, gradient })
    }

    /// Returns how many numbers it has.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Returns whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Pair<B: TrainingBackend> {
    a: Parameter<B>,
    b: Parameter<B>,
    /// `a`, packed.
    packed_a: B::Matrix,
    /// `b` times the pair's scale, packed.
    packed_b: B::Matrix,
    scale: f64,
}

/// An adapter on the device that can be trained.
pub struct TrainableAdapter<B: TrainingBackend> {
    config: LoraConfig,
    /// For each block, in the order of [`Linear::ALL`].
    blocks: Vec<[Option<Pair<B>>; 7]>,
}

impl<B: TrainingBackend> TrainableAdapter<B> {
    /// Brings an adapter that fits the model ([`Adapter::check`]) to the device.
    pub fn new(backend: &B, spec: &Spec, adapter: &Adapter) -> Result<Self, BackendError> {
        let config = adapter.config.clone();
        let mut blocks: Vec<[Option<Pair<B>>; 7]> =
            (0..spec.layers).map(|_| Default::default()).collect();
        for (&(layer, linear), pair) in &adapter.pairs {
            let (outputs, inputs) = spec.linear_shape(linear);
            let LoraPair { r, scale, .. } = *pair;
            let parameter = |matrix, shape, values| {
                Parameter::new(backend, tensor_name(layer, linear, matrix), shape, values)
            };
            let a = parameter(Matrix::A, [r, inputs], &pair.a)?;
            let b = parameter(Matrix::B, [outputs, r], &pair.b)?;
            let mut packed_b = backend.pack(&vec![0.0; b.len()], outputs, r, F32)?;
            let mut packed_a = backend.pack(&vec![0.0; a.len()], r, inputs, F32)?;
            backend.repack(&a.values, 1.0, &mut packed_a);
            backend.repack(&b.values, scale as f32, &mut packed_b);
            blocks[layer][linear as usize] = Some(Pair { a, b, packed_a, packed_b, scale });
        }
        Ok(TrainableAdapter { config, blocks })
    }

    /// Returns a copy on the host.
    pub fn download(&self, backend: &B) -> Result<Adapter, BackendError> {
        let values = |p: &Parameter<B>| Ok(backend.view(&p.values, 0..p.len())?.into_owned());
        let mut adapter = Adapter { config: self.config.clone(), pairs: Default::default() };
        for (layer, block) in self.blocks.iter().enumerate() {
            for (linear, pair) in Linear::ALL.into_iter().zip(block) {
                if let Some(Pair { a, b, scale, .. }) = pair {
                    let (r, scale) = (a.shape[0], *scale);
                    let pair = LoraPair { r, scale, a: values(a)?, b: values(b)? };
                    adapter.pairs.insert((layer, linear), pair);
                }
            }
        }
        Ok(adapter)
    }

    /// Walks over all matrices in the order of [`Adapter::tensors`].
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter<B>> {
        self.blocks.iter().flatten().flatten().flat_map(|pair| [&pair.a, &pair.b])
    }

    /// Walks over all matrices in the order of [`Adapter::tensors`].
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter<B>> {
        self.blocks.iter_mut().flatten().flatten().flat_map(|pair| [&mut pair.a, &mut pair.b])
    }

    /// Sets every gradient to zero.
    pub fn clear_gradients(&mut self, backend: &B) {
        let longest = self.parameters().map(Parameter::len).max().unwrap_or(0);
        let zeros = vec![0.0; longest];
        for parameter in self.parameters_mut() {
            backend.write(&zeros[..parameter.len()], &mut parameter.gradient, 0);
        }
    }

    /// Makes passes use the values as they are now.
    pub fn repack(&mut self, backend: &B) {
        for pair in self.blocks.iter_mut().flatten().flatten() {
            backend.repack(&pair.a.values, 1.0, &mut pair.packed_a);
            backend.repack(&pair.b.values, pair.scale as f32, &mut pair.packed_b);
        }
    }
}

/// What the forward pass keeps of a block.
struct Saved<B: TrainingBackend> {
    /// What goes in, `[rows, hidden]`.
    input: B::Buffer,
    /// Queries and keys before their norms, where the model has them.
    before_norms: Option<[B::Buffer; 2]>,
    /// `[rows, heads, head_dim]`, rotated.
    queries: B::Buffer,
    /// `[rows, kv_heads, head_dim]`, rotated.
    keys: B::Buffer,
    /// `[rows, kv_heads, head_dim]`
    values: B::Buffer,
    /// `[rows, heads, head_dim]`
    attended: B::Buffer,
    /// `[rows, heads]`
    log_sums: B::Buffer,
    /// The residual stream between attention and MLP, `[rows, hidden]`.
    middle: B::Buffer,
    /// `[rows, intermediate]`
    gate: B::Buffer,
    /// `[rows, intermediate]`
    up: B::Buffer,
    /// `A·x` beside each linear layer that has a pair, `[rows, r]`.
    low: [Option<B::Buffer>; 7],
}

/// The activations and gradients of a pass, kept from one pass to the next.
pub struct Activations<B: TrainingBackend> {
    blocks: Vec<Saved<B>>,
    /// The residual stream, then its gradient, `[rows, hidden]`.
    stream: B::Buffer,
    scratch: Scratch<B>,
    /// The rows that are scored, before and after the last norm, and the gradients of both,
    /// `[rows, hidden]`.
    scored: [B::Buffer; 4],
}

/// What one block needs for the moment.
struct Scratch<B: TrainingBackend> {
    /// What linear layers read, `[rows, hidden]`.
    normed: B::Buffer,
    dnormed: B::Buffer,
    /// `[rows, intermediate]`
    active: B::Buffer,
    dactive: B::Buffer,
    dgate: B::Buffer,
    dup: B::Buffer,
    /// `[rows, heads, head_dim]`
    dattended: B::Buffer,
    dqueries: B::Buffer,
    /// `[rows, kv_heads, head_dim]`
    dkeys: B::Buffer,
    dvalues: B::Buffer,
    low: LowScratch<B>,
}

/// What one pair needs for the moment.
struct LowScratch<B: TrainingBackend> {
    /// The gradient of `A·x`, `[rows, r]`.
    dlow: B::Buffer,
    /// The input with some numbers dropped, and its gradient; empty without dropout.
    dropped: B::Buffer,
    ddropped: B::Buffer,
}

impl<B: TrainingBackend> Activations<B> {
    /// Makes room for passes of up to `rows` tokens with an adapter.
    pub fn new(
        backend: &B,
        spec: &Spec,
        adapter: &TrainableAdapter<B>,
        rows: usize,
    ) -> Result<Self, BackendError> {
        let (hidden, intermediate) = (rows * spec.hidden, rows * spec.intermediate);
        let wide = rows * spec.heads * spec.head_dim;
        let narrow = rows * spec.kv_heads * spec.head_dim;
        let ranks = adapter.blocks.iter().flatten().flatten().map(|pair| pair.a.shape[0]);
        let low = rows * ranks.max().unwrap_or(0);
        let widest = match adapter.config.dropout > 0.0 {
            true => hidden.max(intermediate).max(wide),
            false => 0,
        };
        let room = |len| backend.zeros(len);
        let mut blocks = Vec::with_capacity(spec.layers);
        for block in &adapter.blocks {
            let mut lows: [Option<B::Buffer>; 7] = Default::default();
            for (saved, pair) in lows.iter_mut().zip(block) {
                if let Some(pair) = pair {
                    *saved = Some(room(rows * pair.a.shape[0])?);
                }
            }
            blocks.push(Saved {
                input: room(hidden)?,
                before_norms: match spec.qk_norm {
                    true => Some([room(wide)?, room(narrow)?]),
                    false => None,
                },
                queries: room(wide)?,
                keys: room(narrow)?,
                values: room(narrow)?,
                attended: room(wide)?,
                log_sums: room(rows * spec.heads)?,
                middle: room(hidden)?,
                gate: room(intermediate)?,
                up: room(intermediate)?,
                low: lows,
            });
        }
        let scratch = Scratch {
            normed: room(hidden)?,
            dnormed: room(hidden)?,
            active: room(intermediate)?,
            dactive: room(intermediate)?,
            dgate: room(intermediate)?,
            dup: room(intermediate)?,
            dattended: room(wide)?,
            dqueries: room(wide)?,
            dkeys: room(narrow)?,
            dvalues: room(narrow)?,
            low: LowScratch { dlow: room(low)?, dropped: room(widest)?, ddropped: room(widest)? },
        };
        let scored = [room(hidden)?, room(hidden)?, room(hidden)?, room(hidden)?];
        Ok(Activations { blocks, stream: room(hidden)?, scratch, scored })
    }
}

/// A model with an adapter that is being trained.
pub struct Pass<'a, B: TrainingBackend> {
    /// The device.
    pub backend: &'a B,
    /// The model.
    pub weights: &'a Weights<B>,
    /// What is trained.
    pub adapter: &'a mut TrainableAdapter<B>,
    /// Room for the pass.
    pub activations: &'a mut Activations<B>,
}

impl<B: TrainingBackend> Pass<'_, B> {
    /// Runs sequences forward and keeps what [`backward`](Pass::backward) needs.
    ///
    /// There are at most as many tokens as the activations have room for, all below the
    /// vocabulary's size, and no sequence is longer than the context.
    pub fn forward(&mut self, sequences: &Sequences) -> Result<(), BackendError> {
        let Pass { backend, weights, adapter, activations } = self;
        let spec = &weights.spec;
        let rows = sequences.tokens.len();
        let plan = backend.plan(&sequences.segments())?;
        let Activations { blocks, stream, scratch, scored } = &mut **activations;
        let Scratch { normed, active, low: low_scratch, .. } = scratch;

        backend.embed(&weights.embedding, &sequences.tokens, stream); // [rows, hidden]
        for (layer, (block, saved)) in weights.blocks.iter().zip(blocks).enumerate() {
            let mut linear = |linear: Linear,
                              x: &B::Buffer,
                              low: &mut [Option<B::Buffer>; 7],
                              y: &mut B::Buffer,
                              write| {
                backend.linear(x, rows, block.linear(linear), y, write);
                if let Some(bias) = block.bias(linear) {
                    backend.add_bias(bias, rows, y);
                }
                let (pair, low) =
                    (&adapter.blocks[layer][linear as usize], &mut low[linear as usize]);
                if let (Some(pair), Some(low)) = (pair, low) {
                    let dropout = Dropout::new(&adapter.config, sequences, layer, linear);
                    match &dropout {
                        Some(dropout) => {
                            let dropped = &mut low_scratch.dropped;
                            dropout.apply(*backend, x, pair.a.shape[1], dropped, Write::Set);
                            backend.linear(dropped, rows, &pair.packed_a, low, Write::Set);
                        }
                        None => backend.linear(x, rows, &pair.packed_a, low, Write::Set),
                    }
                    backend.linear(low, rows, &pair.packed_b, y, Write::Add);
                }
            };
            let (eps, hidden) = (spec.rms_norm_eps, rows * spec.hidden);
            backend.add_scaled(stream, 1.0, hidden, &mut saved.input, Write::Set);
            backend.rms_norm(stream, rows, &block.input_norm, eps, normed);
            match block.query_key_norms.as_ref().zip(saved.before_norms.as_mut()) {
                None => {
                    linear(Linear::Q, normed, &mut saved.low, &mut saved.queries, Write::Set);
                    linear(Linear::K, normed, &mut saved.low, &mut saved.keys, Write::Set);
                }
                Some(([query_norm, key_norm], [queries, keys])) => {
                    let (heads, kv_heads) = (rows * spec.heads, rows * spec.kv_heads);
                    linear(Linear::Q, normed, &mut saved.low, queries, Write::Set);
                    backend.rms_norm(queries, heads, query_norm, eps, &mut saved.queries);
                    linear(Linear::K, normed, &mut saved.low, keys, Write::Set);
                    backend.rms_norm(keys, kv_heads, key_norm, eps, &mut saved.keys);
                }
            }
            linear(Linear::V, normed, &mut saved.low, &mut saved.values, Write::Set);
            backend.rope(&mut saved.queries, spec.heads, &weights.rotary, &plan, false);
            backend.rope(&mut saved.keys, spec.kv_heads, &weights.rotary, &plan, false);
            backend.attention(
                &saved.queries,
                &saved.keys,
                &saved.values,
                spec.attention(layer),
                &plan,
                &mut saved.attended,
                &mut saved.log_sums,
            ); // [rows, heads, head_dim]
            linear(Linear::O, &saved.attended, &mut saved.low, stream, Write::Add);

            backend.add_scaled(stream, 1.0, hidden, &mut saved.middle, Write::Set);
            backend.rms_norm(stream, rows, &block.post_attention_norm, eps, normed);
            linear(Linear::Gate, normed, &mut saved.low, &mut saved.gate, Write::Set);
            linear(Linear::Up, normed, &mut saved.low, &mut saved.up, Write::Set);
            backend.swiglu(&saved.gate, &saved.up, rows * spec.intermediate, active);
            linear(Linear::Down, active, &mut saved.low, stream, Write::Add);
        }
        let [before, after, ..] = scored;
        backend.gather(stream, spec.hidden, &sequences.rows, before); // [scored, hidden]
        backend.rms_norm(before, sequences.rows.len(), &weights.norm, spec.rms_norm_eps, after);
        Ok(())
    }

    /// Returns what the head says of each scored token after [`forward`](Pass::forward), for
    /// objectives whose gradient depends on it; [`backward_from`](Pass::backward_from) goes on from
    /// there, without forming the logits again.
    pub fn logprobs(&mut self, sequences: &Sequences) -> Result<Vec<TokenLogprob>, BackendError> {
        let Pass { backend, weights, activations, .. } = self;
        let [_, after, _, dafter] = &mut activations.scored;
        let ones = vec![1.0; sequences.targets.len()];
        backend.logprobs_backward(after, weights.head(), &sequences.targets, &ones, dafter)
    }

    /// Adds to the adapter's gradients those of the sum of `weights[i] * logprob[i]` over the scored
    /// tokens, after [`logprobs`](Pass::logprobs) of the same sequences.
    pub fn backward_from(
        &mut self,
        sequences: &Sequences,
        weights_of_tokens: &[f32],
    ) -> Result<(), BackendError> {
        let [.., dafter] = &mut self.activations.scored;
        self.backend.scale_rows(dafter, self.weights.spec.hidden, weights_of_tokens);
        self.backward_blocks(sequences)
    }

    /// Adds to the adapter's gradients those of the sum of `weights[i] * logprob[i]` over the scored
    /// tokens, after [`forward`](Pass::forward) of the same sequences; returns their logprobs.
    pub fn backward(
        &mut self,
        sequences: &Sequences,
        weights_of_tokens: &[f32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        let Pass { backend, weights, activations, .. } = self;
        let [_, after, _, dafter] = &mut activations.scored;
        let (head, targets) = (weights.head(), &sequences.targets);
        let logprobs =
            backend.logprobs_backward(after, head, targets, weights_of_tokens, dafter)?;
        self.backward_blocks(sequences)?;
        Ok(logprobs)
    }

    /// Goes on from the gradients of the rows that the head read.
    fn backward_blocks(&mut self, sequences: &Sequences) -> Result<(), BackendError> {
        let Pass { backend, weights, adapter, activations } = self;
        let spec = &weights.spec;
        let (rows, scored_rows) = (sequences.tokens.len(), sequences.rows.len());
        let plan = backend.plan(&sequences.segments())?;
        let Activations { blocks, stream, scratch, scored } = &mut **activations;
        let eps = spec.rms_norm_eps;

        let [before, _, dbefore, dafter] = scored;
        let norm = &weights.norm;
        backend.rms_norm_backward(dafter, before, scored_rows, norm, eps, dbefore, Write::Set);
        let dstream = stream;
        backend.scatter(dbefore, spec.hidden, &sequences.rows, rows, dstream); // [rows, hidden]

        let Scratch { normed, dnormed, active, dactive, dgate, dup, .. } = scratch;
        let Scratch { dattended, dqueries, dkeys, dvalues, low: low_scratch, .. } = scratch;
        for (layer, (block, saved)) in weights.blocks.iter().zip(blocks).enumerate().rev() {
            let TrainableAdapter { config, blocks: pairs } = &mut **adapter;
            let pairs = &mut pairs[layer];
            let low = &saved.low;
            // `dx` = or += the gradient with respect to what the linear layer read. Nothing before
            // the first block learns, so there it is not asked for.
            let mut linear = |linear: Linear,
                              dy: &B::Buffer,
                              x: &B::Buffer,
                              dx: Option<&mut B::Buffer>,
                              write| {
                let dropout = Dropout::new(config, sequences, layer, linear);
                let weight = block.linear(linear);
                let (pair, low) = (&mut pairs[linear as usize], &low[linear as usize]);
                let beside = pair.as_mut().zip(low.as_ref()).map(|(pair, low)| Beside {
                    pair,
                    low,
                    dropout,
                });
                linear_backward(
                    *backend,
                    rows,
                    weight,
                    beside,
                    low_scratch,
                    dy,
                    x,
                    dx.map(|dx| (dx, write)),
                );
            };

            backend.swiglu(&saved.gate, &saved.up, rows * spec.intermediate, active);
            linear(Linear::Down, dstream, active, Some(dactive), Write::Set);
            let len = rows * spec.intermediate;
            backend.swiglu_backward(dactive, &saved.gate, &saved.up, len, dgate, dup);
            let norm = &block.post_attention_norm;
            backend.rms_norm(&saved.middle, rows, norm, eps, normed);
            linear(Linear::Gate, dgate, normed, Some(dnormed), Write::Set);
            linear(Linear::Up, dup, normed, Some(dnormed), Write::Add);
            backend.rms_norm_backward(dnormed, &saved.middle, rows, norm, eps, dstream, Write::Add);

            linear(Linear::O, dstream, &saved.attended, Some(dattended), Write::Set);
            let given = AttentionSaved {
                queries: &saved.queries,
                keys: &saved.keys,
                values: &saved.values,
                y: &saved.attended,
                log_sums: &saved.log_sums,
            };
            let gradients = AttentionGradients {
                dqueries: &mut *dqueries,
                dkeys: &mut *dkeys,
                dvalues: &mut *dvalues,
            };
            let shape = spec.attention(layer);
            backend.attention_backward(dattended, given, shape, &plan, gradients);
            backend.rope(dqueries, spec.heads, &weights.rotary, &plan, true);
            backend.rope(dkeys, spec.kv_heads, &weights.rotary, &plan, true);
            let (mut dqueries, mut dkeys) = (&mut *dqueries, &mut *dkeys);
            if let Some(([query_norm, key_norm], [queries, keys])) =
                block.query_key_norms.as_ref().zip(saved.before_norms.as_ref())
            {
                // Attention is done with `dattended`, and then the norm with `dqueries`.
                let (heads, kv_heads) = (rows * spec.heads, rows * spec.kv_heads);
                let mut to = &mut *dattended;
                backend.rms_norm_backward(
                    dqueries,
                    queries,
                    heads,
                    query_norm,
                    eps,
                    to,
                    Write::Set,
                );
                (dqueries, to) = (to, dqueries);
                backend.rms_norm_backward(dkeys, keys, kv_heads, key_norm, eps, to, Write::Set);
                dkeys = to;
            }
            let norm = &block.input_norm;
            backend.rms_norm(&saved.input, rows, norm, eps, normed);
            let first = layer == 0;
            linear(Linear::Q, dqueries, normed, (!first).then_some(&mut *dnormed), Write::Set);
            linear(Linear::K, dkeys, normed, (!first).then_some(&mut *dnormed), Write::Add);
            linear(Linear::V, dvalues, normed, (!first).then_some(&mut *dnormed), Write::Add);
            if !first {
                backend.rms_norm_backward(
                    dnormed,
                    &saved.input,
                    rows,
                    norm,
                    eps,
                    dstream,
                    Write::Add,
                );
            }
        }
        Ok(())
    }
}

/// The pair beside a linear layer, and what its forward pass left.
struct Beside<'a, B: TrainingBackend> {
    pair: &'a mut Pair<B>,
    low: &'a B::Buffer,
    dropout: Option<Dropout>,
}

/// The backward pass of `y = W·x + scale · B·A·dropout(x)`.
#[expect(clippy::too_many_arguments, reason = "a layer, its pair, and both sides' gradients")]
fn linear_backward<B: TrainingBackend>(
    backend: &B,
    rows: usize,
    weight: &B::Matrix,
    beside: Option<Beside<'_, B>>,
    scratch: &mut LowScratch<B>,
    dy: &B::Buffer,
    x: &B::Buffer,
    mut dx: Option<(&mut B::Buffer, Write)>,
) {
    if let Some((dx, write)) = &mut dx {
        backend.linear_backward(dy, rows, weight, dx, *write);
    }
    let Some(Beside { pair, low, dropout }) = beside else { return };
    let Pair { a, b, packed_a, packed_b, scale } = pair;
    let LowScratch { dlow, dropped, ddropped } = scratch;
    let ([r, inputs], outputs) = (a.shape, b.shape[0]);
    backend.weight_gradient(dy, low, rows, outputs, r, *scale as f32, &mut b.gradient);
    backend.linear_backward(dy, rows, packed_b, dlow, Write::Set); // [rows, r]
    match dropout {
        None => {
            backend.weight_gradient(dlow, x, rows, r, inputs, 1.0, &mut a.gradient);
            if let Some((dx, _)) = dx {
                backend.linear_backward(dlow, rows, packed_a, dx, Write::Add);
            }
        }
        Some(dropout) => {
            dropout.apply(backend, x, inputs, dropped, Write::Set);
            backend.weight_gradient(dlow, dropped, rows, r, inputs, 1.0, &mut a.gradient);
            if let Some((dx, _)) = dx {
                backend.linear_backward(dlow, rows, packed_a, ddropped, Write::Set);
                dropout.apply(backend, ddropped, inputs, dx, Write::Add);
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
        let draw = |(&rows, &sequence): (&usize, &u64)| Draw {
            rows,
            seed: seed::of([sequence.into(), place.into()]),
        };
        let draws = sequences.lengths.iter().zip(&sequences.seeds).map(draw).collect();
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
