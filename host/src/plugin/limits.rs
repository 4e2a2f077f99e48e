//! What a plugin may use, and the accounts that hold an instance to that.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::bindings::aligner::plugin::log;
use crate::shown::one_line;

/// The most memory that a plugin set can give a plugin, in bytes.
pub const MAX_MEMORY_BYTES: usize = 256 << 20;
/// The most linear memories that a plugin set can give a plugin.
pub const MAX_MEMORIES: usize = 64;
/// The most tables that a plugin set can give a plugin.
pub const MAX_TABLES: usize = 512;
/// The most table elements that a plugin set can give a plugin. Each takes 8 bytes of the host.
pub const MAX_TABLE_ELEMENTS: usize = 4_000_000;
/// The most module instances that a plugin set can give a plugin.
pub const MAX_INSTANCES: usize = 512;
/// Handles of resources that an instance can hold. The contract has none, so only a component's own
/// parts can pass them to each other.
pub(super) const MAX_HANDLES: usize = 10_000;

/// What a plugin may use: in one call, and in the whole run. Going over is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Units of work, about one for each WebAssembly instruction. The same on every machine, so it
    /// is the limit that decides. The default, 2·10⁹, is about two seconds and over 30 times what a
    /// filter that looks at every word needs for a full batch.
    pub fuel: u64,
    /// Bytes of linear memory, over all memories of the instance. At most [`MAX_MEMORY_BYTES`].
    pub memory_bytes: usize,
    /// Linear memories of the instance. At most [`MAX_MEMORIES`].
    pub memories: usize,
    /// Tables of the instance. At most [`MAX_TABLES`].
    pub tables: usize,
    /// Elements over all tables of the instance; a large Python component has some ten thousand. At
    /// most [`MAX_TABLE_ELEMENTS`].
    pub table_elements: usize,
    /// Module instances that a component may be made of. At most [`MAX_INSTANCES`].
    pub instances: usize,
    /// Wall-clock time: the last resort, for what fuel does not see. Never decides what is in the
    /// data: going over always stops the run.
    pub deadline: Duration,
    /// Bytes that one call, or one line for the log, may copy from the plugin to the host; a list
    /// counts the size of its items on the host.
    pub copied_bytes: usize,
    /// Bytes that may be written to the log.
    pub log_bytes: usize,
    /// Over all calls of the run.
    pub run: RunLimits,
}

/// What a plugin may use in the whole run; what is absent has no limit. Going over always stops the
/// run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunLimits {
    /// Units of fuel. The same on every machine, and counted on when a run is resumed.
    pub fuel: Option<u64>,
    /// Bytes written to the log. Counted on when a run is resumed.
    pub log_bytes: Option<u64>,
    /// Wall-clock time, added up over calls that run side by side; since this process began.
    pub deadline: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            fuel: 2_000_000_000,
            memory_bytes: 64 << 20,
            memories: 8,
            tables: 32,
            table_elements: 200_000,
            instances: 64,
            deadline: Duration::from_secs(30),
            copied_bytes: 16 << 20,
            log_bytes: 64 << 10,
            run: RunLimits::default(),
        }
    }
}

/// A limit that the host's own code found exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("the memory limit is exceeded")]
    Memory,
    #[error("the table limit is exceeded")]
    Table,
    #[error("the log limit is exceeded")]
    Log,
}

/// What an instance has used of its limits.
pub(super) struct Account {
    /// The plugin's name, for the log.
    name: String,
    memory_limit: usize,
    memory_left: usize,
    elements_left: usize,
    memories: usize,
    tables: usize,
    instances: usize,
    log_limit: usize,
    log_left: usize,
    /// The last line of level error in this call: where the plugin panicked, the text of the panic.
    pub last_error: Option<String>,
}

impl Account {
    pub fn new(name: String, limits: &Limits) -> Account {
        let memory_limit = limits.memory_bytes.min(MAX_MEMORY_BYTES);
        Account {
            name,
            memory_limit,
            memory_left: memory_limit,
            elements_left: limits.table_elements.min(MAX_TABLE_ELEMENTS),
            memories: limits.memories.min(MAX_MEMORIES),
            tables: limits.tables.min(MAX_TABLES),
            instances: limits.instances.min(MAX_INSTANCES),
            log_limit: limits.log_bytes,
            log_left: limits.log_bytes,
            last_error: None,
        }
    }

