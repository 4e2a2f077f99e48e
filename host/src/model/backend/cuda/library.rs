//! NVIDIA's libraries, looked at before anything of them is used: there, new enough, whole.
//!
//! cudarc loads a library at the first call and a function at the first call of it, and panics where
//! either is not there. So both are looked for here first, and what is wrong becomes a sentence.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys;

/// What is called of both libraries: as our sources call it, and the function behind it.
const CALLED: &[(&str, &str)] = &[
    ("result::DriverError", "cuGetErrorName"),
    ("result::DriverError", "cuGetErrorString"),
    ("result::ctx::set_current", "cuCtxSetCurrent"),
    ("result::device::get", "cuDeviceGet"),
    ("result::device::get_attribute", "cuDeviceGetAttribute"),
    ("result::device::get_count", "cuDeviceGetCount"),
    ("result::device::get_default_mem_pool", "cuDeviceGetDefaultMemPool"),
    ("result::device::get_name", "cuDeviceGetName"),
    ("result::device::total_mem", "cuDeviceTotalMem_v2"),
    ("result::free_async", "cuMemFreeAsync"),
    ("result::function::get_function_attribute", "cuFuncGetAttribute"),
    ("result::function::set_function_attribute", "cuFuncSetAttribute"),
    ("result::graph::destroy", "cuGraphDestroy"),
    ("result::graph::exec_destroy", "cuGraphExecDestroy"),
    ("result::graph::instantiate", "cuGraphInstantiateWithFlags"),
    ("result::graph::launch", "cuGraphLaunch"),
    ("result::init", "cuInit"),
    ("result::launch_kernel", "cuLaunchKernel"),
    ("result::malloc_async", "cuMemAllocAsync"),
    ("result::mem_get_info", "cuMemGetInfo_v2"),
    ("result::memcpy_dtoh_async", "cuMemcpyDtoHAsync_v2"),
    ("result::memcpy_htod_async", "cuMemcpyHtoDAsync_v2"),
    ("result::memset_d8_async", "cuMemsetD8Async"),
    ("result::module::get_function", "cuModuleGetFunction"),
    ("result::module::load_data", "cuModuleLoadData"),
    ("result::primary_ctx::release", "cuDevicePrimaryCtxRelease_v2"),
    ("result::primary_ctx::retain", "cuDevicePrimaryCtxRetain"),
    ("result::stream::begin_capture", "cuStreamBeginCapture_v2"),
    ("result::stream::create", "cuStreamCreate"),
    ("result::stream::destroy", "cuStreamDestroy_v2"),
    ("result::stream::end_capture", "cuStreamEndCapture"),
    ("result::stream::synchronize", "cuStreamSynchronize"),
    ("sys::cuDriverGetVersion", "cuDriverGetVersion"),
    ("sys::cuMemPoolGetAttribute", "cuMemPoolGetAttribute"),
    ("sys::cuMemPoolSetAttribute", "cuMemPoolSetAttribute"),
    ("sys::cuStreamQuery", "cuStreamQuery"),
    ("cublaslt::result::create_handle", "cublasLtCreate"),
    ("cublaslt::result::create_matmul_desc", "cublasLtMatmulDescCreate"),
    ("cublaslt::result::create_matmul_pref", "cublasLtMatmulPreferenceCreate"),
    ("cublaslt::result::create_matrix_layout", "cublasLtMatrixLayoutCreate"),
    ("cublaslt::result::destroy_handle", "cublasLtDestroy"),
    ("cublaslt::result::destroy_matmul_pref", "cublasLtMatmulPreferenceDestroy"),
    ("lt::cublasLtGetVersion", "cublasLtGetVersion"),
    ("lt::cublasLtMatmul", "cublasLtMatmul"),
    ("lt::cublasLtMatmulAlgoConfigGetAttribute", "cublasLtMatmulAlgoConfigGetAttribute"),
    ("lt::cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmulAlgoGetHeuristic"),
    ("lt::cublasLtMatmulDescDestroy", "cublasLtMatmulDescDestroy"),
    ("lt::cublasLtMatmulDescSetAttribute", "cublasLtMatmulDescSetAttribute"),
    ("lt::cublasLtMatmulPreferenceSetAttribute", "cublasLtMatmulPreferenceSetAttribute"),
    ("lt::cublasLtMatrixLayoutDestroy", "cublasLtMatrixLayoutDestroy"),
];

