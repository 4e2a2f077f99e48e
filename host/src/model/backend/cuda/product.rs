//! Products of matrices, by cuBLASLt.
//!
//! Products of few rows in bf16 have kernels of our own ([`narrow`]); all others are the
//! library's. It picks an algorithm for each shape, and picks another for another number of rows, which
//! changes the last bits. So that a row's result does not depend on how many others there are,
//! forward products of up to [`NARROW`] rows take one algorithm for each weight, which adds up in one go.
//! Generation and scoring stay within that. Where operands are rounded, a training pass gets what is fastest, whatever
//! its rows, and so does every backward pass.

mod beside;
mod narrow;

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{self as lt, cudaDataType_t as DataType};
use cudarc::driver::sys::CUstream;

use super::argument::Argument;
use super::buffer::{self, Operand, Rows};
use super::driver::{Device, Memory};
use super::passes::{self, Asked};
use super::{Buffer, Cuda, Matrix, Place, arguments};
use crate::model::backend::{Backend, BackendError, WeightType, Write};

/// Rows up to which the bits of a forward product do not depend on their number.
pub(super) const NARROW: usize = 2048;
/// Rows that the algorithm for up to [`NARROW`] rows is picked for.
const TYPICAL: usize = 256;
/// Bytes that the library may work in.
const WORKSPACE: usize = 32 << 20;

/// What is multiplied with what. `x` is `[rows, inputs]`, `w` `[outputs, inputs]`, `dy` `[rows, outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// `x · wᵀ`, `[rows, outputs]`.
    Forward,
    /// `dy · w`, `[rows, inputs]`.
    Backward,
    /// `dyᵀ · x`, `[outputs, inputs]`.
    Gradient,
}

/// The type of numbers: of both operands of a product, and of its result. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Number {
    F32,
    Bf16,
}

impl Number {
    /// Returns the numbers that weights of a type are kept in.
    pub(super) fn of(weight_type: WeightType) -> Number {
        match weight_type {
            WeightType::F32 => Number::F32,
            WeightType::Bf16 | WeightType::Int8 => Number::Bf16,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Number::F32 => 4,
            Number::Bf16 => 2,
        }
    }
}

/// A product: `result` = `scale` · left · right + `before` · `added`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Product {
    pub(super) kind: Kind,
    /// Of both operands.
    pub(super) number: Number,
    pub(super) rows: usize,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// Both operands, in the order of [`Kind`].
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) result: Place,
    /// Where what is added lies, of the result's type: the result itself, or something else of its shape.
    pub(super) added: u64,
    /// Whether the bits of a row must not depend on how many there are.
    pub(super) alike: bool,
    pub(super) scale: f32,
    pub(super) before: f32,
}

impl Product {
    /// `result` = `added` + rows times a weight, going forward or backward, by what is fastest.
    pub(super) fn with_weight(
        kind: Kind,
        left: Rows,
        rows: usize,
        weight: &Matrix,
        added: Option<Place>,
        result: Place,
    ) -> Product {
        let Matrix { outputs, inputs, .. } = *weight;
        let right = weight.operand();
        Product {
            kind,
            number: right.number,
            rows,
            outputs,
            inputs,
            left: left.operand(),
            right: right.operand(),
            result,
            added: added.unwrap_or(result).address,
            alike: false,
            scale: 1.0,
            before: if added.is_some() { 1.0 } else { 0.0 },
        }
    }
}

/// The last rows that were rounded to bf16: several products read the same.
#[derive(Default)]
pub(super) struct Rounded {
    memory: Option<Memory>,
    /// Stamp of the buffer, first row, how many, and the numbers of one, with a margin and without.
    of: (u64, usize, usize, [usize; 2]),
}

impl Rounded {
    /// Has the next rows rounded, whatever they are.
    pub(super) fn forget(&mut self) {
        self.of = Default::default();
    }
}

impl Cuda {
    /// Multiplies rows from `first` on with a weight, going forward or backward.
    #[expect(clippy::too_many_arguments, reason = "two operands, their places and the result")]
    pub(super) fn product(
        &self,
        kind: Kind,
        x: &Buffer,
        first: usize,
        rows: usize,
        weight: &Matrix,
        result: Place,
        write: Write,
    ) {
        let Matrix { outputs, inputs, .. } = *weight;
        let width = if kind == Kind::Forward { inputs } else { outputs };
        let weights = weight.operand();
        // Only training has products whose results are operands.
        let training = result.number == Number::Bf16;
        let alike = kind == Kind::Forward && rows <= NARROW && !training;
        let narrow = alike && weights.number == Number::Bf16 && inputs.is_multiple_of(8);
        let beside = kind == Kind::Backward;
        self.with_operand(x, first..first + rows, width, weights.number, beside, |left| {
            if narrow {
                assert!(left.margin == 0, "generation has no rows with a margin");
                let to = [(weight, result.address)];
                return self.narrow_products(left.address, rows, &to, write);
            }
            let added = (write == Write::Add).then_some(result);
            let product = Product::with_weight(kind, left, rows, weight, added, result);
            self.products.run(Product { alike, ..product });
        });
    }

