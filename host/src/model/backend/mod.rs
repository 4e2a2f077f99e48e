//! The operations that models are made of, behind one trait for each kind of device.
//!
//! Operations are coarse: a forward pass is about a dozen calls for each block. Rows are ragged and
//! never padded: a pass runs over the rows of all its [`Segment`]s, one after the other, and a
//! [`Backend::Plan`] says which sequence and position each row belongs to. Everything is row-major, and f32 but for weights and
//! [`Room::Operands`].
//!
//! **The order of additions for one output element depends on nothing but the element's own inputs
//! and the model's shape**: not on the other rows, on tiles, threads, chunks or shared pages. So
//! batching changes no bit, and neither does sharing a prefix.
//!
//! Buffers may be longer than an operation needs, so that they can be reused: an operation reads
//! and writes their first `rows * width` numbers. It is a mistake in the program, and a panic, to
//! pass a buffer that is too short.
//!
//! Operations on a device run asynchronously, so only allocation and the calls that wait for a
//! result can fail. A failure in between is remembered and reported by the next of those.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::spec::Spec;

pub mod any;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod linking;
mod segment;
pub mod training;

pub use any::AnyDevice;
pub use linking::Linking;
pub use segment::Segment;
pub use training::TrainingBackend;

/// Positions in a page of the key and value cache.
pub const PAGE: usize = 16;

/// What room for a pass is for, with how many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// What goes on from block to block and is added to, and what is small: f32.
    Sums(usize),
    /// What products read, and what they make for others to read. A device that rounds the operands of its
    /// products keeps these rounded.
    Operands(usize),
    /// Operands of layers that an adapter goes beside: a device may leave a margin beside each row, for what the
    /// adapter makes of it.
    Rows {
        /// Number of rows.
        rows: usize,
        /// Numbers of a row, without a margin.
        width: usize,
    },
}

impl Room {
    /// Returns how many numbers it is for.
    pub fn numbers(self) -> usize {
        match self {
            Room::Sums(len) | Room::Operands(len) => len,
            Room::Rows { rows, width } => rows * width,
        }
    }
}

