//! NVIDIA GPUs as devices.
//!
//! The driver and cuBLASLt are loaded when a device is opened, so the program starts without them.
//! Products of training are the library's (`product`), those of generation and scoring, where weights are bf16, and all
//! else are kernels of our own (`kernels/`), compiled into the program as machine code. Weights are row-major, f32 or bf16. A device for f32 rounds nothing; one
//! for bf16 rounds to bf16 what its products read: rows, weights that are f32 themselves (those that are
//! trained, and adapters), keys and values of the cache. What products read is kept in bf16 where it is made ([`Room::Operands`]). Sums, the residual stream and all else are f32.
//!
//! Everything is done on one stream, in order, and no sum depends on which block is done first:
//! the same calls on the same kind of card give the same bits. What [`super`] says about the order of
//! additions holds for generation and scoring, whose passes have up to 2048 rows; training passes may differ in
//! their last bits with their number of rows.

use std::borrow::Cow;
use std::ops::Range;
#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::{
    AttentionShape, Backend, BackendError, CacheShape, PAGE, Room, Rotary, Segment, TokenDraw,
    TokenLogprob, WeightType, Write,
};
use argument::Argument;
use attention::shape_argument;
use buffer::{Place, margin, read_as, read_rows, stamp};
use driver::{Device, Memory};
use grid::narrow;
use head::Said;
use nccl::Link;
use passes::Passes;
use product::{Kind, Number, Products, Rounded};

mod argument;
mod attention;
mod buffer;
mod card;
mod driver;
mod grid;
mod head;
mod library;
mod matrix;
mod nccl;
mod passes;
mod plan;
mod product;
#[cfg(test)]
pub(crate) mod tests;
mod training;

pub use buffer::{Buffer, Cache};
pub use card::{Card, cards};
pub use driver::chips;
pub use library::{Library, Version, cublaslt, driver};
pub use matrix::Matrix;
pub use nccl::{Nccl, nccl};
pub use plan::Plan;

/// The arguments of a kernel.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &mut [$(Argument::from($argument)),*] };
}
use arguments;

/// Positions whose sums one block of threads forms in attention over the cache.
const CHUNK: usize = 256;
/// Rows of logits that tokens are drawn from at a time.
const DRAW_ROWS: usize = 256;
/// Keys that attention takes together.
const TILE: usize = 32;

/// An NVIDIA GPU.
pub struct Cuda {
    device: Arc<Device>,
    products: Arc<Products>,
    cublaslt: Version,
    rounded: Mutex<Rounded>,
    /// What is kept of passes that are alike; none while a thread has it.
    passes: Mutex<Option<Passes>>,
    /// The way to devices of other processes, where there is one.
    link: Mutex<Option<Link>>,
    /// Graphs that were launched.
    #[cfg(test)]
    graphs: AtomicU64,
    /// Whether what products read is rounded to bf16, as weights are.
    rounds: bool,
}

impl Cuda {
    /// Opens the GPU with this number for models whose weights are of this type; fails with a sentence
    /// where there is none, or no driver or library.
    pub fn open(ordinal: usize, weight_type: WeightType) -> Result<Cuda, BackendError> {
        let rounds = weight_type != WeightType::F32;
        let fail = |message| driver::failed(ordinal, message);
        // Of the driver first, without which there is nothing to have cuBLASLt for.
        library::driver().map_err(fail)?;
        let cublaslt = library::cublaslt().map_err(fail)?.version;
        let device = Arc::new(Device::open(ordinal)?);
        let products = Arc::new(Products::new(&device)?);
        let passes = Mutex::new(Some(Passes::default()));
        let (rounded, link) = Default::default();
        Ok(Cuda {
            device,
            products,
            cublaslt,
            rounded,
            passes,
            link,
            #[cfg(test)]
            graphs: AtomicU64::new(0),
            rounds,
        })
    }

    /// Returns what decides the last bits of a result beside the numbers of the weights, for example
    /// `sm_90, 132 processors, cublaslt 13.1.0`: kernels are picked by all three.
    pub fn class(&self) -> String {
        let Device { capability: (major, minor), processors, .. } = &*self.device;
        format!("sm_{major}{minor}, {processors} processors, cublaslt {}", self.cublaslt)
    }

    /// Returns free and total memory in bytes, where the driver says.
    pub fn memory(&self) -> Option<(usize, usize)> {
        self.device.memory()
    }

    /// Returns how many bytes of memory this process holds, in use or kept for later.
    pub fn held(&self) -> u64 {
        self.device.held()
    }

    /// Waits until everything is done that was asked for.
    pub fn wait(&self) -> Result<(), BackendError> {
        self.device.wait()
    }

