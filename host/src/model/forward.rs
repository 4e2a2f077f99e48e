//! The forward pass: from token ids to the hidden rows that the output head reads.

use std::sync::Arc;

use super::adapter::Adapter;
use super::backend::{Backend, BackendError, CacheShape, Room, Segment, Write};
use super::spec::{Linear, Spec};
use super::weights::{Block, LoadedAdapter, Weights, WeightsError};

/// A model on a device. Cheap to clone: the weights are shared.
pub struct Engine<B: Backend> {
    /// The device.
    pub backend: Arc<B>,
    /// The model.
    pub weights: Arc<Weights<B>>,
}

impl<B: Backend> Clone for Engine<B> {
    fn clone(&self) -> Self {
        Engine { backend: self.backend.clone(), weights: self.weights.clone() }
    }
}

impl<B: Backend> Engine<B> {
    /// Returns an engine over loaded weights.
    pub fn new(backend: B, weights: Weights<B>) -> Engine<B> {
        Engine { backend: Arc::new(backend), weights: Arc::new(weights) }
    }

    /// Packs an adapter for this model; see [`LoadedAdapter::load`].
    pub fn load_adapter(
        &self,
        adapter: &Adapter,
        factor: f64,
    ) -> Result<LoadedAdapter<B>, WeightsError> {
        LoadedAdapter::load(&self.backend, &self.weights.spec, adapter, factor)
    }

    /// Returns the shape of a cache with so many pages.
    pub fn cache_shape(&self, pages: usize) -> CacheShape {
        CacheShape::of(&self.weights.spec, self.weights.weight_type, pages)
    }

    /// Runs rows of tokens through the model and leaves the hidden rows that are `wanted`, after
    /// the last norm, in [`Workspace::hidden`].
    ///
    /// - `adapter`: the policy's, or none for the initial model.
    /// - `tokens`: one for each row of `segments`, all below the vocabulary's size.
    /// - `segments`: positions below the context length. A row attends to what its sequence's pages
    ///   hold up to its own position, rows of this pass included.
    /// - `wanted`: indices of rows, ascending.
    pub fn forward(
        &self,
        adapter: Option<&LoadedAdapter<B>>,
        workspace: &mut Workspace<B>,
        cache: &mut B::Cache,
        tokens: &[u32],
        segments: &[Segment],
        wanted: &[usize],
    ) -> Result<(), BackendError> {
        let is_decoding = segments.iter().all(|segment| segment.rows == 1);
        let mut pass = || self.pass(adapter, workspace, cache, tokens, segments, wanted);
        match is_decoding {
            true => self.backend.repeating(pass),
            false => pass(),
        }
    }

    fn pass(
        &self,
        adapter: Option<&LoadedAdapter<B>>,
        workspace: &mut Workspace<B>,
        cache: &mut B::Cache,
        tokens: &[u32],
        segments: &[Segment],
        wanted: &[usize],
    ) -> Result<(), BackendError> {
        let (backend, weights) = (&*self.backend, &*self.weights);
        let spec = &weights.spec;
        let rows = tokens.len();
        let plan = backend.plan(segments)?;
        workspace.fit(backend, spec, rows, adapter.map_or(0, |adapter| adapter.rank))?;
        let Workspace { x, h, wide, q, k, v, attended, gate, up, active, low } = workspace;

        backend.embed(&weights.embedding, tokens, x); // [rows, hidden]
        for (layer, block) in weights.blocks.iter().enumerate() {
            let mut linears = Linears { backend, block, adapter, layer, low };
            let eps = spec.rms_norm_eps;
            backend.rms_norm(x, rows, &block.input_norm, eps, h);
            match &block.query_key_norms {
                // [rows, heads, head_dim], and twice [rows, kv_heads, head_dim]
                None => linears.set(h, rows, &mut [(Linear::Q, q), (Linear::K, k), (Linear::V, v)]),
                Some([query_norm, key_norm]) => {
                    linears.set(h, rows, &mut [(Linear::Q, wide), (Linear::V, v)]);
                    backend.rms_norm(wide, rows * spec.heads, query_norm, eps, q);
                    linears.set(h, rows, &mut [(Linear::K, wide)]);
                    backend.rms_norm(wide, rows * spec.kv_heads, key_norm, eps, k);
                }
            }
            let (shape, rotary) = (spec.attention(layer), weights.rotary.as_ref());
            backend.rotate_and_store(q, k, v, shape, rotary, layer, &plan, cache);

            // After the last block's keys and values, only the wanted rows matter.
            let last = layer + 1 == spec.layers;
            if last && wanted.is_empty() {
                break;
            }
            backend.attend(q, shape, layer, &plan, cache, attended);
            let mut rows = rows;
            if last && wanted.len() < rows {
                rows = wanted.len();
                backend.gather(attended, spec.heads * spec.head_dim, wanted, h);
                std::mem::swap(attended, h);
                backend.gather(x, spec.hidden, wanted, wide);
                std::mem::swap(x, wide);
            }
            linears.add(Linear::O, attended, rows, x);
            backend.rms_norm(x, rows, &block.post_attention_norm, eps, h);
            // [rows, intermediate]
            linears.set(h, rows, &mut [(Linear::Gate, gate), (Linear::Up, up)]);
            backend.swiglu(gate, up, rows * spec.intermediate, active);
            linears.add(Linear::Down, active, rows, x);
        }
        backend.rms_norm(x, wanted.len(), &weights.norm, spec.rms_norm_eps, wide); // [wanted, hidden]
        Ok(())
    }
}