/// A device and its kernels.
pub trait Backend: Sized + Send + Sync + 'static {
    /// Activations on the device: a flat array.
    type Buffer: Send + Sync;
    /// A weight `[out, in]` on the device, in whatever layout its kernels want.
    type Matrix: Send + Sync;
    /// The segments of a pass on the device.
    type Plan: Send + Sync;
    /// Keys and values of all blocks, in pages.
    type Cache: Send + Sync;

    /// Runs `work`, a pass or several, where its operations start fastest: on the processor, on a
    /// thread of the pool that the kernels use.
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Does `work`, which asks for a pass that will be asked for again and again, with other contents of memory. What it
    /// asks for may begin only when it is done.
    fn repeating<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Gives back memory that is kept for such passes.
    fn end_repeating(&self) {}

    /// Returns how many bytes attention over the cache works in, for so many rows of which the last is at a position below
    /// `positions`.
    fn attention_bytes(&self, _shape: AttentionShape, _rows: usize, _positions: usize) -> usize {
        0
    }

    /// Returns a buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// Returns room for what a pass keeps or works in, of any contents.
    fn make_room(&self, room: Room) -> Result<Self::Buffer, BackendError> {
        self.zeros(room.numbers())
    }

    /// Returns how many bytes that takes.
    fn room_bytes(&self, room: Room) -> usize {
        size_of::<f32>() * room.numbers()
    }

    /// Returns a buffer that holds `values`.
    fn upload(&self, values: &[f32]) -> Result<Self::Buffer, BackendError>;

    /// Overwrites `buffer` from `offset` on with `values`.
    fn write(&self, values: &[f32], buffer: &mut Self::Buffer, offset: usize);

    /// Returns part of a buffer on the host: borrowed where the device is the host.
    fn view<'a>(
        &self,
        buffer: &'a Self::Buffer,
        range: Range<usize>,
    ) -> Result<Cow<'a, [f32]>, BackendError>;

    /// Returns how many numbers a buffer holds.
    fn len(&self, buffer: &Self::Buffer) -> usize;

    /// Brings a weight, `[outputs, inputs]` row-major, into the layout of the kernels.
    fn pack(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Self::Matrix, BackendError>;

    /// [`pack`](Backend::pack) for a layer that an adapter may go beside: a device may leave room for it.
    fn pack_layer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Self::Matrix, BackendError> {
        self.pack(values, outputs, inputs, weight_type)
    }

    /// Returns the type that this device keeps matrices of an adapter in, which are trained elsewhere in f32:
    /// that of what its products read.
    fn adapter_type(&self) -> WeightType {
        WeightType::F32
    }

    /// Returns how many bytes a weight takes that [`pack`](Backend::pack) makes.
    fn matrix_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize;

    /// Returns how many bytes a weight takes that [`pack_layer`](Backend::pack_layer) makes.
    fn layer_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        self.matrix_bytes(outputs, inputs, weight_type)
    }

    /// Overwrites a weight with `scale` times `values`, `[outputs, inputs]` row-major as in [`pack`].
    ///
    /// [`pack`]: Backend::pack
    fn repack(&self, values: &Self::Buffer, scale: f32, matrix: &mut Self::Matrix);

    /// Returns `(outputs, inputs)`.
    fn shape(&self, matrix: &Self::Matrix) -> (usize, usize);

    /// Brings the segments of a pass to the device.
    fn plan(&self, segments: &[Segment]) -> Result<Self::Plan, BackendError>;

    /// Sets row `i` of `y` `[tokens, inputs]` to row `tokens[i]` of the embedding `[vocab, inputs]`.
    ///
    /// The embedding is packed like any weight, so a tied head is the same matrix. Every token is
    /// below `vocab`.
    fn embed(&self, embedding: &Self::Matrix, tokens: &[u32], y: &mut Self::Buffer);

    /// `y` `[rows, outputs]` = or += `x` `[rows, inputs]` · `weight`ᵀ.
    fn linear(
        &self,
        x: &Self::Buffer,
        rows: usize,
        weight: &Self::Matrix,
        y: &mut Self::Buffer,
        write: Write,
    );

    /// [`linear`](Backend::linear) of the same rows with several weights, each set.
    fn linear_each(
        &self,
        x: &Self::Buffer,
        rows: usize,
        products: &mut [(&Self::Matrix, &mut Self::Buffer)],
    ) {
        for (weight, y) in products {
            self.linear(x, rows, weight, y, Write::Set);
        }
    }

    /// Returns how many bytes a product with a weight works in at most, going forward or backward:
    /// `rows` of `terms` numbers become rows of `columns`. They are kept for the next product.
    fn product_bytes(&self, rows: usize, terms: usize, columns: usize) -> usize;

    /// `dx` `[rows, inputs]` = or += `dy` `[rows, outputs]` · `weight`: the gradient of [`linear`]
    /// with respect to its input.
    ///
    /// [`linear`]: Backend::linear
    fn linear_backward(
        &self,
        dy: &Self::Buffer,
        rows: usize,
        weight: &Self::Matrix,
        dx: &mut Self::Buffer,
        write: Write,
    );

    /// Adds `bias` `[width]` to each row of `y` `[rows, width]`.
    fn add_bias(&self, bias: &Self::Buffer, rows: usize, y: &mut Self::Buffer);

    /// `y` = `x / sqrt(mean(x²) + eps) * weight` for each row; `weight` is `[width]`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        rows: usize,
        weight: &Self::Buffer,
        eps: f32,
        y: &mut Self::Buffer,
    );

    /// Rotates each head of `x` `[rows, heads, head_dim]` by its row's position.
    ///
    /// Dimension `i` is rotated with `i + head_dim / 2`. `inverse` rotates back, which is also the
    /// gradient.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        heads: usize,
        rotary: Rotary<&Self::Buffer>,
        plan: &Self::Plan,
        inverse: bool,
    );

    /// `y[i]` = `silu(gate[i]) * up[i]` for the first `len` numbers.
    fn swiglu(&self, gate: &Self::Buffer, up: &Self::Buffer, len: usize, y: &mut Self::Buffer);

    /// Sets row `i` of `y` to row `rows[i]` of `x`.
    fn gather(&self, x: &Self::Buffer, width: usize, rows: &[usize], y: &mut Self::Buffer);

    /// Returns an empty cache. Its pages are numbered from 0 and belong to the caller, who decides
    /// which sequences share which.
    fn cache(&self, shape: CacheShape) -> Result<Self::Cache, BackendError>;

    /// Returns how many bytes a cache takes once its pages are written.
    fn cache_bytes(&self, shape: CacheShape) -> usize;

    /// [`rope`](Backend::rope) of queries and keys, and [`store`](Backend::store) of these keys with their values. What is
    /// left in `keys` is of no use.
    #[expect(clippy::too_many_arguments, reason = "three operations in one")]
    fn rotate_and_store(
        &self,
        queries: &mut Self::Buffer,
        keys: &mut Self::Buffer,
        values: &Self::Buffer,
        shape: AttentionShape,
        rotary: Rotary<&Self::Buffer>,
        layer: usize,
        plan: &Self::Plan,
        cache: &mut Self::Cache,
    ) {
        self.rope(queries, shape.heads, rotary, plan, false);
        self.rope(keys, shape.kv_heads, rotary, plan, false);
        self.store(keys, values, layer, plan, cache);
    }

    /// Writes keys and values `[rows, kv_heads, head_dim]` of one block into the pages of the
    /// rows' sequences.
    fn store(
        &self,
        keys: &Self::Buffer,
        values: &Self::Buffer,
        layer: usize,
        plan: &Self::Plan,
        cache: &mut Self::Cache,
    );

    /// Causal attention of each row over its sequence, from position 0 or the start of its window
    /// to its own position, all of which the cache already holds.
    ///
    /// `queries` and `y` are `[rows, heads, head_dim]`; scores are divided by `sqrt(head_dim)`. The
    /// shape agrees with the cache's.
    fn attend(
        &self,
        queries: &Self::Buffer,
        shape: AttentionShape,
        layer: usize,
        plan: &Self::Plan,
        cache: &Self::Cache,
        y: &mut Self::Buffer,
    );

    /// Returns how many rows of logits are held at a time for tokens to be drawn from.
    fn draw_rows(&self) -> usize {
        64
    }

    /// Draws a token from each row of logits `[draws.len(), vocab]`, and returns with it what
    /// [`logprobs_of_logits`](Backend::logprobs_of_logits) says of it, for which there is one wait; none where the
    /// device does not draw, and the caller does it from a view of the logits.
    fn draw(
        &self,
        logits: &Self::Buffer,
        vocab: usize,
        draws: &[TokenDraw],
    ) -> Result<Option<Vec<(u32, TokenLogprob)>>, BackendError> {
        let _ = (logits, vocab, draws);
        Ok(None)
    }

    /// Returns what the output head says of one target for each row, without ever holding
    /// `[rows, vocab]`.
    ///
    /// `hidden` is `[rows, inputs]` after the last norm, `head` is `[vocab, inputs]`, and every
    /// target is below `vocab`.
    fn logprobs(
        &self,
        hidden: &Self::Buffer,
        head: &Self::Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError>;

    /// Returns the same, bit for bit, from the rows' logits `[rows, vocab]`, which [`linear`] made
    /// of `hidden` and `head`.
    ///
    /// [`linear`]: Backend::linear
    fn logprobs_of_logits(
        &self,
        logits: &Self::Buffer,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError>;
}

/// The number format in which a weight is kept. Sums and gradients are f32 with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// As the checkpoint has it: the exact mode.
    #[default]
    F32,
    /// Rounded to bf16, which is exact for checkpoints in bf16; half the memory. Products use the
    /// processor's bf16 instructions where it has them, which round the rows too, and perhaps keys
    /// and values.
    Bf16,
    /// Rounded to eight bits in blocks of 32 inputs with a scale each, a quarter of the memory. The
    /// rows of a product are rounded likewise. For generation and scoring.
    Int8,
}

