//! NVIDIA GPUs: the driver, cuBLASLt, every card, and whether one computes what it should.

use super::Finding;
#[cfg(feature = "cuda")]
use crate::model::backend::cuda;
use crate::model::backend::{AnyDevice, Backend, BackendError, WeightType, Write};
#[cfg(feature = "cuda")]
use crate::report::bytes;
use crate::run::seed;

/// Which card is tried.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Its number, from 0.
    pub ordinal: usize,
    /// Whether the user named it, so that it has to work.
    pub named: bool,
}

impl Wish {
    fn unmet(self, check: &'static str, found: impl Into<String>, hint: &str) -> Finding {
        match self.named {
            true => Finding::failed(check, found, hint),
            false => Finding::warning(check, found, hint),
        }
    }
}

/// Says which cards there are and what they need, and returns one where it opens.
#[cfg(feature = "cuda")]
pub fn cuda(wish: Wish) -> (Vec<Finding>, Option<AnyDevice>) {
    const CPU: &str =
        "a GPU needs NVIDIA's driver of CUDA 13 or newer; without `--device` runs take the CPU";
    let of = |library: &cuda::Library| match &library.path {
        Some(path) => format!("{} (`{}`)", library.version, path.display()),
        None => library.version.to_string(),
    };
    let (driver, cublaslt) = (cuda::driver(), cuda::cublaslt());
    let mut findings = vec![
        match &driver {
            Ok(library) => Finding::ok("driver", format!("for CUDA {}", of(library))),
            Err(said) => wish.unmet("driver", said, CPU),
        },
        match &cublaslt {
            Ok(library) => Finding::ok("cublaslt", of(library)),
            Err(said) => wish.unmet(
                "cublaslt",
                said,
                "a GPU needs that of CUDA 13; without `--device` runs take the CPU",
            ),
        },
    ];
    if driver.is_err() {
        return (findings, None);
    }
    let nccl = match cuda::nccl() {
        Ok(nccl) => of(&nccl.library),
        Err(said) => format!("{said}; without it, ranks pass gradients through the host's memory"),
    };
    findings.push(Finding::ok("nccl", nccl));
    match cuda::cards() {
        Ok(cards) => findings.extend(cards.iter().map(card)),
        Err(said) => {
            findings.push(wish.unmet("card", said, CPU));
            return (findings, None);
        }
    }
    if cublaslt.is_err() {
        return (findings, None);
    }
    match AnyDevice::cuda(wish.ordinal, WeightType::F32) {
        Ok(device) => {
            let class = device.class(WeightType::F32);
            let Wish { ordinal, .. } = wish;
            let chips = cuda::chips();
            let found = format!(
                "cuda:{ordinal} opens as `{class}`; this build has kernels for compute capability {chips}"
            );
            findings.push(Finding::ok("cuda", found));
            (findings, Some(device))
        }
        Err(error) => {
            findings.push(wish.unmet(
                "cuda",
                error.to_string(),
                "without `--device` runs take the CPU",
            ));
            (findings, None)
        }
    }
}

#[cfg(feature = "cuda")]
fn card(card: &cuda::Card) -> Finding {
    let cuda::Card { ordinal, name, capability: (major, minor), processors, total, .. } = card;
    let free = card.free();
    let of = free.map_or(String::new(), |free| format!(", {} of it free", bytes(free)));
    let found = format!(
        "cuda:{ordinal} is `{name}`: compute capability {major}.{minor}, {processors} processors, {} of \
         memory{of}",
        bytes(*total)
    );
    let finding = Finding::ok("card", found)
        .with("ordinal", *ordinal as f64)
        .with("compute_capability", f64::from(10 * major + minor) / 10.0)
        .with("total_bytes", *total as f64);
    free.into_iter().fold(finding, |it, free| it.with("free_bytes", free as f64))
}

/// Says that this build has nothing for GPUs.
#[cfg(not(feature = "cuda"))]
pub fn cuda(wish: Wish) -> (Vec<Finding>, Option<AnyDevice>) {
    const FOUND: &str =
        "this build runs on the CPU only; `make build-cuda` makes one for NVIDIA GPUs";
    let finding = match wish.named {
        true => wish.unmet("cuda", FOUND, "leave `--device` out, or take such a build"),
        false => Finding::ok("cuda", FOUND),
    };
    (vec![finding], None)
}

/// How far a card's numbers may be from the processor's, as a part of the largest: both round to f32, and
/// add up in other orders.
const MOST: f64 = 1e-4;

