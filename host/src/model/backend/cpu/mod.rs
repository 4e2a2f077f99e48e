//! The processor as a device.
//!
//! Kernels run on as many threads as rayon's current pool has, with helpers of their own (`threads`).

use std::borrow::Cow;
use std::ops::Range;

use super::{
    AttentionShape, Backend, BackendError, CacheShape, Rotary, Segment, TokenLogprob, WeightType,
    Write,
};

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backward;
mod buffer;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod head;
mod int8;
mod matrix;
mod pages;
mod pair_gradient;
mod product;
mod room;
mod scratch;
pub(crate) mod simd;
mod threads;
mod tile;
mod training_attention;
#[cfg(target_arch = "x86_64")]
mod trial;
#[cfg(test)]
pub(crate) mod way;
mod weight_gradient;

pub(crate) use elementwise::exp_weights;
pub(crate) use threads::over_parts;

pub use attention::Cache;
pub use buffer::Buffer;
pub use matrix::Matrix;
pub use room::Room;
pub use simd::Isa;

/// The processor.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    pub(crate) isa: Isa,
    /// Where its memory ends before the machine's does.
    room: Option<&'static Room>,
}

impl From<Isa> for Cpu {
    fn from(isa: Isa) -> Cpu {
        Cpu { isa, room: None }
    }
}

impl Cpu {
    /// Returns the processor with the best instructions it has.
    pub fn new() -> Cpu {
        Isa::detect().into()
    }

    /// Returns the processor without special instructions, to compare with.
    pub fn portable() -> Cpu {
        Isa::Portable.into()
    }

    /// Returns the processor with AVX2 and FMA, where it has them, to compare with.
    pub fn avx2() -> Option<Cpu> {
        #[cfg(target_arch = "x86_64")]
        return Isa::all().contains(&Isa::Avx2).then_some(Isa::Avx2.into());
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// Returns which instructions the kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new()
    }
}

