//! A call that does nothing, by itself: what crossing the boundary costs. Plugins are called through
//! `aligner::plugin`, which never makes such a call, so this one goes to wasmtime, with the limits of a run.

use anyhow::Result;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, Store};

wasmtime::component::bindgen!({
    path: "../wit",
    world: "filter-plugin",
    imports: { default: trappable },
});

use self::aligner::plugin::log;
use self::aligner::plugin::types::Context;
use super::clock::thread_seconds;

/// Calls for each measurement.
const CALLS: u32 = 10_000;

struct Silent;

impl log::Host for Silent {
    fn write(&mut self, _: log::Level, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// A filter in a live instance.
pub struct Filter {
    store: Store<Silent>,
    plugin: FilterPlugin,
}

impl Filter {
    /// Compiles and starts it.
    pub fn new(component: &[u8]) -> Result<Filter> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .consume_fuel(true)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<_, HasSelf<Silent>>(&mut linker, |silent| silent)?;
        let mut store = Store::new(&engine, Silent);
        store.set_epoch_deadline(1);
        store.set_fuel(u64::MAX)?;
        let component = Component::new(&engine, component)?;
        let plugin = FilterPlugin::instantiate(&mut store, &component, &linker)?;
        plugin
            .aligner_plugin_meta()
            .call_configure(&mut store, "{}")?
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Filter { store, plugin })
    }

    /// Returns the seconds that a call without records takes.
    pub fn empty_call(&mut self) -> Result<f64> {
        let filter = self.plugin.aligner_plugin_filter();
        let begun = thread_seconds();
        for _ in 0..CALLS {
            let context = Context { round: 1, rounds: 1 };
            filter
                .call_filter(&mut self.store, context, &[])?
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
        Ok((thread_seconds() - begun) / f64::from(CALLS))
    }
}
