//! `aligner doctor`: whether this machine and this build can do what runs ask of them.

use clap::Args;

use super::{CliError, Device, ProgressArgs, exit, host, memory, output};
use crate::doctor::{self, Finding, Tried, Wish};
use crate::model::backend::AnyDevice;
use crate::model::source::cache_folder;
use crate::progress::counted;

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
    let of_card: [fn(&AnyDevice) -> Finding; 3] =
        [doctor::kernels, doctor::gradient, doctor::determinism];
    let total = 10 + cards.len() + if card.is_some() { of_card.len() } else { 0 };
    let bar = progress.stage("doctor", total as u64, "checks");
    let mut findings = Vec::with_capacity(total);
    let mut note = |finding| {
        findings.push(finding);
        bar.inc(1);
    };
    note(doctor::cpu());
    note(doctor::cores());
    note(doctor::memory(available));
    note(doctor::disk(std::path::Path::new(".")));
    note(doctor::cache(cache_folder().ok()));
    cards.into_iter().for_each(&mut note);
    note(wasm());
    note(doctor::gradient(&cpu));
    note(doctor::determinism(&cpu));
    if let Some(card) = &card {
        of_card.iter().for_each(|check| note(check(card)));
    }
    note(doctor::product(device));
    note(doctor::decode(device));
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
