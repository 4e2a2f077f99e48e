//! From a file to a plugin that is ready to be called.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};

use super::bindings::aligner::plugin::log;
use super::bindings::exports::aligner::plugin as exports;
use super::budget::{Clock, Used};
use super::compile::{self, Compiler};
use super::converse::Spent;
use super::error::{Fault, Identity, LoadFault, PluginError, Reported};
use super::inspect::{self, Interface, Kind, MAX_FILE_BYTES};
use super::limits::{Account, Limits};
use super::session::{Session, reported};
use super::setup::Setup;
use super::source::Source;
use super::{cache, check, engine};
use crate::shown::one_line;

/// Where compiled plugins are kept.
#[derive(Clone, Debug, Default)]
pub enum Cache {
    /// In the user's cache folder: `$ALIGNER_CACHE`, else `$XDG_CACHE_HOME/aligner`, else
    /// `~/.cache/aligner`, with `plugins` after it.
    #[default]
    User,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere: every load compiles.
    Off,
}

/// How the runtime works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How plugins that do not come with the program are compiled.
    pub compiler: Compiler,
    /// Where compiled plugins are kept.
    pub cache: Cache,
}

/// Loads plugins. One for the process; it may be used from many threads.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Account>,
    compiler: Compiler,
    cache: Option<cache::Store>,
}

/// A compiled component with its exports looked up.
struct Prepared {
    source_name: String,
    digest: String,
    pre: InstancePre<Account>,
    exports: Exports,
    interfaces: BTreeSet<Interface>,
    compiled_in: Option<Duration>,
}

/// What comes before the microseconds in an entry of the cache.
const MICROS: &str = "microseconds:";

/// A component of machine code.
struct Compiled {
    component: Component,
    interfaces: BTreeSet<Interface>,
    /// What checking and compiling took, whenever that was.
    compiled_in: Option<Duration>,
}

/// Where the exports lie; only those that the component has.
pub(super) struct Exports {
    meta: exports::meta::GuestIndices,
    pub principle: Option<exports::principle::GuestIndices>,
    pub sampler: Option<exports::sampler::GuestIndices>,
    pub prompt_writer: Option<exports::prompt_writer::GuestIndices>,
    pub filter: Option<exports::filter::GuestIndices>,
    pub set_filter: Option<exports::set_filter::GuestIndices>,
    pub judge: Option<exports::judge::GuestIndices>,
    pub difficulty: Option<exports::difficulty::GuestIndices>,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq)]
struct Description {
    name: String,
    version: String,
    summary: String,
    schema: String,
    needs: Vec<String>,
}

/// A plugin that was compiled, checked and asked who it is, but has no configuration yet.
#[derive(Clone)]
pub struct Loaded {
    prepared: Arc<Prepared>,
    description: Arc<Description>,
}

/// A plugin that is ready to be called.
#[derive(Clone)]
pub struct Plugin {
    loaded: Loaded,
    identity: Identity,
    setup: Setup,
    /// Of all clones together.
    used: Arc<Used>,
    /// Whether one stage is done in several calls.
    pub(super) in_parts: bool,
}

impl Runtime {
    /// Makes a runtime. A cache that cannot be used is a warning in the log, not an error.
    pub fn new(settings: Settings) -> Result<Runtime, PluginError> {
        Runtime::on(engine::engine(), settings)
    }

    /// Makes a runtime that counts no fuel, for benchmarks of what counting costs. It compiles in this
    /// process and keeps nothing.
    #[doc(hidden)]
    pub fn unmetered() -> Result<Runtime, PluginError> {
        let settings = Settings { compiler: Compiler::InProcess, cache: Cache::Off };
        Runtime::on(engine::unmetered(), settings)
    }

