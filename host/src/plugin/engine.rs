//! The engine: one configuration for the process that runs plugins and the one that compiles them.

use std::time::Duration;

use wasmtime::{Config, Engine};

/// How often the epoch advances.
const TICK: Duration = Duration::from_millis(50);

/// Returns an engine whose compiled code runs in any other engine made by this function on the same
/// machine.
pub(super) fn engine() -> wasmtime::Result<Engine> {
    // The budget, the same on every machine; the clock below is for what it does not see.
    Engine::new(config().consume_fuel(true))
}

/// Returns an engine that does not count: what fuel costs is measured beside it.
pub(super) fn unmetered() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // Fits into the 2 MiB that a thread has by default, with room for the host's own frames.
        .max_wasm_stack(1 << 20)
        // Results must not depend on the processor.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .relaxed_simd_deterministic(true)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        // Adapters between two memories of one component need it; without it the compiler panics.
        .wasm_multi_memory(true);
    config
}

/// Starts the thread that advances the engine's epoch. It ends once the engine is gone.
pub(super) fn start_ticker(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("plugin-ticker".into()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(())
}

/// Returns how many ticks a deadline is, counted so that it never comes early.
pub(super) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_nanos().div_ceil(TICK.as_nanos()) + 1;
    u64::try_from(ticks).unwrap_or(u64::MAX).min(1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early() {
        let check = |millis, expected| assert_eq!(ticks(Duration::from_millis(millis)), expected);
        check(0, 1);
        check(1, 2);
        check(50, 2);
        check(30_000, 601);
        assert_eq!(ticks(Duration::MAX), 1 << 40);
    }
}
