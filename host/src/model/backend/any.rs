//! The device that a user chose: one type for all that the build has.
//!
//! Each operation is handed on to the device with what belongs to it; kernels and passes see the
//! device's own types.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use super::cpu::Cpu;
#[cfg(feature = "cuda")]
use super::cuda::Cuda;
use super::{
    AttentionShape, Backend, BackendError, CacheShape, Room, Rotary, Segment, TokenDraw,
    TokenLogprob, WeightType, Write,
};

/// The processor or a GPU. Cheap to clone.
#[derive(Clone)]
pub enum AnyDevice {
    /// The processor.
    Cpu(Cpu),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Cuda>),
}

impl AnyDevice {
    /// Returns the processor.
    pub fn cpu() -> AnyDevice {
        AnyDevice::Cpu(Cpu::new())
    }

    /// Opens the NVIDIA GPU with this number, for models whose weights are of this type. Where there is
    /// none, or the build has no kernels for any, the error is a sentence that says so.
    pub fn cuda(ordinal: usize, weight_type: WeightType) -> Result<AnyDevice, BackendError> {
        #[cfg(feature = "cuda")]
        return Ok(AnyDevice::Cuda(Arc::new(Cuda::open(ordinal, weight_type)?)));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = weight_type;
            let message = "this build runs on the CPU only".into();
            Err(BackendError::Device { device: format!("cuda:{ordinal}"), message })
        }
    }

    /// Returns device, number type and kernels, for example `cpu f32 avx2` or
    /// `cuda bf16 sm_90, 132 processors, cublaslt 13.1.0`: what else than the inputs decides the last bits
    /// of a result.
    pub fn class(&self, weight_type: WeightType) -> String {
        match self {
            AnyDevice::Cpu(cpu) => format!("cpu {weight_type} {}", cpu.isa().class(weight_type)),
            #[cfg(feature = "cuda")]
            AnyDevice::Cuda(cuda) => format!("cuda {weight_type} {}", cuda.class()),
        }
    }

    /// Returns how many bytes of the device's own memory this process may come to hold, what it holds
    /// now included; none where it works in the machine's, or does not say.
    pub fn available_memory(&self) -> Option<u64> {
        match self {
            AnyDevice::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            AnyDevice::Cuda(cuda) => cuda.memory().map(|(free, _)| free as u64 + cuda.held()),
        }
    }

    /// Returns how many bytes of the device's own memory this process holds, such as what a library works in;
    /// none where it works in the machine's.
    pub fn held_memory(&self) -> Option<u64> {
        match self {
            AnyDevice::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            AnyDevice::Cuda(cuda) => Some(cuda.held()),
        }
    }

    /// Returns whether it works in the machine's memory.
    pub fn shares_memory(&self) -> bool {
        matches!(self, AnyDevice::Cpu(_))
    }
}

impl fmt::Debug for AnyDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.class(WeightType::F32))
    }
}

mod training;

/// What belongs to one of the devices.
trait Part<D> {
    type Own;
    fn own(&self) -> &Self::Own;
    fn own_mut(&mut self) -> &mut Self::Own;
    fn part(own: Self::Own) -> Self;
}

/// A mistake in the program: an engine has one device.
#[cfg(feature = "cuda")]
const ELSEWHERE: &str = "this belongs to another device";

macro_rules! part_of {
    ($name:ident, $variant:ident, $device:ty) => {
        impl Part<$device> for $name {
            type Own = <$device as Backend>::$name;

            fn own(&self) -> &Self::Own {
                match self {
                    $name::$variant(own) => own,
                    #[cfg(feature = "cuda")]
                    _ => panic!("{ELSEWHERE}"),
                }
            }

            fn own_mut(&mut self) -> &mut Self::Own {
                match self {
                    $name::$variant(own) => own,
                    #[cfg(feature = "cuda")]
                    _ => panic!("{ELSEWHERE}"),
                }
            }

            fn part(own: Self::Own) -> Self {
                $name::$variant(own)
            }
        }
    };
}

