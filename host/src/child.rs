//! This program, started again as a child that does what may end badly: it takes limits on itself, and whatever becomes
//! of it, its parent reads on.

use std::io;
use std::path::PathBuf;
use std::process::Command;

/// The one variable of the environment that a child gets.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// Returns the executable of this program: on Linux the image that runs, even where its file has been replaced since.
pub fn this_program() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok(PathBuf::from("/proc/self/exe")),
        false => std::env::current_exe(),
    }
}

/// Gives a command nothing of the environment but where libraries are, for a program that was started with libraries
/// from elsewhere.
pub fn without_environment(command: &mut Command) -> &mut Command {
    command.env_clear().envs(std::env::var_os(LIBRARY_PATH).map(|path| (LIBRARY_PATH, path)))
}

/// A resource of `setrlimit` with its soft and its hard limit.
pub type Limit = (libc::__rlimit_resource_t, u64, u64);

/// Takes limits on this process, and writes no core file.
pub fn take_limits(limits: &[Limit]) -> io::Result<()> {
    for &(resource, soft, hard) in limits.iter().chain(&[(libc::RLIMIT_CORE, 0, 0)]) {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place to write to, and the resource is one of libc's own.
        if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A stricter limit that is already there stays.
        limit.rlim_cur = limit.rlim_cur.min(soft);
        limit.rlim_max = limit.rlim_max.min(hard);
        // SAFETY: `limit` is initialised and outlives the call.
        if unsafe { libc::setrlimit(resource, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
