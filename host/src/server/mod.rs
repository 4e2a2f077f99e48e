//! An OpenAI-compatible server in the place of the embedded engine: vLLM, SGLang, llama.cpp's servers.
//!
//! It gets token ids and gives text and logprobs; of chats, templates and plugins it hears nothing. A run
//! decides what is asked and what an answer is worth; here are the connection, many requests under way at once,
//! patience with a server that is slow, busy or away, and the looks at whether it is the model that it should be.
//!
//! Requests are asynchronous; nothing of that leaves this module.

mod adapters;
mod error;
mod flight;
mod probe;
mod protocol;
mod reach;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::runtime::Runtime;
use url::Url;

pub use error::ServerError;
pub use flight::{Flight, Refusal};
pub use probe::{Gap, PROBES, gap};
pub use protocol::{Completed, Dialect, Reply, Request, Usage, Work};
use reach::Reach;

use crate::plugin_set::Server as Settings;

/// What adapters are called on servers, before 16 digits of their digest.
pub const ADAPTER: &str = "aligner-";

/// The environment variable with the keys of servers: `ORIGIN=KEY`, several with commas between. A key is sent to
/// its origin alone, whatever a plugin set names.
pub const KEYS: &str = "ALIGNER_SERVER_KEYS";

/// A server that answers for a model.
pub struct Server {
    settings: Settings,
    /// Requests under way at once, at most.
    in_flight: u32,
    reach: Reach,
    runtime: Mutex<Runtime>,
    dialect: Dialect,
    /// What it calls the model.
    model: String,
    /// Tokens that a prompt may have with its completion, where it says so.
    context: Option<usize>,
    /// Tokens that it has read and written for the run.
    spent: Arc<AtomicU64>,
    /// What it said of some of what it was tried with, to know it again.
    known: Mutex<Vec<Known>>,
    /// Adapters that it holds for this run, the newest last.
    adapters: Mutex<Vec<adapters::Held>>,
}

impl Server {
    /// Reaches a server, and finds the model. `keys` is what [`KEYS`] says; `spent` counts the tokens that it reads
    /// and writes for the run.
    pub fn open(
        settings: &Settings,
        keys: Option<&str>,
        spent: Arc<AtomicU64>,
    ) -> Result<Server, ServerError> {
        let no_client =
            |why: String| ServerError::NoClient { server: settings.server.clone(), why };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| no_client(error.to_string()))?;
        let key = key(keys, &settings.server).map_err(no_client)?;
        let reach = Reach::new(settings, key.as_deref()).map_err(no_client)?;
        let listed = runtime.block_on(reach.models())?;
        let found = reach::choose(settings, listed)?;
        Ok(Server {
            dialect: Dialect::of(&found.owned_by),
            model: found.id,
            context: found.context,
            settings: settings.clone(),
            in_flight: settings.in_flight.min(most_connections()),
            reach,
            runtime: Mutex::new(runtime),
            spent,
            known: Mutex::default(),
            adapters: Mutex::default(),
        })
    }

    /// Returns what was set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns its kind.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Returns what it calls the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns how many tokens a prompt may have with its completion, where it says so.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// Does something asynchronous to its end.
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.lock().expect("nothing panics while it is held").block_on(work)
    }

    fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    fn add_spent(&self, tokens: u64) {
        self.spent.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// Lets this process have as many connections as the system lets it, since the first limit is a low one as a rule, and
/// returns how many that are; some files are open besides.
fn most_connections() -> u32 {
    // SAFETY: the struct is plain numbers, which the first call fills and the second reads.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max
        {
            let most = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &most) == 0 {
                limit = most;
            }
        }
        limit.rlim_cur
    };
    u32::try_from(limit.saturating_sub(128)).unwrap_or(u32::MAX).max(1)
}

/// A request with the logprobs that the server gave for it.
#[derive(Clone)]
struct Known {
    request: Request,
    said: Vec<f64>,
}

/// Returns the origin of an address: scheme, host and port.
pub fn origin(address: &str) -> String {
    Url::parse(address)
        .map_or_else(|_| address.to_owned(), |url| url.origin().ascii_serialization())
}

/// Returns the key for a server out of what [`KEYS`] says. Fails where that says something else than keys.
fn key(keys: Option<&str>, server: &str) -> Result<Option<String>, String> {
    let wanted = origin(server);
    let mut found = None;
    let entries = keys.unwrap_or_default().split(',').map(str::trim);
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let pair = entry.split_once('=').map(|(of, key)| (of.trim(), key.trim()));
        match pair.filter(|(of, key)| of.contains("://") && !key.is_empty()) {
            Some((of, key)) if origin(of) == wanted => {
                found.get_or_insert_with(|| key.to_owned());
            }
            Some(_) => {}
            None => {
                return Err(format!(
                    "{KEYS} has an entry that is no `ORIGIN=KEY`, such as `https://api.example.org=sk-…`"
                ));
            }
        }
    }
    Ok(found)
}
