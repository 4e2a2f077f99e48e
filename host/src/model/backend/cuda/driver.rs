//! One GPU with one stream, on which everything happens in order: memory, copies, launches and graphs of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

use super::argument::Argument;
use super::card::{Card, Context, describe};
use super::passes::{self, Asked, Launch};
use crate::model::backend::BackendError;

/// All kernels, for the chips that the build was made for.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The names of all kernels.
const NAMES: [&str; 72] = [
    "to_bf16",
    "to_bf16_rows",
    "put_beside",
    "from_bf16",
    "add_scaled",
    "embed_f32",
    "embed_bf16",
    "add_bias",
    "gather",
    "scatter",
    "scale_rows",
    "rms_norm",
    "rms_norm_backward",
    "inverse_rms_of_rows",
    "rope",
    "swiglu",
    "swiglu_backward",
    "dropout",
    "logit_parts",
    "logprobs",
    "logit_gradient_f32",
    "logit_gradient_bf16",
    "sum_of_rows",
    "add_parts",
    "add_rows",
    "squared_norm",
    "adamw",
    "add_tensors",
    "round_tensors",
    "clear_tensors",
    "attend_f32",
    "attend_bf16",
    "join_chunks",
    "store_f32",
    "store_bf16",
    "attention",
    "attention_deltas",
    "attention_dqueries",
    "attention_dkeys",
    "attention_bf16_64",
    "attention_bf16_128",
    "attention_dqueries_bf16_64",
    "attention_dqueries_bf16_128",
    "attention_dkeys_bf16_64",
    "attention_dkeys_bf16_128",
    "add_group",
    "rms_norm_rounded",
    "rms_norm_bf16",
    "rms_norm_backward_bf16",
    "inverse_rms_of_rows_bf16",
    "sum_of_rows_bf16",
    "add_bias_bf16",
    "rope_bf16",
    "swiglu_bf16",
    "swiglu_backward_bf16",
    "dropout_bf16",
    "dropout_widened",
    "attention_deltas_bf16",
    "rotate_and_store_f32",
    "rotate_and_store_bf16",
    "swiglu_rounded",
    "gather_bf16",
    "attend_cached_64",
    "attend_cached_128",
    "join_cached",
    "draw",
    "narrow_few_8",
    "narrow_few_16",
    "narrow_64_96",
    "narrow_128_96",
    "narrow_128_192",
    "add_slices",
];

/// Arguments that a kernel has at most.
const MOST_ARGUMENTS: usize = 32;

/// A GPU.
pub(super) struct Device {
    ordinal: usize,
    context: Context,
    stream: sys::CUstream,
    pool: sys::CUmemoryPool,
    functions: HashMap<&'static str, sys::CUfunction>,
    /// `(9, 0)` is Hopper.
    pub(super) capability: (i32, i32),
    /// How many multiprocessors it has.
    pub(super) processors: u32,
    /// Bytes of shared memory that a block may have.
    pub(super) shared: usize,
    /// The first failure that nobody has heard of yet.
    failure: Mutex<Option<BackendError>>,
}

// SAFETY: the driver's handles may be used from any thread; each call makes the context current first.
unsafe impl Send for Device {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the GPU with this number.
    pub(super) fn open(ordinal: usize) -> Result<Device, BackendError> {
        let fail = |message: String| failed(ordinal, message);
        let say = |error: result::DriverError| fail(describe(error));
        let card = Card::new(ordinal).map_err(fail)?;
        let device = card.device();
        let context = Context::new(device).map_err(say)?;
        context.enter().map_err(say)?;
        let most =
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: a device that was just found.
        let shared = unsafe { result::device::get_attribute(device, most) }.map_err(say)?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(say)?;
        // SAFETY: the image is a whole fat binary of nvcc's.
        let module = unsafe { result::module::load_data(KERNELS.as_ptr().cast()) };
        let module = module.map_err(|error| fail(unloadable(&card, &describe(error))))?;
        let mut functions = HashMap::new();
        for name in NAMES {
            let text = std::ffi::CString::new(name).expect("a name has no zeros");
            // SAFETY: the module is never unloaded.
            let function = unsafe { result::module::get_function(module, text) }.map_err(say)?;
            use sys::CUfunction_attribute as Attribute;
            let own = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let carved = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: a function of this context, and no more than the device allows beside its own.
            unsafe {
                let own = result::function::get_function_attribute(function, own).map_err(say)?;
                result::function::set_function_attribute(function, most, shared - own)
                    .map_err(say)?;
                // Those that want much and those that want a little take turns when tokens are made: were shared memory
                // cut out for each, they would wait for each other.
                if name.starts_with("attend") || name.starts_with("narrow") {
                    result::function::set_function_attribute(function, carved, 100).map_err(say)?;
                }
            }
            functions.insert(name, function);
        }
        // Freed memory is kept for the next allocation.
        // SAFETY: a device that was just found; its pool is never destroyed.
        let pool = unsafe { result::device::get_default_mem_pool(device) }.map_err(say)?;
        // SAFETY: the attribute is a 64-bit number.
        unsafe {
            let keep = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let mut all = u64::MAX;
            sys::cuMemPoolSetAttribute(pool, keep, (&raw mut all).cast()).result().map_err(say)?;
        }
        let Card { capability, processors, .. } = card;
        let failure = Mutex::new(None);
        let shared = shared as usize;
        Ok(Device {
            ordinal,
            context,
            stream,
            pool,
            functions,
            capability,
            processors,
            shared,
            failure,
        })
    }

