//! `aligner plugin pack`: a plugin set with its plugins and data in one file, and what is in such a file.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use super::PackArgs;
use crate::{
    cli::{CliError, exit, host, output},
    data,
    pack::{self, COMPONENTS, Contents, DATA, EXTENSION, Fault, Pack},
    plugin_set::{self, Loaded, Named, Override, PluginSet, Source, Thing},
    progress::Progress,
    run::plugins::Plugins,
    shown::for_a_shell,
    source::{Fetcher, Report},
};

/// Packs a plugin set, or says what a pack holds.
pub fn main(args: &PackArgs) -> Result<(), CliError> {
    match args.list {
        true => list(&args.set),
        false => pack(&args.set, args.out.as_deref(), &args.shown.open()),
    }
}

fn pack(set: &Path, out: Option<&Path>, progress: &Progress) -> Result<(), CliError> {
    if pack::is_pack(set) {
        let shown = set.display();
        return Err(CliError::usage(format!("`{shown}` is packed already"))
            .hint(format!("`aligner plugin pack --list {shown}` says what it holds")));
    }
    let loaded = plugin_set::load(set, &[], &host::embedded())?;
    let stem = set.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_prefix("builtin:").unwrap_or(&stem).to_owned();
    let out = out.map_or_else(|| PathBuf::from(format!("{stem}.{EXTENSION}")), Path::to_owned);
    if out.extension().is_none_or(|extension| extension != EXTENSION) {
        let message = format!("`{}` is no name of a packed plugin set", out.display());
        return Err(CliError::usage(message)
            .hint(format!("it ends in `.{EXTENSION}`, for example `{stem}.{EXTENSION}`")));
    }
    let mut downloads = host::Downloads::new(progress);
    let report: Report<'_> = &mut |state| downloads.note(state);
    try_out(&loaded.set, report)?;
    let (contents, text) = gather(&loaded, report)?;
    // Nobody finds half a pack, nor one that does not open.
    let cannot = |error: &dyn std::fmt::Display| {
        CliError::new(exit::USAGE, format!("cannot write `{}`: {error}", out.display()))
    };
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut unfinished = tempfile::Builder::new()
        .suffix(&format!(".{EXTENSION}"))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(|error| cannot(&error))?;
    let mut writer = BufWriter::new(&mut unfinished);
    let contract = &loaded.set.method.contract;
    contents
        .write(&text, &called(&loaded.name), contract, &mut writer)
        .and_then(|()| writer.flush().map_err(Fault::Io))
        .map_err(|fault| cannot(&fault))?;
    drop(writer);
    plugin_set::load(unfinished.path(), &models_of(&loaded), &host::embedded())?;
    readable(&unfinished).map_err(|error| cannot(&error))?;
    unfinished.persist(&out).map_err(|error| cannot(&error))?;

    let mut text = table(&Pack::open(&out).map_err(|error| cannot(&error))?)?;
    text.push('\n');
    for named in plugin_set::named(body(&loaded), &loaded.set) {
        text.push_str(&match named.thing {
            Thing::Model { key, path: Some(path), .. } => format!(
                "not packed: `{key}`, a model of this machine, `{path}`; who runs the pack gives \
                 theirs: --set models.{key}=PATH\n"
            ),
            Thing::Model { key, path: None, .. } => {
                format!("not packed: `{key}`, which is fetched by its name, `{}`\n", named.typed)
            }
            _ => continue,
        });
    }
    text.push_str(&format!(
        "run it:     aligner --plugins {}\n",
        for_a_shell(&out.to_string_lossy())
    ));
    output::print(&text)
}

/// Returns the text of a plugin set as its names count it.
fn body(loaded: &Loaded) -> &str {
    loaded.text.strip_prefix('\u{feff}').unwrap_or(&loaded.text)
}