/// The linear layers of a block, and what is beside them.
struct Linears<'a, B: Backend> {
    backend: &'a B,
    block: &'a Block<B>,
    adapter: Option<&'a LoadedAdapter<B>>,
    layer: usize,
    /// `[rows, r]`
    low: &'a mut B::Buffer,
}

impl<B: Backend> Linears<'_, B> {
    /// Sets what layers make of the same rows.
    fn set(&mut self, x: &B::Buffer, rows: usize, layers: &mut [(Linear, &mut B::Buffer)]) {
        let block = self.block;
        let products = layers.iter_mut().map(|(linear, y)| (block.linear(*linear), &mut **y));
        self.backend.linear_each(x, rows, &mut products.collect::<Vec<_>>());
        layers.iter_mut().for_each(|(linear, y)| self.add_beside(*linear, x, rows, y));
    }

    /// Adds what a layer makes of rows.
    fn add(&mut self, linear: Linear, x: &B::Buffer, rows: usize, y: &mut B::Buffer) {
        self.backend.linear(x, rows, self.block.linear(linear), y, Write::Add);
        self.add_beside(linear, x, rows, y);
    }

    /// Adds a layer's bias, and the product of the pair beside it.
    fn add_beside(&mut self, linear: Linear, x: &B::Buffer, rows: usize, y: &mut B::Buffer) {
        let Linears { backend, block, adapter, layer, low } = self;
        if let Some(bias) = block.bias(linear) {
            backend.add_bias(bias, rows, y);
        }
        if let Some(pair) = adapter.and_then(|adapter| adapter.pair(*layer, linear)) {
            backend.linear(x, rows, &pair.a, low, Write::Set);
            backend.linear(low, rows, &pair.b, y, Write::Add);
        }
    }
}

/// The activations of a pass, kept from one pass to the next.
pub struct Workspace<B: Backend> {
    /// The residual stream, `[rows, hidden]`.
    x: B::Buffer,
    /// What a layer reads, `[rows, hidden]`, and `attended` of some rows.
    h: B::Buffer,
    /// Queries before their norm, the residual stream of some rows, and what the head reads.
    wide: B::Buffer,
    /// `[rows, heads, head_dim]`
    q: B::Buffer,
    /// `[rows, kv_heads, head_dim]`
    k: B::Buffer,
    /// `[rows, kv_heads, head_dim]`
    v: B::Buffer,
    /// `[rows, heads, head_dim]`
    attended: B::Buffer,
    /// `[rows, intermediate]`
    gate: B::Buffer,
    /// `[rows, intermediate]`
    up: B::Buffer,
    /// `[rows, intermediate]`
    active: B::Buffer,
    /// `[rows, r]`
    low: B::Buffer,
}

impl<B: Backend> Workspace<B> {
    /// Returns a workspace that grows when a pass needs it.
    pub fn new(backend: &B) -> Result<Workspace<B>, BackendError> {
        let none = || backend.zeros(0);
        Ok(Workspace {
            x: none()?,
            h: none()?,
            wide: none()?,
            q: none()?,
            k: none()?,
            v: none()?,
            attended: none()?,
            gate: none()?,
            up: none()?,
            active: none()?,
            low: none()?,
        })
    }

