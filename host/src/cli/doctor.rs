//! `aligner doctor`: whether this machine and this build can do what runs ask of them.

use clap::Args;

use super::{CliError, Device, ProgressArgs, exit, host, memory, output};
use crate::doctor::{self, Finding, Tried};
use crate::model::backend::WeightType;
use crate::model::source::cache_folder;
use crate::progress::counted;

/// Arguments of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where speed is measured: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Tries everything out and prints what was found; fails where a check did.
pub fn main(args: &DoctorArgs) -> Result<(), CliError> {
    let device = args.device.resolve(WeightType::F32)?;
    let available = memory::available(&device)?;
    let progress = args.shown.open();
    // What does not open is a finding like any other.
    let component = host::component("builtin:length", &progress);
    let runtime = host::runtime();
    let wasm = || match (&runtime, &component) {
        (Ok(runtime), Ok((_, found))) => {
            doctor::wasm(&Tried { runtime, component: &found.component })
        }
        (Err(error), _) | (_, Err(error)) => {
            let hint = error.hint.clone().unwrap_or_else(|| "please report it".to_owned());
            Finding::failed("wasm", error.message.clone(), hint)
        }
    };
    let checks: [&dyn Fn() -> Finding; 11] = [
        &doctor::cpu,
        &doctor::cores,
        &|| doctor::memory(available),
        &|| doctor::disk(std::path::Path::new(".")),
        &|| doctor::cache(cache_folder().ok()),
        &doctor::cuda,
        &wasm,
        &doctor::gradient,
        &doctor::determinism,
        &|| doctor::product(&device),
        &|| doctor::decode(&device),
    ];
    let bar = progress.stage("doctor", checks.len() as u64, "checks");
    let mut findings = Vec::with_capacity(checks.len());
    for check in checks {
        findings.push(check());
        bar.inc(1);
    }
    bar.finish();
    let failures = doctor::failures(&findings);
    output::print(&match args.json {
        true => format!(
            "{}\n",
            serde_json::json!({
                "aligner": env!("CARGO_PKG_VERSION"),
                "failed": failures,
                "checks": findings,
            })
        ),
        false => doctor::table(&findings),
    })?;
    match failures {
        0 => Ok(()),
        failed => {
            let message = format!("{} failed", counted(failed as u64, "checks"));
            Err(CliError::new(exit::INTERNAL, message)
                .hint("the lines above say the way out of each"))
        }
    }
}