/// Reads all that a plugin set names, and puts the names that they have in the pack into its text.
fn gather(loaded: &Loaded, report: Report<'_>) -> Result<(Contents, String), CliError> {
    let mut contents = Contents::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut text = body(loaded).to_owned();
    let mut found = plugin_set::named(&text, &loaded.set);
    found.sort_by_key(|named| named.span.start);
    let mut replaced: Vec<(Named<'_>, String)> = Vec::new();
    for named in found {
        let (folder, source) = match &named.thing {
            Thing::Component(plugin) => (COMPONENTS, &plugin.source),
            Thing::Data(source) => (DATA, *source),
            // An alias of the same name would be another model.
            Thing::Model { path: Some(_), typed_as_path: false, .. } => {
                let path = format!("./{}", named.typed);
                replaced.push((named, path));
                continue;
            }
            Thing::Model { .. } => continue,
        };
        // What is named twice is one file, and what was one source stays one.
        let name = match names.get(&format!("{folder}{source}")) {
            Some(name) => name.clone(),
            None => {
                let from = called(&named.typed);
                // Of an address the last part, without a tag.
                let last = from.strip_prefix("builtin:").unwrap_or(&from).rsplit('/').next();
                let like = last.and_then(|last| last.split([':', '@']).next()).unwrap_or_default();
                let name = contents.add(folder, like, &from, bytes(&named, report)?);
                names.insert(format!("{folder}{source}"), name.clone());
                name
            }
        };
        replaced.push((named, name));
    }
    for (named, name) in replaced.into_iter().rev() {
        let quoted = toml::Value::String(name).to_string();
        text.replace_range(named.span, &quoted);
    }
    Ok((contents, text))
}

/// Returns what a source is called to others: of a path its last part, which says nothing of this machine.
fn called(typed: &str) -> String {
    let is_path = !["builtin:", "https:", "http:", "oci:"].iter().any(|it| typed.starts_with(it));
    let last = Path::new(typed).file_name().filter(|_| is_path);
    last.map_or_else(|| typed.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Reads what is to be packed.
fn bytes(named: &Named<'_>, report: Report<'_>) -> Result<Vec<u8>, CliError> {
    match &named.thing {
        Thing::Data(Source::Builtin(name)) => {
            Ok(aligner_embed::data(name).unwrap_or_default().as_bytes().to_vec())
        }
        Thing::Data(Source::File(path)) => {
            let cannot = |error: std::io::Error| {
                let message = format!("cannot read `{}`: {error}", path.display());
                CliError::new(exit::MODEL_OR_DATA, message)
            };
            let mut bytes = Vec::new();
            // One byte more is refused as too long.
            let file = fs::File::open(path).map_err(cannot)?;
            file.take(pack::MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
            Ok(bytes)
        }
        Thing::Data(Source::Url(_) | Source::Oci(_)) => Ok(Vec::new()),
        Thing::Data(Source::Packed { pack, name }) => {
            Ok(pack::read(pack, name).map_err(plugin_set::PluginSetError::from)?)
        }
        // Of what is fetched the bytes that the plugin set or its lock says.
        Thing::Component(plugin) => {
            let found = Fetcher::from_env().open(&plugin.source, plugin.pin.as_ref(), report)?;
            Ok(found.component.as_bytes().to_vec())
        }
        Thing::Model { .. } => Ok(Vec::new()),
    }
}

/// Loads the plugins and reads the data of a plugin set; what a run would refuse is not packed.
fn try_out(set: &PluginSet, report: Report<'_>) -> Result<(), CliError> {
    let builtin = |name: &str| aligner_embed::data(name);
    if let Some(held_out) = &set.data.held_out {
        data::read_held_out(held_out, &builtin)?;
    }
    if let Some(anchors) = &set.data.anchors {
        data::read_pairs(anchors, &builtin)?;
    }
    match &set.data.pairs {
        Some(pairs) => drop(data::read_pairs(pairs, &builtin)?),
        None if set.data.held_out.as_ref() == Some(&set.data.prompts) => {}
        None => drop(data::read_prompts(&set.data.prompts, &builtin)?),
    }
    Plugins::load(host::runtime()?, set, report)?;
    Ok(())
}

/// Returns the models of this machine that a plugin set names, as whoever runs its pack gives them.
fn models_of(loaded: &Loaded) -> Vec<Override> {
    let named = plugin_set::named(body(loaded), &loaded.set);
    let models = named.iter().filter_map(|named| match &named.thing {
        Thing::Model { key, path: Some(path), .. } => {
            Some(Override::string("--set", &["models", key], path))
        }
        _ => None,
    });
    models.collect()
}

/// Gives a file the permissions that other files have, which temporary ones have not.
fn readable(file: &tempfile::NamedTempFile) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().sync_all()?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))
}

/// Says what a pack holds, once all of it is what was packed.
fn list(path: &Path) -> Result<(), CliError> {
    let pack = Pack::open(path).map_err(plugin_set::PluginSetError::from)?;
    output::print(&table(&pack)?)
}

/// One line for each file of a pack.
fn table(pack: &Pack) -> Result<String, CliError> {
    let failed = |error: pack::PackError| CliError::from(plugin_set::PluginSetError::from(error));
    let manifest = pack.manifest();
    for name in manifest.files.keys() {
        pack.read(name).map_err(failed)?;
    }
    let width = |of: &dyn Fn(&str, &pack::Packed) -> usize| {
        manifest.files.iter().map(|(name, file)| of(name, file)).max().unwrap_or(0)
    };
    let names = width(&|name, _| name.len());
    let digits = width(&|_, file| file.bytes.to_string().len());
    let mut text = format!("contract {}, {} files\n\n", manifest.contract, manifest.files.len());
    for (name, file) in &manifest.files {
        text.push_str(&format!(
            "{name:names$}  {:digits$} bytes  sha256 {}  was {}\n",
            file.bytes, file.sha256, file.from
        ));
    }
    Ok(text)
}
