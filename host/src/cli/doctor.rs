//! `aligner doctor`: whether this machine and this build can do what runs ask of them.

use clap::Args;

use super::{CliError, Device, ProgressArgs, exit, host, memory, output};
use crate::doctor::{self, Finding, Tried, Wish};
use crate::model::backend::AnyDevice;
use crate::model::source::cache_folder;
use crate::progress::counted;

/// What looks at one thing.
type Check<'a> = Box<dyn FnOnce() -> Finding + 'a>;

/// Arguments of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where speed is measured, and a card that has to work: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// How progress is shown
    #[command(flatten)]
    pub shown: ProgressArgs,
}

/// Tries everything out and prints what was found; fails where a check did.
pub fn main(args: &DoctorArgs) -> Result<(), CliError> {
    let cpu = AnyDevice::cpu();
    let available = memory::available(&cpu)?;
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
    let wish = match args.device {
        Device::Cuda(ordinal) => Wish { ordinal, named: true },
        Device::Auto | Device::Cpu => Wish { ordinal: 0, named: false },
    };
    let (cards, card) = doctor::cuda(wish);
    let card = card.filter(|_| args.device != Device::Cpu);
    let device = card.as_ref().unwrap_or(&cpu);
    let mut checks: Vec<Check<'_>> = vec![
        Box::new(doctor::cpu),
        Box::new(doctor::cores),
        Box::new(|| doctor::memory(available)),
        Box::new(|| doctor::disk(std::path::Path::new("."))),
        Box::new(|| doctor::cache(cache_folder().ok())),
    ];
    checks.extend(cards.into_iter().map(|found| -> Check<'_> { Box::new(move || found) }));
    checks.push(Box::new(wasm));
    checks.push(Box::new(|| doctor::gradient(&cpu)));
    checks.push(Box::new(|| doctor::determinism(&cpu)));
    if let Some(card) = &card {
        checks.push(Box::new(|| doctor::kernels(card)));
        checks.push(Box::new(|| doctor::gradient(card)));
        checks.push(Box::new(|| doctor::determinism(card)));
    }
    checks.push(Box::new(|| doctor::product(device)));
    checks.push(Box::new(|| doctor::decode(device)));
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