    /// Returns the wanted hidden rows of the last pass, `[wanted, hidden]`.
    pub fn hidden(&self) -> &B::Buffer {
        &self.wide
    }

    /// Returns how many bytes a pass over so many rows works in, beside an adapter of this rank.
    pub fn bytes(backend: &B, spec: &Spec, rows: usize, rank: usize) -> usize {
        let rooms = rooms(spec, rows, rank);
        let buffers: usize = rooms.into_iter().map(|room| backend.room_bytes(room)).sum();
        buffers + products_bytes(backend, spec, rows, false)
    }

    fn fit(
        &mut self,
        backend: &B,
        spec: &Spec,
        rows: usize,
        rank: usize,
    ) -> Result<(), BackendError> {
        let Workspace { x, h, wide, q, k, v, attended, gate, up, active, low } = self;
        let mut buffers = [x, h, wide, q, k, v, attended, gate, up, active, low];
        // All that are too short go first, since they may lie in the same memory.
        let mut wanted = Vec::new();
        for (buffer, room) in buffers.iter_mut().zip(rooms(spec, rows, rank)) {
            if backend.len(buffer) < room.numbers() {
                **buffer = backend.zeros(0)?;
                wanted.push((buffer, room));
            }
        }
        for (buffer, room) in wanted {
            **buffer = backend.make_room(room)?;
        }
        Ok(())
    }
}

/// Returns the room of the buffers of a [`Workspace`], in their order.
fn rooms(spec: &Spec, rows: usize, rank: usize) -> [Room; 11] {
    let Spec { hidden, intermediate, .. } = *spec;
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let sums = |width| Room::Sums(rows * width);
    let operands = |width| Room::Operands(rows * width);
    let either = hidden.max(q);
    [
        sums(either),
        operands(either),
        sums(either),
        sums(q),
        sums(kv),
        sums(kv),
        operands(either),
        sums(intermediate),
        sums(intermediate),
        operands(intermediate),
        sums(rank),
    ]
}