    fn on(engine: wasmtime::Result<Engine>, settings: Settings) -> Result<Runtime, PluginError> {
        let host = |error: wasmtime::Error| PluginError::Host(format!("{error:#}"));
        let engine = engine.map_err(host)?;
        engine::start_ticker(&engine).map_err(|error| PluginError::Host(error.to_string()))?;
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<_, HasSelf<Account>>(&mut linker, |account| account).map_err(host)?;
        let folder = match settings.cache {
            Cache::User => cache::default_folder(|name| std::env::var_os(name).map(PathBuf::from)),
            Cache::Folder(folder) => Some(folder),
            Cache::Off => None,
        };
        let cache = folder.and_then(|folder| match cache::Store::open(folder) {
            Ok(store) => Some(store),
            Err(error) => {
                tracing::warn!("going on without a cache of compiled plugins: {error}");
                None
            }
        });
        Ok(Runtime { engine, linker, compiler: settings.compiler, cache })
    }

    /// Loads and configures a plugin: what is wrong with file, kind or configuration is found here.
    pub fn load(&self, source: &Source, setup: Setup) -> Result<Plugin, PluginError> {
        self.open(source, &setup.limits)?.configure(setup)
    }

    /// Loads a plugin and asks it who it is, without a configuration.
    pub fn open(&self, source: &Source, limits: &Limits) -> Result<Loaded, PluginError> {
        let fault = |fault| PluginError::Load { source_name: source.name.clone(), fault };
        let compiled = self.component(source).map_err(fault)?;
        let prepared = self.prepare(source, compiled).map_err(fault)?;
        let description = describe(&prepared, limits).map_err(fault)?;
        check_shapes(&prepared, limits).map_err(fault)?;
        Ok(Loaded { prepared: Arc::new(prepared), description: Arc::new(description) })
    }

    /// Returns the compiled component, from the cache where it is there.
    fn component(&self, source: &Source) -> Result<Compiled, LoadFault> {
        if source.bytes.len() > MAX_FILE_BYTES {
            return Err(LoadFault::TooLarge { bytes: source.bytes.len() });
        }
        let digest: [u8; 32] = Sha256::digest(&source.bytes).into();
        let name = cache::entry_name(&self.engine, &digest);
        if let Some(cache) = &self.cache
            && let Some(entry) = cache.get(&name)
        {
            match self.thaw(&entry) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tracing::warn!("compiling `{}` again: {error}", source.name);
                    cache.remove(&name);
                }
            }
        }
        let entry = self.compile(source)?;
        let found = self.thaw(&entry)?;
        if let Some(cache) = &self.cache {
            cache.put(&name, &entry);
        }
        Ok(found)
    }

    /// Checks the file and compiles it. The entry is a line with the interfaces it was found to
    /// have and the microseconds that this took, and the machine code after it.
    fn compile(&self, source: &Source) -> Result<Vec<u8>, LoadFault> {
        let begun = Instant::now();
        let compiler = if source.trusted { &Compiler::InProcess } else { &self.compiler };
        let form = inspect::check_file(&source.bytes)?;
        let encoded = compile::encode(compiler, form, &source.bytes)?;
        let component = match &encoded {
            Some(component) => {
                inspect::check_file(component)?;
                component
            }
            None => &source.bytes[..],
        };
        let interfaces = inspect::check_component(component)?;
        let names: Vec<_> = interfaces.iter().map(|interface| interface.as_str()).collect();
        let code = compile::compile(compiler, &self.engine, component)?;
        let micros = begun.elapsed().as_micros();
        let mut entry = format!("{} {MICROS}{micros}\n", names.join(" ")).into_bytes();
        entry.extend(code);
        Ok(entry)
    }

    /// Makes a component of an entry.
    fn thaw(&self, entry: &[u8]) -> Result<Compiled, LoadFault> {
        let damaged = || LoadFault::Compile("the machine code is damaged".into());
        let line = entry.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let names = std::str::from_utf8(&entry[..line]).map_err(|_| damaged())?;
        // Entries of earlier versions do not say how long it took.
        let (names, compiled_in) = match names.rsplit_once(&format!(" {MICROS}")) {
            Some((names, micros)) => {
                let micros = micros.parse().map_err(|_| damaged())?;
                (names, Some(Duration::from_micros(micros)))
            }
            None => (names, None),
        };
        let interfaces = names
            .split(' ')
            .map(Interface::from_name)
            .collect::<Option<BTreeSet<_>>>()
            .ok_or_else(damaged)?;
        // SAFETY: the bytes are what our own compiler wrote: either just now, or they come from the
        // cache, whose keyed digest over exactly these bytes was checked.
        let component = unsafe { Component::deserialize(&self.engine, &entry[line + 1..]) }
            .map_err(|error| LoadFault::Compile(one_line(&format!("{error:#}"), 500)))?;
        Ok(Compiled { component, interfaces, compiled_in })
    }

    /// Links the component and looks up its exports.
    fn prepare(&self, source: &Source, compiled: Compiled) -> Result<Prepared, LoadFault> {
        let Compiled { component, interfaces, compiled_in } = compiled;
        let shape = |error: wasmtime::Error| LoadFault::Shape(one_line(&format!("{error:#}"), 500));
        let pre = self.linker.instantiate_pre(&component).map_err(shape)?;
        macro_rules! find {
            ($interface:ident, $module:ident) => {
                interfaces
                    .contains(&Interface::$interface)
                    .then(|| exports::$module::GuestIndices::new(&pre))
                    .transpose()
                    .map_err(shape)?
            };
        }
        let exports = Exports {
            meta: exports::meta::GuestIndices::new(&pre).map_err(shape)?,
            principle: find!(Principle, principle),
            sampler: find!(Sampler, sampler),
            prompt_writer: find!(PromptWriter, prompt_writer),
            filter: find!(Filter, filter),
            set_filter: find!(SetFilter, set_filter),
            judge: find!(Judge, judge),
            difficulty: find!(Difficulty, difficulty),
        };
        Ok(Prepared {
            source_name: source.name.clone(),
            digest: source.digest(),
            pre,
            exports,
            interfaces,
            compiled_in,
        })
    }
}

