//! What the machine has: Linux says it in files.

#[cfg(target_os = "linux")]
use std::path::{Path, PathBuf};

/// Returns how many bytes this process may come to hold, what it holds now included: what the system
/// could give without swapping, within the limits of the control groups that the process is in. None
/// where the system does not say.
pub fn available() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let machine = field(&read("/proc/meminfo")?, "MemAvailable:")?;
        let free = groups().into_iter().filter_map(|group| group.free()).fold(machine, u64::min);
        // Pages of files count as available as it is.
        let own = read("/proc/self/status").and_then(|status| field(&status, "RssAnon:"));
        Some(free + own.unwrap_or(0))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Returns how many bytes of memory this process holds now; none where the system does not say.
pub fn resident() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return field(&read("/proc/self/status")?, "VmRSS:");
    #[cfg(not(target_os = "linux"))]
    None
}

/// Gives back to the system what is freed. Left to itself, glibc keeps buffers of up to 32 MiB for
/// later, and the activations of a round's training then stand beside the keys and values of the next
/// round: 0.4 GB with a model of 135 million parameters.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no memory that is in use is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(target_os = "linux")]
fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Returns a line's number of kB in bytes.
#[cfg(target_os = "linux")]
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A control group that limits memory.
#[cfg(target_os = "linux")]
struct Group {
    folder: PathBuf,
    names: &'static Names,
}

/// What a version of control groups calls things.
#[cfg(target_os = "linux")]
struct Names {
    limit: &'static str,
    used: &'static str,
    /// Of `memory.stat`: cached files, which are given back when room is needed.
    cached: [&'static str; 2],
}

#[cfg(target_os = "linux")]
const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};
#[cfg(target_os = "linux")]
const V2: Names =
    Names { limit: "memory.max", used: "memory.current", cached: ["inactive_file", "active_file"] };

/// Returns the groups that this process is in, and those above them.
#[cfg(target_os = "linux")]
fn groups() -> Vec<Group> {
    let lines = read("/proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in lines.lines() {
        // `number:controllers:path`; version 2 has no controllers here.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, names) = match controllers {
            "" => ("/sys/fs/cgroup", &V2),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", &V1)
            }
            _ => continue,
        };
        // In a container the path may be that outside: then only the mount itself is there.
        let inside = Path::new(path.trim_start_matches('/'));
        groups.extend(
            inside.ancestors().map(|path| Group { folder: Path::new(mount).join(path), names }),
        );
    }
    groups
}

#[cfg(target_os = "linux")]
impl Group {
    /// Returns what is left within the limit; none where there is no limit.
    fn free(&self) -> Option<u64> {
        let number = |name: &str| read(self.folder.join(name))?.trim().parse::<u64>().ok();
        let (limit, used) = (number(self.names.limit)?, number(self.names.used)?);
        let stat = read(self.folder.join("memory.stat")).unwrap_or_default();
        let cached = self.names.cached.iter().filter_map(|name| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(' ')?.parse::<u64>().ok()
        });
        Some(limit.saturating_sub(used.saturating_sub(cached.sum())))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_something_and_may_hold_more() {
        let held = resident().unwrap();
        assert!(held > 1 << 20, "{held}");
        assert!(available().unwrap() > held);
    }

    #[test]
    fn a_group_leaves_what_its_limit_does() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let free = |names| Group { folder: folder.path().to_owned(), names }.free();
        assert_eq!(free(&V2), None);
        write("memory.max", "max\n");
        write("memory.current", "300\n");
        assert_eq!(free(&V2), None);
        write("memory.max", "1000\n");
        assert_eq!(free(&V2), Some(700));
        write("memory.stat", "anon 250\ninactive_file 40\nactive_file 10\n");
        assert_eq!(free(&V2), Some(750));
        write("memory.current", "2000\n");
        assert_eq!(free(&V2), Some(0));
        write("memory.limit_in_bytes", "500\n");
        write("memory.usage_in_bytes", "100\n");
        assert_eq!(free(&V1), Some(400));
        write("memory.stat", "inactive_file 1\ntotal_inactive_file 50\n");
        assert_eq!(free(&V1), Some(450));
    }

    #[test]
    fn fields_are_in_kilobytes() {
        let text = "MemTotal:       24 kB\nMemAvailable:   16 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(16 << 10));
        assert_eq!(field(text, "MemFree:"), None);
    }
}