/// Returns how many bytes the largest product of the blocks works in; of the backward pass too, where
/// there is one.
pub(crate) fn products_bytes<B: Backend>(
    backend: &B,
    spec: &Spec,
    rows: usize,
    backward: bool,
) -> usize {
    let shapes = Linear::ALL.map(|linear| spec.linear_shape(linear));
    let of = |(outputs, inputs): (usize, usize)| {
        let back = if backward { backend.product_bytes(rows, outputs, inputs) } else { 0 };
        backend.product_bytes(rows, inputs, outputs).max(back)
    };
    shapes.into_iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::backend::PAGE;
    use crate::model::backend::cpu::Cpu;
    use crate::model::spec::RopeScaling;
    use crate::model::tiny;

    /// Runs one sequence in passes of `chunk` rows and returns all its logits.
    pub(crate) fn logits<B: Backend>(
        engine: &Engine<B>,
        adapter: Option<&LoadedAdapter<B>>,
        tokens: &[u32],
        chunk: usize,
    ) -> Vec<f32> {
        let backend = &*engine.backend;
        let count = tokens.len().div_ceil(PAGE);
        // Out of order, so that a page's number is not its place.
        let pages: Vec<u32> = (0..count as u32).rev().collect();
        let mut cache = backend.cache(engine.cache_shape(count)).unwrap();
        let mut workspace = Workspace::new(backend).unwrap();
        let mut logits = vec![];
        for (i, tokens) in tokens.chunks(chunk).enumerate() {
            let (rows, position) = (tokens.len(), i * chunk);
            let segments = [Segment::cached(rows, position, pages.clone())];
            let wanted: Vec<usize> = (0..rows).collect();
            engine
                .forward(adapter, &mut workspace, &mut cache, tokens, &segments, &wanted)
                .unwrap();
            let vocab = engine.weights.spec.vocab;
            let mut y = backend.zeros(rows * vocab).unwrap();
            backend.linear(workspace.hidden(), rows, engine.weights.head(), &mut y, Write::Set);
            logits.extend_from_slice(&backend.view(&y, 0..rows * vocab).unwrap());
        }
        logits
    }

    /// Compares with `tests/fixtures/tiny-llama-logits.json`, which transformers made in f32.
    #[test]
    fn logits_and_greedy_tokens_are_those_of_transformers() {
        #[derive(serde::Deserialize)]
        struct Reference {
            tokens: Vec<u32>,
            logits: Vec<Vec<f32>>,
        }
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let text = std::fs::read(fixtures.join("tiny-llama-logits.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&text).unwrap();
        let folder = fixtures.join("tiny-llama");
        let (_, checkpoint) =
            crate::model::source::open(folder.to_str().unwrap(), &mut |_| {}).unwrap();
        for backend in [Cpu::new(), Cpu::portable()] {
            let weights = Weights::load(&backend, &*checkpoint, &mut |_, _| {}).unwrap();
            let engine = Engine::new(backend, weights);
            let logits = logits(&engine, None, &reference.tokens, 512);
            let rows = logits.chunks(engine.weights.spec.vocab);
            assert_eq!(rows.len(), 20);
            for (position, (row, expected)) in rows.zip(&reference.logits).enumerate() {
                let difference =
                    row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(difference < 1e-4, "{difference} at position {position}");
                let best = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
                let greedy = expected.iter().position(|&logit| logit == best(expected)).unwrap();
                // Two logits closer than the tolerance are a tie.
                assert!(best(row) - row[greedy] < 2e-4, "another token at position {position}");
            }
        }
    }

    fn check(spec: Spec, length: usize) {
        let checkpoint = tiny::checkpoint(spec.clone(), 1);
        let tokens: Vec<u32> = (0..length as u64)
            .map(|i| crate::run::seed::bits(2, i) as u32 % spec.vocab as u32)
            .collect();
        let adapter = tiny::adapter(&spec, 3);
        for backend in [Cpu::new(), Cpu::portable()] {
            let weights = Weights::load(&backend, &checkpoint, &mut |_, _| ()).unwrap();
            let engine = Engine::new(backend, weights);
            let loaded = engine.load_adapter(&adapter, 1.0).unwrap();
            let off = engine.load_adapter(&adapter, 0.0).unwrap();
            for (loaded, adapter) in
                [(None, None), (Some(&loaded), Some(&adapter)), (Some(&off), None)]
            {
                let want = tiny::oracle(&checkpoint, adapter, &tokens);
                let got = logits(&engine, loaded, &tokens, 1000);
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{spec:?} {:?}: {worst:e}", engine.backend.isa());
                for chunk in [1, 7, 16, 64] {
                    assert!(logits(&engine, loaded, &tokens, chunk) == got, "chunks of {chunk}");
                }
            }
        }
    }

    #[test]
    fn logits_are_those_of_the_plain_model() {
        check(tiny::spec(16, true), 40);
        check(tiny::spec(32, false), 300);
        // A width of head that no vector divides, and one key and value head for each query head.
        check(Spec { kv_heads: 4, ..tiny::spec(12, true) }, 33);
        // One for all of them, which is more than a tile holds.
        check(Spec { heads: 7, kv_heads: 1, ..tiny::spec(16, false) }, 35);
        let mut stretched = tiny::spec(32, true);
        stretched.rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        check(stretched, 100);
    }

    #[test]
    fn what_architectures_add_is_that_of_the_plain_model() {
        let plain = tiny::spec(16, true);
        check(Spec { attention_bias: true, ..plain.clone() }, 40);
        check(Spec { qk_norm: true, ..plain.clone() }, 40);
        // Narrower than the residual stream, and heads that no vector divides.
        check(Spec { qk_norm: true, kv_heads: 1, ..tiny::spec(10, true) }, 40);
        // Windows within a page, over pages, over blocks of pages; and in one block only.
        for window in [1, 5, 16, 23, 150, 299, 300] {
            let sliding_windows = vec![Some(window), Some(2 * window)];
            check(Spec { sliding_windows, ..plain.clone() }, 300);
        }
        let sliding_windows = vec![None, Some(8)];
        check(Spec { sliding_windows, attention_bias: true, qk_norm: true, ..plain }, 70);
    }

    #[test]
    fn an_adapter_for_another_model_is_refused() {
        let spec = tiny::spec(16, true);
        let load = |adapter: &Adapter| LoadedAdapter::load(&Cpu::new(), &spec, adapter, 1.0).err();
        let other = tiny::adapter(&Spec { layers: 3, ..spec.clone() }, 1);
        let message = load(&other).unwrap().to_string();
        assert!(message.contains("block 2, but this model has 2 blocks"), "{message}");
        let other = tiny::adapter(&Spec { hidden: 50, ..spec.clone() }, 1);
        let message = load(&other).unwrap().to_string();
        assert!(message.contains("layers.0.self_attn.q_proj.lora_A.weight"), "{message}");
    }
}
