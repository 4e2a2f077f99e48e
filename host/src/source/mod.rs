//! Components from wherever a source says: this binary, files, `https:` addresses, OCI registries.
//!
//! What comes over a network is kept under its SHA-256 and used from there the next time, so that a run
//! whose sources are pinned needs no network again. None of it is trusted: it goes the way of any file.

mod https;
mod kept;
mod login;
mod registry;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use registry::Pushed;

use crate::model;
use crate::model::source::Progress;
use crate::pack;
use crate::plugin::{self, LoadFault, PluginError};
use crate::plugin_set::{Pin, Source};
use crate::shown::one_line;

/// Hears how far a download is.
pub type Report<'a> = &'a mut dyn FnMut(Progress);

/// A download that takes less goes without a word.
const BLINK: Duration = Duration::from_secs(2);

/// Gets components.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// Where what was fetched is kept; absent: nowhere.
    pub kept: Option<PathBuf>,
    /// How long servers are waited for.
    pub patience: Patience,
    /// The environment: settings for registries.
    pub variable: fn(&str) -> Option<OsString>,
}

/// How long servers are waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Of a server that says nothing.
    pub silence: Duration,
    /// For all of a component.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(30),
            whole: Duration::from_secs(600),
        }
    }
}

/// A component, and where it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The component.
    pub component: plugin::Source,
    /// SHA-256 of the manifest that names it, where it is of a registry.
    pub manifest: Option<String>,
}

/// Why there is no component. Displays as the end of a sentence that the source begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    message: String,
    hint: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { message: message.into(), hint: Some(hint.into()) }
    }

    fn of(self, source: &Source) -> PluginError {
        // What is wrong may be in the words of a server.
        let message = one_line(&self.message, 1000);
        let hint = self.hint;
        let fault = LoadFault::Source { message, hint };
        PluginError::Load { source_name: source.to_string(), fault }
    }
}

impl Fetcher {
    /// Keeps what is fetched in the user's cache, beside compiled plugins.
    pub fn from_env() -> Fetcher {
        let kept = model::source::cache_folder().ok().map(|folder| folder.join("fetched"));
        Fetcher { kept, patience: Patience::default(), variable: |name| std::env::var_os(name) }
    }

    /// Returns the component that a source names, fetched where it has to be.
    ///
    /// Where there is a `pin`, the component is what the pin says, and nothing is fetched that was fetched
    /// before. `report` hears of downloads that take their time.
    pub fn open(
        &self,
        source: &Source,
        pin: Option<&Pin>,
        report: Report<'_>,
    ) -> Result<Found, PluginError> {
        let kept = kept::Kept::open(self.kept.clone());
        let before = match pin {
            Some(pin) if source.is_remote() => kept.get(&pin.sha256),
            _ => None,
        };
        let (component, manifest) = match (source, before) {
            (Source::Builtin(name), _) => (embedded(name)?, None),
            (Source::File(path), _) => (plugin::Source::file(path)?, None),
            (Source::Packed { pack, name }, _) => (packed(source, pack, name)?, None),
            (_, Some(bytes)) => {
                let manifest = pin.and_then(|pin| pin.manifest.clone());
                (plugin::Source::bytes(source.to_string(), bytes), manifest)
            }
            (Source::Url(url), None) => {
                let bytes = https::fetch(url, &self.patience, report);
                let bytes = bytes.map_err(|fault| fault.of(source))?;
                (plugin::Source::bytes(source.to_string(), bytes), None)
            }
            (Source::Oci(reference), None) => {
                let pulled = registry::pull(reference, pin, self, &kept, report);
                let pulled = pulled.map_err(|fault| fault.of(source))?;
                (plugin::Source::bytes(source.to_string(), pulled.bytes), Some(pulled.manifest))
            }
        };
        if let Some(pin) = pin {
            check(&component.digest(), pin).map_err(|fault| fault.of(source))?;
        }
        if source.is_remote() {
            kept.put(&component.digest(), component.as_bytes());
        }
        Ok(Found { component, manifest })
    }

    /// Puts a component into a registry, under a tag.
    ///
    /// - `reference`: `REGISTRY/NAME:TAG`.
    /// - `annotations`: what the manifest says of it.
    pub fn push(
        &self,
        reference: &str,
        component: &plugin::Source,
        annotations: &[(&str, &str)],
    ) -> Result<Pushed, PluginError> {
        registry::push(reference, component.as_bytes(), annotations, self)
            .map_err(|fault| fault.of(&Source::Oci(reference.to_owned())))
    }
}

/// Returns the component that comes with the program under a name.
fn embedded(name: &str) -> Result<plugin::Source, PluginError> {
    match aligner_embed::component(name) {
        Some(bytes) => Ok(plugin::Source::embedded(format!("builtin:{name}"), bytes)),
        None => {
            let known: Vec<_> = aligner_embed::component_names().collect();
            let what = format!("no such plugin is embedded; there are {}", known.join(", "));
            let fault = LoadFault::Unreadable(std::io::Error::other(what));
            Err(PluginError::Load { source_name: format!("builtin:{name}"), fault })
        }
    }
}

/// Returns a component of a pack, which is not the program's even where it was.
fn packed(source: &Source, pack: &Path, name: &str) -> Result<plugin::Source, PluginError> {
    let bytes = pack::read(pack, name).map_err(|error| {
        let fault = LoadFault::Unreadable(error.into());
        PluginError::Load { source_name: source.to_string(), fault }
    })?;
    Ok(plugin::Source::bytes(source.to_string(), bytes))
}

/// Fails where a digest is not what a pin says.
fn check(found: &str, pin: &Pin) -> Result<(), Fault> {
    match found == pin.sha256 {
        true => Ok(()),
        false => Err(Fault::new(
            format!("has sha256 {found}, and {} says {}", pin.by, pin.sha256),
            pin.by.way_out(found),
        )),
    }
}

/// Tells of a download, once it takes its time.
struct Watch<'a> {
    report: Report<'a>,
    what: String,
    total: Option<u64>,
    begun: Instant,
}

impl Watch<'_> {
    fn note(&mut self, done: usize) {
        if self.begun.elapsed() >= BLINK {
            let what = format!("fetching {}", self.what);
            (self.report)(Progress { what, done: done as u64, total: self.total });
        }
    }
}

/// Fails where so many bytes are more than a plugin has.
fn check_size(bytes: u64) -> Result<(), Fault> {
    const MOST: u64 = plugin::MAX_FILE_BYTES as u64;
    match bytes > MOST {
        true => Err(Fault::new(
            format!("has more than {MOST} bytes, and no plugin has"),
            "check that it is a component and no archive",
        )),
        false => Ok(()),
    }
}