macro_rules! parts {
    ($($(#[$doc:meta])* $name:ident),*) => { $(
        $(#[$doc])*
        pub enum $name {
            /// The processor's.
            Cpu(<Cpu as Backend>::$name),
            /// A GPU's.
            #[cfg(feature = "cuda")]
            Cuda(<Cuda as Backend>::$name),
        }

        part_of!($name, Cpu, Cpu);
        #[cfg(feature = "cuda")]
        part_of!($name, Cuda, Cuda);
    )* };
}

parts! {
    /// Numbers on the device.
    Buffer,
    /// A weight on the device.
    Matrix,
    /// The segments of a pass on the device.
    Plan,
    /// Keys and values on the device.
    Cache
}

/// What `part` is to the device.
fn of<'a, D, T: Part<D>>(_device: &D, part: &'a T) -> &'a T::Own {
    part.own()
}

fn of_mut<'a, D, T: Part<D>>(_device: &D, part: &'a mut T) -> &'a mut T::Own {
    part.own_mut()
}

/// What the device's `own` is to everybody else.
fn part<D, T: Part<D>>(_device: &D, own: T::Own) -> T {
    T::part(own)
}

/// Does the same with each device.
macro_rules! on {
    ($self:expr, $device:ident => $body:expr) => {
        match $self {
            AnyDevice::Cpu($device) => $body,
            #[cfg(feature = "cuda")]
            AnyDevice::Cuda(cuda) => {
                let $device: &Cuda = cuda;
                $body
            }
        }
    };
}
use on;

