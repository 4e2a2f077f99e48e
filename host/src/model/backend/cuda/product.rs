//! Products of matrices, by cuBLASLt.
//!
//! Products of few rows in bf16 have kernels of our own (`kernels/narrow.cuh`); all others are the
//! library's. It picks an algorithm for each shape, and picks another for another number of rows, which
//! changes the last bits. So that a row's result does not depend on how many others there are,
//! forward products of up to [`NARROW`] rows take one algorithm for each weight, which adds up in one go.
//! Generation and scoring stay within that; a training pass of more rows gets what is fastest, and so
//! does every backward pass.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{self as lt, cudaDataType_t as DataType};
use cudarc::driver::sys::CUstream;

use super::driver::{Argument, Device, Memory};
use super::passes::{self, Asked};
use super::{Buffer, Cuda, Matrix, arguments};
use crate::model::backend::{BackendError, WeightType, Write};

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

/// The numbers of both operands of a product; sums and results are f32.
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

/// A product: `result` = `scale` · left · right + `before` · `result`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Product {
    pub(super) kind: Kind,
    pub(super) number: Number,
    pub(super) rows: usize,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// Addresses of both operands, in the order of [`Kind`], and of the result.
    pub(super) left: u64,
    pub(super) right: u64,
    pub(super) result: u64,
    pub(super) scale: f32,
    pub(super) before: f32,
}

/// The last rows that were rounded to bf16: several products read the same.
#[derive(Default)]
pub(super) struct Rounded {
    memory: Option<Memory>,
    /// Stamp of the buffer, first number, how many.
    of: (u64, usize, usize),
}