    /// Returns for example `cuda:0`.
    pub(super) fn name(&self) -> String {
        format!("cuda:{}", self.ordinal)
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Makes this device the one that this thread's calls mean.
    pub(super) fn enter(&self) {
        // A failure shows in the call that follows.
        let _ = self.context.enter();
    }

    /// Remembers a failure, unless an earlier one is still unheard.
    pub(super) fn remember(&self, message: String) {
        let mut failure = self.failure.lock().expect("nothing panics while it is held");
        failure.get_or_insert_with(|| failed(self.ordinal, message));
    }

    /// Remembers a driver call's failure.
    pub(super) fn note(&self, result: Result<(), result::DriverError>) {
        self.hear(result.map_err(describe));
    }

    /// Remembers what went wrong, if anything did.
    pub(super) fn hear(&self, result: Result<(), String>) {
        if let Err(message) = result {
            self.remember(message);
        }
    }

    /// Reports the failure that was remembered.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        let mut failure = self.failure.lock().expect("nothing panics while it is held");
        failure.take().map_or(Ok(()), Err)
    }

    /// Waits until everything is done that was asked for.
    pub(super) fn wait(&self) -> Result<(), BackendError> {
        passes::flush(self);
        self.enter();
        // SAFETY: the stream is alive.
        self.note(unsafe { result::stream::synchronize(self.stream) });
        self.check()
    }