impl Backend for AnyDevice {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Plan = Plan;
    type Cache = Cache;

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        on!(self, d => d.enter(work))
    }

    fn repeating<R>(&self, work: impl FnOnce() -> R) -> R {
        on!(self, d => d.repeating(work))
    }

    fn end_repeating(&self) {
        on!(self, d => d.end_repeating())
    }

    fn attention_bytes(&self, shape: AttentionShape, rows: usize, positions: usize) -> usize {
        on!(self, d => d.attention_bytes(shape, rows, positions))
    }

    fn zeros(&self, len: usize) -> Result<Buffer, BackendError> {
        on!(self, d => d.zeros(len).map(|own| part(d, own)))
    }

    fn make_room(&self, room: Room) -> Result<Buffer, BackendError> {
        on!(self, d => d.make_room(room).map(|own| part(d, own)))
    }

    fn room_bytes(&self, room: Room) -> usize {
        on!(self, d => d.room_bytes(room))
    }

    fn upload(&self, values: &[f32]) -> Result<Buffer, BackendError> {
        on!(self, d => d.upload(values).map(|own| part(d, own)))
    }

    fn write(&self, values: &[f32], buffer: &mut Buffer, offset: usize) {
        on!(self, d => d.write(values, of_mut(d, buffer), offset))
    }

    fn view<'a>(
        &self,
        buffer: &'a Buffer,
        range: Range<usize>,
    ) -> Result<Cow<'a, [f32]>, BackendError> {
        on!(self, d => d.view(of(d, buffer), range))
    }

    fn len(&self, buffer: &Buffer) -> usize {
        on!(self, d => d.len(of(d, buffer)))
    }

    fn pack(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Matrix, BackendError> {
        on!(self, d => d.pack(values, outputs, inputs, weight_type).map(|own| part(d, own)))
    }

    fn pack_layer(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Matrix, BackendError> {
        on!(self, d => d.pack_layer(values, outputs, inputs, weight_type).map(|own| part(d, own)))
    }

    fn adapter_type(&self) -> WeightType {
        on!(self, d => d.adapter_type())
    }

    fn matrix_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        on!(self, d => d.matrix_bytes(outputs, inputs, weight_type))
    }

    fn layer_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        on!(self, d => d.layer_bytes(outputs, inputs, weight_type))
    }

    fn repack(&self, values: &Buffer, scale: f32, matrix: &mut Matrix) {
        on!(self, d => d.repack(of(d, values), scale, of_mut(d, matrix)))
    }

    fn shape(&self, matrix: &Matrix) -> (usize, usize) {
        on!(self, d => d.shape(of(d, matrix)))
    }

    fn plan(&self, segments: &[Segment]) -> Result<Plan, BackendError> {
        on!(self, d => d.plan(segments).map(|own| part(d, own)))
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], y: &mut Buffer) {
        on!(self, d => d.embed(of(d, embedding), tokens, of_mut(d, y)))
    }

    fn linear(&self, x: &Buffer, rows: usize, weight: &Matrix, y: &mut Buffer, write: Write) {
        on!(self, d => d.linear(of(d, x), rows, of(d, weight), of_mut(d, y), write))
    }

    fn linear_each(&self, x: &Buffer, rows: usize, products: &mut [(&Matrix, &mut Buffer)]) {
        on!(self, d => {
            let own = products.iter_mut().map(|(weight, y)| (of(d, *weight), of_mut(d, *y)));
            d.linear_each(of(d, x), rows, &mut own.collect::<Vec<_>>())
        })
    }

    fn product_bytes(&self, rows: usize, terms: usize, columns: usize) -> usize {
        on!(self, d => d.product_bytes(rows, terms, columns))
    }

    fn linear_backward(
        &self,
        dy: &Buffer,
        rows: usize,
        weight: &Matrix,
        dx: &mut Buffer,
        write: Write,
    ) {
        on!(self, d => d.linear_backward(of(d, dy), rows, of(d, weight), of_mut(d, dx), write))
    }

    fn add_bias(&self, bias: &Buffer, rows: usize, y: &mut Buffer) {
        on!(self, d => d.add_bias(of(d, bias), rows, of_mut(d, y)))
    }

    fn rms_norm(&self, x: &Buffer, rows: usize, weight: &Buffer, eps: f32, y: &mut Buffer) {
        on!(self, d => d.rms_norm(of(d, x), rows, of(d, weight), eps, of_mut(d, y)))
    }

    fn rope(
        &self,
        x: &mut Buffer,
        heads: usize,
        rotary: Rotary<&Buffer>,
        plan: &Plan,
        inverse: bool,
    ) {
        on!(self, d => {
            let Rotary { cos, sin, head_dim, positions } = rotary;
            let rotary = Rotary { cos: of(d, cos), sin: of(d, sin), head_dim, positions };
            d.rope(of_mut(d, x), heads, rotary, of(d, plan), inverse)
        })
    }

    fn swiglu(&self, gate: &Buffer, up: &Buffer, len: usize, y: &mut Buffer) {
        on!(self, d => d.swiglu(of(d, gate), of(d, up), len, of_mut(d, y)))
    }

    fn gather(&self, x: &Buffer, width: usize, rows: &[usize], y: &mut Buffer) {
        on!(self, d => d.gather(of(d, x), width, rows, of_mut(d, y)))
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, BackendError> {
        on!(self, d => d.cache(shape).map(|own| part(d, own)))
    }

    fn cache_bytes(&self, shape: CacheShape) -> usize {
        on!(self, d => d.cache_bytes(shape))
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
        on!(self, d => {
            let Rotary { cos, sin, head_dim, positions } = rotary;
            let rotary = Rotary { cos: of(d, cos), sin: of(d, sin), head_dim, positions };
            let (queries, keys) = (of_mut(d, queries), of_mut(d, keys));
            let (plan, cache) = (of(d, plan), of_mut(d, cache));
            d.rotate_and_store(queries, keys, of(d, values), shape, rotary, layer, plan, cache)
        })
    }

    fn store(&self, keys: &Buffer, values: &Buffer, layer: usize, plan: &Plan, cache: &mut Cache) {
        on!(self, d => {
            d.store(of(d, keys), of(d, values), layer, of(d, plan), of_mut(d, cache))
        })
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
        on!(self, d => {
            d.attend(of(d, queries), shape, layer, of(d, plan), of(d, cache), of_mut(d, y))
        })
    }

    fn draw_rows(&self) -> usize {
        on!(self, d => d.draw_rows())
    }

    fn draw(
        &self,
        logits: &Buffer,
        vocab: usize,
        draws: &[TokenDraw],
    ) -> Result<Option<Vec<(u32, TokenLogprob)>>, BackendError> {
        on!(self, d => d.draw(of(d, logits), vocab, draws))
    }

    fn logprobs(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        on!(self, d => d.logprobs(of(d, hidden), of(d, head), targets))
    }

    fn logprobs_of_logits(
        &self,
        logits: &Buffer,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        on!(self, d => d.logprobs_of_logits(of(d, logits), vocab, targets))
    }
}