impl WeightType {
    /// Every type with its name.
    pub const ALL: [(&'static str, WeightType); 3] =
        [("f32", WeightType::F32), ("bf16", WeightType::Bf16), ("int8", WeightType::Int8)];

    /// Returns its name, for example `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
            WeightType::Int8 => "int8",
        }
    }
}

impl std::str::FromStr for WeightType {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightType, String> {
        let found = WeightType::ALL.iter().find(|(name, _)| *name == text);
        found.map(|&(_, weight_type)| weight_type).ok_or("expected `f32`, `bf16` or `int8`".into())
    }
}

impl std::fmt::Display for WeightType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operation does with what its output held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Overwrite it.
    Set,
    /// Add to it.
    Add,
}

/// The shape of a key and value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Number of blocks.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of pages, each for [`PAGE`] positions in every block.
    pub pages: usize,
    /// How the model's weights are kept: a device may round keys and values where these are rounded.
    pub weight_type: WeightType,
}

impl CacheShape {
    /// Returns the shape of a cache with so many pages for a model.
    pub fn of(spec: &Spec, weight_type: WeightType, pages: usize) -> CacheShape {
        let Spec { layers, kv_heads, head_dim, .. } = *spec;
        CacheShape { layers, kv_heads, head_dim, pages, weight_type }
    }
}

