//! NCCL, by which GPUs of several processes pass numbers to each other without the host's memory.
//!
//! The library is opened here: cudarc does not look for `libnccl.so.2`, the only name that it has where it comes with
//! PyTorch. And what its functions return is a number here, as a newer library may return one that no list has.
//!
//! A GPU that waits for another one waits for ever, and so does a host that waits for it. So the communicator does not
//! block, and whoever waits here looks whether the other process is still there; if not, the communicator is aborted,
//! which ends what it has asked of the GPU.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ops::Range;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::sys;

use super::driver::{Device, Memory};
use super::library::{Library, Version, file_of, refusal};
use super::{Buffer, Cuda};
use crate::model::backend::BackendError;
use crate::model::backend::linking::{Linking, unlinked};

const FILE: &str = "libnccl.so.2";

/// The oldest whose communicator may be told not to block.
const OLDEST: c_int = 21400;

/// What has a communicator block in the environment, whatever its settings are.
const BLOCKING: &str = "NCCL_COMM_BLOCKING";

/// Results of functions; all others are failures.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// The type of what is passed.
const FLOAT32: c_int = 7;

/// How often who waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(50);
/// For how long it looks without a pause whether it has to wait any longer.
const EAGER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(100);

/// Numbers that try a way.
const TRIED: usize = 1 << 16;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// `ncclConfig_t` of NCCL 2.14, which newer ones fill up.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    unused: c_int,
}

type Communicator = *mut c_void;

macro_rules! functions {
    ($($name:ident = $function:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// What is called of the library.
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// Finds all of them; fails with the name of one that is not there.
            fn find(library: &'static libloading::Library) -> Result<Functions, &'static str> {
                // SAFETY: these are the functions' types in the library's header.
                unsafe {
                    Ok(Functions { $($name: *library.get($function).map_err(|_| $function)?,)* })
                }
            }
        }
    };
}

functions! {
    version = "ncclGetVersion": fn(*mut c_int) -> c_int;
    unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
    init = "ncclCommInitRankConfig":
        fn(*mut Communicator, c_int, UniqueId, c_int, *mut Config) -> c_int;
    state = "ncclCommGetAsyncError": fn(Communicator, *mut c_int) -> c_int;
    abort = "ncclCommAbort": fn(Communicator) -> c_int;
    send = "ncclSend": fn(*const c_void, usize, c_int, c_int, Communicator, sys::CUstream) -> c_int;
    receive = "ncclRecv": fn(*mut c_void, usize, c_int, c_int, Communicator, sys::CUstream) -> c_int;
    begin = "ncclGroupStart": fn() -> c_int;
    end = "ncclGroupEnd": fn() -> c_int;
    text = "ncclGetErrorString": fn(c_int) -> *const c_char;
    last = "ncclGetLastError": fn(Communicator) -> *const c_char;
}

/// The library, whole and new enough.
pub struct Nccl {
    functions: Functions,
    /// With NCCL's own version.
    pub library: Library,
}

/// Loads NCCL; fails with a sentence where there is none, or one that is too old or not whole.
pub fn nccl() -> Result<&'static Nccl, &'static str> {
    static NCCL: OnceLock<Result<Nccl, String>> = OnceLock::new();
    NCCL.get_or_init(Nccl::open).as_ref().map_err(String::as_str)
}

impl Nccl {
    fn open() -> Result<Nccl, String> {
        // SAFETY: what the library does when it is loaded is its own.
        let library = unsafe { libloading::Library::new(FILE) }.map_err(|_| {
            let said = refusal(c"libnccl.so.2");
            format!("NCCL is not found, its folder belongs into LD_LIBRARY_PATH: {said}")
        })?;
        // It has threads of its own, so it is never unloaded.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let functions = Functions::find(library).map_err(|name| {
            format!("NCCL (`{FILE}`) lacks the function `{name}`: it is too old, or not NVIDIA's")
        })?;
        let path = file_of(functions.version as *const c_void);
        let mut version = 0;
        // SAFETY: there is room for what it says.
        let said = unsafe { (functions.version)(&raw mut version) };
        let library = Library { version: Version::of_nccl(version), path };
        let nccl = Nccl { functions, library };
        match said {
            SUCCESS if version >= OLDEST => Ok(nccl),
            SUCCESS => {
                Err(format!("NCCL is of version {}, 2.14 or newer is needed", nccl.library.version))
            }
            failure => Err(format!("NCCL does not say its version: {}", nccl.text(failure))),
        }
    }

    /// Returns a key for communicators to meet by.
    pub(super) fn key(&self) -> Result<Vec<u8>, String> {
        if std::env::var_os(BLOCKING).is_some_and(|value| value != "0") {
            return Err(format!("{BLOCKING} has it wait for ever: unset it"));
        }
        let mut id = UniqueId([0; 128]);
        // SAFETY: there is room for the key.
        match unsafe { (self.functions.unique_id)(&raw mut id) } {
            SUCCESS => Ok(id.0.to_vec()),
            failure => Err(format!("NCCL: {}", self.text(failure))),
        }
    }

    fn text(&self, result: c_int) -> String {
        // SAFETY: the text lives as long as the library.
        unsafe { text_of((self.functions.text)(result)) }
    }
}