    /// Returns memory to work in until the next is asked for, where a failure can only be remembered.
    fn room(&self, bytes: usize) -> Option<Memory> {
        Memory::or_remember(&self.device, passes::scratch(&self.device, bytes))
    }

    /// Returns memory that nothing else works in, where a failure can only be remembered.
    fn own(&self, bytes: usize) -> Option<Memory> {
        Memory::or_remember(&self.device, Memory::new(&self.device, bytes))
    }

    /// Brings values to the device where a failure can only be remembered.
    fn bring<T: Copy>(&self, values: &[T]) -> Option<Memory> {
        Memory::or_remember(&self.device, passes::bring(&self.device, values))
    }
}

impl Backend for Cuda {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Plan = Plan;
    type Cache = Cache;

    fn repeating<R>(&self, work: impl FnOnce() -> R) -> R {
        self.noting(work)
    }

    fn end_repeating(&self) {
        self.forget();
    }

    fn zeros(&self, len: usize) -> Result<Buffer, BackendError> {
        self.device.check()?;
        let memory = Memory::new(&self.device, size_of::<f32>() * len)?;
        memory.clear(memory.bytes());
        Ok(Buffer::new(memory, len, Number::F32))
    }

    fn make_room(&self, room: Room) -> Result<Buffer, BackendError> {
        match room {
            Room::Operands(_) | Room::Rows { .. } if self.rounds => {
                self.device.check()?;
                let memory = Memory::new(&self.device, self.room_bytes(room))?;
                memory.clear(memory.bytes());
                let buffer = Buffer::new(memory, room.numbers(), Number::Bf16);
                Ok(match room {
                    Room::Rows { width, .. } if margin(&[width]) > 0 => buffer.with_margin(width),
                    _ => buffer,
                })
            }
            room => self.zeros(room.numbers()),
        }
    }

    fn room_bytes(&self, room: Room) -> usize {
        match room {
            Room::Operands(len) if self.rounds => Number::Bf16.bytes() * len,
            Room::Rows { rows, width } if self.rounds => {
                Number::Bf16.bytes() * rows * (width + margin(&[width]))
            }
            room => Number::F32.bytes() * room.numbers(),
        }
    }

    fn upload(&self, values: &[f32]) -> Result<Buffer, BackendError> {
        self.device.check()?;
        Ok(Buffer::new(Memory::of(&self.device, values)?, values.len(), Number::F32))
    }

    fn write(&self, values: &[f32], buffer: &mut Buffer, offset: usize) {
        buffer.written(offset + values.len());
        buffer.memory.write(values, size_of::<f32>() * offset);
    }