/// The sizes of an attention over heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads; head `h` attends to key and value head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How many positions a row sees, its own and those just before it; at least 1. Without a
    /// window it sees all from position 0.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Returns the first position that the row at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// How [`Backend::draw`] draws a token; the names and meanings are those of Hugging Face's `generate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenDraw {
    /// 0 takes the token with the largest logit, the lowest of equals.
    pub temperature: f64,
    /// In (0, 1].
    pub top_p: f64,
    /// 0 keeps every token.
    pub top_k: u32,
    /// The draw, in [0, 1).
    pub uniform: f64,
}

/// What the output head says of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Log-probability of the target, in nats; never positive.
    pub logprob: f32,
    /// Log of the sum of the exponentials of all logits.
    pub log_sum: f32,
    /// Entropy of the whole distribution, in nats.
    pub entropy: f32,
    /// Mean of all logits.
    pub mean_logit: f32,
}

/// Cosines and sines for [`Backend::rope`], each `[positions, head_dim / 2]`.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<T> {
    /// Cosines.
    pub cos: T,
    /// Sines.
    pub sin: T,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of positions.
    pub positions: usize,
}

impl<T> Rotary<T> {
    /// Returns the same over borrowed tables.
    pub fn as_ref(&self) -> Rotary<&T> {
        let Rotary { cos, sin, head_dim, positions } = self;
        Rotary { cos, sin, head_dim: *head_dim, positions: *positions }
    }

    /// Returns how many numbers both tables have.
    pub fn len(head_dim: usize, positions: usize) -> usize {
        positions * head_dim
    }

    /// Computes the tables in f64 from frequencies in radians a position.
    pub fn new<B: Backend<Buffer = T>>(
        backend: &B,
        frequencies: &[f64],
        positions: usize,
    ) -> Result<Self, BackendError> {
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..positions)
                .flat_map(|p| frequencies.iter().map(move |w| f(p as f64 * w) as f32))
                .collect()
        };
        Ok(Rotary {
            cos: backend.upload(&table(f64::cos))?,
            sin: backend.upload(&table(f64::sin))?,
            head_dim: 2 * frequencies.len(),
            positions,
        })
    }
}

/// Why a device could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// There is not enough memory.
    #[error("{device} has no room for {bytes} more bytes")]
    OutOfMemory {
        /// Name of the device, for example `cpu`.
        device: String,
        /// Size of the allocation.
        bytes: usize,
    },
    /// The device or its driver failed.
    #[error("{device} failed: {message}")]
    Device {
        /// Name of the device, for example `cuda:0`.
        device: String,
        /// What the driver says.
        message: String,
    },
}