/// The segments of a pass.
#[derive(Clone, Debug)]
pub struct CpuPlan {
    /// The segments as they were given.
    pub(crate) segments: Vec<Segment>,
    /// Each row's position in its sequence.
    pub(crate) positions: Vec<u32>,
    /// Rows cut into tasks for attention over the cache.
    pub(crate) rows: Vec<attention::Rows>,
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Plan = CpuPlan;
    type Cache = Cache;

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| work())
    }

    fn zeros(&self, len: usize) -> Result<Buffer, BackendError> {
        self.allocate(size_of::<f32>() * len)?;
        Ok(Buffer::zeros(len))
    }

    fn upload(&self, values: &[f32]) -> Result<Buffer, BackendError> {
        self.allocate(size_of_val(values))?;
        Ok(Buffer::from(values))
    }

    fn write(&self, values: &[f32], buffer: &mut Buffer, offset: usize) {
        buffer[offset..offset + values.len()].copy_from_slice(values);
    }

    fn view<'a>(
        &self,
        buffer: &'a Buffer,
        range: Range<usize>,
    ) -> Result<Cow<'a, [f32]>, BackendError> {
        Ok(Cow::Borrowed(&buffer[range]))
    }

    fn len(&self, buffer: &Buffer) -> usize {
        buffer.len()
    }

    fn pack(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
    ) -> Result<Matrix, BackendError> {
        Ok(Matrix::new(values, outputs, inputs, weight_type))
    }

    fn matrix_bytes(&self, outputs: usize, inputs: usize, weight_type: WeightType) -> usize {
        Matrix::bytes(outputs, inputs, weight_type)
    }

    fn repack(&self, values: &Buffer, scale: f32, matrix: &mut Matrix) {
        matrix.fill(values, scale);
    }

    fn shape(&self, matrix: &Matrix) -> (usize, usize) {
        matrix.shape()
    }

    fn plan(&self, segments: &[Segment]) -> Result<CpuPlan, BackendError> {
        let positions = segments.iter().flat_map(|segment| {
            (segment.position..segment.position + segment.rows).map(|position| position as u32)
        });
        let positions = positions.collect();
        let rows = attention::Rows::cut(segments);
        Ok(CpuPlan { segments: segments.to_vec(), positions, rows })
    }

    fn embed(&self, embedding: &Matrix, tokens: &[u32], y: &mut Buffer) {
        let (_, width) = embedding.shape();
        elementwise::over_rows(&mut y[..tokens.len() * width], width, |first, y| {
            for (y, &token) in y.chunks_exact_mut(width).zip(&tokens[first..]) {
                embedding.row(token as usize, y);
            }
        });
    }

    fn linear(&self, x: &Buffer, rows: usize, weight: &Matrix, y: &mut Buffer, write: Write) {
        gemm::linear(self.isa, x, rows, weight, y, write);
    }

    fn product_bytes(&self, rows: usize, terms: usize, columns: usize) -> usize {
        size_of::<f32>() * gemm::scratch_len(rows, terms, columns)
    }

    fn linear_backward(
        &self,
        dy: &Buffer,
        rows: usize,
        weight: &Matrix,
        dx: &mut Buffer,
        write: Write,
    ) {
        gemm::linear_backward(self.isa, dy, rows, weight, dx, write);
    }

    fn add_bias(&self, bias: &Buffer, rows: usize, y: &mut Buffer) {
        elementwise::add_bias(bias, rows, y);
    }

    fn rms_norm(&self, x: &Buffer, rows: usize, weight: &Buffer, eps: f32, y: &mut Buffer) {
        elementwise::rms_norm(self.isa, x, rows, weight, eps, y);
    }

    fn rope(
        &self,
        x: &mut Buffer,
        heads: usize,
        rotary: Rotary<&Buffer>,
        plan: &CpuPlan,
        inverse: bool,
    ) {
        let Rotary { cos, sin, head_dim, .. } = rotary;
        elementwise::rope(self.isa, x, heads, head_dim, &plan.positions, cos, sin, inverse);
    }

    fn swiglu(&self, gate: &Buffer, up: &Buffer, len: usize, y: &mut Buffer) {
        elementwise::swiglu(self.isa, gate, up, &mut y[..len]);
    }

    fn gather(&self, x: &Buffer, width: usize, rows: &[usize], y: &mut Buffer) {
        elementwise::over_rows(&mut y[..rows.len() * width], width, |first, y| {
            for (y, &row) in y.chunks_exact_mut(width).zip(&rows[first..]) {
                y.copy_from_slice(&x[row * width..(row + 1) * width]);
            }
        });
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, BackendError> {
        self.allocate(Cache::bytes(self.isa, shape))?;
        Ok(Cache::new(self.isa, shape))
    }

    fn cache_bytes(&self, shape: CacheShape) -> usize {
        Cache::bytes(self.isa, shape)
    }

    fn store(
        &self,
        keys: &Buffer,
        values: &Buffer,
        layer: usize,
        plan: &CpuPlan,
        cache: &mut Cache,
    ) {
        attention::store(keys, values, layer, plan, cache);
    }

    fn attend(
        &self,
        queries: &Buffer,
        shape: AttentionShape,
        layer: usize,
        plan: &CpuPlan,
        cache: &Cache,
        y: &mut Buffer,
    ) {
        attention::attend(self.isa, queries, shape, layer, plan, cache, y);
    }

    fn logprobs(
        &self,
        hidden: &Buffer,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        Ok(head::logprobs(self.isa, hidden, head, targets))
    }
    fn logprobs_of_logits(
        &self,
        logits: &Buffer,
        vocab: usize,
        targets: &[u32],
    ) -> Result<Vec<TokenLogprob>, BackendError> {
        Ok(head::logprobs_of_logits(self.isa, logits, vocab, targets))
    }
}