/// The oldest CUDA that a driver may be for.
const DRIVER: Version = Version { major: 13, minor: 0, patch: None };
/// The CUDA whose cuBLASLt it has to be.
const CUBLASLT: usize = 13;

/// A library that is loaded and has all that is called of it.
#[derive(Clone, Debug)]
pub struct Library {
    /// Of CUDA that a driver is for, or of cuBLASLt itself.
    pub version: Version,
    /// The file, where the system says.
    pub path: Option<PathBuf>,
}

/// A version, written for example `13.0` or `13.1.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: usize,
    minor: usize,
    patch: Option<usize>,
}

impl Version {
    /// Reads a driver's: 13000 is 13.0.
    fn of_driver(number: i32) -> Version {
        let number = usize::try_from(number).unwrap_or(0);
        Version { major: number / 1000, minor: number % 1000 / 10, patch: None }
    }

    /// Reads NCCL's: 22703 is 2.27.3.
    pub(super) fn of_nccl(number: i32) -> Version {
        let number = usize::try_from(number).unwrap_or(0);
        let (minor, patch) = (number % 10_000 / 100, Some(number % 100));
        Version { major: number / 10_000, minor, patch }
    }

    /// Reads cuBLASLt's: 130100 is 13.1.0. Until CUDA 11 it had a digit less.
    fn of_cublaslt(number: usize) -> Version {
        let whole = if number < 100_000 { 1000 } else { 10_000 };
        let (minor, patch) = (number % whole / 100, Some(number % 100));
        Version { major: number / whole, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { major, minor, patch } = self;
        write!(f, "{major}.{minor}")?;
        patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

/// Loads the driver; fails with a sentence where there is none, or one that is too old or not whole.
pub fn driver() -> Result<Library, String> {
    // SAFETY: looks for a library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!("this machine has no NVIDIA driver: {}", refusal(c"libcuda.so.1")));
    }
    let find = |name: &str| {
        // SAFETY: nothing is called; which arguments it takes does not matter to its address.
        let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) };
        found.ok().map(|function| *function as *const c_void)
    };
    let path = whole("the driver", &["cuDriverGetVersion"], find)?;
    let mut number = 0;
    // SAFETY: the function is there, and there is room for what it says.
    let said = unsafe { sys::cuDriverGetVersion(&raw mut number) };
    said.result().map_err(|error| format!("the driver does not say its version: {:?}", error.0))?;
    let version = Version::of_driver(number);
    if version < DRIVER {
        return Err(format!(
            "the driver is for CUDA {version}, this build needs {DRIVER} or newer: update NVIDIA's \
             driver to 580 or newer"
        ));
    }
    whole("the driver", &called(false), find)?;
    Ok(Library { version, path })
}

/// Loads cuBLASLt; fails with a sentence where there is none, or one of another CUDA or not whole.
pub fn cublaslt() -> Result<Library, String> {
    // SAFETY: looks for a library and closes it again.
    if !unsafe { lt::is_culib_present() } {
        return Err(format!(
            "the library cuBLASLt is not found, its folder belongs into LD_LIBRARY_PATH: {}",
            refusal(c"libcublasLt.so.13")
        ));
    }
    let find = |name: &str| {
        // SAFETY: nothing is called; which arguments it takes does not matter to its address.
        let found = unsafe { lt::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) };
        found.ok().map(|function| *function as *const c_void)
    };
    let path = whole("cuBLASLt", &["cublasLtGetVersion"], find)?;
    // SAFETY: the function is there.
    let version = Version::of_cublaslt(unsafe { lt::cublasLtGetVersion() });
    if version.major != CUBLASLT {
        return Err(format!(
            "cuBLASLt{} is of version {version}, this build needs {CUBLASLT}: the folder of \
             `libcublasLt.so.{CUBLASLT}` belongs into LD_LIBRARY_PATH, before any other",
            at(path.as_deref())
        ));
    }
    whole("cuBLASLt", &called(true), find)?;
    Ok(Library { version, path })
}

/// Returns the functions that are called of cuBLASLt, or of the driver.
fn called(cublaslt: bool) -> Vec<&'static str> {
    let names = CALLED.iter().map(|(_, name)| *name);
    names.filter(|name| name.starts_with("cublasLt") == cublaslt).collect()
}