impl Rounded {
    /// Has the next rows rounded, whatever they are.
    pub(super) fn forget(&mut self) {
        self.of = (0, 0, 0);
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
        result: u64,
        write: Write,
    ) {
        let Matrix { memory, outputs, inputs, number } = weight;
        let width = if kind == Kind::Forward { *inputs } else { *outputs };
        let (at, len) = (first * width, rows * width);
        let address = x.read(at + len) + (size_of::<f32>() * at) as u64;
        let product = |left| Product {
            kind,
            number: *number,
            rows,
            outputs: *outputs,
            inputs: *inputs,
            left,
            right: memory.address(),
            result,
            scale: 1.0,
            before: if write == Write::Add { 1.0 } else { 0.0 },
        };
        match number {
            Number::F32 => self.products.run(product(address)),
            Number::Bf16 => {
                // Held until the product is asked for, as another thread's would use the same room.
                let narrow = kind == Kind::Forward && rows <= NARROW && inputs.is_multiple_of(8);
                let ask = |rounded: &mut Rounded| {
                    let Some(to) = self.round(rounded, (x.stamp, at, len), address) else { return };
                    match narrow {
                        true => self.narrow_product(to, rows, weight, result, write),
                        false => self.products.run(product(to)),
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
        }
    }

    /// Rounds numbers at an address to bf16, unless they were the last that were; returns where they are.
    fn round(&self, rounded: &mut Rounded, of: (u64, usize, usize), from: u64) -> Option<u64> {
        let (_, _, len) = of;
        let bytes = size_of::<half::bf16>() * len;
        if rounded.memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            let memory = Memory::new(&self.device, bytes);
            *rounded = Rounded { memory: Memory::or_remember(&self.device, memory), of: (0, 0, 0) };
        }
        let to = rounded.memory.as_ref()?.address();
        if rounded.of != of {
            self.device.each("to_bf16", len, arguments![from, 1f32, len, to]);
            rounded.of = of;
        }
        Some(to)
    }

    /// Multiplies few rows in bf16 with a weight; `kernels/narrow.cuh` says in which order.
    fn narrow_product(&self, x: u64, rows: usize, weight: &Matrix, y: u64, write: Write) {
        /// Outputs and rows of a block, and the slices that terms are cut into.
        const OUT: usize = 128;
        const ROWS: usize = 64;
        const SLICES: usize = 8;
        /// Bytes of its stages in shared memory.
        const STAGES: usize = 4 * (OUT + ROWS) * 64 * size_of::<half::bf16>();
        let Matrix { memory, outputs, inputs, .. } = weight;
        let (w, outputs, inputs) = (memory.address(), *outputs, *inputs);
        let add = write == Write::Add;
        if rows <= 16 {
            let name = if rows <= 8 { "narrow_few_8" } else { "narrow_few_16" };
            let arguments = arguments![w, x, rows, outputs, inputs, y, add];
            return self.device.launch(name, [outputs.div_ceil(16), 1, 1], 256, 0, arguments);
        }
        let (across, down) = (outputs.div_ceil(OUT), rows.div_ceil(ROWS));
        // As many blocks as keep all processors busy.
        let enough = 2 * self.device.processors as usize;
        let parts = enough.div_ceil(across * down).next_power_of_two().min(SLICES);
        let len = if parts > 1 { SLICES * rows * outputs } else { 0 };
        let Some(sums) = self.room(size_of::<f32>() * len) else { return };
        let arguments = arguments![w, x, rows, outputs, inputs, sums.address(), y, add];
        self.device.launch("narrow_many", [across, down, parts], 128, STAGES, arguments);
        if parts > 1 {
            let len = rows * outputs;
            self.device.each("add_slices", len, arguments![sums.address(), len, y, add]);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    number: Number,
    outputs: usize,
    inputs: usize,
    /// Rows up to which it serves, a power of two.
    rows: usize,
}

/// The library with its room.
pub(super) struct Products {
    device: Arc<Device>,
    handle: lt::cublasLtHandle_t,
    /// Whether operands in f32 may be rounded to the 10 bits of TF32.
    rounds: bool,
    workspace: Memory,
    algorithms: Mutex<HashMap<Key, lt::cublasLtMatmulAlgo_t>>,
}

// SAFETY: a handle may be used from any thread; the workspace is used in the order of the stream.
unsafe impl Send for Products {}
// SAFETY: as above; the algorithms are behind a mutex.
unsafe impl Sync for Products {}

impl Products {
    pub(super) fn new(device: &Arc<Device>, rounds: bool) -> Result<Products, BackendError> {
        device.enter();
        // First, as a handle would stay where there is no room.
        let workspace = Memory::new(device, WORKSPACE)?;
        let handle = cudarc::cublaslt::result::create_handle()
            .map_err(|error| device.failed(format!("cuBLASLt does not start: {error}")))?;
        let (device, algorithms) = (device.clone(), Mutex::default());
        Ok(Products { device, handle, rounds, workspace, algorithms })
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
        let place = Place::new(product, product.rows, self.rounds)?;
        let algorithm = self.algorithm(product)?;
        let Product { left, right, result, scale, before, .. } = *product;
        // The library's matrices are stored by columns, so its first operand is our second.
        // SAFETY: the descriptors are alive, and callers give live memory of the right size.
        unsafe {
            lt::cublasLtMatmul(
                self.handle,
                place.operation,
                (&raw const scale).cast(),
                right as *const c_void,
                place.a,
                left as *const c_void,
                place.b,
                (&raw const before).cast(),
                result as *const c_void,
                place.d,
                result as *mut c_void,
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
        let Product { kind, number, outputs, inputs, .. } = *product;
        let narrow = kind == Kind::Forward && product.rows <= NARROW;
        let rows = if narrow { NARROW } else { product.rows.next_power_of_two() };
        let key = Key { kind, number, outputs, inputs, rows };
        let mut algorithms = self.algorithms.lock().expect("nothing panics while it is held");
        if let Some(algorithm) = algorithms.get(&key) {
            return Ok(*algorithm);
        }
        // For the key's rows and not this product's, so that it does not matter which came first.
        let rows = if narrow { TYPICAL } else { rows };
        let found = self.pick(&Place::new(product, rows, self.rounds)?, narrow)?;
        algorithms.insert(key, found);
        Ok(found)
    }

    /// Returns the algorithm that the library thinks fastest, `whole` of those that do not cut sums.
    fn pick(&self, place: &Place, whole: bool) -> Result<lt::cublasLtMatmulAlgo_t, CublasError> {
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
struct Place {
    operation: lt::cublasLtMatmulDesc_t,
    a: lt::cublasLtMatrixLayout_t,
    b: lt::cublasLtMatrixLayout_t,
    d: lt::cublasLtMatrixLayout_t,
}

impl Place {
    fn new(product: &Product, rows: usize, rounds: bool) -> Result<Place, CublasError> {
        let Product { kind, number, outputs, inputs, .. } = *product;
        let of = match number {
            Number::F32 => DataType::CUDA_R_32F,
            Number::Bf16 => DataType::CUDA_R_16BF,
        };
        // By columns: each is the transpose of what we call it.
        let (a, b, d, turn_a, turn_b) = match kind {
            Kind::Forward => ([inputs, outputs], [inputs, rows], [outputs, rows], true, false),
            Kind::Backward => ([inputs, outputs], [outputs, rows], [inputs, rows], false, false),
            Kind::Gradient => ([inputs, rows], [outputs, rows], [inputs, outputs], false, true),
        };
        let layout = |of, [height, width]: [usize; 2]| {
            cudarc::cublaslt::result::create_matrix_layout(
                of,
                height as u64,
                width as u64,
                height as i64,
            )
        };
        let (operation, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut place = Place { operation, a: none, b: none, d: none };
        let compute = match number {
            Number::F32 if rounds => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        place.operation =
            cudarc::cublaslt::result::create_matmul_desc(compute, DataType::CUDA_R_32F)?;
        place.a = layout(of, a)?;
        place.b = layout(of, b)?;
        place.d = layout(DataType::CUDA_R_32F, d)?;
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

impl Drop for Place {
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