/// Asks a plugin who it is, in an instance of its own.
fn describe(prepared: &Prepared, limits: &Limits) -> Result<Description, LoadFault> {
    let (clock, mut spent) = (Clock::default(), Spent::default());
    let mut session =
        Session::open(&prepared.pre, &prepared.source_name, limits, &clock, &mut spent)
            .map_err(LoadFault::Describe)?;
    // Types are checked here, before anything is called.
    let mut shape = None;
    let result = session.call(|store, instance| {
        let meta = prepared.exports.meta.load(&mut *store, instance).inspect_err(|error| {
            shape = Some(one_line(&format!("{error:#}"), 500));
        })?;
        meta.call_describe(store)
    });
    if let Some(shape) = shape {
        return Err(LoadFault::Shape(shape));
    }
    let description = result.map_err(LoadFault::Describe)?;
    check::description(&description).map_err(LoadFault::Description)?;
    Ok(Description {
        name: description.name,
        version: description.version,
        summary: description.summary,
        schema: description.config_schema,
        needs: description.needs,
    })
}

/// Checks that the functions of every interface have the contract's types.
fn check_shapes(prepared: &Prepared, limits: &Limits) -> Result<(), LoadFault> {
    let (clock, mut spent) = (Clock::default(), Spent::default());
    let mut session =
        Session::open(&prepared.pre, &prepared.source_name, limits, &clock, &mut spent)
            .map_err(LoadFault::Describe)?;
    let mut shape = None;
    let result = session.call(|store, instance| {
        let exports = &prepared.exports;
        macro_rules! check {
            ($($name:ident)*) => {$(
                if let Some(indices) = &exports.$name {
                    indices.load(&mut *store, instance).inspect_err(|error| {
                        shape = Some(one_line(&format!("{error:#}"), 500));
                    })?;
                }
            )*};
        }
        check!(principle sampler prompt_writer filter set_filter judge difficulty);
        Ok(())
    });
    match (shape, result) {
        (Some(shape), _) => Err(LoadFault::Shape(shape)),
        (None, result) => result.map_err(LoadFault::Describe),
    }
}

