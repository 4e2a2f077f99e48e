//! What several verbs need: the plugin runtime, models with their weights, and errors with their
//! exit codes.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{CliError, cancel, exit, memory};
use crate::{
    model::{
        ModelError,
        adapter::Adapter,
        backend::{AnyDevice, WeightType},
        export::ExportError,
        peft::{self, PeftError},
        source::{self as model_source, alias::ALIASES},
        template::ChatSettings,
        weights::LoadedAdapter,
    },
    plugin::{self, LoadFault, PluginError, Runtime},
    plugin_set::{Embedded, Server, Source, SourceError},
    progress::{Progress, Stage},
    round::{Loaded, Models, Opened, RunError, Served},
    run::{
        directory::DirectoryError,
        manifest::{self, Manifest},
    },
    server::{self, ServerError},
    source::{Fetcher, Found},
    train::{RankError, TrainError, WireError},
};

/// Returns what this binary carries, for plugin sets to name.
pub fn embedded() -> Embedded<'static> {
    static PLUGINS: OnceLock<Vec<&'static str>> = OnceLock::new();
    static DATA: OnceLock<Vec<&'static str>> = OnceLock::new();
    Embedded {
        plugin_sets: aligner_embed::PLUGIN_SETS,
        plugins: PLUGINS.get_or_init(|| aligner_embed::component_names().collect()),
        data: DATA.get_or_init(|| aligner_embed::DATA.iter().map(|(name, _)| *name).collect()),
    }
}

/// Returns the plugin runtime. Plugins from elsewhere are compiled by a child of this program.
pub fn runtime() -> Result<Runtime, CliError> {
    let command = plugin::compile::CompileCommand::this_program().map_err(|error| {
        CliError::new(exit::INTERNAL, format!("cannot find this program: {error}"))
    })?;
    let compiler = plugin::compile::Compiler::Child(command);
    let settings = plugin::Settings { compiler, cache: plugin::Cache::User };
    Ok(Runtime::new(settings)?)
}

/// Returns the source that an argument names.
pub fn source(text: &str) -> Result<Source, CliError> {
    text.parse().map_err(|SourceError { what, hint }| {
        CliError::usage(format!("`{text}` {what}")).hint(hint)
    })
}

/// Returns the component that an argument names with its source, fetched where it has to be.
pub fn component(text: &str, progress: &Progress) -> Result<(Source, Found), CliError> {
    let source = source(text)?;
    let found = fetched(&source, progress)?;
    Ok((source, found))
}

/// Returns the component of a source, fetched where it has to be.
pub fn fetched(source: &Source, progress: &Progress) -> Result<Found, PluginError> {
    let mut downloads = Downloads::new(progress);
    let found = Fetcher::from_env().open(source, None, &mut |state| downloads.note(state));
    downloads.finish();
    found
}

/// Shows the progress of downloads, one stage for each.
pub struct Downloads<'a> {
    progress: &'a Progress,
    current: Option<(String, Stage, u64)>,
}

impl<'a> Downloads<'a> {
    /// Nothing is fetched yet.
    pub fn new(progress: &'a Progress) -> Downloads<'a> {
        Downloads { progress, current: None }
    }

    /// Hears how far a download is.
    pub fn note(&mut self, state: model_source::Progress) {
        const KIB: u64 = 1024;
        let same = self.current.as_ref().is_some_and(|(what, _, _)| *what == state.what);
        if !same {
            self.finish();
            let name = state.what.clone();
            let stage = self.progress.stage(&name, state.total.unwrap_or(0) / KIB, "KiB");
            self.current = Some((state.what.clone(), stage, 0));
        }
        if let Some((_, stage, before)) = &mut self.current {
            let done = state.done / KIB;
            stage.inc(done.saturating_sub(*before));
            *before = done.max(*before);
        }
    }

    /// The last download is over.
    pub fn finish(&mut self) {
        if let Some((_, stage, _)) = self.current.take() {
            stage.finish();
        }
    }
}

/// Opens a model, fetching it where needed.
pub fn open(name: &str, progress: &Progress) -> Result<Opened, CliError> {
    let mut downloads = Downloads::new(progress);
    let opened = Opened::open(name, ChatSettings::default(), &mut |state| downloads.note(state));
    downloads.finish();
    Ok(opened?)
}

/// Loads the weights of an opened model onto a device.
pub fn load(
    opened: &Opened,
    device: &AnyDevice,
    weight_type: WeightType,
    progress: &Progress,
) -> Result<Loaded, CliError> {
    Ok(Loaded::load(opened, device, weight_type, progress)?)
}

/// Has servers answer for models; `base` is what each serves.
pub fn serve<'a>(
    models: &mut Models,
    servers: &BTreeMap<String, Server>,
    base: impl Fn(&str) -> &'a Opened,
) {
    // One that is no text is found out where it is to be sent.
    let keys = std::env::var_os(server::KEYS).map(|keys| keys.to_string_lossy().into_owned());
    for (name, server) in servers {
        models.serve(Served::new(name, server, keys.clone(), base(name)));
    }
}