    /// Returns how much linear memory the instance has, in bytes; it never becomes less.
    pub fn memory_bytes(&self) -> usize {
        self.memory_limit - self.memory_left
    }

    /// Returns how many bytes the call has written to the log.
    pub fn logged_bytes(&self) -> usize {
        self.log_limit - self.log_left
    }

    /// Starts a call: what is counted by call begins anew.
    pub fn begin_call(&mut self) {
        self.log_left = self.log_limit;
        self.last_error = None;
    }
}

/// Takes a growth from `left`, or says that it does not fit.
fn grow(
    left: &mut usize,
    current: usize,
    desired: usize,
    maximum: Option<usize>,
    exceeded: Exceeded,
) -> wasmtime::Result<bool> {
    // Over its own declared maximum: an ordinary failure that the guest must handle.
    if maximum.is_some_and(|maximum| desired > maximum) {
        return Ok(false);
    }
    match left.checked_sub(desired.saturating_sub(current)) {
        Some(rest) => {
            *left = rest;
            Ok(true)
        }
        // An error rather than `Ok(false)`: otherwise the guest sees a failed allocation, and most
        // answer that with a trap that says nothing.
        None => Err(exceeded.into()),
    }
}

impl ResourceLimiter for Account {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        grow(&mut self.memory_left, current, desired, maximum, Exceeded::Memory)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        grow(&mut self.elements_left, current, desired, maximum, Exceeded::Table)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}

impl log::Host for Account {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        // An empty line costs something too: a guest that writes them for ever must end.
        let Some(left) = self.log_left.checked_sub(message.len() + 1) else {
            return Err(Exceeded::Log.into());
        };
        self.log_left = left;
        let (plugin, line) = (self.name.as_str(), one_line(&message, 4096));
        match level {
            log::Level::Debug => tracing::debug!(target: "plugin", plugin, "{line}"),
            log::Level::Info => tracing::info!(target: "plugin", plugin, "{line}"),
            log::Level::Warn => tracing::warn!(target: "plugin", plugin, "{line}"),
            log::Level::Error => {
                // Not shown as an error by itself: where the call fails, its error carries the text.
                tracing::debug!(target: "plugin", plugin, "{line}");
                self.last_error = Some(line);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut account =
            Account::new("x".into(), &Limits { memory_bytes: 10 << 16, ..Limits::default() });
        assert!(account.memory_growing(0, 6 << 16, None).unwrap());
        assert!(account.memory_growing(0, 4 << 16, None).unwrap());
        let error = account.memory_growing(4 << 16, 5 << 16, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Exceeded::Memory));
        // A guest's own maximum is not the host's limit.
        assert!(!account.memory_growing(0, 9, Some(8)).unwrap());
    }

    #[test]
    fn no_setting_gives_more_than_the_most() {
        let most = usize::MAX;
        let limits = Limits {
            memory_bytes: most,
            memories: most,
            tables: most,
            table_elements: most,
            instances: most,
            ..Limits::default()
        };
        let account = Account::new("x".into(), &limits);
        assert_eq!(account.memory_left, MAX_MEMORY_BYTES);
        assert_eq!(account.memories(), MAX_MEMORIES);
        assert_eq!(account.tables(), MAX_TABLES);
        assert_eq!(account.elements_left, MAX_TABLE_ELEMENTS);
        assert_eq!(account.instances(), MAX_INSTANCES);
    }

    #[test]
    fn empty_lines_use_up_the_log() {
        use log::Host as _;
        let mut account = Account::new("x".into(), &Limits { log_bytes: 8, ..Limits::default() });
        for _ in 0..8 {
            account.write(log::Level::Info, String::new()).unwrap();
        }
        let error = account.write(log::Level::Info, String::new()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Exceeded::Log));
        account.begin_call();
        account.write(log::Level::Error, "a\x1b[2J".into()).unwrap();
        assert_eq!(account.last_error.as_deref(), Some("a [2J"));
    }
}