/// Compares what a card makes of random numbers with what the processor does: a kernel for each number, one
/// that adds up rows, and a product of cuBLASLt's.
pub fn kernels(device: &AnyDevice) -> Finding {
    let both = computed(device).and_then(|of| Ok((of, computed(&AnyDevice::cpu())?)));
    match both {
        Ok((of_card, of_processor)) => judge(&of_card, &of_processor),
        Err(error) => Finding::failed("kernels", error.to_string(), UNTRUSTED),
    }
}

const UNTRUSTED: &str =
    "results of this card cannot be trusted: try another driver or card, and report it";

/// The names of operations, each with what it gave.
type Computed = Vec<(&'static str, Vec<f32>)>;

fn computed(device: &AnyDevice) -> Result<Computed, BackendError> {
    const ROWS: usize = 33;
    const WIDTH: usize = 128;
    const LEN: usize = ROWS * WIDTH;
    let random = |name: u64, len: u64| -> Vec<f32> {
        (0..len).map(|index| seed::normal(name, index) as f32).collect()
    };
    let [x, gate] = [1, 2].map(|name| random(name, LEN as u64));
    let (x, gate) = (device.upload(&x)?, device.upload(&gate)?);
    let scale = device.upload(&random(3, WIDTH as u64))?;
    let weight = device.pack(&random(4, (WIDTH * WIDTH) as u64), WIDTH, WIDTH, WeightType::F32)?;
    let mut y = device.zeros(LEN)?;
    let mut results = Vec::new();
    device.swiglu(&gate, &x, LEN, &mut y);
    results.push(("swiglu", device.view(&y, 0..LEN)?.into_owned()));
    device.rms_norm(&x, ROWS, &scale, 1e-5, &mut y);
    results.push(("rms_norm", device.view(&y, 0..LEN)?.into_owned()));
    device.linear(&x, ROWS, &weight, &mut y, Write::Set);
    results.push(("linear", device.view(&y, 0..LEN)?.into_owned()));
    Ok(results)
}

fn judge(of_card: &Computed, of_processor: &Computed) -> Finding {
    let largest = |values: &[f32]| values.iter().fold(0.0, |most: f32, it| most.max(it.abs()));
    let distance = |ours: &[f32], theirs: &[f32]| {
        let apart = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs()));
        // What is not a number is as far as can be.
        let apart = apart.map(|it| if it.is_nan() { f64::MAX } else { it });
        apart.fold(0.0, f64::max) / f64::from(largest(theirs))
    };
    let distances: Vec<(&str, f64)> = of_card
        .iter()
        .zip(of_processor)
        .map(|((name, ours), (_, theirs))| (*name, distance(ours, theirs)))
        .collect();
    let names: Vec<&str> = distances.iter().map(|(name, _)| *name).collect();
    let worst = distances.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    let (name, distance) = worst.unwrap_or(("nothing", f64::MAX));
    match distance <= MOST {
        true => Finding::ok(
            "kernels",
            format!("{} agree with the processor to {distance:.0e}", names.join(", ")),
        ),
        false => Finding::failed(
            "kernels",
            format!(
                "of {} `{name}` differs from the processor by {distance:.0e} of the largest number",
                names.join(", ")
            ),
            UNTRUSTED,
        ),
    }
    .with("largest_distance", distance)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_kernel_that_computes_something_else_is_named() {
        assert_eq!(kernels(&AnyDevice::cpu()).status, Status::Ok);
        let right = computed(&AnyDevice::cpu()).unwrap();
        for value in [f32::NAN, 7.5, f32::INFINITY] {
            let mut wrong = right.clone();
            wrong[1].1[40] = value;
            let found = judge(&wrong, &right);
            assert_eq!(found.status, Status::Failed, "{found:?}");
            assert!(found.found.contains("`rms_norm` differs"), "{found:?}");
        }
        let zeros = right.iter().map(|(name, it)| (*name, vec![0.0; it.len()])).collect();
        assert_eq!(judge(&zeros, &right).numbers[0].1, 1.0, "a kernel that did nothing");
        assert_eq!(judge(&Vec::new(), &Vec::new()).status, Status::Failed);
    }

    #[test]
    fn a_card_that_was_named_has_to_work() {
        // No machine has so many.
        let of = |named| cuda(Wish { ordinal: 1000, named });
        let (found, device) = of(true);
        assert!(device.is_none());
        assert!(
            found.iter().any(|it| it.status == Status::Failed && it.hint.is_some()),
            "{found:?}"
        );
        let (found, _) = of(false);
        assert!(found.iter().all(|it| it.status != Status::Failed), "{found:?}");
    }
}