    /// Multiplies rows with several weights of as many inputs.
    pub(super) fn products_of(
        &self,
        x: &Buffer,
        rows: usize,
        products: &mut [(&Matrix, &mut Buffer)],
    ) {
        let Some((Matrix { inputs, .. }, _)) = products.first() else { return };
        let inputs = *inputs;
        let narrow = |(weight, y): &(&Matrix, &mut Buffer)| {
            weight.inputs == inputs
                && weight.operand().number == Number::Bf16
                && y.number == Number::F32
        };
        if rows > NARROW || !inputs.is_multiple_of(8) || !products.iter().all(narrow) {
            for (weight, y) in products {
                self.linear(x, rows, weight, y, Write::Set);
            }
            return;
        }
        let to = |(weight, y): &mut (&'_ Matrix, &mut Buffer)| {
            let len = rows * weight.outputs;
            y.written(len)
        };
        let addresses: Vec<u64> = products.iter_mut().map(to).collect();
        let weights: Vec<_> =
            products.iter().zip(addresses).map(|((weight, _), y)| (*weight, y)).collect();
        self.with_operand(x, 0..rows, inputs, Number::Bf16, false, |left| {
            self.narrow_products(left.address, rows, &weights, Write::Set);
        });
    }

    /// Asks for a product with rows of a buffer, of this type, which may be rounded for it; then with a margin, where
    /// something may go `beside` them.
    pub(super) fn with_operand(
        &self,
        x: &Buffer,
        rows: Range<usize>,
        width: usize,
        number: Number,
        beside: bool,
        ask: impl FnOnce(Rows),
    ) {
        let from = x.rows(rows.end, width).after(rows.start);
        if from.number == number {
            return ask(from);
        }
        assert!(number == Number::Bf16, "nothing is widened for a product");
        let margin = if beside { buffer::margin(&[width]) } else { 0 };
        // Held until the product is asked for, as another thread's would use the same room.
        let ask = |rounded: &mut Rounded| {
            if let Some(to) = self.round(rounded, x.stamp, &rows, from, margin) {
                ask(to);
            }
        };
        match passes::take_rounded(&self.device) {
            Some(mut rounded) => {
                ask(&mut rounded);
                passes::keep_rounded(&self.device, rounded);
            }
            None => ask(&mut self.rounded.lock().expect("nothing panics while it is held")),
        }
    }

    /// Rounds rows of a buffer with this stamp to bf16, unless they were the last that were; returns where they are.
    fn round(
        &self,
        rounded: &mut Rounded,
        stamp: u64,
        rows: &Range<usize>,
        from: Rows,
        margin: usize,
    ) -> Option<Rows> {
        let to = Rows { number: Number::Bf16, margin, ..from };
        let bytes = to.number.bytes() * rows.len() * to.pitch();
        if rounded.memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            let memory = Memory::or_remember(&self.device, Memory::new(&self.device, bytes));
            *rounded = Rounded { memory, of: Default::default() };
        }
        let to = Rows { address: rounded.memory.as_ref()?.address(), ..to };
        let of = (stamp, rows.start, rows.len(), [to.pitch(), to.width]);
        if rounded.of != of {
            self.round_rows(from.address, 1.0, rows.len(), to);
            rounded.of = of;
        }
        Some(to)
    }

    /// Rounds `scale` times numbers at an address to bf16, into rows.
    pub(super) fn round_rows(&self, from: u64, scale: f32, rows: usize, to: Rows) {
        let len = rows * to.width;
        if to.margin == 0 {
            return self.device.each("to_bf16", len, arguments![from, scale, len, to.address]);
        }
        let arguments = arguments![from, scale, to.width, to.address, to.pitch()];
        self.device.launch("to_bf16_rows", [rows, 1, 1], 256, 0, arguments);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    number: Number,
    result: Number,
    alike: bool,
    outputs: usize,
    inputs: usize,
    /// How far apart rows of the operands lie.
    pitches: [usize; 2],
    /// Rows up to which it serves, a power of two.
    rows: usize,
}