/// Copies a text of the library's.
///
/// # Safety
///
/// It is null, or ends in a zero.
unsafe fn text_of(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: the caller knows that it ends.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

/// Numbers that are passed.
pub(super) struct Passed {
    pub(super) address: u64,
    pub(super) len: usize,
    /// The number of the other device.
    pub(super) other: usize,
    /// Whether they go there, and do not come from there.
    pub(super) sent: bool,
}

/// The way from one GPU to those of other processes.
pub(super) struct Link {
    nccl: &'static Nccl,
    communicator: Communicator,
    device: Arc<Device>,
}

// SAFETY: a communicator may be used from any thread, by one at a time, and who has the link is alone with it.
unsafe impl Send for Link {}

impl Link {
    /// Waits until all devices are linked, and tries the ways from and to the one with number 0.
    pub(super) fn new(
        device: &Arc<Device>,
        key: &[u8],
        rank: usize,
        size: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<Link, BackendError> {
        let nccl = nccl().map_err(|said| device.failed(said.to_owned()))?;
        let id =
            key.try_into().map_err(|_| device.failed("this is no key of NCCL's".to_owned()))?;
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: 0,
            unused: c_int::MIN,
        };
        let mut communicator = std::ptr::null_mut();
        let (count, own) = (size as c_int, rank as c_int);
        // It is made on the device that is current.
        device.wait()?;
        // SAFETY: there is room for the communicator, and the settings are as the library's header has them.
        let said = unsafe {
            (nccl.functions.init)(&raw mut communicator, count, UniqueId(id), own, &raw mut config)
        };
        if communicator.is_null() {
            return Err(device.failed(format!("NCCL: {}", nccl.text(said))));
        }
        let link = Link { nccl, communicator, device: device.clone() };
        link.posted(said, still)?;
        let others = if rank == 0 { 1..size } else { 0..1 };
        for other in others {
            link.try_way(rank == 0, other, still)?;
        }
        Ok(link)
    }

    /// Lets numbers go there and back, which also makes what the way needs before memory is used for more.
    fn try_way(
        &self,
        first: bool,
        other: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        let numbers: Vec<f32> = (0..TRIED).map(|i| (i + other) as f32).collect();
        let memory = Memory::new(&self.device, size_of_val(&numbers[..]))?;
        let passed = |sent| [Passed { address: memory.address(), len: TRIED, other, sent }];
        if !first {
            self.transfer(&passed(false), still)?;
            return self.transfer(&passed(true), still);
        }
        memory.write(&numbers, 0);
        self.transfer(&passed(true), still)?;
        memory.clear(memory.bytes());
        self.transfer(&passed(false), still)?;
        match memory.read::<f32>(0, TRIED)? == numbers {
            true => Ok(()),
            false => Err(self.device.failed(format!(
                "NCCL brings other numbers back from device {other} of this link than were sent"
            ))),
        }
    }

    /// Passes numbers, and waits until they are there.
    fn transfer(
        &self,
        passed: &[Passed],
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        let Link { nccl: Nccl { functions, .. }, communicator, device } = self;
        device.enter();
        // Together, so that none waits for the one before it. The group is ended whatever has failed in it.
        // SAFETY: the communicator is alive, and so is memory of these lengths until all has passed.
        let said = unsafe {
            let mut said = vec![(functions.begin)()];
            for &Passed { address, len, other, sent } in passed {
                let (memory, other, stream) =
                    (address as *mut c_void, other as c_int, device.stream());
                said.push(match sent {
                    true => (functions.send)(memory, len, FLOAT32, other, *communicator, stream),
                    false => {
                        (functions.receive)(memory, len, FLOAT32, other, *communicator, stream)
                    }
                });
            }
            said.push((functions.end)());
            // The first failure says most.
            said.iter().copied().find(|&said| is_failure(said)).unwrap_or(said[said.len() - 1])
        };
        self.posted(said, still)?;
        // What has failed on the way may never be done. What failed before is somebody else's to hear.
        self.wait(still, || {
            self.state()?;
            device.is_idle()
        })
    }

    /// Waits until what a call has asked for, which said `said`, is done or on the stream.
    fn posted(&self, said: c_int, still: &mut dyn FnMut() -> bool) -> Result<(), BackendError> {
        self.heard(said)?;
        self.wait(still, || Ok(self.state()? == SUCCESS))
    }

    /// Returns whether the communicator is ready or at work; fails where it has failed.
    fn state(&self) -> Result<c_int, BackendError> {
        let mut state = IN_PROGRESS;
        // SAFETY: the communicator is alive, and there is room for its state.
        let asked = unsafe { (self.nccl.functions.state)(self.communicator, &raw mut state) };
        self.heard(if asked == SUCCESS { state } else { asked })
    }

    /// Returns a result unless it is a failure.
    fn heard(&self, result: c_int) -> Result<c_int, BackendError> {
        let Link { nccl, communicator, device } = self;
        if !is_failure(result) {
            return Ok(result);
        }
        // SAFETY: the communicator is alive, and the text as long as nothing else is called.
        let last = unsafe { text_of((nccl.functions.last)(*communicator)) };
        let last = last.trim();
        let more = if last.is_empty() { String::new() } else { format!(": {last}") };
        Err(device.failed(format!("NCCL: {}{more}", nccl.text(result))))
    }

    /// Waits until something is done.
    fn wait(
        &self,
        still: &mut dyn FnMut() -> bool,
        mut done: impl FnMut() -> Result<bool, BackendError>,
    ) -> Result<(), BackendError> {
        let begun = Instant::now();
        let mut looked = begun;
        while !done()? {
            if begun.elapsed() > EAGER {
                std::thread::sleep(PAUSE);
            }
            if looked.elapsed() > LOOK {
                if !still() {
                    let message = "another process of this link is not waited for any more";
                    return Err(self.device.failed(message.to_owned()));
                }
                looked = Instant::now();
            }
        }
        Ok(())
    }
}

fn is_failure(result: c_int) -> bool {
    result != SUCCESS && result != IN_PROGRESS
}

impl Cuda {
    /// Passes numbers by the link, which is given up where it fails.
    fn transfer(
        &self,
        passed: &[Passed],
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        let mut link = self.linked();
        let result = link.as_ref().ok_or_else(unlinked)?.transfer(passed, still);
        if result.is_err() {
            *link = None;
        }
        result
    }

    fn linked(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().expect("nothing panics while it is held")
    }
}

impl Linking for Cuda {
    fn link_key(&self) -> Result<Option<Vec<u8>>, BackendError> {
        let key = nccl().map_err(str::to_owned).and_then(Nccl::key);
        key.map(Some).map_err(|said| self.device.failed(said))
    }

    fn link(
        &self,
        key: &[u8],
        rank: usize,
        size: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        self.unlink();
        *self.linked() = Some(Link::new(&self.device, key, rank, size, still)?);
        Ok(())
    }

    fn settle(&self) -> Result<(), BackendError> {
        self.wait()
    }

    fn unlink(&self) {
        *self.linked() = None;
    }

    fn send(
        &self,
        buffers: &[&Buffer],
        to: Range<usize>,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        let of = |(other, buffer): (usize, &&Buffer)| Passed {
            address: buffer.read(buffer.len),
            len: buffer.len,
            other,
            sent: true,
        };
        let to_each = to.flat_map(|other| buffers.iter().map(move |buffer| (other, buffer)));
        self.transfer(&to_each.map(of).collect::<Vec<_>>(), still)
    }

    fn receive(
        &self,
        buffers: &mut [&mut Buffer],
        from: usize,
        still: &mut dyn FnMut() -> bool,
    ) -> Result<(), BackendError> {
        let of = |buffer: &mut &mut Buffer| {
            let len = buffer.len;
            Passed { address: buffer.written(len), len, other: from, sent: false }
        };
        self.transfer(&buffers.iter_mut().map(of).collect::<Vec<_>>(), still)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.device.enter();
        // SAFETY: it is used by nobody any more. What it still asks of the device ends.
        unsafe { (self.nccl.functions.abort)(self.communicator) };
    }
}