impl Loaded {
    /// Returns the name that the plugin gives itself.
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// Returns the plugin's own version.
    pub fn version(&self) -> &str {
        &self.description.version
    }

    /// Returns one line for people.
    pub fn summary(&self) -> &str {
        &self.description.summary
    }

    /// Returns the JSON Schema of the configuration, or an empty text.
    pub fn schema(&self) -> &str {
        &self.description.schema
    }

    /// Returns the names of the measurements that the host must make before it calls.
    pub fn needs(&self) -> &[String] {
        &self.description.needs
    }

    /// Returns the SHA-256 of the file, in lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.prepared.digest
    }

    /// Returns the file's path or the embedded plugin's name.
    pub fn source(&self) -> &str {
        &self.prepared.source_name
    }

    /// Returns how long it took to check and compile it, now or when it came into the cache, where that is
    /// known.
    pub fn compiled_in(&self) -> Option<Duration> {
        self.prepared.compiled_in
    }

    /// Returns the interfaces that it has.
    pub fn interfaces(&self) -> &BTreeSet<Interface> {
        &self.prepared.interfaces
    }

    /// Returns the kinds that it can be used as.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.prepared.interfaces.iter().map(|interface| interface.kind()).collect()
    }

    /// Makes it a plugin of the wanted kind, and tries the configuration in an instance of its own.
    pub fn configure(&self, setup: Setup) -> Result<Plugin, PluginError> {
        let fault = |fault| PluginError::Load { source_name: self.source().to_owned(), fault };
        let kinds = self.kinds();
        if !kinds.contains(&setup.kind) {
            let found = kinds.into_iter().collect();
            return Err(fault(LoadFault::WrongKind { found, wanted: setup.kind }));
        }
        let identity = Identity {
            kind: setup.kind,
            name: self.name().to_owned(),
            version: self.version().to_owned(),
        };
        let plugin = Plugin {
            loaded: self.clone(),
            identity: identity.clone(),
            setup,
            used: Arc::default(),
            in_parts: false,
        };
        match plugin.session(&mut Spent::default()) {
            Ok(_) => Ok(plugin),
            Err(Fault::Reported { kind: Reported::Config, message }) => {
                Err(fault(LoadFault::Config { identity: Box::new(identity), message }))
            }
            Err(cause) => {
                Err(fault(LoadFault::Configure { identity: Box::new(identity), fault: cause }))
            }
        }
    }
}

/// Everything that [`Loaded`] says, a plugin says too.
impl std::ops::Deref for Plugin {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl Plugin {
    /// Returns kind, name and version.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns how the plugin set wants it.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Returns whether it has this interface.
    pub fn has(&self, interface: Interface) -> bool {
        self.interfaces().contains(&interface)
    }

    pub(super) fn run_account(&self) -> &Used {
        &self.used
    }

    pub(super) fn exports(&self) -> &Exports {
        &self.loaded.prepared.exports
    }

    /// Makes a fresh instance and configures it.
    pub(super) fn session<'a>(&'a self, spent: &'a mut Spent) -> Result<Session<'a>, Fault> {
        let prepared = &self.loaded.prepared;
        let (limits, clock) = (&self.setup.limits, &self.used.clock);
        let mut session = Session::open(&prepared.pre, self.name(), limits, clock, spent)?;
        session
            .call(|store, instance| {
                let meta = prepared.exports.meta.load(&mut *store, instance)?;
                meta.call_configure(store, &self.setup.config)
            })?
            .map_err(reported)?;
        Ok(session)
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("identity", &self.identity)
            .field("source", &self.source())
            .field("digest", &self.digest())
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