/// The library with its room.
pub(super) struct Products {
    device: Arc<Device>,
    handle: lt::cublasLtHandle_t,
    workspace: Memory,
    algorithms: Mutex<HashMap<Key, lt::cublasLtMatmulAlgo_t>>,
}

// SAFETY: a handle may be used from any thread; the workspace is used in the order of the stream.
unsafe impl Send for Products {}
// SAFETY: as above; the algorithms are behind a mutex.
unsafe impl Sync for Products {}

impl Products {
    pub(super) fn new(device: &Arc<Device>) -> Result<Products, BackendError> {
        device.enter();
        // First, as a handle would stay where there is no room.
        let workspace = Memory::new(device, WORKSPACE)?;
        let handle = cudarc::cublaslt::result::create_handle()
            .map_err(|error| device.failed(format!("cuBLASLt does not start: {error}")))?;
        let (device, algorithms) = (device.clone(), Mutex::default());
        Ok(Products { device, handle, workspace, algorithms })
    }

    /// Asks for a product; a failure is remembered.
    pub(super) fn run(&self, product: Product) {
        let Product { rows, outputs, inputs, .. } = product;
        if rows * outputs * inputs == 0 {
            return;
        }
        if let Some(Asked::Product(product)) = passes::defer(&self.device, Asked::Product(product))
        {
            self.device.hear(self.issue(&product, self.device.stream()));
        }
    }

    /// Asks the library for a product on a stream.
    pub(super) fn issue(&self, product: &Product, stream: CUstream) -> Result<(), String> {
        self.device.enter();
        self.try_issue(product, stream).map_err(|error| {
            let Product { kind, number, rows, outputs, inputs, .. } = product;
            format!(
                "cuBLASLt refuses the product {kind:?} {number:?} [{rows}, {outputs}, {inputs}]: {error}"
            )
        })
    }

    fn try_issue(&self, product: &Product, stream: CUstream) -> Result<(), CublasError> {
        let place = Descriptors::new(product, product.rows)?;
        let algorithm = self.algorithm(product)?;
        let Product { left, right, result, added, scale, before, .. } = *product;
        // The library's matrices are stored by columns, so its first operand is our second.
        // SAFETY: the descriptors are alive, and callers give live memory of the right size.
        unsafe {
            lt::cublasLtMatmul(
                self.handle,
                place.operation,
                (&raw const scale).cast(),
                right.address as *const c_void,
                place.a,
                left.address as *const c_void,
                place.b,
                (&raw const before).cast(),
                added as *const c_void,
                place.d,
                result.address as *mut c_void,
                place.d,
                &raw const algorithm,
                self.workspace.address() as *mut c_void,
                self.workspace.bytes(),
                stream.cast(),
            )
            .result()
        }
    }

    fn algorithm(&self, product: &Product) -> Result<lt::cublasLtMatmulAlgo_t, CublasError> {
        let Product { kind, number, outputs, inputs, alike, .. } = *product;
        let rows = if alike { NARROW } else { product.rows.next_power_of_two() };
        let (result, pitches) = (product.result.number, [product.left.pitch, product.right.pitch]);
        let key = Key { kind, number, result, alike, outputs, inputs, pitches, rows };
        let mut algorithms = self.algorithms.lock().expect("nothing panics while it is held");
        if let Some(algorithm) = algorithms.get(&key) {
            return Ok(*algorithm);
        }
        // For the key's rows and not this product's, so that it does not matter which came first.
        let rows = if alike { TYPICAL } else { rows };
        let found = self.pick(&Descriptors::new(product, rows)?, alike)?;
        algorithms.insert(key, found);
        Ok(found)
    }