/// Tries whether servers are the models that they should be, and says how they were found.
pub fn try_servers(
    models: &Models,
    device: &AnyDevice,
    progress: &Progress,
) -> Result<(), CliError> {
    let servers = models.served().count();
    if servers == 0 {
        return Ok(());
    }
    let bar = progress.stage("trying servers", servers as u64, "servers");
    for probe in models.probe_servers(memory::available(device)?, cancel::flag())? {
        progress.note(&probe.to_string());
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

/// The model that is used where none is named.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Returns the name of the model to open: the one that is named, or that of the run in whose
/// directory the adapter lies, or the one that the adapter names as its base, or the default.
///
/// Fails where the adapter is none, which is better known before a model is fetched for it.
pub fn model_name(named: Option<&str>, adapter: Option<&Path>) -> Result<String, CliError> {
    if let Some(folder) = adapter {
        check_adapter(folder)?;
    }
    let of_run = match (named, adapter) {
        (None, Some(adapter)) => base_of(adapter)?,
        _ => None,
    };
    let named = named.map(str::to_owned).or(of_run);
    let base = || adapter.and_then(peft::base_of).map(|base| source_of(&base));
    Ok(named.or_else(base).unwrap_or_else(|| DEFAULT_MODEL.to_owned()))
}

/// Returns how a model is opened that other tools call so: by its alias or path where it has one, else from
/// the hub.
fn source_of(base: &str) -> String {
    match ALIASES.iter().find(|alias| alias.repository == base) {
        Some(alias) => alias.name.to_owned(),
        None if is_hub_name(base) => format!("hf:{base}"),
        None => base.to_owned(),
    }
}

/// Returns whether a name is one of the Hugging Face hub, `OWNER/NAME`, and nothing that is here.
fn is_hub_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    matches!(parts[..], [owner, name] if !owner.is_empty() && !name.is_empty() && owner != ".")
        && !Path::new(name).exists()
}

/// Says where an adapter was made for a model of another name; of the same shape, it would go beside
/// the weights without a word.
pub fn note_another_base(folder: &Path, opened: &Opened) {
    let (name, _) = opened.model.base_name();
    let same = |base: &String| {
        *base == name || canonical(base).is_some_and(|it| Some(it) == canonical(&name))
    };
    let Some(base) = peft::base_of(folder).filter(|base| !same(base)) else { return };
    // A folder that has moved keeps its last name.
    let last = |name: &str| name.rsplit('/').next().map(str::to_owned);
    if !is_hub_name(&base) && !Path::new(&base).exists() && last(&base) == last(&name) {
        return;
    }
    let _ = writeln!(
        std::io::stderr(),
        "note: the adapter `{}` names `{}` as its base, and goes beside `{name}`",
        folder.display(),
        base.escape_debug()
    );
}

/// Returns where a path leads, if anywhere.
fn canonical(path: &str) -> Option<PathBuf> {
    Path::new(path).canonicalize().ok()
}

/// Returns the model of the run that an adapter belongs to, where it lies in a run directory.
pub fn base_of(adapter: &Path) -> Result<Option<String>, CliError> {
    let Ok(adapter) = adapter.canonicalize() else { return Ok(None) };
    let is_run = |folder: &&Path| folder.join(manifest::FILE).exists();
    let Some(run) = adapter.ancestors().find(is_run) else { return Ok(None) };
    Ok(Manifest::read(run)?.map(|manifest| manifest.plugin_set.models.policy))
}

/// Loads the weights of an opened model, and an adapter beside them, where there is enough memory for
/// both.
pub fn load_adapted(
    opened: &Opened,
    adapter: Option<&Adapter>,
    device: &AnyDevice,
    weight_type: WeightType,
    progress: &Progress,
) -> Result<(Loaded, Option<LoadedAdapter<AnyDevice>>), CliError> {
    memory::check_model(opened, adapter, device, weight_type)?;
    let loaded = load(opened, device, weight_type, progress)?;
    let adapter = match adapter {
        Some(adapter) => Some(loaded.engine.load_adapter(adapter, 1.0).map_err(RunError::from)?),
        None => None,
    };
    Ok((loaded, adapter))
}

/// What the plugin set gives a plugin is the plugin set's fault; the rest is the plugin's.
fn plugin_code(error: &PluginError) -> u8 {
    match error {
        PluginError::Host(_) => exit::INTERNAL,
        PluginError::Load {
            fault: LoadFault::Config { .. } | LoadFault::WrongKind { .. }, ..
        } => exit::USAGE,
        _ => exit::PLUGIN,
    }
}

/// Reads an adapter folder for a model that is to write. A reward model writes nothing.
pub fn writing_adapter(folder: &Path, opened: &Opened) -> Result<Adapter, CliError> {
    let adapter = adapter(folder, opened)?;
    if !adapter.is_reward_model() {
        return Ok(adapter);
    }
    let message =
        format!("`{}` is a reward model: it gives rewards, and writes nothing", folder.display());
    Err(CliError::new(exit::MODEL_OR_DATA, message)
        .hint("`aligner model score` gives its rewards, `aligner model eval` its accuracy"))
}

/// Reads an adapter folder for a model. Where it does not fit, the way out is the model that it names as
/// its base.
pub fn adapter(folder: &Path, opened: &Opened) -> Result<Adapter, CliError> {
    let read = peft::read(folder, &opened.model.spec);
    if read.is_ok() {
        note_another_base(folder, opened);
    }
    read.map_err(|error| {
        let fits_not = matches!(error, PeftError::Tensor { .. } | PeftError::Adapter { .. });
        let error = CliError::from(RunError::from(error));
        let (base, name) = (peft::base_of(folder), &opened.model.name);
        match base.filter(|base| fits_not && *base != opened.model.base_name().0) {
            Some(base) => error.hint(format!(
                "the adapter names `{}` as its base, and not `{name}`: give it that model",
                base.escape_debug()
            )),
            None => error,
        }
    })
}

/// Fails where a folder is no adapter.
fn check_adapter(folder: &Path) -> Result<(), CliError> {
    if folder.join(peft::CONFIG_FILE).exists() {
        return Ok(());
    }
    let shown = folder.display();
    if !folder.exists() {
        let message = format!("adapter folder `{shown}` is not there");
        return Err(CliError::new(exit::MODEL_OR_DATA, message));
    }
    let error = CliError::new(
        exit::MODEL_OR_DATA,
        format!("`{shown}` is no PEFT adapter folder: it has no `{}`", peft::CONFIG_FILE),
    );
    let has = |name: &str| folder.join(name).exists();
    Err(if has("final/adapter") {
        error.hint(format!("the adapter of that run is `{shown}/final/adapter`"))
    } else if has("final/model") {
        error.hint(format!("that run made a whole model: `--model {shown}/final/model`"))
    } else if has("config.json") {
        error.hint(format!("it is a whole model: `--model {shown}`"))
    } else {
        error
    })
}

/// An error whose sentence may hold its way out already.
fn with_hint(code: u8, text: String, hint: Option<String>) -> CliError {
    match text.split_once("\n\nhint: ") {
        Some((message, hint)) => CliError::new(code, message).hint(hint),
        None => CliError { code, message: text, hint },
    }
}

impl From<PluginError> for CliError {
    fn from(error: PluginError) -> CliError {
        with_hint(plugin_code(&error), error.to_string(), None)
    }
}

impl From<ModelError> for CliError {
    fn from(error: ModelError) -> CliError {
        with_hint(exit::MODEL_OR_DATA, error.to_string(), error.hint())
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> CliError {
        let code = match error {
            ExportError::Interrupted => exit::INTERRUPTED,
            _ => exit::MODEL_OR_DATA,
        };
        with_hint(code, error.to_string(), error.hint())
    }
}

impl From<DirectoryError> for CliError {
    fn from(error: DirectoryError) -> CliError {
        with_hint(exit::RUN_DIRECTORY, error.to_string(), error.hint())
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> CliError {
        let code = match &error {
            RunError::Directory(_) => exit::RUN_DIRECTORY,
            RunError::Plugin(error) => plugin_code(error),
            RunError::Settings { .. } => exit::USAGE,
            RunError::NothingKept { .. } => exit::NOTHING_KEPT,
            RunError::Interrupted { .. }
            | RunError::Train(TrainError::Rank(RankError::Wire {
                source: WireError::Cancelled,
                ..
            }))
            | RunError::NotBegun
            | RunError::Server { source: ServerError::Cancelled, .. } => exit::INTERRUPTED,
            RunError::Model(_)
            | RunError::Data(_)
            | RunError::Weights(_)
            | RunError::Adapter(_)
            | RunError::Scaled(_)
            | RunError::Engine(_)
            | RunError::Sequence { .. }
            | RunError::Record { .. }
            | RunError::Train(_)
            | RunError::Trainer { .. }
            | RunError::Perplexity { .. }
            | RunError::Diverged { .. }
            | RunError::Memory { .. }
            | RunError::Server { .. }
            | RunError::Budget { .. }
            | RunError::Export(_) => exit::MODEL_OR_DATA,
        };
        with_hint(code, error.to_string(), error.hint())
    }
}
