//! Our side of `make bench-cuda`: one row of work on a model of random weights. `table` beside this starts it and
//! the same row in PyTorch (`peer.py`), and tells both when to work.
//!
//! ```text
//! cuda SHAPE ROW [--device cpu]     SHAPE: see `work.json`
//!                                   ROW: limits, decode-N, prefix, lora, full, dpo
//! ```
//!
//! Each line read is an order (`warm`, `run`, `done`), and each line written answers it, as JSON; the first one
//! says that all is loaded. What fails ends it with `{"failed": "why"}`. Settings are those that a run has, or can be
//! given: `[generate] batch` and `[train] micro_batch_tokens`.

mod work;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aligner::model::backend::{AnyDevice, WeightType, cuda};
use serde_json::{Value, json};

use work::{Order, prepare};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs before the first that counts: the first two steps of a training look at what they change.
const WARM_UPS: usize = 3;

/// What the engine warned of, such as that it goes on with less at a time.
static HEARD: Mutex<String> = Mutex::new(String::new());

/// Writes to [`HEARD`].
struct Ear;

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut heard) = HEARD.lock() {
            heard.push_str(&String::from_utf8_lossy(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(|| Ear)
        .init();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", json!({ "failed": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let order = Order::parse(std::env::args().skip(1).filter(|argument| argument != "--bench"))?;
    let device = match order.cpu {
        true => AnyDevice::cpu(),
        false => AnyDevice::cuda(0, WeightType::Bf16)?,
    };
    let begun = Instant::now();
    let mut work = prepare(&order, Arc::new(device.clone()))?;
    wait(&device)?;
    eprintln!("{} {}: loaded in {:.1} s", order.shape, order.row, begun.elapsed().as_secs_f64());
    println!("{}", json!({ "loaded": about(&device) }));
    for line in std::io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "warm" => {
                for _ in 0..WARM_UPS {
                    work()?;
                }
                json!({ "held": held(&device), "how": order.how(&device) })
            }
            "run" => work()?,
            "done" => {
                let warned = HEARD.lock().map_err(|_| "what was warned of is lost")?;
                println!("{}", json!({ "held": held(&device), "warned": warned.trim() }));
                return Ok(());
            }
            other => return Err(format!("no order `{other}`").into()),
        };
        println!("{answer}");
    }
    Ok(())
}

/// Waits until the device has done what it was asked for.
fn wait(device: &AnyDevice) -> Result<()> {
    match device {
        AnyDevice::Cpu(_) => Ok(()),
        AnyDevice::Cuda(cuda) => Ok(cuda.wait()?),
    }
}

/// Returns the bytes of the card's memory that this process's pool holds. It gives nothing back, so this is
/// also the most that it held.
fn held(device: &AnyDevice) -> Option<u64> {
    match device {
        AnyDevice::Cpu(_) => None,
        AnyDevice::Cuda(cuda) => Some(cuda.held()),
    }
}

/// Returns versions, by name.
fn about(device: &AnyDevice) -> Value {
    let mut found = json!({
        "aligner": env!("CARGO_PKG_VERSION"),
        "kernels": device.class(WeightType::Bf16),
    });
    if let AnyDevice::Cuda(_) = device {
        let card = cuda::cards().ok().and_then(|cards| cards.into_iter().next());
        found["card"] = json!(card.map(|card| card.name));
        found["CUDA of the driver"] = json!(cuda::driver().ok().map(|it| it.version.to_string()));
    }
    found
}

/// Returns how long some work takes, in seconds.
fn seconds(device: &AnyDevice, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    wait(device)?;
    let begun = Instant::now();
    work()?;
    wait(device)?;
    Ok(begun.elapsed().as_secs_f64())
}
