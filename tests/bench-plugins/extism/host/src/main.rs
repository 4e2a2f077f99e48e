//! A worker of `make bench-plugins`: `extism-host GUEST RECORDS.json`. For each line of its input, `filter` or
//! `empty`, it does the work and prints how many nanoseconds of processor time that took.

mod clock;
#[path = "../../record.rs"]
mod record;

use std::io::{BufRead, Write};

use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm};
use record::Record;
use serde::Deserialize;

/// Calls of `empty` for each line.
const EMPTY_CALLS: u32 = 10_000;

#[derive(Deserialize)]
struct Verdict {
    keep: bool,
    #[allow(dead_code, reason = "is parsed, as a host would have to")]
    reason: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, guest, records] = &arguments[..] else {
        return Err("GUEST and RECORDS are needed".into());
    };
    let records: Vec<Record> = serde_json::from_slice(&std::fs::read(records)?)?;
    let manifest = Manifest::new([Wasm::data(std::fs::read(guest)?)]);
    let compiled = CompiledPlugin::new(PluginBuilder::new(manifest).with_wasi(false))?;
    let mut plugin = Plugin::new_from_compiled(&compiled)?;
    for line in std::io::stdin().lock().lines() {
        let begun = clock::thread_seconds();
        let nanoseconds = || (clock::thread_seconds() - begun) * 1e9;
        let took = match line?.as_str() {
            "filter" => {
                let verdicts: Vec<Verdict> = {
                    let given = serde_json::to_vec(&records)?;
                    let said = plugin.call::<Vec<u8>, Vec<u8>>("filter", given)?;
                    serde_json::from_slice(&said)?
                };
                assert_eq!(verdicts.len(), records.len());
                assert!(verdicts.iter().any(|verdict| verdict.keep));
                nanoseconds()
            }
            "empty" => {
                for _ in 0..EMPTY_CALLS {
                    plugin.call::<&str, &str>("empty", "")?;
                }
                nanoseconds() / f64::from(EMPTY_CALLS)
            }
            other => return Err(format!("no work is called {other}").into()),
        };
        println!("{took}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