    fn view<'a>(
        &self,
        buffer: &'a Buffer,
        range: Range<usize>,
    ) -> Result<Cow<'a, [f32]>, BackendError> {
        if let Some(width) = buffer.width {
            let count = range.end.div_ceil(width);
            let rows = read_rows(&buffer.memory, buffer.number, [width, buffer.margin()], count)?;
            return Ok(Cow::Owned(rows[range].to_vec()));
        }
        let at = buffer.place(range.end).number.bytes() * range.start;
        Ok(Cow::Owned(read_as(&buffer.memory, buffer.number, at, range.len())?))
    }

    fn len(&self, buffer: &Buffer) -> usize {
        buffer.len
    }

    fn pack(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Matrix, BackendError> {
        self.pack_with(values, outputs, inputs, weight_type, 0)
    }

    fn pack_layer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Matrix, BackendError> {
        let margin = self.layer_margin(outputs, inputs, weight_type);
        self.pack_with(values, outputs, inputs, weight_type, margin)
    }

    fn layer_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        let margin = self.layer_margin(outputs, inputs, weight_type);
        self.matrix_bytes(outputs + margin, inputs + margin, weight_type)
    }

    fn adapter_type(&self) -> WeightType {
        if self.rounds { WeightType::Bf16 } else { WeightType::F32 }
    }

    fn matrix_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        let number = Number::of(weight_type);
        let rounded = if self.rounds && number == Number::F32 { Number::Bf16.bytes() } else { 0 };
        (number.bytes() + rounded) * outputs * inputs
    }

    fn repack(&self, values: &Buffer, scale: f32, matrix: &mut Matrix) {
        let len = matrix.outputs * matrix.inputs;
        let (from, to) = (values.read(len), matrix.memory.address());
        match matrix.number {
            Number::F32 => {
                self.device.each("add_scaled", len, arguments![from, scale, len, to, false]);
            }
            Number::Bf16 => self.round_rows(from, scale, matrix.outputs, matrix.operand()),
        }
        self.round_weight(matrix);
        matrix.stamp = stamp();
    }

    fn shape(&self, matrix: &Matrix) -> (usize, usize) {
        (matrix.outputs, matrix.inputs)
    }

    fn plan(&self, segments: &[Segment]) -> Result<Plan, BackendError> {
        self.device.check()?;
        Plan::new(&self.device, segments)
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], y: &mut Buffer) {
        let (width, len) = (embedding.inputs, tokens.len() * embedding.inputs);
        let Some(tokens) = self.bring(tokens) else { return };
        let name = match embedding.number {
            Number::F32 => "embed_f32",
            Number::Bf16 => "embed_bf16",
        };
        let (from, to) = (embedding.memory.address(), y.written(len));
        self.device.each(name, len, arguments![from, tokens.address(), width, len, to]);
    }

    fn linear(&self, x: &Buffer, rows: usize, weight: &Matrix, y: &mut Buffer, write: Write) {
        let y = y.written_place(rows * weight.outputs);
        self.product(Kind::Forward, x, 0, rows, weight, y, write);
    }

    fn linear_each(&self, x: &Buffer, rows: usize, products: &mut [(&Matrix, &mut Buffer)]) {
        self.products_of(x, rows, products);
    }

    fn product_bytes(&self, rows: usize, terms: usize, columns: usize) -> usize {
        let narrow = if self.rounds { self.narrow_bytes(rows, columns) } else { 0 };
        size_of::<half::bf16>() * rows * (terms + margin(&[terms])) + narrow
    }

    fn linear_backward(
        &self,
        dy: &Buffer,
        rows: usize,
        weight: &Matrix,
        dx: &mut Buffer,
        write: Write,
    ) {
        let dx = dx.written_place(rows * weight.inputs);
        self.product(Kind::Backward, dy, 0, rows, weight, dx, write);
    }

    fn add_bias(&self, bias: &Buffer, rows: usize, y: &mut Buffer) {
        let (width, len) = (bias.len, rows * bias.len);
        let (bias, y) = (bias.read(width), y.written_place(len));
        let name = y.pick("add_bias", "add_bias_bf16");
        self.device.each(name, len, arguments![bias, width, len, y.address]);
    }

    fn rms_norm(&self, x: &Buffer, rows: usize, weight: &Buffer, eps: f32, y: &mut Buffer) {
        let (width, len) = (weight.len, rows * weight.len);
        let (x, weight, y) = (x.place(len), weight.read(width), y.written_rows(rows, width));
        let name = match (x.number, y.number) {
            (Number::F32, Number::F32) => "rms_norm",
            (Number::F32, Number::Bf16) => "rms_norm_rounded",
            (Number::Bf16, _) => "rms_norm_bf16",
        };
        assert!(x.number == Number::F32 || y.number == Number::Bf16, "a norm widens nothing");
        let (x, y, pitch) = (x.address, y.address, y.pitch());
        let arguments = arguments![x, rows, width, weight, eps, y, pitch, narrow(width)];
        self.rows_by_four(name, rows, width, arguments);
    }

    fn rope(
        &self,
        x: &mut Buffer,
        heads: usize,
        rotary: Rotary<&Buffer>,
        plan: &Plan,
        inverse: bool,
    ) {
        let Rotary { cos, sin, head_dim, .. } = rotary;
        let len = plan.rows * heads * (head_dim / 2);
        let (x, cos, sin) = (x.written_place(2 * len), cos.read(cos.len), sin.read(sin.len));
        let sign = if inverse { -1f32 } else { 1f32 };
        let positions = plan.positions();
        let arguments = arguments![x.address, heads, head_dim, positions, cos, sin, sign, len];
        self.device.each(x.pick("rope", "rope_bf16"), len, arguments);
    }

    fn swiglu(&self, gate: &Buffer, up: &Buffer, len: usize, y: &mut Buffer) {
        let (gate, up, y) = (gate.place(len), up.place(len), y.written_whole(len));
        assert!(gate.number == up.number, "both of one type");
        let (gate, up, number) = (gate.address, up.address, gate.number);
        if number == Number::Bf16 {
            let [width, pitch] = y.apart();
            let arguments = arguments![gate, up, len, width, y.address, pitch];
            return self.over_rows("swiglu_bf16", len, y, arguments);
        }
        assert!(y.margin == 0, "generation has no rows with a margin");
        let name = if y.number == Number::F32 { "swiglu" } else { "swiglu_rounded" };
        self.device.each(name, len, arguments![gate, up, len, y.address]);
    }

    fn gather(&self, x: &Buffer, width: usize, rows: &[usize], y: &mut Buffer) {
        let len = rows.len() * width;
        let (x, y) = (x.place(x.len), y.written_place(len));
        assert!(x.number == y.number, "both of one type");
        let Some(rows) = self.bring(&narrowed(rows)) else { return };
        let arguments = arguments![x.address, width, rows.address(), len, y.address];
        self.device.each(y.pick("gather", "gather_bf16"), len, arguments);
    }

    fn attention_bytes(&self, shape: AttentionShape, rows: usize, positions: usize) -> usize {
        let AttentionShape { heads, head_dim, .. } = shape;
        // A sum for each chunk of positions, with its largest score and its weight.
        match positions.div_ceil(CHUNK) {
            0 | 1 => 0,
            chunks => size_of::<f32>() * chunks * rows * heads * (head_dim + 2),
        }
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, BackendError> {
        self.device.check()?;
        let memory = Memory::new(&self.device, self.cache_bytes(shape))?;
        Ok(Cache { memory, shape, number: Number::of(shape.weight_type) })
    }

    fn cache_bytes(&self, shape: CacheShape) -> usize {
        let CacheShape { layers, kv_heads, head_dim, pages, weight_type } = shape;
        2 * Number::of(weight_type).bytes() * layers * kv_heads * head_dim * pages * PAGE
    }

    fn rotate_and_store(
        &self,
        queries: &mut Buffer,
        keys: &mut Buffer,
        values: &Buffer,
        shape: AttentionShape,
        rotary: Rotary<&Buffer>,
        layer: usize,
        plan: &Plan,
        cache: &mut Cache,
    ) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let Rotary { cos, sin, .. } = rotary;
        let narrow = plan.rows * kv_heads * head_dim;
        let queries = queries.written(plan.rows * heads * head_dim);
        let (keys, values) = (keys.read(narrow), values.read(narrow));
        let (cos, sin, to) = (cos.read(cos.len), sin.read(sin.len), cache.layer(layer));
        let name = match cache.number {
            Number::F32 => "rotate_and_store_f32",
            Number::Bf16 => "rotate_and_store_bf16",
        };
        let len = plan.rows * (heads + 2 * kv_heads) * (head_dim / 2);
        let (positions, tables, pages) = (plan.positions(), plan.tables(), plan.pages());
        let shape = shape_argument(shape);
        let arguments =
            arguments![queries, keys, values, positions, tables, pages, shape, cos, sin, len, to];
        self.device.each(name, len, arguments);
    }

    fn store(&self, keys: &Buffer, values: &Buffer, layer: usize, plan: &Plan, cache: &mut Cache) {
        let CacheShape { kv_heads, head_dim, .. } = cache.shape;
        let len = plan.rows * kv_heads * head_dim;
        let name = match cache.number {
            Number::F32 => "store_f32",
            Number::Bf16 => "store_bf16",
        };
        let (keys, values, cache) = (keys.read(len), values.read(len), cache.layer(layer));
        let (positions, tables, pages) = (plan.positions(), plan.tables(), plan.pages());
        self.device.each(
            name,
            len,
            arguments![keys, values, positions, tables, pages, kv_heads, head_dim, len, cache],
        );
    }

    fn attend(
        &self,
        queries: &Buffer,
        shape: AttentionShape,
        layer: usize,
        plan: &Plan,
        cache: &Cache,
        y: &mut Buffer,
    ) {
        self.attend_over(queries, shape, layer, plan, cache, y);
    }

    fn draw_rows(&self) -> usize {
        DRAW_ROWS
    }

    fn draw(
        &self,
        logits: &Buffer,
        vocab: usize,
        draws: &[TokenDraw],
    ) -> Result<Option<Vec<(u32, TokenLogprob)>>, BackendError> {
        self.device.check()?;
        let rules: Vec<[f64; 4]> = draws
            .iter()
            .map(|&TokenDraw { temperature, top_p, top_k, uniform }| {
                let factor = if temperature == 0.0 { 0.0 } else { 1.0 / temperature };
                [factor, top_p, f64::from(top_k), uniform]
            })
            .collect();
        let rules = Memory::of(&self.device, &rules)?;
        let said = Said::with_targets(&self.device, draws.len())?;
        let logits = logits.read(draws.len() * vocab);
        self.draw_and_say(logits, vocab, rules.address(), &said, draws.len());
        said.hear_with_targets().map(Some)
    }

    fn logprobs(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        self.device.check()?;
        self.logprobs_in_runs(hidden, head, targets, false)
    }

    fn logprobs_of_logits(
        &self,
        logits: &Buffer,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        self.device.check()?;
        self.say_of_logits(logits.read(targets.len() * vocab), vocab, targets)
    }
}

/// Returns row numbers as kernels take them.
fn narrowed(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&row| row as u32).collect()
}