/// Returns the file of a library that has all these functions; fails at the first that it lacks.
fn whole(
    library: &str,
    functions: &[&str],
    find: impl Fn(&str) -> Option<*const c_void>,
) -> Result<Option<PathBuf>, String> {
    let found: Vec<_> = functions.iter().map(|name| (name, find(name))).collect();
    let path = found.iter().find_map(|(_, function)| file_of((*function)?));
    match found.iter().find(|(_, function)| function.is_none()) {
        None => Ok(path),
        Some((name, _)) => Err(format!(
            "{library}{} lacks the function `{name}`: it is too old, or not NVIDIA's",
            at(path.as_deref())
        )),
    }
}

fn at(path: Option<&Path>) -> String {
    path.map_or(String::new(), |path| format!(" (`{}`)", path.display()))
}

/// Returns the file that a loaded function is of.
pub(super) fn file_of(function: *const c_void) -> Option<PathBuf> {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: `about` has room for what is said, and the address is only looked up.
    if unsafe { libc::dladdr(function, about.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call has filled it, and a name is a text that ends in a zero.
    let name = unsafe {
        let name = about.assume_init().dli_fname;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    name.map(PathBuf::from)
}

/// Returns why the system does not load a library.
pub(super) fn refusal(name: &CStr) -> String {
    // SAFETY: the name ends in a zero, and what is loaded is closed; the text is copied before another
    // call of this thread changes it.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL);
        if !library.is_null() {
            libc::dlclose(library);
        } else if let Some(said) = std::ptr::NonNull::new(libc::dlerror()) {
            return CStr::from_ptr(said.as_ptr()).to_string_lossy().into_owned();
        }
    }
    format!("{} does not load", name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn versions_are_read_as_nvidia_writes_them() {
        for (number, expected) in
            [(13_000, "13.0"), (12_020, "12.2"), (13_010, "13.1"), (-1, "0.0")]
        {
            assert_eq!(Version::of_driver(number).to_string(), expected);
        }
        assert!(Version::of_driver(12_090) < DRIVER && Version::of_driver(13_000) >= DRIVER);
        for (number, expected) in
            [(130_100, "13.1.0"), (120_805, "12.8.5"), (11_402, "11.4.2"), (0, "0.0.0")]
        {
            assert_eq!(Version::of_cublaslt(number).to_string(), expected);
        }
        for (number, expected) in [(22_703, "2.27.3"), (21_400, "2.14.0"), (-1, "0.0.0")] {
            assert_eq!(Version::of_nccl(number).to_string(), expected);
        }
    }

    #[test]
    fn a_library_that_lacks_a_function_is_named_with_it() {
        let here = refusal as *const () as *const c_void;
        assert!(whole("it", &["one"], |_| Some(here)).unwrap().is_some());
        let said = whole("it", &["one", "two"], |name| (name == "one").then_some(here));
        assert!(said.unwrap_err().contains("lacks the function `two`"));
        assert!(refusal(c"libnothing-of-this-name.so").contains("cannot open shared object file"));
    }

    /// What of cudarc's paths calls nothing.
    const PLAIN: [&str; 2] =
        ["cublaslt::result::CublasError", "result::stream::StreamKind::NonBlocking"];

    #[test]
    fn every_function_that_is_called_is_looked_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/backend/cuda");
        let (mut paths, mut files) = (BTreeSet::new(), 0);
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_none_or(|it| it != "rs") || file.ends_with("tests.rs") {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&file).unwrap();
            // Without comments, and without the list itself.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with(['(', '/']));
            for line in code {
                paths.extend(called_in(line));
            }
        }
        assert!(files >= 8, "{files}");
        let listed: BTreeSet<String> = CALLED.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(paths, listed);
    }

    /// Returns the paths of cudarc in a line that come to a call of a library.
    fn called_in(line: &str) -> Vec<String> {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let of = |word: &str| {
            let word = word.trim_matches(':');
            let word = word.strip_prefix("cudarc::").unwrap_or(word);
            let ours = ["result::", "cublaslt::result::", "sys::cu", "lt::cublasLt"];
            let ours = ours.iter().any(|start| word.starts_with(start));
            // A library's types end so; `culib` is cudarc's own.
            let types = word.ends_with("_t") || word.contains("_t::");
            let plain = types || word == "sys::culib" || PLAIN.contains(&word);
            (ours && !plain).then(|| word.to_owned())
        };
        line.split(|c| !part(c)).filter_map(of).collect()
    }
}
