//! How fast products and decoding are here, beside a machine that was measured.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Finding;
use super::model::{RandomModel, sampling, tiny};
use crate::generate::{self, Hooks, Job, Settings};
use crate::model::backend::{AnyDevice, Backend, WeightType, Write};
use crate::model::forward::Engine;
use crate::model::layout;
use crate::model::spec::Spec;
use crate::model::weights::Weights;

/// A machine that was measured: each figure is the best of a dozen calls, as others used it too.
struct Reference {
    machine: &'static str,
    threads: f64,
    /// Billions of f32 operations a second in [`product`].
    gflops: f64,
    /// Billions of bytes of weights a second in [`decode`].
    gigabytes: f64,
}

const REFERENCE: Reference = Reference {
    machine: "2 threads of a virtual Intel Xeon with AVX-512, November 2026",
    threads: 2.0,
    gflops: 330.0,
    gigabytes: 36.0,
};

/// How long each is measured.
const MEASURED: Duration = Duration::from_millis(1000);

/// Measures a product of f32 matrices of the size that training has.
pub fn product(device: &AnyDevice) -> Finding {
    const ROWS: usize = 512;
    const WIDTH: usize = 1536;
    let measured = || {
        let values = vec![0.01; WIDTH * WIDTH];
        let weight = device.pack(&values, WIDTH, WIDTH, WeightType::F32)?;
        let x = device.upload(&vec![0.01; ROWS * WIDTH])?;
        let mut y = device.zeros(ROWS * WIDTH)?;
        let times = repeat(|| {
            device.linear(&x, ROWS, &weight, &mut y, Write::Set);
            // Until it is done.
            device.view(&y, 0..1).map(drop)
        })?;
        Ok::<_, crate::model::backend::BackendError>(times)
    };
    match measured() {
        Ok(seconds) => {
            let gflops = 2.0 * (ROWS * WIDTH * WIDTH) as f64 / seconds / 1e9;
            let wanted = REFERENCE.gflops / REFERENCE.threads * threads(device);
            let found = format!("{gflops:.0} GFLOP/s in f32, {}", beside(gflops, wanted, device));
            compared(Finding::ok("product", found), gflops, wanted, device, "gflops")
        }
        Err(error) => Finding::warning("product", error.to_string(), NO_ROOM),
    }
}

const NO_ROOM: &str = "it takes about 200 MB of memory";

/// Measures how fast one sequence is decoded with a random model of 33 million weights in f32: how often
/// all of them are read.
pub fn decode(device: &AnyDevice) -> Finding {
    match tokens_per_second(device) {
        Ok((rate, bytes)) => {
            let gigabytes = rate * bytes / 1e9;
            // Memory is shared by all threads.
            let wanted = REFERENCE.gigabytes;
            let found = format!(
                "{rate:.0} tokens/s of a random model of {:.0} MB, {gigabytes:.1} GB/s, {}",
                bytes / 1e6,
                beside(gigabytes, wanted, device)
            );
            compared(
                Finding::ok("decode", found),
                gigabytes,
                wanted,
                device,
                "gigabytes_per_second",
            )
            .with("tokens_per_second", rate)
        }
        Err(error) => Finding::warning("decode", error.to_string(), NO_ROOM),
    }
}

fn tokens_per_second(
    device: &AnyDevice,
) -> Result<(f64, f64), Box<dyn std::error::Error + Send + Sync>> {
    let spec = Spec {
        layers: 8,
        hidden: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        intermediate: 1536,
        vocab: 8192,
        ..tiny()
    };
    let numbers: usize =
        layout::tensors(&spec).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let weights = Weights::load(device, &RandomModel::new(spec), &mut |_, _| {})?;
    let engine = Engine::new(device.clone(), weights);
    const TOKENS: usize = 16;
    let jobs = [Job { prompt: vec![1], sampling: sampling(0.0, TOKENS), seed: 0 }];
    let seconds = repeat(|| {
        let hooks = Hooks {
            stop: &|_, _| false,
            on_done: &mut |_, _| ControlFlow::Continue(()),
            progress: &mut |_| ControlFlow::Continue(()),
        };
        generate::generate(&engine, None, &jobs, &Settings::default(), hooks)
    })?;
    Ok((TOKENS as f64 / seconds, (numbers * size_of::<f32>()) as f64))
}

/// Does a piece of work again and again; returns the time of the fastest, in seconds. Others who work on
/// the machine make some pieces slower, and none faster.
fn repeat<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    work()?;
    let (begun, mut fastest) = (Instant::now(), f64::INFINITY);
    while begun.elapsed() < MEASURED {
        let piece = Instant::now();
        work()?;
        fastest = fastest.min(piece.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

fn threads(device: &AnyDevice) -> f64 {
    if device.shares_memory() { rayon::current_num_threads() as f64 } else { REFERENCE.threads }
}

fn beside(figure: f64, wanted: f64, device: &AnyDevice) -> String {
    match device.shares_memory() {
        true => format!("{:.2} of the reference ({})", figure / wanted, REFERENCE.machine),
        false => "no reference for a GPU".to_owned(),
    }
}

fn compared(
    finding: Finding,
    figure: f64,
    wanted: f64,
    device: &AnyDevice,
    name: &'static str,
) -> Finding {
    let finding = finding.with(name, figure);
    match device.shares_memory() {
        true => finding.with("of_reference", figure / wanted),
        false => finding,
    }
}
