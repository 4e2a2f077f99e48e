//! What the machine has.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::model::backend::{WeightType, cpu::Cpu, cpu::Isa};
use crate::progress::counted;
use crate::report::bytes;

/// What SOFT+ on a model of 135 million parameters takes, a little more than that.
const LITTLE_MEMORY: u64 = 1_500_000_000;

/// What a run of some rounds with such a model leaves, and the model.
const LITTLE_DISK: u64 = 1_000_000_000;

/// Says which instructions there are, and which kernels will be used.
pub fn cpu() -> Finding {
    let isa = Cpu::new().isa();
    let kernels = |weight_type| format!("{} for {weight_type}", isa.class(weight_type));
    let kernels = [WeightType::F32, WeightType::Bf16, WeightType::Int8].map(kernels).join(", ");
    let features = features();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    let found = format!("{}: {features}; kernels {kernels}", processor());
    // Elsewhere there are no others.
    match isa == Isa::Portable && cfg!(target_arch = "x86_64") {
        true => Finding::warning(
            "cpu",
            found,
            "kernels without AVX2 and FMA are several times slower; a virtual machine may hide \
             instructions that the processor has",
        ),
        false => Finding::ok("cpu", found),
    }
}

/// Returns what the processor is called.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Returns the instructions that kernels look for.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        let named = all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
        // Of tiles the compiler cannot tell yet; the kernels can.
        let tiles = Cpu::new().isa().class(WeightType::Bf16) == "amx-bf16";
        named.chain(tiles.then_some("amx-bf16")).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// Says on how many threads models run.
pub fn cores() -> Finding {
    let threads = rayon::current_num_threads();
    let cores = std::thread::available_parallelism().map_or(threads, usize::from);
    let found = format!(
        "{}, models run on {}",
        counted(cores as u64, "cores"),
        counted(threads as u64, "threads")
    );
    let finding = match threads < cores {
        true => Finding::warning("cores", found, "`RAYON_NUM_THREADS` holds threads back"),
        false => Finding::ok("cores", found),
    };
    finding.with("cores", cores as f64).with("threads", threads as f64)
}

/// Says how many bytes of memory this process may come to hold, as it was found by the caller.
pub fn memory(available: Option<u64>) -> Finding {
    let Some(available) = available else {
        let hint = "`ALIGNER_MEMORY=8GB` in the environment says it, so that runs that need more are refused";
        return Finding::warning("memory", "the system does not say how much is available", hint);
    };
    let found = format!("{} available", bytes(available));
    let finding = match available < LITTLE_MEMORY {
        true => {
            let hint = "a run with the default model takes about 1.3 GB; `--set run.dtype=\"bf16\"` halves weights";
            Finding::warning("memory", found, hint)
        }
        false => Finding::ok("memory", found),
    };
    finding.with("available_bytes", available as f64)
}

/// Says how much room there is where runs are kept by default.
pub fn disk(folder: &Path) -> Finding {
    room("disk", folder, "name another folder with `--out`")
}

/// Says how much room there is for models and compiled plugins.
pub fn cache(folder: Option<PathBuf>) -> Finding {
    let hint = "set `ALIGNER_CACHE` to a folder that may be written to";
    let Some(folder) = folder else {
        return Finding::failed("cache", "no folder for the cache is known", hint);
    };
    if let Err(error) = std::fs::create_dir_all(&folder) {
        let found = format!("`{}` cannot be made: {error}", folder.display());
        return Finding::failed("cache", found, hint);
    }
    room("cache", &folder, hint)
}

fn room(check: &'static str, folder: &Path, hint: &str) -> Finding {
    let shown = folder.display();
    // Without a name, so that nothing is left behind.
    if let Err(error) = tempfile::tempfile_in(folder) {
        return Finding::failed(check, format!("`{shown}` cannot be written to: {error}"), hint);
    }
    match free(folder) {
        None => Finding::ok(check, format!("`{shown}` can be written to")),
        Some(free) => {
            let found = format!("{} free in `{shown}`", bytes(free));
            let finding = match free < LITTLE_DISK {
                true => Finding::warning(check, found, format!("make room, or {hint}")),
                false => Finding::ok(check, found),
            };
            finding.with("free_bytes", free as f64)
        }
    }
}

/// Returns how many bytes a folder's file system has left for this user; none where it does not say.
fn free(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero, and `about` has room for what is said.
    let said = unsafe { libc::statvfs(path.as_ptr(), about.as_mut_ptr()) };
    if said != 0 {
        return None;
    }
    // SAFETY: the call has filled it.
    let about = unsafe { about.assume_init() };
    #[expect(clippy::unnecessary_cast, reason = "the types differ between systems")]
    Some((about.f_bavail as u64).saturating_mul(about.f_frsize as u64))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::model::backend::AnyDevice;

    #[test]
    fn little_is_a_warning_and_what_cannot_be_written_fails() {
        assert_eq!(memory(Some(8_000_000_000)).status, Status::Ok);
        assert_eq!(memory(Some(1_000_000_000)).status, Status::Warning);
        assert_eq!(memory(None).status, Status::Warning);
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(disk(folder.path()).status, Status::Failed);
        let gone = disk(&folder.path().join("gone"));
        assert_eq!(gone.status, Status::Failed);
        assert!(gone.found.contains("cannot be written to"), "{}", gone.found);
        assert_eq!(cache(None).status, Status::Failed);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let beneath = cache(Some(file.join("cache")));
        assert_eq!(beneath.status, Status::Failed);
        assert!(beneath.hint.unwrap().contains("ALIGNER_CACHE"));
    }

    #[test]
    fn kernels_are_those_that_a_run_names() {
        let found = cpu().found;
        let class = AnyDevice::cpu().class(WeightType::F32);
        let kernels = class.rsplit(' ').next().unwrap();
        assert!(found.contains(&format!("kernels {kernels} for f32")), "{found}");
        assert!(free(Path::new("/")).unwrap() > 0);
    }
}
