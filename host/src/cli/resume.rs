//! `aligner resume DIR`: goes on with a run. This file holds its arguments.

use std::path::PathBuf;

use clap::Args;

use super::ranks::{self, Role};
use super::{CliError, Device, ProgressArgs, cancel, exit, memory, reuse, run as run_verb};
use crate::plugin_set::{self, PluginSet};
use crate::run::{self, Existing, Opened, manifest::Manifest};

/// Arguments of `resume`.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// Run directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Where models run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Server that answers for the policy now, where it has moved
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Has another server answer for the policy.
fn elsewhere(set: &mut PluginSet, address: &str) -> Result<(), CliError> {
    let address = plugin_set::server_address(address)
        .map_err(|is| CliError::usage(format!("`--server {address}` {is}")))?;
    match set.models.servers.get_mut("policy") {
        Some(server) => server.server = address,
        None => {
            let message = "`--server` is given, and no server answers for the policy of this run";
            return Err(CliError::usage(message));
        }
    }
    Ok(())
}

/// Fails where what a run stands on is not what it was: files, models, or what it is computed with.
fn check_same(args: &ResumeArgs, now: &Manifest, begun: &Manifest) -> Result<(), CliError> {
    let differences = now.differences(begun);
    if differences.is_empty() {
        return Ok(());
    }
    let shown = args.directory.display();
    let message = format!(
        "`{shown}` cannot go on: since it began this has changed: {}",
        differences.join(", ")
    );
    let back = match now.engine == begun.engine {
        true => "put it back as it was".to_owned(),
        false if begun.engine.starts_with("cuda") => format!(
            "it began on `{}`: `--device` picks the card, and LD_LIBRARY_PATH the cuBLASLt",
            begun.engine
        ),
        false => format!("it began on `{}`, which `--device` picks", begun.engine),
    };
    Err(CliError::new(exit::RUN_DIRECTORY, message)
        .hint(format!("{back}; `aligner --plugins SET --out DIR` begins another run")))
}

/// Goes on with a run to its end; one that is finished has its table printed.
pub fn main(args: &ResumeArgs) -> Result<(), CliError> {
    let manifest = reuse::manifest(&args.directory)?;
    let (set, told) = (&manifest.plugin_set, args.directory.display().to_string());
    let Role::Run(lobby) = ranks::role(set, args.device, &told)? else { return Ok(()) };
    cancel::listen()?;
    let progress = args.shown.open();
    let device = args.device.resolve(manifest.plugin_set.run.dtype)?;
    let mut set = manifest.clone().pinned_set();
    if let Some(server) = &args.server {
        elsewhere(&mut set, server)?;
    }
    let prepared = run_verb::prepare(set, device, &progress)?;
    check_same(args, &prepared.manifest, &manifest)?;
    match run::open(&args.directory, &prepared.manifest, Existing::Resume)? {
        Opened::Finished(directory) => run_verb::finished(&prepared, &directory, &progress),
        Opened::Open(directory) => {
            let estimate = run::memory::estimate(&prepared)?;
            let way_out = |part| run::memory::way_out(&prepared.set, part);
            memory::check(&estimate, memory::available(&prepared.device)?, way_out)?;
            let models = run_verb::models_tried(&prepared, lobby, &progress)?;
            run_verb::work(&prepared, &models, directory, None, estimate, &progress)
        }
    }
}