    /// Returns the algorithm that the library thinks fastest, `whole` of those that do not cut sums.
    fn pick(
        &self,
        place: &Descriptors,
        whole: bool,
    ) -> Result<lt::cublasLtMatmulAlgo_t, CublasError> {
        const MOST: usize = 32;
        use lt::cublasLtMatmulPreferenceAttributes_t as Preference;
        let preference = cudarc::cublaslt::result::create_matmul_pref()?;
        let set = |attribute, value: &u64, bytes| {
            // SAFETY: the preference is alive, and the value has so many bytes.
            unsafe {
                lt::cublasLtMatmulPreferenceSetAttribute(
                    preference,
                    attribute,
                    std::ptr::from_ref(value).cast(),
                    bytes,
                )
            }
            .result()
        };
        // A zeroed result is one that says nothing yet.
        // SAFETY: plain numbers.
        let mut found: [lt::cublasLtMatmulHeuristicResult_t; MOST] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let workspace = self.workspace.bytes() as u64;
        let asked = set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, 8)
            .and_then(|()| match whole {
                // No scheme of adding up parts is allowed.
                true => set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0, 4),
                false => Ok(()),
            })
            .and_then(|()| {
                // SAFETY: the descriptors are alive, and there is room for so many results.
                unsafe {
                    lt::cublasLtMatmulAlgoGetHeuristic(
                        self.handle,
                        place.operation,
                        place.a,
                        place.b,
                        place.d,
                        place.d,
                        preference,
                        MOST as i32,
                        found.as_mut_ptr(),
                        &raw mut count,
                    )
                }
                .result()
            });
        // SAFETY: made above.
        let destroyed = unsafe { cudarc::cublaslt::result::destroy_matmul_pref(preference) };
        asked.and(destroyed)?;
        let found = found[..count as usize].iter();
        let mut usable =
            found.filter(|found| found.state == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        let best = usable.find(|found| !whole || splits(&found.algo) <= 1);
        let none = CublasError(lt::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        best.map(|found| found.algo).ok_or(none)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.device.enter();
        // SAFETY: nobody else has the handle.
        let _ = unsafe { cudarc::cublaslt::result::destroy_handle(self.handle) };
    }
}

/// Returns in how many parts an algorithm cuts each sum.
fn splits(algorithm: &lt::cublasLtMatmulAlgo_t) -> i32 {
    let (mut splits, mut written) = (0i32, 0usize);
    // SAFETY: the attribute is a 32-bit number.
    let status = unsafe {
        lt::cublasLtMatmulAlgoConfigGetAttribute(
            algorithm,
            lt::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
            (&raw mut splits).cast(),
            size_of::<i32>(),
            &raw mut written,
        )
    };
    if status == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS { splits } else { i32::MAX }
}

/// The descriptors of a product.
struct Descriptors {
    operation: lt::cublasLtMatmulDesc_t,
    a: lt::cublasLtMatrixLayout_t,
    b: lt::cublasLtMatrixLayout_t,
    d: lt::cublasLtMatrixLayout_t,
}

impl Descriptors {
    fn new(product: &Product, rows: usize) -> Result<Descriptors, CublasError> {
        let Product { kind, number, outputs, inputs, .. } = *product;
        let of = |number| match number {
            Number::F32 => DataType::CUDA_R_32F,
            Number::Bf16 => DataType::CUDA_R_16BF,
        };
        // By columns: each is the transpose of what we call it.
        let (a, b, d, turn_a, turn_b) = match kind {
            Kind::Forward => ([inputs, outputs], [inputs, rows], [outputs, rows], true, false),
            Kind::Backward => ([inputs, outputs], [outputs, rows], [inputs, rows], false, false),
            Kind::Gradient => ([inputs, rows], [outputs, rows], [inputs, outputs], false, true),
        };
        let layout = |of, [height, width]: [usize; 2], pitch: usize| {
            let (height, width) = (height as u64, width as u64);
            cudarc::cublaslt::result::create_matrix_layout(of, height, width, pitch as i64)
        };
        let (operation, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut place = Descriptors { operation, a: none, b: none, d: none };
        let sums = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        place.operation = cudarc::cublaslt::result::create_matmul_desc(sums, DataType::CUDA_R_32F)?;
        place.a = layout(of(number), a, product.right.pitch)?;
        place.b = layout(of(number), b, product.left.pitch)?;
        place.d = layout(of(product.result.number), d, d[0])?;
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        for (turn, attribute) in [
            (turn_a, Attribute::CUBLASLT_MATMUL_DESC_TRANSA),
            (turn_b, Attribute::CUBLASLT_MATMUL_DESC_TRANSB),
        ] {
            // The library's numbers for an operand as it is, and turned.
            let turn = i32::from(turn);
            // SAFETY: the descriptor is alive, and the attribute is an operation.
            unsafe {
                lt::cublasLtMatmulDescSetAttribute(
                    place.operation,
                    attribute,
                    (&raw const turn).cast(),
                    size_of_val(&turn),
                )
            }
            .result()?;
        }
        Ok(place)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: what is not null was made above, once.
        unsafe {
            for layout in [self.a, self.b, self.d] {
                if !layout.is_null() {
                    lt::cublasLtMatrixLayoutDestroy(layout);
                }
            }
            if !self.operation.is_null() {
                lt::cublasLtMatmulDescDestroy(self.operation);
            }
        }
    }
}