    /// Returns whether everything is done that was asked for, without waiting.
    pub(super) fn is_idle(&self) -> Result<bool, BackendError> {
        self.enter();
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            said => said.result().map(|()| true).map_err(|error| self.failed(describe(error))),
        }
    }

    /// Returns the error of this card.
    pub(super) fn failed(&self, message: String) -> BackendError {
        failed(self.ordinal, message)
    }

    /// Returns whether a block may have so many bytes of dynamic shared memory, beside some of its kernel's own.
    pub(super) fn has_room_for(&self, dynamic: usize) -> bool {
        const OWN: usize = 2048;
        dynamic + OWN <= self.shared
    }

    /// Returns free and total memory in bytes.
    pub(super) fn memory(&self) -> Option<(usize, usize)> {
        self.enter();
        result::mem_get_info().ok()
    }

    /// Returns how many bytes the pool of memory holds; 0 where the driver does not say.
    pub(super) fn held(&self) -> u64 {
        self.enter();
        let mut held = 0u64;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
        // SAFETY: the pool is alive, and the attribute is a 64-bit number.
        let said =
            unsafe { sys::cuMemPoolGetAttribute(self.pool, attribute, (&raw mut held).cast()) };
        said.result().map_or(0, |()| held)
    }

    /// Launches a kernel over `grid` blocks of `block` threads with `shared` bytes of dynamic shared
    /// memory. The arguments are those of the kernel, in their order.
    pub(super) fn launch(
        &self,
        name: &'static str,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        arguments: &mut [Argument],
    ) {
        if grid.contains(&0) {
            return;
        }
        let (grid, block, shared) = (grid.map(|n| n as u32), block as u32, shared as u32);
        let arguments = Cow::Borrowed(&*arguments);
        let launch = Launch { name, grid, block, shared, arguments };
        if let Some(Asked::Launch(launch)) = passes::defer(self, Asked::Launch(launch)) {
            self.hear(self.issue(&launch, self.stream));
        }
    }

    /// Asks the driver for a launch on a stream.
    pub(super) fn issue(&self, launch: &Launch<'_>, stream: sys::CUstream) -> Result<(), String> {
        let Launch { name, grid: [x, y, z], block, shared, arguments } = launch;
        self.enter();
        // The driver only reads them.
        let mut pointers = [std::ptr::null_mut::<std::ffi::c_void>(); MOST_ARGUMENTS];
        let pointers = &mut pointers[..arguments.len()];
        for (pointer, argument) in pointers.iter_mut().zip(&**arguments) {
            *pointer = (&raw const argument.0).cast_mut().cast();
        }
        let (function, grid, block) = (self.functions[name], (*x, *y, *z), (*block, 1, 1));
        // SAFETY: callers give each kernel its own arguments over live memory of the right size.
        unsafe { result::launch_kernel(function, grid, block, *shared, stream, pointers) }
            .map_err(describe)
    }

    /// Frees memory once what was asked for before is done.
    pub(super) fn free(&self, address: u64) {
        self.enter();
        // SAFETY: allocated on this stream, and nobody else has the address.
        self.note(unsafe { result::free_async(address, self.stream) });
    }

    /// Launches a kernel that goes over `len` numbers with as many threads as pay.
    pub(super) fn each(&self, name: &'static str, len: usize, arguments: &mut [Argument]) {
        let blocks = len.div_ceil(256).min(16 * self.processors as usize);
        self.launch(name, [blocks, 1, 1], 256, 0, arguments);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.enter();
        // SAFETY: all memory of the stream holds the device, so it is gone.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// Returns the error of a card with this number.
pub(super) fn failed(ordinal: usize, message: String) -> BackendError {
    BackendError::Device { device: format!("cuda:{ordinal}"), message }
}

/// Says that a card does not take the kernels of this build.
fn unloadable(card: &Card, said: &str) -> String {
    let Card { name, capability: (major, minor), .. } = card;
    format!(
        "its kernels do not load: {said}; this build has them for compute capability {}, and the card \
         ({name}) has {major}.{minor}, which CUDA_COMPUTE_CAP={major}{minor} builds for",
        chips()
    )
}

/// Returns the compute capabilities that this build has kernels for, for example `8.0 and 9.0`.
pub fn chips() -> String {
    let dotted = |chip: &str| {
        // `90a` is 9.0a.
        let digits = chip.trim_end_matches(|c: char| !c.is_ascii_digit());
        let (major, rest) = chip.split_at(digits.len().saturating_sub(1));
        format!("{major}.{rest}")
    };
    env!("CUDA_COMPUTE_CAP").split(',').map(dotted).collect::<Vec<_>>().join(" and ")
}

/// Memory of a device, freed once what was asked for before is done.
pub(super) struct Memory {
    device: Arc<Device>,
    address: sys::CUdeviceptr,
    bytes: usize,
    /// Whether it is a part of other memory, which is freed there.
    is_part: bool,
}

impl Memory {
    /// Allocates memory and leaves it as it is.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Memory, BackendError> {
        device.enter();
        if bytes == 0 {
            return Ok(Memory { device: device.clone(), address: 0, bytes, is_part: false });
        }
        // SAFETY: the stream is alive.
        match unsafe { result::malloc_async(device.stream, bytes) } {
            Ok(address) => Ok(Memory { device: device.clone(), address, bytes, is_part: false }),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(BackendError::OutOfMemory { device: device.name(), bytes })
            }
            Err(error) => Err(failed(device.ordinal, describe(error))),
        }
    }

    /// Allocates memory for some values and copies them there.
    pub(super) fn of<T: Copy>(device: &Arc<Device>, values: &[T]) -> Result<Memory, BackendError> {
        let memory = Memory::new(device, size_of_val(values))?;
        memory.write(values, 0);
        Ok(memory)
    }

    /// Allocates memory where a failure can only be remembered; the memory is then empty, and no
    /// kernel must get it.
    pub(super) fn or_remember(
        device: &Device,
        memory: Result<Memory, BackendError>,
    ) -> Option<Memory> {
        memory
            .map_err(|error| {
                let mut failure = device.failure.lock().expect("nothing panics while it is held");
                failure.get_or_insert(error);
            })
            .ok()
    }

    /// Returns a part of it, of which this has to outlive the use.
    pub(super) fn part(&self, at: usize, bytes: usize) -> Memory {
        assert!(at + bytes <= self.bytes, "a part beyond the end");
        let address = self.address + at as u64;
        Memory { device: self.device.clone(), address, bytes, is_part: true }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets all of it, or its first bytes, to zero.
    pub(super) fn clear(&self, bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} bytes of {}", self.bytes);
        if bytes > 0 {
            passes::flush(&self.device);
            self.device.enter();
            // SAFETY: the memory is that long.
            self.device.note(unsafe {
                result::memset_d8_async(self.address, 0, bytes, self.device.stream)
            });
        }
    }

    /// Copies values to where `at` bytes lie before.
    pub(super) fn write<T: Copy>(&self, values: &[T], at: usize) {
        passes::flush(&self.device);
        self.bring(values, at);
    }

    /// Copies values to where `at` bytes lie before; what was noted ([`passes`]) does not come first.
    pub(super) fn bring<T: Copy>(&self, values: &[T], at: usize) {
        assert!(at + size_of_val(values) <= self.bytes, "a copy beyond the end");
        if !values.is_empty() {
            self.device.enter();
            // SAFETY: the memory is that long. The driver has read the values when it returns, as they
            // are in ordinary memory.
            self.device.note(unsafe {
                result::memcpy_htod_async(self.address + at as u64, values, self.device.stream)
            });
        }
    }

    /// Waits, and returns `count` values from where `at` bytes lie before.
    pub(super) fn read<T: Copy + Default>(
        &self,
        at: usize,
        count: usize,
    ) -> Result<Vec<T>, BackendError> {
        assert!(at + count * size_of::<T>() <= self.bytes, "a copy beyond the end");
        let mut values = vec![T::default(); count];
        passes::flush(&self.device);
        if count > 0 {
            self.device.enter();
            // SAFETY: the memory is that long, and the values stay until the stream is done.
            self.device.note(unsafe {
                result::memcpy_dtoh_async(&mut values, self.address + at as u64, self.device.stream)
            });
        }
        self.device.wait()?;
        Ok(values)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let is_own = self.address != 0 && !self.is_part;
        if is_own && !passes::defer_free(&self.device, self.address) {
            self.device.free(self.address);
        }
    }
}
