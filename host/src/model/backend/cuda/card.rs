//! The cards that the driver shows.

use cudarc::driver::{result, sys};

use super::library;

/// A card as the driver describes it.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its number, from 0.
    pub ordinal: usize,
    /// For example `NVIDIA H200`.
    pub name: String,
    /// `(9, 0)` is Hopper.
    pub capability: (i32, i32),
    /// How many multiprocessors it has.
    pub processors: u32,
    /// Its memory in bytes.
    pub total: u64,
    device: sys::CUdevice,
}

impl Card {
    /// Describes the card with this number; fails with a sentence where there is none, or no driver
    /// that can be used.
    pub(super) fn new(ordinal: usize) -> Result<Card, String> {
        let count = count()?;
        if ordinal >= count {
            return Err(match count {
                0 => "the driver shows no GPU, and CUDA_VISIBLE_DEVICES hides those that it does not \
                      name"
                    .into(),
                1 => "this machine has one GPU, numbered 0".into(),
                _ => format!("this machine has {count} GPUs, numbered from 0"),
            });
        }
        let device = result::device::get(ordinal as i32).map_err(describe)?;
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |which| {
            // SAFETY: a device that was just found.
            unsafe { result::device::get_attribute(device, which) }.map_err(describe)
        };
        Ok(Card {
            ordinal,
            name: result::device::get_name(device).map_err(describe)?,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            // SAFETY: a device that was just found.
            total: unsafe { result::device::total_mem(device) }.map_err(describe)? as u64,
            device,
        })
    }

    pub(super) fn device(&self) -> sys::CUdevice {
        self.device
    }

    /// Returns how many bytes of its memory nobody uses; none where the driver does not say.
    pub fn free(&self) -> Option<u64> {
        let context = Context::new(self.device).ok()?;
        context.enter().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free as u64)
    }
}

/// Describes all cards; fails with a sentence where there is no driver that can be used.
pub fn cards() -> Result<Vec<Card>, String> {
    (0..count()?).map(Card::new).collect()
}

fn count() -> Result<usize, String> {
    library::driver()?;
    result::init().map_err(describe)?;
    result::device::get_count().map(|count| count as usize).map_err(describe)
}

/// What this process has on a card. The last that is dropped frees it all.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

impl Context {
    pub(super) fn new(device: sys::CUdevice) -> Result<Context, result::DriverError> {
        // SAFETY: a device that was found; released once, when this is dropped.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Context { device, handle })
    }

    /// Makes this the one that the calls of this thread mean.
    pub(super) fn enter(&self) -> Result<(), result::DriverError> {
        // SAFETY: it is alive.
        unsafe { result::ctx::set_current(self.handle) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once. The thread is left without one, as it may be gone.
        unsafe {
            let _ = result::ctx::set_current(std::ptr::null_mut());
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Returns what the driver says of an error.
pub(super) fn describe(error: result::DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}
